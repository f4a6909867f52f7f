//! What a window and a run cost, part by part: a line of evidence written, a file read, files added up, a report made.
//!
//! `benches/run` starts this and the others, and keeps what they say under `benches/runs`. The evidence is what was recorded on an H100; only the times here are new.

#[path = "../tests/synthetic/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod synthetic;

use std::{fs, path::Path};

use divan::{Bencher, black_box, counter::BytesCount};
use flopsprof::{
    evidence::{
        read::{self, ProcessEvidence},
        record::Record,
        write::Writer,
    },
    ledger::{FileTotal, Ledger, RunTotal},
    reconcile::declared::Told,
    report::{
        aws, html,
        json::Report,
        make::{Asked, made},
        text,
    },
    rule::{Origin, guidelines::CURRENT},
};

fn main() {
    divan::main();
}

/// Recorded, with declarations and phases.
const TRAINING: &str = "2026-11-25-h100-trainer-8192";
/// Recorded, with a census.
const CENSUS: &str = "2026-11-25-h100-llama-census";

fn recorded(run: &str) -> (std::path::PathBuf, Vec<u8>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evidence").join(run);
    let path = read::files(&folder).expect("evidence").remove(0);
    let bytes = fs::read(&path).expect("evidence");
    (path, bytes)
}

fn evidence(run: &str) -> ProcessEvidence {
    let (path, bytes) = recorded(run);
    read::parse(&path, &bytes).expect("evidence")
}

fn total(files: &[ProcessEvidence]) -> RunTotal {
    let mut ledger = Ledger::default();
    for file in files {
        ledger.add(FileTotal::of(file));
    }
    ledger.total()
}

fn report(run: &str) -> Report {
    let file = evidence(run);
    let asked = Asked {
        parameters: None,
        tokens: None,
        origin: Origin::NotStated,
        parts: Vec::new(),
        besides: Vec::new(),
        notes: Vec::new(),
        rules: CURRENT,
    };
    made(&total(std::slice::from_ref(&file)), &Told::of(&file), &asked).expect("a report")
}

/// What the meter's thread does for each window besides CUPTI's and NVML's calls: a line made, hashed twice and written.
#[divan::bench]
fn evidence_write_window(bencher: Bencher) {
    let window = evidence(TRAINING).lines.into_iter().find(|l| matches!(l.record, Record::Window(_))).expect("a window");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut writer = Writer::create(folder.path(), "bench.jsonl").expect("a file");
    bencher.bench_local(|| writer.append(black_box(window.at_ns), black_box(&window.record)).expect("a line"));
}

#[divan::bench(args = [TRAINING, CENSUS])]
fn evidence_read(bencher: Bencher, run: &str) {
    let (path, bytes) = recorded(run);
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| read::parse(&path, black_box(&bytes)).expect("evidence"));
}

/// One process's file added up.
#[divan::bench(args = [TRAINING, CENSUS])]
fn merge_file_total(bencher: Bencher, run: &str) {
    let file = evidence(run);
    bencher.bench_local(|| FileTotal::of(black_box(&file)));
}

/// Ranks of eight hours that were added up each by itself, brought together.
#[divan::bench(args = [8, 64])]
fn merge_ranks_of_8_hours(bencher: Bencher, ranks: u64) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    for rank in 0..ranks {
        synthetic::Evidence::counted(&format!("node-{}", rank / 8), rank, ranks, 480).write(folder.path());
    }
    let files = read::read_run(folder.path()).expect("evidence");
    let totals: Vec<FileTotal> = files.iter().map(FileTotal::of).collect();
    bencher.with_inputs(|| totals.clone()).bench_local_values(|totals| {
        let mut ledger = Ledger::default();
        for total in totals {
            ledger.add(total);
        }
        ledger.total()
    });
}

#[divan::bench(args = [TRAINING, CENSUS])]
fn report_make(bencher: Bencher, run: &str) {
    bencher.bench_local(|| report(black_box(run)));
}

#[divan::bench]
fn report_text(bencher: Bencher) {
    let report = report(TRAINING);
    bencher.bench_local(|| text::text(black_box(&report)));
}

#[divan::bench]
fn report_json(bencher: Bencher) {
    let report = report(TRAINING);
    bencher.bench_local(|| serde_json::to_string_pretty(black_box(&report)).expect("JSON"));
}

#[divan::bench]
fn report_html(bencher: Bencher) {
    let report = report(TRAINING);
    bencher.bench_local(|| html::page(black_box(&report)));
}

#[divan::bench]
fn report_aws(bencher: Bencher) {
    let (report, job) = (report(TRAINING), aws::Job::default());
    bencher.bench_local(|| serde_json::to_string_pretty(&aws::flops_meter(black_box(&report), &job)).expect("JSON"));
}
