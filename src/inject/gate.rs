//! Holds launches for the moment in which no range is open.
//!
//! What is launched between Pop and the next Push, and before the first Push, would not be counted. So CUPTI's launch callbacks are switched on
//! for just that moment, and a launch that comes waits in its callback until the next range is open, or until the gate's deadline. The
//! subscription is held no longer than that: a process has one, and torch.profiler wants it for good. Where another tool has it, the boundary goes
//! ungated, and the evidence says so.
//!
//! A census ([`burst`]) keeps the subscription for as long as it lasts, and lets launches through one by one.
//!
//! Measured on one H200: 0.3 ms a boundary for subscribing, switching on nine callbacks and unsubscribing.

use std::{
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
    time::Duration,
};

use cupti_sys::{
    Cupti,
    raw::{API_ENTER, CallbackData, CallbackDomain, CuptiResult, LAUNCH_CBIDS, SubscriberHandle},
};

use super::{
    bell::Bell,
    burst::{self, Enter},
    driver::Context,
    guard, subscribe,
};
use crate::{
    evidence::record::Boundary,
    window::clock::{self, monotonic_ns},
};

/// Time between switching the callbacks on and closing the range: a launch that was past its callback's place when they were switched on gets this long
/// to reach the GPU. A launch call takes a few microseconds.
const GRACE: Duration = Duration::from_micros(150);

/// Why a gate cannot be closed, mostly.
pub(super) const TAKEN: &str = "another tool has CUPTI's subscription";

static CLOSED: AtomicBool = AtomicBool::new(false);
/// The context whose launches are held; null holds none and only looks.
static HELD_CONTEXT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
/// A context that launched and is none of those metered.
static OTHER_CONTEXT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static DEADLINE_NS: AtomicU64 = AtomicU64::new(0);
static HELD: AtomicU64 = AtomicU64::new(0);
static SLIPPED: AtomicU64 = AtomicU64::new(0);
/// When the first launch began to wait; 0 while none does.
static WAITING_SINCE_NS: AtomicU64 = AtomicU64::new(0);
static OPENED: Bell = Bell::new();

/// A gate that is closed. Open it by [`Closed::open`]; dropping it opens it too.
pub(super) struct Closed {
    cupti: Cupti,
    subscriber: SubscriberHandle,
    since_ns: u64,
}

/// Subscribes and unsubscribes once, so that it is quick when it matters. Refused where another tool has the subscription, and that is all right.
pub(super) fn warm_up(cupti: Cupti) {
    // SAFETY: the callback may run on any thread at any time, and does not unwind.
    let subscriber = subscribe::take().then(|| unsafe { cupti.subscribe(on_launch) });
    if let Some(Ok(subscriber)) = subscriber {
        // SAFETY: the subscription is live and given back once.
        let _ = unsafe { cupti.unsubscribe(subscriber) };
    }
    subscribe::give();
}

/// Closes the gate for one context (null: looks at launches, holds none).
///
/// # Errors
/// Why it cannot be closed, in the words of the evidence: another tool has the subscription, mostly.
pub(super) fn close(cupti: Cupti, ctx: Context, deadline: Duration) -> Result<Closed, String> {
    let since_ns = monotonic_ns();
    DEADLINE_NS.store(later(since_ns, deadline), Ordering::Relaxed);
    // Closed before the first callback can come.
    CLOSED.store(true, Ordering::SeqCst);
    let closed = enter(cupti, ctx, since_ns)?;
    clock::sleep(GRACE);
    Ok(closed)
}

/// Subscribes for one context's launches and holds none: for [`burst::listen`].
///
/// # Errors
/// As [`close`].
pub(super) fn watch(cupti: Cupti, ctx: Context) -> Result<Closed, String> {
    enter(cupti, ctx, monotonic_ns())
}

/// Takes the subscription and switches the callbacks on.
fn enter(cupti: Cupti, ctx: Context, since_ns: u64) -> Result<Closed, String> {
    reset();
    OTHER_CONTEXT.store(ptr::null_mut(), Ordering::Relaxed);
    HELD_CONTEXT.store(ctx, Ordering::Relaxed);
    if !subscribe::take() {
        release();
        return Err(TAKEN.to_owned());
    }
    // SAFETY: the callback may run on any thread at any time, and does not unwind.
    let subscriber = match unsafe { cupti.subscribe(on_launch) } {
        Ok(subscriber) => subscriber,
        Err(e) => {
            subscribe::give();
            release();
            return Err(if e.is(CuptiResult::MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED) { TAKEN.to_owned() } else { e.to_string() });
        }
    };
    let closed = Closed { cupti, subscriber, since_ns };
    let mut on = 0;
    for cbid in LAUNCH_CBIDS {
        // SAFETY: the subscription is live. A callback that this CUPTI does not know is one that this driver does not make.
        on += usize::from(unsafe { cupti.enable_callback(true, subscriber, CallbackDomain::DRIVER_API, cbid) }.is_ok());
    }
    if on == 0 {
        return Err("CUPTI switched no launch callback on".to_owned());
    }
    Ok(closed)
}

impl Closed {
    /// Opens the gate, gives the subscription back, and tells what happened at it.
    pub(super) fn open(self) -> Boundary {
        drop(self);
        told()
    }

    /// Opens the gate and keeps the subscription; tells what happened at it so far.
    pub(super) fn let_through(&self) -> Boundary {
        release();
        told()
    }

    /// Closes the gate that was let open. What happens at it is counted anew.
    pub(super) fn hold(&self, deadline: Duration) {
        reset();
        DEADLINE_NS.store(later(monotonic_ns(), deadline), Ordering::Relaxed);
        CLOSED.store(true, Ordering::SeqCst);
        clock::sleep(GRACE);
    }

    /// When it was closed.
    pub(super) fn since_ns(&self) -> u64 {
        self.since_ns
    }
}

/// What a boundary says of itself, once its gate is open again. `inside_ns` of its time nobody could launch.
pub(super) fn boundary(gate: Result<Closed, String>, took_ns: u64, inside_ns: u64) -> Boundary {
    let exposed_ns = took_ns.saturating_sub(inside_ns);
    match gate {
        Ok(closed) => Boundary { took_ns, exposed_ns, ..closed.open() },
        Err(why_ungated) => Boundary { gated: false, why_ungated, took_ns, exposed_ns, ..Boundary::default() },
    }
}

fn reset() {
    for counter in [&HELD, &SLIPPED, &WAITING_SINCE_NS] {
        counter.store(0, Ordering::Relaxed);
    }
}

/// What happened at the gate since it was closed.
fn told() -> Boundary {
    let slipped = SLIPPED.load(Ordering::Relaxed);
    let longest_wait_ns = match WAITING_SINCE_NS.load(Ordering::Relaxed) {
        0 => 0,
        since => monotonic_ns().saturating_sub(since),
    };
    Boundary {
        gated: slipped == 0,
        why_ungated: if slipped == 0 { String::new() } else { "launches waited until their deadline".to_owned() },
        took_ns: 0,
        exposed_ns: 0,
        held: HELD.load(Ordering::Relaxed),
        slipped,
        longest_wait_ns,
    }
}

fn later(ns: u64, by: Duration) -> u64 {
    ns + u64::try_from(by.as_nanos()).unwrap_or(u64::MAX / 2)
}

impl Drop for Closed {
    fn drop(&mut self) {
        release();
        // SAFETY: the subscription is live and given back once. A refusal leaves callbacks on that return at once.
        let _ = unsafe { self.cupti.unsubscribe(self.subscriber) };
        subscribe::give();
    }
}

/// The context that launched and is none of the metered, if one did since the gate was closed.
pub(super) fn other_context() -> Option<Context> {
    let ctx = OTHER_CONTEXT.load(Ordering::Relaxed);
    (!ctx.is_null()).then_some(ctx)
}

fn release() {
    CLOSED.store(false, Ordering::SeqCst);
    OPENED.ring();
}

/// CUPTI calls this on the launching thread, at the entry and exit of every launch, while there is a subscription.
unsafe extern "C" fn on_launch(_user: *mut c_void, domain: CallbackDomain, cbid: u32, data: *const c_void) {
    guard::shield(|| {
        if domain != CallbackDomain::DRIVER_API || data.is_null() || guard::on_ours() || guard::forked_away() {
            return;
        }
        // SAFETY: in this domain the data is a CallbackData that lives through the call.
        let data = unsafe { &*data.cast::<CallbackData>() };
        let ours = data.context == HELD_CONTEXT.load(Ordering::Relaxed);
        match (data.callback_site == API_ENTER, ours) {
            (true, true) => loop {
                let in_time = wait();
                // SAFETY: what CUPTI handed over.
                match unsafe { burst::enter(cbid, data) } {
                    Enter::Pass => break,
                    // The burst ended while the launch was on its way here: the gate is closed again, or was opened for good.
                    Enter::Off if in_time && CLOSED.load(Ordering::Acquire) => {}
                    Enter::Off => break,
                }
            },
            (true, false) => OTHER_CONTEXT.store(data.context, Ordering::Relaxed),
            // SAFETY: what CUPTI handed over.
            (false, true) => unsafe { burst::exit(data) },
            (false, false) => {}
        }
    });
}

/// Waits until the gate is open; false if the deadline came first.
fn wait() -> bool {
    if !CLOSED.load(Ordering::Acquire) {
        return true;
    }
    let deadline = DEADLINE_NS.load(Ordering::Relaxed);
    let _ = WAITING_SINCE_NS.compare_exchange(0, monotonic_ns(), Ordering::Relaxed, Ordering::Relaxed);
    HELD.fetch_add(1, Ordering::Relaxed);
    loop {
        let seen = OPENED.seen();
        if !CLOSED.load(Ordering::SeqCst) {
            return true;
        }
        let now = monotonic_ns();
        if now >= deadline {
            SLIPPED.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        OPENED.wait(seen, Duration::from_nanos(deadline - now));
    }
}
