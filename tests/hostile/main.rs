//! Hostile hosts, and a hostile world: what a program does with and without the meter is the same, whatever the program does and whatever fails.
//!
//! `cargo test --test hostile -- --nocapture` prints how many there were.

mod begins;
mod faults;
mod garbage;
#[path = "../meter/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of the meter")]
mod harness;
mod hosts;
mod late;
mod others;
mod race;
mod security;
mod system;
mod table;
