//! The CPUs' side, by perf events: how much CPU time and, where the CPU's own counters are there, how many floating-point operations a job's processes took.
//!
//! An event opened on a thread counts what that thread starts from then on too, so a job is counted from its first process down.

use std::{collections::BTreeMap, io, path::Path};

use perf_event::{
    Builder, Counter, ReadFormat,
    events::{Event, Hardware, Raw, Software},
};

use super::identity;
use crate::{
    evidence::{
        life,
        witness::{CpuCounts, Source},
    },
    foreign,
    process::{self, Folder},
};

/// A floating-point event: its name, its raw code, and the FLOP that one count stands for.
type FloatingPoint = (&'static str, u64, u64);

/// Intel's FP_ARITH_INST_RETIRED (event 0xc7) by width; a fused multiply-add counts twice (Software Developer's Manual, volume 3B).
const INTEL: [FloatingPoint; 8] = [
    ("fp_arith_inst_retired.scalar_double", 0x01c7, 1),
    ("fp_arith_inst_retired.scalar_single", 0x02c7, 1),
    ("fp_arith_inst_retired.128b_packed_double", 0x04c7, 2),
    ("fp_arith_inst_retired.128b_packed_single", 0x08c7, 4),
    ("fp_arith_inst_retired.256b_packed_double", 0x10c7, 4),
    ("fp_arith_inst_retired.256b_packed_single", 0x20c7, 8),
    ("fp_arith_inst_retired.512b_packed_double", 0x40c7, 8),
    ("fp_arith_inst_retired.512b_packed_single", 0x80c7, 16),
];
/// AMD's retired SSE and AVX operations (event 0x003: additions, multiplications, divisions, multiply-adds, which are two), in FLOP (Processor Programming
/// Reference, families 17h to 1Ah); bfloat16 multiply-adds are another kind, and not in it.
const AMD: [FloatingPoint; 1] = [("fp_ret_sse_avx_ops", 0x0f03, 1)];

/// The floating-point events of this machine's CPUs; why there are none.
fn floating_point() -> Result<&'static [FloatingPoint], &'static str> {
    if !Path::new("/sys/bus/event_source/devices/cpu").exists() && !Path::new("/sys/bus/event_source/devices/cpu_core").exists() {
        return Err("the CPU's counters are not there (most virtual machines hide them): no cycles, no floating-point operations");
    }
    let info = foreign::text("/proc/cpuinfo").unwrap_or_default();
    let vendor = info.lines().find_map(|l| l.strip_prefix("vendor_id")?.split(':').nth(1)).map_or("", str::trim);
    match vendor {
        "GenuineIntel" => Ok(&INTEL),
        "AuthenticAMD" => Ok(&AMD),
        _ => Err("no floating-point events are known here for this CPU"),
    }
}

/// Whether the CPU's own counters are there.
#[must_use]
pub fn source() -> Source {
    match floating_point() {
        Ok(_) => Source { on: true, ..Source::default() },
        Err(why) => {
            Source { on: false, why: why.to_owned(), remedy: "a machine, or a virtual one, whose hypervisor shows the PMU".to_owned() }
        }
    }
}

/// Events on one thread.
struct Events {
    clock: Counter,
    switches: Counter,
    cycles: Option<Counter>,
    floating_point: Vec<(FloatingPoint, Counter)>,
}

fn open<E: Event + Clone>(event: E, tid: i32, inherit: bool) -> io::Result<Counter> {
    let read = ReadFormat::TOTAL_TIME_ENABLED | ReadFormat::TOTAL_TIME_RUNNING;
    let build = |kernel: bool| {
        let mut builder = Builder::new(event.clone());
        builder.exclude_kernel(!kernel).observe_pid(tid).any_cpu().inherit(inherit).enabled(true).read_format(read).build()
    };
    // Who may not look into the kernel sees the program's part.
    build(true).or_else(|_| build(false))
}

impl Events {
    fn open(tid: i32, inherit: bool) -> io::Result<Self> {
        let floating_point = floating_point().unwrap_or(&[]);
        let pmu = !floating_point.is_empty();
        Ok(Self {
            clock: open(Software::TASK_CLOCK, tid, inherit)?,
            switches: open(Software::CONTEXT_SWITCHES, tid, inherit)?,
            cycles: pmu.then(|| open(Hardware::CPU_CYCLES, tid, inherit).ok()).flatten(),
            floating_point: floating_point.iter().filter_map(|e| Some((*e, open(Raw::new(e.1), tid, inherit).ok()?))).collect(),
        })
    }

    fn add_to(&mut self, counts: &mut CpuCounts) {
        counts.opened += 1;
        counts.task_clock_ns += read(&mut self.clock);
        counts.context_switches += read(&mut self.switches);
        if let Some(cycles) = &mut self.cycles {
            *counts.cycles.get_or_insert(0) += read(cycles);
        }
        for ((name, _, flop), counter) in &mut self.floating_point {
            let count = read(counter);
            *counts.floating_point.entry((*name).to_owned()).or_default() += count;
            *counts.flop.get_or_insert(0) += count * *flop;
        }
    }
}

/// A count, scaled up where the event took turns with others.
fn read(counter: &mut Counter) -> u64 {
    let Ok(data) = counter.read_full() else { return 0 };
    let times = data.time_enabled().zip(data.time_running());
    match times.map(|(a, b)| (a.as_nanos(), b.as_nanos())) {
        Some((enabled, running)) if running > 0 && running < enabled => {
            u64::try_from(u128::from(data.count()) * enabled / running).unwrap_or(u64::MAX)
        }
        _ => data.count(),
    }
}

/// Perf events on a job, on the meter's threads in it, and on this process.
#[derive(Default)]
pub struct Cpus {
    job: BTreeMap<u32, Events>,
    meter: BTreeMap<u32, Events>,
    witness: Option<Events>,
}

impl Cpus {
    /// Begins to count this process.
    #[must_use]
    pub fn new() -> Self {
        Self { witness: Events::open(0, true).ok(), ..Self::default() }
    }

    /// Begins to count a job: its first process, and those that this has started so far.
    ///
    /// # Errors
    /// What the kernel says, when nothing could be opened.
    pub fn add_job(&mut self, pid: u32) -> io::Result<()> {
        let mut error = None;
        for pid in descendants(pid) {
            for tid in Folder::of(pid).threads().flatten() {
                match Events::open(tid.cast_signed(), true) {
                    Ok(events) => drop(self.job.insert(tid, events)),
                    Err(e) => error = Some(e),
                }
            }
        }
        match error {
            Some(e) if self.job.is_empty() => Err(e),
            _ => Ok(()),
        }
    }

    /// Begins to count the meter's threads in a process. Returns whether it has any.
    pub fn add_meter(&mut self, pid: u32) -> bool {
        let mut found = false;
        let process = Folder::of(pid);
        for tid in process.threads().flatten() {
            // That of the program may have the name too: `flopsprof demo`.
            if tid == pid || !life::is_ours(&process.thread(tid).name()) {
                continue;
            }
            found = true;
            if !self.meter.contains_key(&tid)
                && let Ok(events) = Events::open(tid.cast_signed(), false)
            {
                self.meter.insert(tid, events);
            }
        }
        found
    }

    /// What was counted so far: job, meter, witness.
    pub fn read(&mut self) -> crate::evidence::witness::Cpu {
        let mut cpu = crate::evidence::witness::Cpu::default();
        self.job.values_mut().for_each(|e| e.add_to(&mut cpu.job));
        self.meter.values_mut().for_each(|e| e.add_to(&mut cpu.meter));
        self.witness.iter_mut().for_each(|e| e.add_to(&mut cpu.witness));
        cpu
    }
}

/// A process and all that come from it.
fn descendants(root: u32) -> Vec<u32> {
    let parents: BTreeMap<u32, u32> = process::all().filter_map(|p| Some((p, identity::stat(p)?.parent))).collect();
    let below = |mut pid: u32| {
        while let Some(parent) = parents.get(&pid) {
            if pid == root {
                return true;
            }
            pid = *parent;
        }
        false
    };
    parents.keys().copied().filter(|p| below(*p)).collect()
}
