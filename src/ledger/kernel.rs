//! Which kernels executed the operations.
//!
//! A census counts every launch of a burst by itself; between bursts only the sum is known. So each path's total is apportioned, by samples. A sample is a roll call,
//! which says how often each launch that a census counted came in a time; where there is none, the census itself, a few steps of the program. Every sample that saw the path
//! stands for the windows that lie nearer to it than to another: its weight is what the path counted in them. In a sample a kernel has the share of the
//! path's operations that its launches executed there, and the kernel's share of the total is the weighted mean over the samples. The rows of a path add
//! up to its total to the unit. What no sample saw (a path that was never on in a census, a process without one) is the residual, a row of its own.
//!
//! The error of a row is how much the samples disagree about it; with one sample it is not known.
//!
//! Groups of counters take turns, so a census may not have looked at a path. What a launch executes of a path, and how fast, is that of the launches in which it was looked at.

use std::collections::{BTreeMap, BTreeSet};

use hdrhistogram::Histogram;

use super::{
    PathTotal, Paths,
    arithmetic::{Amount, add_up},
    cores,
    track::Track,
};
use crate::evidence::record::{Called, Kernel, Kernels, Kind, RollCall, Window};

/// What a row is of.
pub type Key = (Kind, String);
/// Grid and block.
pub type Shape = ([u32; 3], [u32; 3]);

/// One kernel, or graph.
#[derive(Clone, Debug)]
pub struct KernelTotal {
    /// FLOP apportioned to it, by path.
    pub flop: BTreeMap<String, u128>,
    /// Variance of their sum, FLOP²; none when it is not known.
    pub variance: Option<f64>,
    /// Launches that censuses saw.
    pub launches: u64,
    /// What these executed, by path.
    pub seen: BTreeMap<String, Seen>,
    /// The same launches by grid and block: how many, and what they executed by path.
    pub shapes: BTreeMap<Shape, (u64, BTreeMap<String, Seen>)>,
    /// How long launches took, ns; empty where that was not counted.
    pub durations: Histogram<u64>,
    /// The sum of these, ns.
    pub duration_ns: u128,
    /// Launches in which it was counted what the CUDA cores executed, and that: FLOP by format.
    pub cores: (u64, BTreeMap<&'static str, u128>),
}

/// What launches executed of one path.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Launches in which the path was looked at.
    pub launches: u64,
    /// FLOP of these.
    pub flop: u128,
    /// Those of them whose duration is known: FLOP, and ns.
    pub timed: (u128, u128),
    /// The time that these would take at the path's peak, s; none where that is not known.
    pub at_peak_s: Option<f64>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { launches: 0, flop: 0, timed: (0, 0), at_peak_s: Some(0.0) }
    }
}

impl Seen {
    /// FLOP of a launch: the mean.
    #[must_use]
    pub fn per_launch(&self) -> f64 {
        self.flop as f64 / self.launches.max(1) as f64
    }

    fn add(&mut self, other: &Self) {
        self.launches.grow(other.launches);
        self.flop.grow(other.flop);
        self.timed = (self.timed.0.plus(other.timed.0), self.timed.1.plus(other.timed.1));
        self.at_peak_s = self.at_peak_s.zip(other.at_peak_s).map(|(a, b)| a + b);
    }
}

impl Default for KernelTotal {
    fn default() -> Self {
        Self {
            flop: BTreeMap::new(),
            variance: Some(0.0),
            launches: 0,
            seen: BTreeMap::new(),
            shapes: BTreeMap::new(),
            durations: Histogram::new(3).expect("three digits are within what it can do"),
            duration_ns: 0,
            cores: (0, BTreeMap::new()),
        }
    }
}

impl KernelTotal {
    /// FLOP apportioned to it.
    #[must_use]
    pub fn total(&self) -> u128 {
        add_up(self.flop.values().copied())
    }

    /// FLOP per second of the launches whose duration is known.
    #[must_use]
    pub fn rate(&self) -> f64 {
        // A sum of no floats is -0.
        self.seen.values().map(|s| s.timed.0 as f64 * 1e9 / s.timed.1.max(1) as f64).sum::<f64>() + 0.0
    }

    /// The same as a share of the peaks of its paths; none where one of these is not known.
    #[must_use]
    pub fn peak_share(&self) -> Option<f64> {
        self.seen.values().map(|s| s.at_peak_s.map(|p| p * 1e9 / s.timed.1.max(1) as f64)).sum::<Option<f64>>().map(|share| share + 0.0)
    }

    fn add(&mut self, other: &Self) {
        add_flop(&mut self.flop, &other.flop);
        other.seen.iter().for_each(|(path, seen)| self.seen.entry(path.clone()).or_default().add(seen));
        self.variance = self.variance.zip(other.variance).map(|(a, b)| a + b);
        self.launches.grow(other.launches);
        for (shape, (launches, paths)) in &other.shapes {
            let at = self.shapes.entry(*shape).or_default();
            at.0.grow(*launches);
            paths.iter().for_each(|(path, seen)| at.1.entry(path.clone()).or_default().add(seen));
        }
        let _ = self.durations.add(&other.durations);
        self.duration_ns.grow(other.duration_ns);
        self.cores.0.grow(other.cores.0);
        other.cores.1.iter().for_each(|(format, n)| self.cores.1.entry(format).or_default().grow(*n));
    }
}

/// All kernels of a process, or of a run.
#[derive(Clone, Debug, Default)]
pub struct KernelTotals {
    /// The rows.
    pub rows: BTreeMap<Key, KernelTotal>,
    /// FLOP that no census saw anything of, by path.
    pub residual: BTreeMap<String, u128>,
    /// Censuses.
    pub censuses: u64,
    /// Those of a whole number of steps.
    pub whole: u64,
    /// Roll calls.
    pub rolls: u64,
    /// Launches heard in them: all, and those whose like no census counted.
    pub called: (u64, u64),
    /// Why there was no census, or none that was all well: how often.
    pub why: BTreeMap<String, u64>,
}

impl KernelTotals {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        for (key, row) in &other.rows {
            self.rows.entry(key.clone()).or_default().add(row);
        }
        add_flop(&mut self.residual, &other.residual);
        self.censuses += other.censuses;
        self.whole += other.whole;
        self.rolls.grow(other.rolls);
        self.called = (self.called.0.plus(other.called.0), self.called.1.plus(other.called.1));
        other.why.iter().for_each(|(why, n)| *self.why.entry(why.clone()).or_default() += n);
    }

    /// Rows and residual together: the total of the paths, to the unit.
    #[must_use]
    pub fn total(&self) -> u128 {
        add_up(self.rows.values().map(KernelTotal::total).chain(self.residual.values().copied()))
    }

    /// The kernels of one device in one process, whose paths add up to `paths`.
    #[must_use]
    pub fn of(track: &Track, paths: &Paths) -> Self {
        let mut totals = Self::default();
        let (mut censuses, mut rolls): (Vec<Sample>, Vec<Sample>) = (Vec::new(), Vec::new());
        for census in &track.censuses {
            if !census.why.is_empty() {
                *totals.why.entry(census.why.clone()).or_default() += 1;
            }
            let Some(window) = track.windows.iter().find(|w| Some(w.index) == census.window) else { continue };
            if !census.kernels.is_empty() {
                totals.censuses += 1;
                totals.whole += u64::from(census.step.is_some());
                totals.see(census, window, track);
                censuses.push(Sample::of_census(census, window));
            }
        }
        cores::see(&mut totals, track);
        for call in &track.rolls {
            totals.rolls += 1;
            totals.called = (totals.called.0.plus(call.launches), totals.called.1.plus(call.unknown));
            rolls.push(Sample::of_roll(call, track));
        }
        // One that heard many launches that no census knows says little of their kernels.
        let knowing = |call: &RollCall| call.unknown.saturating_mul(100) <= call.launches;
        if track.rolls.iter().any(knowing) {
            let mut known = track.rolls.iter().map(knowing);
            rolls.retain(|_| known.next().unwrap_or(true));
        }
        for (path, total) in paths.iter().filter(|(_, t)| t.total() > 0) {
            let called = rolls.iter().any(|s| s.flop(path) > 0.0);
            totals.apportion(path, total, if called { &rolls } else { &censuses }, &track.windows);
        }
        totals
    }

    /// Takes down what a census saw.
    fn see(&mut self, census: &Kernels, window: &Window, track: &Track) {
        let hertz = f64::from(track.device.max_sm_clock_mhz) * 1e6;
        let paths = looked_at(census, window);
        for kernel in &census.kernels {
            let row = self.rows.entry((kernel.kind, kernel.name.clone())).or_default();
            row.launches.grow(kernel.launches);
            for ns in &kernel.durations_ns {
                // It grows as it must.
                let _ = row.durations.record(*ns);
            }
            let ns = add_up(kernel.durations_ns.iter().map(|ns| u128::from(*ns)));
            row.duration_ns.grow(ns);
            let shape = row.shapes.entry((kernel.grid, kernel.block)).or_default();
            shape.0.grow(kernel.launches);
            for path in &paths {
                let flop = kernel.counts.get(*path).copied().unwrap_or(0);
                let peak = track.device.peak_flop_per_cycle.get(*path).map(|p| p * hertz).filter(|p| *p > 0.0);
                let timed = if ns > 0 { flop } else { 0 };
                let at_peak_s = if timed > 0 { peak.map(|p| timed as f64 / p) } else { Some(0.0) };
                let seen = Seen { launches: kernel.launches, flop, timed: (timed, ns), at_peak_s };
                row.seen.entry((*path).clone()).or_default().add(&seen);
                shape.1.entry((*path).clone()).or_default().add(&seen);
            }
        }
    }

    fn apportion(&mut self, path: &str, total: &PathTotal, samples: &[Sample], windows: &[Window]) {
        let seen: Vec<(&Sample, f64)> = samples.iter().map(|s| (s, s.flop(path))).filter(|(_, flop)| *flop > 0.0).collect();
        if seen.is_empty() {
            self.residual.entry(path.to_owned()).or_default().grow(total.total());
            return;
        }
        let weights = weights(path, &seen, windows);
        // Shares by row and sample.
        let mut shares: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
        for (i, (sample, all)) in seen.iter().enumerate() {
            for (key, flop) in sample.flop.get(path).into_iter().flatten().filter(|(_, flop)| **flop > 0.0) {
                shares.entry((*key).clone()).or_insert_with(|| vec![0.0; seen.len()])[i] += flop / all;
            }
        }
        let mean = |shares: &[f64]| shares.iter().zip(&weights).map(|(s, w)| s * w).sum::<f64>();
        let amount = total.total();
        let mut left = amount;
        let largest = shares.iter().max_by(|a, b| mean(a.1).total_cmp(&mean(b.1))).map(|(key, _)| key.clone());
        for (key, shares) in &shares {
            let share = mean(shares);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between nothing and the amount")]
            let flop = ((amount as f64 * share).floor() as u128).min(left);
            left -= flop;
            let row = self.rows.entry(key.clone()).or_default();
            row.flop.entry(path.to_owned()).or_default().grow(flop);
            let n = weights.len() as f64;
            let spread = weights.iter().zip(shares).map(|(w, s)| (w * (s - share)).powi(2)).sum::<f64>();
            let of_samples = (n > 1.0).then(|| spread * n / (n - 1.0) * (amount as f64).powi(2));
            let of_total = total.variance.map(|v| v * share * share);
            row.variance = row.variance.zip(of_samples).zip(of_total).map(|((a, b), c)| a + b + c);
        }
        // What rounding left over goes where it shows least.
        if let Some(key) = largest {
            self.rows.entry(key).or_default().flop.entry(path.to_owned()).or_default().grow(left);
        }
    }
}

/// What some of the launches executed.
struct Sample<'a> {
    /// The middle of its time, ns.
    at_ns: u64,
    /// By path and row.
    flop: BTreeMap<&'a str, BTreeMap<Key, f64>>,
}

impl<'a> Sample<'a> {
    fn of_census(census: &'a Kernels, window: &Window) -> Self {
        let mut sample = Self { at_ns: middle(window.start_ns, window.end_ns), flop: BTreeMap::new() };
        census.kernels.iter().for_each(|kernel| sample.add(kernel, 1.0));
        sample
    }

    fn of_roll(call: &RollCall, track: &'a Track) -> Self {
        let mut sample = Self { at_ns: middle(call.start_ns, call.end_ns), flop: BTreeMap::new() };
        // Launches heard whose census looked at a path.
        let (mut heard, mut looked): (u64, BTreeMap<&str, u64>) = (0, BTreeMap::new());
        for row in &call.rows {
            if let Some((census, window, kernel)) = called(track, row) {
                sample.add(kernel, row.launches as f64 / kernel.launches.max(1) as f64);
                heard.grow(row.launches);
                looked_at(census, window).into_iter().for_each(|path| looked.entry(path).or_default().grow(row.launches));
            }
        }
        // Where more than a few were counted while the path was off, they would be taken for launches without operations, and the others be given theirs.
        sample.flop.retain(|path, _| {
            let off = heard.saturating_sub(looked.get(path).copied().unwrap_or(0));
            off.saturating_mul(100) <= heard
        });
        sample
    }

    /// Adds so many times what a row of a census executed.
    fn add(&mut self, kernel: &'a Kernel, times: f64) {
        for (path, flop) in &kernel.counts {
            *self.flop.entry(path).or_default().entry((kernel.kind, kernel.name.clone())).or_default() += *flop as f64 * times;
        }
    }

    fn flop(&self, path: &str) -> f64 {
        self.flop.get(path).map_or(0.0, |rows| rows.values().sum())
    }
}

/// What a row of a roll call is of: the census, the window that it was taken in, and its kernel.
pub(super) fn called<'a>(track: &'a Track, row: &Called) -> Option<(&'a Kernels, &'a Window, &'a Kernel)> {
    let census = track.censuses.iter().find(|c| c.window == Some(row.window))?;
    let window = track.windows.iter().find(|w| w.index == row.window)?;
    Some((census, window, census.kernels.get(row.row as usize)?))
}

/// The paths that were on in a census.
pub(super) fn looked_at<'a>(census: &'a Kernels, window: &'a Window) -> BTreeSet<&'a String> {
    window.counts.keys().chain(census.kernels.iter().flat_map(|k| k.counts.keys())).collect()
}

fn middle(start_ns: u64, end_ns: u64) -> u64 {
    start_ns / 2 + end_ns / 2
}

/// What each sample stands for: the path's operations in the windows nearest to it. They add up to one.
fn weights(path: &str, samples: &[(&Sample, f64)], windows: &[Window]) -> Vec<f64> {
    let mut weights = vec![0.0; samples.len()];
    for window in windows {
        let at = middle(window.start_ns, window.end_ns);
        let nearest = samples.iter().enumerate().min_by_key(|(_, (sample, _))| sample.at_ns.abs_diff(at)).map(|(i, _)| i);
        if let (Some(i), Some(flop)) = (nearest, window.counts.get(path)) {
            weights[i] += *flop as f64;
        }
    }
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| if sum > 0.0 { w / sum } else { 1.0 / samples.len() as f64 }).collect()
}

fn add_flop(into: &mut BTreeMap<String, u128>, from: &BTreeMap<String, u128>) {
    for (path, flop) in from {
        into.entry(path.clone()).or_default().grow(*flop);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::evidence::record::Tier;

    fn window(index: u64, flop: u128) -> Window {
        Window {
            device: 0,
            index,
            start_ns: index * 1_000_000_000,
            end_ns: (index + 1) * 1_000_000_000,
            tier: Tier::Counted,
            why: String::new(),
            group: Some(0),
            counts: BTreeMap::from([("p".to_owned(), flop)]),
            ..Window::default()
        }
    }

    fn census(index: u64, flop: &[u128]) -> Kernels {
        let kernel = |(i, flop): (usize, &u128)| Kernel {
            name: format!("k{i}"),
            launches: 1,
            counts: BTreeMap::from([("p".to_owned(), *flop)]),
            ..Kernel::default()
        };
        Kernels { window: Some(index), kernels: flop.iter().enumerate().map(kernel).collect(), ..Kernels::default() }
    }

    proptest! {
        /// Whatever was counted and whichever windows were censuses: rows and residual are the total, to the unit.
        #[test]
        fn nothing_is_lost_and_nothing_is_added(
            flops in prop::collection::vec(0u128..1 << 80, 1..20),
            bursts in prop::collection::vec((0usize..20, prop::collection::vec(0u128..1 << 60, 0..6)), 0..5),
            interpolated in 0u128..1 << 70,
        ) {
            let windows = flops.iter().enumerate().map(|(i, f)| window(i as u64, *f)).collect();
            let mut track = Track { windows, ..Track::default() };
            for (at, kernels) in bursts {
                let at = at % track.windows.len();
                if track.censuses.iter().all(|c| c.window != Some(at as u64)) {
                    track.windows[at].counts.insert("p".to_owned(), kernels.iter().sum());
                    track.censuses.push(census(at as u64, &kernels));
                }
            }
            let counted = track.windows.iter().map(|w| w.counts["p"]).sum();
            let total = PathTotal { counted, interpolated, variance: Some(0.0), looked_ns: (1, 1), sparse: None };
            let kernels = KernelTotals::of(&track, &[("p".to_owned(), total)].into());
            prop_assert_eq!(kernels.total(), counted + interpolated);
            let seen = track.censuses.iter().any(|c| c.kernels.iter().any(|k| k.counts["p"] > 0));
            prop_assert_eq!(kernels.residual.is_empty(), seen || counted + interpolated == 0);
        }
    }

    /// Two phases of a run, one census in each: a kernel has of each phase's operations what it had in that phase's census.
    #[test]
    fn a_census_stands_for_the_time_around_it() {
        let mut track = Track { windows: (0..10).map(|i| window(i, if i < 5 { 1000 } else { 9000 })).collect(), ..Track::default() };
        for (at, flop) in [(2, [1000, 0]), (7, [0, 9000])] {
            track.censuses.push(census(at, &flop));
        }
        let total = PathTotal { counted: 50_000, interpolated: 0, variance: Some(0.0), looked_ns: (1, 1), sparse: None };
        let kernels = KernelTotals::of(&track, &[("p".to_owned(), total)].into());
        let flop: Vec<u128> = kernels.rows.values().map(KernelTotal::total).collect();
        assert_eq!(flop, [5000, 45_000]);
        // With two that disagree altogether the error is large; with one it is not known.
        assert!(kernels.rows.values().all(|r| r.variance.unwrap().sqrt() > 5000.0));
        track.censuses.pop();
        let total = PathTotal { counted: 50_000, interpolated: 0, variance: Some(0.0), looked_ns: (1, 1), sparse: None };
        let one = KernelTotals::of(&track, &[("p".to_owned(), total)].into());
        assert_eq!(one.rows.values().map(|r| r.variance).collect::<Vec<_>>()[0], None);
    }

    /// Of two groups that take turns each had a census: what a launch executes of a path, and how fast, is what it did when that was looked at.
    #[test]
    fn a_census_that_did_not_look_at_a_path_says_nothing_of_it() {
        let mut track = Track { windows: (0..4).map(|i| window(i, 0)).collect(), ..Track::default() };
        track.device.max_sm_clock_mhz = 1000;
        track.device.peak_flop_per_cycle = ["a", "b"].map(|p| (p.to_owned(), 4.0)).into();
        for (at, path) in [(1, "a"), (2, "b")] {
            let kernel = |name: &str, flop| Kernel {
                name: name.to_owned(),
                grid: [7, 1, 1],
                launches: 2,
                counts: [(path.to_owned(), flop)].into(),
                durations_ns: vec![100, 100],
                ..Kernel::default()
            };
            track.windows[at].counts = [(path.to_owned(), 600)].into();
            let kernels = vec![kernel("one", 400), kernel("other", 200)];
            track.censuses.push(Kernels { window: Some(at as u64), kernels, ..Kernels::default() });
        }
        // The roll call knows one of them from each census.
        let called = |window, row| Called { window, row, launches: 50, unsure: false };
        track.rolls.push(RollCall { end_ns: 9, launches: 100, rows: vec![called(1, 0), called(2, 1)], ..RollCall::default() });
        let total = || PathTotal { counted: 6000, interpolated: 0, variance: Some(0.0), looked_ns: (1, 2), sparse: None };
        let kernels = KernelTotals::of(&track, &["a", "b"].map(|p| (p.to_owned(), total())).into());
        let one = &kernels.rows[&(Kind::Kernel, "one".to_owned())];
        assert_eq!((one.launches, one.seen["a"].per_launch(), one.seen["b"].per_launch()), (4, 200.0, 200.0));
        let (launches, paths) = &one.shapes[&([7, 1, 1], [0; 3])];
        assert_eq!((*launches, paths["a"].per_launch()), (4, 200.0));
        // 200 FLOP of either path in 100 ns, of 4 FLOP a ns.
        assert_eq!((one.rate(), one.peak_share()), (4e9, Some(1.0)));
        assert_eq!(one.flop, ["a", "b"].map(|p| (p.to_owned(), 4000)).into(), "two thirds, as in each census");
        assert_eq!(kernels.total(), 12_000);
    }

    /// A census of two launches, and a roll call that heard one of them nine times as often: the total is apportioned by what was heard.
    #[test]
    fn a_roll_call_says_how_often_a_launch_came() {
        let mut track = Track { windows: (0..10).map(|i| window(i, 1000)).collect(), ..Track::default() };
        track.censuses.push(census(2, &[100, 300]));
        let called = |row, launches| Called { window: 2, row, launches, unsure: false };
        track.rolls.push(RollCall {
            start_ns: 4,
            end_ns: 9,
            launches: 12,
            unknown: 2,
            rows: vec![called(0, 9), called(1, 1)],
            ..RollCall::default()
        });
        let total = PathTotal { counted: 12_000, interpolated: 0, variance: Some(0.0), looked_ns: (1, 1), sparse: None };
        let kernels = KernelTotals::of(&track, &[("p".to_owned(), total)].into());
        assert_eq!(kernels.rows.values().map(KernelTotal::total).collect::<Vec<_>>(), [9000, 3000]);
        assert_eq!((kernels.rolls, kernels.called), (1, (12, 2)));
        // One that knows all it heard goes before one that does not.
        track.rolls.push(RollCall {
            start_ns: 9,
            end_ns: 12,
            launches: 4,
            unknown: 0,
            rows: vec![called(0, 3), called(1, 1)],
            ..RollCall::default()
        });
        let total = PathTotal { counted: 12_000, interpolated: 0, variance: Some(0.0), looked_ns: (1, 1), sparse: None };
        let kernels = KernelTotals::of(&track, &[("p".to_owned(), total)].into());
        assert_eq!(kernels.rows.values().map(KernelTotal::total).collect::<Vec<_>>(), [6000, 6000]);
    }
}
