//! Windows: when a range is open, and which group is on in it.
//!
//! [`clock`] is the one clock of everything timed. [`schedule`] decides, without touching a GPU, which group is on next and for how long.

pub mod clock;
pub mod schedule;
