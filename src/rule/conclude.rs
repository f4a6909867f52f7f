//! What follows from a verdict, in words, each with where it is written.
//!
//! The Guidelines' criteria are indicative and can be rebutted; nothing here decides what only the Commission or a court can. What follows is written for whoever
//! has to act on it: what he is, what he owes, by when, and what to do where nothing can be told.

use super::{
    BaseAssessed, BaseSource, Guidelines, Input, Origin, Statement, Test, TestName, Verdict,
    guidelines::{Citation, act, guidelines},
};

/// What follows.
pub(super) fn conclusions(
    input: &Input,
    rules: &Guidelines,
    base: Option<&BaseAssessed>,
    tests: &[Test],
    headline: TestName,
) -> Vec<Statement> {
    let mut says = Says(Vec::new());
    if input.simulated {
        says.assumed("The run was simulated on a stand-in GPU. No number is a measurement, and nothing follows from it.");
        return says.0;
    }
    let of = |name: TestName| tests[name as usize].verdict;
    match headline {
        TestName::OneThird => modification(&mut says, input, rules, base, &tests[headline as usize]),
        _ => own_model(&mut says, input, of(TestName::GeneralPurpose)),
    }
    resulting(&mut says, input, rules, base, of(TestName::GeneralPurpose), of(TestName::SystemicRisk), of(TestName::OneThird));
    says.says(
        "A report gives the method of estimation, the assumptions and the associated uncertainties; the estimate has to be accurate within 30 % of the \
         reported value in the provider's best judgement.",
        guidelines("Annex A.2"),
    );
    says.0
}

struct Says(Vec<Statement>);

impl Says {
    fn says(&mut self, text: impl Into<String>, citation: Citation) {
        self.0.push(Statement { text: text.into(), citation: Some(citation) });
    }

    fn assumed(&mut self, text: impl Into<String>) {
        self.0.push(Statement { text: text.into(), citation: None });
    }
}

fn modification(says: &mut Says, input: &Input, rules: &Guidelines, base: Option<&BaseAssessed>, test: &Test) {
    let name = base.map_or("the base model", |b| b.name.as_str());
    match test.verdict {
        Verdict::Above => {
            says.says(
                format!(
                    "Whoever made this modification and places the result on the market is considered the provider of the modified model: more than \
                     a third of the compute of {name} was used. The criterion is indicative; what decides is a significant change in generality, \
                     capabilities or systemic risk."
                ),
                guidelines("section 3.2"),
            );
            says.says(
                "The obligations are limited to the modification: technical documentation on it (Annex XI) and information for downstream providers \
                 (Annex XII), a copyright policy, and a summary of the data used for it.",
                act("Article 53(1) and recital 109; Guidelines, section 3.2"),
            );
            says.says("A provider from outside the Union appoints an authorised representative first.", act("Article 54"));
            if base.is_some_and(|b| b.systemic_risk) {
                says.says(
                    "The base model is one with systemic risk, so the modified one is presumed to have high-impact capabilities: risk assessment and \
                     mitigation, incident reports and cybersecurity are owed as well.",
                    act("Article 55; Guidelines, section 3.2"),
                );
                says.says(
                    format!(
                        "The Commission is notified without delay, at the latest {} days after the threshold is met or it becomes known that it will \
                         be: the amount in FLOP with two significant figures, and how it was estimated. There is no exemption for open source.",
                        rules.notification_days
                    ),
                    act("Article 52(1); Guidelines, section 2"),
                );
            } else {
                says.says(
                    "If the model is released under a free and open-source licence with its weights and architecture public, the documentation and the \
                     representative are not owed; the copyright policy and the summary are.",
                    act("Articles 53(2) and 54(6)"),
                );
            }
        }
        Verdict::Below => {
            says.says(
                format!(
                    "By the compute criterion, whoever made this modification does not become the provider of a general-purpose AI model: no more than a \
                     third of the compute of {name} was used. The criterion is indicative: a significant change in generality, capabilities or \
                     systemic risk by other means can still count."
                ),
                guidelines("section 3.2"),
            );
            says.says(
                "Later rounds of training on the same base model add to this one: keep the evidence, and the sum (flopsprof ledger).",
                guidelines("section 2 and section 3.2"),
            );
            if test.by_margin != Verdict::Below {
                says.says(
                    "The value is within 30 % of the threshold: that it is below rests on its own, narrower interval. Keep what shows that interval.",
                    guidelines("Annex A.2"),
                );
            }
        }
        Verdict::Inconclusive => inconclusive(says, input, base, test),
        Verdict::Withheld | Verdict::NotApplicable => {}
    }
    if let Some(base) = base.filter(|b| b.source == BaseSource::Substitute) {
        says.says(
            format!(
                "A third of 10^{} stands in for a third of the base model's compute only as long as that can neither be known nor estimated: ask its \
                 provider, and look for its parameters and tokens.",
                if base.systemic_risk { 25 } else { 23 }
            ),
            guidelines("section 3.2"),
        );
    }
}

fn inconclusive(says: &mut Says, input: &Input, base: Option<&BaseAssessed>, test: &Test) {
    says.says(
        format!("Whether the modification exceeds a third of the base model's compute cannot be told: {}.", test.why),
        guidelines("section 3.2 and Annex A.2"),
    );
    if !input.doubts.is_empty() {
        says.assumed("Find the unchanged evidence (flopsprof verify says which line breaks); numbers from changed files prove nothing.");
        return;
    }
    if base.is_none() {
        says.assumed(
            "State the base model: its name, its published training compute, or its parameters and tokens; or why neither can be known or estimated.",
        );
        return;
    }
    if test.value.as_ref().is_some_and(|v| v.lower_bound) {
        says.assumed("Complete the evidence: find the files that are missing, or state what they hold (--besides).");
    }
    if base.is_some_and(|b| b.source == BaseSource::Estimated) {
        says.assumed("Ask the base model's provider for its training compute: a published value has no interval.");
    }
    if test.by_value == Some(true) {
        says.says(
            "The reported value itself is greater than the threshold: unless the interval can be narrowed, act as if the criterion were met.",
            guidelines("section 3.2"),
        );
    } else {
        says.assumed("Until it can be told, the prudent course is to act as if the criterion were met.");
    }
}

fn own_model(says: &mut Says, input: &Input, general_purpose: Verdict) {
    if matches!(input.origin, Origin::Own { .. }) {
        says.says(
            "The model is one's own: training after its large pre-training run belongs to the same model, and adds to its compute.",
            guidelines("section 2 and section 3.2"),
        );
    }
    match general_purpose {
        Verdict::Above => says.says(
            "The model is a general-purpose one by the indicative criterion, if it can generate language (text or audio), or images or video from text: \
             whoever places it on the market owes what Articles 53 and 54 say. Both ways the criterion can be rebutted.",
            guidelines("paragraph 17"),
        ),
        Verdict::Below => says.says(
            "The model is not a general-purpose one by the indicative criterion: its training compute is not greater than 10^23 FLOP.",
            guidelines("paragraph 17"),
        ),
        Verdict::Inconclusive => says.says(
            "Whether the model's training compute is greater than 10^23 FLOP cannot be told; until it can, act as if it were.",
            guidelines("paragraph 17"),
        ),
        Verdict::Withheld | Verdict::NotApplicable => {}
    }
}

/// What the tests of the resulting model add.
fn resulting(
    says: &mut Says,
    input: &Input,
    rules: &Guidelines,
    base: Option<&BaseAssessed>,
    general_purpose: Verdict,
    systemic_risk: Verdict,
    third: Verdict,
) {
    let modification = matches!(input.origin, Origin::Modification(_));
    if let Some(base) = base.filter(|b| b.source != BaseSource::Substitute && b.high <= rules.general_purpose) {
        let and_now = match general_purpose {
            Verdict::Above => "; with the modification the compute is greater than that, so the resulting model meets it",
            Verdict::Inconclusive => "; whether the resulting model meets it cannot be told",
            _ => ", nor is the resulting model",
        };
        says.says(
            format!(
                "{} is no general-purpose AI model by the indicative criterion (its compute is not greater than 10^23 FLOP){and_now}. The one-third \
                 criterion has no floor, and is applied to its actual compute all the same.",
                base.name
            ),
            guidelines("paragraph 17 and section 3.2"),
        );
    }
    match systemic_risk {
        Verdict::Above if modification && base.is_some_and(|b| b.systemic_risk) => {}
        Verdict::Above if modification && third == Verdict::Below => says.says(
            "The cumulative compute of the resulting model, the base model's included, is greater than 10^25 FLOP, although the modification is not \
             greater than a third: the presumption of systemic risk then concerns whoever is the provider. Take advice.",
            act("Article 51(2)"),
        ),
        Verdict::Above => says.says(
            format!(
                "The cumulative compute is greater than 10^25 FLOP: high-impact capabilities are presumed, Article 55 applies to the provider, and the \
                 Commission is notified within {} days.",
                rules.notification_days
            ),
            act("Articles 51(2), 52(1) and 55"),
        ),
        Verdict::Inconclusive if !input.doubts.is_empty() || base.is_some_and(|b| b.source == BaseSource::Substitute) => {}
        Verdict::Inconclusive if !matches!(input.origin, Origin::NotStated) => says.says(
            "Whether the cumulative compute of the resulting model is greater than 10^25 FLOP cannot be told.",
            act("Article 51(2)"),
        ),
        _ => {}
    }
}
