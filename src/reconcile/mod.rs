//! The measurement beside the formula.
//!
//! [`six_nd`] is one ratio, with where N and D are from. Where the program said what it trains and on which rows ([`declared`]), [`lines`] go from
//! 6·N·D to the measurement, and [`rates`] sets the three numbers that are called utilisation beside each other. [`completeness`] says how much of what the devices did was metered, and whose the rest was.

mod case;
mod census;
pub mod completeness;
pub mod compute;
pub mod declared;
pub mod lines;
mod phases;
mod products;
pub mod rates;
pub mod rows;
mod tiles;

use serde::Serialize;

use crate::{
    ledger::{self, RunTotal, arithmetic::add_up},
    rule,
};

/// A number and where it is from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sourced {
    /// The number.
    pub value: u64,
    /// `--params`, `--tokens`, `declared by the program`, `added by the program`.
    pub source: String,
    /// The program's own number, where it differs from the one that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_says: Option<u64>,
}

/// Measured over 6·N·D.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SixNd {
    /// Parameters, N.
    pub parameters: Sourced,
    /// Tokens, D.
    pub tokens: Sourced,
    /// 6·N·D, FLOP, as a decimal string.
    pub six_nd: String,
    /// Executed over 6·N·D.
    pub ratio: Option<f64>,
    /// Where several models were declared: each with its own tokens, which `six_nd` is the sum over. `parameters` is the largest then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelTokens>,
    /// Tokens of the largest of them that processes added which declared no model: nobody says whose they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undeclared: Option<u64>,
}

/// A declared model, and the tokens that were added while it was the declared one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelTokens {
    /// Parameters.
    pub parameters: u64,
    /// Those of them that are trained.
    pub trainable: u64,
    /// Tokens.
    pub tokens: u64,
}

/// Models that tokens were added for; one that nobody trained on is none. Tokens of which nobody says whose they are ([`RunTotal::undeclared`]) are the largest's.
#[must_use]
pub fn trained(run: &RunTotal) -> Vec<ModelTokens> {
    let apart: u64 = run.models.values().fold(0, |sum, tokens| sum.saturating_add(*tokens));
    let mut models: Vec<_> =
        run.models.iter().map(|(&(parameters, trainable), &tokens)| ModelTokens { parameters, trainable, tokens }).collect();
    if let Some(largest) = models.last_mut() {
        largest.tokens = largest.tokens.saturating_add(run.tokens.saturating_sub(apart));
    }
    models.retain(|m| m.tokens > 0);
    models
}

/// Sets the measurement beside 6·N·D, where N and D are known. What the caller gives goes before what the program said, and a difference is shown. Several
/// models that the program declared have each their own D, and 6·N·D is the sum.
#[must_use]
pub fn six_nd(run: &RunTotal, parameters: Option<u64>, tokens: Option<u64>) -> Option<SixNd> {
    let sourced = |given: Option<u64>, flag: &str, evidence: Option<u64>, said: &str| match (given, evidence.filter(|e| *e > 0)) {
        (Some(value), e) => Some(Sourced { value, source: flag.to_owned(), evidence_says: e.filter(|e| *e != value) }),
        (None, Some(value)) => Some(Sourced { value, source: said.to_owned(), evidence_says: None }),
        (None, None) => None,
    };
    let mut models = if parameters.is_none() { trained(run) } else { Vec::new() };
    if models.len() < 2 {
        models.clear();
    } else if tokens.is_some() {
        // Nobody says how many of them each model saw.
        return None;
    }
    let declared = models.last().map(|m| m.parameters).or(run.parameters().map(|(n, _)| n));
    let said = if models.is_empty() { "declared by the program" } else { "the largest of several models declared by the program" };
    let parameters = sourced(parameters, "--params", declared, said)?;
    let tokens = sourced(tokens, "--tokens", Some(run.tokens), "added by the program")?;
    let six_nd = match models.as_slice() {
        [] => rule::six_pd(parameters.value, tokens.value),
        several => add_up(several.iter().map(|m| rule::six_pd(m.parameters, m.tokens))),
    };
    let total = ledger::sum(&run.paths);
    let ratio = total.measured().then(|| total.total() as f64 / six_nd as f64);
    let undeclared = Some(run.undeclared).filter(|n| *n > 0 && !models.is_empty());
    (six_nd > 0).then(|| SixNd { parameters, tokens, six_nd: six_nd.to_string(), ratio, models, undeclared })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::PathTotal;

    #[test]
    fn the_flag_wins_and_the_difference_is_shown() {
        let mut run = RunTotal { models: [((100, 100), 10)].into(), tokens: 10, ..RunTotal::default() };
        run.paths.insert("p".to_owned(), PathTotal { counted: 3000, ..PathTotal::default() });
        let both = six_nd(&run, None, None).unwrap();
        assert_eq!((both.six_nd.as_str(), both.ratio), ("6000", Some(0.5)));
        assert_eq!(both.parameters.source, "declared by the program");
        let given = six_nd(&run, Some(50), None).unwrap();
        assert_eq!(given.parameters.evidence_says, Some(100));
        assert!((given.ratio.unwrap() - 1.0).abs() < 1e-12);
        assert!(six_nd(&RunTotal::default(), Some(1), None).is_none());
        assert!(six_nd(&run, Some(0), None).is_none());
    }

    #[test]
    fn several_models_have_each_their_own_tokens() {
        let models = [((100, 100), 10), ((1000, 8), 2), ((7, 7), 0)].into();
        let mut run = RunTotal { models, tokens: 15, undeclared: 3, ..RunTotal::default() };
        run.paths.insert("p".to_owned(), PathTotal { counted: 36_000, ..PathTotal::default() });
        let six = six_nd(&run, None, None).unwrap();
        // Three tokens of a process that declared no model.
        assert_eq!((six.six_nd.as_str(), six.models.len(), six.tokens.value, six.undeclared), ("36000", 2, 15, Some(3)));
        assert_eq!((six.parameters.value, six.ratio), (1000, Some(1.0)));
        assert_eq!(six_nd(&run, Some(10), None).unwrap().six_nd, "900", "the flag is of them all");
        assert!(six_nd(&run, None, Some(15)).is_none(), "nobody says whose tokens they are");
    }
}
