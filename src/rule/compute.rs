//! Compute: amounts, what they were used for, and the two formulas of the Guidelines' Annex A.2.

use num_rational::Ratio;
use serde::{Deserialize, Serialize};

use super::{Accounted, Error, Guidelines, MOST, MOST_IN_SUM, Quantity, Total, guidelines::Fraction};

/// What compute was used for. The order is that of the tables in [`super::guidelines`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Forward and backward passes and the optimizer.
    Training,
    /// Forward passes done again in the backward pass to save memory.
    Recomputation,
    /// Validation, benchmarks, red-teaming.
    Evaluation,
    /// Forward passes that generated synthetic data that is not public, discarded samples included.
    PrivateSyntheticData,
    /// Forward passes that generated synthetic data that anyone can get.
    PublicSyntheticData,
    /// Training of other weights that were merged into the model, averaged with it, or that it started from (beyond the base model).
    MergedWeights,
    /// Generation and reference passes of reinforcement learning.
    Rollouts,
    /// Steps that were done and then undone by a crash or a restart from an older checkpoint.
    LostSteps,
    /// A run whose result was thrown away.
    DiscardedRun,
    /// Training of reward models or value functions.
    AuxiliaryModel,
    /// Training of the model that this one was distilled from.
    DistillationParent,
    /// Not known.
    Other,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::Training,
        Self::Recomputation,
        Self::Evaluation,
        Self::PrivateSyntheticData,
        Self::PublicSyntheticData,
        Self::MergedWeights,
        Self::Rollouts,
        Self::LostSteps,
        Self::DiscardedRun,
        Self::AuxiliaryModel,
        Self::DistillationParent,
        Self::Other,
    ];

    /// Its name in flags and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Recomputation => "recomputation",
            Self::Evaluation => "evaluation",
            Self::PrivateSyntheticData => "synthetic-private",
            Self::PublicSyntheticData => "synthetic-public",
            Self::MergedWeights => "merged",
            Self::Rollouts => "rollouts",
            Self::LostSteps => "lost-steps",
            Self::DiscardedRun => "discarded",
            Self::AuxiliaryModel => "auxiliary",
            Self::DistillationParent => "distillation-parent",
            Self::Other => "other",
        }
    }
}

/// A number of operations and the interval in which the true one lies, FLOP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// The value.
    #[serde(with = "text")]
    pub flop: u128,
    /// Lower end.
    #[serde(with = "text")]
    pub low: u128,
    /// Upper end.
    #[serde(with = "text")]
    pub high: u128,
}

impl Amount {
    /// A number without error: read from counters over the whole time.
    #[must_use]
    pub const fn exact(flop: u128) -> Self {
        Self { flop, low: flop, high: flop }
    }

    /// A number with the error that the Guidelines accept of an estimate, 30 % of it either way: what a formula gives, or what someone declares.
    #[must_use]
    pub fn estimated(flop: u128, rules: &Guidelines) -> Self {
        let (low, high) = margin(flop, rules.margin);
        Self { flop, low, high }
    }

    /// A number with its standard error, three of which are taken either way. What was read from counters (`counted`) is certain.
    #[must_use]
    pub fn with_error(flop: u128, counted: u128, standard_error: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates, and is not negative")]
        let error = (3.0 * standard_error.max(0.0)).ceil() as u128;
        Self { flop, low: flop.saturating_sub(error).max(counted.min(flop)), high: flop.saturating_add(error) }
    }

    /// Refuses what cannot be meant.
    pub(super) fn check(&self, what: &str) -> Result<(), Error> {
        self.check_below(what, MOST)
    }

    /// The same for a sum.
    pub(super) fn check_sum(&self, what: &str) -> Result<(), Error> {
        self.check_below(what, MOST_IN_SUM)
    }

    fn check_below(&self, what: &str, most: u128) -> Result<(), Error> {
        let large = self.flop.max(self.high);
        if large > most {
            return Err(Error::TooLarge { what: what.to_owned(), flop: large });
        }
        if self.low > self.flop || self.flop > self.high {
            return Err(Error::Interval { what: what.to_owned(), flop: self.flop, low: self.low, high: self.high });
        }
        Ok(())
    }
}

/// One use that compute was put to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Which use.
    pub kind: Kind,
    /// What it is, in words.
    pub what: String,
    /// How much.
    pub amount: Amount,
    /// How the amount was come by: `counted`, a formula, who declared it.
    pub source: String,
}

/// Something that is missing in the components.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// What, in words.
    pub what: String,
    /// FLOP that it may be at most; none when nobody can say.
    #[serde(with = "text_or_none")]
    pub at_most: Option<u128>,
}

/// Takes parts out of a measured whole: recomputation and evaluation were executed, and so they were counted, with everything else. What remains is the
/// training. Its interval is the widest that the whole's and the parts' allow.
///
/// # Errors
/// [`Error::PartExceedsWhole`] when a part, or all together, are more than the whole.
pub fn split(executed: Component, parts: Vec<Component>) -> Result<Vec<Component>, Error> {
    let mut rest = executed.amount;
    for part in &parts {
        let exceeds = || Error::PartExceedsWhole { what: part.what.clone(), part: part.amount.flop, executed: executed.amount.flop };
        rest.flop = rest.flop.checked_sub(part.amount.flop).ok_or_else(exceeds)?;
        rest.low = rest.low.saturating_sub(part.amount.high);
        rest.high = rest.high.saturating_sub(part.amount.low).max(rest.flop);
    }
    let mut all = vec![Component { amount: rest, ..executed }];
    all.extend(parts);
    Ok(all)
}

/// C = 6·P·D, FLOP: parameters times tokens, epochs included (Guidelines, Annex A.2.2). For large dense transformers. What does not fit is the largest number there
/// is, which no model executes.
#[must_use]
pub fn six_pd(parameters: u64, tokens: u64) -> u128 {
    (u128::from(parameters) * u128::from(tokens)).saturating_mul(6)
}

/// C = N·L·H·U, FLOP: units, seconds of use, peak FLOP per second of a unit, average utilisation (Guidelines, Annex A.2.1).
#[must_use]
pub fn hardware(units: f64, seconds: f64, peak_flop_per_s: f64, utilisation: f64) -> f64 {
    units * seconds * peak_flop_per_s * utilisation
}

/// Sums one of the quantities.
pub(super) fn total(components: &[Accounted], quantity: Quantity, gaps: &[Gap], rules: &Guidelines) -> Result<Total, Error> {
    let mut sum = Amount::default();
    for c in components.iter().filter(|c| if quantity == Quantity::Direct { c.in_direct } else { c.in_cumulative }) {
        sum.flop += c.component.amount.flop;
        sum.low += c.component.amount.low;
        sum.high += c.component.amount.high;
        sum.check_sum("the sum of the components")?;
    }
    let missing = gaps.iter().try_fold(0u128, |s, g| s.checked_add(g.at_most?));
    Ok(of(sum, missing, !gaps.is_empty(), rules))
}

/// A total of an amount and what may be missing in it.
pub(super) fn of(sum: Amount, missing: Option<u128>, lower_bound: bool, rules: &Guidelines) -> Total {
    let (margin_low, margin_high) = margin(sum.flop, rules.margin);
    let high = missing.and_then(|m| sum.high.checked_add(m)).filter(|h| *h <= MOST_IN_SUM);
    let within_margin = sum.low >= margin_low && high.is_some_and(|h| h <= margin_high);
    Total { flop: sum.flop, flop_float: sum.flop as f64, low: sum.low, high, margin_low, margin_high, lower_bound, within_margin }
}

/// A value less and more its margin, rounded outwards.
pub(super) fn margin(flop: u128, margin: Fraction) -> (u128, u128) {
    let (low, high) = margin_exact(Ratio::from(flop), margin);
    (low.floor().to_integer(), high.ceil().to_integer())
}

/// A value less and more its margin.
pub(super) fn margin_exact(value: Ratio<u128>, margin: Fraction) -> (Ratio<u128>, Ratio<u128>) {
    let one = Ratio::from(1u128);
    let m = ratio(margin);
    (value * (one - m), value * (one + m))
}

/// A fraction of the rules.
pub(super) fn ratio(fraction: Fraction) -> Ratio<u128> {
    Ratio::new(u128::from(fraction.numerator), u128::from(fraction.denominator))
}

/// `u128` as a decimal string: a JSON number would round it.
pub(crate) mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(n: &u128, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&n.to_string())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u128, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|_| D::Error::custom(format!("not a whole number: {text:?}")))
    }
}

/// The same, where there may be none.
mod text_or_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(n: &Option<u128>, s: S) -> Result<S::Ok, S::Error> {
        n.map(|n| n.to_string()).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u128>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|t| t.parse().map_err(|_| D::Error::custom(format!("not a whole number: {t:?}")))).transpose()
    }
}
