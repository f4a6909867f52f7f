//! The tests.

use num_rational::Ratio;

use super::{
    Accounted, Amount, Assessment, BaseAssessed, BaseSource, Error, Gap, Guidelines, Input, Origin, Quantity, Statement, Test, TestName,
    Total, Verdict,
    base::{share, threshold},
    compute::{self, margin_exact},
    conclude,
    guidelines::{Citation, act, guidelines},
};

/// Says what follows from a number of operations.
///
/// # Errors
/// [`Error`] when the input contradicts itself or cannot be meant.
pub fn assess(input: &Input, rules: &'static Guidelines) -> Result<Assessment, Error> {
    for component in &input.components {
        component.amount.check(&component.what)?;
    }
    if let Origin::Own { name, before } = &input.origin {
        before.check(&format!("what was spent on {name} before"))?;
    }
    let components: Vec<Accounted> = input
        .components
        .iter()
        .map(|component| {
            let t = rules.treatment(component.kind);
            Accounted {
                component: component.clone(),
                in_direct: t.direct,
                in_cumulative: t.cumulative,
                why: t.why.to_owned(),
                our_choice: t.our_choice,
                citation: t.citation,
            }
        })
        .collect();
    let direct = compute::total(&components, Quantity::Direct, &input.gaps, rules)?;
    let cumulative = compute::total(&components, Quantity::Cumulative, &input.gaps, rules)?;
    let (base, mut assumptions) = match &input.origin {
        Origin::Modification(base) => {
            let resolved = base.resolve(rules)?;
            (Some(resolved.said), resolved.assumptions)
        }
        _ => (None, Vec::new()),
    };
    let case = Case { input, rules, base: base.as_ref(), direct: &direct, cumulative: &cumulative };
    let tests = vec![case.one_third(), case.general_purpose()?, case.systemic_risk()?];
    let headline = match input.origin {
        Origin::Modification(_) | Origin::NotStated => TestName::OneThird,
        Origin::Scratch | Origin::Own { .. } => TestName::GeneralPurpose,
    };
    assumptions.extend(assumed(&components));
    let verdict = tests[headline as usize].verdict;
    let conclusions = conclude::conclusions(input, rules, base.as_ref(), &tests, headline);
    Ok(Assessment {
        guidelines: rules,
        simulated: input.simulated,
        base,
        direct,
        cumulative,
        components,
        gaps: input.gaps.clone(),
        doubts: input.doubts.clone(),
        tests,
        headline,
        verdict,
        conclusions,
        assumptions,
    })
}

/// Choices of ours, and what was not separated.
fn assumed(components: &[Accounted]) -> Vec<Statement> {
    let mut assumed: Vec<Statement> = Vec::new();
    for c in components.iter().filter(|c| c.our_choice && c.component.amount.flop > 0) {
        if !assumed.iter().any(|a| a.text == c.why) {
            assumed.push(Statement { text: c.why.clone(), citation: None });
        }
    }
    assumed
}

struct Case<'a> {
    input: &'a Input,
    rules: &'static Guidelines,
    base: Option<&'a BaseAssessed>,
    direct: &'a Total,
    cumulative: &'a Total,
}

/// What makes up a test besides its value and threshold.
struct Frame {
    name: TestName,
    question: &'static str,
    quantity: Quantity,
    with_base: bool,
    citation: Citation,
}

impl Case<'_> {
    /// Section 3.2 (paras 63 and 64; 60 and 61 in other copies). The training compute of an ordinary model is its direct one, that of a model with systemic
    /// risk its cumulative one (Annex A.1, para 118; 115), and the modification is measured as the model it is compared with.
    fn one_third(&self) -> Test {
        let quantity = if self.base.is_some_and(|b| b.systemic_risk) { Quantity::Cumulative } else { Quantity::Direct };
        let frame = Frame {
            name: TestName::OneThird,
            question: "Is the training compute of the modification greater than a third of the base model's?",
            quantity,
            with_base: false,
            citation: guidelines("section 3.2 and Annex A.1"),
        };
        let value = if quantity == Quantity::Direct { self.direct } else { self.cumulative };
        match (&self.input.origin, self.base) {
            (Origin::Modification(_), Some(base)) => {
                let how = match base.source {
                    BaseSource::Published => format!("a third of the published training compute of {}", base.name),
                    BaseSource::Estimated => format!("a third of the estimated training compute of {}", base.name),
                    BaseSource::Substitute => {
                        format!(
                            "a third of 10^{}, in place of the training compute of {}",
                            if base.systemic_risk { 25 } else { 23 },
                            base.name
                        )
                    }
                };
                self.test(frame, value.clone(), share(base, self.rules), how)
            }
            (Origin::NotStated, _) => {
                let why = "the base model was not stated, so there is nothing to take a third of".to_owned();
                self.without_threshold(frame, Some(value.clone()), self.unless_simulated(Verdict::Inconclusive), why)
            }
            (Origin::Own { .. }, _) => {
                let why = "the model is one's own: what is done after its pre-training belongs to the same model".to_owned();
                self.without_threshold(frame, None, Verdict::NotApplicable, why)
            }
            _ => {
                let why = "there is no base model: the model was trained from scratch".to_owned();
                self.without_threshold(frame, None, Verdict::NotApplicable, why)
            }
        }
    }

    /// Paragraph 17: the model that results, by its direct compute, the base model's included.
    fn general_purpose(&self) -> Result<Test, Error> {
        let frame = Frame {
            name: TestName::GeneralPurpose,
            question: "Is the training compute of the resulting model greater than 10^23 FLOP?",
            quantity: Quantity::Direct,
            with_base: !matches!(self.input.origin, Origin::Scratch),
            citation: guidelines("paragraph 17 and Annex A.1"),
        };
        self.resulting(frame, self.direct, self.rules.general_purpose)
    }

    /// Article 51(2): the model that results, by its cumulative compute.
    fn systemic_risk(&self) -> Result<Test, Error> {
        let frame = Frame {
            name: TestName::SystemicRisk,
            question: "Is the cumulative training compute of the resulting model greater than 10^25 FLOP?",
            quantity: Quantity::Cumulative,
            with_base: !matches!(self.input.origin, Origin::Scratch),
            citation: act("Article 51(2); Guidelines, Annex A.1"),
        };
        self.resulting(frame, self.cumulative, self.rules.systemic_risk)
    }

    /// A test of the resulting model against a number of the rules.
    fn resulting(&self, frame: Frame, spent: &Total, limit: u128) -> Result<Test, Error> {
        let before = match &self.input.origin {
            Origin::Scratch => Some(Amount::default()),
            Origin::Own { before, .. } => Some(*before),
            Origin::Modification(_) => {
                self.base.filter(|b| b.source != BaseSource::Substitute).map(|b| Amount { flop: b.flop, low: b.low, high: b.high })
            }
            Origin::NotStated => None,
        };
        let mut gaps = self.input.gaps.clone();
        if before.is_none() {
            gaps.push(Gap { what: "the training compute of the base model".to_owned(), at_most: None });
        }
        let before = before.unwrap_or_default();
        // What is missing in the total is in its upper end already, where that is known.
        let high = before.high + spent.high.unwrap_or(spent.flop);
        let sum = Amount { flop: spent.flop + before.flop, low: spent.low + before.low, high };
        sum.check_sum("the compute of the resulting model")?;
        let missing = (spent.high.is_some() && gaps.iter().all(|g| g.at_most.is_some())).then_some(0);
        let value = compute::of(sum, missing, !gaps.is_empty(), self.rules);
        let limit = Ratio::from(limit);
        let how = format!("10^{}", if frame.name == TestName::GeneralPurpose { 23 } else { 25 });
        Ok(self.test_with(frame, value, [limit; 3], how, &gaps))
    }

    fn test(&self, frame: Frame, value: Total, limits: [Ratio<u128>; 3], how: String) -> Test {
        self.test_with(frame, value, limits, how, &self.input.gaps)
    }

    fn test_with(&self, frame: Frame, value: Total, limits: [Ratio<u128>; 3], how: String, gaps: &[Gap]) -> Test {
        let [limit, limit_low, limit_high] = limits;
        let reported = Ratio::from(value.flop);
        let (margin_low, margin_high) = margin_exact(reported, self.rules.margin);
        // The margin is one of estimates, not of what is missing.
        let margin_high = if value.lower_bound { value.high.map(|h| margin_high.max(Ratio::from(h))) } else { Some(margin_high) };
        let by_margin = compare(margin_low, margin_high, limit, limit);
        let own = compare(Ratio::from(value.low), value.high.map(Ratio::from), limit_low, limit_high);
        let verdict = if self.input.doubts.is_empty() { own } else { Verdict::Inconclusive };
        let why = self.why(verdict, own, &value, limits, gaps);
        let ratio = value.flop as f64 / (*limit.numer() as f64 / *limit.denom() as f64);
        Test {
            name: frame.name,
            question: frame.question.to_owned(),
            quantity: frame.quantity,
            with_base: frame.with_base,
            by_value: Some(reported > limit),
            value: Some(value),
            threshold: Some(threshold(limits, how)),
            ratio: Some(ratio),
            by_margin: self.unless_simulated(if self.input.doubts.is_empty() { by_margin } else { Verdict::Inconclusive }),
            verdict: self.unless_simulated(verdict),
            why,
            citation: frame.citation,
        }
    }

    fn without_threshold(&self, frame: Frame, value: Option<Total>, verdict: Verdict, why: String) -> Test {
        Test {
            name: frame.name,
            question: frame.question.to_owned(),
            quantity: frame.quantity,
            with_base: frame.with_base,
            value,
            threshold: None,
            ratio: None,
            by_value: None,
            by_margin: verdict,
            verdict,
            why: if verdict == Verdict::Withheld { SIMULATED.to_owned() } else { why },
            citation: frame.citation,
        }
    }

    fn unless_simulated(&self, verdict: Verdict) -> Verdict {
        if self.input.simulated { Verdict::Withheld } else { verdict }
    }

    fn why(&self, verdict: Verdict, own: Verdict, value: &Total, limits: [Ratio<u128>; 3], gaps: &[Gap]) -> String {
        if self.input.simulated {
            return SIMULATED.to_owned();
        }
        if !self.input.doubts.is_empty() {
            return format!("the evidence cannot be relied on: {}", self.input.doubts.join("; "));
        }
        let missing = || gaps.iter().map(|g| g.what.as_str()).collect::<Vec<_>>().join("; ");
        match (verdict, own) {
            (Verdict::Below, _) if value.lower_bound => {
                format!("the value is a lower bound, but even with the most that can be missing it is not greater: {}", missing())
            }
            (Verdict::Below, _) => "the whole interval of the value is not greater than the threshold".to_owned(),
            (Verdict::Above, _) if value.lower_bound => format!("the value is a lower bound, and greater all the same: {}", missing()),
            (Verdict::Above, _) => "the whole interval of the value is greater than the threshold".to_owned(),
            _ if value.high.is_none() && Ratio::from(value.flop) <= limits[2] => {
                format!("the value is a lower bound, and nobody can say how much is missing: {}", missing())
            }
            _ if limits[1] != limits[2] => {
                "the interval of the value and that of the threshold, whose base model's compute is an estimate, meet".to_owned()
            }
            _ if value.lower_bound => format!("with what may be missing the interval crosses the threshold: {}", missing()),
            _ => "the interval of the value crosses the threshold".to_owned(),
        }
    }
}

const SIMULATED: &str = "the run was simulated on a stand-in GPU: no number here is a measurement";

/// `low..=high` against `limit_low..=limit_high`; "greater than" is strict.
fn compare(low: Ratio<u128>, high: Option<Ratio<u128>>, limit_low: Ratio<u128>, limit_high: Ratio<u128>) -> Verdict {
    if low > limit_high {
        Verdict::Above
    } else if high.is_some_and(|h| h <= limit_low) {
        Verdict::Below
    } else {
        Verdict::Inconclusive
    }
}
