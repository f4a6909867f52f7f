//! The kernels of the last census: what a live run does, as seen from its evidence.
//!
//! These are what one burst saw, not the run's table ([`super::kernel`]): shares are of the burst.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use crate::{
    evidence::{
        life::Life,
        record::{Kernel, Kernels, Kind, Line, Record, Spent, Start, Tier, Window},
    },
    ledger::{
        arithmetic::{Amount, add_up},
        open_window_ns,
    },
    window::clock::unix_ns,
};

/// What a process has said so far.
#[derive(Clone, Debug, Default)]
struct Process {
    simulated: bool,
    flop: u128,
    /// FLOP of windows that were not counted themselves: the CUDA cores were, and these are of the same launches in a census.
    sampled: u128,
    /// The budget is 0: there will be no census.
    no_budget: bool,
    last: Option<Window>,
    census: Option<Kernels>,
    /// When the last one was written, ns, and the newest line.
    at_ns: (u64, u64),
    why: String,
    ended: bool,
    /// Its first record, and the time of that, ns.
    start: Option<(Box<Start>, u64)>,
    /// The longest that a window of it is meant to be, by its own word.
    next_ns: Option<u64>,
    /// Whether it still runs, where its last record does not say it; none before anybody looked.
    life: Option<Life>,
}

impl Process {
    /// Whether there will be no more of it.
    fn is_over(&self) -> bool {
        self.ended || self.life.as_ref().is_some_and(Life::is_over)
    }

    /// How it is, in words; `now` is the time since 1970, ns.
    fn state(&self, now: u64) -> String {
        if self.ended {
            return "ended".to_owned();
        }
        let Some((start, began)) = &self.start else { return "not known (it has no first line yet)".to_owned() };
        let newest = start.unix_ns.saturating_add(self.at_ns.1.saturating_sub(*began));
        let silent_s = now.saturating_sub(newest) / 1_000_000_000;
        let due_s = open_window_ns(start, self.next_ns) / 1_000_000_000;
        let age = format!("newest line {silent_s} s old");
        match &self.life {
            Some(Life::Runs) => "running".to_owned(),
            Some(Life::Over) => format!("killed: no end was written ({age})"),
            Some(Life::Left) => format!("no longer metered: its process became another program, no end was written ({age})"),
            Some(Life::Unknown(why)) if silent_s > due_s => {
                format!("not known, and silent: killed, most likely ({why}; {age}, one was due within {due_s} s)")
            }
            Some(Life::Unknown(why)) => format!("not known ({why}; {age}, one is due within {due_s} s)"),
            None => format!("not known ({age})"),
        }
    }
}

/// A run as its evidence is followed.
#[derive(Clone, Debug, Default)]
pub struct Top(BTreeMap<PathBuf, Process>);

impl Top {
    /// Takes in a line.
    pub fn add(&mut self, file: &Path, line: &Line) {
        let process = self.0.entry(file.to_owned()).or_default();
        process.at_ns.1 = line.at_ns;
        match &line.record {
            Record::Start(start) => {
                process.simulated = start.simulated;
                process.start = Some((start.clone(), line.at_ns));
            }
            Record::Window(window) => {
                let flop = add_up(window.counts.values().copied());
                if window.tier == Tier::Counted { &mut process.flop } else { &mut process.sampled }.grow(flop);
                process.no_budget = window.spent.as_ref().map_or(process.no_budget, |s| s.share <= 0.0);
                process.next_ns = process.next_ns.max(window.next_ns);
                process.last = Some((**window).clone());
            }
            Record::Kernels(kernels) if kernels.cores => {}
            Record::Kernels(kernels) if kernels.kernels.is_empty() => process.why.clone_from(&kernels.why),
            Record::Kernels(kernels) => {
                process.census = Some((**kernels).clone());
                process.at_ns.0 = line.at_ns;
            }
            Record::End(_) => process.ended = true,
            _ => {}
        }
    }

    /// Looks which of the processes still run.
    pub fn look(&mut self) {
        for process in self.0.values_mut().filter(|p| !p.is_over()) {
            process.life = process.start.as_ref().map(|(start, _)| Life::of(start));
        }
    }

    /// Whether there will be no more of any process that was seen, ended or not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.0.is_empty() && self.0.values().all(Process::is_over)
    }

    /// Whether there will be no more of this file.
    #[must_use]
    pub fn file_is_over(&self, file: &Path) -> bool {
        self.0.get(file).is_some_and(Process::is_over)
    }

    /// A few words on the largest kernels of the newest census, for a line that is written anew; empty where there is none.
    #[must_use]
    pub fn words(&self, kernels: usize) -> String {
        let Some(process) = self.0.values().filter(|p| p.census.is_some()).max_by_key(|p| p.at_ns.0) else { return String::new() };
        let rows = process.census.as_ref().map(rows).unwrap_or_default();
        let words: Vec<String> =
            rows.iter().take(kernels).filter(|r| r.flop > 0).map(|r| format!("{} {:.0} %", name(r, 24), 100.0 * r.share)).collect();
        words.join(", ")
    }

    /// The table for a terminal.
    #[must_use]
    pub fn text(&self, kernels: usize) -> String {
        let mut out = String::new();
        for (file, process) in &self.0 {
            let mark = if process.simulated { " simulated" } else { "" };
            let state = process.state(unix_ns());
            let file = file.file_name().unwrap_or_default().to_string_lossy();
            let sampled = if process.sampled > 0 { format!(", {:.4e} sampled", process.sampled as f64) } else { String::new() };
            let _ = writeln!(out, "{file}: {state}, {:.6e}{mark} FLOP counted{sampled}", process.flop as f64);
            if let Some(window) = &process.last {
                let seconds = window.end_ns.saturating_sub(window.start_ns) as f64 / 1e9;
                let rate = if seconds > 0.0 { add_up(window.counts.values().copied()) as f64 / seconds / 1e12 } else { 0.0 };
                let spent =
                    window.spent.as_ref().map(Spent::total_ns).map(|ns| format!(", the meter took {:.2} s so far", ns as f64 / 1e9));
                let _ = writeln!(out, "  last window: {rate:.2}{mark} TFLOP/s over {seconds:.1} s{}", spent.unwrap_or_default());
            }
            let Some(census) = &process.census else {
                let why = match process.why.as_str() {
                    "" if process.no_budget => "none: the budget is 0 (FLOPSPROF_OVERHEAD, flopsprof run --overhead)",
                    "" if process.is_over() => {
                        "none: the run was too short, or its budget too small (FLOPSPROF_OVERHEAD, flopsprof run --overhead)"
                    }
                    "" => "none yet: the first comes when the budget pays for it",
                    why => why,
                };
                let _ = writeln!(out, "  census: {why}");
                continue;
            };
            let step = census.step.map(|s| format!(", a step has {s}")).unwrap_or_default();
            let ago = process.at_ns.1.saturating_sub(process.at_ns.0) as f64 / 1e9;
            let _ = writeln!(out, "  last census: {} launches{step}, {ago:.0} s before the newest line", census.launches);
            if !census.why.is_empty() {
                let _ = writeln!(out, "  {}", census.why);
            }
            let _ = writeln!(
                out,
                "  {:>7} {:>9} {:>13} {:>10} {:>10}  kernel",
                "share",
                "launches",
                format!("FLOP{mark}"),
                "mean us",
                "TFLOP/s"
            );
            for row in rows(census).iter().take(kernels) {
                let us = row.ns as f64 / row.launches.max(1) as f64 / 1e3;
                let rate = if row.ns > 0 { format!("{:.2}", row.flop as f64 / row.ns as f64 / 1e3) } else { "-".to_owned() };
                let us = if row.ns > 0 { format!("{us:.1}") } else { "-".to_owned() };
                let _ = writeln!(
                    out,
                    "  {:>6.2}% {:>9} {:>13.4e} {us:>10} {rate:>10}  {}",
                    100.0 * row.share,
                    row.launches,
                    row.flop as f64,
                    name(row, 100)
                );
            }
        }
        out
    }
}

/// Launches of one kernel in a census, whatever their grid and stream.
#[derive(Clone, Debug, Default)]
struct Row {
    kind: Kind,
    symbol: String,
    launches: u64,
    flop: u128,
    ns: u64,
    share: f64,
}

fn rows(census: &Kernels) -> Vec<Row> {
    let flop = |k: &Kernel| add_up(k.counts.values().copied());
    let all = add_up(census.kernels.iter().map(flop));
    let mut rows: Vec<Row> = Vec::new();
    for kernel in &census.kernels {
        let at = rows.iter().position(|r| (r.kind, &r.symbol) == (kernel.kind, &kernel.name)).unwrap_or_else(|| {
            rows.push(Row { kind: kernel.kind, symbol: kernel.name.clone(), ..Row::default() });
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.launches.grow(kernel.launches);
        row.flop.grow(flop(kernel));
        row.ns.grow(add_up(kernel.durations_ns.iter().copied()));
        row.share = if all > 0 { row.flop as f64 / all as f64 } else { 0.0 };
    }
    rows.sort_by_key(|r| std::cmp::Reverse((r.flop, r.launches)));
    rows
}

fn name(row: &Row, most: usize) -> String {
    let name = super::kernel::name(row.kind, &row.symbol);
    let name = name.strip_prefix("void ").unwrap_or(&name);
    if name.chars().count() <= most { name.to_owned() } else { name.chars().take(most - 1).chain(['…']).collect() }
}
