//! The records of an evidence file: what one line says.
//!
//! A record holds what was read, never what was derived from it: totals, rates and interpolated parts are the ledger's. Units stand in the
//! names: `_ns` nanoseconds, `_mj` millijoules, `_mw` milliwatts, `_mhz` megahertz. Times named `_ns` without `unix` are on
//! `CLOCK_MONOTONIC` of the machine that wrote them; `Start` holds one reading of both clocks taken together, so that files meet.
//!
//! Operation counts are floating-point operations (a multiply-add is two), written as decimal strings: a JSON number would round them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::witness::{Interval, Probed, Seen, Sources};

/// The version of the format that this program writes. It reads this one and every older one. 2: each line carries its own hash. 3: a witness's records.
pub const FORMAT: u32 = 3;

/// One line: its place in the chain, and what it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// SHA-256, in hexadecimal, of the line before it without its newline; 64 zeros in the first line.
    pub prev: String,
    /// 0 in the first line, one more in each that follows.
    pub seq: u64,
    /// When it was written, `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// What it says.
    #[serde(flatten)]
    pub record: Record,
}

impl Line {
    /// Reads a line, as `serde_json` does. Nearly all lines of a long run are windows and readings: these are read straight into their records, in two thirds
    /// less time than through a record of any type.
    ///
    /// # Errors
    /// What `serde_json` says.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Head<'a> {
            prev: &'a str,
            seq: u64,
            at_ns: u64,
            r#type: &'a str,
        }
        // Fields that are skipped are not looked at: bytes that are no text must not pass in them.
        let Ok(utf8) = std::str::from_utf8(text) else { return serde_json::from_slice(text) };
        let Ok(head) = serde_json::from_str::<Head<'_>>(utf8) else { return serde_json::from_slice(text) };
        let record = match head.r#type {
            "window" => Record::Window(serde_json::from_str(utf8)?),
            "reading" => Record::Reading(serde_json::from_str(utf8)?),
            _ => return serde_json::from_slice(text),
        };
        Ok(Self { prev: head.prev.to_owned(), seq: head.seq, at_ns: head.at_ns, record })
    }
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// The first line: who writes, where, with what configuration.
    Start(Box<Start>),
    /// A foreign library that was loaded or found.
    Library(Library),
    /// A device this process has a context on.
    Device(Box<Device>),
    /// How this device's counters are grouped.
    Plan(Plan),
    /// One interval of one device, with what was counted in it.
    Window(Box<Window>),
    /// What single launches of one window executed, by kernel; or why there is nothing of the kind.
    Kernels(Box<Kernels>),
    /// How often the launches that censuses know came in a time.
    RollCall(Box<RollCall>),
    /// NVML between two window edges.
    Reading(Reading),
    /// Something is not metered, or not as well as it could be.
    Fault(Fault),
    /// What the program declared about its model, through the C interface.
    Declare(Declare),
    /// What the program declared about its model and how it is trained, as JSON. Each one holds until the next.
    Model(Declared),
    /// The rows and tokens it declared, whole run so far. What came after a model was declared is of that model.
    Work(Declared),
    /// The program does something else from here on.
    Phase(Phase),
    /// Of a witness: what it can see.
    Sources(Sources),
    /// Of a witness: a copy of the driver's library is probed, or is not.
    Probed(Probed),
    /// Of a witness: a process that uses a GPU.
    Seen(Box<Seen>),
    /// Of a witness: one interval.
    Interval(Box<Interval>),
    /// The last line: it ended, and how.
    End(End),
}

/// The first line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// Version of flopsprof.
    pub version: String,
    /// The GPU is a stand-in: no number in this file is a measurement.
    pub simulated: bool,
    /// The file is a witness's, not a metered process's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub witness: bool,
    /// `CLOCK_REALTIME` at the same moment as `at_ns`, nanoseconds since 1970.
    pub unix_ns: u64,
    /// The machine.
    pub host: Host,
    /// The process.
    pub process: Process,
    /// Every setting in force, by the name of its environment variable.
    pub configuration: BTreeMap<String, String>,
    /// What the launcher says of the job: torchrun, Slurm, SageMaker and Kubernetes variables, by name.
    pub job: BTreeMap<String, String>,
}

/// The machine a file was written on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub hostname: String,
    /// `/proc/sys/kernel/random/boot_id`: clocks of files with the same one can be compared.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
}

/// The process a file is of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Process id, as the process itself sees it.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// Number of the namespace that `pid` is of; none in older evidence, and where nothing said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
    /// Start time in clock ticks after boot (`/proc/self/stat` field 22): with `pid` and `boot_id` it names the process for ever.
    pub start_ticks: u64,
    /// `/proc/self/comm`.
    pub comm: String,
    /// The program file.
    pub exe: String,
    /// SHA-256 of the command line (it may hold secrets, so it is not written out).
    pub cmdline_sha256: String,
    /// User id.
    pub uid: u32,
}

/// A foreign library.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Library {
    /// `libcuda`, `libcupti` or `libnvidia-ml`.
    pub name: String,
    /// Where it was loaded from.
    pub path: String,
    /// Its own version number, as it says it: driver 13000, CUPTI 130001, NVML's driver string.
    pub version: String,
    /// How it was found: `already-loaded`, `FLOPSPROF_CUPTI`, `python`, `toolkit`, `loader`.
    pub found: String,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Ordinal in this process (`cuDeviceGet`), which `CUDA_VISIBLE_DEVICES` renumbers: `uuid` is what identifies it.
    pub device: u32,
    /// Exact product name, as the driver says it.
    pub name: String,
    /// `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub uuid: String,
    /// PCI address, `dddddddd:bb:dd.f`.
    pub pci: String,
    /// CUPTI's chip name (`GH100`), empty where CUPTI could not say.
    pub chip: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// Highest SM clock (MHz), 0 where unknown.
    pub max_sm_clock_mhz: u32,
    /// Driver release (`580.159.04`), empty where NVML is missing.
    pub driver: String,
    /// MIG mode: `on`, `off`, `unsupported` or `unknown`.
    pub mig: String,
    /// Confidential computing: `on`, `off` or `unknown`. Counters are refused while it is on.
    pub confidential_computing: String,
    /// Whether NVML's GPM answers here (Hopper and later).
    pub gpm: bool,
    /// FLOP a whole device does at most in one SM cycle, dense, per path metric, by CUPTI's own model of the chip
    /// (`.sum.peak_sustained`). Empty where CUPTI could not say.
    #[serde(default)]
    pub peak_flop_per_cycle: BTreeMap<String, f64>,
}

/// The groups of counters of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Ordinal of the device.
    pub device: u32,
    /// Path metrics per group, each group readable in one pass.
    pub groups: Vec<Vec<String>>,
    /// Path metrics that the chip has and no group can hold in one pass. Never silently dropped.
    pub uncovered: Vec<String>,
}

/// How good a number is, best first. No tier is ever passed off as a better one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Read from the GPU's operation counters over the whole interval.
    #[default]
    Counted,
    /// Read from the operation counters part of the time, interpolated in between.
    Sampled,
    /// NVML's GPM tensor activity times the peak at the SM clock.
    Gpm,
    /// NVML's busy time times the peak: an upper bound at best.
    Utilization,
    /// A formula.
    Analytic,
}

/// One interval of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Ordinal of the device.
    pub device: u32,
    /// From 0 for each device.
    pub index: u64,
    /// When the range was opened.
    pub start_ns: u64,
    /// When the range was closed.
    pub end_ns: u64,
    /// [`Tier::Counted`] when `counts` holds operations; [`Tier::Sampled`] when they are those that a census counted of the same launches; [`Tier::Gpm`] or [`Tier::Utilization`] when only `nvml` speaks.
    pub tier: Tier,
    /// Why the window is not counted, empty when it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The group of the plan that was on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<usize>,
    /// FLOP per path metric that was on, zeros included: a path that is not here was not looked at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "decimal_map")]
    pub counts: BTreeMap<String, u128>,
    /// Those of `counts` that were 2:4 sparse, where the chip tells them apart; zeros included.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "decimal_map")]
    pub sparse: BTreeMap<String, u128>,
    /// SM clock cycles that passed in the window (`sm__cycles_elapsed.max`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycles: Option<u64>,
    /// How the boundary before this window was made.
    pub opened: Boundary,
    /// NVML at the end of the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvml: Option<NvmlReading>,
    /// Tokens the program added, since its start.
    #[serde(default)]
    pub tokens: u64,
    /// Steps the program marked, since its start.
    #[serde(default)]
    pub steps: u64,
    /// CPU time the meter itself used in this process, since the start.
    #[serde(default)]
    pub meter_cpu_ns: u64,
    /// What the meter made the program wait for, since the start. Not in evidence of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
    /// How long the next window, open when this is written, is meant to be at most: what a kill can cost. Not in evidence of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ns: Option<u64>,
}

/// Time that the meter took from the program, and how much it may take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// The share of the wall time that the budget allows.
    pub share: f64,
    /// At boundaries between windows of one group of counters.
    pub windows_ns: u64,
    /// At boundaries that changed the group, or took the counters up again.
    pub rotation_ns: u64,
    /// In censuses, from the end of the window before to the start of the one after.
    pub census_ns: u64,
}

impl Spent {
    /// All of it.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.windows_ns.saturating_add(self.rotation_ns).saturating_add(self.census_ns)
    }
}

/// A census: a window in which every launch was counted by itself. The window of the same index holds their sum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kernels {
    /// Ordinal of the device.
    pub device: u32,
    /// What was counted is what the CUDA cores executed: `counts` of the kernels are thread instructions by counter, and the window's operations are what a census counted of
    /// launches like these.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cores: bool,
    /// Index of its window; none where no census was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Launches that the callbacks told of.
    #[serde(default)]
    pub launches: u64,
    /// Ranges that were counted.
    #[serde(default)]
    pub ranges: u64,
    /// Launches of one step of the program, where its launches repeat, or it marks its steps; the census is then a whole number of steps. Of several marked ones that differ: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The micro-batches of these steps, where the program marks both: rows, pads included, their positions, and a decoder's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batches: Vec<[u64; 3]>,
    /// Why kernels have no names, or why no census was taken, or why it ended early; empty when all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// What was launched, in the order of first launch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<Kernel>,
}

/// What is launched by one launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A kernel.
    #[default]
    Kernel,
    /// A CUDA graph, all its kernels together.
    Graph,
    /// Not known: a kernel without a name, or launches and ranges that did not meet.
    Unnamed,
}

/// Launches of one census that are alike: same kernel, grid, block, stream, and operations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// What it is.
    pub kind: Kind,
    /// The kernel's mangled name; of a graph its number in this process; empty for what has no name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Number of its stream, in the order in which the census saw them.
    pub stream: u32,
    /// Launches.
    pub launches: u64,
    /// FLOP of all of them, by path metric; paths at which nothing was executed are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "decimal_map")]
    pub counts: BTreeMap<String, u128>,
    /// What each took, where that was counted beside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub durations_ns: Vec<u64>,
}

/// A roll call: how often launches came that a census counted by themselves. It holds nobody and counts no operations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RollCall {
    /// Ordinal of the device.
    pub device: u32,
    /// When it began.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// The time in between in which launches were heard: a window's boundary, and another tool that wants CUPTI's subscription, interrupt it.
    pub heard_ns: u64,
    /// Launches heard.
    pub launches: u64,
    /// Those of them whose like no census counted.
    #[serde(default)]
    pub unknown: u64,
    /// The others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Called>,
}

/// Launches that are like those of a census's row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Called {
    /// Index of the census's window.
    pub window: u64,
    /// Which of its kernels, from 0.
    pub row: u32,
    /// Launches.
    pub launches: u64,
    /// Kernel, grid and block are the row's, but launches that have them executed other things too, and what came before did not tell which.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsure: bool,
}

/// The moment between two windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Boundary {
    /// Launches were held while no range was open, so nothing ran uncounted.
    pub gated: bool,
    /// Why they were not, empty when they were.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why_ungated: String,
    /// Time from the end of the window before (or from the context's first sight) to the start of this one.
    pub took_ns: u64,
    /// The part of it in which launches could have run uncounted, had they not been held: the rest passed inside driver calls that let nobody launch.
    #[serde(default)]
    pub exposed_ns: u64,
    /// Launches that waited.
    pub held: u64,
    /// Launches that went through uncounted because their wait reached its deadline.
    pub slipped: u64,
    /// The longest wait of a launch.
    pub longest_wait_ns: u64,
}

/// What NVML said, and over the window where it is a rate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NvmlReading {
    /// Energy since the driver was loaded; the difference of two readings is the energy between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_mj: Option<u64>,
    /// Power at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_mw: Option<u32>,
    /// SM clock at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm_clock_mhz: Option<u32>,
    /// NVML's bit mask of what holds the clock down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_reasons: Option<u64>,
    /// Per cent of time in which a kernel ran, NVML's own short average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_utilization_pct: Option<u32>,
    /// GPM since the reading before: per cent of the tensor pipes' peak, HMMA (all floating-point formats but fp64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpm_hmma_pct: Option<f64>,
    /// GPM since the reading before: per cent of the peak of the fp64 tensor pipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpm_dmma_pct: Option<f64>,
    /// GPM since the reading before: per cent of the tensor pipes' peak, any format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpm_any_tensor_pct: Option<f64>,
}

/// NVML between two window edges. Its GPM part is since the reading before, whichever record that stands in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Ordinal of the device.
    pub device: u32,
    /// What it said.
    pub nvml: NvmlReading,
}

/// Something is not metered, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Stable name: `no-cupti`, `old-cupti`, `missing-symbol`, `no-permission`, `busy`, `foreign-context`, `second-cupti`, `nvml`, `disk`, `late-start`, `internal`.
    pub kind: String,
    /// The device it is about, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u32>,
    /// What is not metered.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// What the program declared about its model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Declare {
    /// Parameters of the model.
    pub parameters: u64,
    /// Those of them that are trained.
    pub trainable: u64,
    /// Tokens that had been added before: those after them are of this model. Older evidence does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
}

/// A JSON object by the program, as it came: what is in it is for the reader to judge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Declared {
    /// The object.
    pub declared: serde_json::Value,
    /// When it was said, `CLOCK_MONOTONIC`. Older evidence does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ns: Option<u64>,
}

/// A phase of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name: `train`, `evaluate`, `checkpoint`, or any other.
    pub phase: String,
    /// Since when, `CLOCK_MONOTONIC`.
    pub since_ns: u64,
}

/// The last line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// `exit` (the program returned or called exit), `_exit`, or `context-lost`.
    pub reason: String,
    /// Lines that could not be written (disk full), so that their loss is known.
    pub lines_lost: u64,
    /// Tokens added, whole run.
    pub tokens: u64,
    /// Steps marked, whole run.
    pub steps: u64,
    /// CPU time the meter used in this process, whole run.
    pub meter_cpu_ns: u64,
}

/// Integers of any size as decimal strings, in a map.
mod decimal_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer, de::Error, ser::SerializeMap};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<String, u128>, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_map(Some(map.len()))?;
        for (k, v) in map {
            out.serialize_entry(k, &v.to_string())?;
        }
        out.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, u128>, D::Error> {
        BTreeMap::<String, String>::deserialize(d)?
            .into_iter()
            .map(|(k, v)| {
                let n = v.parse().map_err(|_| D::Error::custom(format!("the count of {k} is not a whole number: {v:?}")))?;
                Ok((k, n))
            })
            .collect()
    }
}
