//! The report that a job leaves without being asked, and the program that must not notice.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{BF16, Bench, library};

const FILES: [&str; 3] = ["report.json", "report.html", "flops_meter.json"];

/// Waits until a file's JSON is as wanted: what is written after the program's end is on its way.
fn awaited(file: &Path, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let began = Instant::now();
    loop {
        let json = fs::read(file).ok().and_then(|b| serde_json::from_slice(&b).ok());
        match json {
            Some(json) if wanted(&json) => return json,
            other => assert!(began.elapsed() < Duration::from_secs(20), "{}: {other:?}", file.display()),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Names in a folder, without the hidden ones.
fn listed(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|n| !n.starts_with('.') && !n.ends_with(".jsonl")).collect();
    names.sort();
    names
}

#[test]
fn a_job_leaves_its_report_when_it_ends() {
    let bench = Bench::new();
    let outcome = bench.run("plain", &["400", "1000"]);
    outcome.assert_exact();
    let truth = outcome.truth()[BF16].to_string();
    let report =
        awaited(&bench.out().join("report.json"), |r| r["total"]["flop"] == truth.as_str() && r["processes"][0]["ended_cleanly"] == true);
    assert_eq!((&report["simulated"], &report["assessment"]["verdict"]), (&true.into(), &"withheld".into()));
    awaited(&bench.out().join("flops_meter.json"), |m| m["flopsprof"]["executed_flop"] == truth.as_str());
    assert!(fs::read_to_string(bench.out().join("report.html")).expect("the page").contains("SIMULATED"));
}

/// The command is no child of the program's, for a moment neither.
#[test]
fn a_program_that_waits_for_any_child_sees_none() {
    let bench = Bench::new();
    let outcome = bench.run("waits", &[]);
    outcome.assert_exact();
    assert!(outcome.stdout.contains("0 signals, 0 children"), "{}", outcome.stdout);
    awaited(&bench.out().join("report.json"), |_| true);
}

#[test]
fn a_job_that_is_terminated_leaves_its_report_too() {
    for (how, signal) in [("SIGTERM", libc::SIGTERM), ("SIGKILL", libc::SIGKILL)] {
        let bench = Bench::new();
        let outcome = bench.run("exit_kinds", &[how]);
        assert_eq!(outcome.signal(), Some(signal));
        let counted = outcome.counted()[BF16].to_string();
        let report = awaited(&bench.out().join("report.json"), |r| r["total"]["flop"] == counted.as_str());
        assert_eq!(
            (&report["not_metered"]["lower_bound"], &report["processes"][0]["ended_cleanly"]),
            (&true.into(), &false.into()),
            "{how}"
        );
    }
}

/// Whatever killed the job, and the watcher with it: the evidence is there, and the command makes of it what the job would have.
#[test]
fn the_command_makes_it_from_the_evidence_of_a_killed_job() {
    let bench = Bench::new().env("FLOPSPROF_REPORT", "0");
    let outcome = bench.run("exit_kinds", &["SIGKILL"]);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(listed(&bench.out()), [] as [&str; 0]);
    let output = Command::new(env!("CARGO_BIN_EXE_flopsprof")).args(["report", "--write"]).arg(bench.out()).output().expect("the command");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let mut files = FILES;
    files.sort_unstable();
    assert_eq!(listed(&bench.out()), files);
    awaited(&bench.out().join("report.json"), |r| r["total"]["flop"] == outcome.counted()[BF16].to_string().as_str());
}

/// Switched off, or the command is not beside the library: nothing, and not a word.
#[test]
fn without_the_command_there_is_no_report_and_no_word() {
    let bench = Bench::new();
    let alone = bench.dir.path().join("libflopsprof.so");
    fs::copy(library("flopsprof"), &alone).expect("copying the library");
    let bare = bench.command(false, "plain", &["300", "1000"]).output().expect("the program");
    let metered = bench.command(true, "plain", &["300", "1000"]).env("LD_PRELOAD", &alone).output().expect("the program");
    let outcome = bench.compare(&bare, metered);
    outcome.assert_exact();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(listed(&bench.out()), [] as [&str; 0]);
}

/// A report that takes longer than the end may be held is left alone: the evidence is whole by then, and nobody is told that it is not.
#[test]
fn a_report_that_takes_long_is_no_evidence_that_is_missing() {
    let quiet = || {
        let bench = Bench::new().env("FLOPSPROF_DRAIN", "1");
        let (alone, command) = (bench.dir.path().join("libflopsprof.so"), bench.dir.path().join("flopsprof"));
        fs::copy(library("flopsprof"), &alone).expect("copying the library");
        fs::write(&command, "#!/bin/sh\nsleep 3\n").expect("a command");
        fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).expect("a command");
        let bare = bench.command(false, "plain", &["300", "1000"]).output().expect("the program");
        let began = Instant::now();
        let metered = bench.command(true, "plain", &["300", "1000"]).env("LD_PRELOAD", &alone).output().expect("the program");
        assert!(began.elapsed() >= Duration::from_secs(1), "the report was not waited for");
        let outcome = bench.compare(&bare, metered);
        outcome.said.is_empty() && outcome.evidence()[0].ended
    };
    // A busy machine may take the second for the evidence itself; that every time is no matter of load.
    assert!((0..5).any(|_| quiet()));
}

/// The toolkit's variable names its file; a program that changes its directory takes nothing along.
#[test]
fn the_toolkits_variable_is_honoured() {
    let bench = Bench::new();
    let file: PathBuf = bench.dir.path().join("deep/down/meter.json");
    let bench = bench.env("FLOPS_METER_OUT", &file).env("FLOPSPROF_OUT", "evidence");
    bench.run("plain", &["300", "1000"]).assert_exact();
    awaited(&file, |m| m["gpu_size"] == 1);
    awaited(&bench.out().join("report.json"), |_| true);
    assert!(!bench.out().join("flops_meter.json").exists());
}

/// Many processes end at once: one of them writes, for all.
#[test]
fn of_many_processes_the_last_word_is_whole() {
    let bench = Bench::new().env("FLOPSPROF_SIM_DEVICES", "8");
    let start = |rank: u32| {
        let mut command = bench.command(true, "plain", &["200", "1000"]);
        command.envs([("RANK", rank.to_string()), ("LOCAL_RANK", rank.to_string()), ("WORLD_SIZE", "8".to_owned())]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a program")
    };
    let mut children: Vec<_> = (0..8).map(start).collect();
    children.iter_mut().for_each(|c| assert_eq!(c.wait().expect("its end").code(), Some(7)));
    let all_ended =
        |r: &serde_json::Value| r["processes"].as_array().is_some_and(|p| p.len() == 8 && p.iter().all(|p| p["ended_cleanly"] == true));
    let report = awaited(&bench.out().join("report.json"), all_ended);
    assert_eq!((&report["not_metered"]["ranks_missing"], &report["runs"][0]["ranks"]), (&0.into(), &8.into()));
    // Nothing half-written, and no word that nobody heard.
    let left: Vec<_> = fs::read_dir(bench.out()).expect("the folder").flatten().map(|e| e.file_name()).collect();
    let begun = |n: &&std::ffi::OsString| {
        n.to_string_lossy().starts_with(".report.") && n.to_string_lossy().chars().last().is_some_and(|c| c.is_ascii_digit())
    };
    assert_eq!(left.iter().filter(begun).count(), 0, "{left:?}");
}

/// What is wrong in the job's environment is said in its report: nobody would read an error.
#[test]
fn a_variable_that_makes_no_sense_costs_no_report() {
    let bench = Bench::new().env("PRETRAIN_FLOPS", "lots");
    let outcome = bench.run("plain", &["300", "1000"]);
    outcome.assert_exact();
    let report = awaited(&bench.out().join("report.json"), |_| true);
    assert!(report["assessment"]["assumptions"].to_string().contains("PRETRAIN_FLOPS=lots"), "{}", report["assessment"]["assumptions"]);
}
