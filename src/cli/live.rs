//! What `flopsprof run` shows of a run that is going on, and says of it at the end.

use std::{
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

use flopsprof::{
    evidence::{
        follow::Follow,
        read,
        record::{Record, Tier},
    },
    inject::config,
    report::top::Top,
};

use super::row::Row;

/// So old a count says how old it is.
const TOLD_AFTER_S: u64 = 4;

/// The newest window of a device.
struct Newest {
    flop: u128,
    ns: u64,
    power_mw: Option<u32>,
    seen: Instant,
}

/// What the evidence says so far.
pub(super) struct Live {
    out: PathBuf,
    follow: Follow,
    row: Option<Row>,
    flop: u128,
    /// Of each device of each process.
    newest: std::collections::BTreeMap<(PathBuf, u32), Newest>,
    windows: u64,
    simulated: bool,
    top: Top,
    began: (Instant, SystemTime),
}

impl Live {
    /// Of the evidence in a folder, to be shown where stderr is a terminal, if it is to be shown.
    pub(super) fn new(out: &Path, shown: bool) -> Self {
        Self {
            out: out.to_owned(),
            follow: Follow::new(out),
            row: shown.then(Row::new).flatten(),
            flop: 0,
            newest: std::collections::BTreeMap::new(),
            windows: 0,
            simulated: false,
            top: Top::default(),
            began: (Instant::now(), SystemTime::now()),
        }
    }

    fn look(&mut self) {
        for (file, line) in self.follow.look() {
            self.top.add(&file, &line);
            match line.record {
                Record::Start(start) => self.simulated |= start.simulated,
                Record::Window(window) => {
                    let flop: u128 = window.counts.values().sum();
                    // Of launches in which the CUDA cores were counted instead, it is known from a census.
                    self.flop += if window.tier == Tier::Counted { flop } else { 0 };
                    self.windows += 1;
                    let power_mw = window.nvml.as_ref().and_then(|n| n.power_mw);
                    let ns = window.end_ns.saturating_sub(window.start_ns);
                    self.newest.insert((file, window.device), Newest { flop, ns, power_mw, seen: Instant::now() });
                }
                Record::End(_) => self.newest.retain(|(of, _), _| *of != file),
                // Windows of an old run are long; the power is read more often.
                Record::Reading(reading) => {
                    if let (Some(newest), Some(mw)) = (self.newest.get_mut(&(file, reading.device)), reading.nvml.power_mw) {
                        newest.power_mw = Some(mw);
                    }
                }
                _ => {}
            }
        }
    }

    /// Shows it as it is now.
    pub(super) fn show(&mut self) {
        if self.row.is_none() {
            return;
        }
        self.look();
        if self.windows == 0 {
            return;
        }
        // Of those that were killed nothing is counted any more, and no last record says so.
        self.top.look();
        self.newest.retain(|(file, _), _| !self.top.file_is_over(file));
        let newest = self.newest.values();
        // A sum of no floats is -0.
        let rate = newest.clone().filter(|n| n.ns > 0).map(|n| n.flop as f64 / n.ns as f64 * 1e9).sum::<f64>() + 0.0;
        let watts = newest.clone().filter_map(|n| n.power_mw).map(|mw| f64::from(mw) / 1e3).sum::<f64>() + 0.0;
        let ago = newest.map(|n| n.seen.elapsed().as_secs()).max().filter(|s| *s >= TOLD_AFTER_S).map(|s| format!(" up to {s} s ago"));
        let mark = if self.simulated { " simulated" } else { "" };
        let seconds = self.began.0.elapsed().as_secs();
        let kernels = self.top.words(2);
        let kernels = if kernels.is_empty() { kernels } else { format!("  {kernels}") };
        let text = format!(
            "flopsprof: {seconds} s  {:.4e}{mark} FLOP counted{}  {:.1}{mark} TFLOP/s  {watts:.0} W{kernels}",
            self.flop as f64,
            ago.unwrap_or_default(),
            rate / 1e12
        );
        if let Some(row) = &mut self.row {
            row.show(&text);
        }
    }

    /// Shows nothing more.
    pub(super) fn end(&mut self) {
        if let Some(row) = &mut self.row {
            row.give_back();
        }
    }

    /// Says what was counted, and where the evidence is.
    pub(super) fn conclude(&mut self) {
        self.look();
        let out = self.out.display();
        if self.follow.files() == 0 {
            let instead = config::instead_of(&std::env::temp_dir(), &self.out);
            if written_since(&instead, self.began.1) {
                eprintln!("flopsprof: the evidence could not be written to {out}: it is in {}", instead.display());
                eprintln!("flopsprof: next: flopsprof report {}", instead.display());
            } else {
                eprintln!("flopsprof: nothing was metered: no process of the command used CUDA (flopsprof doctor shows what is in place)");
            }
            return;
        }
        let mark = if self.simulated { " simulated" } else { "" };
        eprintln!("flopsprof: {:.6e}{mark} FLOP counted by {} process(es); evidence in {out}", self.flop as f64, self.follow.files());
        eprintln!("flopsprof: next: flopsprof report {out}");
    }
}

/// Whether there is evidence in a folder that was written from then on: others of the same name may have left some before.
fn written_since(folder: &Path, then: SystemTime) -> bool {
    let files = read::files(folder).unwrap_or_default();
    files.iter().any(|f| f.metadata().and_then(|m| m.modified()).is_ok_and(|at| at >= then))
}
