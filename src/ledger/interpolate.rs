//! What a path did while it was not looked at.
//!
//! A path takes turns with others, or a boundary went ungated, or another process had the counters: then some intervals of its time are *off*. In
//! each interval that is *on*, the rate `r = FLOP / a` is known, where `a` is the interval's SM cycles (of its length in nanoseconds where no
//! cycles were read). A block of off intervals is given
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

/// One interval of one path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// FLOP counted; none when the path was off.
    pub flop: Option<u128>,
    /// SM cycles, where they were read.
    pub cycles: Option<u64>,
    /// Length.
    pub ns: u64,
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
    let clock = Clock::of(intervals);
    if on.iter().all(|i| intervals[*i].flop == Some(0)) && !on.is_empty() {
        return Interpolated { variance: Some(0.0), ..Interpolated::default() };
    }
    let rate = |i: usize| intervals[i].flop.unwrap_or(0) as f64 / clock.ticks(&intervals[i]).max(1.0);
    let rates: Vec<f64> = on.iter().map(|i| rate(*i)).collect();
    let scatter =
        (rates.len() >= 2).then(|| rates.windows(2).map(|w| (w[1] - w[0]).powi(2)).sum::<f64>() / (2.0 * (rates.len() - 1) as f64));
    let mut result = Interpolated { variance: Some(0.0), ..Interpolated::default() };
    let mut i = 0;
    while i < intervals.len() {
        if intervals[i].flop.is_some() {
            i += 1;
            continue;
        }
        let end = (i..intervals.len()).find(|j| intervals[*j].flop.is_some()).unwrap_or(intervals.len());
        let ticks: f64 = intervals[i..end].iter().map(|x| clock.ticks(x)).sum();
        let before = on.iter().rev().find(|j| **j < i).map(|j| rate(*j));
        let after = on.iter().find(|j| **j >= end).map(|j| rate(*j));
        let first = std::mem::replace(&mut i, end);
        let (mean, spread) = match (before, after) {
            (Some(b), Some(a)) => (f64::midpoint(a, b), scatter.map(|v| ((a - b) / 2.0).powi(2) + 1.5 * v)),
            (Some(r), None) | (None, Some(r)) => (r, scatter.map(|v| r * r / 12.0 + 2.0 * v)),
            (None, None) => return Interpolated::default(),
        };
        result.flop += ticks * mean;
        result.each.resize(intervals.len(), 0.0);
        (first..end).for_each(|j| result.each[j] = clock.ticks(&intervals[j]) * mean);
        result.variance = match (result.variance, spread) {
            (Some(sum), Some(s)) => Some(sum + ticks * ticks * s),
            _ => (ticks == 0.0).then_some(result.variance).flatten(),
        };
    }
    result
}

/// Cycles where every on interval has them; nanoseconds else.
struct Clock {
    cycles_per_ns: Option<f64>,
}

impl Clock {
    fn of(intervals: &[Interval]) -> Self {
        let on = || intervals.iter().filter(|i| i.flop.is_some() && i.ns > 0);
        let all = on().all(|i| i.cycles.is_some());
        let (cycles, ns) = on().fold((0.0, 0.0), |(c, n), i| (c + i.cycles.unwrap_or(0) as f64, n + i.ns as f64));
        Self { cycles_per_ns: (all && ns > 0.0 && cycles > 0.0).then_some(cycles / ns) }
    }

    fn ticks(&self, interval: &Interval) -> f64 {
        match (self.cycles_per_ns, interval.cycles) {
            (Some(_), Some(cycles)) => cycles as f64,
            (Some(per_ns), None) => interval.ns as f64 * per_ns,
            (None, _) => interval.ns as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interval(on: bool, rate: u64, cycles: u64) -> Interval {
        Interval { flop: on.then(|| u128::from(rate) * u128::from(cycles)), cycles: Some(cycles), ns: cycles * 2 }
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
