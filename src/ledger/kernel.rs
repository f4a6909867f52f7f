//! Which kernels executed the operations.
//!
//! A census counts every launch of a burst by itself; between bursts only the sum is known. So each path's total is apportioned, by samples. A sample is a roll call,
//! which says how often each launch that a census counted came in a time; where there is none, the census itself, a few steps of the program. Every sample that saw the path
//! stands for the windows that lie nearer to it than to another: its weight is what the path counted in them. In a sample a kernel has the share of the
//! path's operations that its launches executed there, and the kernel's share of the total is the weighted mean over the samples. The rows of a path add
//! up to its total to the unit. What no sample saw (a path that was never on in a census, a process without one) is the residual, a row of its own.
//!
//! The error of a row is how much the samples disagree about it ([`spread`]); with one sample, or where parts of steps were sampled, it is not known.
//!
//! Groups of counters take turns, so a census may not have looked at a path. What a launch executes of a path, and how fast, is that of the launches in which it was looked at.

mod sample;
mod spread;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::{
    PathTotal, Paths,
    arithmetic::{Amount, add_up},
    cores,
    track::Track,
};
use crate::evidence::record::{Kernels, Kind, RollCall, Window};

use sample::{Sample, Told, Variants};
pub(super) use sample::{called, looked_at};
pub use spread::Spread;

/// What a row is of.
pub type Key = (Kind, String);
/// Grid and block.
pub type Shape = ([u32; 3], [u32; 3]);

/// One kernel, or graph.
#[derive(Clone, Debug)]
pub struct KernelTotal {
    /// FLOP apportioned to it, by path.
    pub flop: BTreeMap<String, u128>,
    /// How far their sum may be off, FLOP; none when it is not known.
    pub spread: Option<Spread>,
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
            spread: Some(Spread::default()),
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

    /// Standard error of that; none when it is not known. Of few samples it is widened, so that twice it holds as often as of many.
    #[must_use]
    pub fn standard_error(&self) -> Option<f64> {
        self.spread.map(|s| s.standard_error())
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
        self.spread = self.spread.zip(other.spread).map(|(a, b)| a.plus(b));
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
        let variants = Variants::of(track);
        for call in &track.rolls {
            totals.rolls += 1;
            totals.called = (totals.called.0.plus(call.launches), totals.called.1.plus(call.unknown));
            rolls.push(Sample::of_roll(call, track, &variants));
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
        let seen: Vec<&Sample> = samples.iter().filter(|s| s.flop(path) > 0.0).collect();
        if seen.is_empty() {
            self.residual.entry(path.to_owned()).or_default().grow(total.total());
            return;
        }
        let told = Told::of(path, &seen, windows);
        let amount = total.total();
        let mut left = amount;
        let largest = told.rows().max_by(|a, b| told.share(a.1).total_cmp(&told.share(b.1))).map(|(key, _)| key.clone());
        for (key, shares) in told.rows() {
            let share = told.share(shares);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between nothing and the amount")]
            let flop = ((amount as f64 * share).floor() as u128).min(left);
            left -= flop;
            let row = self.rows.entry(key.clone()).or_default();
            row.flop.entry(path.to_owned()).or_default().grow(flop);
            let of_samples = told.spread(key, shares).map(|s| s.times(amount as f64));
            let of_total = total.variance.map(|v| Spread::known(v * share * share));
            row.spread = row.spread.zip(of_samples).zip(of_total).map(|((a, b), c)| a.plus(b).plus(c));
        }
        // What rounding left over goes where it shows least.
        if let Some(key) = largest {
            self.rows.entry(key).or_default().flop.entry(path.to_owned()).or_default().grow(left);
        }
    }
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
    use crate::evidence::record::{Called, Kernel, Tier};

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
        Kernels { window: Some(index), step: Some(1), kernels: flop.iter().enumerate().map(kernel).collect(), ..Kernels::default() }
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
        assert!(kernels.rows.values().all(|r| r.standard_error().unwrap() > 15_000.0));
        // Bursts that are parts of steps may all be of the same part.
        track.censuses[0].step = None;
        let total = PathTotal { counted: 50_000, interpolated: 0, variance: Some(0.0), looked_ns: (1, 1), sparse: None };
        let parts = KernelTotals::of(&track, &[("p".to_owned(), total)].into());
        assert!(parts.rows.values().all(|r| r.total() > 0 && r.standard_error().is_none()));
        track.censuses[0].step = Some(1);
        track.censuses.pop();
        let total = PathTotal { counted: 50_000, interpolated: 0, variance: Some(0.0), looked_ns: (1, 1), sparse: None };
        let one = KernelTotals::of(&track, &[("p".to_owned(), total)].into());
        assert_eq!(one.rows.values().next().unwrap().standard_error(), None);
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

    /// Launches of which a roll call does not know what they executed are in the errors, however well its samples agree.
    #[test]
    fn what_samples_do_not_know_is_in_the_error() {
        let errors = |unsure: bool, unknown: u64| {
            let mut track = Track { windows: (0..10).map(|i| window(i, 1000)).collect(), ..Track::default() };
            // Of the first kernel some launches executed 100, others 300.
            let mut one = census(2, &[100, 500, 300]);
            one.kernels[2].name = "k0".to_owned();
            track.censuses.push(one);
            for start_ns in [0, 5_000_000_000] {
                let called = |row, unsure| Called { window: 2, row, launches: 10, unsure };
                let rows = vec![called(0, unsure), called(1, false)];
                let launches = 20 + unknown;
                track.rolls.push(RollCall { start_ns, end_ns: start_ns + 9, launches, unknown, rows, ..RollCall::default() });
            }
            let total = PathTotal { counted: 6000, interpolated: 0, variance: Some(0.0), looked_ns: (1, 1), sparse: None };
            let kernels = KernelTotals::of(&track, &[("p".to_owned(), total)].into());
            kernels.rows.values().map(|r| r.standard_error().unwrap()).collect::<Vec<_>>()
        };
        let near = |errors: Vec<f64>, expected: [f64; 2]| {
            assert!(errors.iter().zip(expected).all(|(e, x)| (e - x).abs() < 1e-6), "{errors:?} {expected:?}");
        };
        near(errors(false, 0), [0.0, 0.0]);
        // 10 launches of 6000 FLOP may each have been 100 more or less: a sixth of the total; the other row has five sixths of one that may be as much larger.
        near(errors(true, 0), [1000.0_f64.hypot(1000.0 / 6.0), 5000.0 / 6.0]);
        // A fifth of the launches is not known.
        near(errors(false, 5), [200.0, 1000.0]);
    }
}
