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
    /// NVML at the end of the interval.
    pub nvml: NvmlReading,
    /// Since when GPM's part of it is.
    pub gpm_since_ns: u64,
    /// SM clock, the mean of many looks in the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<f64>,
    /// Processes that the driver lists on it; none where NVML does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Vec<DeviceProcess>>,
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
