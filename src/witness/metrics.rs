//! What Prometheus is told: counters of FLOP per device, process, job and path, of the witness and of the devices, in OpenMetrics' form.
//!
//! Everything is made anew for each scrape from what the evidence and the witness said so far, so that processes that are gone disappear after a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{
    evidence::{
        follow::Follow,
        record::{Device, Record},
        witness::{Id, Interval, Seen},
    },
    reconcile::completeness::Completeness,
};

/// A process that has ended is told of for so long: Prometheus has come by then.
const KEPT: Duration = Duration::from_secs(600);

/// Labels of a metered process's counter.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPath {
    uuid: String,
    gpu: String,
    host: String,
    pid: u32,
    program: String,
    job: String,
    rank: String,
    path: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfDevice {
    uuid: String,
    gpu: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfProcess {
    pid: u32,
    program: String,
    user: String,
    container: String,
    pod: String,
    job: String,
    library: String,
    entry: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfWhat {
    what: String,
}

type Amount = Counter<f64, AtomicU64>;

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

    /// All of it, as text.
    #[must_use]
    pub fn text(&self) -> String {
        // What comes from the stand-in says so in every line.
        let labels = self.simulated.then(|| ("simulated".into(), "true".into()));
        let mut registry = Registry::with_prefix_and_labels("flopsprof", labels.into_iter());
        self.metered(&mut registry);
        self.devices(&mut registry);
        self.witness(&mut registry);
        self.complete(&mut registry);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn metered(&self, registry: &mut Registry) {
        let flop = Family::<OfPath, Amount>::default();
        registry.register("flop", "Floating-point operations read from the GPU's operation counters", flop.clone());
        for m in self.metered.values() {
            for ((ordinal, path), amount) in &m.flop {
                let device = m.devices.get(ordinal).cloned().unwrap_or_default();
                let labels = OfPath {
                    uuid: device.uuid,
                    gpu: device.name,
                    host: m.host.clone(),
                    pid: m.pid,
                    program: m.program.clone(),
                    job: m.job.clone(),
                    rank: m.rank.clone(),
                    path: path.strip_prefix(crate::counter::plan::PREFIX).unwrap_or(path).to_owned(),
                };
                flop.get_or_create(&labels).inc_by(*amount);
            }
        }
    }

    fn devices(&self, registry: &mut Registry) {
        let (energy, tensor) = (Family::<OfDevice, Amount>::default(), Family::<OfDevice, Amount>::default());
        let gauge = Family::<OfDevice, Gauge<f64, AtomicU64>>::default;
        let (utilization, power, clock) = (gauge(), gauge(), gauge());
        registry.register_with_unit("device_energy", "Energy of the device since the witness began, by NVML", Unit::Joules, energy.clone());
        let help = "Time in which the device's tensor cores were active, at their peak, by NVML's GPM";
        registry.register_with_unit("device_tensor", help, Unit::Seconds, tensor.clone());
        registry.register_with_unit(
            "device_utilization",
            "Share of time in which a kernel ran, by NVML",
            Unit::Ratios,
            utilization.clone(),
        );
        registry.register_with_unit("device_power", "Power at the moment", Unit::Other("watts".to_owned()), power.clone());
        registry.register_with_unit("device_sm_clock", "Mean SM clock", Unit::Other("hertz".to_owned()), clock.clone());
        for ((uuid, gpu), state) in &self.devices {
            let labels = OfDevice { uuid: uuid.clone(), gpu: gpu.clone() };
            if let Some((first, last)) = state.energy_mj {
                energy.get_or_create(&labels).inc_by(last.saturating_sub(first) as f64 / 1e3);
            }
            tensor.get_or_create(&labels).inc_by(state.tensor_s);
            for (family, value) in [(&utilization, state.utilization), (&power, state.power_w), (&clock, state.clock_hz)] {
                if let Some(value) = value {
                    family.get_or_create(&labels).set(value);
                }
            }
        }
    }

    fn witness(&self, registry: &mut Registry) {
        let calls = Family::<OfProcess, Counter>::default();
        let help = "Calls of the CUDA driver by process; of launches those in the time of flopsprof_launches_counted_seconds_total";
        registry.register("driver_calls", help, calls.clone());
        for (id, Caller { seen, calls: by_entry, .. }) in &self.callers {
            for (entry, n) in by_entry {
                let labels = OfProcess {
                    pid: id.pid,
                    program: seen.comm.clone(),
                    user: seen.user.clone(),
                    container: seen.container.clone().unwrap_or_default(),
                    pod: seen.pod.clone().unwrap_or_default(),
                    job: seen.slurm_job.clone().unwrap_or_default(),
                    library: seen.library.to_string(),
                    entry: entry.clone(),
                };
                calls.get_or_create(&labels).inc_by(*n);
            }
        }
        let counted = Amount::default();
        counted.inc_by(self.launches_on_s);
        registry.register_with_unit("launches_counted", "Time in which launches were counted", Unit::Seconds, counted);
        let (lost, life, living) =
            (Family::<OfWhat, Counter>::default(), Family::<OfWhat, Counter>::default(), Family::<OfWhat, Gauge>::default());
        registry.register("witness_lost", "Events and calls that the probes could not tell", lost.clone());
        registry.register("process_events", "Processes of the node that began, became another program, ended", life.clone());
        registry.register("gpu_processes", "Processes that use a GPU, with the meter's library and without", living.clone());
        let of = |what: &str| OfWhat { what: what.to_owned() };
        for (what, n) in [("events", self.lost.0), ("calls", self.lost.1)] {
            lost.get_or_create(&of(what)).inc_by(n);
        }
        for (what, n) in [("forked", self.life.0), ("executed", self.life.1), ("ended", self.life.2)] {
            life.get_or_create(&of(what)).inc_by(n);
        }
        for (what, n) in [("with_library", self.living.0), ("without_library", self.living.1)] {
            living.get_or_create(&of(what)).set(n.cast_signed());
        }
    }

    fn complete(&self, registry: &mut Registry) {
        let Some(c) = &self.completeness else { return };
        let gauge = Family::<OfDevice, Gauge<f64, AtomicU64>>::default;
        let (ratio, error, metered) = (gauge(), gauge(), gauge());
        registry.register_with_unit("completeness", "Share of the device's tensor time that was metered", Unit::Ratios, ratio.clone());
        registry.register_with_unit("completeness_error", "Error of it, from the device-wide number", Unit::Ratios, error.clone());
        let help = "Tensor time of metered processes on the device, in the evidence so far";
        registry.register_with_unit("metered_tensor", help, Unit::Seconds, metered.clone());
        for d in &c.devices {
            let labels = OfDevice { uuid: d.uuid.clone(), gpu: d.name.clone() };
            for (family, value) in [(&ratio, d.completeness), (&error, d.error), (&metered, Some(d.metered_tensor_s))] {
                if let Some(value) = value {
                    family.get_or_create(&labels).set(value);
                }
            }
        }
        let verdict = Family::<OfWhat, Gauge>::default();
        registry.register("completeness_verdict", "1 at the verdict that holds", verdict.clone());
        let all = ["complete", "not witnessed", "incomplete"];
        for what in all.into_iter().collect::<BTreeSet<_>>() {
            verdict.get_or_create(&OfWhat { what: what.to_owned() }).set(i64::from(c.verdict.words() == what));
        }
    }
}
