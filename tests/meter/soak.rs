//! Hours of windows: what the meter holds in memory stays what it was, and so do its threads and files.
//!
//! ```text
//! FLOPSPROF_SOAK_S=3600 cargo test --test meter soak -- --nocapture      an hour, as soak.txt has it
//! ```
//! Windows of 8.7 ms, so that with their boundaries there are a hundred a second; of 5 ms where it is not for long, so that there are as many as can be. Everything is
//! simulated, and so is the time that a boundary takes.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use flopsprof::evidence::record::{Line, Record};

use crate::harness::{BF16, Bench};

/// How long it lasts, seconds, unless this variable says otherwise.
const SECONDS: &str = "FLOPSPROF_SOAK_S";
const DEFAULT: u64 = 20;
/// Growth that an hour may bring.
const GROWTH: u64 = 1 << 20;
/// Growth that 20 s may bring, which hold the last of the warm-up where the machine is busy: a hundred bytes lost in each of 4000 windows would show.
const GROWTH_SHORT: u64 = 320 << 10;
/// The part of the time after which growth counts, and the most that is.
const WARM_UP: u64 = 4;
const WARM_UP_MOST: Duration = Duration::from_secs(60);
/// Launches in a second.
const LAUNCHES: u64 = 1000;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    /// Anonymous memory, bytes.
    anonymous: u64,
    /// All memory, bytes.
    resident: u64,
    threads: usize,
    files: usize,
}

impl Held {
    fn of(pid: u32) -> Option<Self> {
        // Exact, where /proc/PID/status lags behind by some dozen pages a thread.
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let kib = |name: &str| -> Option<u64> {
            memory.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        };
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).ok().map(Iterator::count);
        Some(Self { anonymous: kib("Anonymous")? << 10, resident: kib("Rss")? << 10, threads: count("task")?, files: count("fd")? })
    }
}

#[test]
fn memory_stays_flat_over_many_windows() {
    let seconds = std::env::var(SECONDS).map_or(DEFAULT, |s| s.parse().unwrap_or_else(|_| panic!("{SECONDS}={s} is no number")));
    let warm_up = Duration::from_secs(seconds / WARM_UP).min(WARM_UP_MOST);
    // A census now and then. No report: it would be of all windows, again and again, by a process that is not looked at here.
    let (window, allowed) = if seconds >= 3600 { ("0.0087", GROWTH) } else { ("0.005", GROWTH_SHORT) };
    let bench = Bench::new().env("FLOPSPROF_WINDOW", window).env("FLOPSPROF_CENSUS", "1:40:1").env("FLOPSPROF_REPORT", "0");
    let launches = seconds * LAUNCHES;
    let pause_us = 1_000_000 / LAUNCHES;
    let mut command = bench.command(true, "plain", &[&launches.to_string(), &pause_us.to_string()]);
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program");
    let (mut first, mut most, mut last) = (None::<Held>, None::<Held>, None::<Held>);
    let every = Duration::from_secs((seconds / 60).clamp(1, 60));
    while child.try_wait().expect("its state").is_none() {
        let at = began.elapsed();
        if let Some(held) = Held::of(child.id()).filter(|h| h.threads > 1) {
            let kib = |bytes: u64| bytes >> 10;
            let (anonymous, resident) = (kib(held.anonymous), kib(held.resident));
            println!(
                "{:>6.0} s: {anonymous} KiB anonymous, {resident} KiB resident, {} threads, {} files",
                at.as_secs_f64(),
                held.threads,
                held.files
            );
            if at >= warm_up {
                first = first.or(Some(held));
                most = most.filter(|m| m.resident >= held.resident).or(Some(held));
                last = Some(held);
            }
        }
        std::thread::sleep(every);
    }
    let output = child.wait_with_output().expect("its end");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "it had something to say");
    assert_eq!(output.status.code(), Some(7), "the program's own status");
    let took = began.elapsed().as_secs_f64();

    let (windows, counted) = windows(&bench);
    let truth = String::from_utf8_lossy(&output.stdout).trim().rsplit(' ').next().and_then(|n| n.parse::<u128>().ok()).expect("the truth");
    let (first, most, last) = (first.expect("a look after the warm-up"), most.expect("as before"), last.expect("as before"));
    let growth = most.resident.saturating_sub(first.resident);
    println!(
        "{windows} windows (simulated) in {took:.0} s, {:.1} a second; resident memory grew by {} KiB at the most after {} s",
        windows as f64 / took,
        growth >> 10,
        warm_up.as_secs()
    );
    println!("counted {counted} FLOP of {truth}");
    assert_eq!(counted, truth, "every window is there");
    // A machine that is busy with other tests cuts fewer; half is enough to say something.
    assert!(windows as f64 > 50.0 * took, "{windows} windows in {took} s");
    assert!(growth < allowed, "{growth} bytes more than after the warm-up: {first:?}, then {most:?}");
    assert_eq!((last.threads, last.files), (first.threads, first.files));
}

/// Windows in the evidence, and what they counted. Line by line: the evidence of an hour is large.
fn windows(bench: &Bench) -> (u64, u128) {
    let (mut windows, mut counted) = (0, 0);
    for entry in fs::read_dir(bench.out()).expect("evidence").flatten() {
        let mut lines = BufReader::new(fs::File::open(entry.path()).expect("evidence"));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).expect("evidence") > 0 {
            if let Record::Window(window) = Line::parse(&line).expect("a line of evidence").record {
                windows += 1;
                counted += window.counts.get(BF16).copied().unwrap_or(0);
            }
            line.clear();
        }
    }
    (windows, counted)
}
