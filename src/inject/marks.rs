//! The ends of the program's steps, where it marks them: moments at which a census begins and ends.
//!
//! Where steps differ (rows of many lengths, padded batch by batch), launches do not repeat, and a census that begins anywhere holds parts of two batches that nobody can tell
//! apart. So the meter asks for the next mark. The thread that makes it waits in it until launches are held, for a moment, and the next launch is the first of a step.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use super::{bell::Bell, burst};
use crate::window::clock::monotonic_ns;

/// How long a mark waits for launches to be held, at the most: that takes a millisecond. Longer in the test, so that a busy machine cannot be slower.
const HELD: Duration = Duration::from_millis(if cfg!(test) { 2000 } else { 100 });
/// How often who asked looks up.
const LOOK: Duration = Duration::from_millis(10);

static STATE: AtomicU8 = AtomicU8::new(IDLE);
const IDLE: u8 = 0;
/// The meter waits for the next mark.
const ASKED: u8 = 1;
/// A mark was made, and its thread waits.
const MADE: u8 = 2;
static CHANGED: Bell = Bell::new();

fn change(from: u8, to: u8) -> bool {
    let changed = STATE.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    if changed {
        CHANGED.ring();
    }
    changed
}

/// A step of the program has ended, says its own thread.
pub(super) fn mark() {
    burst::mark();
    if STATE.load(Ordering::Relaxed) == IDLE || !change(ASKED, MADE) {
        return;
    }
    let since = monotonic_ns();
    loop {
        let seen = CHANGED.seen();
        let left = HELD.saturating_sub(Duration::from_nanos(monotonic_ns().saturating_sub(since)));
        if STATE.load(Ordering::SeqCst) != MADE || (left.is_zero() && change(MADE, IDLE)) {
            return;
        }
        CHANGED.wait(seen, left);
    }
}

/// A mark whose thread waits, until this is dropped.
pub(super) struct Mark(());

impl Mark {
    /// Whether its thread waits still.
    #[expect(clippy::unused_self, reason = "there is one at a time, and this is it")]
    pub(super) fn waits(&self) -> bool {
        STATE.load(Ordering::SeqCst) == MADE
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        change(MADE, IDLE);
    }
}

/// Waits for the next mark, while this says so.
pub(super) fn next(goes_on: impl Fn() -> bool) -> Option<Mark> {
    STATE.store(ASKED, Ordering::SeqCst);
    loop {
        let seen = CHANGED.seen();
        if STATE.load(Ordering::SeqCst) != ASKED {
            return Some(Mark(()));
        }
        if !goes_on() && change(ASKED, IDLE) {
            return None;
        }
        CHANGED.wait(seen, LOOK);
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
    fn a_mark_waits_for_who_asked_and_no_other_does() {
        let began = Instant::now();
        mark();
        assert!(next(|| false).is_none());
        mark();
        assert!(began.elapsed() < HELD, "nobody asked");

        static PASSED: AtomicBool = AtomicBool::new(false);
        let program = thread::spawn(|| {
            thread::sleep(Duration::from_millis(30));
            mark();
            PASSED.store(true, Ordering::SeqCst);
            // One that is never let go on goes on by itself.
            thread::sleep(Duration::from_millis(30));
            let began = Instant::now();
            mark();
            began.elapsed()
        });
        let held = next(|| true).expect("a mark");
        thread::sleep(Duration::from_millis(20));
        assert!(!PASSED.load(Ordering::SeqCst));
        drop(held);
        let held = next(|| true).expect("a mark");
        assert!(held.waits());
        assert!(program.join().expect("the program") >= HELD);
        assert!(!held.waits());
        drop(held);
        assert!(PASSED.load(Ordering::SeqCst) && next(|| false).is_none());
    }
}
