//! The C interface for callers in the process.
//!
//! ```c
//! const char *flopsprof_version(void);                                      // "0.1.0"
//! int flopsprof_declare_parameters(uint64_t total, uint64_t trainable);     // parameters of the model
//! int flopsprof_add_tokens(uint64_t tokens);                                // tokens trained on, adds up
//! int flopsprof_mark_step(void);                                            // one optimizer step is done
//! int flopsprof_mark_batch(uint64_t rows, uint64_t length, uint64_t decoder_length); // a micro-batch begins: its rows, pads included, and their positions
//! int flopsprof_mark_phase(const char *name);                               // from here on: "train", "evaluate", "checkpoint", ...
//! int flopsprof_declare_model(const char *json, uint64_t length);           // the model and how it is trained
//! int flopsprof_declare_work(const char *json, uint64_t length);            // rows and tokens so far, whole run
//! ```
//! Found by `dlsym(RTLD_DEFAULT, …)` when the library is loaded. Each returns 0; 1 when this process is not the meter's (a forked child), the values
//! contradict each other, or a text is not what it should be. They only set or add atomics, or swap a pointer: any thread may call them, and nothing
//! waits. The evidence carries them from the next window on. A phase's mark, and another model than the one before, also end the open window, if that is a
//! second old, so that they are counted apart. A process may train several models one after the other: each is declared before its first token is added and before
//! its first rows are told, and holds until the next one. What is in the JSON texts is documented at [`crate::reconcile::declared`]. Their length is
//! without a terminating zero, and at most 1 MiB.

use std::{
    ffi::{CStr, c_char, c_int},
    hash::{DefaultHasher, Hasher},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{
    burst, guard, marks, meter,
    told::{Marks, Newest},
};
use crate::{
    evidence::record::{Declare, Declared, Phase, Record},
    window::clock::monotonic_ns,
};

/// The longest name of a phase, and the longest JSON text, in bytes.
const LONGEST_NAME: usize = 64;
const LONGEST_TEXT: u64 = 1 << 20;

/// Models that wait for the next window at most: a text of 1 MiB each.
const MOST_MODELS: u64 = 256;

static PHASES: Marks<Phase> = Marks::new();
/// Each with the rows that were told before it and nobody has read yet: they are of the model before.
static MODELS: Marks<(Option<Declared>, Declared)> = Marks::at_most(MOST_MODELS);
/// Of the newest model's text; 0 before the first.
static MODEL_HASH: AtomicU64 = AtomicU64::new(0);
/// A model took the place of another since the last look.
static ANOTHER_MODEL: AtomicBool = AtomicBool::new(false);
static WORK: Newest<Declared> = Newest::new();
static SIZES: Marks<Declare> = Marks::new();

static TOKENS: AtomicU64 = AtomicU64::new(0);
static STEPS: AtomicU64 = AtomicU64::new(0);
static PARAMETERS: AtomicU64 = AtomicU64::new(0);
static TRAINABLE: AtomicU64 = AtomicU64::new(0);

/// The version of the library, NUL-terminated, static.
#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Declares the model's parameters: all, and those that are trained. Tokens that are added from here on are of this model.
#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_declare_parameters(total: u64, trainable: u64) -> c_int {
    if guard::forked_away() || trainable > total {
        return 1;
    }
    if (PARAMETERS.load(Ordering::Relaxed), TRAINABLE.load(Ordering::Relaxed)) == (total, trainable) {
        return 0;
    }
    let tokens = Some(TOKENS.load(Ordering::Relaxed));
    if guard::shield(|| SIZES.add(Declare { parameters: total, trainable, tokens })) != Some(true) {
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
    // A panic must not reach the program; a mark that failed is one at which no census begins.
    let _ = guard::shield(marks::mark);
    0
}

/// Marks the beginning of a micro-batch of so many rows of so many positions, and so many of a decoder's: what a census of whole steps saw is told by it. Call it before the
/// batch's first launch.
#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_mark_batch(rows: u64, length: u64, decoder_length: u64) -> c_int {
    if guard::forked_away() {
        return 1;
    }
    let _ = guard::shield(|| burst::batch([rows, length, decoder_length]));
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
    let added = unsafe { text(json, length) }.and_then(|(declared, hash)| {
        let before = MODEL_HASH.load(Ordering::Relaxed);
        // A program may say the same again and again: that is no other model.
        if before == hash {
            return Some(());
        }
        guard::shield(|| MODELS.add((WORK.take(), declared))).filter(|added| *added)?;
        MODEL_HASH.store(hash, Ordering::Relaxed);
        if before != 0 {
            ANOTHER_MODEL.store(true, Ordering::Release);
            meter::wake();
        }
        Some(())
    });
    c_int::from(added.is_none())
}

/// Declares the rows and tokens so far, as JSON.
///
/// # Safety
/// `json` is null or points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flopsprof_declare_work(json: *const c_char, length: u64) -> c_int {
    // SAFETY: the same contract.
    let put = unsafe { text(json, length) }.and_then(|(declared, _)| guard::shield(|| WORK.put(declared)));
    c_int::from(put.is_none())
}

/// Reads a text on the caller's thread, so that the caller learns whether it is JSON. With its hash.
///
/// # Safety
/// `json` is null or points to `length` bytes.
unsafe fn text(json: *const c_char, length: u64) -> Option<(Declared, u64)> {
    let since_ns = Some(monotonic_ns());
    guard::shield(|| {
        if guard::forked_away() || json.is_null() || length > LONGEST_TEXT {
            return None;
        }
        // SAFETY: by the contract above; the length is bounded just before.
        let bytes = unsafe { std::slice::from_raw_parts(json.cast::<u8>(), usize::try_from(length).ok()?) };
        let declared: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        declared.is_object().then(|| (Declared { declared, since_ns }, hasher.finish()))
    })
    .flatten()
}

/// Phases marked since the last look.
pub(super) fn phases() -> Vec<Phase> {
    PHASES.take()
}

/// Whether a model took the place of another since the last look.
pub(super) fn another_model() -> bool {
    ANOTHER_MODEL.swap(false, Ordering::AcqRel)
}

/// Models and rows declared since the last look, in the order in which they were.
pub(super) fn texts() -> Vec<Record> {
    // Rows first: whatever model was declared before them is in the list then.
    let last = WORK.take();
    let mut said = Vec::new();
    for (work, model) in MODELS.take() {
        said.extend(work.map(|w| (w.since_ns, Record::Work(w))));
        said.push((model.since_ns, Record::Model(model)));
    }
    said.extend(last.map(|w| (w.since_ns, Record::Work(w))));
    said.sort_by_key(|(since, _)| *since);
    said.into_iter().map(|(_, record)| record).collect()
}

/// Tokens and steps so far.
pub(super) fn progress() -> (u64, u64) {
    (TOKENS.load(Ordering::Relaxed), STEPS.load(Ordering::Relaxed))
}

/// Parameters declared since the last look.
pub(super) fn declared() -> Vec<Declare> {
    SIZES.take()
}
