//! Waiting for something to change, at most so long.
//!
//! The standard library's timed waits reckon their deadlines with `clock_gettime`, which a program's other libraries may have replaced: a faked clock would make
//! them spin, or wait for years. A bell waits as long as it is told, by the kernel's own watch, and holds no lock: a thread that is stopped or cancelled
//! at one keeps nobody else waiting.

use std::{
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::window::clock::timespec;

/// See the module's words. `let seen = bell.seen(); look; bell.wait(seen, …)` misses no ring.
pub(super) struct Bell(AtomicU32);

impl Bell {
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// How often it has rung.
    pub(super) fn seen(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Wakes all who wait. Also from a signal handler.
    pub(super) fn ring(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the address is of an integer that lives for ever; nothing is read through the null pointers.
        unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX) };
    }

    /// Returns when it has rung since `seen`, after this time, or for no reason.
    pub(super) fn wait(&self, seen: u32, most: Duration) {
        let time = timespec(most);
        // SAFETY: the address is of an integer that lives for ever; the time, relative for this operation, is ours.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.0.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                seen,
                &raw const time,
                ptr::null_mut::<u32>(),
                0,
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicBool,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn who_waits_is_woken_and_who_is_not_woken_waits_no_longer_than_told() {
        static BELL: Bell = Bell::new();
        static DONE: AtomicBool = AtomicBool::new(false);
        let waiter = thread::spawn(|| {
            let seen = BELL.seen();
            while !DONE.load(Ordering::SeqCst) && BELL.seen() == seen {
                BELL.wait(seen, Duration::from_secs(60));
            }
        });
        thread::sleep(Duration::from_millis(20));
        DONE.store(true, Ordering::SeqCst);
        BELL.ring();
        waiter.join().expect("the waiter");
        let (seen, began) = (BELL.seen(), Instant::now());
        BELL.wait(seen, Duration::from_millis(20));
        BELL.wait(seen.wrapping_sub(1), Duration::from_secs(60));
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
