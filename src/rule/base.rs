//! What a model was made from, and what its training compute is taken to be.

use num_rational::Ratio;
use serde::{Deserialize, Serialize};

use super::{
    Amount, BaseAssessed, BaseSource, Error, Guidelines, MOST, Statement, Threshold,
    compute::{margin_exact, ratio, six_pd},
    guidelines::{act, guidelines},
};

/// What a model was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A base model of somebody else.
    Modification(Base),
    /// Nothing: parameters drawn at random.
    Scratch,
    /// A model of one's own (or of whom one acts for): everything done after the large pre-training run belongs to the same model, and there is no third to
    /// compare with (Guidelines, section 3.2 concerns other actors). The amount is what was spent on it before, by the same rules.
    Own {
        /// Its name.
        name: String,
        /// What was spent before.
        before: Amount,
    },
    /// Nobody said.
    NotStated,
}

/// A base model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// Its name, with the version.
    pub name: String,
    /// Its training compute.
    pub compute: BaseCompute,
    /// Whether it is a general-purpose AI model with systemic risk.
    pub systemic_risk: SystemicRisk,
}

/// The training compute of a base model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaseCompute {
    /// Its provider, or somebody who knows, says it.
    Published {
        /// FLOP.
        #[serde(with = "super::compute::text")]
        flop: u128,
        /// Where.
        source: String,
    },
    /// Estimated as 6·P·D from its model card.
    Estimated {
        /// Parameters, P.
        parameters: u64,
        /// Tokens it was trained on, epochs included, D.
        tokens: u64,
        /// Where these are from.
        source: String,
    },
    /// The modifier cannot be expected to know it and cannot estimate it. Both have to be so; each has its reason.
    Unknown {
        /// Why it cannot be known.
        why_unknown: String,
        /// Why it cannot be estimated.
        why_no_estimate: String,
    },
}

/// Whether a base model is one with systemic risk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemicRisk {
    /// Nobody said: it is presumed above 10^25 FLOP (Article 51(2)), and taken not to be one otherwise.
    NotDeclared,
    /// It is one (the Commission lists them, Article 52(6)).
    Yes,
    /// It is none, and why, where it would be presumed (Article 52(2) and (3)).
    No {
        /// Why.
        why: String,
    },
}

/// A base model's compute as a fraction with an interval.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    /// As it stands in the report.
    pub(super) said: BaseAssessed,
    /// What has to be known to read it.
    pub(super) assumptions: Vec<Statement>,
}

impl Base {
    /// What its compute is taken to be.
    pub(super) fn resolve(&self, rules: &Guidelines) -> Result<Resolved, Error> {
        let mut assumptions = Vec::new();
        let (source, amount, how) = match &self.compute {
            BaseCompute::Published { flop, source } => (BaseSource::Published, Amount::exact(*flop), format!("published: {source}")),
            BaseCompute::Estimated { parameters, tokens, source } => {
                assumptions.push(Statement {
                    text: format!(
                        "the base model's compute is an estimate, 6·P·D; the error of 30 % that the Guidelines accept of one is taken into the threshold. \
                         The provider's own value would narrow it. The formula is for large dense transformers: parameters of {} are taken as all active",
                        self.name
                    ),
                    citation: Some(guidelines("Annex A.2.2")),
                });
                let flop = six_pd(*parameters, *tokens);
                if flop > MOST {
                    return Err(Error::TooLarge { what: format!("6·P·D of the base model {}", self.name), flop });
                }
                let how = format!("estimated: 6 x {parameters} parameters x {tokens} tokens ({source})");
                (BaseSource::Estimated, Amount::estimated(flop, rules), how)
            }
            BaseCompute::Unknown { why_unknown, why_no_estimate } => {
                for (reason, what) in [(why_unknown, "cannot be known"), (why_no_estimate, "cannot be estimated")] {
                    if reason.trim().is_empty() {
                        return Err(Error::NoReason { what: format!("that the training compute of the base model {} {what}", self.name) });
                    }
                }
                let stands_in = if self.systemic_risk == SystemicRisk::Yes { rules.systemic_risk } else { rules.general_purpose };
                let how = format!("not known: {why_unknown}; not estimable: {why_no_estimate}");
                (BaseSource::Substitute, Amount::exact(stands_in), how)
            }
        };
        amount.check(&format!("the training compute of the base model {}", self.name))?;
        if amount.flop == 0 {
            return Err(Error::NoBaseCompute { name: self.name.clone() });
        }
        let (systemic_risk, systemic_risk_why) = self.systemic(source, &amount, rules, &mut assumptions)?;
        let citation = guidelines(if source == BaseSource::Estimated { "section 3.2 and Annex A.2.2" } else { "section 3.2" });
        let said = BaseAssessed {
            name: self.name.clone(),
            source,
            flop: amount.flop,
            flop_float: amount.flop as f64,
            low: amount.low,
            high: amount.high,
            how,
            systemic_risk,
            systemic_risk_why,
            citation,
        };
        Ok(Resolved { said, assumptions })
    }

    fn systemic(
        &self,
        source: BaseSource,
        amount: &Amount,
        rules: &Guidelines,
        assumptions: &mut Vec<Statement>,
    ) -> Result<(bool, String), Error> {
        let known = source != BaseSource::Substitute;
        let presumed = known && amount.flop > rules.systemic_risk;
        Ok(match &self.systemic_risk {
            SystemicRisk::Yes => (true, "declared".to_owned()),
            SystemicRisk::No { why } => {
                if why.trim().is_empty() {
                    return Err(Error::NoReason { what: format!("that the base model {} has no systemic risk", self.name) });
                }
                if presumed {
                    assumptions.push(Statement {
                        text: format!(
                            "{} exceeds 10^25 FLOP and is declared to have no systemic risk ({why}): only the Commission can set the presumption aside",
                            self.name
                        ),
                        citation: Some(act("Articles 51(2), 52(2) and 52(3)")),
                    });
                }
                (false, format!("declared to have none: {why}"))
            }
            SystemicRisk::NotDeclared if presumed => (true, "presumed: its training compute is greater than 10^25 FLOP".to_owned()),
            SystemicRisk::NotDeclared => {
                if !known || amount.high > rules.systemic_risk {
                    assumptions.push(Statement {
                        text: format!(
                            "nobody declared whether {} is a model with systemic risk, and it is taken not to be one; if the Commission lists it as \
                             one, say so: the threshold, the quantity and what follows differ",
                            self.name
                        ),
                        citation: Some(act("Articles 51 and 52(6)")),
                    });
                }
                (false, "not declared, and not presumed".to_owned())
            }
        })
    }
}

/// The share of a base model's compute that a modification may have, exact: value, lower and upper end.
pub(super) fn share(base: &BaseAssessed, rules: &Guidelines) -> [Ratio<u128>; 3] {
    let share = ratio(rules.modification);
    let value = Ratio::from(base.flop);
    // The interval of an estimate is taken exactly, not from the rounded ends.
    let (low, high) = if base.source == BaseSource::Estimated { margin_exact(value, rules.margin) } else { (value, value) };
    [value * share, low * share, high * share]
}

/// A threshold for the report.
pub(super) fn threshold([value, low, high]: [Ratio<u128>; 3], how: String) -> Threshold {
    let exact = if value.is_integer() { value.to_integer().to_string() } else { format!("{}/{}", value.numer(), value.denom()) };
    Threshold {
        exact,
        flop_float: *value.numer() as f64 / *value.denom() as f64,
        low: low.floor().to_integer(),
        high: high.ceil().to_integer(),
        how,
    }
}
