//! The C interface for callers in the process.
//!
//! ```c
//! const char *flopsprof_version(void);                                      // "0.1.0"
//! int flopsprof_declare_parameters(uint64_t total, uint64_t trainable);     // parameters of the model
//! int flopsprof_add_tokens(uint64_t tokens);                                // tokens trained on, adds up
//! int flopsprof_mark_step(void);                                            // one optimizer step is done
//! int flopsprof_mark_phase(const char *name);                               // from here on: "train", "evaluate", "checkpoint", ...
//! int flopsprof_declare_model(const char *json, uint64_t length);           // the model and how it is trained
//! int flopsprof_declare_work(const char *json, uint64_t length);            // rows and tokens so far, whole run
//! ```
//! Found by `dlsym(RTLD_DEFAULT, …)` when the library is loaded. Each returns 0; 1 when this process is not the meter's (a forked child), the values
//! contradict each other, or a text is not what it should be. They only set or add atomics, or swap a pointer: any thread may call them, and nothing
//! waits. The evidence carries them from the next window on. A phase's mark also ends the open window, if that is a second old, so that phases
//! are counted apart. Of a JSON text the last one counts; what is in it is documented at [`crate::reconcile::declared`]. Its length is without a
//! terminating zero, and at most 1 MiB.

use std::{
    ffi::{CStr, c_char, c_int},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    guard, meter,
    told::{Marks, Newest},
};
use crate::{
    evidence::record::{Declare, Phase},
    window::clock::monotonic_ns,
};

/// The longest name of a phase, and the longest JSON text, in bytes.
const LONGEST_NAME: usize = 64;
const LONGEST_TEXT: u64 = 1 << 20;

static PHASES: Marks<Phase> = Marks::new();
static MODEL: Newest<serde_json::Value> = Newest::new();
static WORK: Newest<serde_json::Value> = Newest::new();

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

/// Says what the program does from here on.
///
/// # Safety
/// `name` is null or a string that ends in zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flopsprof_mark_phase(name: *const c_char) -> c_int {
    let since_ns = monotonic_ns();
    let marked = guard::shield(|| {
        if guard::forked_away() || name.is_null() {
            return false;
        }
        // SAFETY: by the contract above.
        let name = unsafe { CStr::from_ptr(name) }.to_str().ok().filter(|n| !n.is_empty() && n.len() <= LONGEST_NAME);
        name.is_some_and(|name| PHASES.add(Phase { phase: name.to_owned(), since_ns }))
    });
    if marked == Some(true) {
        meter::wake();
        return 0;
    }
    1
}

/// Declares the model and how it is trained, as JSON.
///
/// # Safety
/// `json` is null or points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flopsprof_declare_model(json: *const c_char, length: u64) -> c_int {
    // SAFETY: the same contract.
    unsafe { put(&MODEL, json, length) }
}

/// Declares the rows and tokens so far, as JSON.
///
/// # Safety
/// `json` is null or points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flopsprof_declare_work(json: *const c_char, length: u64) -> c_int {
    // SAFETY: the same contract.
    unsafe { put(&WORK, json, length) }
}

/// Reads a text on the caller's thread, so that the caller learns whether it is JSON.
///
/// # Safety
/// `json` is null or points to `length` bytes.
unsafe fn put(slot: &Newest<serde_json::Value>, json: *const c_char, length: u64) -> c_int {
    let done = guard::shield(|| {
        if guard::forked_away() || json.is_null() || length > LONGEST_TEXT {
            return None;
        }
        // SAFETY: by the contract above; the length is bounded just before.
        let bytes = unsafe { std::slice::from_raw_parts(json.cast::<u8>(), usize::try_from(length).ok()?) };
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        value.is_object().then(|| slot.put(value))
    });
    c_int::from(done.flatten().is_none())
}

/// Phases marked since the last look.
pub(super) fn phases() -> Vec<Phase> {
    PHASES.take()
}

/// The model and the work, where they were declared anew since the last look.
pub(super) fn texts() -> (Option<serde_json::Value>, Option<serde_json::Value>) {
    (MODEL.take(), WORK.take())
}

/// Tokens and steps so far.
pub(super) fn progress() -> (u64, u64) {
    (TOKENS.load(Ordering::Relaxed), STEPS.load(Ordering::Relaxed))
}

/// What was declared; zeros before.
pub(super) fn declared() -> Declare {
    Declare { parameters: PARAMETERS.load(Ordering::Relaxed), trainable: TRAINABLE.load(Ordering::Relaxed) }
}
