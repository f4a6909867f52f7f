//! A run of which nothing was measured: no form of its report has a number for what it executed, and each says why.

use flopsprof::evidence::record::{Declare, Fault, Tier};
use serde_json::Value;

use crate::{report, synthetic::Evidence};

const WHY: &str = "operations are not counted: no libcupti found";

/// A rank that never had a counter, for the reason that a fault says, or else its windows.
fn never_counted(fault: bool) -> Evidence {
    let mut evidence = Evidence::counted("node", 0, 1, 3).estimated(Tier::Utilization);
    evidence.start.simulated = false;
    evidence.windows.iter_mut().for_each(|w| w.why = "another tool holds the GPU's counters".to_owned());
    if fault {
        evidence.faults =
            vec![Fault { kind: "no-cupti".to_owned(), what: WHY.to_owned(), remedy: "install it".to_owned(), ..Fault::default() }];
    }
    evidence.declared = Some(Declare { parameters: 1_000_000_000, trainable: 1_000_000_000, ..Declare::default() });
    evidence.tokens = 1000;
    evidence
}

/// Text, JSON and page of it.
fn forms(evidence: &Evidence, flags: &[&str]) -> (String, Value, String) {
    let folder = tempfile::tempdir().expect("a folder");
    evidence.write(folder.path());
    let file = folder.path().join("report.html");
    let printed = |flags: &[&str]| {
        let output = report(folder.path(), flags);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let text = printed(flags);
    let json: Value = serde_json::from_str(&printed(&[flags, &["--json"]].concat())).expect("JSON");
    printed(&[flags, &["--html", file.to_str().expect("UTF-8")]].concat());
    let schema: Value = serde_json::from_str(flopsprof::report::json::SCHEMA).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    assert!(validator.is_valid(&json), "{:?}", validator.iter_errors(&json).map(|e| e.to_string()).collect::<Vec<_>>());
    (text, json, std::fs::read_to_string(file).expect("the page"))
}

#[test]
fn no_form_has_a_number_for_what_nobody_measured() {
    for (evidence, why) in [(never_counted(true), WHY), (never_counted(false), "another tool holds the GPU's counters")] {
        let (text, json, page) = forms(&evidence, &["--base-flops", "1e22"]);
        let head = text.lines().find(|l| l.starts_with("executed")).expect("a headline");
        assert_eq!(head, format!("executed   not measured: {why}"), "{text}");
        for wrong in ["0 FLOP", "counted 0", "0.000000 x 6ND", "rate  ", "too short for"] {
            assert!(!text.contains(wrong), "{wrong} stands in\n{text}");
        }
        assert!(text.contains("not counted, estimated by utilization") && text.contains("6ND (6.0000e12 FLOP)"), "{text}");
        assert_eq!(json["unmeasured"], why);
        assert_eq!(
            (&json["total"]["flop"], &json["tier"]),
            (&"0".into(), &"utilization".into()),
            "the total has what is estimated beside it"
        );
        assert!(
            [&json["flop_per_s"], &json["flop_per_joule"], &json["six_nd"]["ratio"], &json["processes"][0]["tier"]]
                .iter()
                .all(|v| v.is_null()),
            "{json}"
        );
        assert_eq!(json["not_metered"]["lower_bound"], true);
        // Half a minute of one GPU is less than a third of that, whatever it did.
        assert!(text.contains("nothing measured, interval 0 to ") && json["assessment"]["verdict"] == "below", "{text}");
        assert!(page.contains(">not measured<") && page.contains(why), "the page says so");
        assert!(!page.contains("counted, none interpolated") && !page.contains(">0 <span class=\"unit\">FLOP"), "{page}");
    }
}

/// Nothing stands in the evidence but that there was a process, and why not more.
#[test]
fn a_process_without_a_window_is_no_zero() {
    let mut evidence = never_counted(true);
    evidence.windows.clear();
    evidence.faults[0].kind = "no-context".to_owned();
    let (text, json, _) = forms(&evidence, &["--base-flops", "1e22"]);
    assert!(text.contains(&format!("executed   not measured: {WHY}")), "{text}");
    assert_eq!((&json["tier"], &json["unmeasured"]), (&Value::Null, &WHY.into()));
    assert_eq!(json["not_metered"]["lower_bound"], true);
    assert_eq!(json["assessment"]["verdict"], "inconclusive");
}

/// Zeros that were counted are a measurement.
#[test]
fn a_zero_that_was_counted_is_one() {
    let mut evidence = Evidence::counted("node", 0, 1, 3);
    evidence.windows.iter_mut().for_each(|w| w.counts.values_mut().for_each(|n| *n = 0));
    let (text, json, _) = forms(&evidence, &[]);
    assert!(text.contains("executed   0 FLOP (simulated), counted"), "{text}");
    assert!(json.get("unmeasured").is_none() && json["tier"] == "counted");
}

/// What ran in a context that was not metered is missing in a total of others.
#[test]
fn work_beside_what_was_metered_makes_a_lower_bound() {
    let mut evidence = Evidence::counted("node", 0, 1, 3);
    evidence.start.simulated = false;
    let whole = forms(&evidence, &["--base-flops", "1e22"]).1;
    assert_eq!((&whole["not_metered"]["lower_bound"], &whole["assessment"]["verdict"]), (&false.into(), &"below".into()));
    let what = "the program launches in a context that is not its device's primary context".to_owned();
    evidence.faults =
        vec![Fault { kind: "foreign-context".to_owned(), what, remedy: "use the primary one".to_owned(), ..Fault::default() }];
    let json = forms(&evidence, &["--base-flops", "1e22"]).1;
    assert_eq!((&json["not_metered"]["lower_bound"], &json["assessment"]["verdict"]), (&true.into(), &"inconclusive".into()));
}
