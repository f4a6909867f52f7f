//! The ledger: what the evidence adds up to. Pure; it reads no file and writes none.
//!
//! Evidence of many processes goes in, totals per path, process, device, node and run come out. What was counted stays an integer to the end; what was
//! interpolated ([`interpolate`]) stands beside it with its error, never in it. Every total names its tier, and a total of several tiers has the worst
//! of them. Energy belongs to a device, not to a process: two processes on one GPU read the same counter, and it is counted once.
//!
//! A process's evidence is added up by itself ([`FileTotal`]), then merged ([`Ledger`]): of a run with thousands of ranks only sums are in memory.

pub mod arithmetic;
pub mod cores;
pub mod estimated;
mod file;
pub mod interpolate;
pub mod job;
mod join;
pub mod kernel;
mod merge;
pub mod overhead;
pub mod span;
pub mod tensor;
pub mod timeline;
pub mod track;
pub mod unexplained;
pub mod witness;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::evidence::{
    read::ProcessEvidence,
    record::{Fault, Tier},
};
use arithmetic::{Amount, add_up};
use cores::Cores;
use estimated::Estimated;
use job::Run;
use kernel::KernelTotals;
use overhead::Overhead;
use timeline::Timeline;
use unexplained::Unexplained;
use witness::Witnessed;

pub use file::FileTotal;
pub(crate) use file::open_window_ns;
pub use merge::Ledger;

/// A process without its last record may have lost this much at least: one window at most, and in a young run none is longer by default.
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
    /// Variance of `interpolated`, FLOP²; none when it is not known: also of a path that may have been in use although it did nothing while it was looked at.
    #[serde(skip)]
    pub variance: Option<f64>,
    /// Time in which the path was looked at, and metered time, ns.
    #[serde(skip)]
    pub looked_ns: (u64, u64),
    /// Those of `counted` that were 2:4 sparse, FLOP; none where the chip does not tell them apart.
    #[serde(skip)]
    pub sparse: Option<u128>,
}

impl PathTotal {
    /// Counted and interpolated together, FLOP.
    #[must_use]
    pub fn total(&self) -> u128 {
        self.counted.plus(self.interpolated)
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

    /// Whether it was looked at, at any time: else 0 is no measurement.
    #[must_use]
    pub fn measured(&self) -> bool {
        self.looked_ns.0 > 0 || self.total() > 0
    }

    /// How good it is; none where it was never looked at.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        let tier = if self.looked_ns.0 == self.looked_ns.1 { Tier::Counted } else { Tier::Sampled };
        self.measured().then_some(tier)
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.counted.grow(other.counted);
        self.interpolated.grow(other.interpolated);
        self.variance = self.variance.zip(other.variance).map(|(a, b)| a + b);
        self.looked_ns = (self.looked_ns.0.plus(other.looked_ns.0), self.looked_ns.1.plus(other.looked_ns.1));
        self.sparse = [self.sparse, other.sparse].into_iter().flatten().reduce(Amount::plus);
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

/// All paths of one thing together: its tier and coverage are those of the paths that executed anything, where one did, or may have while nobody looked.
#[must_use]
pub fn sum(paths: &Paths) -> PathTotal {
    let idle = paths.values().all(|p| p.total() == 0);
    let mut total = PathTotal::none();
    paths.values().filter(|p| idle || p.total() > 0 || p.variance.is_none()).for_each(|p| total.add(p));
    total
}

/// One process.
#[derive(Clone, Debug, Default)]
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
    /// How long a window may be, ns: what a kill can cost.
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

/// Models by their parameters and those of them that are trained: the tokens that were added while each was the declared one.
pub type Models = BTreeMap<(u64, u64), u64>;

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
    /// From the first window to the last on any node, ns; of several runs that do not overlap, each by itself.
    pub wall_ns: u64,
    /// Unix time at which the first window began, ns.
    pub began_unix_ns: u64,
    /// Unix time at which the last window ended, ns.
    pub ended_unix_ns: u64,
    /// What was executed when, on the Unix clock.
    pub timeline: Timeline,
    /// Tokens that the processes added.
    pub tokens: u64,
    /// Steps, the most that a process marked.
    pub steps: u64,
    /// Models that were declared.
    pub models: Models,
    /// Tokens of processes that declared none, of which nobody says which model saw them.
    pub undeclared: u64,
    /// What is not metered, each once.
    pub faults: Vec<Fault>,
    /// Reasons why intervals were not counted, with their seconds.
    pub uncounted: BTreeMap<String, f64>,
    /// Path metrics that the chip has and no group can hold.
    pub uncovered: BTreeSet<String>,
    /// Paths that were never looked at although the chip has them.
    pub never_looked: BTreeSet<String>,
    /// Kernels that may have executed what nobody looked at.
    pub unexplained: Unexplained,
    /// Libraries by name: their versions.
    pub libraries: BTreeMap<String, BTreeSet<String>>,
    /// Which kernels executed it.
    pub kernels: KernelTotals,
    /// What the CUDA cores executed beside it.
    pub cores: Cores,
    /// What the meter cost; none where the evidence does not say.
    pub overhead: Option<Overhead>,
    /// Places where a file's chain does not hold.
    pub breaks: Vec<String>,
    /// Lines that could not be written.
    pub lines_lost: u64,
    /// Launches that went through a gate uncounted because their wait reached its deadline, and the time of these boundaries, ns.
    pub slipped: (u64, u64),
    /// The runs that the evidence is of: one, unless several share a folder or several folders were given.
    pub runs: Vec<Run>,
    /// What is odd about the nodes' clocks, and what was done about it.
    pub clocks: Vec<String>,
    /// Files that were given twice, and counted once.
    pub duplicates: Vec<String>,
    /// Files in a run's folder that hold no evidence: their process's operations are missing.
    pub unreadable: Vec<String>,
    /// What witnesses saw, beside what was metered.
    pub witnessed: Witnessed,
}

impl RunTotal {
    /// Parameters of the largest model that was declared, and those of them that are trained.
    #[must_use]
    pub fn parameters(&self) -> Option<(u64, u64)> {
        self.models.keys().next_back().copied()
    }

    /// The worst tier of what it consists of; none where nothing was measured or estimated.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        // Not counted where a path that may have been in use had no turn at all.
        let doubtful = (!self.unexplained.is_empty()).then_some(Tier::Sampled);
        self.estimated.iter().map(|e| e.tier).chain(sum(&self.paths).tier()).chain(doubtful).max()
    }

    /// Why nothing was measured; none where anything was.
    #[must_use]
    pub fn unmeasured(&self) -> Option<String> {
        if sum(&self.paths).measured() {
            return None;
        }
        // What is beside the count is no reason.
        let fault = self.faults.iter().find(|f| !["nvml", "disk"].contains(&f.kind.as_str())).map(|f| f.what.clone());
        let longest = || self.uncounted.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(why, _)| why.clone());
        let nobody = if self.processes.is_empty() { "no process was metered" } else { "no metered process used a GPU for long enough" };
        Some(fault.or_else(longest).unwrap_or_else(|| nobody.to_owned()))
    }

    /// What ran on a device and is in no window: by the faults that say so.
    pub fn beside(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|f| ["no-context", "late-context", "foreign-context", "context-lost"].contains(&f.kind.as_str()))
    }

    /// Ranks that the launchers say there are, and that left no evidence.
    #[must_use]
    pub fn ranks_missing(&self) -> u64 {
        add_up(self.runs.iter().map(Run::missing))
    }

    /// Whether operations were executed that the total does not hold.
    #[must_use]
    pub fn lower_bound(&self) -> bool {
        self.ranks_missing() > 0
            || self.missing_s() > 0.0
            || !self.unreadable.is_empty()
            || !self.estimated.is_empty()
            || self.beside().next().is_some()
            || !self.unexplained.is_empty()
            || self.unmeasured().is_some()
    }

    /// Seconds that may be missing because processes ended without their last record.
    #[must_use]
    pub fn missing_s(&self) -> f64 {
        add_up(self.processes.iter().map(ProcessTotal::missing_ns)) as f64 / 1e9
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
        (!self.devices.is_empty()).then(|| self.devices.iter().map(|d| d.energy_mj).collect::<Option<Vec<u64>>>().map(add_up)).flatten()
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
    let mut files: Vec<&ProcessEvidence> = files.iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut ledger = Ledger::default();
    for file in files {
        ledger.add(FileTotal::of(file));
    }
    ledger.total()
}

fn decimal<S: serde::Serializer>(n: &u128, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&n.to_string())
}
