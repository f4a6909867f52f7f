//! What is missing is said in a line, and the rest is done.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use crate::{
    alone,
    harness::{Bench, built},
    held::{Held, command},
    watch::{Watch, environment, flopsprof, launches, lost, records, seen},
};

/// `flopsprof watch` where something is hidden from it.
fn hidden(bench: &Bench, hide: &str) -> Command {
    let mut shell = Command::new("unshare");
    let watch = format!("{hide}\nexec {} watch --launches all --out {}", env!("CARGO_BIN_EXE_flopsprof"), bench.out().display());
    shell.args(["--mount", "sh", "-ec", &watch]);
    shell.envs(environment(&flopsprof(bench)));
    shell
}

/// Without the kernel's types the probes would read garbage: they are not loaded, and NVML still says who was on the device.
#[test]
fn no_btf() {
    let _alone = alone();
    let bench = Bench::new();
    let watch = Watch::begin(hidden(&bench, "mount -t tmpfs none /sys/kernel/btf"), &bench.out());
    assert!(
        watch.said[0].starts_with("flopsprof: witnessed in part: no probes in the kernel (the kernel does not tell its types")
            && watch.said[0].contains("CONFIG_DEBUG_INFO_BTF"),
        "{:?}",
        watch.said
    );
    let held = Held::start(command(&bench, "", &["100"]));
    let pid = held.pid;
    std::thread::sleep(Duration::from_millis(1500));
    held.work();
    let records = watch.end();
    assert_eq!((launches(&records, pid), &seen(&records, pid)["how"]), (0, &"nvml".into()));
    assert_eq!(records[1]["ebpf"]["on"], false);
}

#[test]
fn no_uprobes() {
    let _alone = alone();
    let bench = Bench::new();
    let watch = Watch::begin(hidden(&bench, "mount -t tmpfs none /sys/bus/event_source/devices"), &bench.out());
    assert!(watch.said[0].contains("the kernel has no uprobes") && watch.said[0].contains("CONFIG_UPROBES"), "{:?}", watch.said);
    watch.end();
}

/// Nothing of it needs tracefs.
#[test]
fn no_tracefs() {
    let _alone = alone();
    let bench = Bench::new();
    let hide = "for d in /sys/kernel/tracing /sys/kernel/debug; do if [ -d $d ]; then mount -t tmpfs none $d; fi; done";
    let watch = Watch::begin(hidden(&bench, hide), &bench.out());
    assert_eq!(watch.said.len(), 1, "{:?}", watch.said);
    let held = Held::start(command(&bench, "", &["321"]));
    let (pid, made) = (held.pid, held.work());
    assert_eq!(launches(&watch.end(), pid), made);
}

/// Somebody without privileges learns what is missing; where NVML is missing too there is nothing to witness.
#[test]
fn an_unprivileged_user() {
    let _alone = alone();
    let bench = Bench::new();
    // Where anybody can come.
    let place = tempfile::Builder::new().prefix("flopsprof-").tempdir_in("/tmp").expect("a temporary folder");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
    let program = place.path().join("flopsprof");
    fs::copy(env!("CARGO_BIN_EXE_flopsprof"), &program).expect("copying the command");
    fs::copy(built().join("libflopsprof_sim_nvml.so"), place.path().join("libnvidia-ml.so.1")).expect("copying NVML");
    let run = |libraries: &str| {
        let mut command = Command::new(&program);
        command.args(["watch", "--for", "0.5", "--out"]).arg(place.path().join("evidence")).current_dir(place.path());
        command.env("LD_LIBRARY_PATH", libraries).env("FLOPSPROF_SIM_DIR", place.path().join("gpu")).stdin(Stdio::null());
        let output = command.uid(65534).gid(65534).output().expect("the command");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let (code, said) = run(place.path().to_str().expect("UTF-8"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("flopsprof: witnessed in part: no probes in the kernel (loading the probes: "), "{said}");
    assert!(said.contains("run it as root, or with CAP_SYS_ADMIN"), "{said}");
    let (code, said) = run("/nonexistent");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.starts_with("flopsprof: not witnessed: ") && said.lines().count() == 1 && said.contains("no NVML"), "{said}");
    drop(bench);
}

/// A node that starts hundreds of processes a second: none of them is lost unsaid, and the witness takes little of it.
#[test]
fn hundreds_of_short_lived_processes_a_second() {
    let _alone = alone();
    let bench = Bench::new();
    let watch = Watch::start(&bench, &["--every", "1"]);
    let before = watch.cpu();
    let script = "i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done";
    let began = Instant::now();
    assert!(Command::new("sh").args(["-c", script]).status().expect("a shell").success());
    let (took, cpu) = (began.elapsed(), watch.cpu() - before);
    let records = watch.end();
    let life = |i: usize| records.iter().filter_map(|r| r["life"][i].as_u64()).sum::<u64>();
    let (events, calls) = lost(&records);
    assert!(life(0) + life(1) + life(2) + events >= 3000 && calls == 0, "{} {} {} {events}", life(0), life(1), life(2));
    assert_eq!(events, 0, "1 MiB holds more than comes in a round");
    assert!(cpu < Duration::from_millis(300) + took / 5, "{cpu:?} of {took:?}");
}

/// Who reads too late learns how much was lost.
#[test]
fn a_witness_that_was_stopped_says_what_it_lost() {
    let _alone = alone();
    let bench = Bench::new();
    let watch = Watch::start(&bench, &["--every", "1"]);
    watch.signal(libc::SIGSTOP);
    let script = "i=0; while [ $i -lt 6000 ]; do /bin/true; i=$((i+1)); done";
    assert!(Command::new("sh").args(["-c", script]).status().expect("a shell").success());
    watch.signal(libc::SIGCONT);
    let records = watch.end();
    let life = |i: usize| records.iter().filter_map(|r| r["life"][i].as_u64()).sum::<u64>();
    let (events, _) = lost(&records);
    assert!(events > 0 && life(0) + life(1) + life(2) + events >= 18_000, "{} {} {} {events}", life(0), life(1), life(2));
}

/// Functions of NVML that the witness calls, and how many kinds of garbage there are for each. The job's own process is beside it: `tests/hostile/faults.rs`.
const NVML: [(&str, u32); 23] = [
    ("nvmlInit_v2", 0),
    ("nvmlSystemGetDriverVersion", 1),
    ("nvmlSystemGetConfComputeState", 3),
    ("nvmlSystemGetConfComputeGpusReadyState", 3),
    ("nvmlDeviceGetCount_v2", 3),
    ("nvmlDeviceGetHandleByIndex_v2", 0),
    ("nvmlDeviceGetHandleByUUID", 0),
    ("nvmlDeviceGetUUID", 3),
    ("nvmlDeviceGetName", 3),
    ("nvmlDeviceGetMigMode", 3),
    ("nvmlDeviceGetMaxClockInfo", 3),
    ("nvmlDeviceGetClockInfo", 3),
    ("nvmlDeviceGetPowerUsage", 3),
    ("nvmlDeviceGetTotalEnergyConsumption", 3),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", 1),
    ("nvmlDeviceGetUtilizationRates", 3),
    ("nvmlDeviceGetComputeRunningProcesses_v3", 3),
    ("nvmlDeviceGetProcessUtilization", 3),
    ("nvmlGpmQueryDeviceSupport", 3),
    ("nvmlGpmMetricsGet", 4),
    ("nvmlGpmSampleAlloc", 0),
    ("nvmlGpmSampleGet", 0),
    ("nvmlGpmSampleFree", 0),
];

/// Each call of NVML fails, once or always; says it did what it did not; answers garbage; hangs for 10 s: the witness ends in its time, and what it left can be read.
#[test]
fn every_call_of_nvml_may_fail_lie_and_answer_garbage() {
    let calls = {
        let bench = Bench::new();
        let list = bench.dir.path().join("calls");
        let bench = bench.env("FLOPSPROF_SIM_CALLS", &list);
        witnessed(&bench, "none");
        fs::read_to_string(list).expect("the list of calls")
    };
    for function in calls.lines().filter_map(|l| l.split(' ').find(|w| w.starts_with("nvml"))) {
        assert!(NVML.iter().any(|(f, _)| *f == function), "{function} is called, and not among those that fail");
    }
    let mut faults = Vec::new();
    for (function, kinds) in NVML {
        assert!(calls.contains(function), "{function} is not called");
        faults.extend([format!("{function}=999"), format!("{function}=999@2"), format!("{function}=hang:10000@2")]);
        // A handle or a sample that was never made cannot be told from one that was.
        if !function.contains("Handle") && !function.contains("GpmSample") {
            faults.push(format!("{function}=0"));
        }
        faults.extend((0..kinds).map(|kind| format!("{function}=garbage:{kind}")));
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    witnessed(&Bench::new().fault(fault), fault);
                }
            });
        }
    });
    eprintln!("faults: {} in {} functions of NVML, all survived by the witness", faults.len(), NVML.len());
}

/// Lets a witness without probes watch for a moment.
fn witnessed(bench: &Bench, fault: &str) {
    let held = Held::start(command(bench, "", &["100"]));
    let began = Instant::now();
    let mut watch = flopsprof(bench);
    watch.args(["watch", "--no-ebpf", "--every", "0.2", "--for", "0.7", "--out"]).arg(bench.out()).stdin(Stdio::null());
    let output = watch.output().expect("the witness");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(began.elapsed() < Duration::from_secs(20), "{fault}: it took {:?}: {said}", began.elapsed());
    // Without any device there is nothing to witness.
    assert!(matches!(output.status.code(), Some(0 | 3)) && !said.contains("panicked"), "{fault}: {:?}, {said}", output.status);
    if output.status.code() == Some(0) {
        let records = records(&bench.out());
        assert!(records.last().is_some_and(|r| r["type"] == "end"), "{fault}: {records:#?}");
        let report = flopsprof(bench).arg("report").arg(bench.out()).output().expect("the command");
        assert_eq!(report.status.code(), Some(0), "{fault}: {}", String::from_utf8_lossy(&report.stderr));
    }
    held.work();
}
