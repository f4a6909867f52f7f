//! One device as one process metered it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    PathTotal, Paths,
    arithmetic::add_up,
    interpolate::{Interval, interpolate},
    timeline::Timeline,
};
use crate::evidence::{
    read::ProcessEvidence,
    record::{Device, Kernels, Plan, Record, Tier, Window},
};

/// Windows, readings and identity of one device in one process.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// The device; its last record, which knows most.
    pub device: Device,
    /// The newest plan.
    pub plan: Plan,
    /// In the order of time.
    pub windows: Vec<Window>,
    /// Censuses, and why there were none.
    pub censuses: Vec<Kernels>,
    /// Readings of the energy counter: when (`CLOCK_MONOTONIC`), mJ.
    pub energy: Vec<(u64, u64)>,
}

/// The devices of a file.
#[must_use]
pub fn tracks(file: &ProcessEvidence) -> Vec<Track> {
    let mut tracks: BTreeMap<u32, Track> = BTreeMap::new();
    for line in &file.lines {
        match &line.record {
            Record::Device(device) => tracks.entry(device.device).or_default().device = (**device).clone(),
            Record::Plan(plan) => tracks.entry(plan.device).or_default().plan = plan.clone(),
            Record::Reading(reading) => {
                let track = tracks.entry(reading.device).or_default();
                track.energy.extend(reading.nvml.energy_mj.map(|mj| (line.at_ns, mj)));
            }
            Record::Kernels(kernels) => tracks.entry(kernels.device).or_default().censuses.push((**kernels).clone()),
            Record::Window(window) => {
                let track = tracks.entry(window.device).or_default();
                track.energy.extend(window.nvml.as_ref().and_then(|n| n.energy_mj).map(|mj| (window.end_ns, mj)));
                let mut window = (**window).clone();
                // A window that ends before it starts is a file that was changed; its counts stand, its time does not.
                window.end_ns = window.end_ns.max(window.start_ns);
                track.windows.push(window);
            }
            _ => {}
        }
    }
    for track in tracks.values_mut() {
        track.windows.sort_by_key(|w| w.start_ns);
    }
    tracks.into_values().filter(|t| !t.windows.is_empty()).collect()
}

impl Track {
    /// Totals by path, and what was executed when. Empty when nothing was counted here at all.
    #[must_use]
    pub fn paths(&self, timeline: &mut Timeline) -> Paths {
        let seen: BTreeSet<&String> = self.windows.iter().flat_map(|w| w.counts.keys()).collect();
        seen.into_iter().map(|path| (path.clone(), self.path(path, timeline))).collect()
    }

    fn path(&self, path: &str, timeline: &mut Timeline) -> PathTotal {
        let mut intervals = Vec::with_capacity(self.windows.len());
        let mut began = Vec::with_capacity(self.windows.len());
        for window in &self.windows {
            if !window.opened.gated && window.opened.exposed_ns > 0 {
                intervals.push(Interval { flop: None, cycles: None, ns: window.opened.exposed_ns });
                began.push(window.start_ns.saturating_sub(window.opened.exposed_ns));
            }
            intervals.push(Interval { flop: window.counts.get(path).copied(), cycles: window.cycles, ns: window.end_ns - window.start_ns });
            began.push(window.start_ns);
        }
        let interpolated = interpolate(&intervals);
        for (i, (interval, start)) in intervals.iter().zip(began).enumerate() {
            let flop = interval.flop.map_or_else(|| interpolated.each.get(i).copied().unwrap_or(0.0), |f| f as f64);
            timeline.add_flop(path, start, start.saturating_add(interval.ns), flop);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far below 2^128")]
        let flop = interpolated.flop.max(0.0).round() as u128;
        let ns = |on: bool| add_up(intervals.iter().filter(|i| !on || i.flop.is_some()).map(|i| i.ns));
        PathTotal {
            counted: add_up(intervals.iter().filter_map(|i| i.flop)),
            interpolated: flop,
            variance: interpolated.variance,
            looked_ns: (ns(true), ns(false)),
        }
    }

    /// Paths of the plan that no window looked at.
    #[must_use]
    pub fn never_looked(&self) -> Vec<String> {
        let planned = self.plan.groups.iter().flatten();
        planned.filter(|p| !self.windows.iter().any(|w| w.counts.contains_key(*p))).cloned().collect()
    }

    /// Time in windows, ns.
    #[must_use]
    pub fn metered_ns(&self) -> u64 {
        add_up(self.windows.iter().map(|w| w.end_ns - w.start_ns))
    }

    /// Whether anything was counted.
    #[must_use]
    pub fn counted(&self) -> bool {
        self.windows.iter().any(|w| w.tier == Tier::Counted)
    }
}
