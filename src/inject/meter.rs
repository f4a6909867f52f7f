//! The meter's thread.
//!
//! It waits for primary contexts, attaches to each, tends its windows, and at the end drains. All signals are masked on it; it holds no lock that a
//! host thread could want, but the gate's.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use cupti_sys::{Cupti, Error};

use super::{
    apart::{self, Apart},
    api,
    bell::Bell,
    config::Config,
    device::{Counters, Metered, NoCounters},
    driver::Driver,
    entry, environment, gate, guard,
    journal::Journal,
    left,
    planner::{self, Planned, Ready},
    reporter::Reporter,
    say::{self, say},
};
use crate::{
    counter::find::{self, Found},
    evidence::record::{Declare, Declared, End, Fault, Library, Phase, Record},
    window::clock::{self, monotonic_ns},
    witness::nvml::Witness,
};

/// How often the first context is looked for while the program is starting CUDA: often enough that launches are held before the first can come.
const LOOK_EAGERLY: Duration = Duration::from_micros(100);
/// How long that lasts.
const EAGER: Duration = Duration::from_secs(5);
/// How often after that, and for the contexts of further devices.
const LOOK: Duration = Duration::from_millis(2);
/// How long to wait for a plan once a context is there.
const READY: Duration = Duration::from_secs(2);
/// When to listen for launches in contexts that are not primary: first after this, then at doubling intervals.
const LISTEN_AFTER: Duration = Duration::from_secs(1);
/// How long to listen.
const LISTEN: Duration = Duration::from_millis(5);

/// Stack of the meter's thread, which CUPTI and the driver work on.
const STACK: usize = 2 << 20;
/// A program that resets its device again and again is looked at less often after so many times: each look costs it a first window.
const RESETS: u32 = 5;
/// The first pause then; it doubles with every further reset, up to a minute.
const RESET_PAUSE: Duration = Duration::from_millis(500);
const RESET_PAUSE_MOST: Duration = Duration::from_mins(1);

/// Not started; running; told to end; ended.
const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const DRAINING: u8 = 2;
const DONE: u8 = 3;

static STATE: AtomicU8 = AtomicU8::new(IDLE);
/// Rings when the meter has something to look at.
static BELL: Bell = Bell::new();
/// Why the drain began: 0 `exit`, 1 `_exit`.
static REASON: AtomicU8 = AtomicU8::new(0);
static DRAIN_NS: AtomicU64 = AtomicU64::new(5_000_000_000);

/// Masks all signals on the calling thread and those it starts: the host's handlers must run on the host's threads. All but SIGSYS: it comes of what the thread
/// itself asked of the kernel, and a sandbox's handler answers it; where it is masked the kernel ends the process instead.
pub(super) fn block_signals() -> libc::sigset_t {
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
pub(super) fn start() {
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
pub(super) fn drain(reason: &str) {
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
pub(super) fn wake() {
    BELL.ring();
}

/// Whether the process is about to end.
pub(super) fn draining() -> bool {
    STATE.load(Ordering::Acquire) == DRAINING
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

struct Meter {
    driver: Driver,
    config: Config,
    devices: Vec<Option<Metered>>,
    ready: mpsc::Receiver<Ready>,
    cupti: Result<Found, String>,
    plans: BTreeMap<u32, Result<Arc<Planned>, Error>>,
    /// Libraries named in the evidence so far.
    copies: Vec<PathBuf>,
    witness: Option<Option<Witness>>,
    /// What is said goes to a file: apart.
    journal: Apart<Journal>,
    reporter: Apart<Option<Reporter>>,
    /// How often each device's context was lost, and until when the next is let alone.
    resets: Vec<(u32, u64)>,
    /// When it is looked next whether the program has left.
    left_ns: u64,
    /// The exit handler is registered.
    at_exit: bool,
    declared: Declare,
    /// Marks that stand in no evidence yet.
    phases: Vec<Phase>,
    began_ns: u64,
    listen_ns: u64,
    foreign: bool,
}

impl Meter {
    fn new(
        driver: Driver,
        devices: u32,
        config: Config,
        cupti: Result<Found, String>,
        ready: mpsc::Receiver<Ready>,
        reporter: Option<Reporter>,
    ) -> Self {
        let now = monotonic_ns();
        let (simulated, settings) = (driver.simulated(), config.clone());
        Self {
            journal: Apart::new(move || Journal::new(&settings, simulated)),
            reporter: Apart::new(move || reporter),
            resets: vec![(0, 0); devices as usize],
            left_ns: now + nanos(left::LOOK),
            at_exit: false,
            driver,
            devices: (0..devices).map(|_| None).collect(),
            config,
            ready,
            cupti,
            plans: BTreeMap::new(),
            copies: Vec::new(),
            witness: None,
            declared: Declare::default(),
            phases: Vec::new(),
            began_ns: now,
            listen_ns: now + nanos(LISTEN_AFTER),
            foreign: false,
        }
    }

    fn run(mut self) {
        loop {
            let seen = BELL.seen();
            if draining() || self.program_has_left() {
                break;
            }
            self.look();
            self.tend();
            self.listen();
            BELL.wait(seen, self.pause());
        }
        self.finish();
    }

    /// Whether only our threads keep the process: then it ends, as it would have without us.
    fn program_has_left(&mut self) -> bool {
        let now = monotonic_ns();
        if now < self.left_ns {
            return false;
        }
        self.left_ns = now + nanos(left::LOOK);
        left::has_left() && STATE.compare_exchange(RUNNING, DRAINING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// How long until something is to be done.
    fn pause(&self) -> Duration {
        let now = monotonic_ns();
        let look = if self.devices.iter().all(Option::is_some) {
            left::LOOK
        } else if self.devices.iter().all(Option::is_none) && now - self.began_ns < nanos(EAGER) {
            LOOK_EAGERLY
        } else {
            LOOK
        };
        let due = self.devices.iter().flatten().map(Metered::due_ns).min().unwrap_or(u64::MAX);
        look.min(Duration::from_nanos(due.saturating_sub(now))).max(Duration::from_micros(50))
    }

    /// Attaches to contexts that have appeared.
    fn look(&mut self) {
        for ordinal in 0..u32::try_from(self.devices.len()).unwrap_or(0) {
            let slot = ordinal as usize;
            let let_alone = self.resets[slot].1 > monotonic_ns();
            if self.devices[slot].is_none() && !let_alone && self.driver.device(ordinal).is_ok_and(|d| self.driver.primary_active(d)) {
                self.attach(ordinal);
            }
        }
    }

    fn attach(&mut self, ordinal: u32) {
        let seen_ns = monotonic_ns();
        let mut metered = match Metered::attach(self.driver, ordinal, &self.config) {
            Ok(metered) => metered,
            // Gone again, or not ready: looked at again at the next turn.
            Err(_) => return,
        };
        let gate = self.copy().map_or_else(|| Err("no libcupti".to_owned()), |c| metered.first_gate(c));
        self.drain_at_exit();
        self.await_plan(ordinal);
        metered.begin(self.counters(ordinal), gate, seen_ns);

        // From here on the program runs; what follows may take its time.
        if !self.begun() {
            self.copies = apart::run(find::mapped).unwrap_or_default();
            self.introduce();
        }
        let witness = *self.witness.get_or_insert_with(|| match Witness::load() {
            Ok(witness) => Some(witness),
            Err(e) => {
                let fault = Record::Fault(Fault {
                    kind: "nvml".to_owned(),
                    device: None,
                    what: format!("no energy, power or clocks: NVML cannot be loaded ({e})"),
                    remedy: "libnvidia-ml.so.1 comes with the driver: make it visible (in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility)".to_owned(),
                });
                self.journal.with(|journal| journal.add(fault));
                None
            }
        });
        metered.meet(witness);
        self.devices[ordinal as usize] = Some(metered);
        self.collect();
    }

    /// Sees to it that the program's end waits for the evidence, once there is something to be written.
    fn drain_at_exit(&mut self) {
        if !std::mem::replace(&mut self.at_exit, true) {
            entry::drain_at_exit();
        }
    }

    fn begun(&mut self) -> bool {
        self.journal.with(|journal| journal.begun()).unwrap_or(true)
    }

    fn add(&mut self, record: Record) {
        self.journal.with(|journal| journal.add(record));
    }

    /// What is said once, before the first device.
    fn introduce(&mut self) {
        self.add(Record::Library(Library {
            name: "libcuda".to_owned(),
            path: String::new(),
            version: self.driver.version().to_string(),
            found: "already-loaded".to_owned(),
        }));
        let cupti = match &self.cupti {
            Ok(found) => Record::Library(library(found)),
            Err(why) => {
                let kind = if why.contains("CUPTI API") { "old-cupti" } else { "no-cupti" };
                let (what, remedy) = why.split_once(": ").unwrap_or((why, ""));
                Record::Fault(Fault {
                    kind: kind.to_owned(),
                    device: None,
                    what: format!("operations are not counted: {what}"),
                    remedy: remedy.to_owned(),
                })
            }
        };
        self.add(cupti);
    }

    fn copy(&self) -> Option<Cupti> {
        Some(self.cupti.as_ref().ok()?.cupti)
    }

    fn counters(&self, ordinal: u32) -> Result<Counters, NoCounters> {
        let cupti = self.copy().ok_or_else(|| NoCounters::Said("no libcupti".to_owned()))?;
        match self.plans.get(&ordinal) {
            Some(Ok(planned)) => Ok(Counters { cupti, planned: planned.clone() }),
            Some(Err(e)) => Err(NoCounters::Refused(*e)),
            None => Err(NoCounters::Said("the chip's counters were not planned in time".to_owned())),
        }
    }

    /// Waits for a device's plan, until it has been long enough.
    fn await_plan(&mut self, ordinal: u32) {
        let deadline = monotonic_ns() + nanos(READY);
        while self.cupti.is_ok() && !self.plans.contains_key(&ordinal) && !draining() {
            let seen = BELL.seen();
            match self.ready.try_recv() {
                Ok((planned, plan)) => {
                    self.plans.insert(planned, plan);
                }
                Err(mpsc::TryRecvError::Disconnected) => return,
                Err(mpsc::TryRecvError::Empty) => {
                    let now = monotonic_ns();
                    if now >= deadline {
                        return;
                    }
                    // The plans of several devices come one by one, and the bell rings with the last.
                    BELL.wait(seen, Duration::from_nanos(deadline - now).min(LOOK));
                }
            }
        }
    }

    /// Cuts the windows that are due.
    fn tend(&mut self) {
        let now = monotonic_ns();
        let alone = self.devices.iter().flatten().count() == 1;
        let phases = api::phases();
        if !phases.is_empty() {
            self.devices.iter_mut().flatten().filter(|d| d.alive()).for_each(Metered::phase_ends);
            self.phases.extend(phases);
        }
        for slot in 0..self.devices.len() {
            if self.devices[slot].as_ref().is_none_or(|metered| metered.due_ns() > now) {
                continue;
            }
            let Some(mut metered) = self.devices[slot].take() else { continue };
            if metered.alive() {
                metered.tend(alone, &mut |records| self.keep_soon(records));
                self.devices[slot] = Some(metered);
            } else {
                self.lose(slot, metered);
            }
        }
        if self.collect() {
            self.second_copy();
            self.foreign_context();
            if let Some(folder) = self.folder() {
                self.reporter.with(move |reporter| reporter.as_mut().map(|r| r.window(&folder)));
            }
        }
    }

    fn folder(&mut self) -> Option<PathBuf> {
        self.journal.with(|journal| journal.folder().map(Path::to_owned)).flatten()
    }

    /// A context is gone.
    fn lose(&mut self, slot: usize, lost: Metered) {
        let (resets, until_ns) = &mut self.resets[slot];
        *resets += 1;
        if *resets > RESETS {
            let pause = RESET_PAUSE.saturating_mul(1 << (*resets - RESETS - 1).min(20)).min(RESET_PAUSE_MOST);
            *until_ns = monotonic_ns() + nanos(pause);
        }
        let often = *resets > RESETS;
        let records = lost.lost(often);
        self.journal.with(|journal| journal.keep(records));
    }

    /// Brings what the devices have to say into the evidence. True if there was anything.
    fn collect(&mut self) -> bool {
        let records: Vec<Record> = self.devices.iter_mut().flatten().flat_map(Metered::take_records).collect();
        let any = !records.is_empty();
        if any {
            self.keep(records);
        }
        any
    }

    /// Brings records of a device into the evidence, and that to the file system.
    fn keep(&mut self, records: Vec<Record>) {
        let all = self.with_what_was_said(records);
        self.journal.with(move |journal| journal.keep(all));
    }

    /// The same, by and by.
    fn keep_soon(&mut self, records: Vec<Record>) {
        let all = self.with_what_was_said(records);
        self.journal.post(move |journal| journal.keep(all));
    }

    /// What the program has said since the last window, and then these records.
    fn with_what_was_said(&mut self, records: Vec<Record>) -> Vec<Record> {
        let mut all = Vec::new();
        let declared = api::declared();
        if declared != self.declared {
            self.declared = declared.clone();
            all.push(Record::Declare(declared));
        }
        let (model, work) = api::texts();
        self.phases.extend(api::phases());
        all.extend(model.map(|declared| Record::Model(Declared { declared })));
        all.extend(work.map(|declared| Record::Work(Declared { declared })));
        all.extend(self.phases.drain(..).map(Record::Phase));
        all.extend(records);
        all
    }

    /// Looks for a libcupti that was loaded after ours, and gives way to it: two copies in use silence the framework's profiler.
    fn second_copy(&mut self) {
        let copies = apart::run(find::mapped).unwrap_or_default();
        let Some(other) = copies.iter().find(|c| !self.copies.contains(c)).cloned() else { return };
        let before = std::mem::replace(&mut self.copies, copies);
        if before.is_empty() {
            return;
        }
        let found = find::loaded(&other);
        self.add(Record::Fault(Fault {
            kind: "second-cupti".to_owned(),
            device: None,
            what: format!("the program loaded {} beside {}: counting moves to it", other.display(), before[0].display()),
            remedy: format!("set FLOPSPROF_CUPTI={} so that there is one copy from the start", other.display()),
        }));
        let Ok(found) = found else { return };
        let (sender, ready) = mpsc::channel();
        planner::plan_devices(found.cupti, u32::try_from(self.devices.len()).unwrap_or(0), sender);
        self.add(Record::Library(library(&found)));
        self.cupti = Ok(found);
        self.plans.clear();
        for (ordinal, planned) in ready {
            self.plans.insert(ordinal, planned);
        }
        for ordinal in 0..self.devices.len() {
            let counters = self.counters(u32::try_from(ordinal).unwrap_or(0));
            if let Some(metered) = &mut self.devices[ordinal] {
                metered.change_copy(counters);
            }
        }
        self.collect();
    }

    /// Listens, while no primary context is there, for launches in a context of another kind. Not where torch is: it uses the primary one, and
    /// its profiler must find the subscription free.
    fn listen(&mut self) {
        let now = monotonic_ns();
        if self.foreign || now < self.listen_ns || self.devices.iter().any(Option::is_some) {
            return;
        }
        self.listen_ns = now + 2 * (now - self.began_ns);
        let Some(cupti) = self.copy() else { return };
        if apart::run(find::torch_is_mapped).unwrap_or(true) {
            return;
        }
        if let Ok(closed) = gate::close(cupti, std::ptr::null_mut(), LISTEN) {
            clock::sleep(LISTEN);
            drop(closed);
            self.foreign_context();
        }
    }

    /// Says so when launches were seen in a context that is not metered.
    fn foreign_context(&mut self) {
        let Some(ctx) = gate::other_context() else { return };
        let unattached = |ordinal: u32| self.driver.device(ordinal).is_ok_and(|d| self.driver.primary_active(d));
        let pending = (0..u32::try_from(self.devices.len()).unwrap_or(0)).any(|o| self.devices[o as usize].is_none() && unattached(o));
        if self.foreign || pending || self.devices.iter().flatten().any(|d| d.context() == ctx) {
            return;
        }
        self.foreign = true;
        self.drain_at_exit();
        if !self.begun() {
            self.introduce();
        }
        self.add(Record::Fault(Fault {
            kind: "foreign-context".to_owned(),
            device: None,
            what: "the program launches in a context that is not its device's primary context: what runs there is not metered".to_owned(),
            remedy: "use the primary context (cuDevicePrimaryCtxRetain, or the CUDA runtime) instead of cuCtxCreate".to_owned(),
        }));
        self.journal.with(|journal| journal.flush());
    }

    /// Closes every window and the evidence.
    fn finish(mut self) {
        for slot in 0..self.devices.len() {
            let Some(metered) = &mut self.devices[slot] else { continue };
            if metered.alive() {
                metered.finish();
            } else if let Some(lost) = self.devices[slot].take() {
                self.lose(slot, lost);
            }
        }
        self.collect();
        if !self.begun() {
            return;
        }
        let said = self.with_what_was_said(Vec::new());
        let (tokens, steps) = api::progress();
        let reason = if REASON.load(Ordering::Relaxed) == 0 { "exit" } else { "_exit" }.to_owned();
        let meter_cpu_ns = apart::meter_cpu_ns();
        self.journal.with(move |journal| {
            said.into_iter().for_each(|r| journal.add(r));
            journal.add(Record::End(End { reason, lines_lost: journal.dropped(), tokens, steps, meter_cpu_ns }));
            journal.close();
        });
        if let Some(folder) = self.folder() {
            self.reporter.with(move |reporter| reporter.as_ref().map(|r| r.last(&folder)));
        }
    }
}

fn library(found: &Found) -> Library {
    Library {
        name: "libcupti".to_owned(),
        path: found.path.display().to_string(),
        version: found.version.to_string(),
        found: found.how.to_owned(),
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
