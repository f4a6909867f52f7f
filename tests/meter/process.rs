//! How processes begin, multiply and end.

use std::collections::{BTreeMap, BTreeSet};

use flopsprof::evidence::{read::ProcessEvidence, record::Record};

use crate::harness::{BF16, Bench, zoo};

/// Ends that let the meter close its last window: everything is counted, and the evidence says how it ended.
#[test]
fn what_ends_by_itself_is_counted_to_the_last_launch() {
    for (how, reason) in
        [("return", "exit"), ("exit", "exit"), ("_exit", "_exit"), ("_Exit", "_exit"), ("thread", "exit"), ("handler", "_exit")]
    {
        let bench = Bench::new();
        let outcome = bench.run("exit_kinds", &[how, "42"]);
        assert_eq!(outcome.status.code(), Some(42), "{how}");
        outcome.assert_exact();
        let file = outcome.ended();
        let said = serde_json::to_value(&file.lines.last().expect("a last line").record).expect("JSON");
        assert_eq!(said["reason"], reason, "{how}");
    }
}

/// `quick_exit` runs no exit handlers, and calls the C library's own `_exit`.
#[test]
fn quick_exit_loses_at_most_the_open_window() {
    killed("quick_exit", None);
}

/// What a signal ends runs nothing of ours: the status is that signal's, and the windows that were closed stay.
#[test]
fn a_signal_ends_the_program_as_ever_and_costs_at_most_the_open_window() {
    for (how, signal) in [
        ("SIGTERM", libc::SIGTERM),
        ("SIGINT", libc::SIGINT),
        ("SIGKILL", libc::SIGKILL),
        ("SIGSEGV", libc::SIGSEGV),
        ("abort", libc::SIGABRT),
    ] {
        killed(how, Some(signal));
    }
}

fn killed(how: &str, signal: Option<i32>) {
    let bench = Bench::new();
    let outcome = bench.run("exit_kinds", &[how]);
    assert_eq!(outcome.signal(), signal, "{how}");
    let files = outcome.evidence();
    assert!(!files[0].torn_tail, "{how}");
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    // 0.7 s in windows of 0.1 s, the last of which may be lost: with the program's own pace, 6 of 7 stay; half is far on the safe side.
    assert!(counted <= truth && counted * 2 >= truth, "{how}: {counted} of {truth}");
    assert_eq!(outcome.said, [] as [&str; 0], "{how}");
    if counted < truth {
        assert!(!files[0].ended, "{how}: the evidence claims a good end");
    }
}

#[test]
fn a_process_without_cuda_leaves_no_trace() {
    Bench::new().run("no_cuda", &[]).assert_no_trace();
}

#[test]
fn a_process_that_only_looks_at_the_gpu_leaves_no_trace() {
    Bench::new().run("no_cuda", &["look"]).assert_no_trace();
}

#[test]
fn without_a_driver_the_program_fails_as_ever() {
    let bench = Bench::new().broken("libcuda.so.1");
    let outcome = bench.run("plain", &[]);
    assert_eq!(outcome.status.code(), Some(3));
    outcome.assert_no_trace();
}

#[test]
fn switched_off_it_does_nothing() {
    Bench::new().env("FLOPSPROF_DISABLE", "1").run("plain", &[]).assert_no_trace();
}

#[test]
fn children_that_start_cuda_themselves_are_metered_and_add_up() {
    for how in ["exit", "_exit"] {
        let bench = Bench::new();
        let outcome = bench.run("fork_before", &[how]);
        outcome.assert_exact();
        let files = outcome.evidence();
        assert_eq!(files.len(), 3, "{how}");
        assert!(files.iter().all(|f| f.ended), "{how}");
    }
}

#[test]
fn children_of_a_process_with_cuda_come_and_go_and_the_count_stays_whole() {
    for how in ["exit", "_exit", "exec", "abort"] {
        let bench = Bench::new();
        let outcome = bench.run("fork_after", &[how]);
        outcome.assert_exact();
        outcome.ended();
    }
}

#[test]
fn spawned_programs_are_metered_beside_their_parent() {
    let bench = Bench::new();
    let outcome = bench.run("spawn", &[]);
    outcome.assert_exact();
    outcome.ended();
}

/// Both use one GPU, whose counters one process has at a time: they take turns, and what one cannot count it says.
#[test]
fn a_parent_and_a_spawned_child_on_one_gpu_share_the_counters() {
    let bench = Bench::new();
    let outcome = bench.run("spawn", &["cuda"]);
    let (truth, counted) = (outcome.truth(), outcome.counted());
    let total = |m: &BTreeMap<String, u128>| m.values().sum::<u128>();
    assert!(total(&counted) > 0 && counted.iter().all(|(path, n)| n <= &truth[path]), "{counted:?} of {truth:?}");
    let files = outcome.evidence();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|f| f.ended));
    // Either all was counted, or the intervals that were not stand there with their reason.
    assert!(counted == truth || outcome.windows().iter().any(|w| w.why.contains("another metered process")), "{}", outcome.course());
    assert_eq!(outcome.said, [] as [&str; 0]);
}

/// `exec` replaces the process and keeps its id: what was in closed windows stays, and the new program's evidence stands beside it.
#[test]
fn a_program_that_becomes_another_keeps_its_evidence_and_is_metered_on() {
    let bench = Bench::new();
    let plain = zoo("plain");
    let outcome = bench.run("exec", &[plain.to_str().expect("UTF-8"), "300", "1000"]);
    assert_eq!(outcome.status.code(), Some(7));
    assert_eq!(outcome.said, [] as [&str; 0]);
    assert_eq!(outcome.faults(), []);
    let files = outcome.evidence();
    assert_eq!(files.len(), 2, "one file a program");
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    // 400 launches before the exec and 300 after: the latter whole, of the former at most the last window is lost.
    let launch = truth / 700;
    assert!(counted <= truth && counted >= 300 * launch + 200 * launch, "{counted} of {truth}");
}

#[test]
fn a_program_that_closes_libcuda_and_opens_it_again_is_counted() {
    Bench::new().run("dlclose", &[]).assert_exact();
}

#[test]
fn two_devices_are_counted_each_from_its_first_launch() {
    let bench = Bench::new().env("FLOPSPROF_SIM_DEVICES", "2").env("FLOPSPROF_SIM_CURRENT", "1");
    let outcome = bench.run("two_devices", &[]);
    outcome.assert_exact();
    let ledger = outcome.ledger();
    assert_eq!(ledger.devices.len(), 2);
    for device in 0..2 {
        let groups: BTreeSet<_> = outcome.windows().iter().filter(|w| w.device == device).map(|w| w.group).collect();
        assert!(groups.len() > 1, "GPU {device} changed its group of counters: {}", outcome.course());
    }
}

/// While the second chip is planned, windows of the first device are counted. The stand-in ends a process that is in the profiler host on two threads.
#[test]
fn two_chips_are_planned_and_counted_in_turn() {
    let slow = "cuptiProfilerHostGetNumOfPasses=hang:8,cuptiProfilerHostEvaluateToGpuValues=hang:8";
    let bench = Bench::new().env("FLOPSPROF_SIM_DEVICES", "2").env("FLOPSPROF_SIM_CHIPS", "2").fault(slow);
    let outcome = bench.run("two_devices", &[]);
    outcome.assert_exact();
    let chips = |f: &ProcessEvidence| -> BTreeSet<String> {
        f.lines.iter().filter_map(|l| if let Record::Device(d) = &l.record { Some(d.chip.clone()) } else { None }).collect()
    };
    assert_eq!(chips(&outcome.ended()), ["GH100", "GH100-other"].map(str::to_owned).into());
}

/// The driver finds the library by a variable, when CUDA starts: who has removed it by then runs as ever, and is told that nothing was metered.
#[test]
fn a_program_that_forgets_its_environment_is_told() {
    for how in ["all", "variable"] {
        let outcome = Bench::new().run("forgets", &[how]);
        assert_eq!(outcome.said.len(), 1, "{:?}", outcome.said);
        assert!(outcome.said[0].starts_with("not metered: CUDA_INJECTION64_PATH was removed"), "{:?}", outcome.said);
    }
}
