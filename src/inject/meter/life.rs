//! The life of the meter's thread: how it starts, is woken, told to end, and waited for.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    sync::{
        atomic::{AtomicU8, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::{EAGER, LOOK, LOOK_EAGERLY, Meter, nanos};
use crate::{
    counter::find::Found,
    inject::{
        apart,
        bell::Bell,
        config::Config,
        driver::Driver,
        entry, environment, guard, left, planner,
        reporter::Reporter,
        say::{self, say},
    },
    window::clock::{self, monotonic_ns},
};

/// Stack of the meter's thread, which CUPTI and the driver work on.
const STACK: usize = 2 << 20;

/// Not started; running; told to end; ended.
const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const DRAINING: u8 = 2;
const DONE: u8 = 3;

static STATE: AtomicU8 = AtomicU8::new(IDLE);
/// Rings when the meter has something to look at.
pub(super) static BELL: Bell = Bell::new();
/// Why the drain began: 0 `exit`, 1 `_exit`.
static REASON: AtomicU8 = AtomicU8::new(0);
static DRAIN_NS: AtomicU64 = AtomicU64::new(5_000_000_000);

/// Masks all signals on the calling thread and those it starts: the host's handlers must run on the host's threads. All but SIGSYS: it comes of what the thread
/// itself asked of the kernel, and a sandbox's handler answers it; where it is masked the kernel ends the process instead.
fn block_signals() -> libc::sigset_t {
    // SAFETY: all zeros is a sigset; both calls write into sets of ours.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::sigdelset(&raw mut all, libc::SIGSYS);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

/// Finds libcupti and starts the thread. A process that may not have one runs unmetered.
pub(in crate::inject) fn start() {
    STATE.store(RUNNING, Ordering::Release);
    let before = block_signals();
    apart::start();
    // SAFETY: the mask is the one that was in force.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    environment::read();
    let config = Config::read();
    let found = planner::find(config.cupti.as_deref()).map_err(|e| e.to_string());
    let library = entry::own_path().map(|p| PathBuf::from(OsStr::from_bytes(p.to_bytes())));
    let reporter = library.and_then(|l| Reporter::find(&l));
    let before = block_signals();
    let spawned = thread::Builder::new().name("flopsprof".to_owned()).stack_size(STACK).spawn(|| {
        guard::this_is_ours();
        guard::shield(|| run(config, found, reporter));
        apart::stop();
        STATE.store(DONE, Ordering::Release);
    });
    // SAFETY: the mask is the one that was in force.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    if let Err(e) = spawned {
        apart::stop();
        STATE.store(DONE, Ordering::Release);
        say(&format!("not metered: no thread can be started ({e}): raise the limit on processes (ulimit -u)"));
    }
}

/// Closes the last window and the evidence; waits until that is done, or for the deadline. Any thread may call it, also from a signal handler.
pub(in crate::inject) fn drain(reason: &str) {
    if !guard::owned() || guard::on_ours() {
        return;
    }
    REASON.store(u8::from(reason == "_exit"), Ordering::Relaxed);
    if STATE.compare_exchange(RUNNING, DRAINING, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return;
    }
    BELL.ring();
    let deadline = monotonic_ns().saturating_add(DRAIN_NS.load(Ordering::Relaxed));
    while STATE.load(Ordering::Acquire) != DONE && monotonic_ns() < deadline {
        clock::sleep(Duration::from_micros(200));
    }
    if STATE.load(Ordering::Acquire) != DONE {
        say::write(
            "flopsprof: the evidence could not be finished in time: what is missing is not counted; FLOPSPROF_DRAIN says how long the end may be held\n",
        );
    }
}

/// Lets the thread look around now. A no-op where there is none.
pub(in crate::inject) fn wake() {
    BELL.ring();
}

/// Whether the process is about to end.
pub(in crate::inject) fn draining() -> bool {
    STATE.load(Ordering::Acquire) == DRAINING
}

/// Ends the meter's loop, if nobody else has begun to.
pub(super) fn end() -> bool {
    STATE.compare_exchange(RUNNING, DRAINING, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// Why the drain began.
pub(super) fn reason() -> &'static str {
    if REASON.load(Ordering::Relaxed) == 0 { "exit" } else { "_exit" }
}

fn run(config: Config, found: Result<Found, String>, reporter: Option<Reporter>) {
    let Some(driver) = Driver::find() else { return };
    DRAIN_NS.store(u64::try_from(config.drain.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    let began = monotonic_ns();
    let mut left_ns = began + nanos(left::LOOK);
    let devices = loop {
        let seen = BELL.seen();
        // Until cuInit is through the driver answers that it is not initialised.
        match driver.devices() {
            Ok(devices) => break devices,
            Err(_) if draining() => return,
            Err(_) => {
                let now = monotonic_ns();
                if now >= left_ns {
                    if left::has_left() {
                        return;
                    }
                    left_ns = now + nanos(left::LOOK);
                }
                BELL.wait(seen, if now - began < nanos(EAGER) { LOOK_EAGERLY } else { LOOK });
            }
        }
    };
    driver.leave_captures_alone();
    for complaint in &config.complaints {
        say(complaint);
    }
    let (sender, ready) = mpsc::channel();
    if let Ok(cupti) = found.as_ref().map(|f| f.cupti) {
        let planning = thread::Builder::new().name("flopsprof-plan".to_owned()).stack_size(STACK).spawn(move || {
            guard::this_is_ours();
            guard::shield(|| planner::plan_devices(cupti, devices, sender));
            BELL.ring();
        });
        if planning.is_err() {
            say("not counted: no thread can be started: raise the limit on processes (ulimit -u)");
        }
    }
    Meter::new(driver, devices, config, found, ready, reporter).run();
}
