//! The witness, with real probes in this kernel on the stand-in GPU's libcuda: it needs root, as the machines have it on which these tests run.
//!
//! Other programs of the machine may use stand-ins of their own meanwhile: tests look at their own processes only.

#[path = "../meter/harness.rs"]
#[expect(dead_code, reason = "the tests of the meter use the rest")]
mod harness;

mod badluck;
mod count;
mod deploy;
mod disk;
mod held;
mod metrics;
mod object;
mod pm;
mod run;
mod watch;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Probes of several witnesses fire for all processes of the machine: one test at a time, so that none is measured by another's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
