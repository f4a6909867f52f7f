//! Paths that a short survey missed in a program of long steps: a census shows a product that executed nothing, and then they are looked at.

use std::process::Stdio;

use flopsprof::evidence::record::{Kernels, Record, Window};
use serde_json::Value;

use crate::harness::{BF16, Bench, Outcome};

/// The path of `zoo_gemm`: one that takes turns, in the first group of GH100's.
const HMMA: &str = "sm__ops_path_tensor_op_hmma_src_bf16_dst_fp32";

/// A metered run of a program whose first step is longer than the survey, and a bare one without pauses.
fn run(bench: &Bench, head: &str) -> Outcome {
    run_as(bench, ["24", "25000", head].as_slice())
}

fn run_as(bench: &Bench, how: &[&str]) -> Outcome {
    let metered = bench.command(true, "long_steps", how).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let bare = bench.command(false, "long_steps", &[&[how[0], "0"], &how[2..]].concat()).output().expect("starting a program");
    bench.compare(&bare, metered.expect("starting a program").wait_with_output().expect("its end"))
}

/// Its censuses, each with its window; in the first one the head executed nothing, and no window before it saw anything of the head's path.
fn censuses(outcome: &Outcome, head: &str) -> Vec<(Kernels, Window)> {
    let windows = outcome.windows();
    let lines = outcome.evidence().into_iter().flat_map(|f| f.lines);
    let taken = lines.filter_map(|l| if let Record::Kernels(k) = l.record { Some(*k) } else { None });
    let window = |k: &Kernels| windows.iter().find(|w| Some(w.index) == k.window).expect("its window").clone();
    let censuses: Vec<(Kernels, Window)> = taken.map(|k| (k.clone(), window(&k))).collect();
    let (census, at) = censuses.first().expect("a census");
    let rows: Vec<_> = census.kernels.iter().filter(|k| k.name == head).collect();
    assert!(!rows.is_empty() && rows.iter().all(|k| k.counts.is_empty()), "{census:#?}");
    let seen = windows.iter().filter(|w| w.start_ns < at.start_ns).filter_map(|w| w.counts.get(HMMA)).sum::<u128>();
    assert_eq!(seen, 0, "the survey was to miss it:\n{}", outcome.course());
    censuses
}

/// The groups that were on from this window on, each change of them.
fn groups(outcome: &Outcome, from: &Window) -> Vec<usize> {
    let mut groups: Vec<usize> = outcome.windows().iter().filter(|w| w.start_ns >= from.start_ns).filter_map(|w| w.group).collect();
    groups.dedup();
    groups
}

/// The head's operations are counted from when they were found on, and the total holds within its error: much of so short a run was over by then.
fn assert_estimated(outcome: &Outcome) {
    let (total, truth) = (&outcome.ledger().paths[HMMA], outcome.truth()[HMMA]);
    let error = total.standard_error().expect("an error");
    assert!(total.counted > truth * 2 / 5 && total.counted <= truth, "{total:?} of {truth}\n{}", outcome.course());
    assert!(
        (total.total() as f64 - truth as f64).abs() < 3.0 * error && error < truth as f64,
        "{total:?} of {truth}\n{}",
        outcome.course()
    );
}

fn report(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.command(&["report", "--json"])).expect("JSON")
}

#[test]
fn a_path_that_the_survey_missed_is_found_because_a_census_shows_its_kernel() {
    let outcome = run(&Bench::new().env("FLOPSPROF_CENSUS", "1:20"), "gemm");
    let censuses = censuses(&outcome, "zoo_gemm");
    let groups = groups(&outcome, &censuses[0].1);
    // The looks at the two others are done, and the path's group stays on.
    assert!(groups.len() <= 6 && groups.last() == Some(&0), "{groups:?}\n{}", outcome.course());
    assert_estimated(&outcome);
    assert_eq!(outcome.ledger().paths[BF16].counted, outcome.truth()[BF16]);
    let report = report(&outcome);
    assert_eq!((&report["tier"], &report["not_metered"]["unexplained"]), (&"sampled".into(), &Value::Null));
    assert_eq!((outcome.said.clone(), outcome.faults()), (vec![], vec![]));
}

/// Steps of half a second, which the program marks: each window of the survey goes on until one has passed, and no census is needed.
#[test]
fn a_survey_waits_for_steps_that_are_marked() {
    let outcome = run_as(&Bench::new().env("FLOPSPROF_WINDOW", "2"), &["12", "50000", "gemm", "marks"]);
    let windows = outcome.windows();
    let found = windows.iter().position(|w| w.counts.get(HMMA).is_some_and(|n| *n > 0)).expect("the head's path");
    let seconds = (windows[found].end_ns - windows[0].start_ns) as f64 / 1e9;
    assert!(seconds < 4.5 && windows[found].end_ns - windows[found].start_ns > 500_000_000, "{seconds} s\n{}", outcome.course());
    assert_estimated(&outcome);
    assert_eq!(outcome.counted()[BF16], outcome.truth()[BF16]);
}

/// A product on the CUDA cores is looked for once, however often censuses show it, and then the evidence has settled it.
#[test]
fn a_product_that_uses_no_tensor_cores_is_looked_for_once() {
    let outcome = run(&Bench::new().env("FLOPSPROF_CENSUS", "1:20:0.4"), "sgemm");
    let censuses = censuses(&outcome, "zoo_sgemm");
    assert!(censuses.len() >= 4, "{}", censuses.len());
    let groups = groups(&outcome, &censuses[0].1);
    assert_eq!(groups.len(), 4, "each of the others once: {groups:?}\n{}", outcome.course());
    // Peace: the last group stays on for most of what follows.
    let last = outcome.windows().iter().rev().take_while(|w| w.group == groups.last().copied()).map(|w| w.end_ns - w.start_ns).sum::<u64>();
    assert!(last > 1_500_000_000, "{last} ns\n{}", outcome.course());
    let report = report(&outcome);
    assert_eq!((&report["tier"], &report["not_metered"]["unexplained"]), (&"counted".into(), &Value::Null), "{}", outcome.course());
    assert_eq!(report["not_metered"]["lower_bound"], false);
    assert!(outcome.command(&["report"]).contains("FLOP (simulated), counted"));
    outcome.assert_exact();
}

/// Where no look is paid for, the report says what may be missing, by name, and claims no more than it knows.
#[test]
fn a_product_that_was_not_looked_for_is_named() {
    let outcome = run(&Bench::new().env("FLOPSPROF_CENSUS", "1:20").env("FLOPSPROF_OVERHEAD", "0.0001"), "gemm");
    let censuses = censuses(&outcome, "zoo_gemm");
    assert_eq!(groups(&outcome, &censuses[0].1).len(), 1, "{}", outcome.course());
    let report = report(&outcome);
    let said = &report["not_metered"]["unexplained"];
    assert_eq!((&said["kernels"][0]["name"], &report["tier"]), (&"zoo_gemm".into(), &"sampled".into()));
    assert!(said["paths"].as_array().expect("paths").contains(&HMMA.into()), "{said}");
    assert_eq!((&report["not_metered"]["lower_bound"], &report["total"]["standard_error"]), (&true.into(), &Value::Null));
    let text = outcome.command(&["report"]);
    assert!(text.contains("executed nothing that a census saw: zoo_gemm (") && !text.contains("FLOP (simulated), counted"), "{text}");
}
