//! What hangs while CUDA starts holds the program for a bounded time, and is said.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use flopsprof::evidence::record::{Record, Tier};

use crate::{
    harness::{Bench, Outcome, compiled, library},
    race,
};

/// The longest that `cuInit` may be held.
const DEADLINE: Duration = Duration::from_secs(5);
/// What a busy machine adds to it.
const BUSY: Duration = Duration::from_secs(2);
/// Launches, 200 a second.
const LAUNCHES: u32 = 60;

/// What the program's own thread must call in order to have another do the rest, to wait for that with a deadline, and to say that it came. Who hangs in these cannot be waited for
/// with a deadline by anybody: they hold the program for as long as they hang.
const OWN: [&str; 9] = [
    "pthread_create=*@1",
    "pthread_sigmask=*@1",
    "pthread_sigmask=*@2",
    "syscall=*@1",
    "syscall=*@2",
    "syscall=*@3",
    "clock=*@1",
    "clock=*@2",
    "clock=*@3",
];

/// How libcupti is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is named.
    Named,
    /// It lies in the Python environment of the interpreter that runs, which the program passes for.
    Python,
}

/// The program with the shim, and with the meter before it.
pub(crate) fn command(bench: &Bench, metered: bool, (way, how, launches): (Way, &str, u32)) -> Command {
    let mut program = compiled("hostile", "begins");
    if way == Way::Python {
        let prefix = bench.dir.path().join("python");
        let (bin, lib) = (prefix.join("bin"), prefix.join("lib/python3.11/site-packages/nvidia/cu13/lib"));
        [&bin, &lib].iter().for_each(|f| fs::create_dir_all(f).expect("a folder"));
        if !bin.join("python3").exists() {
            // A link: what was just written may be open for writing in a child that somebody else is forking.
            fs::hard_link(program, bin.join("python3")).expect("linking the program");
            fs::copy(bench.lib("libcupti.so.13"), lib.join("libcupti.so.13")).expect("copying a library");
        }
        program = bin.join("python3");
    }
    let mut command = bench.start(false, &program, &[how, &launches.to_string()]);
    if way == Way::Python {
        command.env_remove("FLOPSPROF_CUPTI");
    }
    let (shim, ours) = (compiled("hostile", "libfaulty.so"), library("flopsprof"));
    let preload = if metered { format!("{}:{}", ours.display(), shim.display()) } else { shim.display().to_string() };
    command.env("LD_PRELOAD", preload).env("BEGINS_TOOK", took_file(bench));
    command
}

fn took_file(bench: &Bench) -> PathBuf {
    bench.dir.path().join("took")
}

/// What became of it, and how long its `cuInit` took.
fn begin(bench: &Bench, what: (Way, &str, u32), fault: &str) -> (Outcome, Duration) {
    let bare = race::output(&mut command(bench, false, what));
    begin_as(bench, &bare, what, fault)
}

fn begin_as(bench: &Bench, bare: &Output, what: (Way, &str, u32), fault: &str) -> (Outcome, Duration) {
    let metered = race::output(command(bench, true, what).env("FAULTY", fault));
    let took = fs::read_to_string(took_file(bench)).expect("how long the start took");
    (bench.compare(bare, metered), Duration::from_millis(took.trim().parse().expect("milliseconds")))
}

/// The functions of the C library that are called when the library is loaded, before anything of the program's.
fn called_when_loaded() -> BTreeSet<String> {
    let bench = Bench::new();
    let list = bench.dir.path().join("calls-of-libc");
    let mut nothing = command(&bench, true, (Way::Named, "nothing", 0));
    race::output(nothing.env("FAULTY_CALLS", &list));
    fs::read_to_string(list).expect("the list of calls").lines().map(str::to_owned).collect()
}

/// The functions of the C library and of CUPTI that are called before `cuInit` is through.
fn called(way: Way) -> BTreeSet<String> {
    let bench = Bench::new();
    let [libc, cupti] = ["calls-of-libc", "calls-of-cupti"].map(|f| bench.dir.path().join(f));
    race::output(command(&bench, true, (way, "plainly", 0)).env("FAULTY_CALLS", &libc).env("FLOPSPROF_SIM_CALLS", &cupti));
    let [libc, cupti] = [libc, cupti].map(|list| fs::read_to_string(list).expect("the list of calls"));
    let cupti = cupti.lines().filter_map(|l| Some(l.split_once(' ')?.1)).filter(|f| f.starts_with("cupti"));
    libc.lines().chain(cupti).map(str::to_owned).collect()
}

/// Each call that is made while CUDA starts hangs, for ten seconds or for thirty: `cuInit` is held no longer than a launch may be.
#[test]
fn what_hangs_while_cuda_starts_holds_it_no_longer_than_the_deadline() {
    let loaded = called_when_loaded();
    // What hangs before the program has begun is no business of `cuInit`'s, and is not waited for so long here.
    let hangs = |f: &str| {
        let cases: &[(u32, u32)] = if loaded.contains(f) { &[(10, 1), (10, 2), (10, 3)] } else { &[(10, 1), (30, 1), (30, 2), (30, 3)] };
        cases.iter().map(|(seconds, n)| format!("{f}=hang:{}@{n}", seconds * 1000)).collect::<Vec<_>>()
    };
    let mut faults: Vec<(Way, String)> = Vec::new();
    for way in [Way::Named, Way::Python] {
        let called = called(way);
        let always = ["dlopen", "pipe2", "read", "write", "pthread_create", "cuptiGetVersion", "cuptiSubscribe", "cuptiUnsubscribe"];
        let python: &[&str] = if way == Way::Python { &["open64", "opendir", "readdir64", "readlink"] } else { &[] };
        assert!(always.iter().chain(python).all(|f| called.contains(*f)), "{called:?}");
        faults.extend(called.iter().flat_map(|f| hangs(f)).map(|f| (way, f)));
    }
    let own = |fault: &str| OWN.iter().any(|own| own.split_once('*').is_some_and(|(f, n)| fault.starts_with(f) && fault.ends_with(n)));
    faults.retain(|(_, f)| !own(f));
    let only = std::env::var("HOSTILE").unwrap_or_default();
    faults.retain(|(_, f)| f.contains(&only));
    let bare = [Way::Named, Way::Python].map(|way| (way, race::output(&mut command(&Bench::new(), false, (way, "plainly", LAUNCHES)))));
    let held = AtomicUsize::new(0);
    let check = |(way, fault): &(Way, String)| {
        let bench = Bench::new().env("FLOPSPROF_DRAIN", "1").env("FLOPSPROF_REPORT", "0");
        let bench = if fault.starts_with("cupti") { bench.fault(fault) } else { bench };
        let (_, bare) = bare.iter().find(|(w, _)| w == way).expect("a bare run");
        let (outcome, took) = begin_as(&bench, bare, (*way, "plainly", LAUNCHES), fault);
        assert!(took < DEADLINE + BUSY, "cuInit took {took:?}");
        if took >= DEADLINE {
            held.fetch_add(1, Ordering::Relaxed);
            let said = outcome.said.iter().filter(|l| l.starts_with("CUDA's start waited 5 s for ")).count();
            assert_eq!(said, 1, "one line says so: {:?}", outcome.said);
        }
        if bench.out().exists() {
            let (truth, counted) = (outcome.truth(), outcome.counted());
            assert!(counted.iter().all(|(path, flop)| flop <= &truth[path]), "{counted:?} of {truth:?}");
        }
    };
    let count = race::many(64, &faults, |(way, f)| format!("{way:?} {f}"), check);
    let held = held.into_inner();
    assert!(held >= 40 || !only.is_empty(), "{held} held the start");
    eprintln!("faults: {count} hangs while CUDA starts, of which {held} held it, none longer than the deadline");
}

/// A libcupti that never answers: the program runs as ever, the evidence says why nothing was counted, and the end is not held.
#[test]
fn a_libcupti_that_never_answers_costs_the_count_and_no_more_than_the_deadline() {
    let bench = Bench::new().fault("cuptiSubscribe=hang:50000@1").env("FLOPSPROF_REPORT", "0");
    let what = (Way::Named, "plainly", LAUNCHES);
    // What is compiled for it is, by now, and how long the program takes by itself on this machine is no concern of the meter's.
    let mut bare = command(&bench, false, what);
    let began = Instant::now();
    let bare = race::output(&mut bare);
    let alone = began.elapsed();
    let began = Instant::now();
    let (outcome, took) = begin_as(&bench, &bare, what, "none=1");
    let elapsed = began.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE + BUSY, "cuInit took {took:?}");
    assert!(elapsed < alone + DEADLINE + 2 * BUSY, "it took {elapsed:?}, alone {alone:?}");
    outcome.assert_fault("late-start");
    outcome.ended();
    assert!(outcome.counted().is_empty() && !outcome.windows().is_empty());
    assert!(outcome.windows().iter().all(|w| w.tier != Tier::Counted && w.why == "libcupti is still being looked for"));
    assert!(outcome.ledger().estimated.iter().any(|e| e.seconds > 0.0), "the ledger does not know of it");
}

/// One that answers after all is used from then on, and what ran before is said to be uncounted.
#[test]
fn a_libcupti_that_answers_late_counts_from_then_on() {
    let bench = Bench::new().fault("cuptiGetVersion=hang:5700@1").env("FLOPSPROF_REPORT", "0");
    let (outcome, took) = begin(&bench, (Way::Named, "plainly", 400), "none=1");
    assert!(took >= DEADLINE && took < DEADLINE + BUSY, "cuInit took {took:?}");
    let faults = outcome.faults();
    assert_eq!(faults.iter().map(|f| f.kind.as_str()).collect::<Vec<_>>(), ["late-start"], "{faults:#?}");
    assert_eq!(outcome.said, [format!("{}: {}", faults[0].what, faults[0].remedy)]);
    let windows = outcome.windows();
    assert!(windows[0].tier != Tier::Counted && windows[0].why == "libcupti is still being looked for", "{}", outcome.course());
    assert!(windows.windows(2).all(|w| w[0].end_ns == w[1].start_ns || w[1].start_ns - w[0].end_ns < 100_000_000), "{}", outcome.course());
    let (truth, counted): (u128, u128) = (outcome.truth().values().sum(), outcome.counted().values().sum());
    assert!(counted < truth && counted * 100 > truth * 30, "{counted} of {truth}:\n{}", outcome.course());
    assert_eq!(outcome.ended().lines.iter().filter(|l| matches!(&l.record, Record::Library(l) if l.name == "libcupti")).count(), 1);
}

/// Where the initialiser of a library starts CUDA, its thread has the loader's lock, and nothing is waited for that needs it.
#[test]
fn cuda_that_an_initialiser_starts_is_not_held() {
    let bench = Bench::new();
    let (outcome, took) = begin(&bench, (Way::Named, "in-an-initialiser", 200), "none=1");
    assert!(took < Duration::from_secs(2), "cuInit took {took:?}");
    assert_eq!(outcome.said, [] as [&str; 0]);
    let (truth, counted): (u128, u128) = (outcome.truth().values().sum(), outcome.counted().values().sum());
    assert!(counted <= truth && counted * 100 > truth * 60, "{counted} of {truth}:\n{}", outcome.course());
}

/// Children that are forked while threads of ours look for libcupti are as any other's.
#[test]
fn children_that_are_forked_meanwhile_live_and_end() {
    let bench = Bench::new().fault("cuptiGetVersion=hang:1500@1");
    let (outcome, took) = begin(&bench, (Way::Python, "forks-meanwhile", 200), "none=1");
    assert!(took >= Duration::from_millis(1500) && took < DEADLINE, "cuInit took {took:?}");
    assert_eq!(outcome.said, [] as [&str; 0]);
    assert_eq!(outcome.counted(), outcome.truth());
}
