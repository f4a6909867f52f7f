//! Programs that behave: all they execute is counted.

use std::process::{Output, Stdio};

use flopsprof::evidence::record::{Record, Tier};

use crate::harness::{BF16, Bench, FP8, FP64, library, zoo};

#[test]
fn every_launch_of_a_plain_program_is_counted() {
    let bench = Bench::new();
    let outcome = bench.run("plain", &["400", "1000"]);
    outcome.assert_exact();
    assert_eq!(outcome.status.code(), Some(7));
    assert!(outcome.windows().len() > 3, "windows were cut while it ran");
    assert!(outcome.ended().ended);
}

#[test]
fn launches_as_fast_as_possible_right_after_the_start_are_counted() {
    Bench::new().run("plain", &["200", "0"]).assert_exact();
}

#[test]
fn several_threads_and_streams_are_counted() {
    Bench::new().run("plain", &["300", "1000", "4"]).assert_exact();
}

#[test]
fn a_path_that_takes_turns_is_counted_in_part_and_interpolated_for_the_rest() {
    let bench = Bench::new();
    let outcome = bench.run("plain", &["2000", "1000", "1", "fp64"]);
    let (truth, counted) = (outcome.truth()[FP64], outcome.counted()[FP64]);
    assert!(0 < counted && counted < truth, "{counted} of {truth}");
    let path = &outcome.ledger().paths[FP64];
    assert_eq!(path.counted, counted);
    let off = path.total().abs_diff(truth) as f64 / truth as f64;
    assert!(off < 0.25, "{path:?} against {truth}: {off}");
    assert_eq!(outcome.said, [] as [&str; 0]);
}

/// 2:4 sparse operations are counted with their path's, and by themselves too.
#[test]
fn sparse_operations_are_told_from_dense_ones() {
    for (kernel, all) in [("sparse", true), ("bf16", false)] {
        let outcome = Bench::new().run("plain", &["300", "1000", "1", kernel]);
        outcome.assert_exact();
        let sparse: u128 = outcome.windows().iter().filter_map(|w| w.sparse.get(BF16)).sum();
        assert_eq!(sparse, if all { outcome.truth()[BF16] } else { 0 }, "{kernel}");
        assert!(outcome.windows().iter().any(|w| w.sparse.contains_key(BF16)), "{kernel}: nobody looked");
        assert_eq!(outcome.ledger().paths[BF16].sparse, Some(sparse));
    }
}

/// The variable alone does, without a preload.
#[test]
fn the_drivers_injection_variable_is_enough() {
    let bench = Bench::new();
    let bare = bench.command(false, "plain", &["300", "1000"]).output().expect("starting a program");
    let mut command = bench.command(false, "plain", &["300", "1000"]);
    let metered = command.env("CUDA_INJECTION64_PATH", library("flopsprof")).output().expect("starting a program");
    bench.compare(&bare, metered).assert_exact();
}

/// Another tool has the variable: it is injected as ever, and the meter finds libcuda by looking for it now and then.
#[test]
fn beside_another_injected_tool_the_program_is_metered_too() {
    let other = zoo("libinjected.so");
    let bench = Bench::new().env("CUDA_INJECTION64_PATH", other);
    let outcome = bench.run("plain", &["1000", "1000"]);
    assert!(outcome.stdout.starts_with("the other tool was injected\n"), "{}", outcome.stdout);
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    // Found within 0.1 s of 1 s.
    assert!(counted <= truth && counted * 2 > truth, "{counted} of {truth}");
    assert_eq!(outcome.said, [] as [&str; 0]);
}

#[test]
fn without_a_gate_what_runs_at_boundaries_is_not_counted_and_the_windows_say_so() {
    let bench = Bench::new().env("FLOPSPROF_GATE", "0");
    let outcome = bench.run("plain", &["1000", "1000"]);
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    assert!(counted <= truth && counted * 10 > truth * 8, "{counted} of {truth}");
    let windows = outcome.windows();
    assert!(windows.iter().all(|w| !w.opened.gated && w.opened.why_ungated.contains("FLOPSPROF_GATE")), "{}", outcome.course());
}

/// Values that are no numbers are no counts of nothing: the windows are not among the counted, and say why.
#[test]
fn a_window_whose_every_count_is_no_number_is_witnessed_and_not_counted_as_nothing() {
    let outcome = Bench::new().fault("cuptiProfilerHostEvaluateToGpuValues=garbage:0").run("plain", &["1000", "1000"]);
    assert!(outcome.faults().iter().all(|f| f.kind == "invalid-count") && !outcome.faults().is_empty(), "{:?}", outcome.faults());
    let windows = outcome.windows();
    assert!(
        !windows.is_empty() && windows.iter().all(|w| w.tier != Tier::Counted && w.why.contains("no valid count")),
        "{}",
        outcome.course()
    );
    assert_eq!(outcome.ledger().tier(), Some(windows[0].tier), "the report's tier is the witness's");
}

#[test]
fn settings_that_make_no_sense_are_named_and_replaced() {
    let outcome_of = |bench: &Bench| {
        let outcome = bench.run("plain", &["200", "1000"]);
        assert_eq!(outcome.counted(), outcome.truth());
        outcome.said.clone()
    };
    for (name, value) in [
        ("FLOPSPROF_WINDOW", "often"),
        ("FLOPSPROF_WINDOW", "-1"),
        ("FLOPSPROF_WINDOW", "NaN"),
        ("FLOPSPROF_DRAIN", "1e99"),
        ("FLOPSPROF_OVERHEAD", "101"),
        ("FLOPSPROF_CENSUS", "soon"),
    ] {
        let said = outcome_of(&Bench::new().env(name, value));
        assert_eq!(said.len(), 1, "{name}={value}: {said:?}");
        assert!(said[0].contains(name) && said[0].contains(value), "{said:?}");
    }
}

/// What a program declares stands in the evidence and adds up in the ledger.
#[test]
fn tokens_steps_and_parameters_of_the_program_are_kept() {
    let bench = Bench::new();
    let outcome = bench.run("declare", &[]);
    outcome.assert_exact();
    let ledger = outcome.ledger();
    assert_eq!((ledger.tokens, ledger.steps, ledger.parameters()), (30 * 4096, 30, Some((1_000_000, 250_000))));
}

/// A phase ends the open window, and stands in the evidence with its time; so does what the program declares as JSON.
#[test]
fn phases_are_counted_apart_and_declarations_are_kept() {
    // Windows so long that after the survey only a phase ends one.
    let bench = Bench::new().env("FLOPSPROF_WINDOW", "60");
    let outcome = bench.run("declare", &[]);
    outcome.assert_exact();
    let lines = outcome.ended().lines;
    let phases: Vec<(String, u64)> =
        lines.iter().filter_map(|l| if let Record::Phase(p) = &l.record { Some((p.phase.clone(), p.since_ns)) } else { None }).collect();
    assert_eq!(phases.iter().map(|(p, _)| p.as_str()).collect::<Vec<_>>(), ["train", "evaluate", "train"]);
    assert!(phases.windows(2).all(|w| w[0].1 < w[1].1));
    let (begin, end) = (phases[1].1, phases[2].1);
    let inside: u128 =
        outcome.windows().iter().filter(|w| w.start_ns >= begin && w.start_ns < end).map(|w| w.counts.get(FP8).copied().unwrap_or(0)).sum();
    // The mark does not wait for the boundary: a launch or two may come before it.
    let truth = outcome.truth()[FP8];
    assert!(inside * 10 >= truth * 7 && inside <= truth, "{inside} of {truth}: {phases:?}\n{}", outcome.course());
    let declared = |wanted: &str| {
        lines.iter().find_map(|l| match &l.record {
            Record::Model(d) if wanted == "model" => Some(d.declared.clone()),
            Record::Work(d) if wanted == "work" => Some(d.declared.clone()),
            _ => None,
        })
    };
    assert_eq!(declared("model").map(|d| d["unknown"].clone()), Some(true.into()));
    assert_eq!(declared("work").map(|d| d["tokens"].clone()), Some(122_880.into()));
}

/// Models that follow each other within one window are both there, in their order, with the tokens and the rows that belong to each.
#[test]
fn models_that_a_process_trains_in_turn_are_told_apart() {
    let outcome = Bench::new().run("two_models", &[]);
    outcome.assert_exact();
    let said: Vec<String> = outcome
        .ended()
        .lines
        .iter()
        .filter_map(|l| match &l.record {
            Record::Model(d) => d.since_ns.and(d.declared["name"].as_str().map(str::to_owned)),
            Record::Work(d) => d.since_ns.map(|_| d.declared["rows"].to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(said, ["first", "7", "second", "10"]);
    let ledger = outcome.ledger();
    assert_eq!((ledger.models, ledger.tokens), ([((1000, 1000), 70), ((50, 20), 30)].into(), 100));
}

/// One process owns a GPU's counters at a time: two take turns, and together with what each interpolates the sum is right.
#[test]
fn two_programs_on_one_gpu_add_up() {
    let bench = Bench::new();
    let start =
        || bench.command(true, "plain", &["4000", "1000"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program");
    let (first, second) = (start(), start());
    let bare = bench.command(false, "plain", &["4000", "1000"]).output().expect("starting a program");
    let ends: Vec<Output> = [first, second].map(|c| c.wait_with_output().expect("its end")).into();
    let outcomes: Vec<_> = ends.into_iter().map(|end| bench.compare(&bare, end)).collect();
    let truth: u128 = outcomes.iter().map(|o| o.truth()[BF16]).sum();
    let outcome = &outcomes[0];
    let files = outcome.evidence();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|f| f.ended));
    let path = &outcome.ledger().paths[BF16];
    assert!(path.counted > 0 && path.counted <= truth, "{path:?} of {truth}");
    let off = path.total().abs_diff(truth) as f64 / truth as f64;
    assert!(off < 0.1, "{path:?} of {truth}: {off}\n{}", outcome.course());
    for outcome in &outcomes {
        assert_eq!(outcome.said, [] as [&str; 0]);
    }
}

/// PyTorch captures graphs in global mode, in which a call of another thread that waits invalidates the capture: the meter's must not.
#[test]
fn boundaries_do_not_disturb_a_capture() {
    let outcome = Bench::new().run("steps", &["1500", "500", "capture"]);
    assert!(outcome.windows().len() > 4, "{}", outcome.course());
    assert_eq!(outcome.counted()[BF16], outcome.truth()[BF16], "{}", outcome.course());
}
