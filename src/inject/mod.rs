//! The part that runs inside the training process.
//!
//! ```text
//! entry ── constructor, InitializeInjection, exit and fork fences ──> meter (its thread)
//!   api ── tokens, steps, phases, model from the program ─────────────>   │ polls for primary contexts (driver)
//!                                                                       │ plans, counts, cuts windows (device)
//!  gate <── holds launches for the moment between two windows ──────────┤
//!                                                                       └─> evidence
//!
//! apart ── a thread with descriptors of its own: evidence, locks, report
//! ```
//! Rules: no panic leaves an entry point ([`guard`]); nothing slow runs on a thread of the host; every trouble ends in "runs unmetered, and the
//! evidence says why"; the exit status stays. Host threads never wait for this code, but at the gate, in the mark of a step with
//! which a census begins, and in the drain at exit, all with deadlines.

mod apart;
pub mod api;
mod bell;
mod burst;
mod claim;
pub mod config;
mod device;
mod driver;
mod entry;
mod environment;
mod gate;
mod guard;
pub(crate) mod identity;
mod journal;
mod launch;
mod left;
mod marks;
mod memory;
mod meter;
mod planner;
mod refusal;
mod reporter;
mod roster;
mod say;
mod subscribe;
mod thread;
mod told;
#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
mod unwind;
