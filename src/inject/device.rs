//! One device: its context, its groups, its schedule, and the window that is open.
//!
//! ```text
//!            ┌──────── boundary: close gate, Pop, Stop, Decode, Evaluate, Start, Push, open gate ───────┐
//! attach ──> Counting ──────────────────────────────────────────────────────────────────────────────────┴─> Counting …
//!    │          │ turn given to another process, or counters refused                ^
//!    └───────> Uncounted ── turn taken again, counters free again ─────────────────┘
//! ```
//! A window is written when it ends. An interval in which the counters could not be had is a window too, with the reason and with what NVML says.

mod boundary;
mod census;
mod cores;
mod due;
mod open;
mod roll;
mod seek;
mod through;
mod told;
mod uncounted;

use std::{sync::Arc, time::Duration};

use cupti_sys::{Cupti, Error};

use super::{
    api,
    claim::Claim,
    config::Config,
    driver::{Context, Driver, DriverError},
    gate, guard,
    planner::Planned,
    refusal::{Refused, refusal},
};
use crate::{
    counter::session::{Group, RangeProfiler},
    evidence::record::{self, Boundary, Device, Fault, NvmlReading, Reading, Record},
    window::{
        budget::{Budget, Cost},
        clock::monotonic_ns,
        schedule::{self, Schedule, Steady},
    },
    witness::nvml::{DeviceWitness, Witness},
};

use due::Censuses;
use roll::RollCalls;

/// How long a launch may wait at the gate of the first window: the first Start took up to 250 ms on an H200, planning before it up to 500 ms.
const FIRST_GATE: Duration = Duration::from_secs(2);
/// How long a launch may wait at a later boundary. On an H200 it takes 30 to 200 ms after the GPU has done what was launched before; a program that
/// keeps a full queue would wait for that in its launch anyway.
const GATE: Duration = guard::PATIENCE;
/// The shortest turn at the counters while another metered process waits for its own. Turns grow with the run, as windows do: each costs 0.3 s of held
/// launches on a GPU that two keep busy.
const SHARED_TURN: Duration = Duration::from_secs(1);
/// The part of the run so far that a turn lasts.
const SHARED_PART: u32 = 8;
/// The shortest time between two boundaries that are made because the program begins another phase, and the part of the run so far that it must be: a
/// boundary costs up to 0.2 s, and a program that changes its phase all the time must not pay for each.
const LEAST_OF_A_PHASE: Duration = Duration::from_secs(1);
const LEAST_PART_OF_A_PHASE: u32 = 50;
/// How long the counters stay free for another process that waits for them, if it does not take them. It looks every [`ASK`].
const YIELD: Duration = Duration::from_secs(1);
/// How often it is looked, while nothing has been counted yet, whether the tensor cores have begun to work; and how many windows are cut short for that, at
/// the most: another process's work shows too.
const GLANCE: Duration = Duration::from_millis(250);
const GLANCES: u32 = 8;
/// How often it is looked, while counting, whether another process waits for its turn, another tool for the subscription, or a census is due.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is looked whether a step has ended that a window waits for.
const MOMENT: Duration = Duration::from_millis(20);
/// How often a process that waits for its turn asks.
const ASK: Duration = Duration::from_millis(20);
/// How soon counters that somebody outside holds are tried again, at first and at the most: each try lets the GPU run empty.
const BUSY_RETRY: Duration = Duration::from_secs(1);
const BUSY_RETRY_MOST: Duration = Duration::from_secs(30);

/// Why nothing is counted while the counters are free for another metered process.
const LENT: &str = "counters lent to another metered process";
/// Why nothing is counted while another metered process counts.
const NOT_OUR_TURN: &str = "another metered process has its turn at the counters";

/// How often NVML is read between window edges, for the course of power and activity: 6 ms on this thread each time. Uncounted windows are no longer,
/// so that each has one reading of its own.
const READ: Duration = Duration::from_secs(10);

/// How this device stands.
enum Mode {
    /// A range is open.
    Counting { group: usize, start_ns: u64, until_ns: u64, opened: Boundary },
    /// None is.
    Uncounted { start_ns: u64, until_ns: u64, retry_ns: Option<u64>, why: String, opened: Boundary },
    /// The program is on its way out, and everything is written.
    Ended,
}

/// A device with a primary context.
pub(super) struct Metered {
    ordinal: u32,
    handle: std::ffi::c_int,
    ctx: Context,
    /// Its number, by which it is told from one that came after it.
    ctx_id: u64,
    /// The context follows one that was metered and reset.
    reset: bool,
    driver: Driver,
    cupti: Option<Cupti>,
    planned: Option<Arc<Planned>>,
    /// The profiler and the group it was made for: see [`crate::counter::session`].
    profiler: Option<(RangeProfiler, usize)>,
    groups: Vec<Group>,
    schedule: Option<Schedule>,
    /// Steps that the program had marked when the window was opened, if it is one that looks.
    look: Option<u64>,
    /// When a phase ended a window the last time.
    phase_ns: u64,
    turn: Claim,
    witness: Option<DeviceWitness>,
    mode: Mode,
    /// When it was looked after last.
    tended_ns: u64,
    /// When NVML was read last.
    read_ns: u64,
    index: u64,
    steady: Steady,
    /// The steady window was set, and is not for the budget to change.
    steady_set: bool,
    use_gate: bool,
    /// How long to wait before counters that somebody outside holds are tried again.
    busy_wait: Duration,
    /// Whether that was told.
    told_busy: bool,
    /// While another process that waits has the first claim on the counters.
    lent_until_ns: u64,
    attached_ns: u64,
    budget: Budget,
    censuses: Censuses,
    rolls: RollCalls,
    /// When it was looked last whether the device is at work, whether it was, and how often a window may still be cut short for that.
    glance: (u64, bool, u32),
    /// The device as the evidence has it; said again when a group's peaks become known.
    said: Option<Device>,
    /// What goes into the evidence next.
    out: Vec<Record>,
}

/// What counting needs, when it is there.
pub(super) struct Counters {
    pub(super) cupti: Cupti,
    pub(super) planned: Arc<Planned>,
}

/// Why a device cannot be counted at all.
pub(super) enum NoCounters {
    /// It was said elsewhere, or will be.
    Said(String),
    /// CUPTI refused to plan.
    Refused(Error),
}

impl Metered {
    /// Takes hold of the primary context of a device. Its launches can be held from here on, and nothing is counted yet.
    ///
    /// `reset`: the program has reset the device before, while it was metered.
    pub(super) fn attach(driver: Driver, ordinal: u32, reset: bool, config: &Config) -> Result<Self, DriverError> {
        let handle = driver.device(ordinal)?;
        let ctx = driver.primary_retain(handle)?;
        let ctx_id = driver.primary(handle).map_or(0, |(_, id)| id);
        let now = monotonic_ns();
        Ok(Self {
            ordinal,
            handle,
            ctx,
            ctx_id,
            reset,
            driver,
            cupti: None,
            planned: None,
            profiler: None,
            groups: Vec::new(),
            schedule: None,
            look: None,
            phase_ns: 0,
            turn: Claim::default(),
            witness: None,
            mode: Mode::Uncounted { start_ns: now, until_ns: now, retry_ns: None, why: String::new(), opened: Boundary::default() },
            tended_ns: now,
            read_ns: now,
            index: 0,
            steady: config.window,
            steady_set: config.window_set,
            use_gate: config.gate,
            busy_wait: BUSY_RETRY,
            told_busy: false,
            lent_until_ns: 0,
            attached_ns: now,
            budget: Budget::new(config.overhead),
            censuses: Censuses::new(config, now),
            rolls: RollCalls::default(),
            glance: (now, false, GLANCES),
            said: None,
            out: Vec::new(),
        })
    }

    /// For how long the device is metered.
    fn age(&self, now: u64) -> Duration {
        Duration::from_nanos(now - self.attached_ns)
    }

    /// Its context.
    pub(super) fn context(&self) -> Context {
        self.ctx
    }

    /// Whether the context is the one that was attached: a program may reset its device, and a dead context must not be touched.
    pub(super) fn alive(&self) -> bool {
        self.driver.primary(self.handle) == Some((self.ctx, self.ctx_id))
    }

    /// Makes this context the current one of the meter's thread, which serves all of the process's devices: a call that waits would wait for another's work, and
    /// CUPTI 13.5.25 refused to start a group on the first of two H200s while the second's context was current (2026-11-26; 13.0.85 did not).
    fn enter(&self) {
        let _ = self.driver.set_current(self.ctx);
    }

    /// What a refusal of CUPTI's means here.
    fn refusal(&self, error: &Error) -> Refused {
        refusal(error, self.ordinal, self.reset)
    }

    /// Closes the gate of this device's first window.
    pub(super) fn first_gate(&self, cupti: Cupti) -> Result<gate::Closed, String> {
        if self.use_gate { gate::close(cupti, self.ctx, FIRST_GATE) } else { Err("switched off by FLOPSPROF_GATE=0".to_owned()) }
    }

    /// Opens the first window. `gate` is the gate that was closed when the context was seen, at `seen_ns`.
    pub(super) fn begin(&mut self, counters: Result<Counters, NoCounters>, gate: Result<gate::Closed, String>, seen_ns: u64) {
        // Not sooner: launches had to be held first.
        self.turn = Claim::of(self.driver.uuid(self.handle));
        let opened = match counters {
            Err(NoCounters::Said(why)) => Err((Refused::Busy(why), false)),
            Err(NoCounters::Refused(e)) => Err((self.refusal(&e), false)),
            Ok(counters) => self.prepare(counters).and_then(|()| self.open()).map_err(|r| (r, true)),
        };
        let now = monotonic_ns();
        match opened {
            Ok((group, length)) => {
                let took_ns = now - gate.as_ref().map_or(seen_ns, gate::Closed::since_ns);
                self.budget.spend(Cost::Rotation, took_ns);
                self.mode = Mode::Counting { group, start_ns: now, until_ns: later(now, length), opened: gate::boundary(gate, took_ns, 0) };
            }
            Err((refused, retry)) => {
                drop(gate);
                self.uncounted(refused, seen_ns, retry);
            }
        }
    }

    /// When something is to be done here next.
    pub(super) fn due_ns(&self) -> u64 {
        match &self.mode {
            Mode::Counting { .. } if self.stranger_waits() => 0,
            Mode::Counting { until_ns, .. } => (*until_ns).min(later(self.tended_ns, LOOK)),
            Mode::Uncounted { until_ns, retry_ns, .. } => retry_ns.map_or(*until_ns, |r| r.min(*until_ns)),
            Mode::Ended => u64::MAX,
        }
    }

    /// Does what is due. `alone`: this is the process's only GPU. What goes into the evidence at once is passed to `keep`: a census takes seconds.
    pub(super) fn tend(&mut self, alone: bool, keep: &mut dyn FnMut(Vec<Record>)) {
        self.enter();
        self.tended_ns = monotonic_ns();
        self.census_if_due(alone, keep);
        let now = monotonic_ns();
        let reads = matches!(self.mode, Mode::Counting { .. }) && now >= later(self.read_ns, READ);
        if let Some(nvml) = reads.then(|| self.read_nvml()).flatten() {
            self.out.push(Record::Reading(Reading { device: self.ordinal, nvml }));
        }
        match &mut self.mode {
            Mode::Counting { start_ns, until_ns, .. } => {
                let (start_ns, until_ns) = (*start_ns, *until_ns);
                let turn = self.age(now) / SHARED_PART;
                let full_turn = now >= later(start_ns, turn.max(SHARED_TURN).min(self.steady.young));
                if full_turn && self.turn.wanted() {
                    self.boundary();
                } else if now >= until_ns {
                    if self.amid_step(start_ns, now) { self.stretch(now) } else { self.boundary() }
                } else if now >= later(start_ns, schedule::LOOK) && self.began_to_work(now) {
                    self.cut(until_ns - now);
                    self.boundary();
                }
            }
            Mode::Uncounted { until_ns, retry_ns, .. } => {
                let cut = now >= *until_ns;
                if retry_ns.is_some_and(|r| now >= r) {
                    self.retry();
                } else if cut {
                    self.cut_uncounted(now);
                }
            }
            Mode::Ended => {}
        }
        self.roll_if_due();
    }

    /// Ends the open window because the program begins something else, if it has not done so just before.
    pub(super) fn phase_ends(&mut self) {
        let now = monotonic_ns();
        let least = LEAST_OF_A_PHASE.max(self.age(now) / LEAST_PART_OF_A_PHASE);
        if let Mode::Counting { until_ns, .. } = self.mode
            && now >= later(self.phase_ns, least)
        {
            self.enter();
            self.phase_ns = now;
            self.cut(until_ns.saturating_sub(now));
            self.boundary();
        }
    }

    /// Whether the open window looks, and the program, which marks its steps, has not done one as a whole in it: the second mark ends one that began in it.
    fn amid_step(&self, start_ns: u64, now: u64) -> bool {
        let marked = api::progress().1;
        let longest = self.schedule.as_ref().map_or(Duration::ZERO, Schedule::longest_look);
        marked > 0 && self.look.is_some_and(|at| marked < at + 2) && now < later(start_ns, longest)
    }

    /// Leaves the window open for another moment.
    fn stretch(&mut self, now: u64) {
        if let (Mode::Counting { until_ns, .. }, Some(schedule)) = (&mut self.mode, &mut self.schedule) {
            let longer = later(now, MOMENT);
            schedule.stretch(Duration::from_nanos(longer - *until_ns));
            *until_ns = longer;
        }
    }

    /// Whether the device has begun to work while nothing was counted yet.
    fn began_to_work(&mut self, now: u64) -> bool {
        let (at, was, left) = self.glance;
        if left == 0 || now < later(at, GLANCE) || !self.schedule.as_ref().is_some_and(Schedule::waiting) {
            return false;
        }
        let is = self.witness.as_mut().and_then(DeviceWitness::at_work).unwrap_or(was);
        let begins = is && !was;
        self.glance = (now, is, left - u32::from(begins));
        begins
    }

    /// Tells the schedule that a window is so much shorter than it was given out.
    fn cut(&mut self, by_ns: u64) {
        if let Some(schedule) = &mut self.schedule {
            schedule.cut(Duration::from_nanos(by_ns));
        }
    }

    /// Ends the last window: the process is about to end.
    pub(super) fn finish(&mut self) {
        self.enter();
        self.pause_roll();
        self.tell_roll();
        if matches!(self.mode, Mode::Counting { .. }) {
            let (end_ns, closed) = self.close();
            self.turn.give();
            self.write_counted(end_ns, closed, None);
        } else if matches!(self.mode, Mode::Uncounted { .. }) {
            self.cut_uncounted(monotonic_ns());
        }
    }

    /// Gives way to another copy of CUPTI: ends the window, lets the old copy go, and begins with the new one.
    pub(super) fn change_copy(&mut self, counters: Result<Counters, NoCounters>) {
        self.finish();
        self.disable();
        self.begin(counters, Err("counters moved to another copy of libcupti".to_owned()), monotonic_ns());
    }

    /// Lets go of a context that the program destroyed, without touching it; `often`: it does so all the time.
    pub(super) fn lost(mut self, often: bool) -> Vec<Record> {
        self.pause_roll();
        self.tell_roll();
        self.turn.give();
        let (what, remedy) = if often {
            (
                "the program resets its device again and again: contexts between the resets are not metered",
                "reset the device less often, or not at all",
            )
        } else {
            (
                "the program reset its device: the window that was open is lost",
                "none needed if the program does so once at its end; the next context may not be counted",
            )
        };
        self.out.push(Record::Fault(Fault {
            kind: "context-lost".to_owned(),
            device: Some(self.ordinal),
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        }));
        self.out
    }

    /// Loads what NVML knows. After the first window is open: it takes its time.
    pub(super) fn meet(&mut self, witness: Option<Witness>) {
        let uuid = self.driver.uuid(self.handle);
        self.witness = match witness.map(|w| w.device(&uuid)).transpose() {
            Ok(witness) => witness,
            Err(e) => {
                self.out.push(Record::Fault(Fault {
                    kind: "nvml".to_owned(),
                    device: Some(self.ordinal),
                    what: format!("no energy, power or clocks: NVML does not know the device ({e})"),
                    remedy:
                        "the driver and libnvidia-ml.so.1 must be of the same version: restart the machine or the container after an update"
                            .to_owned(),
                }));
                None
            }
        };
        let identity = self.witness.as_ref().map(DeviceWitness::identity).unwrap_or_default();
        if let Some(witness) = &mut self.witness {
            // The first reading is where GPM counts from.
            let _ = witness.read();
        }
        let device = Device {
            device: self.ordinal,
            name: self.driver.name(self.handle),
            uuid,
            pci: self.driver.pci(self.handle),
            chip: self.planned.as_ref().map(|p| p.chip.clone()).unwrap_or_default(),
            compute_capability: self.driver.compute_capability(self.handle),
            sm_count: self.driver.sm_count(self.handle),
            max_sm_clock_mhz: identity.max_sm_clock_mhz,
            driver: witness.map(Witness::driver).unwrap_or_default(),
            mig: unknown(identity.mig),
            confidential_computing: unknown(identity.confidential_computing),
            gpm: identity.gpm,
            peak_flop_per_cycle: std::collections::BTreeMap::new(),
        };
        self.out.push(Record::Device(Box::new(device.clone())));
        self.said = Some(device);
        self.say_plan();
    }

    fn say_plan(&mut self) {
        let plan = self.planned.as_ref().map(|p| p.plan.clone()).unwrap_or_default();
        self.out.push(Record::Plan(record::Plan { device: self.ordinal, groups: plan.groups, uncovered: plan.uncovered }));
    }

    /// Says the device again, with the chip that was planned for meanwhile.
    fn say_chip(&mut self) {
        if let (Some(said), Some(planned)) = (&mut self.said, &self.planned) {
            said.chip.clone_from(&planned.chip);
            self.out.push(Record::Device(Box::new(said.clone())));
        }
        self.say_plan();
    }

    /// Says the device again with the peaks of a group's paths, once they can be read from its image.
    fn learn_peaks(&mut self, group: usize) {
        let (Some(said), Some(planned)) = (&mut self.said, &self.planned) else { return };
        if self.groups[group].paths().iter().all(|p| said.peak_flop_per_cycle.contains_key(p)) {
            return;
        }
        let peaks = self.groups[group].peaks(&planned.host);
        if !peaks.is_empty() {
            said.peak_flop_per_cycle.extend(peaks);
            self.out.push(Record::Device(Box::new(said.clone())));
        }
    }

    /// What goes into the evidence, once.
    pub(super) fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.out)
    }

    fn read_nvml(&mut self) -> Option<NvmlReading> {
        self.read_ns = monotonic_ns();
        self.witness.as_mut().map(DeviceWitness::read)
    }
}

fn later(ns: u64, by: Duration) -> u64 {
    ns.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX))
}

fn unknown(text: String) -> String {
    if text.is_empty() { "unknown".to_owned() } else { text }
}
