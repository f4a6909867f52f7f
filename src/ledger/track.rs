//! One device as one process metered it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    PathTotal, Paths,
    arithmetic::{Amount, add_up},
    interpolate::{Interval, interpolate},
    tensor::Work,
    timeline::Timeline,
};
use crate::evidence::{
    read::ProcessEvidence,
    record::{Device, Kernels, Plan, Record, RollCall, Tier, Window},
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
    /// Censuses of what the CUDA cores executed.
    pub cores: Vec<Kernels>,
    /// Roll calls.
    pub rolls: Vec<RollCall>,
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
            Record::Kernels(kernels) => {
                let track = tracks.entry(kernels.device).or_default();
                if kernels.cores { &mut track.cores } else { &mut track.censuses }.push((**kernels).clone());
            }
            Record::RollCall(call) => tracks.entry(call.device).or_default().rolls.push((**call).clone()),
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
    /// Totals by path, and what was executed when, as operations and as tensor time. Empty when nothing was counted here at all.
    #[must_use]
    pub fn paths(&self, timeline: &mut Timeline, work: &mut Work) -> Paths {
        let seen: BTreeSet<&String> = self.windows.iter().flat_map(|w| w.counts.keys()).collect();
        let paths = seen.into_iter().map(|path| (path.clone(), self.path(path, timeline, work))).collect();
        self.windows.iter().for_each(|w| work.clock(w.start_ns, w.end_ns, w.cycles));
        paths
    }

    fn path(&self, path: &str, timeline: &mut Timeline, work: &mut Work) -> PathTotal {
        let peak = self.device.peak_flop_per_cycle.get(path).copied();
        let mut intervals = Vec::with_capacity(self.windows.len());
        let mut began = Vec::with_capacity(self.windows.len());
        let (mut known, mut off_ns) = (0u128, 0u64);
        let censuses: BTreeSet<u64> = self.censuses.iter().filter(|c| !c.kernels.is_empty()).filter_map(|c| c.window).collect();
        for window in &self.windows {
            if !window.opened.gated && window.opened.exposed_ns > 0 {
                intervals.push(Interval { flop: None, cycles: None, ns: window.opened.exposed_ns, census: false });
                began.push(window.start_ns.saturating_sub(window.opened.exposed_ns));
            }
            let ns = window.end_ns - window.start_ns;
            if window.tier == Tier::Sampled
                && let Some(flop) = window.counts.get(path)
            {
                // Known, and not by counting: a census counted the same launches.
                known.grow(*flop);
                off_ns.grow(ns);
                timeline.add_flop(path, window.start_ns, window.end_ns, *flop as f64);
                continue;
            }
            let flop = window.counts.get(path).copied().filter(|_| window.tier == Tier::Counted);
            intervals.push(Interval { flop, cycles: window.cycles, ns, census: censuses.contains(&window.index) });
            began.push(window.start_ns);
        }
        let interpolated = interpolate(&intervals);
        for (i, (interval, start)) in intervals.iter().zip(began).enumerate() {
            let flop = interval.flop.map_or_else(|| interpolated.each.get(i).copied().unwrap_or(0.0), |f| f as f64);
            let end = start.saturating_add(interval.ns);
            timeline.add_flop(path, start, end, flop);
            work.add(path, peak, (start, end), flop);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far below 2^128")]
        let flop = interpolated.flop.max(0.0).round() as u128;
        let ns = |on: bool| add_up(intervals.iter().filter(|i| !on || i.flop.is_some()).map(|i| i.ns));
        PathTotal {
            counted: add_up(intervals.iter().filter_map(|i| i.flop)),
            interpolated: flop.plus(known),
            variance: interpolated.variance,
            looked_ns: (ns(true), ns(false).plus(off_ns)),
            sparse: self.sparse(path),
        }
    }

    /// FLOP of the path that were counted as sparse; none where no window says.
    fn sparse(&self, path: &str) -> Option<u128> {
        self.windows.iter().filter_map(|w| w.sparse.get(path)).copied().reduce(Amount::plus)
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
