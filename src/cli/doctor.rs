//! `flopsprof doctor`: what is in place for metering, and what is missing with the exact fix.

use std::{
    ffi::CString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use cupti_sys::{Cupti, raw};
use flopsprof::{
    counter::{
        find,
        host::{Host, chip_name},
        session::{RangeProfiler, Ranges},
    },
    inject::config,
    process::{self, Folder},
    witness::{library::maps, nvml::Witness, pm::COUNTERS_FOR_ALL, probe::Probes},
};

use super::library;

/// Show what is in place for metering on this machine, and how to fix what is not.
///
/// Exit status: 0 if everything is metered here; 1 if something is missing, with the remedy beside it.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Lines so far, and whether all is well.
#[derive(Default)]
struct Findings {
    bad: bool,
}

impl Findings {
    fn ok(&self, what: &str, says: impl AsRef<str>) {
        println!("  ok       {what:<22} {}", says.as_ref());
    }

    fn note(&self, what: &str, says: impl AsRef<str>) {
        println!("  note     {what:<22} {}", says.as_ref());
    }

    fn missing(&mut self, what: &str, says: impl AsRef<str>, remedy: impl AsRef<str>) {
        self.bad = true;
        println!("  MISSING  {what:<22} {}\n           {:<22} fix: {}", says.as_ref(), "", remedy.as_ref());
    }
}

pub(crate) fn run(_args: Args) -> Result<ExitCode> {
    let mut findings = Findings::default();
    println!("flopsprof {}", env!("CARGO_PKG_VERSION"));
    environment(&mut findings);
    let devices = driver(&mut findings);
    let cupti = libcupti(&mut findings);
    permission(&mut findings);
    if devices > 0 {
        counters(&mut findings, cupti);
    }
    limits(&mut findings);
    witness(&findings);
    println!(
        "{}",
        if findings.bad {
            "something is not metered here: see MISSING above"
        } else {
            "all in place: programs under the meter are counted here"
        }
    );
    Ok(if findings.bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn environment(f: &mut Findings) {
    match library::path() {
        Ok(path) => f.ok("library", path.display().to_string()),
        Err(e) => f.missing("library", format!("{e:#}"), "build or install it beside this command"),
    }
    if let Some(other) = std::env::var_os("CUDA_INJECTION64_PATH") {
        f.note("CUDA_INJECTION64_PATH", format!("is taken by {}: the meter looks for CUDA ten times a second instead", other.display()));
    }
    if config::disabled() {
        f.missing("FLOPSPROF_DISABLE", "is set: nothing is metered", "unset it");
    }
}

/// The driver and NVML; returns the number of devices.
fn driver(f: &mut Findings) -> usize {
    match fs::read_to_string("/proc/driver/nvidia/version") {
        Ok(version) => f.ok("kernel driver", version.lines().next().unwrap_or_default().trim()),
        Err(_) => f.missing(
            "kernel driver",
            "not loaded (/proc/driver/nvidia/version is not there)",
            "install NVIDIA's driver; in a container, start it with --gpus all",
        ),
    }
    // SAFETY: only looks whether the library loads.
    if unsafe { cudarc::driver::sys::is_culib_present() } {
        f.ok("libcuda", "loads");
    } else {
        f.missing(
            "libcuda",
            "libcuda.so.1 cannot be loaded",
            "it comes with the driver; in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        );
        return 0;
    }
    match Witness::load() {
        Ok(witness) => {
            f.ok("NVML", format!("driver {}", witness.driver()));
            let devices = witness.devices();
            for device in &devices {
                let identity = &device.identity;
                let gpm = if identity.gpm { "GPM yes" } else { "GPM no (Hopper and later have it)" };
                f.ok(
                    "device",
                    format!(
                        "{} {}, {gpm}, MIG {}, {} process(es) on it",
                        device.name,
                        device.uuid,
                        identity.mig,
                        device.processes.unwrap_or(0)
                    ),
                );
                if identity.confidential_computing == "on" {
                    f.missing(
                        "counters",
                        "are off under confidential computing",
                        "none: the two exclude each other; the NVML tiers remain",
                    );
                }
            }
            devices.len()
        }
        Err(e) => {
            f.missing(
                "NVML",
                format!("cannot be loaded ({e}): no energy, power, clocks"),
                "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            );
            cudarc::driver::CudaContext::device_count().ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
        }
    }
}

fn libcupti(f: &mut Findings) -> Option<find::Found> {
    let named = std::env::var_os(config::CUPTI).map(PathBuf::from);
    match find::find(named.as_deref(), &|name| std::env::var_os(name)) {
        Ok(found) => {
            let mark = if find::is_stand_in(&found) { " (simulated)" } else { "" };
            f.ok("libcupti", format!("{}, API {}, found by {}{mark}", found.path.display(), found.version, found.how));
            f.note("libcupti", "a Python program takes the copy in its own environment, which may be another");
            Some(found)
        }
        Err(e) => {
            let says = e.to_string();
            let (what, fix) = says.split_once(": ").unwrap_or((&says, "install nvidia-cuda-cupti with pip"));
            f.missing("libcupti", what, fix);
            None
        }
    }
}

fn permission(f: &mut Findings) {
    let Ok(params) = fs::read_to_string("/proc/driver/nvidia/params") else { return };
    let admin_only = params.lines().any(|l| l.trim() == "RmProfilingAdminOnly: 1");
    // SAFETY: no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let capable = Folder::own().status().and_then(|s| s.capabilities()).is_some_and(|c| c & (1 << 21) != 0);
    match (admin_only, root || capable) {
        (false, _) => f.ok("counter permission", "every user (RmProfilingAdminOnly: 0)"),
        (true, true) => f.ok("counter permission", "administrators only, and this user is one (root or CAP_SYS_ADMIN)"),
        (true, false) => {
            f.missing("counter permission", "administrators only (RmProfilingAdminOnly: 1), and this user is none", COUNTERS_FOR_ALL);
        }
    }
}

/// Takes the counters of each device for a moment.
fn counters(f: &mut Findings, found: Option<find::Found>) {
    let Some(found) = found else { return };
    let count = cudarc::driver::CudaContext::device_count().unwrap_or(0);
    for ordinal in 0..usize::try_from(count).unwrap_or(0) {
        match take(found.cupti, ordinal) {
            Ok(()) => f.ok("counters", format!("device {ordinal}: free, and this user may read them")),
            Err(e) if e.contains("HARDWARE_BUSY") => f.missing(
                "counters",
                format!("device {ordinal}: somebody holds them{}", holders()),
                "end it, or on hosts with DCGM: dcgmi profile --pause; metered programs take turns by themselves",
            ),
            Err(e) => f.missing("counters", format!("device {ordinal}: {e}"), "see the lines above; the NVML tiers remain"),
        }
    }
}

fn take(cupti: Cupti, ordinal: usize) -> Result<(), String> {
    use flopsprof::counter::{plan, session::Group};
    use raw::Params as _;
    let context = cudarc::driver::CudaContext::new(ordinal).map_err(|e| e.to_string())?;
    // SAFETY: nothing goes in but the size.
    unsafe { cupti.profiler_initialize(&mut raw::ProfilerInitialize::sized()) }.map_err(|e| e.to_string())?;
    let chip = chip_name(cupti, u32::try_from(ordinal).unwrap_or(u32::MAX)).map_err(|e| e.to_string())?;
    let host = Host::open(cupti, &chip).map_err(|e| e.to_string())?;
    let plan = plan::of_chip(&host).map_err(|e| e.to_string())?;
    let first = plan.groups.first().ok_or_else(|| format!("CUPTI knows no tensor counters of {chip}"))?;
    let mut group = Group::new(&host, first).map_err(|e| e.to_string())?;
    // SAFETY: the context lives until the end of this function.
    let mut profiler = unsafe { RangeProfiler::enable(cupti, context.cu_ctx().cast(), Ranges::One) }.map_err(|e| e.to_string())?;
    let opened = profiler.open(&mut group).map_err(|e| e.to_string());
    if opened.is_ok() {
        let _ = profiler.close(&mut group);
    }
    let _ = profiler.disable();
    opened
}

/// Programs that are known to hold counters, of those that run.
fn holders() -> String {
    const KNOWN: [&str; 6] = ["nv-hostengine", "dcgm-exporter", "ncu", "nsys", "nsight", "flopsprof"];
    let mut found = Vec::new();
    for pid in process::all().filter(|p| *p != std::process::id()) {
        let name = Folder::of(pid).name();
        if KNOWN.iter().any(|k| name.starts_with(k)) || maps(pid).is_some_and(|m| m.metered) {
            found.push(format!("{name} ({pid})"));
        }
    }
    if found.is_empty() { String::new() } else { format!(", perhaps {}", found.join(", ")) }
}

/// The witness is no part of metering: what it lacks is a note.
fn witness(f: &Findings) {
    match Probes::load() {
        Ok(_) => f.ok("witness", "probes in the kernel load here: flopsprof watch sees who uses the GPUs"),
        Err(e) => f.note("witness", format!("sees less here: {}: {}", e.what, e.remedy)),
    }
}

fn limits(f: &mut Findings) {
    let shm = CString::new("/dev/shm").unwrap_or_default();
    // SAFETY: the string ends in NUL.
    if unsafe { libc::access(shm.as_ptr(), libc::W_OK) } != 0 {
        f.note("/dev/shm", "cannot be written: metered programs that share a GPU cannot take turns at its counters");
    }
    if Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists() {
        f.note("container", "yes: only programs in this container are seen, and the host's driver settings decide on counters");
    }
    let limit = fs::read_to_string("/sys/fs/cgroup/pids.max").unwrap_or_default();
    if let Ok(n) = limit.trim().parse::<u64>() {
        f.note("pids limit", format!("{n}: the meter needs one thread in each process that uses CUDA"));
    }
}
