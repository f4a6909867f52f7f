//! What a witness saw: its file, and what of it stands beside what metered processes counted, by device and by process.
//!
//! Nothing is judged here: that is [`crate::reconcile::completeness`]'s.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::span::Spans;
use crate::evidence::{
    read::ProcessEvidence,
    record::Record,
    witness::{Cpu, Id, Interval, Probed, Seen, Sources},
};

/// One witness's file, added up.
#[derive(Clone, Debug, Default)]
pub struct FileWitness {
    pub(super) sources: Sources,
    pub(super) probed: Vec<Probed>,
    pub(super) seen: BTreeMap<Id, (u64, Seen)>,
    pub(super) intervals: Vec<Interval>,
}

impl FileWitness {
    /// Reads its records.
    #[must_use]
    pub fn of(file: &ProcessEvidence) -> Self {
        let mut witness = Self::default();
        for line in &file.lines {
            match &line.record {
                Record::Sources(sources) => witness.sources = sources.clone(),
                Record::Probed(probed) => witness.probed.push(probed.clone()),
                Record::Seen(seen) => {
                    let first = witness.seen.get(&seen.id).map_or(line.at_ns, |(at, _)| *at);
                    witness.seen.insert(seen.id, (first, (**seen).clone()));
                }
                Record::Interval(interval) if interval.end_ns > interval.start_ns => witness.intervals.push((**interval).clone()),
                _ => {}
            }
        }
        witness
    }

    pub(super) fn spans(&self) -> Spans {
        let mut spans = Spans::default();
        self.intervals.iter().for_each(|i| spans.add(i.start_ns, i.end_ns));
        spans
    }
}

/// A run as its witnesses saw it.
#[derive(Clone, Debug, Default)]
pub struct Witnessed {
    /// Witnesses' files.
    pub files: usize,
    /// Devices on which a metered process had a context, or that a witness saw at work.
    pub devices: Vec<DeviceWitnessed>,
    /// Processes that used a GPU.
    pub processes: Vec<ProcessWitnessed>,
    /// What witnesses could not see, each once: what, and what to do about it.
    pub missing: BTreeSet<(String, String)>,
    /// Copies of the driver's library that have no probes, with why.
    pub not_probed: BTreeSet<String>,
    /// Events and calls that were lost.
    pub lost: (u64, u64),
    /// The CPUs' side; the newest of each witness, added up.
    pub cpu: Option<Cpu>,
    /// Why there are no cycles and floating-point operations of CPUs; empty where there are.
    pub no_pmu: String,
}

/// A device as a witness saw it.
#[derive(Clone, Debug, Default)]
pub struct DeviceWitnessed {
    /// UUID.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Hostname.
    pub host: String,
    /// Time in which a metered process had a context there, and the part of it that was witnessed, ns.
    pub metered_ns: u64,
    /// See `metered_ns`.
    pub covered_ns: u64,
    /// Time witnessed with its activity known, ns.
    pub witnessed_ns: u64,
    /// Windows.
    pub windows: Vec<WindowWitnessed>,
    /// What told its tensor time, stretch by stretch, where PM sampling was asked for.
    pub sources: Vec<SourceWitnessed>,
    /// The part of `witnessed_ns` in which its tensor cycles were sampled, and of that what samples cover.
    pub pm_ns: (u64, u64),
    /// Tensor time in it, s: the device's, and the metered processes'.
    pub pm_tensor_s: (f64, f64),
    /// Tensor time of metered processes of paths whose peak is loose, s.
    pub loose_s: f64,
    /// Metered operations of paths without a known peak are not in the tensor time.
    pub no_peak: bool,
    /// The driver told which processes were on it, all the time.
    pub listed: bool,
    /// Probes in the kernel told who calls the driver.
    pub probed: bool,
}

/// One window of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct WindowWitnessed {
    /// When it began, Unix time, s.
    pub unix_s: f64,
    /// Its length, s.
    pub length_s: f64,
    /// Time in which the device's tensor cores were active, at their peak, s.
    pub device_tensor_s: f64,
    /// The part of it that metered processes' operations make, s.
    pub metered_tensor_s: f64,
}

/// A stretch in which one source told a device's tensor time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SourceWitnessed {
    /// `pm` (PM sampling), `gpm`, or `none`.
    pub source: &'static str,
    /// From when, Unix time, s.
    pub from_unix_s: f64,
    /// Until when, Unix time, s.
    pub to_unix_s: f64,
    /// Tensor time in it, at the device's peak, s.
    pub tensor_s: f64,
    /// Samples.
    pub samples: u64,
    /// Samples that are not in the sum.
    pub dropped: u64,
    /// Times that the hardware's buffer ran over.
    pub overflows: u64,
    /// Time in it of which there are no samples, s.
    pub lost_s: f64,
    /// Why it ended, or PM sampling could not be had; empty where the witness ended.
    pub ended: String,
}

impl WindowWitnessed {
    /// This one and the next.
    pub(super) fn and(&self, next: &Self) -> Self {
        Self {
            unix_s: self.unix_s,
            length_s: self.length_s + next.length_s,
            device_tensor_s: self.device_tensor_s + next.device_tensor_s,
            metered_tensor_s: self.metered_tensor_s + next.metered_tensor_s,
        }
    }
}

impl DeviceWitnessed {
    /// Tensor time: the device's, and the metered processes'.
    #[must_use]
    pub fn tensor_s(&self) -> (f64, f64) {
        self.windows.iter().fold((0.0, 0.0), |(d, m), w| (d + w.device_tensor_s, m + w.metered_tensor_s))
    }
}

/// A process that used a GPU.
#[derive(Clone, Debug, Default)]
pub struct ProcessWitnessed {
    /// Hostname.
    pub host: String,
    /// Who it is.
    pub seen: Seen,
    /// It has evidence of its own.
    pub metered: bool,
    /// Devices that the driver listed it on, with the time in which a kernel of it ran, s; none where the driver does not say.
    pub devices: BTreeMap<String, Option<f64>>,
    /// From when to when it was seen, Unix time, s.
    pub first_unix_s: f64,
    /// See `first_unix_s`.
    pub last_unix_s: f64,
    /// Calls of the driver by entry point.
    pub calls: BTreeMap<String, u64>,
    /// Time in which launches were counted while it lived, s.
    pub launches_counted_s: f64,
    /// It was seen to end.
    pub ended: bool,
}

impl ProcessWitnessed {
    /// Launches that were counted.
    #[must_use]
    pub fn launches(&self) -> u64 {
        self.calls.iter().filter(|(name, _)| crate::witness::entry::launches(name)).map(|(_, n)| n).sum()
    }

    /// Whether it did anything on a device, as far as anybody saw: a context alone is nothing.
    #[must_use]
    pub fn worked(&self) -> bool {
        self.launches() > 0 || self.devices.values().flatten().any(|busy| *busy > 0.0)
    }
}
