//! NVIDIA's profiler host functions, one call after the other.
//!
//! NVIDIA nowhere says that they are for several threads at once, not even on objects of their own, and libnvperf_host keeps state for the whole process. In a process
//! with GPUs of two chips the planner's thread is at the second one while the meter's counts on the first.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

/// How often is looked whether it is one's turn: calls take milliseconds.
const LOOK: Duration = Duration::from_micros(100);

/// The line of those who wait, for the whole process.
static LINE: Line = Line(AtomicU64::new(0));

/// The process (upper half), the number that the next to come gets, and the number whose turn it is (a quarter each). First come, first served: the planner calls
/// hundreds of times without a pause, and the meter, which may hold launches when it prepares its groups, must not wait for all of them.
///
/// All in one, so that a forked child can tell that it is another's: whoever was in turn there is not in the child, and would never leave.
struct Line(AtomicU64);

/// One's turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Alone {
    line: &'static AtomicU64,
    pid: u32,
}

/// Waits for the turn. A thread that has it already must not: it would wait for itself.
pub(super) fn alone() -> Alone {
    LINE.wait()
}

fn pack(pid: u32, next: u16, turn: u16) -> u64 {
    u64::from(pid) << 32 | u64::from(next) << 16 | u64::from(turn)
}

fn unpack(line: u64) -> (u32, u16, u16) {
    #[expect(clippy::cast_possible_truncation, reason = "taking it apart")]
    ((line >> 32) as u32, (line >> 16) as u16, line as u16)
}

impl Line {
    fn wait(&'static self) -> Alone {
        let pid = std::process::id();
        // Nobody is before the first of a process.
        let here = |line| Some(unpack(line)).filter(|(of, ..)| *of == pid).map_or((0, 0), |(_, next, turn)| (next, turn));
        let mut line = self.0.load(Ordering::Relaxed);
        let number = loop {
            let (next, turn) = here(line);
            match self.0.compare_exchange_weak(line, pack(pid, next.wrapping_add(1), turn), Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break next,
                Err(now) => line = now,
            }
        };
        while here(self.0.load(Ordering::Acquire)).1 != number {
            // By the C library's `syscall`, which the meter needs anyway, and not by one more function of it.
            thread::park_timeout(LOOK);
        }
        Alone { line: &self.0, pid }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let next_turn = |line| {
            let (pid, next, turn) = unpack(line);
            (pid == self.pid).then(|| pack(pid, next, turn.wrapping_add(1)))
        };
        let _ = self.line.fetch_update(Ordering::Release, Ordering::Relaxed, next_turn);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32},
    };

    use super::*;

    #[test]
    fn one_at_a_time_and_in_the_order_of_coming() {
        static OURS: Line = Line(AtomicU64::new(0));
        static INSIDE: AtomicBool = AtomicBool::new(false);
        static CAME: Mutex<Vec<u32>> = Mutex::new(Vec::new());
        let first = OURS.wait();
        thread::scope(|scope| {
            for number in 0..4 {
                let waits = unpack(OURS.0.load(Ordering::Relaxed)).1;
                scope.spawn(move || {
                    for _ in 0..200 {
                        let turn = OURS.wait();
                        assert!(!INSIDE.swap(true, Ordering::SeqCst), "two at once");
                        CAME.lock().expect("a list").push(number);
                        INSIDE.store(false, Ordering::SeqCst);
                        drop(turn);
                    }
                });
                while unpack(OURS.0.load(Ordering::Relaxed)).1 == waits {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        let came = CAME.lock().expect("a list");
        assert_eq!((came.len(), &came[..4]), (800, &[0, 1, 2, 3][..]));
    }

    /// A child that was forked in another thread's turn does not wait for it, and leaves the parent's line alone.
    #[test]
    fn a_forked_child_does_not_wait_for_the_parents_threads() {
        static OURS: Line = Line(AtomicU64::new(0));
        static STEP: AtomicU32 = AtomicU32::new(0);
        let other = thread::spawn(|| {
            let _turn = OURS.wait();
            STEP.store(1, Ordering::SeqCst);
            while STEP.load(Ordering::SeqCst) < 2 {
                thread::sleep(LOOK);
            }
        });
        while STEP.load(Ordering::SeqCst) < 1 {
            thread::sleep(LOOK);
        }
        // SAFETY: the child calls nothing that other threads may have been in, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child if it hangs.
            unsafe { libc::alarm(5) };
            drop(OURS.wait());
            drop(OURS.wait());
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: waits for the child.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0, "the child waited");
        STEP.store(2, Ordering::SeqCst);
        other.join().expect("the other thread");
        drop(OURS.wait());
    }
}
