//! One line on the host's stderr.

use std::{
    cell::Cell,
    mem::MaybeUninit,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The file that stderr was when the process began: device and inode, both mixed; 0 while unknown or closed.
static STDERR: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread has a table of descriptors of its own, in which there is no stderr.
    static ELSEWHERE: Cell<bool> = const { Cell::new(false) };
}

/// What was said there.
static WAITING: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What the calling thread says from now on waits for [`pass_on`].
pub(super) fn from_elsewhere() {
    ELSEWHERE.set(true);
}

/// Says what was said elsewhere.
pub(super) fn pass_on() {
    let waiting = std::mem::take(&mut *WAITING.lock().unwrap_or_else(PoisonError::into_inner));
    waiting.iter().for_each(|text| say(text));
}

/// How long a reader is waited for that has not read what is there already.
const PATIENCE_MS: i32 = 100;

/// Takes down which file stderr is. Before the program can have changed it.
pub(super) fn know_stderr() {
    STDERR.store(stderr().unwrap_or(0), Ordering::Relaxed);
}

fn stderr() -> Option<u64> {
    let mut at = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the struct is ours, and written when the call succeeds.
    let at = unsafe { (libc::fstat(libc::STDERR_FILENO, at.as_mut_ptr()) == 0).then(|| at.assume_init()) }?;
    Some((at.st_dev.rotate_left(40) ^ at.st_ino) | 1 << 63)
}

/// Writes `flopsprof: <text>` in one `write(2)`, if stderr is still what it was when the process began: a program that closed it may have its data there now.
/// It does not care whether anybody reads it, and does not wait for a reader that does not read. No signal comes of it.
pub(super) fn say(text: &str) {
    if ELSEWHERE.get() {
        WAITING.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
        return;
    }
    write(&format!("flopsprof: {}\n", text.replace('\n', " ")));
}

/// The same with a whole line, from wherever a program may call us: a signal's handler, where no memory can be had.
pub(super) fn write(line: &str) {
    let known = STDERR.load(Ordering::Relaxed);
    if known == 0 || stderr() != Some(known) {
        return;
    }
    without_signals(|| {
        let mut ready = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
        // SAFETY: one descriptor; the buffer is as long as said; errors are the reader's loss.
        unsafe {
            if libc::poll(&raw mut ready, 1, PATIENCE_MS) == 1 && ready.revents & libc::POLLOUT != 0 {
                libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len());
            }
        }
    });
}

/// Does something that may raise SIGPIPE or SIGXFSZ on this thread, and takes these away again.
fn without_signals(f: impl FnOnce()) {
    // SAFETY: all zeros are sets and a time; every call writes into what is ours. What was pending before stays so.
    unsafe {
        let (mut raised, mut before, mut pending): (libc::sigset_t, libc::sigset_t, libc::sigset_t) =
            (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed());
        libc::sigemptyset(&raw mut raised);
        libc::sigpending(&raw mut pending);
        for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
            if libc::sigismember(&raw const pending, signal) == 0 {
                libc::sigaddset(&raw mut raised, signal);
            }
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const raised, &raw mut before);
        f();
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        while libc::sigtimedwait(&raw const raised, std::ptr::null_mut(), &raw const now) > 0 {}
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
    }
}
