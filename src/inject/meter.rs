//! The meter's thread.
//!
//! It waits for primary contexts, attaches to each, tends its windows, and at the end drains. All signals are masked on it; it holds no lock that a
//! host thread could want, but the gate's. [`start`] is its beginning, [`life`] its life and end, [`access`] which contexts it gets and when, [`copies`] which libcupti counts,
//! [`keep`] what goes into the evidence.

mod access;
mod copies;
mod keep;
mod life;
mod start;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use access::Access;
use cupti_sys::Error;
use start::Search;

pub(super) use self::life::{drain, draining, say_what_is_lacking, start, wake};
use super::{
    apart::{self, Apart},
    api,
    config::Config,
    device::Metered,
    driver::Driver,
    entry, gate,
    journal::Journal,
    left,
    planner::{Planned, Ready},
    reporter::Reporter,
};
use crate::{
    counter::find::{self, Found},
    evidence::record::{End, Fault, Phase, Record},
    window::clock::{self, monotonic_ns},
    witness::nvml::Witness,
};

/// How often the first context is looked for while the program is starting CUDA: often enough that launches are held before the first can come.
const LOOK_EAGERLY: Duration = Duration::from_micros(100);
/// How long that lasts.
const EAGER: Duration = Duration::from_secs(5);
/// How often after that, and for the contexts of further devices.
const LOOK: Duration = Duration::from_millis(2);
/// When to listen for launches in contexts that are not primary: first after this, then at doubling intervals.
const LISTEN_AFTER: Duration = Duration::from_secs(1);
/// How long to listen.
const LISTEN: Duration = Duration::from_millis(5);

/// A program that resets its device again and again is looked at less often after so many times: each look costs it a first window.
const RESETS: u32 = 5;
/// The first pause then; it doubles with every further reset, up to a minute.
const RESET_PAUSE: Duration = Duration::from_millis(500);
const RESET_PAUSE_MOST: Duration = Duration::from_mins(1);

/// Whether the driver's library is in the process.
pub(super) fn cuda_is_there() -> bool {
    Driver::find().is_some()
}

struct Meter {
    driver: Driver,
    config: Config,
    devices: Vec<Option<Metered>>,
    /// When contexts have last been looked for.
    looked_ns: Option<u64>,
    /// The search for libcupti, until it has answered.
    search: Option<Search>,
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
    /// Whether the driver lets the meter have each device's context.
    access: Vec<Access>,
    /// When it is looked next whether the program has left.
    left_ns: u64,
    /// The exit handler is registered.
    at_exit: bool,
    /// Marks that stand in no evidence yet.
    phases: Vec<Phase>,
    began_ns: u64,
    listen_ns: u64,
    foreign: bool,
}

impl Meter {
    fn new(driver: Driver, devices: u32, config: Config, search: Search, reporter: Apart<Option<Reporter>>) -> Self {
        let now = monotonic_ns();
        let (simulated, settings) = (driver.simulated(), config.clone());
        Self {
            journal: Apart::soon(move || Journal::new(&settings, simulated)),
            reporter,
            resets: vec![(0, 0); devices as usize],
            access: vec![Access::Open; devices as usize],
            left_ns: now + nanos(left::LOOK),
            at_exit: false,
            driver,
            devices: (0..devices).map(|_| None).collect(),
            looked_ns: None,
            config,
            search: Some(search),
            ready: mpsc::channel().1,
            cupti: Err(String::new()),
            plans: BTreeMap::new(),
            copies: Vec::new(),
            witness: None,
            phases: Vec::new(),
            began_ns: now,
            listen_ns: now + nanos(LISTEN_AFTER),
            foreign: false,
        }
    }

    fn run(mut self) {
        // Who had to be let go before this may have contexts by now, in which nothing was counted: they are looked for first.
        if start::went_on_ns().is_none() {
            self.arrive();
        }
        loop {
            let seen = life::BELL.seen();
            if draining() || self.program_has_left() {
                break;
            }
            self.look();
            self.arrive();
            self.tend();
            self.listen();
            life::BELL.wait(seen, self.pause());
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
        left::has_left() && life::end()
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
        let away = self.away();
        let mut met = Vec::new();
        for ordinal in 0..u32::try_from(self.devices.len()).unwrap_or(0) {
            let slot = ordinal as usize;
            if self.devices[slot].is_some() || self.resets[slot].1 > monotonic_ns() {
                continue;
            }
            match self.driver.device(ordinal).and_then(|d| self.driver.primary_state(d)) {
                Ok(true) => met.extend(self.attach(ordinal, away)),
                Ok(false) => self.grant(slot),
                Err(error) => self.deny(ordinal, error),
            }
        }
        self.looked_ns = Some(monotonic_ns());
        // From here on the program runs; what follows may take its time.
        met.into_iter().for_each(|(ordinal, late)| self.settle(ordinal, late));
    }

    /// Counts from here on what runs on a device, and returns it, and whether it may have run before.
    fn attach(&mut self, ordinal: u32, away: Duration) -> Option<(u32, Option<Fault>)> {
        let seen_ns = monotonic_ns();
        let mut metered = match Metered::attach(self.driver, ordinal, self.resets[ordinal as usize].0 > 0, &self.config) {
            Ok(metered) => metered,
            // Gone again, or not ready: looked at again at the next turn.
            Err(error) => {
                self.deny(ordinal, error);
                return None;
            }
        };
        self.grant(ordinal as usize);
        let late = self.seen_late(ordinal, metered.context(), away);
        let gate = self.copy().map_or_else(|| Err("no libcupti".to_owned()), |c| metered.first_gate(c));
        self.drain_at_exit();
        self.await_plan(ordinal);
        // What is there at the first look may have been there since the program was let go.
        let since_ns = start::went_on_ns().filter(|_| self.looked_ns.is_none()).unwrap_or(seen_ns);
        metered.begin(self.counters(ordinal), gate, since_ns);
        self.devices[ordinal as usize] = Some(metered);
        Some((ordinal, late))
    }

    /// Says what there is to be said of a device that was attached to.
    fn settle(&mut self, ordinal: u32, late: Option<Fault>) {
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
        late.into_iter().for_each(|fault| self.add_fault(fault));
        self.devices[ordinal as usize].iter_mut().for_each(|metered| metered.meet(witness));
        self.collect();
    }

    /// Sees to it that the program's end waits for the evidence, once there is something to be written.
    fn drain_at_exit(&mut self) {
        if !std::mem::replace(&mut self.at_exit, true) {
            entry::drain_at_exit();
        }
    }

    /// Cuts the windows that are due.
    fn tend(&mut self) {
        let now = monotonic_ns();
        let alone = self.devices.iter().flatten().count() == 1;
        let phases = api::phases();
        if api::another_model() | !phases.is_empty() {
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
        self.add_fault(Fault {
            kind: "foreign-context".to_owned(),
            device: None,
            what: "the program launches in a context that is not its device's primary context: what runs there is not metered".to_owned(),
            remedy: "use the primary context (cuDevicePrimaryCtxRetain, or the CUDA runtime) instead of cuCtxCreate".to_owned(),
        });
        self.journal.with(|journal| journal.flush());
    }

    /// Closes every window and the evidence.
    fn finish(mut self) {
        self.tell_unmetered();
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
        let reason = life::reason().to_owned();
        let meter_cpu_ns = apart::meter_cpu_ns();
        self.journal.with(move |journal| {
            said.into_iter().for_each(|r| journal.add(r));
            journal.add(Record::End(End { reason, lines_lost: journal.dropped(), tokens, steps, meter_cpu_ns }));
            journal.close();
        });
        life::written();
        if let Some(folder) = self.folder() {
            self.reporter.with(move |reporter| reporter.as_ref().map(|r| r.last(&folder)));
        }
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
