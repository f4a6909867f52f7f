//! The launches of a burst: told one by one, let through one by one.
//!
//! While a census is on, the callback of every launch comes here. It may go through when the meter has allowed launches and no other is under way: the profiler
//! runs kernels one after the other anyway, so this costs nothing, and the order of the launches is the order of the ranges, whichever threads and streams
//! they come from. When what was allowed is used up, launches wait until the next chunk's counters are on. Every wait has a deadline; a launch that
//! reaches it goes through, and the burst says so.
//!
//! Listening is the same without holding anybody: it takes down which function is launched, launch by launch.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cupti_sys::raw::CallbackData;

use super::{
    bell::Bell,
    launch::{self, Launch},
};
use crate::window::clock::monotonic_ns;

/// Whether a callback has anything to do here.
static ON: AtomicBool = AtomicBool::new(false);
static BURST: Mutex<Option<Burst>> = Mutex::new(None);
static CHANGED: Bell = Bell::new();

thread_local! {
    /// Its address names the thread.
    static THREAD: u8 = const { 0 };
}

#[derive(Default)]
struct Burst {
    /// How many function handles to take down; while this is set, nothing else is done.
    listen: Option<usize>,
    heard: Vec<usize>,
    /// Launches that may still go through.
    allowed: usize,
    /// The thread whose launch is under way, and whether that launch was taken down.
    under_way: Option<(usize, bool)>,
    launches: Vec<Launch>,
    slipped: u64,
    /// How long a launch waits for its turn.
    patience: Duration,
}

/// What a callback does next.
pub(super) enum Enter {
    /// The launch goes through.
    Pass,
    /// There is no burst, or none any more: the gate decides.
    Off,
}

fn burst() -> MutexGuard<'static, Option<Burst>> {
    BURST.lock().unwrap_or_else(PoisonError::into_inner)
}

fn begin(new: Burst) {
    launch::prepare();
    *burst() = Some(new);
    ON.store(true, Ordering::SeqCst);
}

/// Takes the functions of launches down from now on, this many at most.
pub(super) fn listen(most: usize) {
    begin(Burst { listen: Some(most), heard: Vec::with_capacity(most), ..Burst::default() });
}

/// Whether as many launches were heard as were asked for.
pub(super) fn heard_all() -> bool {
    burst().as_ref().is_none_or(|b| b.listen.is_some_and(|most| b.heard.len() >= most))
}

/// Begins a burst in which no launch is allowed yet; each waits for its turn, but no longer than `patience`.
pub(super) fn hold(patience: Duration) {
    begin(Burst { patience, ..Burst::default() });
}

/// Lets so many launches through; the next one waits.
pub(super) fn allow(launches: usize) {
    if let Some(burst) = &mut *burst() {
        burst.allowed = launches;
    }
    CHANGED.ring();
}

/// Waits until what was allowed is used up and done, at the most so long. True if it is.
pub(super) fn used_up(wait: Duration) -> bool {
    let since = monotonic_ns();
    loop {
        let seen = CHANGED.seen();
        let done = burst().as_ref().is_none_or(|b| b.allowed == 0 && b.under_way.is_none());
        let left = wait.saturating_sub(Duration::from_nanos(monotonic_ns().saturating_sub(since)));
        if done || left.is_zero() {
            return done;
        }
        CHANGED.wait(seen, left);
    }
}

/// Allows none, and waits until the launch that is under way is done: false if it is not in time. From then on launches wait.
pub(super) fn pause(wait: Duration) -> bool {
    allow(0);
    used_up(wait)
}

/// The launches taken down since the last time.
pub(super) fn take() -> Vec<Launch> {
    burst().as_mut().map(|b| std::mem::take(&mut b.launches)).unwrap_or_default()
}

/// Ends the burst, or the listening: how many launches went through because their wait reached its deadline, and the functions heard.
pub(super) fn end() -> (u64, Vec<usize>) {
    ON.store(false, Ordering::SeqCst);
    let ended = burst().take().unwrap_or_default();
    CHANGED.ring();
    (ended.slipped, ended.heard)
}

fn me() -> usize {
    THREAD.with(|t| std::ptr::from_ref(t) as usize)
}

/// A launch begins, on its own thread.
///
/// # Safety
/// `data` must be what CUPTI hands to a callback of this id.
pub(super) unsafe fn enter(cbid: u32, data: &CallbackData) -> Enter {
    if !ON.load(Ordering::Acquire) {
        return Enter::Off;
    }
    // A launch that goes through at once asks for no time.
    let (me, mut since) = (me(), None);
    loop {
        let seen = CHANGED.seen();
        let mut guard = burst();
        let Some(burst) = &mut *guard else { return Enter::Off };
        if let Some(most) = burst.listen {
            if burst.heard.len() < most {
                // SAFETY: the caller's promise.
                burst.heard.push(unsafe { launch::handle(cbid, data) });
            } else {
                ON.store(false, Ordering::SeqCst);
            }
            return Enter::Pass;
        }
        match burst.under_way {
            // A launch inside a launch.
            Some((thread, _)) if thread == me => return Enter::Pass,
            None if burst.allowed > 0 => {
                // SAFETY: the caller's promise.
                let taken = unsafe { launch::read(cbid, data) };
                burst.under_way = Some((me, taken.is_some()));
                if let Some(launch) = taken {
                    burst.allowed -= 1;
                    burst.launches.push(launch);
                }
                return Enter::Pass;
            }
            _ => {}
        }
        let wait =
            burst.patience.saturating_sub(Duration::from_nanos(monotonic_ns().saturating_sub(*since.get_or_insert_with(monotonic_ns))));
        if wait.is_zero() {
            burst.slipped += 1;
            return Enter::Pass;
        }
        drop(guard);
        CHANGED.wait(seen, wait);
    }
}

/// A launch is done, on its own thread. One that the driver refused ran nothing.
///
/// # Safety
/// `data` must be what CUPTI hands to a callback at a call's exit.
pub(super) unsafe fn exit(data: &CallbackData) {
    if !ON.load(Ordering::Acquire) {
        return;
    }
    if let Some(burst) = &mut *burst()
        && let Some((thread, taken)) = burst.under_way
        && thread == me()
    {
        burst.under_way = None;
        let result = data.function_return_value.cast::<i32>();
        // SAFETY: a driver call's result, which lives through the callback.
        if taken && !result.is_null() && unsafe { *result } != 0 {
            burst.launches.pop();
            burst.allowed += 1;
        }
    }
    CHANGED.ring();
}
