//! What a path did while it was not looked at.
//!
//! A path takes turns with others, or a boundary went ungated, or another process had the counters: then some intervals of its time are *off*. In
//! each interval that is *on*, the rate `r = FLOP / a` is known. For a block whose SM cycles were read (its path was off, its window was not) `a` are
//! cycles; for one without (another process had the counters) `a` are nanoseconds: cycles pass in a context only while it is on the GPU, so where a GPU is shared
//! their number in an interval that nobody counted is not known. A block of off intervals is given
//!
//! ```text
//! a_block x (r_before + r_after) / 2            (the one neighbour's rate at the ends)
//! ```
//! Its error is taken as one for the whole block: `a_block x sqrt(d² + 3/2 v)`, at the ends `a_block x sqrt(r²/12 + 2 v)`, where `d` is half the
//! difference of the two neighbours' rates and `v` the variance of the rate from window to window, estimated by von Neumann's successive
//! differences, which a slow drift does not inflate. At the ends nothing says that the program had started, or had not ended: there the rate may have been
//! anything from none to the neighbour's. Blocks add in quadrature. It assumes that what a program does while a path is off resembles
//! what it does just before and after: true of training loops, not of a program that does one thing once. With fewer than two on
//! intervals the scatter is not known, and neither is the error. A path that did nothing whenever it was looked at is taken as unused: the report says
//! for how long it was looked at.

use std::ops::Range;

/// One interval of one path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// FLOP counted; none when the path was off.
    pub flop: Option<u128>,
    /// SM cycles, where they were read.
    pub cycles: Option<u64>,
    /// Length.
    pub ns: u64,
    /// Launches were counted one by one, and the program waited in between: how much was executed in its time or cycles says nothing of another interval's.
    pub census: bool,
}

/// What the off intervals amount to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interpolated {
    /// FLOP.
    pub flop: f64,
    /// Variance, FLOP²; none when it is not known.
    pub variance: Option<f64>,
    /// FLOP put into each interval; empty when there was none to put.
    pub each: Vec<f64>,
}

/// Interpolates the off intervals of one path, in the order of time.
#[must_use]
pub fn interpolate(intervals: &[Interval]) -> Interpolated {
    let on: Vec<usize> = (0..intervals.len()).filter(|i| intervals[*i].flop.is_some() && intervals[*i].ns > 0).collect();
    if on.len() == intervals.len() {
        return Interpolated { variance: Some(0.0), ..Interpolated::default() };
    }
    if on.iter().all(|i| intervals[*i].flop == Some(0)) && !on.is_empty() {
        return Interpolated { variance: Some(0.0), ..Interpolated::default() };
    }
    let plain: Vec<usize> = on.iter().copied().filter(|i| !intervals[*i].census).collect();
    let tell = if plain.is_empty() { &on } else { &plain };
    let by_time = Rates::of(intervals, tell, |i| Some(i.ns as f64));
    let by_cycles = Rates::of(intervals, tell, |i| i.cycles.map(|c| c as f64));
    let mut result = Interpolated { variance: Some(0.0), each: vec![0.0; intervals.len()], ..Interpolated::default() };
    let mut i = 0;
    while i < intervals.len() {
        if intervals[i].flop.is_some() {
            i += 1;
            continue;
        }
        let end = (i..intervals.len()).find(|j| intervals[*j].flop.is_some()).unwrap_or(intervals.len());
        let block = by_cycles.as_ref().and_then(|r| r.block(intervals, i..end)).or_else(|| by_time.as_ref()?.block(intervals, i..end));
        let Some(block) = block else { return Interpolated::default() };
        result.flop += block.flop;
        result.each[i..end].copy_from_slice(&block.each);
        result.variance = result.variance.zip(block.variance).map(|(sum, v)| sum + v);
        i = end;
    }
    result
}

/// The rates of the on intervals, on one clock.
struct Rates<F> {
    /// Index of an on interval, and its rate.
    on: Vec<(usize, f64)>,
    /// Variance from one to the next; none with fewer than two.
    scatter: Option<f64>,
    ticks: F,
}

impl<F: Fn(&Interval) -> Option<f64>> Rates<F> {
    /// None where an on interval was not timed on this clock, and without any.
    fn of(intervals: &[Interval], on: &[usize], ticks: F) -> Option<Self> {
        let rate = |i: &usize| Some((*i, intervals[*i].flop? as f64 / ticks(&intervals[*i])?.max(1.0)));
        let on: Vec<(usize, f64)> = on.iter().map(rate).collect::<Option<_>>()?;
        let squares: f64 = on.windows(2).map(|w| (w[1].1 - w[0].1).powi(2)).sum();
        let scatter = (on.len() >= 2).then(|| squares / (2.0 * (on.len() - 1) as f64));
        (!on.is_empty()).then_some(Self { on, scatter, ticks })
    }

    /// What a block of off intervals amounts to; none where one of them was not timed on this clock.
    fn block(&self, intervals: &[Interval], block: Range<usize>) -> Option<Interpolated> {
        let before = self.on.iter().rev().find(|(j, _)| *j < block.start).map(|(_, r)| *r);
        let after = self.on.iter().find(|(j, _)| *j >= block.end).map(|(_, r)| *r);
        let each: Vec<f64> = intervals[block].iter().map(&self.ticks).collect::<Option<_>>()?;
        let ticks: f64 = each.iter().sum();
        let (mean, spread) = match (before, after) {
            (Some(b), Some(a)) => (f64::midpoint(a, b), self.scatter.map(|v| ((a - b) / 2.0).powi(2) + 1.5 * v)),
            (Some(r), None) | (None, Some(r)) => (r, self.scatter.map(|v| r * r / 12.0 + 2.0 * v)),
            (None, None) => return None,
        };
        let variance = if ticks == 0.0 { Some(0.0) } else { spread.map(|s| ticks * ticks * s) };
        Some(Interpolated { flop: ticks * mean, variance, each: each.into_iter().map(|t| t * mean).collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interval(on: bool, rate: u64, cycles: u64) -> Interval {
        Interval { flop: on.then(|| u128::from(rate) * u128::from(cycles)), cycles: Some(cycles), ns: cycles * 2, census: false }
    }

    proptest! {
        #[test]
        fn a_constant_rate_is_exact(rate in 0u64..1 << 40, pieces in prop::collection::vec((any::<bool>(), 1u64..1 << 40), 2..40)) {
            prop_assume!(pieces.iter().filter(|(on, _)| *on).count() >= 2);
            let intervals: Vec<_> = pieces.iter().map(|(on, cycles)| interval(*on, rate, *cycles)).collect();
            let off: f64 = pieces.iter().filter(|(on, _)| !on).map(|(_, c)| rate as f64 * *c as f64).sum();
            let got = interpolate(&intervals);
            prop_assert!((got.flop - off).abs() <= 1e-9 * off.max(1.0), "{} for {off}", got.flop);
            prop_assert!(got.variance.unwrap().sqrt() <= 0.3 * off.max(1.0));
        }

        #[test]
        fn all_on_needs_nothing(cycles in prop::collection::vec(1u64..1 << 40, 1..20)) {
            let intervals: Vec<_> = cycles.iter().map(|c| interval(true, 7, *c)).collect();
            prop_assert_eq!(interpolate(&intervals), Interpolated { variance: Some(0.0), ..Interpolated::default() });
        }
    }

    /// A program whose rate scatters from window to window: the error must be within three of its own standard errors nearly always.
    #[test]
    fn the_standard_error_holds_for_scattered_rates() {
        let mut seed = 12345u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut within = 0;
        for _ in 0..1000 {
            let truth: Vec<(bool, u64, u64)> =
                (0..40).map(|i| (i % 2 == 0, 1_000_000 + (random() * 200_000.0).round() as u64, 1_000_000)).collect();
            let intervals: Vec<_> = truth.iter().map(|(on, rate, cycles)| interval(*on, *rate, *cycles)).collect();
            let off: f64 = truth.iter().filter(|(on, ..)| !on).map(|(_, rate, cycles)| *rate as f64 * *cycles as f64).sum();
            let got = interpolate(&intervals);
            within += u32::from((got.flop - off).abs() <= 3.0 * got.variance.unwrap().sqrt());
        }
        assert!(within >= 980, "{within} of 1000");
    }

    /// Two processes on one GPU: the cycles that were counted say nothing of an interval in which the other one had the counters.
    #[test]
    fn time_that_nobody_counted_is_interpolated_by_time() {
        let on = |ns: u64, cycles: u64, flop: u128| Interval { flop: Some(flop), cycles: Some(cycles), ns, census: false };
        let off = Interval { flop: None, cycles: None, ns: 1000, census: false };
        // Half of the GPU, then, the other process being gone, all of it: twice the cycles and twice the operations in the same time.
        let got = interpolate(&[on(1000, 500, 4000), off, on(1000, 500, 4000), off, on(1000, 1000, 8000)]);
        assert!((got.flop - 10_000.0).abs() < 1e-6, "{got:?}");
        // The change between the neighbours of the last gap is in its error.
        assert!(got.variance.unwrap().sqrt() >= 2000.0, "{got:?}");
    }

    /// A census holds the program up and its cycles are those of kernels alone: the intervals around it have the rate of other intervals.
    #[test]
    fn a_census_is_no_measure_of_other_intervals() {
        let census = Interval { census: true, ..interval(true, 50, 10) };
        let got = interpolate(&[interval(false, 1, 100), census, interval(false, 1, 100), interval(true, 2, 100)]);
        assert!((got.flop - 400.0).abs() < 1e-9, "{got:?}");
        assert!((interpolate(&[census, interval(false, 1, 100)]).flop - 5000.0).abs() < 1e-9, "nothing else is known");
    }

    #[test]
    fn what_cannot_be_known_is_not_claimed() {
        let never = [interval(false, 1, 5), interval(false, 1, 7)];
        assert_eq!(interpolate(&never).variance, None);
        let unused = [interval(true, 0, 5), interval(false, 1, 7)];
        assert_eq!(interpolate(&unused), Interpolated { variance: Some(0.0), ..Interpolated::default() });
        let once = [interval(true, 3, 5), interval(false, 1, 7)];
        let got = interpolate(&once);
        assert!((got.flop - 21.0).abs() < 1e-9);
        assert_eq!(got.variance, None);
    }
}
