//! The fences around everything the host can call.

use std::{
    cell::Cell,
    ffi::c_int,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
    time::Duration,
};

/// The process the meter was started in. A forked child shares memory's content but not the meter's thread.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// Set in a forked child by the fork handler, which needs no system call to check.
static FORKED: AtomicBool = AtomicBool::new(false);

/// The longest that a thread of the program's waits for the meter: a launch at a boundary, a tool for the subscription, `cuInit` for what is foreign. The end has a deadline of
/// its own, which is set.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// `PTHREAD_CANCEL_DISABLE`.
const CANCEL_DISABLE: c_int = 1;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

thread_local! {
    /// A thread of ours: what it calls must never wait for itself.
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

/// Marks the calling thread as one of ours.
pub(super) fn this_is_ours() {
    IS_OURS.set(true);
}

/// Whether the calling thread is one of ours.
pub(super) fn on_ours() -> bool {
    IS_OURS.get()
}

/// Runs `f`; a panic ends here. It must: unwinding into C is undefined, and aborting would end somebody's training job. A program may cancel its
/// threads (`pthread_cancel`), which unwinds them too: that waits until `f` is done.
pub(super) fn shield<T>(f: impl FnOnce() -> T) -> Option<T> {
    let mut before: c_int = 0;
    // SAFETY: the integer is ours; the state is this thread's own, and put back below.
    unsafe { pthread_setcancelstate(CANCEL_DISABLE, &raw mut before) };
    let result = catch_unwind(AssertUnwindSafe(f)).ok();
    // SAFETY: the state that was in force.
    unsafe { pthread_setcancelstate(before, &raw mut before) };
    result
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
