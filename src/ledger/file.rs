//! One process's evidence, added up: what of it the run's ledger needs, and no more.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    CORE_FLOP_PER_SM_CYCLE, Models, OPEN_WINDOW_NS, Paths, ProcessTotal, add_paths,
    arithmetic::Amount,
    cores::Cores,
    estimated,
    job::Place,
    kernel::KernelTotals,
    overhead::Overhead,
    span::Spans,
    tensor::{Slice, Work},
    timeline::Timeline,
    track::{Track, tracks},
    unexplained::Unexplained,
    witness::FileWitness,
};
use crate::evidence::{
    read::ProcessEvidence,
    record::{Fault, Library, Record, Start},
};

/// What one file adds up to. Times are the machine's `CLOCK_MONOTONIC`.
#[derive(Clone, Debug, Default)]
pub struct FileTotal {
    /// Hash of its first line: the same in every copy of the file.
    pub(super) identity: String,
    pub(super) simulated: bool,
    pub(super) place: Place,
    /// The machine since it was started: its clock.
    pub(super) boot: String,
    /// Unix time less the machine's own, ns, as this file says.
    pub(super) offset_ns: i64,
    pub(super) process: ProcessTotal,
    pub(super) devices: Vec<FileDevice>,
    pub(super) wall: Spans,
    pub(super) timeline: Timeline,
    pub(super) tokens: u64,
    pub(super) steps: u64,
    pub(super) models: Models,
    pub(super) lines_lost: u64,
    pub(super) slipped: (u64, u64),
    pub(super) faults: Vec<Fault>,
    pub(super) uncounted: BTreeMap<String, f64>,
    pub(super) uncovered: BTreeSet<String>,
    pub(super) never_looked: BTreeSet<String>,
    pub(super) unexplained: Unexplained,
    pub(super) libraries: BTreeMap<String, BTreeSet<String>>,
    pub(super) breaks: Vec<String>,
    pub(super) kernels: KernelTotals,
    pub(super) cores: Cores,
    pub(super) overhead: Option<Overhead>,
    /// How a witness knows the process: its id, as it knows itself, and its start.
    pub(super) own: (u32, u64),
    /// The file is a witness's: the rest says only whose, and whether it was changed.
    pub(super) witness: Option<Box<FileWitness>>,
}

/// A device as one process saw it.
#[derive(Clone, Debug, Default)]
pub(super) struct FileDevice {
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) paths: Paths,
    pub(super) peak: BTreeMap<String, f64>,
    pub(super) core_peak: f64,
    pub(super) metered: Spans,
    /// First and last reading of the energy counter in each stretch of metered time: when, mJ.
    pub(super) energy: Vec<(u64, u64)>,
    /// What was executed when, as tensor time.
    pub(super) slices: Vec<Slice>,
    pub(super) no_peak: bool,
}

impl FileTotal {
    /// Adds up one file.
    #[must_use]
    pub fn of(file: &ProcessEvidence) -> Self {
        let start = &file.start;
        let boot = if start.host.boot_id.is_empty() { &start.host.hostname } else { &start.host.boot_id };
        let said_ns = file.lines.iter().filter_map(|l| if let Record::Window(w) = &l.record { w.next_ns } else { None }).max();
        let mut total = Self {
            identity: file.identity.clone(),
            simulated: start.simulated,
            place: Place::of(start),
            boot: boot.clone(),
            offset_ns: start.unix_ns.cast_signed().wrapping_sub(file.start_ns.cast_signed()),
            process: ProcessTotal {
                file: file.path.display().to_string(),
                host: start.host.hostname.clone(),
                pid: start.process.pid,
                comm: start.process.comm.clone(),
                ended: file.ended,
                open_window_ns: open_window_ns(start, said_ns),
                faults: file.lines.iter().filter(|l| matches!(l.record, Record::Fault(_))).count() as u64,
                ..ProcessTotal::default()
            },
            breaks: file.breaks.iter().map(|b| format!("{}:{}: {}", file.path.display(), b.line, b.what)).collect(),
            ..Self::default()
        };
        total.own = (start.process.pid, start.process.start_ticks);
        if start.witness {
            total.witness = Some(Box::new(FileWitness::of(file)));
            return total;
        }
        total.process.rank = total.place.rank.map(|r| r.to_string());
        total.gather(file);
        tracks(file).iter().for_each(|track| total.add(track));
        total
    }

    fn add(&mut self, track: &Track) {
        let mut work = Work::default();
        let mut paths = track.paths(&mut self.timeline, &mut work);
        let unexplained = Unexplained::of(track, &paths);
        for path in &unexplained.paths {
            if let Some(total) = paths.get_mut(path) {
                total.variance = None;
            }
        }
        self.unexplained.add(unexplained);
        self.kernels.add(&KernelTotals::of(track, &paths));
        self.cores.add(&Cores::of(track, &paths));
        if let Some(overhead) = Overhead::of(track) {
            self.overhead.get_or_insert_default().add(&overhead);
        }
        let process = &mut self.process;
        add_paths(&mut process.paths, &paths);
        process.estimated.extend(estimated::estimate(track));
        process.metered_ns.grow(track.metered_ns());
        process.meter_cpu_ns = process.meter_cpu_ns.max(track.windows.iter().map(|w| w.meter_cpu_ns).max().unwrap_or(0));
        let mut metered = Spans::default();
        for window in &track.windows {
            process.held.0.grow(window.opened.held);
            process.held.1 = process.held.1.max(window.opened.longest_wait_ns);
            metered.add(window.start_ns, window.end_ns);
            if window.opened.slipped > 0 {
                self.slipped.0.grow(window.opened.slipped);
                self.slipped.1.grow(window.opened.took_ns);
            }
            if !window.why.is_empty() {
                *self.uncounted.entry(window.why.clone()).or_default() += (window.end_ns - window.start_ns) as f64 / 1e9;
            }
            if !window.opened.gated {
                let why = format!("boundary not gated: {}", window.opened.why_ungated);
                *self.uncounted.entry(why).or_default() += window.opened.exposed_ns as f64 / 1e9;
            }
        }
        let metered = metered.compact();
        self.wall.add_shifted(&metered, 0);
        self.never_looked.extend(track.never_looked());
        let hertz = f64::from(track.device.max_sm_clock_mhz) * 1e6;
        let peak = track.device.peak_flop_per_cycle.iter().filter(|_| hertz > 0.0).map(|(p, flop)| (p.clone(), flop * hertz)).collect();
        let core_peak = hertz * f64::from(track.device.sm_count) * CORE_FLOP_PER_SM_CYCLE;
        let (uuid, name) = (track.device.uuid.clone(), track.device.name.clone());
        self.energy(track);
        let (energy, no_peak) = (edges(&track.energy, &metered), work.no_peak);
        self.devices.push(FileDevice { uuid, name, paths, peak, core_peak, energy, metered, slices: work.slices(), no_peak });
    }

    /// Puts a device's energy where it was used, reading to reading.
    fn energy(&mut self, track: &Track) {
        let mut readings = track.energy.clone();
        readings.sort_unstable();
        for pair in readings.windows(2) {
            let ((start, before), (end, after)) = (pair[0], pair[1]);
            // The counter starts again when the driver is loaded anew.
            if end > start && after >= before {
                self.timeline.add_energy(&track.device.uuid, start, end, (after - before) as f64);
            }
        }
    }

    /// Everything of the file that is no window.
    fn gather(&mut self, file: &ProcessEvidence) {
        // The model that was declared, and the tokens that had been added then: it holds until the next one, and the first one from the beginning.
        let mut declared: Option<((u64, u64), u64)> = None;
        for line in &file.lines {
            match &line.record {
                Record::Library(Library { name, version, .. }) => {
                    self.libraries.entry(name.clone()).or_default().insert(version.clone());
                }
                Record::Plan(plan) => self.uncovered.extend(plan.uncovered.iter().cloned()),
                Record::Fault(fault) if !self.faults.contains(fault) => self.faults.push(fault.clone()),
                Record::Declare(d) => {
                    let since = d.tokens.unwrap_or(self.tokens);
                    if let Some((model, began)) = declared {
                        self.models.entry(model).or_default().grow(since.saturating_sub(began));
                    }
                    declared = Some(((d.parameters, d.trainable), if declared.is_some() { since } else { 0 }));
                }
                Record::Window(w) => (self.tokens, self.steps) = (w.tokens, w.steps),
                Record::End(end) => {
                    (self.tokens, self.steps) = (end.tokens, end.steps);
                    self.lines_lost.grow(end.lines_lost);
                }
                _ => {}
            }
        }
        if let Some((model, began)) = declared {
            self.models.entry(model).or_default().grow(self.tokens.saturating_sub(began));
        }
    }
}

/// The longest that a window of this process can be: as it said itself, or, in older evidence and before its second window, by its configuration. Not less than the usual one,
/// which a census fits in as well.
pub(crate) fn open_window_ns(start: &Start, said: Option<u64>) -> u64 {
    if let Some(said) = said {
        return said.max(OPEN_WINDOW_NS);
    }
    let set = start.configuration.get("FLOPSPROF_WINDOW").and_then(|w| w.trim().parse::<f64>().ok()).filter(|s| s.is_finite());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates, and is not negative")]
    set.map_or(OPEN_WINDOW_NS, |s| ((s.max(0.0) * 1e9) as u64).max(OPEN_WINDOW_NS))
}

/// The counter runs since the driver was loaded. Between two readings inside one stretch of metered time its difference is that time's energy, whichever
/// process read it; a window's reading is taken just after its end.
pub(super) fn edges(readings: &[(u64, u64)], metered: &Spans) -> Vec<(u64, u64)> {
    const SLACK_NS: u64 = 1_000_000_000;
    let mut edges = Vec::new();
    for (start, end) in metered.merged() {
        let inside = || readings.iter().filter(move |(ns, _)| *ns >= start && *ns <= end.saturating_add(SLACK_NS));
        edges.extend(inside().min());
        edges.extend(inside().max());
    }
    edges
}
