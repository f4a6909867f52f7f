//! What a witness writes: who used the GPUs of a node, metered or not, and what the devices did.
//!
//! A witness has a file of its own in the run's folder, whose first line says so. Process ids are those of the host; a metered process knows itself by the
//! id of its innermost namespace, so both stand here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::NvmlReading;

/// A process: no other has both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Id {
    /// Process id on the host.
    pub pid: u32,
    /// Start time in clock ticks after boot.
    pub start_ticks: u64,
}

/// Whether a source of the witness is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// It is.
    pub on: bool,
    /// Why not, empty when it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// What the witness can see. Written at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// Launches are counted: `all`, `sampled` (one second in sixty), `off`.
    pub launches: String,
    /// Length of an interval.
    pub every_ns: u64,
    /// Probes in the kernel.
    pub ebpf: Source,
    /// NVML.
    pub nvml: Source,
    /// PM sampling was asked for. Each device's intervals say whether, and for how long, it was to be had.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pm_sampling: bool,
    /// The CPUs' own counters (cycles, floating-point operations).
    pub pmu: Source,
}

/// A copy of the CUDA driver's library that was found in use, and what is probed in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// Its path, as the process that had it saw it.
    pub path: String,
    /// Device of the file, `major:minor`.
    pub device: String,
    /// Inode of the file.
    pub inode: u64,
    /// A process that had it mapped; none where it was found in its usual place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Entry points that are probed.
    pub probed: Vec<String>,
    /// Launches at which a probe would be expensive, and that are not counted unless all are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expensive: Vec<String>,
    /// Why it has no probes, empty when it has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// It is the stand-in GPU's.
    #[serde(default)]
    pub simulated: bool,
}

/// A process that uses a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which.
    #[serde(flatten)]
    pub id: Id,
    /// Its id in its innermost namespace, which is the one that it knows itself by.
    pub own_pid: u32,
    /// Its parents, the nearest first.
    pub parents: Vec<Parent>,
    /// Its name.
    pub comm: String,
    /// SHA-256 of the command line (it may hold secrets).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cmdline_sha256: String,
    /// The command line, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// User id.
    pub uid: u32,
    /// User name, where the system knows one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Control group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cgroup: String,
    /// Inode of the version 2 control group; 0 where it is not known.
    #[serde(default)]
    pub cgroup_id: u64,
    /// Container, by its control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Kubernetes pod's UID, by its control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Slurm job, by its control group or its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_job: Option<String>,
    /// Our library is in it.
    pub library: bool,
    /// How it was noticed: `called` (it called the driver), `nvml` (the driver lists it), `mapped` (it had the driver's library when the witness began).
    pub how: String,
    /// It was gone before it could be looked at: only what the kernel's events told is known.
    #[serde(default)]
    pub gone: bool,
}

/// A parent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub comm: String,
}

/// One interval, all that was witnessed in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// When it began, `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Devices.
    pub devices: Vec<OnDevice>,
    /// Calls of the driver's entry points, of processes that made any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<Calls>,
    /// The part of it in which launches were counted.
    #[serde(default)]
    pub launches_on_ns: u64,
    /// Processes that use a GPU and ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<Ended>,
    /// Processes of the whole node that began, became another program, ended.
    #[serde(default)]
    pub life: (u64, u64, u64),
    /// Events that the probes could not tell, and calls that they could not count.
    #[serde(default)]
    pub lost: (u64, u64),
    /// The CPUs' side; of the job's processes, and of the meter itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
}

/// One device in an interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OnDevice {
    /// UUID.
    pub uuid: String,
    /// Exact product name.
    pub name: String,
    /// NVML at the end of the interval. GPM's part is left out where `pm` has something.
    pub nvml: NvmlReading,
    /// PM sampling in the interval, where it held, or could not be had in it, or ended in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pm: Option<PmReading>,
    /// Since when GPM's part of it is.
    pub gpm_since_ns: u64,
    /// SM clock, the mean of many looks in the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<f64>,
    /// Processes that the driver lists on it; none where NVML does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Vec<DeviceProcess>>,
}

/// What the hardware sampled of a device's counters, whoever used it. Cycles are counted, so that what the samples cover has no error of its own; what they do not
/// cover is `end_ns - start_ns - sampled_ns`, and nothing is said of it. Of an interval's edge a sample or two may stand in the next one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PmReading {
    /// From when in the interval it held, `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// Until when. The same where it could not be had.
    pub end_ns: u64,
    /// Cycles in which tensor cores were active, summed over all of them.
    pub tensor_cycles: u64,
    /// SM cycles that passed in the samples.
    pub elapsed_cycles: u64,
    /// Tensor cycles that are counted in an SM cycle when all tensor cores are active, by CUPTI's model of the chip; 0 where no sample came.
    pub peak: f64,
    /// Time that the samples cover, on the device's clock.
    pub sampled_ns: u64,
    /// Samples.
    pub samples: u64,
    /// Samples that are not in the sums: they found no room, or said what cannot be.
    pub dropped: u64,
    /// Times that the hardware's buffer ran over, and samples were lost.
    pub overflows: u64,
    /// Why it could not be had, or why it ended; empty as long as it holds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ended: String,
}

impl PmReading {
    /// The time in which the device's tensor cores were active, at their peak, s; none where there are no samples.
    #[must_use]
    pub fn tensor_s(&self) -> Option<f64> {
        let most = self.peak * self.elapsed_cycles as f64;
        (self.samples > 0 && most > 0.0).then(|| self.tensor_cycles as f64 / most * self.sampled_ns as f64 / 1e9)
    }

    /// The mean SM clock in the samples, Hz; none where there are none.
    #[must_use]
    pub fn hertz(&self) -> Option<f64> {
        (self.sampled_ns > 0 && self.elapsed_cycles > 0).then(|| self.elapsed_cycles as f64 / self.sampled_ns as f64 * 1e9)
    }
}

/// A process on a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceProcess {
    /// Which; its start is 0 where it was gone before it was asked for.
    #[serde(flatten)]
    pub id: Id,
    /// Per cent of the time in which a kernel of it ran, as the driver says; none where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm_pct: Option<f64>,
    /// Device memory, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

/// What a process called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Which.
    #[serde(flatten)]
    pub id: Id,
    /// Calls by entry point, in the interval. Those of launches only while these were counted.
    pub calls: BTreeMap<String, u64>,
}

/// A process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which.
    #[serde(flatten)]
    pub id: Id,
    /// When, `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Its status as `wait` has it; none where only its absence was noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u32>,
}

/// The CPUs' side, since the witness began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// The job's processes.
    pub job: CpuCounts,
    /// The meter's threads in them.
    pub meter: CpuCounts,
    /// The witness itself.
    pub witness: CpuCounts,
}

/// What perf events counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuCounts {
    /// Threads or processes that events were opened on; what they start is counted with them.
    pub opened: u64,
    /// CPU time.
    pub task_clock_ns: u64,
    /// Context switches.
    pub context_switches: u64,
    /// Cycles; none without a PMU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycles: Option<u64>,
    /// Floating-point events by the CPU's own name, scaled up where events took turns; empty without a PMU.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floating_point: BTreeMap<String, u64>,
    /// FLOP that these events stand for; none without a PMU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flop: Option<u64>,
}
