//! What a report says, as data. [`SCHEMA`] describes it.
//!
//! Operation counts are decimal strings of whole FLOP, with a float beside them under `..._float` for those who only want to plot.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    counter::{category::demangle, plan::PREFIX},
    evidence::record::{Fault, Tier},
    ledger::{self, PathTotal, Paths, RunTotal, estimated::Estimated, overhead::Overhead},
    reconcile::{
        SixNd,
        completeness::{self, Completeness},
        declared::Told,
    },
    rule::Assessment,
};

use super::{
    core::{CudaCores, cuda_cores},
    figure::ranges,
    form::{Forms, forms},
    kernel::{Shares, shares},
    reconcile::{Reconciliation, reconciliation},
};

/// Version of the report's form.
pub const FORMAT: u32 = 1;

/// JSON Schema of a report.
pub const SCHEMA: &str = include_str!("report.schema.json");

/// A report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of flopsprof that wrote it.
    pub flopsprof: String,
    /// The stand-in GPU was used: no number here is a measurement.
    pub simulated: bool,
    /// The worst tier of what the total consists of; none where nothing was measured or estimated.
    pub tier: Option<Tier>,
    /// Why nothing was measured: then the total is no number. Left out where anything was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmeasured: Option<String>,
    /// Everything counted and interpolated.
    pub total: Operations,
    /// By path, largest first.
    pub paths: Vec<PathRow>,
    /// By category of kernel; none where there was no census.
    pub kernels: Option<Shares>,
    /// What the CUDA cores executed beside it, sampled; left out where it was not tried. Not in `total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_cores: Option<CudaCores>,
    /// Where nothing was counted: activity times peak. Not in `total`.
    pub estimated: Vec<Estimated>,
    /// From the first window to the last, seconds.
    pub wall_clock_s: f64,
    /// Unix time at which the first window began, seconds.
    pub began_unix_s: f64,
    /// Unix time at which the last window ended, seconds.
    pub ended_unix_s: f64,
    /// Hours in which a metered process had a context, by exact device name.
    pub gpu_hours: BTreeMap<String, f64>,
    /// Energy of the devices while a metered process had a context there, mJ. Whole devices: other processes' share is in it.
    pub energy_mj: Option<u64>,
    /// Executed FLOP per joule.
    pub flop_per_joule: Option<f64>,
    /// Executed FLOP per second of wall clock.
    pub flop_per_s: Option<f64>,
    /// What was executed when.
    pub timeline: TimelineRows,
    /// Share of the tensor cores' dense peak at the highest SM clock, over metered GPU time.
    pub peak_share: Option<f64>,
    /// Measured over 6·N·D.
    pub six_nd: Option<SixNd>,
    /// The measurement line by line from 6·N·D, and the rates; none where it was not asked for.
    pub reconciliation: Option<Reconciliation>,
    /// What follows under the EU AI Act; none where it was not asked for.
    pub assessment: Option<Assessment>,
    /// What the authorities are told; none where it was not asked for.
    pub forms: Option<Forms>,
    /// Parameters of the model, and those of them that are trained, as the program declared them.
    pub parameters: Option<(u64, u64)>,
    /// Tokens that the program added.
    pub tokens: u64,
    /// Steps marked by the program.
    pub steps: u64,
    /// The runs that the evidence is of: one, unless several share a folder or several folders were given.
    pub runs: Vec<RunRow>,
    /// Processes.
    pub processes: Vec<ProcessRow>,
    /// Devices.
    pub devices: Vec<DeviceRow>,
    /// Nodes.
    pub nodes: Vec<NodeRow>,
    /// What the meter made the program wait for; left out where the evidence does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead: Option<OverheadRow>,
    /// How much of what the devices did was metered, and whose the rest was.
    pub completeness: Completeness,
    /// What is not metered, and what stands in doubt.
    pub not_metered: NotMetered,
    /// Libraries and their versions.
    pub libraries: BTreeMap<String, Vec<String>>,
}

/// Time that the meter took from the program: boundaries and censuses as long as they were, an upper bound of what the program lost.
#[derive(Clone, Debug, Serialize)]
pub struct OverheadRow {
    /// The share of the wall time that the budget allows.
    pub budget: f64,
    /// The share that was taken, over all processes and devices.
    pub share: f64,
    /// The share of the process and device of which most was taken.
    pub most: f64,
    /// Seconds at boundaries between windows of one group of counters.
    pub windows_s: f64,
    /// Seconds at boundaries that changed the group, or took the counters up.
    pub rotation_s: f64,
    /// Seconds in censuses.
    pub census_s: f64,
}

/// Operations of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Operations {
    /// FLOP, counted and interpolated, decimal.
    pub flop: String,
    /// The same as a float.
    pub flop_float: f64,
    /// FLOP read from counters, decimal.
    pub counted: String,
    /// FLOP between them, decimal.
    pub interpolated: String,
    /// Standard error of `flop`; null when it is not known.
    pub standard_error: Option<f64>,
    /// Share of the metered time in which it was looked at.
    pub covered: f64,
    /// How good it is.
    pub tier: Option<Tier>,
    /// No measurement: the stand-in GPU.
    pub simulated: bool,
}

/// One path.
#[derive(Clone, Debug, Serialize)]
pub struct PathRow {
    /// CUPTI's metric.
    pub metric: String,
    /// Instruction family (`hgmma`), empty for a metric over all.
    pub family: String,
    /// Format of the sources.
    pub source: String,
    /// Format of the accumulator, empty where the metric does not tell.
    pub accumulator: String,
    /// Its operations.
    #[serde(flatten)]
    pub operations: Operations,
    /// Those of `counted` that were 2:4 sparse, decimal; left out where the chip does not tell them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparse: Option<String>,
}

/// Amounts over time: floats, to draw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TimelineRows {
    /// Length of a slot, seconds.
    pub slot_s: f64,
    /// From the first slot to the last, pauses included.
    pub slots: Vec<Slot>,
}

/// One slot of time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Slot {
    /// When it begins, Unix time, seconds.
    pub unix_s: f64,
    /// How long it is, seconds: the first and the last are cut where the run begins and ends.
    pub length_s: f64,
    /// FLOP executed in it, by number format of the operands.
    pub flop: BTreeMap<String, f64>,
    /// Power of all devices that said, watts: their energy in the slot over its length.
    pub power_w: Option<f64>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct RunRow {
    /// The job's name, or that of the process that started it.
    pub name: String,
    /// The launcher named it.
    pub named: bool,
    /// Metered processes.
    pub processes: u64,
    /// Ranks that the launcher says there are.
    pub ranks: Option<u64>,
    /// How many of them left no evidence.
    pub ranks_missing: u64,
    /// Which, where they have numbers: `1-3, 7`.
    pub missing: String,
}

/// One process.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessRow {
    /// Evidence file.
    pub file: String,
    /// Hostname.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Program.
    pub program: String,
    /// Rank.
    pub rank: Option<String>,
    /// Its last record says that it ended.
    pub ended_cleanly: bool,
    /// CPU time of the meter in it, seconds.
    pub meter_cpu_s: f64,
    /// Launches that waited at a boundary.
    pub launches_held: u64,
    /// The longest of these waits, ms.
    pub longest_wait_ms: f64,
    /// Its operations.
    #[serde(flatten)]
    pub operations: Operations,
}

/// One device.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceRow {
    /// UUID.
    pub uuid: String,
    /// Exact product name.
    pub name: String,
    /// Hostname.
    pub host: String,
    /// Hours in which a metered process had a context there.
    pub hours: f64,
    /// Energy in that time, mJ.
    pub energy_mj: Option<u64>,
    /// Metered processes.
    pub processes: usize,
    /// Its operations.
    #[serde(flatten)]
    pub operations: Operations,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeRow {
    /// Hostname.
    pub host: String,
    /// Its operations.
    #[serde(flatten)]
    pub operations: Operations,
}

/// What is not metered.
#[derive(Clone, Debug, Serialize)]
pub struct NotMetered {
    /// Faults, with their remedies.
    pub faults: Vec<Fault>,
    /// Seconds in which counters were off on a device, by reason. Their operations are interpolated.
    pub uncounted_s: BTreeMap<String, f64>,
    /// Paths that the chip has and one pass cannot read.
    pub uncovered: Vec<String>,
    /// Paths whose turn never came.
    pub never_looked: Vec<String>,
    /// Kernels that make products by their names, and may have executed them on paths that were hardly looked at: what that was is not in the total. Left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unexplained: Option<UnexplainedRow>,
    /// Processes that ended without their last record.
    pub unclean_ends: Vec<String>,
    /// Seconds of theirs that may be missing at most: the total is then a lower bound.
    pub missing_s_at_most: f64,
    /// Ranks that the launcher's world size says there are, and that left no evidence.
    pub ranks_missing: u64,
    /// The total is a lower bound: something is missing in it.
    pub lower_bound: bool,
    /// What is odd about the nodes' clocks, and what was done about it.
    pub clocks: Vec<String>,
    /// Evidence that was given twice, and counted once.
    pub duplicates: Vec<String>,
    /// Files in a run's folder that hold no evidence (a process was killed before its first line was whole).
    pub unreadable: Vec<String>,
    /// Places where the evidence was changed after it was written.
    pub breaks: Vec<String>,
}

/// Kernels whose operations nobody may have looked at.
#[derive(Clone, Debug, Serialize)]
pub struct UnexplainedRow {
    /// The kernels, those that took most of the time first.
    pub kernels: Vec<UnexplainedKernel>,
    /// Metrics of the paths that they may have used.
    pub paths: Vec<String>,
}

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub struct UnexplainedKernel {
    /// As its author wrote it.
    pub name: String,
    /// As the program's library has it.
    pub symbol: String,
    /// Its part of the time of all kernels in a census; null where that was not counted.
    pub time_share: Option<f64>,
}

impl Report {
    /// FLOP by number format of the operands, most first.
    #[must_use]
    pub fn formats(&self) -> Vec<(String, f64)> {
        let mut formats: BTreeMap<String, f64> = BTreeMap::new();
        for row in self.paths.iter().filter(|r| r.operations.flop_float > 0.0) {
            *formats.entry(row.source.clone()).or_default() += row.operations.flop_float;
        }
        let mut formats: Vec<_> = formats.into_iter().collect();
        formats.sort_by(|a, b| b.1.total_cmp(&a.1));
        formats
    }

    /// Adds what follows under the EU AI Act, and what the authorities are told.
    #[must_use]
    pub fn assessed(mut self, assessment: Assessment) -> Self {
        self.assessment = Some(assessment);
        self.forms = Some(forms(&self));
        self
    }

    /// Adds the reconciliation.
    #[must_use]
    pub fn reconciled(mut self, run: &RunTotal, told: &Told) -> Self {
        self.reconciliation = Some(reconciliation(run, told));
        self
    }
}

/// Builds the report of a run.
#[must_use]
pub fn report(run: &RunTotal, six_nd: Option<SixNd>) -> Report {
    let operations = |paths: &Paths| of(&ledger::sum(paths), run.simulated);
    let total = ledger::sum(&run.paths);
    let flop = total.total() as f64;
    let wall_s = run.wall_ns as f64 / 1e9;
    let energy = run.energy_mj();
    let mut paths: Vec<(&String, &PathTotal)> = run.paths.iter().collect();
    paths.sort_by_key(|(_, t)| std::cmp::Reverse(t.total()));
    Report {
        format: FORMAT,
        flopsprof: env!("CARGO_PKG_VERSION").to_owned(),
        simulated: run.simulated,
        tier: run.tier(),
        unmeasured: run.unmeasured(),
        total: Operations { tier: run.tier(), ..of(&total, run.simulated) },
        paths: paths.into_iter().map(|(metric, total)| path_row(metric, total, run.simulated)).collect(),
        kernels: shares(run),
        cuda_cores: cuda_cores(run),
        estimated: run.estimated.clone(),
        wall_clock_s: wall_s,
        began_unix_s: run.began_unix_ns as f64 / 1e9,
        ended_unix_s: run.ended_unix_ns as f64 / 1e9,
        gpu_hours: run.gpu_seconds().into_iter().map(|(name, s)| (name, s / 3600.0)).collect(),
        energy_mj: energy,
        flop_per_joule: energy.filter(|mj| *mj > 0 && total.measured()).map(|mj| flop / (mj as f64 / 1e3)),
        flop_per_s: (wall_s > 0.0 && total.measured()).then(|| flop / wall_s),
        peak_share: run.peak_share(),
        timeline: timeline(run),
        overhead: run.overhead.as_ref().map(overhead),
        six_nd,
        reconciliation: None,
        assessment: None,
        forms: None,
        parameters: run.parameters(),
        tokens: run.tokens,
        steps: run.steps,
        runs: run
            .runs
            .iter()
            .map(|r| RunRow {
                name: r.name.clone(),
                named: r.named,
                processes: r.processes,
                ranks: r.world,
                ranks_missing: r.missing(),
                missing: ranges(&r.missing_ranks()),
            })
            .collect(),
        processes: run
            .processes
            .iter()
            .map(|p| ProcessRow {
                file: p.file.clone(),
                host: p.host.clone(),
                pid: p.pid,
                program: p.comm.clone(),
                rank: p.rank.clone(),
                ended_cleanly: p.ended,
                meter_cpu_s: p.meter_cpu_ns as f64 / 1e9,
                launches_held: p.held.0,
                longest_wait_ms: p.held.1 as f64 / 1e6,
                operations: operations(&p.paths),
            })
            .collect(),
        devices: run
            .devices
            .iter()
            .map(|d| DeviceRow {
                uuid: d.uuid.clone(),
                name: d.name.clone(),
                host: d.host.clone(),
                hours: d.metered_ns as f64 / 3.6e12,
                energy_mj: d.energy_mj,
                processes: d.processes.len(),
                operations: operations(&d.paths),
            })
            .collect(),
        nodes: run.nodes.iter().map(|(host, paths)| NodeRow { host: host.clone(), operations: operations(paths) }).collect(),
        completeness: completeness::completeness(run),
        not_metered: NotMetered {
            faults: run.faults.clone(),
            uncounted_s: run.uncounted.clone(),
            uncovered: run.uncovered.iter().cloned().collect(),
            never_looked: run.never_looked.iter().filter(|p| !run.paths.contains_key(*p)).cloned().collect(),
            unexplained: unexplained(run),
            unclean_ends: run.processes.iter().filter(|p| !p.ended).map(|p| p.file.clone()).collect(),
            missing_s_at_most: run.missing_s(),
            ranks_missing: run.ranks_missing(),
            lower_bound: run.lower_bound(),
            clocks: run.clocks.clone(),
            duplicates: run.duplicates.clone(),
            unreadable: run.unreadable.clone(),
            breaks: run.breaks.clone(),
        },
        libraries: run.libraries.iter().map(|(name, versions)| (name.clone(), versions.iter().cloned().collect())).collect(),
    }
}

fn unexplained(run: &RunTotal) -> Option<UnexplainedRow> {
    let of =
        |(symbol, part): (&String, &Option<f64>)| UnexplainedKernel { name: demangle(symbol), symbol: symbol.clone(), time_share: *part };
    let mut kernels: Vec<UnexplainedKernel> = run.unexplained.kernels.iter().map(of).collect();
    kernels.sort_by(|a, b| b.time_share.unwrap_or(1.0).total_cmp(&a.time_share.unwrap_or(1.0)));
    (!kernels.is_empty()).then(|| UnexplainedRow { kernels, paths: run.unexplained.paths.iter().cloned().collect() })
}

fn overhead(of: &Overhead) -> OverheadRow {
    let seconds = |ns: u64| ns as f64 / 1e9;
    OverheadRow {
        budget: of.allowed,
        share: if of.life_ns == 0 { 0.0 } else { of.total_ns() as f64 / of.life_ns as f64 },
        most: of.most,
        windows_s: seconds(of.windows_ns),
        rotation_s: seconds(of.rotation_ns),
        census_s: seconds(of.census_ns),
    }
}

fn of(total: &PathTotal, simulated: bool) -> Operations {
    Operations {
        flop: total.total().to_string(),
        flop_float: total.total() as f64,
        counted: total.counted.to_string(),
        interpolated: total.interpolated.to_string(),
        standard_error: total.standard_error(),
        covered: total.covered(),
        tier: total.tier(),
        simulated,
    }
}

/// Slots without gaps: a pause is drawn as one.
fn timeline(run: &RunTotal) -> TimelineRows {
    let timeline = &run.timeline;
    let Some((first, last)) = timeline.range() else { return TimelineRows::default() };
    let slot = |slot: u64| {
        let mut flop: BTreeMap<String, f64> = BTreeMap::new();
        for (metric, amount) in timeline.flop.get(&slot).into_iter().flatten() {
            *flop.entry(parts(metric).1.to_owned()).or_default() += amount;
        }
        let (start, end) = (slot * timeline.slot_ns, (slot + 1).saturating_mul(timeline.slot_ns));
        // Readings just outside the first and the last window reach over them.
        let (start, end) = (start.max(run.began_unix_ns.min(end - 1)), end.min(run.ended_unix_ns.max(start + 1)));
        let length_s = (end - start) as f64 / 1e9;
        let mj = timeline.energy.values().filter_map(|slots| slots.get(&slot)).copied().reduce(|a, b| a + b);
        Slot { unix_s: start as f64 / 1e9, length_s, flop, power_w: mj.map(|mj| mj / 1e3 / length_s) }
    };
    let inside =
        |slot: &u64| slot * timeline.slot_ns < run.ended_unix_ns && (slot + 1).saturating_mul(timeline.slot_ns) > run.began_unix_ns;
    TimelineRows { slot_s: timeline.slot_ns as f64 / 1e9, slots: (first..=last).filter(inside).map(slot).collect() }
}

/// Family, format of the sources and of the accumulator in a metric's name.
fn parts(metric: &str) -> (&str, &str, &str) {
    let rest = metric.strip_prefix(PREFIX).unwrap_or(metric);
    let (family, rest) =
        rest.strip_prefix("op_").and_then(|r| r.split_once("_src_")).unwrap_or(("", rest.strip_prefix("src_").unwrap_or(rest)));
    let (source, accumulator) = rest.split_once("_dst_").unwrap_or((rest, ""));
    (family, source, accumulator)
}

fn path_row(metric: &str, total: &PathTotal, simulated: bool) -> PathRow {
    let (family, source, accumulator) = parts(metric);
    PathRow {
        metric: metric.to_owned(),
        family: family.to_owned(),
        source: source.to_owned(),
        accumulator: accumulator.to_owned(),
        operations: of(total, simulated),
        sparse: total.sparse.map(|n| n.to_string()),
    }
}
