//! The counters: which there are, which can be read together, and the session that reads them.
//!
//! [`find`] brings one libcupti into the process, never a second beside the framework's. [`host`] asks it about a chip, on any machine.
//! [`category`] tells by a kernel's name what it is for. [`plan`] covers the chip's tensor paths with groups that one pass can read. [`session`] counts one group in one context.
//! [`sampling`] has the hardware itself read a whole device's counters, for the witness.
//! [`turn`] lets metered processes that share a GPU take turns, because one process owns its counters at a time.

mod alone;
pub mod category;
pub mod find;
pub mod host;
pub mod plan;
pub mod sampling;
pub mod session;
pub mod turn;
