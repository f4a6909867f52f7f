//! Several ranks, nodes, runs: what adds up, what is missing, and clocks that differ.

use std::{fs, path::Path, process::Command, time::Instant};

use flopsprof::report::make;
use serde_json::Value;

use crate::{
    flopsprof,
    synthetic::{BEGAN_UNIX_NS, Evidence, WINDOW_FLOP},
    thousands::write_job,
};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn json(folders: &[&Path], options: &[&str]) -> Value {
    let output = flopsprof().args(["report", "--json"]).args(options).args(folders).output().expect("the command");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn text(folders: &[&Path]) -> String {
    let output = flopsprof().arg("report").args(folders).output().expect("the command");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn rank(host: &str, rank: u64, world: u64, job: &str) -> Evidence {
    let mut evidence = Evidence::counted(host, rank, world, 30);
    evidence.start.job.insert("SLURM_JOB_ID".to_owned(), job.to_owned());
    evidence
}

#[test]
fn folders_of_several_nodes_are_one_report() {
    let (a, b) = (folder(), folder());
    rank("node-a", 0, 2, "7").write(a.path());
    rank("node-b", 1, 2, "7").write(b.path());
    let report = json(&[a.path(), b.path()], &[]);
    assert_eq!(report["total"]["flop"], (60 * WINDOW_FLOP).to_string());
    assert_eq!((report["runs"].as_array().expect("a list").len(), &report["not_metered"]["lower_bound"]), (1, &false.into()));
    assert_eq!(report["nodes"].as_array().expect("a list").len(), 2);
    assert_eq!(report["wall_clock_s"], 300.0);
}

/// The number without the missing ranks is a lower bound, in every form and in the rule.
#[test]
fn missing_ranks_are_named_and_leave_no_verdict_below() {
    let a = folder();
    for r in [0, 1, 4] {
        let mut evidence = rank("node-a", r, 8, "7");
        evidence.start.simulated = false;
        evidence.write(a.path());
    }
    let base = ["--base", "acme/base", "--base-flops", "1e25"];
    let report = json(&[a.path()], &base);
    assert_eq!((&report["runs"][0]["ranks_missing"], &report["runs"][0]["missing"]), (&5.into(), &"2-3, 5-7".into()));
    assert_eq!((&report["not_metered"]["lower_bound"], &report["assessment"]["verdict"]), (&true.into(), &"inconclusive".into()));
    assert!(
        report["forms"]["annex_xi"][0]["answer"].as_str().expect("text").starts_with("at least "),
        "{}",
        report["forms"]["annex_xi"][0]
    );
    assert!(text(&[a.path()]).contains("5 rank(s) of the job left no evidence here (2-3, 5-7): the total is a lower bound"));
    // A restarted rank is there twice, and hides no missing one.
    let mut again = rank("node-a", 4, 8, "7");
    again.start.process.pid = 9;
    again.write(a.path());
    assert_eq!(json(&[a.path()], &base)["runs"][0]["ranks_missing"], 5);
    // Above is above, however much is missing.
    let above = json(&[a.path()], &["--base", "acme/base", "--base-flops", "1e17"]);
    assert_eq!(above["assessment"]["verdict"], "withheld", "the last one was simulated");
    fs::remove_file(a.path().join("node-a-9-77.jsonl")).expect("removing it");
    assert_eq!(json(&[a.path()], &["--base", "acme/base", "--base-flops", "1e17"])["assessment"]["verdict"], "above");
}

#[test]
fn a_node_whose_clock_is_off_is_moved_and_named() {
    let a = folder();
    for (host, r, off) in [("node-a", 0, 0), ("node-b", 1, 3600), ("node-c", 2, 0)] {
        let mut evidence = rank(host, r, 3, "7");
        evidence.start.unix_ns = BEGAN_UNIX_NS + off * 1_000_000_000;
        evidence.write(a.path());
    }
    let report = json(&[a.path()], &[]);
    assert_eq!((&report["wall_clock_s"], &report["began_unix_s"]), (&300.0.into(), &(BEGAN_UNIX_NS as f64 / 1e9).into()));
    let clocks = report["not_metered"]["clocks"].as_array().expect("a list");
    assert_eq!(clocks.len(), 1);
    assert!(clocks[0].as_str().expect("text").contains("node-b is 3600 s ahead of the other nodes"), "{clocks:?}");
    assert_eq!(report["total"]["flop"], (90 * WINDOW_FLOP).to_string());
}

/// A node that came later is no clock that is off.
#[test]
fn a_node_that_joined_later_stays_where_it_was() {
    let a = folder();
    rank("node-a", 0, 2, "7").write(a.path());
    let mut late = rank("node-b", 1, 2, "7");
    late.windows.drain(..10);
    late.write(a.path());
    let report = json(&[a.path()], &[]);
    assert_eq!((&report["wall_clock_s"], report["not_metered"]["clocks"].as_array().expect("a list").len()), (&300.0.into(), 0));
}

#[test]
fn two_runs_in_one_folder_are_added_up_and_named() {
    let a = folder();
    rank("node-a", 0, 1, "7").write(a.path());
    let mut second = rank("node-a", 0, 1, "8");
    second.start.process.pid = 2000;
    second.at_ns += 3_600_000_000_000;
    second.start.unix_ns += 3_600_000_000_000;
    for window in &mut second.windows {
        window.start_ns += 3_600_000_000_000;
        window.end_ns += 3_600_000_000_000;
    }
    second.write(a.path());
    let report = json(&[a.path()], &[]);
    assert_eq!(report["runs"].as_array().expect("a list").iter().map(|r| r["name"].clone()).collect::<Vec<_>>(), ["7", "8"]);
    // The hour between them belongs to neither.
    assert_eq!((&report["wall_clock_s"], &report["total"]["flop"]), (&600.0.into(), &(60 * WINDOW_FLOP).to_string().into()));
    let text = text(&[a.path()]);
    assert!(text.contains("evidence of 2 runs, added up:\n  7: 1 process(es)\n  8: 1 process(es)"), "{text}");
}

#[test]
fn the_same_evidence_twice_counts_once() {
    let (a, b) = (folder(), folder());
    let file = rank("node-a", 0, 1, "7").write(a.path());
    fs::copy(&file, b.path().join("copy.jsonl")).expect("copying evidence");
    let report = json(&[a.path(), b.path(), a.path()], &[]);
    assert_eq!(report["total"]["flop"], (30 * WINDOW_FLOP).to_string());
    assert_eq!(report["not_metered"]["duplicates"].as_array().expect("a list").len(), 2);
    assert!(text(&[a.path(), b.path()]).contains("counted once: "));
}

/// A process that was killed before its first line was whole leaves a file without evidence: the rest is reported, and what is missing is said.
#[test]
fn a_file_without_a_whole_line_is_named_and_the_rest_reported() {
    let a = folder();
    rank("node-a", 0, 1, "7").write(a.path());
    fs::write(a.path().join("node-b-1-1.jsonl"), "{\"prev\":\"00").expect("a file");
    let report = json(&[a.path()], &[]);
    assert_eq!(
        (report["not_metered"]["unreadable"].as_array().expect("a list").len(), &report["not_metered"]["lower_bound"]),
        (1, &true.into())
    );
    assert!(
        report["assessment"]["gaps"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|g| g["what"].as_str().is_some_and(|w| w.contains("node-b-1-1")))
    );
    // Of a newer version is another matter: what it says is not known, and a report without it would be wrong.
    fs::write(a.path().join("node-c-1-1.jsonl"), "{\"format\":99,\"version\":\"9.0.0\"}\n").expect("a file");
    let output = flopsprof().arg("report").arg(a.path()).output().expect("the command");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("use flopsprof 9.0.0 or newer"));
}

#[test]
fn contradictions_are_refused_with_code_2_and_nothing_is_written() {
    let a = folder();
    rank("node-a", 0, 1, "7").write(a.path());
    let html = a.path().join("report.html");
    let refused = |options: &[&str], env: &[(&str, &str)], why: &str| {
        let mut command = flopsprof();
        command.args(["report", "--html"]).arg(&html).args(options).arg(a.path()).envs(env.iter().copied());
        let output = command.output().expect("the command");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{options:?}: {stderr}");
        assert!(stderr.contains(why), "{options:?}: {stderr}");
        assert!(!html.exists());
    };
    refused(&["--from-scratch", "--base", "x"], &[], "cannot be used with");
    refused(&["--from-scratch"], &[("PRETRAIN_FLOPS", "1e24")], "drop one of the two");
    refused(&["--base", "acme/unheard-of"], &[], "nothing is known here of the base model");
    refused(&["--from-scratch", "--of-which", "evaluation=1e30"], &[], "more than was executed");
    refused(&["--json", "--write"], &[], "cannot be used with");
}

/// A small share of what the benchmark `merge` promises of 4,096 ranks: 60 s on two cores, that is 15 ms a rank.
#[test]
fn ranks_of_a_long_run_merge_fast_and_in_little_memory() {
    let a = folder();
    write_job(a.path(), 64, 8);
    let began = Instant::now();
    let report = json(&[a.path()], &[]);
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!((&report["wall_clock_s"], &report["runs"][0]["ranks_missing"]), (&28_800.0.into(), &0.into()));
    assert_eq!(report["processes"].as_array().expect("a list").len(), 64);
    assert!(report["not_metered"]["breaks"].as_array().expect("a list").is_empty());
    if !cfg!(debug_assertions) {
        // Ten times what it takes: other tests run at the same time.
        assert!(seconds < 64.0 * 0.015 * 10.0, "{seconds} s");
    }
    // The order in which files are read and added decides nothing.
    let total = make::total(&[a.path().to_owned()]).expect("evidence");
    assert_eq!(report["total"]["counted"], flopsprof::ledger::sum(&total.paths).counted.to_string());
}

/// What goes where: into the run's folder, or where SageMaker uploads from.
#[test]
fn on_sagemaker_the_report_goes_where_it_is_uploaded_from() {
    let (run, opt_ml) = (folder(), folder());
    assert_eq!(flopsprof::report::file::folder_for(run.path(), opt_ml.path()), run.path());
    fs::create_dir_all(opt_ml.path().join("output/data")).expect("a folder");
    rank("node-a", 0, 1, "7").write(run.path());
    let report = make::total(&[run.path().to_owned()]).map(|t| flopsprof::report::json::report(&t, None)).expect("evidence");
    let place = flopsprof::report::file::write_all(&report, run.path(), opt_ml.path()).expect("writing");
    assert_eq!(place, opt_ml.path().join("output/data"));
    for file in ["report.json", "report.html", "flops_meter.json"] {
        assert!(place.join(file).exists(), "{file}");
    }
    // A disk that is full, a folder that cannot be written: what was there stays, and nothing half-written is left.
    let before = fs::read(place.join("report.json")).expect("the report");
    fs::remove_file(place.join("report.html")).expect("removing");
    fs::create_dir(place.join("report.html")).expect("a folder in its place");
    let refused = flopsprof::report::file::write_all(&report, run.path(), opt_ml.path()).expect_err("a folder is in the way");
    assert!(refused.to_string().contains("report.html"), "{refused}");
    assert_eq!(fs::read(place.join("report.json")).expect("the report"), before);
    let left = Command::new("ls").arg("-A").arg(&place).output().expect("ls");
    assert_eq!(String::from_utf8_lossy(&left.stdout).lines().count(), 3, "{left:?}");
}
