//! The life of the meter's thread: how it starts, is woken, told to end, and waited for.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use super::{
    EAGER, LOOK, LOOK_EAGERLY, Meter, nanos,
    start::{self, Awaited},
};
use crate::{
    evidence::life::THREADS,
    inject::{
        apart,
        bell::Bell,
        config::Config,
        driver::Driver,
        environment, guard, left, memory,
        say::{self, say},
        thread,
    },
    window::clock::{self, monotonic_ns},
};

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
/// The evidence is as whole as it will be; what may follow is a report.
static WRITTEN: AtomicBool = AtomicBool::new(false);
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

/// Starts the thread, and waits until it can hold launches: see [`start`]. A process that may not have one runs unmetered.
pub(in crate::inject) fn start() {
    STATE.store(RUNNING, Ordering::Release);
    let begins = Awaited::new(Awaited::BEGINNING);
    let before = block_signals();
    let spawned = thread::spawn(THREADS[0], thread::DEEP, || {
        guard::shield(|| run(begins));
        apart::stop();
        STATE.store(DONE, Ordering::Release);
    });
    // SAFETY: the mask is the one that was in force.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    match spawned {
        Ok(_) => start::wait(),
        Err(e) => {
            STATE.store(DONE, Ordering::Release);
            say(&match e.kind() {
                io::ErrorKind::OutOfMemory => {
                    "not metered: there is no memory for a thread: raise the limit on memory (ulimit -v, or the container's)".to_owned()
                }
                _ => format!("not metered: no thread can be started ({e}): raise the limit on processes (ulimit -u)"),
            });
        }
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
    if STATE.load(Ordering::Acquire) != DONE && !WRITTEN.load(Ordering::Acquire) {
        say::write(
            "flopsprof: the evidence could not be finished in time: what is missing is not counted; FLOPSPROF_DRAIN says how long the end may be held\n",
        );
    }
}

/// Says at the end of a program that its meter waits for memory still, and never saw a context.
pub(in crate::inject) fn say_what_is_lacking() {
    if guard::owned() && STATE.load(Ordering::Acquire) == RUNNING && memory::waits() {
        say::write(
            "flopsprof: not metered: there was no memory for the meter: raise the limit on memory (ulimit -v, or the container's)\n",
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

/// The evidence is written: whose end is not awaited any longer has lost nothing.
pub(super) fn written() {
    WRITTEN.store(true, Ordering::Release);
}

/// Ends the meter's loop, if nobody else has begun to.
pub(super) fn end() -> bool {
    STATE.compare_exchange(RUNNING, DRAINING, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// Why the drain began.
pub(super) fn reason() -> &'static str {
    if REASON.load(Ordering::Relaxed) == 0 { "exit" } else { "_exit" }
}

fn run(begins: Awaited) {
    start::try_loader();
    apart::start();
    environment::read();
    let config = Config::read();
    DRAIN_NS.store(u64::try_from(config.drain.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    let reporter = start::reporter();
    let search = start::search(config.cupti.as_deref());
    let driver = Driver::find();
    drop(begins);
    start::await_over();
    let Some(driver) = driver else {
        say(
            "not metered: libcuda is not found in the process, or is older than CUDA 11.4: update the driver, or report it with the output of `flopsprof doctor`",
        );
        return;
    };
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
    Meter::new(driver, devices, config, search, reporter).run();
}
