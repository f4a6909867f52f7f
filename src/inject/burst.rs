//! The launches of a burst: told one by one, let through one by one.
//!
//! While a census is on, the callback of every launch comes here. It may go through when the meter has allowed launches and no other is under way: the profiler
//! runs kernels one after the other anyway, so this costs nothing, and the order of the launches is the order of the ranges, whichever threads and streams
//! they come from. When what was allowed is used up, launches wait until the next chunk's counters are on. Every wait has a deadline; a launch that
//! reaches it goes through, and the burst says so.
//!
//! Listening is the same without holding anybody: it takes down which function is launched, launch by launch.
//!
//! So is a roll call: it counts how often each launch that a census knows comes ([`Roster`]), at some 0.2 us a launch. The first one that no census knows can end
//! it and wait here, so that a census begins with it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use cupti_sys::raw::CallbackData;

use super::{
    bell::Bell,
    launch::{self, Launch},
    meter,
    roster::{Place, Roster, Trail},
};
use crate::window::clock::{monotonic_ns, stopwatch_ns};

/// How long a launch that no census knows waits for the meter to begin one.
const STRANGER: Duration = Duration::from_millis(200);

/// Whether a callback has anything to do here.
static ON: AtomicU8 = AtomicU8::new(OFF);
const OFF: u8 = 0;
/// It hears what is launched.
const HEARS: u8 = 1;
/// It lets launches through one by one, and must know when each is done.
const HOLDS: u8 = 2;
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
    /// A roll call; while there is one, nothing else is done.
    roll: Option<Roll>,
    /// A launch that no census knows ended the roll call, and waits.
    stranger: bool,
    /// Launches that may still go through.
    allowed: usize,
    /// The thread whose launch is under way, and whether that launch was taken down.
    under_way: Option<(usize, bool)>,
    launches: Vec<Launch>,
    /// Where it ends with a step of the program.
    steps: Option<Steps>,
    /// Micro-batches that began in it: rows, positions, a decoder's positions.
    batches: Vec<[u64; 3]>,
    /// Of a listening: how many launches were heard when the program marked the end of a step.
    marks: Vec<usize>,
    slipped: u64,
    /// How long a launch waits for its turn.
    patience: Duration,
}

impl Burst {
    /// Whether the step has ended that it ends with.
    fn over(&self) -> bool {
        self.steps.is_some_and(|s| s.over)
    }
}

/// A burst ends with the first step that the program marks when so many launches are through.
#[derive(Clone, Copy)]
struct Steps {
    least: usize,
    through: usize,
    ended: usize,
    over: bool,
}

/// How often each launch came.
#[derive(Default)]
pub(super) struct Roll {
    roster: Arc<Roster>,
    /// Whether a launch that no census knows ends it.
    armed: bool,
    trail: Trail,
    /// By context, or key where there was none yet: the key, and how often.
    pub(super) came: HashMap<(u64, Option<u64>), u64>,
    pub(super) launches: u64,
    /// Launches for which there was no room in the table.
    pub(super) lost: u64,
    /// Time that launches spent in it.
    pub(super) inside_ns: u64,
}

/// Places in the table of a roll call: more are not told apart in any program looked at (a training step has some hundred).
const ROOM: usize = 32_768;

impl Roll {
    /// Takes a launch down. False if it is one to wait for a census.
    fn call(&mut self, place: &Place) -> bool {
        let key = place.key();
        let context = self.trail.step(key);
        if launch::capturing(place.stream) {
            return true;
        }
        if self.armed && !self.roster.has(key) {
            return false;
        }
        self.launches += 1;
        if let Some(times) = self.came.get_mut(&(key, context)) {
            *times += 1;
        } else if self.came.len() < ROOM {
            self.came.insert((key, context), 1);
        } else {
            self.lost += 1;
        }
        true
    }
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
    let on = if new.listen.is_some() || new.roll.is_some() { HEARS } else { HOLDS };
    *burst() = Some(new);
    ON.store(on, Ordering::SeqCst);
}

/// Takes the functions of launches down from now on, this many at most.
pub(super) fn listen(most: usize) {
    begin(Burst { listen: Some(most), heard: Vec::with_capacity(most), ..Burst::default() });
}

/// Whether as many launches were heard as were asked for, or a whole step of a program that marks them.
pub(super) fn heard_all() -> bool {
    burst().as_ref().is_none_or(|b| b.listen.is_some_and(|most| b.heard.len() >= most) || b.marks.len() > 1)
}

/// The program marks the end of a step, on its own thread.
pub(super) fn mark() {
    if ON.load(Ordering::Acquire) == OFF {
        return;
    }
    if let Some(burst) = &mut *burst() {
        if burst.listen.is_some() {
            burst.marks.push(burst.heard.len());
        } else if let Some(steps) = &mut burst.steps {
            steps.ended += usize::from(!steps.over);
            steps.over |= steps.through >= steps.least;
            if steps.over {
                burst.allowed = 0;
            }
        }
    }
    CHANGED.ring();
}

/// More micro-batches are in no census.
const MOST_BATCHES: usize = 1024;

/// The program begins a micro-batch, on its own thread.
pub(super) fn batch(shape: [u64; 3]) {
    if ON.load(Ordering::Acquire) == HOLDS
        && let Some(burst) = &mut *burst()
        && burst.batches.len() < MOST_BATCHES
        // The next one comes while the meter still counts the last.
        && !burst.over()
    {
        burst.batches.push(shape);
    }
}

/// The micro-batches that began in it.
pub(super) fn batches() -> Vec<[u64; 3]> {
    burst().as_mut().map(|b| std::mem::take(&mut b.batches)).unwrap_or_default()
}

/// Lets the burst end with the first step of the program that ends when so many launches are through, if what is allowed is not used up before.
pub(super) fn end_with_step(least: usize) {
    if let Some(burst) = &mut *burst() {
        burst.steps = Some(Steps { least, through: 0, ended: 0, over: false });
    }
}

/// How many steps have ended in the burst, if it ends with the last of them.
pub(super) fn ended_with_step() -> Option<usize> {
    burst().as_ref().and_then(|b| b.steps.filter(|s| s.over)).map(|s| s.ended)
}

/// Begins a roll call, or goes on with one.
pub(super) fn call(roster: Arc<Roster>, armed: bool, so_far: Option<Roll>) {
    // What came between is not known: the context begins anew.
    let roll = Roll { roster, armed, trail: Trail::default(), ..so_far.unwrap_or_default() };
    begin(Burst { roll: Some(roll), ..Burst::default() });
}

/// Whether a launch that no census knows ends the roll call that is on.
pub(super) fn arm(armed: bool) {
    if let Some(roll) = burst().as_mut().and_then(|b| b.roll.as_mut()) {
        roll.armed = armed;
    }
}

/// Whether a launch that no census knows waits for one.
pub(super) fn stranger() -> bool {
    burst().as_ref().is_some_and(|b| b.stranger)
}

/// Ends a roll call: what came.
pub(super) fn hang_up() -> Option<Roll> {
    ON.store(OFF, Ordering::SeqCst);
    let roll = burst().take().and_then(|b| b.roll);
    CHANGED.ring();
    roll
}

/// Begins a burst in which no launch is allowed yet; each waits for its turn, but no longer than `patience`.
pub(super) fn hold(patience: Duration) {
    begin(Burst { patience, ..Burst::default() });
}

/// Lets so many launches through; the next one waits.
pub(super) fn allow(launches: usize) {
    if let Some(burst) = &mut *burst() {
        burst.allowed = if burst.over() { 0 } else { launches };
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

/// Ends the burst: how many launches went through because their wait reached its deadline.
pub(super) fn end() -> u64 {
    take_all().slipped
}

/// Ends the listening: the functions heard, and how many they were at each mark.
pub(super) fn listened() -> (Vec<usize>, Vec<usize>) {
    let Burst { heard, marks, .. } = take_all();
    (heard, marks)
}

fn take_all() -> Burst {
    ON.store(OFF, Ordering::SeqCst);
    let ended = burst().take().unwrap_or_default();
    CHANGED.ring();
    ended
}

fn me() -> usize {
    THREAD.with(|t| std::ptr::from_ref(t) as usize)
}

/// A launch begins, on its own thread.
///
/// # Safety
/// `data` must be what CUPTI hands to a callback of this id.
pub(super) unsafe fn enter(cbid: u32, data: &CallbackData) -> Enter {
    if ON.load(Ordering::Acquire) == OFF {
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
                burst.heard.push(unsafe { launch::place(cbid, data) }.handle);
            } else {
                ON.store(OFF, Ordering::SeqCst);
            }
            return Enter::Pass;
        }
        if let Some(roll) = &mut burst.roll
            && !burst.stranger
        {
            let begun = stopwatch_ns();
            // SAFETY: the caller's promise.
            let goes_on = roll.call(&unsafe { launch::place(cbid, data) });
            roll.inside_ns += stopwatch_ns().saturating_sub(begun);
            if goes_on {
                return Enter::Pass;
            }
            // From here on launches wait for the census that the meter is woken for.
            burst.stranger = true;
            meter::wake();
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
                    if let Some(steps) = &mut burst.steps {
                        steps.through += 1;
                    }
                }
                return Enter::Pass;
            }
            _ => {}
        }
        let patience = if burst.roll.is_some() { STRANGER } else { burst.patience };
        let wait = patience.saturating_sub(Duration::from_nanos(monotonic_ns().saturating_sub(*since.get_or_insert_with(monotonic_ns))));
        if wait.is_zero()
            && let Some(roll) = &mut burst.roll
        {
            // The meter has other things to do: the roll call goes on, and holds nobody again.
            (burst.stranger, roll.armed) = (false, false);
            drop(guard);
            CHANGED.ring();
            return Enter::Pass;
        }
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
    if ON.load(Ordering::Acquire) != HOLDS {
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
            burst.allowed += usize::from(!burst.over());
            if let Some(steps) = &mut burst.steps {
                // One that did not return in time belongs to a burst before this.
                steps.through = steps.through.saturating_sub(1);
            }
        }
    }
    CHANGED.ring();
}
