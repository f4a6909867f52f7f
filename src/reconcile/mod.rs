//! The measurement beside the formula.
//!
//! [`six_nd`] is one ratio, with where N and D are from. Where the program said what it trains and on which rows ([`declared`]), [`lines`] go from
//! 6·N·D to the measurement, and [`rates`] sets the three numbers that are called utilisation beside each other. [`completeness`] says how much of what the devices did was metered, and whose the rest was.

mod case;
pub mod completeness;
pub mod compute;
pub mod declared;
pub mod lines;
mod phases;
pub mod rates;
mod tiles;

use serde::Serialize;

use crate::{
    ledger::{self, RunTotal},
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
    pub ratio: f64,
}

/// Sets the measurement beside 6·N·D, where N and D are known. What the caller gives goes before what the program said, and a difference is shown.
#[must_use]
pub fn six_nd(run: &RunTotal, parameters: Option<u64>, tokens: Option<u64>) -> Option<SixNd> {
    let sourced = |given: Option<u64>, flag: &str, evidence: Option<u64>, said: &str| match (given, evidence.filter(|e| *e > 0)) {
        (Some(value), e) => Some(Sourced { value, source: flag.to_owned(), evidence_says: e.filter(|e| *e != value) }),
        (None, Some(value)) => Some(Sourced { value, source: said.to_owned(), evidence_says: None }),
        (None, None) => None,
    };
    let parameters = sourced(parameters, "--params", run.parameters.map(|(n, _)| n), "declared by the program")?;
    let tokens = sourced(tokens, "--tokens", Some(run.tokens), "added by the program")?;
    let six_nd = rule::six_pd(parameters.value, tokens.value);
    let ratio = ledger::sum(&run.paths).total() as f64 / six_nd as f64;
    (six_nd > 0).then(|| SixNd { parameters, tokens, six_nd: six_nd.to_string(), ratio })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::PathTotal;

    #[test]
    fn the_flag_wins_and_the_difference_is_shown() {
        let mut run = RunTotal { parameters: Some((100, 100)), tokens: 10, ..RunTotal::default() };
        run.paths.insert("p".to_owned(), PathTotal { counted: 3000, ..PathTotal::default() });
        let both = six_nd(&run, None, None).unwrap();
        assert_eq!((both.six_nd.as_str(), both.ratio), ("6000", 0.5));
        assert_eq!(both.parameters.source, "declared by the program");
        let given = six_nd(&run, Some(50), None).unwrap();
        assert_eq!(given.parameters.evidence_says, Some(100));
        assert!((given.ratio - 1.0).abs() < 1e-12);
        assert!(six_nd(&RunTotal::default(), Some(1), None).is_none());
        assert!(six_nd(&run, Some(0), None).is_none());
    }
}
