//! The C interface for callers in the process.
//!
//! ```c
//! const char *flopsprof_version(void);                                      // "0.1.0"
//! int flopsprof_declare_parameters(uint64_t total, uint64_t trainable);     // parameters of the model
//! int flopsprof_add_tokens(uint64_t tokens);                                // tokens trained on, adds up
//! int flopsprof_mark_step(void);                                            // one optimizer step is done
//! ```
//! Found by `dlsym(RTLD_DEFAULT, …)` when the library is loaded. Each returns 0; 1 when this process is not the meter's (a forked child) or the values
//! contradict each other. They only set or add atomics: any thread may call them at any rate, and nothing waits. The evidence carries
//! them from the next window on.

use std::{
    ffi::{c_char, c_int},
    sync::atomic::{AtomicU64, Ordering},
};

use super::guard;
use crate::evidence::record::Declare;

static TOKENS: AtomicU64 = AtomicU64::new(0);
static STEPS: AtomicU64 = AtomicU64::new(0);
static PARAMETERS: AtomicU64 = AtomicU64::new(0);
static TRAINABLE: AtomicU64 = AtomicU64::new(0);

/// The version of the library, NUL-terminated, static.
#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Declares the model's parameters: all, and those that are trained. The last call counts.
#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_declare_parameters(total: u64, trainable: u64) -> c_int {
    if guard::forked_away() || trainable > total {
        return 1;
    }
    PARAMETERS.store(total, Ordering::Relaxed);
    TRAINABLE.store(trainable, Ordering::Relaxed);
    0
}

/// Adds tokens that were trained on.
#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_add_tokens(tokens: u64) -> c_int {
    if guard::forked_away() {
        return 1;
    }
    TOKENS.fetch_add(tokens, Ordering::Relaxed);
    0
}

/// Marks the end of an optimizer step.
#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_mark_step() -> c_int {
    if guard::forked_away() {
        return 1;
    }
    STEPS.fetch_add(1, Ordering::Relaxed);
    0
}

/// Tokens and steps so far.
pub(super) fn progress() -> (u64, u64) {
    (TOKENS.load(Ordering::Relaxed), STEPS.load(Ordering::Relaxed))
}

/// What was declared; zeros before.
pub(super) fn declared() -> Declare {
    Declare { parameters: PARAMETERS.load(Ordering::Relaxed), trainable: TRAINABLE.load(Ordering::Relaxed) }
}
