//! Faults in everything that the meter calls: each call of CUPTI, NVML and the driver that a run really makes fails in turn, lies, answers garbage, hangs.

use std::{
    collections::BTreeSet,
    fs,
    process::Output,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use flopsprof::evidence::record::Record;

use crate::{
    harness::{BF16, Bench, FP8, Outcome, compiled},
    race,
};

/// A program that is metered with a census in it, so that every call is made.
const PROGRAM: (&str, &[&str]) = ("steps", &["160", "1000"]);
/// Answers beside a success, by function: how many kinds of garbage there are. See the stand-ins' `garbage.rs`.
const GARBAGE: &[(&str, u32)] = &[
    ("cuptiGetVersion", 3),
    ("cuptiDeviceGetChipName", 4),
    ("cuptiProfilerHostGetBaseMetrics", 4),
    ("cuptiProfilerHostInitialize", 1),
    ("cuptiProfilerHostGetConfigImageSize", 4),
    ("cuptiProfilerHostGetNumOfPasses", 4),
    ("cuptiProfilerHostEvaluateToGpuValues", 6),
    ("cuptiRangeProfilerEnable", 1),
    ("cuptiRangeProfilerGetCounterDataSize", 3),
    ("cuptiRangeProfilerDecodeData", 3),
    ("cuptiRangeProfilerGetCounterDataInfo", 3),
    ("cuptiRangeProfilerStop", 1),
    ("nvmlSystemGetDriverVersion", 1),
    ("nvmlDeviceGetMigMode", 3),
    ("nvmlSystemGetConfComputeState", 3),
    ("nvmlSystemGetConfComputeGpusReadyState", 3),
    ("nvmlDeviceGetTotalEnergyConsumption", 3),
    ("nvmlDeviceGetPowerUsage", 3),
    ("nvmlDeviceGetClockInfo", 3),
    ("nvmlDeviceGetMaxClockInfo", 3),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", 1),
    ("nvmlDeviceGetUtilizationRates", 3),
    ("nvmlGpmQueryDeviceSupport", 3),
    ("nvmlGpmMetricsGet", 4),
    ("cuDriverGetVersion", 3),
    ("cuDeviceGetCount", 3),
    ("cuDeviceGetAttribute", 3),
    ("cuDeviceGetName", 1),
    ("cuDeviceGetPCIBusId", 1),
    ("cuDeviceGetUuid_v2", 1),
    ("cuDevicePrimaryCtxGetState", 3),
    ("cuCtxGetId", 1),
    ("cuDeviceGet", 3),
    ("cuDevicePrimaryCtxRetain", 1),
    ("cuThreadExchangeStreamCaptureMode", 3),
    ("cuptiSubscribe", 1),
    ("cuptiProfilerHostGetConfigImage", 1),
    ("cuptiRangeProfilerCounterDataImageInitialize", 1),
    ("nvmlDeviceGetHandleByUUID", 1),
    ("nvmlGpmSampleAlloc", 1),
];
/// What answers with success or an error and no more: nothing of it is read.
const NOTHING_SAID: &[&str] = &[
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDevicePrimaryCtxRelease_v2",
    "cuptiEnableCallback",
    "cuptiProfilerHostConfigAddMetrics",
    "cuptiProfilerHostDeinitialize",
    "cuptiProfilerInitialize",
    "cuptiRangeProfilerDisable",
    "cuptiRangeProfilerPopRange",
    "cuptiRangeProfilerPushRange",
    "cuptiRangeProfilerSetConfig",
    "cuptiRangeProfilerStart",
    "cuptiUnsubscribe",
    "nvmlGpmSampleFree",
    "nvmlGpmSampleGet",
    "nvmlInit_v2",
];

/// Lies and garbage that cannot be told from a truth: no device, none that works, and a GPU that has three counters.
const UNTOLD: &[&str] = &[
    "cuDeviceGetCount=0",
    "cuDeviceGetCount=garbage:0",
    "cuDeviceGetCount=garbage:2",
    "cuDevicePrimaryCtxGetState=0",
    "cuptiProfilerHostGetBaseMetrics=garbage:3",
];

fn bench() -> Bench {
    Bench::new().env("FLOPSPROF_CENSUS", "0.05:30").env("FLOPSPROF_REPORT", "0").env("FLOPSPROF_SIM_FAULT_OURS", "1")
}

fn bare() -> &'static Output {
    static BARE: OnceLock<Output> = OnceLock::new();
    BARE.get_or_init(|| race::output(&mut bench().command(false, PROGRAM.0, PROGRAM.1)))
}

/// The functions that a metered run calls, of CUPTI and NVML on any thread, of the driver on threads of the meter's.
fn called() -> Vec<String> {
    let bench = bench();
    let list = bench.dir.path().join("calls");
    let bench = bench.env("FLOPSPROF_SIM_CALLS", &list);
    let outcome = bench.compare(bare(), race::output(&mut bench.command(true, PROGRAM.0, PROGRAM.1)));
    assert_eq!(outcome.said, [] as [&str; 0]);
    let list = fs::read_to_string(list).expect("the list of calls");
    let of_ours = |line: &str| {
        let (who, function) = line.split_once(' ')?;
        (who == "ours" || !function.starts_with("cu") || function.starts_with("cupti")).then(|| function.to_owned())
    };
    let called: BTreeSet<String> = list.lines().filter_map(of_ours).collect();
    for (library, least) in [("cupti", 20), ("nvml", 14), ("cuD", 6)] {
        let count = called.iter().filter(|f| f.starts_with(library)).count();
        assert!(count >= least, "{count} functions of {library}*: {called:?}");
    }
    called.into_iter().collect()
}

/// Runs the program with a fault: it is as ever, the evidence can be read and claims no more than ran, and the command makes a report of it.
fn survives(fault: &str) -> Outcome {
    let bench = bench().fault(fault);
    let started = Instant::now();
    let metered = race::output(&mut bench.command(true, PROGRAM.0, PROGRAM.1));
    assert!(started.elapsed() < Duration::from_secs(40), "it took {:?}", started.elapsed());
    let outcome = bench.compare(bare(), metered);
    assert!(outcome.said.len() <= 3, "{:?}", outcome.said);
    if bench.out().exists() {
        let (truth, counted) = (outcome.truth(), outcome.counted());
        assert!(counted.iter().all(|(path, flop)| flop <= &truth[path]), "{counted:?} of {truth:?}; {}", outcome.course());
        outcome.ended();
        if fault.contains("garbage") {
            let (status, report) = outcome.report();
            assert!(matches!(status, Some(0 | 2)), "{status:?}: {report}");
        }
    }
    outcome
}

/// Whether the evidence says that something was wrong.
pub(crate) fn told(outcome: &Outcome) -> bool {
    let lines = outcome.evidence().into_iter().flat_map(|f| f.lines);
    lines.into_iter().any(|line| match line.record {
        Record::Fault(_) => true,
        Record::Window(window) => !window.why.is_empty() || !window.opened.gated,
        Record::Kernels(kernels) => !kernels.why.is_empty(),
        _ => false,
    })
}

/// Whether nothing is missing of what is counted all the time, but what slips where two cores are busy.
fn whole(outcome: &Outcome) -> bool {
    let (truth, counted) = (outcome.truth(), outcome.counted());
    [BF16, FP8].iter().all(|path| counted.get(*path).copied().unwrap_or(0) * 100 >= truth[*path] * 90)
}

/// What the meter cannot know of: a driver that never says that it is ready, and a version that does not concern it.
fn unseen(fault: &str) -> bool {
    ["cuDeviceGetCount", "cuptiGetVersion"].iter().any(|f| fault.starts_with(f))
}

/// Whether nothing at all is metered, as the driver keeps the context: then there is nothing that the ledger could reckon with but what the evidence says.
fn denied(outcome: &Outcome) -> bool {
    outcome.windows().is_empty() && outcome.faults().iter().any(|f| f.kind == "no-context")
}

/// Whether the ledger knows that not everything was counted.
fn reckoned(outcome: &Outcome) -> bool {
    let ledger = outcome.ledger();
    ledger.estimated.iter().any(|e| e.seconds > 0.0)
        || ledger.paths.values().any(|p| p.interpolated > 0)
        || outcome.windows().iter().any(|w| !w.opened.gated)
}

fn fails(fault: &str) {
    let outcome = survives(fault);
    assert!(outcome.said.len() <= 2, "{:?}", outcome.said);
    if fault.starts_with("nvml") {
        assert!(whole(&outcome), "NVML is no part of the count:\n{}", outcome.course());
    } else if !unseen(fault) {
        assert!(whole(&outcome) || told(&outcome), "nothing is said of it:\n{}", outcome.course());
        assert!(whole(&outcome) || reckoned(&outcome) || denied(&outcome), "the ledger does not know of it:\n{}", outcome.course());
    }
}

/// A call that fails from the first time on, or once in the middle; that says it did what it did not; that answers garbage.
#[test]
fn every_call_may_fail_lie_and_answer_garbage() {
    let called = called();
    for f in &called {
        let spoilt = GARBAGE.iter().any(|(g, _)| g == f);
        assert!(spoilt != NOTHING_SAID.contains(&f.as_str()), "what garbage may {f} answer?");
    }
    let mut faults: Vec<String> = called.iter().flat_map(|f| [format!("{f}=999"), format!("{f}=999@3"), format!("{f}=0")]).collect();
    // A Start that lies cannot be told from one that worked, and a Push after it ends a program on a real GPU as well as here.
    faults.retain(|f| f != "cuptiRangeProfilerStart=0");
    for (function, kinds) in GARBAGE {
        assert!(called.iter().any(|f| f == function), "{function} is not called");
        faults.extend((0..*kinds).map(|kind| format!("{function}=garbage:{kind}")));
    }
    let only = std::env::var("HOSTILE").unwrap_or_default();
    faults.retain(|f| f.contains(&only));
    let count = race::each(&faults, Clone::clone, |fault| {
        if fault.contains("=999") {
            return fails(fault);
        }
        let outcome = survives(fault);
        let states = UNTOLD.contains(&fault.as_str()) || whole(&outcome) || told(&outcome);
        assert!(states, "nothing is said of it:\n{}", outcome.course());
    });
    eprintln!("faults: {count} in {} functions, all survived", called.len());
    // Locks of GPUs whose driver lied about who they are.
    for uuid in ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"] {
        for lock in ["turn", "wanted"] {
            // SAFETY: no preconditions.
            let _ = fs::remove_file(format!("/dev/shm/flopsprof-{}-GPU-{uuid}.{lock}", unsafe { libc::geteuid() }));
        }
    }
}

/// Any call may not come back for ten seconds, the first time or later, with the deadlines that users have: a launch is held for 5 s at the most, and so are CUDA's start and the end.
/// Of what is called while CUDA starts, `begins.rs` has more.
#[test]
fn a_call_that_hangs_for_ten_seconds_costs_no_more_than_the_deadlines() {
    const HANG: Duration = Duration::from_secs(10);
    /// What a busy machine of two cores adds when so many run at a time.
    const BUSY: Duration = Duration::from_secs(5);
    // What is built for it first takes no part.
    bare();
    let began = Instant::now();
    race::output(&mut bench().command(false, PROGRAM.0, PROGRAM.1));
    let alone = began.elapsed();
    let only = std::env::var("HOSTILE").unwrap_or_default();
    let faults: Vec<String> =
        called().iter().flat_map(|f| [1, 2].map(|n| format!("{f}=hang:{}@{n}", HANG.as_millis()))).filter(|f| f.contains(&only)).collect();
    let longest = Mutex::new((Duration::ZERO, String::new()));
    let count = race::many(16, &faults, Clone::clone, |fault| {
        let bench = bench().fault(fault);
        let began = Instant::now();
        let metered = race::output(&mut bench.command(true, PROGRAM.0, PROGRAM.1));
        let took = began.elapsed();
        let outcome = bench.compare(bare(), metered);
        assert!(took < alone + HANG + BUSY, "{took:?}, and {alone:?} alone");
        if bench.out().exists() {
            let (truth, counted) = (outcome.truth(), outcome.counted());
            assert!(counted.iter().all(|(path, flop)| flop <= &truth[path]), "{counted:?} of {truth:?}");
            let ended = outcome.evidence().iter().all(|f| f.ended);
            assert!(!ended || told(&outcome) || whole(&outcome), "nothing is said of it:\n{}", outcome.course());
        }
        let mut longest = longest.lock().unwrap_or_else(PoisonError::into_inner);
        if took > longest.0 {
            *longest = (took, fault.clone());
        }
    });
    eprintln!("faults: {count} calls hung for 10 s, all survived; longest {longest:?}, {alone:.1?} without the meter");
}

/// A signal ends the program from its handler, in the midst of launches that a census lets through one by one: the launch that is under way never returns, and the
/// end does not wait for it.
#[test]
fn an_end_inside_a_launch_of_a_census_is_not_held() {
    for how in ["sigterm-exits", "sigterm-_exits"] {
        let bench = Bench::new().env("FLOPSPROF_CENSUS", "0.3:100000");
        let program = compiled("hostile", "ends");
        let timed = |metered: bool| {
            let began = Instant::now();
            (race::output(&mut bench.start(metered, &program, &[how])), began.elapsed())
        };
        let ((bare, alone), (metered, took)) = (timed(false), timed(true));
        bench.compare(&bare, metered);
        assert!(took < alone + Duration::from_secs(4), "{how}: {took:?}, and {alone:?} alone");
    }
}
