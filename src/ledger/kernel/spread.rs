//! How sure a share is that samples tell.
//!
//! A sample is a burst or the time of a roll call, and it is one observation, however many launches are in it: those of one step come together. Its size is what it executed, and a
//! share in it scatters the less the larger it is: `variance = s² / size`. So with samples of shares `p` and sizes `x`, whose weighted mean `Σ w p` is the estimate,
//!
//! ```text
//! s² = Σ x (p - P)² / (n - 1),   P = Σ x p / Σ x        (the ratio of sums)
//! variance = s² Σ w² / x  +  (Σ w p - P)²
//! ```
//! The last term is for steps that differ in size: long ones have other shares than short ones, and a mean of shares is not the ratio of sums. Of `n` samples the scatter is itself known to
//! `n - 1` degrees of freedom only, so the standard error is widened until twice it holds as often as twice that of many samples does, by Student's t. Where errors add up (paths, ranks),
//! so do variances, and the degrees of freedom are those of Welch and Satterthwaite.
//!
//! What this cannot know: two bursts of steps that happen to be the same say that all are.

/// A variance, and how well it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    variance: f64,
    /// The sum of the squares of what it is made of, each over its degrees of freedom.
    over_freedom: f64,
}

/// What one sample says of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// Its share in the sample.
    pub(super) share: f64,
    /// What the sample executed.
    pub(super) size: f64,
    /// What it stands for; those of all samples add up to one.
    pub(super) weight: f64,
}

impl Spread {
    /// A variance that is as well known as it has to be.
    #[must_use]
    pub fn known(variance: f64) -> Self {
        Self { variance, over_freedom: 0.0 }
    }

    /// Of the weighted mean of samples, all larger than nothing; none with fewer than two.
    pub(super) fn of(samples: &[Share]) -> Option<Self> {
        let freedom = samples.len().checked_sub(1).filter(|n| *n > 0)? as f64;
        let sum = |f: &dyn Fn(&Share) -> f64| samples.iter().map(f).sum::<f64>();
        let ratio = sum(&|s| s.size * s.share) / sum(&|s| s.size);
        let scatter = sum(&|s| s.size * (s.share - ratio).powi(2)) / freedom;
        let between = (sum(&|s| s.weight * s.share) - ratio).powi(2);
        let variance = scatter * sum(&|s| s.weight.powi(2) / s.size) + between;
        Some(Self { variance, over_freedom: variance.powi(2) / freedom })
    }

    /// Of so many times the value.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { variance: self.variance * factor.powi(2), over_freedom: self.over_freedom * factor.powi(4) }
    }

    /// Of the sum with another, which knows nothing of this one.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { variance: self.variance + other.variance, over_freedom: self.over_freedom + other.over_freedom }
    }

    /// Its root, widened for few samples.
    #[must_use]
    pub fn standard_error(&self) -> f64 {
        let freedom = if self.over_freedom > 0.0 { (self.variance * (self.variance / self.over_freedom)).max(1.0) } else { f64::INFINITY };
        self.variance.sqrt() * widening(freedom)
    }
}

/// By what a standard error is wider with so many degrees of freedom: the quantile of Student's t at the probability that a normal variable has within two standard deviations,
/// over two. Cornish and Fisher's expansion, and a last term that makes it right for one; from there on within 0.5 %.
fn widening(freedom: f64) -> f64 {
    let f = 1.0 / freedom;
    1.0 + f * (1.25 + f * (1.531_25 + f * (1.4297 + f * (0.922 + f * f * 0.851))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_a_widened_error_is_students_quantile() {
        // P(|t| < x) = 0.954500, by numerical integration.
        for (freedom, quantile) in
            [(1.0, 13.9677), (1.5, 6.4182), (2.0, 4.5265), (3.0, 3.3068), (5.0, 2.6486), (10.0, 2.2837), (100.0, 2.0253)]
        {
            assert!((2.0 * widening(freedom) / quantile - 1.0).abs() < 5e-3, "{freedom}: {}", widening(freedom));
        }
        assert_eq!(widening(f64::INFINITY), 1.0);
    }

    #[test]
    fn one_sample_says_nothing_of_its_error_and_large_ones_say_more_than_small_ones() {
        let of = |samples: &[(f64, f64, f64)]| {
            let samples: Vec<Share> = samples.iter().map(|&(share, size, weight)| Share { share, size, weight }).collect();
            Spread::of(&samples)
        };
        assert_eq!(of(&[(0.5, 1.0, 1.0)]), None);
        assert_eq!(of(&[]), None);
        // Half of what two say, 0.125 from their mean: the root of their variance over two.
        let equal = of(&[(0.75, 9.0, 0.5), (0.5, 9.0, 0.5)]).unwrap();
        assert!((equal.standard_error() / widening(1.0) - 0.125).abs() < 1e-12, "{equal:?}");
        // A run that stands on one of them is known as well as that one is.
        let one = of(&[(0.75, 9.0, 1.0), (0.5, 9.0, 0.0)]).unwrap();
        assert!(one.standard_error() > 1.4 * equal.standard_error(), "{one:?}");
        let larger = of(&[(0.75, 9.0, 0.0), (0.5, 900.0, 1.0)]).unwrap();
        assert!(larger.standard_error() < 0.2 * one.standard_error(), "{larger:?}");
    }

    #[test]
    fn errors_of_many_ranks_with_few_samples_each_are_hardly_widened() {
        let rank = Spread { variance: 1.0, over_freedom: 1.0 };
        let all = (0..99).fold(rank, |sum, _| sum.plus(rank));
        assert!((all.standard_error() / 10.0 - widening(100.0)).abs() < 1e-9);
        assert!((rank.times(3.0).standard_error() - 3.0 * rank.standard_error()).abs() < 1e-9);
        assert_eq!(Spread::known(4.0).standard_error(), 2.0);
        assert_eq!(Spread::default().standard_error(), 0.0);
    }
}
