//! Windows: when a range is open, and which group is on in it.
//!
//! [`clock`] is the one clock of everything timed. [`schedule`] decides, without touching a GPU, which group is on next and for how long; [`budget`] what
//! that may cost and whether a census is paid for; [`period`] how many launches a census of a whole step has; [`look`]
//! which paths must be looked at because of what a census could not see.

pub mod budget;
pub mod clock;
pub mod look;
pub mod period;
pub mod schedule;
