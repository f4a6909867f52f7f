//! The rule: what follows from a number of operations under the EU AI Act. Pure: no I/O, no clock, nothing of the other modules.
//!
//! [`assess`] takes what was executed ([`Component`]s, one for each use that it was put to), what the model was made from ([`Origin`]) and what
//! is not known of it ([`Gap`]s, doubts), and says for each test of the Guidelines whether it is met: below, above, inconclusive. The tests, their
//! figures and where they are written are data with a version and a date ([`guidelines`]), not constants in the code.
//!
//! Two different quantities are compared with two different things (Guidelines, Annex A.1):
//!
//! | quantity | what it is | where it decides |
//! |---|---|---|
//! | *direct* | what contributed directly to updates of parameters | the one-third test of an ordinary base model; 10^23 |
//! | *cumulative* | all that contributed to the capabilities: also private synthetic data, discarded samples included | the one-third test of a base model with systemic risk; 10^25 |
//!
//! **Intervals.** The Guidelines accept a reported value R if the true one lies in [0.7 R, 1.3 R] (Annex A.2). What was counted is known better than
//! that, so each test says both: what the margin alone would give, and what the value's own interval gives; the latter is the verdict. A threshold
//! taken from an estimate has an interval too, and a verdict stands only if it holds in the whole of both. A value that may be too low, because a rank
//! or a path is missing, has no upper end unless the [`Gap`] says one: it can be above, but it is never silently below.
//!
//! **Exactness.** Operations are `u128`, thresholds are fractions of integers, and comparisons are exact: a third of 10^23 is not rounded. Intervals of
//! formulas are rounded outwards to whole FLOP. "Greater than" is strict, as the Guidelines write it.

mod assess;
mod base;
mod compute;
mod conclude;
pub mod guidelines;
mod models;
mod text;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use assess::assess;
pub use base::{Base, BaseCompute, Origin, SystemicRisk};
pub use compute::{Amount, Component, Gap, Kind, hardware, six_pd, split};
pub use guidelines::{Citation, Guidelines};
pub use models::{Model, known_model, known_models};

/// The largest number of FLOP that is taken for one: 10^33, a hundred million times the highest threshold. Above it is a slip of the keyboard, and
/// products with the fractions of the rule would leave `u128`.
pub const MOST: u128 = 10u128.pow(33);

/// The largest sum of such numbers that is still exact: times the fractions of the rule (39, at most) it stays within `u128`.
const MOST_IN_SUM: u128 = 10u128.pow(36);

/// What is to be assessed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// What the model was made from.
    pub origin: Origin,
    /// What was executed, each use once: components do not overlap ([`split`] takes parts out of a measured total).
    pub components: Vec<Component>,
    /// What is missing in the components: with any of these the totals are lower bounds.
    pub gaps: Vec<Gap>,
    /// Why the evidence cannot be relied on at all (it was changed after it was written). With any of these no verdict is above or below.
    pub doubts: Vec<String>,
    /// Any of it came from the stand-in GPU: every verdict is withheld.
    pub simulated: bool,
}

/// Why there is nothing to assess.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// More than [`MOST`], or a sum of a thousand such numbers.
    #[error("{what} is {flop} FLOP: so much cannot be meant")]
    TooLarge {
        /// Which number.
        what: String,
        /// How large.
        flop: u128,
    },
    /// A base model of no compute.
    #[error("the training compute of the base model {name} is 0 FLOP: give its published value, or its parameters and tokens")]
    NoBaseCompute {
        /// The base model.
        name: String,
    },
    /// `low <= flop <= high` does not hold.
    #[error("{what}: the interval [{low}, {high}] does not hold the value {flop}")]
    Interval {
        /// Which number.
        what: String,
        /// The value.
        flop: u128,
        /// The lower end.
        low: u128,
        /// The upper end.
        high: u128,
    },
    /// A part is larger than the whole it is taken from.
    #[error("{what} ({part} FLOP) is more than was executed ({executed} FLOP): one of the two is wrong")]
    PartExceedsWhole {
        /// The part.
        what: String,
        /// Its FLOP.
        part: u128,
        /// The whole's.
        executed: u128,
    },
    /// A reason that the Guidelines ask for is empty.
    #[error("{what}: the Guidelines ask for a reason (section 3.2), and it is empty")]
    NoReason {
        /// What the reason is for.
        what: String,
    },
}

/// Which of the two quantities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Compute that contributed directly to updates of parameters.
    Direct,
    /// All compute that contributed to the model's capabilities.
    Cumulative,
}

/// What a test gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not greater than the threshold, wherever in its interval the true value lies.
    Below,
    /// Greater than the threshold, wherever in its interval the true value lies.
    Above,
    /// It cannot be told: the interval crosses, or something is missing. `why` says which.
    Inconclusive,
    /// The run was simulated: there is nothing to be told.
    Withheld,
    /// The test does not concern this model (a model trained from scratch has no base model to take a third of).
    NotApplicable,
}

/// The tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestName {
    /// Is the compute of the modification greater than a third of the base model's?
    OneThird,
    /// Is the compute of the resulting model greater than 10^23 FLOP?
    GeneralPurpose,
    /// Is the cumulative compute of the resulting model greater than 10^25 FLOP?
    SystemicRisk,
}

/// A total with everything that is known of its error, FLOP.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Total {
    /// The reported value, R.
    #[serde(serialize_with = "decimal")]
    pub flop: u128,
    /// The same as a float.
    pub flop_float: f64,
    /// Lower end of its own interval.
    #[serde(serialize_with = "decimal")]
    pub low: u128,
    /// Upper end of its own interval, with all that may be missing; none when nobody can say how much is missing.
    #[serde(serialize_with = "decimal_or_none")]
    pub high: Option<u128>,
    /// 0.7 R, rounded down.
    #[serde(serialize_with = "decimal")]
    pub margin_low: u128,
    /// 1.3 R, rounded up.
    #[serde(serialize_with = "decimal")]
    pub margin_high: u128,
    /// Something is missing in it.
    pub lower_bound: bool,
    /// Its own interval lies inside the margin that the Guidelines accept. False for a lower bound without an upper end.
    pub within_margin: bool,
}

/// One component, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accounted {
    /// The component.
    #[serde(flatten)]
    pub component: Component,
    /// Whether it is in the direct total.
    pub in_direct: bool,
    /// Whether it is in the cumulative total.
    pub in_cumulative: bool,
    /// Why so.
    pub why: String,
    /// The Guidelines do not say, and it is our choice (always the one that does not make the total smaller).
    pub our_choice: bool,
    /// Where it is written.
    pub citation: Citation,
}

/// The base model's training compute, and how it was come by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BaseAssessed {
    /// Its name.
    pub name: String,
    /// `published`, `estimated` or `substitute`.
    pub source: BaseSource,
    /// FLOP: the model's own, or for a substitute the threshold that stands in for it (10^23 or 10^25).
    #[serde(serialize_with = "decimal")]
    pub flop: u128,
    /// The same as a float.
    pub flop_float: f64,
    /// Lower end of what it may be.
    #[serde(serialize_with = "decimal")]
    pub low: u128,
    /// Upper end of what it may be.
    #[serde(serialize_with = "decimal")]
    pub high: u128,
    /// In words: where it was published, the product it was estimated by, or why it is not known and cannot be estimated.
    pub how: String,
    /// It is treated as a general-purpose AI model with systemic risk.
    pub systemic_risk: bool,
    /// Why so.
    pub systemic_risk_why: String,
    /// Where it is written.
    pub citation: Citation,
}

/// How a base model's compute was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseSource {
    /// Its provider says it.
    Published,
    /// 6·P·D from its model card.
    Estimated,
    /// Neither known nor estimable: a threshold in its place.
    Substitute,
}

/// A threshold, exact.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Threshold {
    /// FLOP as a fraction in lowest terms: `"100000000000000000000000/3"`, or a whole number.
    pub exact: String,
    /// The same as a float.
    pub flop_float: f64,
    /// Lower end of what it may be, rounded down; differs from the value when the base model's compute is an estimate.
    #[serde(serialize_with = "decimal")]
    pub low: u128,
    /// Upper end of what it may be, rounded up.
    #[serde(serialize_with = "decimal")]
    pub high: u128,
    /// In words.
    pub how: String,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Test {
    /// Which.
    pub name: TestName,
    /// The question it answers.
    pub question: String,
    /// Which quantity is compared.
    pub quantity: Quantity,
    /// The base model's compute is part of the value: the test is about the resulting model.
    pub with_base: bool,
    /// The value; none when the test does not apply.
    pub value: Option<Total>,
    /// What it is compared with; none when the base model was not stated, or the test does not apply.
    pub threshold: Option<Threshold>,
    /// Value over threshold.
    pub ratio: Option<f64>,
    /// The reported value alone, without any interval, is greater than the threshold.
    pub by_value: Option<bool>,
    /// What the Guidelines' margin of 30 % around the reported value would give.
    pub by_margin: Verdict,
    /// The verdict: by the value's and the threshold's own intervals.
    pub verdict: Verdict,
    /// Why so.
    pub why: String,
    /// Where it is written.
    pub citation: Citation,
}

/// Something that follows, or is assumed, and where it is written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statement {
    /// What.
    pub text: String,
    /// Where it is written; none for an assumption of ours.
    pub citation: Option<Citation>,
}

/// What follows from a number of operations.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assessment {
    /// The rules it was made by.
    pub guidelines: &'static Guidelines,
    /// No number in it is a measurement, and every verdict is withheld.
    pub simulated: bool,
    /// The base model; none when there is none, or it was not stated.
    pub base: Option<BaseAssessed>,
    /// Compute that contributed directly to updates of parameters.
    pub direct: Total,
    /// All compute that contributed to capabilities.
    pub cumulative: Total,
    /// What they consist of, and what was left out and why.
    pub components: Vec<Accounted>,
    /// What is missing in them.
    pub gaps: Vec<Gap>,
    /// Why the evidence cannot be relied on.
    pub doubts: Vec<String>,
    /// The tests, all three, in the order of [`TestName`].
    pub tests: Vec<Test>,
    /// The test that the verdict is of: one third for a modification, 10^23 for a model of one's own.
    pub headline: TestName,
    /// The verdict.
    pub verdict: Verdict,
    /// What follows from it.
    pub conclusions: Vec<Statement>,
    /// What was assumed on the way.
    pub assumptions: Vec<Statement>,
}

impl Assessment {
    /// A test by its name.
    #[must_use]
    pub fn test(&self, name: TestName) -> &Test {
        &self.tests[name as usize]
    }
}

fn decimal<S: serde::Serializer>(n: &u128, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&n.to_string())
}

fn decimal_or_none<S: serde::Serializer>(n: &Option<u128>, s: S) -> Result<S::Ok, S::Error> {
    match n {
        Some(n) => s.serialize_some(&n.to_string()),
        None => s.serialize_none(),
    }
}
