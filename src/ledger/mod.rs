//! The ledger: what the evidence adds up to. Pure; it reads no file and writes none.
//!
//! Evidence of many processes goes in, totals per path, process, device, node and run come out. What was counted stays an integer to the end; what was
//! interpolated ([`interpolate`]) stands beside it with its error, never in it. Every total names its tier, and a total of several tiers has the worst
//! of them. Energy belongs to a device, not to a process: two processes on one GPU read the same counter, and it is counted once.

pub mod estimated;
pub mod interpolate;
pub mod job;
pub mod span;
pub mod track;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::evidence::{
    read::ProcessEvidence,
    record::{Fault, Library, Record, Tier},
};
use estimated::Estimated;
use span::Spans;
use track::{Track, tracks};

/// A process without its last record may have lost this much: one window at most, and windows are no longer than this by default.
const OPEN_WINDOW_NS: u64 = 60_000_000_000;

/// FLOP that the CUDA cores of one multiprocessor do at most in a cycle: 256 half-precision results, a multiply-add each (CUDA C++ Programming Guide,
/// arithmetic throughput, compute capabilities 8.0 to 10.0; single precision has 64 or 128).
const CORE_FLOP_PER_SM_CYCLE: f64 = 512.0;

/// What one path did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PathTotal {
    /// FLOP read from counters.
    #[serde(serialize_with = "decimal")]
    pub counted: u128,
    /// FLOP between them.
    #[serde(serialize_with = "decimal")]
    pub interpolated: u128,
    /// Variance of `interpolated`, FLOP²; none when it is not known.
    #[serde(skip)]
    pub variance: Option<f64>,
    /// Time in which the path was looked at, and metered time, ns.
    #[serde(skip)]
    pub looked_ns: (u64, u64),
}

impl PathTotal {
    /// Counted and interpolated together, FLOP.
    #[must_use]
    pub fn total(&self) -> u128 {
        self.counted + self.interpolated
    }

    /// Standard error of the total, FLOP; none when it is not known.
    #[must_use]
    pub fn standard_error(&self) -> Option<f64> {
        self.variance.map(f64::sqrt)
    }

    /// Share of the metered time in which the path was looked at.
    #[must_use]
    pub fn covered(&self) -> f64 {
        if self.looked_ns.1 == 0 { 0.0 } else { self.looked_ns.0 as f64 / self.looked_ns.1 as f64 }
    }

    /// How good it is.
    #[must_use]
    pub fn tier(&self) -> Tier {
        if self.looked_ns.0 == self.looked_ns.1 { Tier::Counted } else { Tier::Sampled }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.counted += other.counted;
        self.interpolated += other.interpolated;
        self.variance = self.variance.zip(other.variance).map(|(a, b)| a + b);
        self.looked_ns = (self.looked_ns.0 + other.looked_ns.0, self.looked_ns.1 + other.looked_ns.1);
    }

    fn none() -> Self {
        Self { variance: Some(0.0), ..Self::default() }
    }
}

/// Totals by path metric.
pub type Paths = BTreeMap<String, PathTotal>;

fn add_paths(into: &mut Paths, from: &Paths) {
    for (path, total) in from {
        into.entry(path.clone()).or_insert_with(PathTotal::none).add(total);
    }
}

/// All paths of one thing together.
#[must_use]
pub fn sum(paths: &Paths) -> PathTotal {
    let mut total = PathTotal::none();
    paths.values().for_each(|p| total.add(p));
    total
}

/// One process.
#[derive(Clone, Debug)]
pub struct ProcessTotal {
    /// Evidence file.
    pub file: String,
    /// Hostname.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Program.
    pub comm: String,
    /// Rank, where the launcher said it.
    pub rank: Option<String>,
    /// Paths.
    pub paths: Paths,
    /// Estimates where nothing was counted.
    pub estimated: Vec<Estimated>,
    /// Whether its last record says that it ended.
    pub ended: bool,
    /// CPU time of the meter, ns.
    pub meter_cpu_ns: u64,
    /// Time in which it had a context, ns.
    pub metered_ns: u64,
    /// Launches held at boundaries, and the longest wait, ns.
    pub held: (u64, u64),
    /// How long a window may be by its configuration, ns: what a kill can cost.
    pub open_window_ns: u64,
    /// Faults that it reported.
    pub faults: u64,
}

impl ProcessTotal {
    /// Time that may be missing because its last record is, ns: the window that was open.
    #[must_use]
    pub fn missing_ns(&self) -> u64 {
        if self.ended { 0 } else { self.open_window_ns }
    }
}

/// One device.
#[derive(Clone, Debug, Default)]
pub struct DeviceTotal {
    /// UUID.
    pub uuid: String,
    /// Exact product name.
    pub name: String,
    /// Hostname.
    pub host: String,
    /// Paths.
    pub paths: Paths,
    /// Time in which a metered process had a context there, ns.
    pub metered_ns: u64,
    /// Energy between the first and the last reading in metered time, mJ; none where NVML did not say.
    pub energy_mj: Option<u64>,
    /// FLOP per second at peak, by path metric: CUPTI's peak per cycle at the highest SM clock.
    pub peak: BTreeMap<String, f64>,
    /// FLOP per second that its CUDA cores do at most; 0 where its size or clock is not known.
    pub core_peak: f64,
    /// Metered processes.
    pub processes: BTreeSet<u32>,
}

/// A run: everything in the evidence given.
#[derive(Clone, Debug, Default)]
pub struct RunTotal {
    /// Any of it came from the stand-in GPU.
    pub simulated: bool,
    /// Paths.
    pub paths: Paths,
    /// Estimates where nothing was counted.
    pub estimated: Vec<Estimated>,
    /// Processes, by file.
    pub processes: Vec<ProcessTotal>,
    /// Devices, by UUID.
    pub devices: Vec<DeviceTotal>,
    /// Totals by node (hostname).
    pub nodes: BTreeMap<String, Paths>,
    /// From the first window to the last on any node, ns.
    pub wall_ns: u64,
    /// Unix time of the start and the end, ns.
    pub began_unix_ns: u64,
    /// Tokens that the processes added.
    pub tokens: u64,
    /// Steps, the most that a process marked.
    pub steps: u64,
    /// Parameters that were declared, and those of them that are trained.
    pub parameters: Option<(u64, u64)>,
    /// What is not metered, each once.
    pub faults: Vec<Fault>,
    /// Reasons why intervals were not counted, with their seconds.
    pub uncounted: BTreeMap<String, f64>,
    /// Path metrics that the chip has and no group can hold.
    pub uncovered: BTreeSet<String>,
    /// Paths that were never looked at although the chip has them.
    pub never_looked: BTreeSet<String>,
    /// Libraries by name: their versions.
    pub libraries: BTreeMap<String, BTreeSet<String>>,
    /// Places where a file's chain does not hold.
    pub breaks: Vec<String>,
    /// Processes that the launcher's world size says there are; none where it does not say.
    pub world_size: Option<u64>,
    /// Lines that could not be written.
    pub lines_lost: u64,
    /// Launches that went through a gate uncounted because their wait reached its deadline, and the time of these boundaries, ns.
    pub slipped: (u64, u64),
}

impl RunTotal {
    /// The worst tier of what it consists of.
    #[must_use]
    pub fn tier(&self) -> Tier {
        let counted = self.paths.values().filter(|p| p.total() > 0).map(PathTotal::tier);
        counted.chain(self.estimated.iter().map(|e| e.tier)).max().unwrap_or(Tier::Counted)
    }

    /// Seconds that may be missing because processes ended without their last record.
    #[must_use]
    pub fn missing_s(&self) -> f64 {
        let unclean = self.processes.iter().filter(|p| !p.ended);
        unclean.map(|p| p.metered_ns.min(OPEN_WINDOW_NS) as f64 / 1e9).sum()
    }

    /// Ranks that the launcher's world size says there are, and that left no evidence. A rank that was restarted counts once.
    #[must_use]
    pub fn ranks_missing(&self) -> u64 {
        let named: BTreeSet<&String> = self.processes.iter().filter_map(|p| p.rank.as_ref()).collect();
        let seen = if named.is_empty() { self.processes.len() } else { named.len() };
        self.world_size.map_or(0, |w| w.saturating_sub(seen as u64))
    }

    /// GPU seconds by exact device name.
    #[must_use]
    pub fn gpu_seconds(&self) -> BTreeMap<String, f64> {
        let mut seconds = BTreeMap::new();
        for device in &self.devices {
            *seconds.entry(device.name.clone()).or_insert(0.0) += device.metered_ns as f64 / 1e9;
        }
        seconds
    }

    /// Energy of all devices, mJ; none unless every device says.
    #[must_use]
    pub fn energy_mj(&self) -> Option<u64> {
        (!self.devices.is_empty()).then(|| self.devices.iter().map(|d| d.energy_mj).sum::<Option<u64>>()).flatten()
    }

    /// Peak-equivalent time over metered time: the share of the tensor cores' peak that was used.
    #[must_use]
    pub fn peak_share(&self) -> Option<f64> {
        let mut at_peak_s = 0.0;
        for device in &self.devices {
            for (path, total) in device.paths.iter().filter(|(_, t)| t.total() > 0) {
                at_peak_s += total.total() as f64 / device.peak.get(path)?;
            }
        }
        let metered_s: f64 = self.devices.iter().map(|d| d.metered_ns as f64 / 1e9).sum();
        (metered_s > 0.0 && at_peak_s > 0.0).then_some(at_peak_s / metered_s)
    }
}

/// Adds up a run. The order of the files changes nothing.
#[must_use]
pub fn run_total(files: &[ProcessEvidence]) -> RunTotal {
    let mut run = RunTotal::default();
    let mut spans: BTreeMap<String, DeviceSpans> = BTreeMap::new();
    let mut wall = Spans::default();
    let mut files: Vec<&ProcessEvidence> = files.iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    for file in files {
        run.simulated |= file.start.simulated;
        run.world_size = run.world_size.max(file.start.job.get("WORLD_SIZE").and_then(|w| w.parse().ok()));
        run.breaks.extend(file.breaks.iter().map(|b| format!("{}:{}: {}", file.path.display(), b.line, b.what)));
        gather(&mut run, file);
        let mut process = ProcessTotal {
            file: file.path.display().to_string(),
            host: file.start.host.hostname.clone(),
            pid: file.start.process.pid,
            comm: file.start.process.comm.clone(),
            rank: file.start.job.get("RANK").or_else(|| file.start.job.get("SLURM_PROCID")).cloned(),
            paths: Paths::new(),
            estimated: Vec::new(),
            ended: file.ended,
            meter_cpu_ns: 0,
            metered_ns: 0,
            held: (0, 0),
            open_window_ns: open_window_ns(file),
            faults: file.lines.iter().filter(|l| matches!(l.record, Record::Fault(_))).count() as u64,
        };
        let to_unix = |ns: u64| (file.start.unix_ns + ns).saturating_sub(file.start_ns);
        for track in tracks(file) {
            let paths = track.paths();
            add_paths(&mut process.paths, &paths);
            add_paths(run.nodes.entry(process.host.clone()).or_default(), &paths);
            process.estimated.extend(estimated::estimate(&track));
            process.metered_ns += track.metered_ns();
            process.meter_cpu_ns = process.meter_cpu_ns.max(track.windows.iter().map(|w| w.meter_cpu_ns).max().unwrap_or(0));
            for window in &track.windows {
                process.held.0 += window.opened.held;
                process.held.1 = process.held.1.max(window.opened.longest_wait_ns);
                wall.add(to_unix(window.start_ns), to_unix(window.end_ns));
                if window.opened.slipped > 0 {
                    run.slipped.0 += window.opened.slipped;
                    run.slipped.1 += window.opened.took_ns;
                }
                if !window.why.is_empty() {
                    *run.uncounted.entry(window.why.clone()).or_default() += (window.end_ns - window.start_ns) as f64 / 1e9;
                }
                if !window.opened.gated {
                    let why = format!("boundary not gated: {}", window.opened.why_ungated);
                    *run.uncounted.entry(why).or_default() += window.opened.exposed_ns as f64 / 1e9;
                }
            }
            run.never_looked.extend(track.never_looked());
            spans.entry(track.device.uuid.clone()).or_default().add(&track, &paths, &process, to_unix);
        }
        add_paths(&mut run.paths, &process.paths);
        run.estimated.extend(process.estimated.iter().cloned());
        run.processes.push(process);
    }
    run.wall_ns = wall.range().map_or(0, |(a, b)| b - a);
    run.began_unix_ns = wall.range().map_or(0, |(a, _)| a);
    run.devices = spans.into_values().map(DeviceSpans::total).collect();
    run
}

/// The longest that a window of this process can be.
fn open_window_ns(file: &ProcessEvidence) -> u64 {
    let set = file.start.configuration.get("FLOPSPROF_WINDOW").and_then(|w| w.trim().parse::<f64>().ok()).filter(|s| s.is_finite());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates, and is not negative")]
    set.map_or(OPEN_WINDOW_NS, |s| ((s.max(0.0) * 1e9) as u64).max(OPEN_WINDOW_NS))
}

/// Everything of a file that is no window.
fn gather(run: &mut RunTotal, file: &ProcessEvidence) {
    let (mut tokens, mut steps) = (0, 0);
    for line in &file.lines {
        match &line.record {
            Record::Library(Library { name, version, .. }) => {
                run.libraries.entry(name.clone()).or_default().insert(version.clone());
            }
            Record::Plan(plan) => run.uncovered.extend(plan.uncovered.iter().cloned()),
            Record::Fault(fault) if !run.faults.contains(fault) => run.faults.push(fault.clone()),
            Record::Declare(d) => run.parameters = run.parameters.max(Some((d.parameters, d.trainable))),
            Record::Window(w) => (tokens, steps) = (w.tokens, w.steps),
            Record::End(end) => {
                (tokens, steps) = (end.tokens, end.steps);
                run.lines_lost += end.lines_lost;
            }
            _ => {}
        }
    }
    run.tokens += tokens;
    run.steps = run.steps.max(steps);
}

/// A device as several processes saw it.
#[derive(Default)]
struct DeviceSpans {
    total: DeviceTotal,
    metered: Spans,
    energy: Vec<(u64, u64)>,
}

impl DeviceSpans {
    fn add(&mut self, track: &Track, paths: &Paths, process: &ProcessTotal, to_unix: impl Fn(u64) -> u64) {
        self.total.uuid.clone_from(&track.device.uuid);
        self.total.name.clone_from(&track.device.name);
        self.total.host.clone_from(&process.host);
        self.total.processes.insert(process.pid);
        add_paths(&mut self.total.paths, paths);
        let hertz = f64::from(track.device.max_sm_clock_mhz) * 1e6;
        self.total.core_peak = self.total.core_peak.max(hertz * f64::from(track.device.sm_count) * CORE_FLOP_PER_SM_CYCLE);
        if hertz > 0.0 {
            self.total.peak.extend(track.device.peak_flop_per_cycle.iter().map(|(p, flop)| (p.clone(), flop * hertz)));
        }
        for window in &track.windows {
            self.metered.add(to_unix(window.start_ns), to_unix(window.end_ns));
        }
        self.energy.extend(track.energy.iter().map(|(ns, mj)| (to_unix(*ns), *mj)));
    }

    fn total(mut self) -> DeviceTotal {
        self.total.metered_ns = self.metered.length();
        // The counter runs since the driver was loaded. Between two readings inside one stretch of metered time its difference is that time's energy,
        // whichever process read it.
        self.energy.sort_unstable();
        let mut energy = None;
        for (start, end) in self.metered.merged() {
            // A window's reading is taken just after its end.
            let slack = 1_000_000_000;
            let inside: Vec<u64> = self.energy.iter().filter(|(ns, _)| *ns >= start && *ns <= end + slack).map(|(_, mj)| *mj).collect();
            if let (Some(first), Some(last)) = (inside.first(), inside.last()) {
                energy = Some(energy.unwrap_or(0) + last.saturating_sub(*first));
            }
        }
        self.total.energy_mj = energy;
        self.total
    }
}

fn decimal<S: serde::Serializer>(n: &u128, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&n.to_string())
}
