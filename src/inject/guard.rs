//! The fences around everything the host can call.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

/// The process the meter was started in. A forked child shares memory's content but not the meter's thread.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// Set in a forked child by the fork handler, which needs no system call to check.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Runs `f`; a panic ends here. It must: unwinding into C is undefined, and aborting would end somebody's training job.
pub(super) fn shield<T>(f: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(f)).ok()
}

/// Makes this process the meter's.
pub(super) fn own() {
    OWNER.store(pid(), Ordering::Release);
    FORKED.store(false, Ordering::Release);
}

/// The fork handler of the child: the meter stayed in the parent.
pub(super) extern "C" fn forked() {
    FORKED.store(true, Ordering::Release);
}

/// Whether the meter of this memory runs in this process. False in forked and in `vfork`ed children.
pub(super) fn owned() -> bool {
    !FORKED.load(Ordering::Acquire) && OWNER.load(Ordering::Acquire) == pid()
}

/// As [`owned`], for the path of a launch: no system call.
pub(super) fn forked_away() -> bool {
    FORKED.load(Ordering::Relaxed)
}

fn pid() -> i32 {
    // SAFETY: no preconditions.
    unsafe { libc::getpid() }
}
