//! `flopsprof run` brings its witness along, and the report says how much was metered.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    alone,
    harness::{Bench, zoo},
    held::{Held, command},
    watch::{flopsprof, records},
};

fn report(bench: &Bench) -> Value {
    let output = flopsprof(bench).args(["report", "--json"]).arg(bench.out()).output().expect("the command");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Launches of a program that works for some seconds, and of one that works for twenty.
const WORK: [u32; 2] = [2000, 20_000];

/// A busy machine may begin to watch late: of a program of some seconds the report then says that it was watched for too short a part of its time. So a longer one is to follow.
fn began_late(completeness: &Value, launches: u32) -> bool {
    launches == WORK[0]
        && completeness["why"].as_str().is_some_and(|w| w.starts_with("watched for ") && w.ends_with(" of the metered time only"))
}

/// `flopsprof run` with a program that works for some seconds.
fn wrapped(bench: &Bench, options: &[&str]) -> Command {
    working(bench, options, WORK[0])
}

fn working(bench: &Bench, options: &[&str], launches: u32) -> Command {
    let mut run = flopsprof(bench);
    // At a speed at which the GPU is busy for a good part of the time.
    run.env("FLOPSPROF_SIM_FLOPS", "1e14").env("FLOPSPROF_LIB", crate::harness::library("flopsprof"));
    run.current_dir(bench.dir.path()).stdin(Stdio::null()).arg("run").args(options).arg(zoo("plain")).args([&launches.to_string(), "1000"]);
    run
}

#[test]
fn a_job_alone_is_complete() {
    let _alone = alone();
    assert!(WORK.into_iter().any(a_job_of_so_many_launches_alone_is_complete));
}

fn a_job_of_so_many_launches_alone_is_complete(launches: u32) -> bool {
    let bench = Bench::new();
    let output = working(&bench, &[], launches).output().expect("the command");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(!said.contains("witness"), "nothing is missing here: {said}");
    let report = report(&bench);
    let c = &report["completeness"];
    if began_late(c, launches) {
        return false;
    }
    let [device] = &c["devices"].as_array().expect("devices")[..] else { panic!("{c:#}") };
    let share = device["completeness"].as_f64().expect("a share");
    assert!((share - 1.0).abs() < 0.03 && device["verdict"] == "complete" && c["verdict"] == "complete", "{c:#}");
    let mine = |p: &&Value| p["program"] == "plain" && p["devices"].as_array().is_some_and(|d| !d.is_empty());
    let [process] = c["processes"].as_array().expect("processes").iter().filter(mine).collect::<Vec<_>>()[..] else { panic!("{c:#}") };
    assert_eq!((&process["metered"], &process["library"]), (&true.into(), &true.into()));
    // The CPUs' side: of the job, of the meter's thread in it, and of the witness.
    for who in ["job", "meter", "witness"] {
        assert!(c["cpu"][who]["task_clock_ns"].as_u64().is_some_and(|ns| ns > 0), "{who}: {:#}", c["cpu"]);
    }
    assert!(c["cpu"]["job"]["flop"].is_u64() || c["no_pmu"].as_str().is_some_and(|w| !w.is_empty()), "{:#}", c["cpu"]);
    // Its evidence is evidence.
    let verify = flopsprof(&bench).arg("verify").arg(bench.out()).output().expect("the command");
    assert_eq!(verify.status.code(), Some(0), "{}", String::from_utf8_lossy(&verify.stdout));
    assert_eq!(report["processes"].as_array().expect("processes").len(), 1, "the witness is no metered process");
    true
}

/// Where the CPU has counters (here a stand-in's), what a job executes on it is counted by the codes of its maker, scaled up where events took turns, and told beside the GPU's.
#[test]
fn what_the_cpu_executes_is_counted_where_it_has_counters() {
    let _alone = alone();
    let intel: Vec<u64> = (0..8).map(|bit| (1 << (8 + bit)) | 0xc7).collect();
    // FLOP of one count of each: scalars, then 128, 256 and 512 bits, doubles before singles.
    for (vendor, codes, flop) in [("GenuineIntel", intel, 1 + 1 + 2 + 4 + 4 + 8 + 8 + 16), ("AuthenticAMD", vec![0xf03], 1)] {
        let bench = Bench::new();
        let (cpuinfo, log) = (bench.dir.path().join("cpuinfo"), bench.dir.path().join("events"));
        std::fs::write(&cpuinfo, format!("processor\t: 0\nvendor_id\t: {vendor}\n")).expect("a file");
        // As `flopsprof run` starts it, which keeps LD_PRELOAD from it.
        let held = Held::start(bench.command(true, "held", &["100"]));
        let mut watch = flopsprof(&bench);
        watch.args(["watch", "--job", &held.pid.to_string(), "--out"]).arg(bench.out());
        watch.env("LD_PRELOAD", zoo("libpmu.so")).env("PMU_CPUINFO", &cpuinfo).env("PMU_LOG", &log).stdin(Stdio::null());
        let mut watch = watch.spawn().expect("starting the witness");
        // It says nothing when all is well: at work it is when its file is there.
        let until = Instant::now() + Duration::from_secs(20);
        while records(&bench.out()).is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        held.work();
        // SAFETY: a signal to our own child.
        unsafe { libc::kill(watch.id().cast_signed(), libc::SIGTERM) };
        assert!(watch.wait().expect("waiting").success());
        let opened: std::collections::BTreeSet<u64> = std::fs::read_to_string(&log)
            .expect("events")
            .lines()
            .filter_map(|l| u64::from_str_radix(l.strip_prefix("4 0x")?, 16).ok())
            .collect();
        assert_eq!(opened, codes.iter().copied().collect(), "{vendor}");
        let c = &report(&bench)["completeness"];
        let job = &c["cpu"]["job"];
        let events = job["opened"].as_u64().expect("a number");
        assert!(events > 0 && c["no_pmu"].as_str().is_none_or(str::is_empty), "{c:#}");
        // Each counted in half of its time.
        assert_eq!(
            (job["flop"].as_u64(), job["cycles"].as_u64()),
            (Some(events * flop * 2_000_000), Some(events * 10_000_000)),
            "{vendor}: {job:#}"
        );
        assert_eq!(job["floating_point"].as_object().map(serde_json::Map::len), Some(codes.len()));
        let text = flopsprof(&bench).arg("report").arg(bench.out()).output().expect("the command");
        assert!(String::from_utf8_lossy(&text.stdout).contains(&format!("{} FLOP on the CPU", events * flop * 2_000_000)));
    }
}

#[test]
fn an_unmetered_process_beside_it_is_named() {
    let _alone = alone();
    assert!(WORK.into_iter().any(an_unmetered_process_beside_so_many_launches_is_named));
}

fn an_unmetered_process_beside_so_many_launches_is_named(launches: u32) -> bool {
    let bench = Bench::new();
    let mut other = bench.command(false, "plain", &[&(launches / 2).to_string(), "2000"]);
    let mut other = other.env("FLOPSPROF_SIM_FLOPS", "1e14").stdout(Stdio::null()).spawn().expect("another program");
    let output = working(&bench, &["-q"], launches).output().expect("the command");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(7), 0));
    assert_eq!(other.wait().expect("waiting").code(), Some(7));
    let report = report(&bench);
    let c = &report["completeness"];
    if began_late(c, launches) {
        return false;
    }
    assert_eq!(c["verdict"], "incomplete", "{c:#}");
    let processes = c["processes"].as_array().expect("processes");
    let found = processes.iter().find(|p| p["pid"] == other.id()).unwrap_or_else(|| panic!("{c:#}"));
    assert_eq!((&found["metered"], &found["worked"], &found["program"]), (&false.into(), &true.into(), &"plain".into()));
    // It made a third of the launches, some of them before the witness was there or after it had gone.
    let share = found["share"].as_f64().expect("a share");
    assert!((0.15..0.40).contains(&share), "{share}");
    let text = flopsprof(&bench).arg("report").arg(bench.out()).output().expect("the command").stdout;
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(
        text.contains("completeness: incomplete (simulated): ") && text.contains(&format!("unmetered: plain {} on ", other.id())),
        "{text}"
    );
    true
}

#[test]
fn who_wants_no_witness_gets_none() {
    let _alone = alone();
    let bench = Bench::new();
    let output = wrapped(&bench, &["--no-witness"]).output().expect("the command");
    assert_eq!((output.status.code(), records(&bench.out()).len()), (Some(7), 0));
    assert_eq!(report(&bench)["completeness"]["verdict"], "not_witnessed");
    let bench = Bench::new();
    let output = wrapped(&bench, &["-q"]).env("FLOPSPROF_WITNESS", "0").output().expect("the command");
    assert_eq!((output.status.code(), records(&bench.out()).len()), (Some(7), 0));
}

/// A command that uses no GPU leaves nothing behind, whoever else uses one.
#[test]
fn without_cuda_there_is_nothing_to_witness() {
    let _alone = alone();
    let bench = Bench::new();
    let held = Held::start(command(&bench, "", &["1"]));
    let output = flopsprof(&bench)
        .env("FLOPSPROF_LIB", crate::harness::library("flopsprof"))
        .args(["run", "--quiet", "sleep", "0.5"])
        .output()
        .expect("the command");
    held.work();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!bench.out().exists());
}
