//! What the library costs whole processes: those without CUDA, in pairs of bare and preloaded runs, and those with it, window by window on the stand-in GPU.
//!
//! ```text
//! cargo bench --bench process                    1000 pairs, 20 s of windows
//! cargo bench --bench process -- --pairs 100     fewer
//! cargo bench --bench process -- --assert        fails when a process without CUDA takes 1 ms longer
//! ```
//! `benches/run` starts this and the others, and keeps what they say under `benches/runs`. The windows are simulated: the stand-in's calls return at once, so what is left is
//! the meter's own work.

#[path = "../tests/meter/harness.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod harness;

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use flopsprof::evidence::record::{Record, Window};
use harness::{Bench, library};

/// The promise: what is added to a process without CUDA, ms.
const ADDED_MS: f64 = 1.0;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let pairs = args.iter().position(|a| a == "--pairs").map_or(1000, |i| args[i + 1].parse().expect("a number behind --pairs"));
    let mut most = 0.0f64;
    for command in [&["/bin/true"][..], &["/bin/sh", "-c", ":"]] {
        most = most.max(paired(command, pairs));
    }
    windows("one thread launching 1000 times a second", &["20000", "1000"]);
    windows("four threads launching 1000 times a second each", &["20000", "1000", "4"]);
    if args.iter().any(|a| a == "--assert") {
        assert!(most < ADDED_MS, "{most:.3} ms are added to a process without CUDA: the promise is {ADDED_MS} ms");
    }
}

/// Milliseconds that a run takes.
fn run(what: &[&str], preload: Option<&Path>) -> f64 {
    let mut command = Command::new(what[0]);
    command.args(&what[1..]).stdin(Stdio::null()).stdout(Stdio::null()).env_remove("LD_PRELOAD").env_remove("CUDA_INJECTION64_PATH");
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    let began = Instant::now();
    let status = command.status().expect("a program");
    let took = began.elapsed().as_secs_f64() * 1e3;
    assert!(status.success(), "{what:?}: {status}");
    took
}

/// Runs a program bare and preloaded, one after the other, the first of a pair in turn; what is added in the median of the pairs, ms.
fn paired(what: &[&str], pairs: usize) -> f64 {
    let library = library("flopsprof");
    let (mut bare, mut preloaded, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..=pairs {
        let (a, b) = if pair % 2 == 0 {
            let a = run(what, None);
            (a, run(what, Some(&library)))
        } else {
            let b = run(what, Some(&library));
            (run(what, None), b)
        };
        // The first brings files into memory.
        if pair > 0 {
            bare.push(a);
            preloaded.push(b);
            added.push(b - a);
        }
    }
    let [bare, preloaded, added] = [bare, preloaded, added].map(Sorted::new);
    println!(
        "injection, {}: bare {:.3} ms, preloaded {:.3} ms, added {:.3} ms (median of {pairs} pairs; quartiles {:.3} and {:.3})",
        what.join(" "),
        bare.at(0.5),
        preloaded.at(0.5),
        added.at(0.5),
        added.at(0.25),
        added.at(0.75)
    );
    added.at(0.5)
}

/// Meters a program with a window every 9 ms and says what the boundaries took.
fn windows(name: &str, args: &[&str]) {
    let bench = Bench::new().env("FLOPSPROF_WINDOW", "0.009").env("FLOPSPROF_REPORT", "0");
    let status = bench.command(true, "plain", args).stdout(Stdio::null()).status().expect("a program");
    assert_eq!(status.code(), Some(7), "the program's own status");
    let files = flopsprof::evidence::read::read_run(&bench.out()).expect("evidence");
    let windows: Vec<Window> = files
        .into_iter()
        .flat_map(|f| f.lines)
        .filter_map(|l| if let Record::Window(w) = l.record { Some(*w) } else { None })
        .skip(10)
        .collect();
    let us = |ns: u64| ns as f64 / 1e3;
    let took = Sorted::new(windows.iter().map(|w| us(w.opened.took_ns)).collect());
    let waited = Sorted::new(windows.iter().map(|w| us(w.opened.longest_wait_ns)).collect());
    let (first, last) = (windows.first().expect("windows"), windows.last().expect("windows"));
    let cpu = us(last.meter_cpu_ns - first.meter_cpu_ns) / (windows.len() - 1) as f64;
    println!(
        "window (simulated), {name}: {} windows; between two {:.0} us (median; 99 % {:.0}), longest wait of a launch {:.0} us (median; 99 % {:.0}), {cpu:.0} us of the meter's CPU each",
        windows.len(),
        took.at(0.5),
        took.at(0.99),
        waited.at(0.5),
        waited.at(0.99)
    );
}

/// Numbers in order.
struct Sorted(Vec<f64>);

impl Sorted {
    fn new(mut of: Vec<f64>) -> Self {
        of.sort_by(f64::total_cmp);
        Self(of)
    }

    fn at(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share).round() as usize]
    }
}
