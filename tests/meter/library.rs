//! CUPTI that is missing, old, incomplete, taken, refused, or there twice.

use std::{
    collections::BTreeSet,
    fs,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use crate::harness::{BF16, Bench, Outcome, library};

/// Runs a program whose operations cannot be counted: it is as ever, one fault says why, and what NVML knows stands in the windows.
fn uncounted(bench: &Bench, kind: &str) {
    let outcome = bench.run("plain", &["400", "1000"]);
    outcome.assert_fault(kind);
    assert_eq!(outcome.counted(), [].into());
    assert_uncounted_windows(&outcome);
}

fn assert_uncounted_windows(outcome: &Outcome) {
    let windows = outcome.windows();
    assert!(!windows.is_empty(), "no window says that nothing was counted");
    for window in &windows {
        assert!(window.tier > flopsprof::evidence::record::Tier::Sampled && !window.why.is_empty(), "{window:#?}");
        assert!(window.nvml.is_some(), "{window:#?}");
    }
    assert!(outcome.ended().ended);
}

#[test]
fn a_cupti_that_is_not_where_it_was_named() {
    uncounted(&Bench::new().env("FLOPSPROF_CUPTI", "/nowhere/libcupti.so.13"), "no-cupti");
}

#[test]
fn no_cupti_anywhere() {
    let bench = Bench::new().broken("libcupti.so.13").without("FLOPSPROF_CUPTI");
    fs::write(bench.lib("libcupti.so.12"), "not a library").expect("writing a file");
    uncounted(&bench, "no-cupti");
}

#[test]
fn a_cupti_older_than_the_range_profiler() {
    // 22 is CUDA 12.4; 24, of 12.6, is the first that has the range profiler.
    uncounted(&Bench::new().env("FLOPSPROF_SIM_CUPTI_VERSION", "22"), "old-cupti");
}

#[test]
fn the_oldest_cupti_that_will_do() {
    Bench::new().env("FLOPSPROF_SIM_CUPTI_VERSION", "24").run("plain", &[]).assert_exact();
}

#[test]
fn a_cupti_without_a_function_that_counting_needs() {
    for symbol in ["cuptiRangeProfilerEnable", "cuptiRangeProfilerPushRange", "cuptiProfilerHostGetBaseMetrics", "cuptiDeviceGetChipName"] {
        // Its file has another name than the one that is named, so that the copy is the one without the symbol.
        uncounted(&Bench::new().lacking("libcupti.so.13", symbol), "missing-symbol");
    }
}

#[test]
fn counters_that_this_user_may_not_read() {
    // INSUFFICIENT_PRIVILEGES came from Start or from Enable, by version.
    for function in ["cuptiRangeProfilerStart", "cuptiRangeProfilerEnable"] {
        uncounted(&Bench::new().fault(&format!("{function}=35")), "no-permission");
    }
}

#[test]
fn counters_that_another_tool_holds_to_the_end() {
    uncounted(&Bench::new().fault("cuptiRangeProfilerStart=26"), "busy");
}

#[test]
fn counters_that_another_tool_gives_back() {
    let bench = Bench::new().fault("cuptiRangeProfilerStart=26@1");
    let outcome = bench.run("plain", &["2500", "1000"]);
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    // Asked again after a second: most of 2.5 s is left.
    assert!(counted > truth / 4 && counted < truth, "{counted} of {truth}");
    assert!(outcome.windows().iter().any(|w| w.why.contains("another tool")), "{}", outcome.course());
    let path = &outcome.ledger().paths[BF16];
    let off = path.total().abs_diff(truth) as f64 / truth as f64;
    assert!(off < 0.25, "{path:?} of {truth}");
}

/// CUPTI's functions that the meter calls. That each may fail, lie and hang at any time is for `tests/hostile` to say.
const CALLED: [&str; 21] = [
    "cuptiProfilerInitialize",
    "cuptiDeviceGetChipName",
    "cuptiProfilerHostInitialize",
    "cuptiProfilerHostGetBaseMetrics",
    "cuptiProfilerHostConfigAddMetrics",
    "cuptiProfilerHostGetConfigImage",
    "cuptiProfilerHostGetNumOfPasses",
    "cuptiProfilerHostEvaluateToGpuValues",
    "cuptiRangeProfilerEnable",
    "cuptiRangeProfilerDisable",
    "cuptiRangeProfilerGetCounterDataSize",
    "cuptiRangeProfilerCounterDataImageInitialize",
    "cuptiRangeProfilerSetConfig",
    "cuptiRangeProfilerStart",
    "cuptiRangeProfilerPushRange",
    "cuptiRangeProfilerPopRange",
    "cuptiRangeProfilerStop",
    "cuptiRangeProfilerDecodeData",
    "cuptiSubscribe",
    "cuptiEnableCallback",
    "cuptiUnsubscribe",
];

/// What fails for good leaves nothing to count, and one fault says so.
#[test]
fn what_fails_from_the_first_call_on_is_one_fault() {
    let needed = CALLED.iter().filter(|f| {
        // Without these counting works: the host functions do without the first, a refused Disable changes nothing, boundaries go without a gate.
        !matches!(
            **f,
            "cuptiProfilerInitialize" | "cuptiRangeProfilerDisable" | "cuptiSubscribe" | "cuptiEnableCallback" | "cuptiUnsubscribe"
        )
    });
    each(needed.map(|f| format!("{f}=999")), |fault| {
        let bench = Bench::new().fault(fault);
        let outcome = bench.run("plain", &["300", "1000"]);
        assert_eq!(outcome.counted(), [].into(), "{fault}");
        let told = outcome.assert_fault("internal");
        let function = fault.split('=').next().expect("a name");
        assert!(told.what.contains(function), "{told:?} does not name {function}");
    });
}

/// Runs a check for each of many, several at a time: the programs sleep most of the time.
fn each(all: impl Iterator<Item = String>, check: impl Fn(&str) + Sync) {
    let all: Vec<String> = all.collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(one);
                }
            });
        }
    });
}

#[test]
fn a_cupti_that_hangs_does_not_hang_the_program() {
    let bench = Bench::new().fault("cuptiRangeProfilerStop=hang:60000@2+").env("FLOPSPROF_DRAIN", "0.5");
    let started = std::time::Instant::now();
    let outcome = bench.run("plain", &["500", "1000"]);
    // Twice half a second of work, the gate's deadline of 5 s, the drain's half a second; not the 60 s of the hang.
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    assert!(counted < truth, "{counted} of {truth}");
}

#[test]
fn a_profiler_that_subscribed_first_keeps_its_launches() {
    let bench = Bench::new();
    let cupti = bench.lib("libcupti.so.13");
    let bench = bench.env("ZOO_CUPTI", cupti);
    let outcome = bench.run("subscriber", &["start"]);
    assert!(outcome.stdout.contains("700 launches seen"), "{}", outcome.stdout);
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    assert!(counted <= truth && counted * 10 >= truth * 5, "{counted} of {truth}");
    assert!(outcome.windows().iter().any(|w| w.opened.why_ungated.contains("subscription")), "{}", outcome.course());
}

#[test]
fn a_profiler_that_subscribes_midway_sees_all_its_launches() {
    let bench = Bench::new();
    let cupti = bench.lib("libcupti.so.13");
    let bench = bench.env("ZOO_CUPTI", cupti);
    let outcome = bench.run("subscriber", &["midway"]);
    assert!(outcome.stdout.contains("400 launches seen"), "{}", outcome.stdout);
    assert!(outcome.counted()[BF16] <= outcome.truth()[BF16]);
}

/// The program's copy is the one that is used, wherever the meter would have looked.
#[test]
fn a_cupti_that_is_loaded_already_is_used() {
    let bench = Bench::new().without("FLOPSPROF_CUPTI");
    let cupti = bench.dir.path().join("libcupti.so.13");
    fs::copy(library("flopsprof_sim_cupti"), &cupti).expect("copying a library");
    let bench = bench.env("ZOO_CUPTI", &cupti);
    let outcome = bench.run("subscriber", &["start"]);
    let files = outcome.evidence();
    let found = files[0].lines.iter().find_map(|l| match &l.record {
        flopsprof::evidence::record::Record::Library(l) if l.name == "libcupti" => Some(l.clone()),
        _ => None,
    });
    let found = found.expect("a record of libcupti");
    assert_eq!((found.path.as_str(), found.found.as_str()), (cupti.to_str().expect("UTF-8"), "already-loaded"));
}

#[test]
fn a_second_cupti_that_is_loaded_later_takes_over() {
    let bench = Bench::new();
    let second = bench.dir.path().join("libcupti.so.12");
    fs::copy(library("flopsprof_sim_cupti"), &second).expect("copying a library");
    let bench = bench.env("ZOO_CUPTI", &second);
    let outcome = bench.run("second_cupti", &[]);
    outcome.assert_fault("second-cupti");
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    assert!(counted <= truth && counted * 4 >= truth * 3, "{counted} of {truth}");
}

/// An upgrade takes the file away from under the program, or another comes in its place: the copy that counts is the same still.
#[test]
fn a_cupti_whose_file_is_removed_or_replaced_meanwhile_goes_on() {
    for replaced in [false, true] {
        let bench = Bench::new();
        let args = ["1500", "1000"];
        let bare = bench.command(false, "plain", &args).output().expect("a program");
        let mut metered = bench.command(true, "plain", &args);
        let child = metered.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program");
        let library = bench.lib("libcupti.so.13");
        let counts = || {
            fs::read_dir(bench.out())
                .is_ok_and(|d| d.flatten().any(|e| fs::read_to_string(e.path()).is_ok_and(|t| t.contains("\"window\""))))
        };
        while !counts() {
            thread::sleep(Duration::from_millis(10));
        }
        fs::remove_file(&library).expect("removing a library");
        if replaced {
            fs::copy(crate::harness::library("flopsprof_sim_cupti"), &library).expect("copying a library");
        }
        let outcome = bench.compare(&bare, child.wait_with_output().expect("its end"));
        outcome.assert_exact();
    }
}

/// Energy and clocks are missing, the count is whole.
#[test]
fn no_nvml() {
    let outcome = Bench::new().broken("libnvidia-ml.so.1").run("plain", &["300", "1000"]);
    outcome.assert_fault("nvml");
    assert_eq!(outcome.counted(), outcome.truth(), "{}", outcome.course());
    assert!(outcome.windows().iter().all(|w| w.nvml.as_ref().is_none_or(|n| n.energy_mj.is_none())), "{}", outcome.course());
}

/// NVML is there and does not know the device: the same, and it is said.
#[test]
fn a_device_that_nvml_does_not_know() {
    let outcome = Bench::new().fault("nvmlDeviceGetHandleByUUID=999").run("plain", &["300", "1000"]);
    let fault = outcome.assert_fault("nvml");
    assert!(fault.device == Some(0) && fault.what.contains("does not know the device"), "{fault:?}");
    assert_eq!(outcome.counted(), outcome.truth(), "{}", outcome.course());
}

/// What the meter alone asks the driver.
#[test]
fn a_driver_that_does_not_answer_the_meter() {
    each(["cuDeviceGetUuid_v2=999", "cuDeviceGetPCIBusId=999", "cuDriverGetVersion=999"].map(str::to_owned).into_iter(), |fault| {
        let bench = Bench::new().fault(fault);
        let outcome = bench.run("plain", &["200", "1000"]);
        assert_eq!(outcome.counted(), outcome.truth(), "{fault}: {}", outcome.course());
    });
}

/// Two copies of the library, from two places: one meters, the other does nothing, and nothing is counted twice; also in a child, and where the second comes by the driver's variable.
#[test]
fn two_copies_of_the_library_are_one_meter() {
    for ((ways, how), program) in [(["first", "second"], ""), (["second", "first"], ""), (["first", ""], "second")]
        .into_iter()
        .flat_map(|how| [(how, "plain"), (how, "spawn")])
    {
        let bench = Bench::new();
        let copy = bench.dir.path().join("libflopsprof.so");
        fs::copy(library("flopsprof"), &copy).expect("copying a library");
        let of = |which: &str| if which == "first" { library("flopsprof") } else { copy.clone() };
        let bare = bench.command(false, program, &[]).output().expect("a program");
        let mut metered = bench.command(true, program, &[]);
        let preload: Vec<String> = ways.iter().filter(|w| !w.is_empty()).map(|w| of(w).display().to_string()).collect();
        metered.env("LD_PRELOAD", preload.join(":"));
        if !how.is_empty() {
            metered.env("CUDA_INJECTION64_PATH", of(how));
        }
        let outcome = bench.compare(&bare, metered.output().expect("a program"));
        outcome.assert_exact();
        let files = outcome.evidence();
        let pids: BTreeSet<u32> = files.iter().map(|f| f.start.process.pid).collect();
        assert!(files.len() == pids.len() && files.iter().all(|f| f.ended), "{} files of {pids:?}", files.len());
    }
}
