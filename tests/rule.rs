//! The rule against the Guidelines: what verdict they give for a base model, a measurement and what was said of both.
//!
//! Each case names its place: the section or the annex, and the paragraph as the text of C(2025) 5045 numbers it with the number of its own cross-references
//! behind the stroke ("63/60"), because circulated copies differ from section 3.2 on.

use flopsprof::rule::{
    Amount, Base, BaseCompute, Component, Error, Gap, Input, Kind, Origin, Quantity, SystemicRisk, TestName, Verdict, assess,
    guidelines::CURRENT, hardware, known_model, six_pd, split,
};
use proptest::prelude::*;

use Verdict::{Above, Below, Inconclusive, NotApplicable, Withheld};

const E: fn(u32) -> u128 = |e| 10u128.pow(e);

fn base(compute: BaseCompute) -> Origin {
    Origin::Modification(Base { name: "base".to_owned(), compute, systemic_risk: SystemicRisk::NotDeclared })
}

fn published(flop: u128) -> Origin {
    base(BaseCompute::Published { flop, source: "its report".to_owned() })
}

/// Llama 3.2 3B by its card: 6 x 3.21e9 x 9e12 = 1.7334e23.
fn card() -> Origin {
    base(BaseCompute::Estimated { parameters: 3_210_000_000, tokens: 9_000_000_000_000, source: "its card".to_owned() })
}

fn unknown() -> Origin {
    let (why_unknown, why_no_estimate) = ("not published".to_owned(), "its tokens are secret".to_owned());
    base(BaseCompute::Unknown { why_unknown, why_no_estimate })
}

fn with_risk(origin: Origin, systemic_risk: SystemicRisk) -> Origin {
    match origin {
        Origin::Modification(base) => Origin::Modification(Base { systemic_risk, ..base }),
        other => other,
    }
}

fn systemic(origin: Origin) -> Origin {
    with_risk(origin, SystemicRisk::Yes)
}

fn component(kind: Kind, amount: Amount) -> Component {
    Component { kind, what: format!("{kind:?}"), amount, source: "test".to_owned() }
}

fn input(origin: Origin, components: Vec<Component>) -> Input {
    Input { origin, components, gaps: vec![], doubts: vec![], simulated: false }
}

/// Counted exactly, all of it training.
fn counted(origin: Origin, flop: u128) -> Input {
    input(origin, vec![component(Kind::Training, Amount::exact(flop))])
}

/// From a formula: known to 30 %.
fn formula(origin: Origin, flop: u128) -> Input {
    input(origin, vec![component(Kind::Training, Amount::estimated(flop, CURRENT))])
}

fn parts(origin: Origin, parts: &[(Kind, u128)]) -> Input {
    input(origin, parts.iter().map(|(kind, flop)| component(*kind, Amount::exact(*flop))).collect())
}

fn missing(input: Input, at_most: Option<u128>) -> Input {
    Input { gaps: vec![Gap { what: "rank 3".to_owned(), at_most }], ..input }
}

/// Place, what it is about, the input, and the verdicts: a third, 10^23, 10^25.
type Case = (&'static str, &'static str, Input, [Verdict; 3]);

#[expect(clippy::too_many_lines, reason = "a table")]
fn table() -> Vec<Case> {
    let third = "3.2, para 63/60";
    let substitute = "3.2, para 64/61";
    let what = "Annex A.1, para 118/115";
    let margin = "Annex A.2, para 123/120";
    let counts = "Annex A.1, paras 119-121/116-118";
    let not = "Annex A.1, para 122/119";
    vec![
        // A third of a published value, strictly.
        (third, "less than a third", counted(published(15 * E(23)), 49 * E(22)), [Below, Above, Below]),
        (third, "exactly a third is not greater", counted(published(15 * E(23)), 5 * E(23)), [Below, Above, Below]),
        (third, "one operation more", counted(published(15 * E(23)), 5 * E(23) + 1), [Above, Above, Below]),
        (
            third,
            "a third that is no whole number, below",
            counted(published(E(24)), 333_333_333_333_333_333_333_333),
            [Below, Above, Below],
        ),
        (
            third,
            "a third that is no whole number, above",
            counted(published(E(24)), 333_333_333_333_333_333_333_334),
            [Above, Above, Below],
        ),
        (third, "more than 30 % is not more than a third", counted(published(15 * E(23)), 46 * E(22)), [Below, Above, Below]),
        (third, "a known base below 10^23 has its own third", counted(published(9 * E(22)), 31 * E(21)), [Above, Above, Below]),
        (third, "a small base: above, but nothing general-purpose", counted(published(3 * E(22)), 11 * E(21)), [Above, Below, Below]),
        (third, "a known base above 10^25: a third of the actual value", counted(published(38 * E(24)), 5 * E(24)), [Below, Above, Above]),
        (third, "and above that third", counted(published(38 * E(24)), 13 * E(24)), [Above, Above, Above]),
        (third, "nobody named the base", counted(Origin::NotStated, E(20)), [Inconclusive, Inconclusive, Inconclusive]),
        (
            third,
            "nobody named the base, but 10^23 is passed without it",
            counted(Origin::NotStated, 2 * E(23)),
            [Inconclusive, Above, Inconclusive],
        ),
        // Substitutes, only when neither known nor estimable.
        (
            substitute,
            "unknown: a third of 10^23, below",
            counted(unknown(), 33_333_333_333_333_333_333_333),
            [Below, Inconclusive, Inconclusive],
        ),
        (
            substitute,
            "unknown: a third of 10^23, above",
            counted(unknown(), 33_333_333_333_333_333_333_334),
            [Above, Inconclusive, Inconclusive],
        ),
        (
            substitute,
            "unknown: 3.31e22 is more than 3.3e22 and less than a third",
            counted(unknown(), 331 * E(20)),
            [Below, Inconclusive, Inconclusive],
        ),
        (substitute, "unknown, systemic: a third of 10^25, below", counted(systemic(unknown()), 333 * E(22)), [Below, Above, Inconclusive]),
        (substitute, "unknown, systemic: a third of 10^25, above", counted(systemic(unknown()), 334 * E(22)), [Above, Above, Inconclusive]),
        (substitute, "unknown, systemic: 10^23 is far below", counted(systemic(unknown()), E(23)), [Below, Inconclusive, Inconclusive]),
        (substitute, "estimable by its card: not the substitute, 3.4e22 is below", counted(card(), 34 * E(21)), [Below, Above, Below]),
        (substitute, "estimable: within the estimate's 30 %", counted(card(), 5 * E(22)), [Inconclusive, Above, Below]),
        (substitute, "estimable: above the estimate and its 30 %", counted(card(), 8 * E(22)), [Above, Above, Below]),
        // The accuracy of the reported value.
        (margin, "a formula whose 30 % crosses from below", formula(published(15 * E(23)), 4 * E(23)), [Inconclusive, Above, Below]),
        (margin, "a formula whose 30 % stays below", formula(published(15 * E(23)), 38 * E(22)), [Below, Above, Below]),
        (margin, "a formula whose 30 % crosses from above", formula(published(15 * E(23)), 71 * E(22)), [Inconclusive, Above, Below]),
        (margin, "a formula whose 30 % stays above", formula(published(15 * E(23)), 72 * E(22)), [Above, Above, Below]),
        (margin, "what was counted is known better than to 30 %", counted(published(15 * E(23)), 49 * E(22)), [Below, Above, Below]),
        (
            margin,
            "a rank is missing: never silently below",
            missing(counted(published(15 * E(23)), E(20)), None),
            [Inconclusive, Above, Inconclusive],
        ),
        (margin, "what is missing cannot matter", missing(counted(published(15 * E(23)), E(20)), Some(E(21))), [Below, Above, Below]),
        (
            margin,
            "what is missing reaches the third exactly",
            missing(counted(published(15 * E(23)), 4 * E(23)), Some(E(23))),
            [Below, Above, Below],
        ),
        (
            margin,
            "what is missing could matter",
            missing(counted(published(15 * E(23)), 4 * E(23)), Some(E(23) + 1)),
            [Inconclusive, Above, Below],
        ),
        (
            margin,
            "a lower bound that is above is above",
            missing(counted(published(15 * E(23)), 6 * E(23)), None),
            [Above, Above, Inconclusive],
        ),
        // Which quantity.
        (
            what,
            "ordinary base: private synthetic data is not direct",
            parts(published(3 * E(24)), &[(Kind::Training, 9 * E(23)), (Kind::PrivateSyntheticData, 2 * E(23))]),
            [Below, Above, Below],
        ),
        (
            what,
            "systemic base: the cumulative compute decides",
            parts(published(38 * E(24)), &[(Kind::Training, 10 * E(24)), (Kind::PrivateSyntheticData, 3 * E(24))]),
            [Above, Above, Above],
        ),
        (
            what,
            "designated as systemic below 10^25: cumulative too",
            parts(systemic(published(3 * E(24))), &[(Kind::Training, 9 * E(23)), (Kind::PrivateSyntheticData, 2 * E(23))]),
            [Above, Above, Below],
        ),
        (
            what,
            "presumption set aside by the Commission: direct",
            parts(
                with_risk(published(3 * E(25)), SystemicRisk::No { why: "decision".to_owned() }),
                &[(Kind::Training, 9 * E(24)), (Kind::PrivateSyntheticData, 2 * E(24))],
            ),
            [Below, Above, Above],
        ),
        // What counts.
        (
            counts,
            "merged weights count",
            parts(published(15 * E(23)), &[(Kind::Training, 4 * E(23)), (Kind::MergedWeights, 2 * E(23))]),
            [Above, Above, Below],
        ),
        (
            counts,
            "steps that a crash undid count once",
            parts(published(15 * E(23)), &[(Kind::Training, 4 * E(23)), (Kind::LostSteps, 2 * E(23))]),
            [Above, Above, Below],
        ),
        (
            counts,
            "what has no known use counts",
            parts(published(15 * E(23)), &[(Kind::Training, 4 * E(23)), (Kind::Other, 2 * E(23))]),
            [Above, Above, Below],
        ),
        (
            not,
            "recomputation does not",
            parts(published(15 * E(23)), &[(Kind::Training, 4 * E(23)), (Kind::Recomputation, 2 * E(23))]),
            [Below, Above, Below],
        ),
        (
            not,
            "evaluation does not",
            parts(published(15 * E(23)), &[(Kind::Training, 4 * E(23)), (Kind::Evaluation, 2 * E(23))]),
            [Below, Above, Below],
        ),
        (
            not,
            "public synthetic data does not",
            parts(systemic(published(15 * E(23))), &[(Kind::Training, 4 * E(23)), (Kind::PublicSyntheticData, 2 * E(23))]),
            [Below, Above, Below],
        ),
        (
            not,
            "a discarded run does not",
            parts(published(15 * E(23)), &[(Kind::Training, 4 * E(23)), (Kind::DiscardedRun, 2 * E(23))]),
            [Below, Above, Below],
        ),
        (
            not,
            "the reward model does not",
            parts(systemic(published(15 * E(23))), &[(Kind::Training, 4 * E(23)), (Kind::AuxiliaryModel, 2 * E(23))]),
            [Below, Above, Below],
        ),
        (
            not,
            "the distillation's parent does not",
            parts(systemic(published(15 * E(23))), &[(Kind::Training, 4 * E(23)), (Kind::DistillationParent, 2 * E(24))]),
            [Below, Above, Below],
        ),
        // The resulting model.
        ("2.1, para 17", "from scratch, exactly 10^23", counted(Origin::Scratch, E(23)), [NotApplicable, Below, Below]),
        ("2.1, para 17", "from scratch, one operation more", counted(Origin::Scratch, E(23) + 1), [NotApplicable, Above, Below]),
        ("2.1, para 17", "base and modification together pass 10^23", counted(published(9 * E(22)), 2 * E(22)), [Below, Above, Below]),
        ("Article 51(2)", "from scratch, exactly 10^25", counted(Origin::Scratch, E(25)), [NotApplicable, Above, Below]),
        (
            "Article 51(2)",
            "synthetic data makes it cumulative",
            parts(Origin::Scratch, &[(Kind::Training, E(25)), (Kind::PrivateSyntheticData, 1)]),
            [NotApplicable, Above, Above],
        ),
        ("Article 51(2)", "passed together, although less than a third", counted(published(9 * E(24)), 2 * E(24)), [Below, Above, Above]),
        (
            "2.2, para 23",
            "one's own model goes on",
            counted(Origin::Own { name: "ours".to_owned(), before: Amount::exact(9 * E(22)) }, 2 * E(22)),
            [NotApplicable, Above, Below],
        ),
        // What cannot be relied on.
        (
            "-",
            "changed evidence proves nothing, however much it says",
            Input { doubts: vec!["line 7".to_owned()], ..counted(published(15 * E(23)), 6 * E(23)) },
            [Inconclusive; 3],
        ),
        (
            "-",
            "changed evidence proves nothing, however little it says",
            Input { doubts: vec!["line 7".to_owned()], ..counted(published(15 * E(23)), 6) },
            [Inconclusive; 3],
        ),
        ("-", "a simulated run", Input { simulated: true, ..counted(published(15 * E(23)), 6 * E(23)) }, [Withheld; 3]),
        ("-", "a simulated run of no stated base", Input { simulated: true, ..counted(Origin::NotStated, 6) }, [Withheld; 3]),
    ]
}

#[test]
fn the_verdicts_are_those_of_the_guidelines() {
    let table = table();
    assert!(table.len() >= 25);
    for (place, about, input, expected) in table {
        let a = assess(&input, CURRENT).unwrap_or_else(|e| panic!("{place}, {about}: {e}"));
        let got = [TestName::OneThird, TestName::GeneralPurpose, TestName::SystemicRisk].map(|t| a.test(t).verdict);
        assert_eq!(got, expected, "{place}, {about}: {:?}", a.tests.iter().map(|t| &t.why).collect::<Vec<_>>());
        assert_eq!(a.verdict, a.test(a.headline).verdict);
        // Each test and each conclusion of law says where it is written.
        assert!(a.tests.iter().all(|t| !t.citation.place.is_empty() && !t.why.is_empty()));
        if !input.simulated {
            assert!(a.conclusions.iter().any(|c| c.citation.is_some()), "{place}, {about}");
        }
    }
}

#[test]
fn the_quantity_follows_the_base_model() {
    let of = |origin| assess(&counted(origin, 1), CURRENT).unwrap().test(TestName::OneThird).quantity;
    assert_eq!(of(published(E(24))), Quantity::Direct);
    assert_eq!(of(published(E(25))), Quantity::Direct);
    assert_eq!(of(published(E(25) + 1)), Quantity::Cumulative);
    assert_eq!(of(systemic(unknown())), Quantity::Cumulative);
}

#[test]
fn both_totals_both_intervals_and_the_reason_of_each_part_are_told() {
    let a = assess(
        &parts(published(15 * E(23)), &[(Kind::Training, E(23)), (Kind::Recomputation, E(22)), (Kind::PrivateSyntheticData, E(22))]),
        CURRENT,
    )
    .unwrap();
    assert_eq!((a.direct.flop, a.cumulative.flop), (E(23), 11 * E(22)));
    assert_eq!((a.direct.margin_low, a.direct.margin_high), (7 * E(22), 13 * E(22)));
    assert_eq!((a.direct.low, a.direct.high, a.direct.within_margin), (E(23), Some(E(23)), true));
    let recomputation = &a.components[1];
    assert!(!recomputation.in_direct && !recomputation.in_cumulative && recomputation.why.contains("need not be counted"));
    assert_eq!(a.test(TestName::OneThird).threshold.as_ref().unwrap().exact, (5 * E(23)).to_string());
    let third = assess(&counted(unknown(), 1), CURRENT).unwrap().test(TestName::OneThird).threshold.clone().unwrap();
    assert_eq!(third.exact, format!("{}/3", E(23)));
    // The margin says less than the counters.
    let near = assess(&counted(published(15 * E(23)), 49 * E(22)), CURRENT).unwrap();
    assert_eq!((near.test(TestName::OneThird).by_margin, near.verdict), (Inconclusive, Below));
    assert!(near.conclusions.iter().any(|c| c.text.contains("within 30 %")));
}

#[test]
fn what_follows_depends_on_the_verdict_and_the_base() {
    let says = |input: &Input, what: &str| {
        let a = assess(input, CURRENT).unwrap();
        a.conclusions.iter().any(|c| c.to_string().contains(what))
    };
    let above = counted(published(15 * E(23)), 6 * E(23));
    assert!(says(&above, "considered the provider") && says(&above, "Articles 53(2)") && !says(&above, "14 days"));
    let systemic_above = counted(systemic(unknown()), 4 * E(24));
    assert!(
        says(&systemic_above, "14 days") && says(&systemic_above, "two significant figures") && !says(&systemic_above, "Articles 53(2)")
    );
    assert!(says(&counted(unknown(), 1), "ask its provider"));
    let simulated = Input { simulated: true, ..above };
    assert!(says(&simulated, "nothing follows") && !says(&simulated, "provider of"));
    assert!(says(&missing(counted(published(E(24)), 1), None), "nobody can say how much is missing"));
}

#[test]
fn the_report_of_it_is_json_with_whole_numbers_and_a_version() {
    let a = assess(&counted(published(E(24)), 333_333_333_333_333_333_333_334), CURRENT).unwrap();
    let json = serde_json::to_value(&a).unwrap();
    assert_eq!(json["direct"]["flop"], "333333333333333333333334");
    assert_eq!(json["verdict"], "above");
    assert_eq!(json["guidelines"]["version"], "2025-07-18");
    assert_eq!(json["guidelines"]["modification"]["denominator"], 3);
    assert_eq!(json["tests"][0]["threshold"]["exact"], format!("{}/3", E(24)));
    let input = missing(counted(card(), E(22)), Some(E(30)));
    let back: Input = serde_json::from_str(&serde_json::to_string(&input).unwrap()).unwrap();
    assert_eq!(back, input);
}

/// Annex A.3: to one digit more than the Guidelines print, because their copies round differently (D 1.6 or 1.7, G 1.5 or 1.6, H 6.5 or 6.6).
#[test]
fn the_commission_s_examples_come_out() {
    let tera = 1_000_000_000_000;
    for (model, millions, tokens, flop) in [
        ("A", 3800, 33 * tera / 10, 7.524e22),
        ("C", 600, 36 * tera, 1.296e23),
        ("D", 1540, 18 * tera, 1.663e23),
        ("E", 1700, 36 * tera, 3.672e23),
        ("F", 2500, 12 * tera, 1.8e23),
        // 61e9 tokens, 164 epochs.
        ("G", 2600, 61_000_000_000 * 164, 1.5606e23),
    ] {
        let got = six_pd(millions * 1_000_000, tokens) as f64;
        assert!((got / flop - 1.0).abs() < 5e-4, "{model}: {got:e}");
        let gpai = assess(&counted(Origin::Scratch, six_pd(millions * 1_000_000, tokens)), CURRENT).unwrap().verdict;
        assert_eq!(gpai, if model == "A" { Below } else { Above }, "{model}");
    }
    // N·L is given in unit hours. B: A100 at 300e12, H: H100 at 989e12, both at 50 %.
    for (model, hours, peak, flop) in [("B", 200_000.0, 300e12, 1.08e23), ("H", 370_000.0, 989e12, 6.587e23)] {
        let got = hardware(1.0, hours * 3600.0, peak, 0.5);
        assert!((got / flop - 1.0).abs() < 5e-4, "{model}: {got:e}");
    }
}

#[test]
fn the_known_models_are_what_their_makers_say() {
    let llama = known_model("meta-llama/Meta-Llama-3-70B-Instruct").unwrap();
    let flop = six_pd(llama.parameters, llama.tokens.unwrap()) as f64;
    assert!((flop / 6.354e24 - 1.0).abs() < 1e-3, "{flop:e}");
    assert!(known_model("Llama-3.1-405B").unwrap().published.unwrap() > E(25));
    assert!(known_model("gpt-5").is_none());
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let refuse = |input: Input| assess(&input, CURRENT).unwrap_err();
    assert!(matches!(refuse(counted(published(0), 1)), Error::NoBaseCompute { .. }));
    assert!(matches!(refuse(counted(published(E(34)), 1)), Error::TooLarge { .. }));
    assert!(matches!(refuse(counted(published(E(24)), E(34))), Error::TooLarge { .. }));
    let many = vec![component(Kind::Training, Amount::exact(E(33))); 1001];
    assert!(matches!(refuse(input(published(E(24)), many)), Error::TooLarge { .. }));
    let twisted = Amount { flop: 5, low: 6, high: 7 };
    assert!(matches!(refuse(input(published(E(24)), vec![component(Kind::Training, twisted)])), Error::Interval { .. }));
    let huge = BaseCompute::Estimated { parameters: u64::MAX, tokens: u64::MAX, source: String::new() };
    assert!(matches!(refuse(counted(base(huge), 1)), Error::TooLarge { .. }));
    for (why_unknown, why_no_estimate) in [(" ", "x"), ("x", "")] {
        let half = BaseCompute::Unknown { why_unknown: why_unknown.to_owned(), why_no_estimate: why_no_estimate.to_owned() };
        assert!(matches!(refuse(counted(base(half), 1)), Error::NoReason { .. }));
    }
    let no = with_risk(published(E(26)), SystemicRisk::No { why: String::new() });
    assert!(matches!(refuse(counted(no, 1)), Error::NoReason { .. }));
}

fn flop() -> impl Strategy<Value = u128> {
    (0u32..29, 1u128..1000, 0u128..3).prop_map(|(e, m, more)| m * E(e).max(1) + more)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// With exact numbers the verdict is the inequality itself, in integers: 3 R > B.
    #[test]
    fn an_exact_measurement_of_a_published_base_is_an_integer_inequality(b in flop(), r in flop()) {
        let a = assess(&counted(published(b), r), CURRENT).unwrap();
        prop_assert_eq!(a.verdict, if 3 * r > b { Above } else { Below });
        // And around the edge.
        let edge = b / 3;
        prop_assert_eq!(assess(&counted(published(b), edge), CURRENT).unwrap().verdict, Below);
        prop_assert_eq!(assess(&counted(published(b), edge + 1), CURRENT).unwrap().verdict, Above);
    }

    /// The margin is of the reported value, exact: 13 R x 3 <= 10 B, 7 R x 3 > 10 B.
    #[test]
    fn the_margin_is_exact(b in flop(), r in flop()) {
        let a = assess(&counted(published(b), r), CURRENT).unwrap();
        let expected = if 39 * r <= 10 * b { Below } else if 21 * r > 10 * b { Above } else { Inconclusive };
        prop_assert_eq!(a.test(TestName::OneThird).by_margin, expected);
    }

    /// What is missing makes no verdict "below" that was not, and with no end it makes none at all.
    #[test]
    fn a_gap_never_makes_below(b in flop(), r in flop(), most in proptest::option::of(flop())) {
        let whole = assess(&counted(published(b), r), CURRENT).unwrap();
        let holed = assess(&missing(counted(published(b), r), most), CURRENT).unwrap();
        for (w, h) in whole.tests.iter().zip(&holed.tests) {
            prop_assert!(h.verdict != Below || (w.verdict == Below && most.is_some()));
            prop_assert!(h.by_margin != Below || (w.by_margin == Below && most.is_some()));
            prop_assert_eq!(h.verdict == Above, w.verdict == Above);
        }
    }

    /// A wider interval changes a verdict to inconclusive or not at all.
    #[test]
    fn a_wider_interval_only_takes_certainty(b in flop(), r in flop(), less in flop(), more in flop()) {
        let exact = assess(&counted(published(b), r), CURRENT).unwrap().verdict;
        let wide = Amount { flop: r, low: r.saturating_sub(less), high: r + more };
        let verdict = assess(&input(published(b), vec![component(Kind::Training, wide)]), CURRENT).unwrap().verdict;
        prop_assert!(verdict == exact || verdict == Inconclusive);
    }

    /// Parts taken out of a whole are neither lost nor doubled.
    #[test]
    fn a_split_adds_up(whole in flop(), share in 0u128..=100, error in 0u128..30) {
        let part = whole / 100 * share;
        let amount = Amount { flop: part, low: part - part / 100 * error, high: part + part / 100 * error };
        let all = split(component(Kind::Training, Amount::exact(whole)), vec![component(Kind::Recomputation, amount)]).unwrap();
        prop_assert_eq!(all.iter().map(|c| c.amount.flop).sum::<u128>(), whole);
        let a = assess(&input(published(E(24)), all), CURRENT).unwrap();
        prop_assert_eq!(a.direct.flop, whole - part);
        prop_assert!(a.direct.low <= whole - part && a.direct.high.unwrap() >= whole - part);
    }
}
