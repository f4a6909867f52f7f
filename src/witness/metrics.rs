//! What Prometheus is told: counters of FLOP per device, process, job and path, of the witness and of the devices, in OpenMetrics' form.
//!
//! Everything is made anew for each scrape from what the evidence and the witness said so far, so that processes that are gone disappear after a while.

mod text;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    evidence::{
        follow::Follow,
        record::{Device, Record},
        witness::{Id, Interval, PmReading, Seen},
    },
    reconcile::completeness::Completeness,
};

/// A process that has ended is told of for so long: Prometheus has come by then.
const KEPT: Duration = Duration::from_secs(600);

/// What is told.
#[derive(Default)]
pub struct Metrics {
    places: Vec<PathBuf>,
    follow: BTreeMap<PathBuf, Follow>,
    /// By evidence file.
    metered: BTreeMap<PathBuf, Metered>,
    devices: BTreeMap<OfDeviceKey, DeviceState>,
    callers: BTreeMap<Id, Caller>,
    living: (u64, u64),
    lost: (u64, u64),
    life: (u64, u64, u64),
    launches_on_s: f64,
    completeness: Option<Completeness>,
    simulated: bool,
}

type OfDeviceKey = (String, String);

/// A process that called the driver.
#[derive(Default)]
struct Caller {
    seen: Seen,
    calls: BTreeMap<String, u64>,
    ended: Option<Instant>,
}

#[derive(Default)]
struct Metered {
    host: String,
    pid: u32,
    program: String,
    job: String,
    rank: String,
    devices: BTreeMap<u32, Device>,
    flop: BTreeMap<(u32, String), f64>,
    ended: Option<Instant>,
}

#[derive(Default)]
struct DeviceState {
    energy_mj: Option<(u64, u64)>,
    tensor_s: f64,
    so_far: (u64, f64),
    utilization: Option<f64>,
    power_w: Option<f64>,
    clock_hz: Option<f64>,
}

/// Runs' folders: the places themselves, and the folders in them, where there is evidence.
#[must_use]
pub fn runs(places: &[PathBuf]) -> Vec<PathBuf> {
    let evidence = |folder: &PathBuf| {
        let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.any(|e| e.path().extension().is_some_and(|x| x == "jsonl"))
    };
    let inside = places.iter().flat_map(|p| fs::read_dir(p).into_iter().flatten().flatten()).map(|e| e.path()).filter(|p| p.is_dir());
    let mut found: Vec<PathBuf> = places.iter().cloned().chain(inside).filter(evidence).collect();
    found.sort();
    found.dedup();
    found
}

impl Metrics {
    /// Follows the evidence of the runs in these places.
    #[must_use]
    pub fn new(places: &[PathBuf]) -> Self {
        Self { places: places.to_vec(), ..Self::default() }
    }

    /// Takes in the evidence that metered processes wrote meanwhile.
    pub fn look(&mut self) {
        for folder in runs(&self.places) {
            self.follow.entry(folder.clone()).or_insert_with(|| Follow::new(&folder));
        }
        let lines: Vec<_> = self.follow.values_mut().flat_map(Follow::look).collect();
        for (file, line) in lines {
            let metered = self.metered.entry(file).or_default();
            match line.record {
                Record::Start(start) => {
                    self.simulated |= start.simulated;
                    let place = crate::ledger::job::Place::of(&start);
                    (metered.job, metered.rank) = (place.name, place.rank.map(|r| r.to_string()).unwrap_or_default());
                    (metered.host, metered.pid, metered.program) = (start.host.hostname, start.process.pid, start.process.comm);
                }
                Record::Device(device) => drop(metered.devices.insert(device.device, *device)),
                Record::Window(window) => {
                    for (path, flop) in window.counts {
                        *metered.flop.entry((window.device, path)).or_default() += flop as f64;
                    }
                }
                Record::End(_) => metered.ended = Some(Instant::now()),
                _ => {}
            }
        }
        let kept = |ended: &Option<Instant>| ended.is_none_or(|at| at.elapsed() < KEPT);
        self.metered.retain(|_, m| kept(&m.ended));
        self.callers.retain(|_, c| kept(&c.ended));
    }

    /// Takes in an interval of the witness, and who lives.
    pub fn interval<'a>(&mut self, interval: &Interval, living: impl Iterator<Item = &'a Seen>, simulated: bool) {
        self.simulated |= simulated;
        self.lost = (self.lost.0 + interval.lost.0, self.lost.1 + interval.lost.1);
        self.life = (self.life.0 + interval.life.0, self.life.1 + interval.life.1, self.life.2 + interval.life.2);
        self.launches_on_s += interval.launches_on_ns as f64 / 1e9;
        self.living = (0, 0);
        for seen in living {
            self.callers.entry(seen.id).or_default().seen = seen.clone();
            let count = if seen.library { &mut self.living.0 } else { &mut self.living.1 };
            *count += 1;
        }
        for caller in &interval.callers {
            let calls = &mut self.callers.entry(caller.id).or_default().calls;
            caller.calls.iter().for_each(|(name, n)| *calls.entry(name.clone()).or_default() += n);
        }
        for ended in &interval.ended {
            if let Some(caller) = self.callers.get_mut(&ended.id) {
                caller.ended = Some(Instant::now());
            }
        }
        for on in &interval.devices {
            let state = self.devices.entry((on.uuid.clone(), on.name.clone())).or_default();
            if let Some(mj) = on.nvml.energy_mj {
                let first = state.energy_mj.map_or(mj, |(first, _)| first);
                state.energy_mj = Some((first, mj));
            }
            if let Some(seconds) = on.pm.as_ref().and_then(PmReading::tensor_s) {
                state.tensor_s += seconds;
            }
            if let Some(percent) = on.nvml.gpm_any_tensor_pct {
                let so_far = percent / 100.0 * interval.end_ns.saturating_sub(on.gpm_since_ns) as f64 / 1e9;
                let before = if state.so_far.0 == on.gpm_since_ns { state.so_far.1 } else { 0.0 };
                // A counter does not go back.
                state.tensor_s += (so_far - before).max(0.0);
                state.so_far = (on.gpm_since_ns, so_far);
            }
            state.utilization = on.nvml.gpu_utilization_pct.map(|p| f64::from(p) / 100.0);
            state.power_w = on.nvml.power_mw.map(|mw| f64::from(mw) / 1e3);
            state.clock_hz = on.clock_mhz.map(|mhz| mhz * 1e6);
        }
    }

    /// Takes in how much was metered.
    pub fn completeness(&mut self, completeness: Completeness) {
        self.completeness = Some(completeness);
    }
}
