//! The assessment in a reader's words: what is reported, of which quantity, and what follows.

use super::{figure::whole, json::Report};
use crate::rule::{Assessment, Quantity, Test, TestName, Total, Verdict};

/// The amount that is reported, FLOP, and whether it is a lower bound: the quantity that decides, or all that was executed where nothing was assessed.
#[must_use]
pub fn reported(report: &Report) -> (u128, bool) {
    match report.assessment.as_ref() {
        Some(a) => (deciding(a).flop, deciding(a).lower_bound),
        None => (report.total.flop.parse().unwrap_or(0), report.not_metered.lower_bound),
    }
}

/// The name of the quantity that is reported; none where nothing was assessed.
#[must_use]
pub fn quantity(report: &Report) -> Option<&'static str> {
    report.assessment.as_ref().map(|a| name(a.test(a.headline).quantity))
}

/// The total of the quantity by which the headline test decides, without the base model's compute.
fn deciding(assessment: &Assessment) -> &Total {
    match assessment.test(assessment.headline).quantity {
        Quantity::Direct => &assessment.direct,
        Quantity::Cumulative => &assessment.cumulative,
    }
}

/// Direct or cumulative.
#[must_use]
pub fn name(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::Direct => "direct",
        Quantity::Cumulative => "cumulative",
    }
}

/// A verdict in a word.
#[must_use]
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Below => "below",
        Verdict::Above => "above",
        Verdict::Inconclusive => "inconclusive",
        Verdict::Withheld => "withheld",
        Verdict::NotApplicable => "not applicable",
    }
}

/// The verdict in a line.
#[must_use]
pub fn headline(assessment: &Assessment) -> String {
    let of = match assessment.headline {
        TestName::OneThird => "one third of the base model's compute",
        TestName::GeneralPurpose => "10^23 FLOP",
        TestName::SystemicRisk => "10^25 FLOP",
    };
    match assessment.verdict {
        Verdict::Below => format!("Below {of}"),
        Verdict::Above => format!("Above {of}"),
        Verdict::Inconclusive => format!("Inconclusive: whether above {of} cannot be told"),
        Verdict::Withheld => "Verdict withheld: the run was simulated".to_owned(),
        Verdict::NotApplicable => "No test applies".to_owned(),
    }
}

/// A test's title.
#[must_use]
pub fn title(test: TestName) -> &'static str {
    match test {
        TestName::OneThird => "one third of the base model",
        TestName::GeneralPurpose => "general-purpose (10^23)",
        TestName::SystemicRisk => "systemic risk (10^25)",
    }
}

/// A test's value and threshold, in a line.
#[must_use]
pub fn comparison(test: &Test) -> String {
    let figures = |n: u128| whole(n, 3).map_or_else(|| "0".to_owned(), |s| s.to_string());
    let value = test.value.as_ref().map(|v| {
        let high = v.high.map_or_else(|| "no upper end".to_owned(), figures);
        if v.flop == 0 && v.lower_bound {
            return format!("nothing measured, interval 0 to {high}");
        }
        format!("{} FLOP, interval {} to {high}", figures(v.flop), figures(v.low))
    });
    let threshold = test.threshold.as_ref().map(|t| format!("{:.3e} FLOP ({})", t.flop_float, t.how));
    match (value, threshold) {
        (Some(value), Some(threshold)) => format!("{value}, against {threshold}"),
        (Some(value), None) => value,
        _ => "-".to_owned(),
    }
}
