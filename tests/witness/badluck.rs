//! What is missing is said in a line, and the rest is done.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    alone,
    harness::{Bench, built},
    held::{Held, command},
    watch::{Watch, environment, flopsprof, launches, lost, seen},
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
    let began = std::time::Instant::now();
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
