//! What a call that waits does to a capture of another thread: in global mode, which is everybody's default, it invalidates it.

use std::cell::Cell;

use crate::state::with;

/// `CU_STREAM_CAPTURE_MODE_GLOBAL`.
pub(crate) const GLOBAL: u32 = 0;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
const RELAXED: u32 = 2;
/// `CUDA_ERROR_STREAM_CAPTURE_INVALIDATED`.
pub(crate) const INVALIDATED: u32 = 901;

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

/// Sets the calling thread's mode and returns the one before.
pub(crate) fn exchange(mode: u32) -> u32 {
    MODE.replace(mode)
}

/// A call that waits for the device, or changes it.
pub(crate) fn disturb() {
    if MODE.get() != RELAXED {
        with(|s| {
            let global: Vec<usize> = s.global.iter().copied().collect();
            s.invalidated.extend(global);
        });
    }
}
