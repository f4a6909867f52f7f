//! How the meter starts while CUDA does, and does not hold CUDA's start for longer than it may.
//!
//! `cuInit` calls us from inside itself, and as soon as it returns a context can appear, whose first launch must find the gate closed. So it is held until libcupti is
//! found, loaded, and was subscribed to once. But files and libraries are foreign, and may hang: threads of ours have to do with them, and the program's waits for these no
//! longer than a launch does. Then it goes on; the evidence and a line on stderr say so; what answers later is used from then on ([`Meter::arrive`]).
//!
//! What hangs in `dlopen` keeps the loader's lock, for which everybody waits who loads a library. And where the initialiser of a library calls `cuInit`, the program's own
//! thread has that lock: nothing can be loaded before the initialiser is through, so that is not waited for.
//!
//! [`Meter::arrive`]: super::Meter::arrive

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::life::{BELL, draining};
use crate::{
    counter::find::Found,
    evidence::record::Fault,
    inject::{apart::Apart, entry, guard, planner, reporter::Reporter, say::say, thread},
    window::clock::monotonic_ns,
};

/// How long threads of ours are given to get hold of the loader. They have it at once where they are let run, and where it is not the program's own thread that has it.
const LOADER: Duration = Duration::from_millis(500);

/// What the start waits for, a bit each.
static AWAITED: AtomicU8 = AtomicU8::new(0);
/// A thread of ours has had the loader.
static LOADS: AtomicBool = AtomicBool::new(false);
/// When the program went on although something was still awaited; 0: it did not have to.
static WENT_ON_NS: AtomicU64 = AtomicU64::new(0);
/// What was awaited when that took the longest time that it may.
static LATE: AtomicU8 = AtomicU8::new(0);

/// What the search for libcupti came to.
pub(super) type Search = mpsc::Receiver<Result<Found, String>>;

/// The start waits for one thing, as long as this lives.
pub(super) struct Awaited(u8);

impl Awaited {
    /// The meter's thread must come to its senses.
    pub(super) const BEGINNING: u8 = 1;
    /// libcupti must be found.
    const SEARCH: u8 = 2;

    pub(super) fn new(what: u8) -> Self {
        AWAITED.fetch_or(what, Ordering::SeqCst);
        Self(what)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        AWAITED.fetch_and(!self.0, Ordering::SeqCst);
        BELL.ring();
    }
}

/// Waits on the program's thread, inside `cuInit`, until the meter is ready, or for as long as that may take.
pub(super) fn wait() {
    let began_ns = monotonic_ns();
    loop {
        let seen = BELL.seen();
        let awaited = AWAITED.load(Ordering::SeqCst);
        if awaited == 0 {
            return;
        }
        let loads = LOADS.load(Ordering::SeqCst);
        let most = if loads { guard::PATIENCE } else { LOADER };
        let now = monotonic_ns();
        let left = most.saturating_sub(Duration::from_nanos(now.saturating_sub(began_ns)));
        if left.is_zero() {
            LATE.store(if loads { awaited } else { 0 }, Ordering::SeqCst);
            WENT_ON_NS.store(now, Ordering::SeqCst);
            BELL.ring();
            break;
        }
        BELL.wait(seen, left);
    }
    if let Some(fault) = late() {
        say(&format!("{}: {}", fault.what, fault.remedy));
    }
}

/// Whether it is not waited any longer, on the meter's thread: until then the driver need not be asked for contexts.
pub(super) fn await_over() {
    loop {
        let seen = BELL.seen();
        if AWAITED.load(Ordering::SeqCst) == 0 || went_on_ns().is_some() || draining() {
            return;
        }
        BELL.wait(seen, guard::PATIENCE);
    }
}

/// When the program went on without the meter. From then on, and not before, it may have had contexts.
pub(super) fn went_on_ns() -> Option<u64> {
    Some(WENT_ON_NS.load(Ordering::SeqCst)).filter(|ns| *ns > 0)
}

/// What the evidence says where the start was held for as long as it may be. Stderr was told.
pub(super) fn late() -> Option<Fault> {
    let awaited = match LATE.load(Ordering::SeqCst) {
        0 => return None,
        awaited if awaited & Awaited::BEGINNING != 0 => "a file, a pipe or a thread of the meter's",
        _ => "libcupti, or for a folder in which it is looked for",
    };
    let seconds = guard::PATIENCE.as_secs();
    Some(Fault {
        kind: "late-start".to_owned(),
        device: None,
        what: format!("CUDA's start waited {seconds} s for {awaited} and went on without: nothing is counted until that answers"),
        remedy: "see what hangs there, a file system mostly; FLOPSPROF_CUPTI names a libcupti elsewhere, FLOPSPROF_DISABLE=1 does without the meter".to_owned(),
    })
}

/// Lets the program's thread know that it is not its own loader that we wait for.
pub(super) fn try_loader() {
    // SAFETY: the name ends in NUL. The answer does not matter: who has it has had the loader's lock.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"cuInit".as_ptr()) };
    LOADS.store(true, Ordering::SeqCst);
    BELL.ring();
}

/// Begins the search for libcupti on a thread of its own; where there can be none, it is done here.
pub(super) fn search(named: Option<&Path>) -> Search {
    let (send, found) = mpsc::channel();
    let awaited = Awaited::new(Awaited::SEARCH);
    let named = named.map(Path::to_owned);
    let (send_here, named_here) = (send.clone(), named.clone());
    let spawned = thread::spawn("flopsprof-find", thread::DEEP, move || {
        look(named.as_deref(), &send);
        drop((send, awaited));
    });
    if spawned.is_err() {
        let _awaited = Awaited::new(Awaited::SEARCH);
        look(named_here.as_deref(), &send_here);
    }
    found
}

fn look(named: Option<&Path>, send: &mpsc::Sender<Result<Found, String>>) {
    // Who panicked there has said so; the sender that is dropped says it too.
    if let Some(found) = guard::shield(|| planner::find(named).map_err(|e| e.to_string())) {
        let _ = send.send(found);
    }
}

/// Looks for the command beside the library, by and by.
pub(super) fn reporter() -> Apart<Option<Reporter>> {
    let library = entry::own_path().map(|p| PathBuf::from(OsStr::from_bytes(p.to_bytes())));
    Apart::soon(move || library.and_then(|l| Reporter::find(&l)))
}
