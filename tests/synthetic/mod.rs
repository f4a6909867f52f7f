//! Evidence of runs that never were: written by the library's own writer, marked as simulated, for what a stand-in GPU does not do (estimates,
//! hours, thousands of ranks).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use flopsprof::evidence::{
    record::{
        Boundary, Declare, Device, End, FORMAT, Fault, Host, Kernels, Library, NvmlReading, Plan, Process, Reading, Record, Start, Tier,
        Window,
    },
    write::Writer,
};

/// Counted all the time.
pub(crate) const BF16: &str = "sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32";
/// Takes turns with others.
pub(crate) const FP64: &str = "sm__ops_path_tensor_src_fp64";

/// FLOP of a window of 10 s, of [`BF16`].
pub(crate) const WINDOW_FLOP: u128 = 4_000_000_000_000_000;
/// Length of a window.
pub(crate) const WINDOW_NS: u64 = 10_000_000_000;
/// When these runs began: 2026-01-01.
pub(crate) const BEGAN_UNIX_NS: u64 = 1_767_225_600_000_000_000;

/// One process's evidence, to be changed at will before it is written.
#[derive(Clone)]
pub(crate) struct Evidence {
    pub(crate) start: Start,
    /// `CLOCK_MONOTONIC` of the first line.
    pub(crate) at_ns: u64,
    pub(crate) device: Device,
    pub(crate) plan: Plan,
    pub(crate) windows: Vec<Window>,
    /// Of NVML between the windows' edges: when, and what.
    pub(crate) readings: Vec<(u64, NvmlReading)>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) declared: Option<Declare>,
    /// Censuses, each written after its window.
    pub(crate) censuses: Vec<Kernels>,
    /// Tokens of the whole run.
    pub(crate) tokens: u64,
    /// Whether it ends with its last record.
    pub(crate) ended: bool,
}

impl Evidence {
    /// A rank that was counted from beginning to end.
    pub(crate) fn counted(host: &str, rank: u64, world: u64, windows: u64) -> Self {
        let at_ns = 5_000_000_000;
        let job = [("RANK", rank), ("WORLD_SIZE", world)].map(|(n, v)| (n.to_owned(), v.to_string()));
        let windows = (0..windows).map(|index| {
            let start_ns = at_ns + index * WINDOW_NS;
            Window {
                device: 0,
                index,
                start_ns,
                end_ns: start_ns + WINDOW_NS,
                tier: Tier::Counted,
                why: String::new(),
                group: Some(0),
                counts: BTreeMap::from([(BF16.to_owned(), WINDOW_FLOP), (FP64.to_owned(), 0)]),
                cycles: Some(19_800_000_000),
                opened: Boundary { gated: true, took_ns: 1_000_000, held: 2, longest_wait_ns: 900_000, ..Boundary::default() },
                nvml: Some(nvml(index + 1)),
                tokens: (index + 1) * 1000,
                steps: index + 1,
                meter_cpu_ns: (index + 1) * 1_000_000,
                ..Window::default()
            }
        });
        Self {
            at_ns,
            start: Start {
                format: FORMAT,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                simulated: true,
                witness: false,
                unix_ns: BEGAN_UNIX_NS,
                host: Host { hostname: host.to_owned(), boot_id: format!("boot-of-{host}"), kernel: "6.1.0".to_owned() },
                process: Process {
                    pid: u32::try_from(1000 + rank).expect("a process id"),
                    start_ticks: 77,
                    comm: "python".to_owned(),
                    ..Process::default()
                },
                configuration: BTreeMap::new(),
                job: job.into(),
            },
            device: Device {
                device: 0,
                name: "Stand-in H100".to_owned(),
                uuid: format!("GPU-666c6f70-7369-6d00-0000-{rank:012x}"),
                pci: "00000000:01:00.0".to_owned(),
                chip: "GH100".to_owned(),
                compute_capability: (9, 0),
                sm_count: 132,
                max_sm_clock_mhz: 1980,
                driver: "580.0".to_owned(),
                mig: "off".to_owned(),
                confidential_computing: "off".to_owned(),
                gpm: true,
                peak_flop_per_cycle: BTreeMap::from([(BF16.to_owned(), 540_672.0), (FP64.to_owned(), 33_792.0)]),
            },
            plan: Plan { device: 0, groups: vec![vec![BF16.to_owned(), FP64.to_owned()], vec![BF16.to_owned()]], uncovered: Vec::new() },
            windows: windows.collect(),
            readings: Vec::new(),
            faults: Vec::new(),
            declared: None,
            censuses: Vec::new(),
            tokens: 0,
            ended: true,
        }
    }

    /// The same with [`FP64`] on in every second window only: the rest is interpolated.
    pub(crate) fn taking_turns(mut self) -> Self {
        for window in &mut self.windows {
            if window.index % 2 == 0 {
                window.counts.insert(FP64.to_owned(), 70_000_000_000_000 + u128::from(window.index) * 1_000_000_000_000);
            } else {
                window.counts.remove(FP64);
                window.group = Some(1);
            }
        }
        self
    }

    /// The same with no counters at all: NVML alone speaks.
    pub(crate) fn estimated(mut self, tier: Tier) -> Self {
        for window in &mut self.windows {
            window.tier = tier;
            window.counts.clear();
            window.cycles = None;
            window.group = None;
            window.why = "no libcupti".to_owned();
        }
        self
    }

    /// Writes it; returns the file.
    pub(crate) fn write(&self, folder: &Path) -> PathBuf {
        let name = format!("{}-{}-{}.jsonl", self.start.host.hostname, self.start.process.pid, self.start.process.start_ticks);
        let mut writer = Writer::create(folder, &name).expect("an evidence file");
        let mut append = |at_ns, record| writer.append(at_ns, &record).expect("a line of evidence");
        append(self.at_ns, Record::Start(Box::new(self.start.clone())));
        for (name, version) in [("libcuda", "13000"), ("libcupti", "130001")] {
            let library = Library { name: name.to_owned(), version: version.to_owned(), ..Library::default() };
            append(self.at_ns, Record::Library(library));
        }
        append(self.at_ns, Record::Device(Box::new(self.device.clone())));
        append(self.at_ns, Record::Plan(self.plan.clone()));
        self.faults.iter().for_each(|f| append(self.at_ns, Record::Fault(f.clone())));
        self.declared.iter().for_each(|d| append(self.at_ns, Record::Declare(d.clone())));
        append(self.at_ns, Record::Reading(Reading { device: 0, nvml: nvml(0) }));
        let mut readings = self.readings.iter().peekable();
        for window in &self.windows {
            while let Some((at_ns, nvml)) = readings.next_if(|(at_ns, _)| *at_ns < window.end_ns) {
                append(*at_ns, Record::Reading(Reading { device: 0, nvml: nvml.clone() }));
            }
            append(window.end_ns, Record::Window(Box::new(window.clone())));
            let its = self.censuses.iter().filter(|c| c.window == Some(window.index));
            its.for_each(|c| append(window.end_ns, Record::Kernels(Box::new(c.clone()))));
        }
        if self.ended {
            let last = self.windows.last().map_or(self.at_ns, |w| w.end_ns);
            let steps = self.windows.last().map_or(0, |w| w.steps);
            let end = End {
                reason: "exit".to_owned(),
                lines_lost: 0,
                tokens: self.tokens,
                steps,
                meter_cpu_ns: self.windows.len() as u64 * 1_000_000,
            };
            append(last, Record::End(end));
        }
        writer.path().to_owned()
    }
}

/// What NVML says after so many windows: 600 W.
pub(crate) fn nvml(windows: u64) -> NvmlReading {
    NvmlReading {
        energy_mj: Some(1_000_000 + windows * 6_000_000),
        power_mw: Some(600_000),
        sm_clock_mhz: Some(1980),
        throttle_reasons: Some(0),
        gpu_utilization_pct: Some(99),
        gpm_hmma_pct: Some(45.0),
        gpm_dmma_pct: Some(0.0),
        gpm_any_tensor_pct: Some(45.0),
    }
}
