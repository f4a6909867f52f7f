//! Faults in the C library and the kernel: what the meter calls there fails in turn, a disk is full at every byte, clocks are strange.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Output},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use flopsprof::evidence::{
    read::{self, ProcessEvidence, ReadError},
    record::{Declare, End, Fault, Record, Start},
    write::Writer,
};

use crate::{
    faults::told,
    harness::{Bench, Outcome, compiled, library},
    race,
};

const PROGRAM: (&str, &[&str]) = ("plain", &["160", "1000"]);
/// What the report's start needs.
const STARTS: [&str; 10] = ["clone", "waitpid", "pipe2", "fcntl", "dup2", "access", "realpath", "chdir", "sigaction", "poll"];
/// EIO, for calls of all kinds.
const EIO: i32 = 5;

/// The program with the shim, and with the meter before it.
fn command(bench: &Bench, metered: bool) -> Command {
    shimmed(bench, metered, PROGRAM)
}

pub(crate) fn shimmed(bench: &Bench, metered: bool, (program, args): (&str, &[&str])) -> Command {
    let mut command = bench.command(false, program, args);
    let shim = compiled("hostile", "libfaulty.so");
    let shim = shim.to_str().expect("UTF-8");
    let ours = library("flopsprof");
    command.env("LD_PRELOAD", if metered { format!("{}:{shim}", ours.display()) } else { shim.to_owned() });
    command
}

fn bare() -> &'static Output {
    static BARE: OnceLock<Output> = OnceLock::new();
    BARE.get_or_init(|| race::output(&mut command(&Bench::new(), false)))
}

/// The C library's functions that a metered run calls.
fn called() -> Vec<String> {
    let bench = Bench::new();
    let list = bench.dir.path().join("calls");
    bench.compare(bare(), race::output(command(&bench, true).env("FAULTY_CALLS", &list)));
    let called: BTreeSet<String> = fs::read_to_string(list).expect("the list of calls").lines().map(str::to_owned).collect();
    for name in ["open64", "write", "mkdir", "close", "read", "flock", "syscall", "malloc", "pthread_create", "clone"] {
        assert!(called.contains(name), "{name} is not called: {called:?}");
    }
    called.into_iter().collect()
}

/// What the library takes of the C library and no shim has to make fail: it computes, or asks for what is in the process already, or is the program's own end.
const HARMLESS: [&str; 54] = [
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__cxa_atexit",
    "__cxa_finalize",
    "__cxa_thread_atexit_impl",
    "__errno_location",
    "__gmon_start__",
    "__pthread_key_create",
    "__tls_get_addr",
    "__xpg_strerror_r",
    "abort",
    "bcmp",
    "dl_iterate_phdr",
    "dlclose",
    "dlerror",
    "dlsym",
    "environ",
    "free",
    "getenv",
    "geteuid",
    "getpid",
    "gettid",
    "getuid",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "pause",
    "posix_memalign",
    "pthread_attr_destroy",
    "pthread_attr_getguardsize",
    "pthread_attr_getstack",
    "pthread_attr_init",
    "pthread_attr_setstacksize",
    "pthread_detach",
    "pthread_key_create",
    "pthread_key_delete",
    "pthread_mutex_lock",
    "pthread_mutex_unlock",
    "pthread_once",
    "pthread_self",
    "pthread_setcancelstate",
    "pthread_setspecific",
    "sched_yield",
    "sigaddset",
    "sigdelset",
    "sigemptyset",
    "sigfillset",
    "sigismember",
    "sigprocmask",
    "strlen",
    "umask",
    "unsetenv",
    "strnlen",
];

/// A function of the C library that the meter begins to use is made to fail too, or it is said why not.
#[test]
fn no_call_of_the_c_library_is_left_out() {
    let symbols = |file: &Path, which: &str| -> BTreeSet<String> {
        let output = Command::new("nm").args(["-D", which, "--format=posix"]).arg(file).output().expect("nm");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().filter_map(|l| Some(l.split([' ', '@']).next()?.to_owned())).collect()
    };
    let (taken, stands_between) =
        (symbols(&library("flopsprof"), "--undefined-only"), symbols(&compiled("hostile", "libfaulty.so"), "--defined-only"));
    let left: Vec<&String> = taken.difference(&stands_between).filter(|s| !HARMLESS.contains(&s.as_str())).collect();
    assert_eq!(left, [] as [&String; 0], "neither in libfaulty.c nor harmless");
}

/// The program is as ever, what evidence there is can be read, and where something is missing somebody is told.
fn survives(fault: &str) -> Outcome {
    let starts = STARTS.iter().any(|s| fault.starts_with(s));
    let bench = Bench::new().env("FLOPSPROF_REPORT", if starts { "1" } else { "0" }).env("FLOPSPROF_DRAIN", "1");
    let outcome = bench.compare(bare(), race::output(command(&bench, true).env("FAULTY", fault)));
    judge(&bench, outcome, fault).0
}

/// The outcome with its evidence where it is, and whether that holds most of what ran.
fn judge(bench: &Bench, outcome: Outcome, fault: &str) -> (Outcome, bool) {
    // Elsewhere, where the disk was the trouble.
    let tmp = fs::read_dir(bench.dir.path().join("tmp")).into_iter().flatten().flatten().next().map(|e| e.path().join("evidence"));
    let outcome = if read::read_run(&bench.out()).is_err() && tmp.as_ref().is_some_and(|t| t.exists()) {
        outcome.at(tmp.expect("it"))
    } else {
        outcome
    };
    let whole = match read_all(&outcome, bench) {
        // What is missing is said there, or on stderr.
        Ok(()) => {
            let (truth, counted): (u128, u128) = (outcome.truth().values().sum(), outcome.counted().values().sum());
            let whole = counted * 100 >= truth * 60;
            assert!(
                whole || !outcome.said.is_empty() || told(&outcome),
                "{counted} of {truth}, and nothing is said:\n{}",
                outcome.course()
            );
            whole
        }
        Err(e) => {
            assert!(!outcome.said.is_empty() || quiet(fault), "there is no evidence ({e}), and nobody says why");
            false
        }
    };
    (outcome, whole)
}

pub(crate) fn read_all(outcome: &Outcome, bench: &Bench) -> Result<(), String> {
    for folder in [bench.out()]
        .into_iter()
        .chain(fs::read_dir(bench.dir.path().join("tmp")).into_iter().flatten().flatten().map(|e| e.path().join("evidence")))
    {
        match read::read_run(&folder) {
            Ok(files) => {
                assert!(files.iter().all(|f| f.breaks.is_empty()), "{:?}", files[0].breaks);
                let (truth, counted) = (outcome.truth(), counted(&files));
                assert!(counted.iter().all(|(path, flop)| flop <= &truth[path]), "{counted:?} of {truth:?}");
                return Ok(());
            }
            Err(ReadError::Io { .. }) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    Err("nothing was written".to_owned())
}

fn counted(files: &[ProcessEvidence]) -> BTreeMap<String, u128> {
    let mut sum = BTreeMap::new();
    for line in files.iter().flat_map(|f| &f.lines) {
        if let Record::Window(window) = &line.record {
            window.counts.iter().for_each(|(path, flop)| *sum.entry(path.clone()).or_insert(0) += flop);
        }
    }
    sum.retain(|_, flop| *flop > 0);
    sum
}

/// Where nobody can say it. Stderr and evidence are both written by `write`: where that fails or hangs, there is nothing to say it with. And whom the kernel's clock does not let go
/// before it has seen a context, it has not registered yet for the program's end to wait for: the program is through before it comes back.
fn quiet(fault: &str) -> bool {
    fault.starts_with("write=") || fault.starts_with("clock=hang")
}

#[test]
fn every_call_of_the_c_library_may_fail() {
    let called = called();
    let mut faults: Vec<String> =
        called.iter().flat_map(|f| [format!("{f}={EIO}"), format!("{f}={EIO}@2"), format!("{f}={EIO}@7")]).collect();
    faults.extend(["malloc=12@400+", "realloc=12@30+", "calloc=12@3"].map(str::to_owned));
    // Full, out of descriptors, interrupted again and again, a byte at a time.
    for (function, errors) in [
        ("write", &[28, 4, 122][..]),
        ("open64", &[28, 24, 13, 4]),
        ("mkdir", &[28, 30, 13]),
        ("statx", &[38]),
        ("fchmod", &[1, 95]),
        ("flock", &[37, 38]),
    ] {
        faults.extend(errors.iter().flat_map(|e| [format!("{function}={e}@1"), format!("{function}={e}@2+")]));
    }
    faults.extend(["write=short", "write=short@3"].map(str::to_owned));
    faults.extend(
        ["open64", "write", "close", "read", "mkdir", "flock", "statx", "fchmod", "pthread_create"].map(|f| format!("{f}=hang:1200@2")),
    );
    let only = std::env::var("HOSTILE").unwrap_or_default();
    faults.retain(|f| f.contains(&only));
    let count = race::each(&faults, Clone::clone, |fault| drop(survives(fault)));
    eprintln!("faults: {count} in {} functions of the C library, all survived", called.len());
}

/// The evidence is removed while it is written, and what puts it back fails: at the first time, the second, or always.
#[test]
fn what_puts_removed_evidence_back_may_fail() {
    let args: (&str, &[&str]) = ("clears", &["240", "1000"]);
    let windows = || Bench::new().env("FLOPSPROF_WINDOW", "0.02").env("FLOPSPROF_REPORT", "0").env("FLOPSPROF_DRAIN", "1");
    let bare = race::output(&mut shimmed(&windows(), false, args));
    let functions = ["lseek64", "unlink", "read", "open64", "write", "mkdir", "fchmod", "fstat64", "statx"];
    let faults: Vec<String> =
        functions.iter().flat_map(|f| ["", "@1", "@2", "@5", "@9", "@14", "@20+"].map(|n| format!("{f}={EIO}{n}"))).collect();
    let whole = AtomicUsize::new(0);
    let count = race::each(&faults, Clone::clone, |fault| {
        let bench = windows();
        let outcome = bench.compare(&bare, race::output(shimmed(&bench, true, args).env("FAULTY", fault)));
        let (_, is_whole) = judge(&bench, outcome, fault);
        whole.fetch_add(usize::from(is_whole), Ordering::Relaxed);
    });
    let whole = whole.into_inner();
    assert!(whole * 2 > count, "{whole} of {count} left whole evidence");
    eprintln!("faults: {count} where removed evidence is put back, {whole} of which lost nothing");
}

/// A disk or a clock that does not answer for ten seconds, the first time or later, holds the program no longer than the deadlines that users have.
#[test]
fn files_and_clocks_that_hang_for_ten_seconds_cost_no_more_than_the_deadlines() {
    // What is built for it first takes no part.
    let called = called();
    let (bare, alone) = {
        let began = Instant::now();
        (race::output(&mut command(&Bench::new(), false)), began.elapsed())
    };
    let functions = [
        ["open64", "write", "close", "read", "mkdir", "flock", "statx", "fchmod", "pthread_create", "clock"].as_slice(),
        &["access", "dlopen", "fcntl", "fstat", "open", "poll", "readlink", "realpath", "syscall", "waitpid"],
    ]
    .concat();
    assert!(functions.iter().all(|f| called.iter().any(|c| c == f)), "{called:?}");
    let faults: Vec<String> = functions.iter().flat_map(|f| ["@1", "@2", "@9"].map(|n| format!("{f}=hang:10000{n}"))).collect();
    let count = race::many(faults.len(), &faults, Clone::clone, |fault| {
        let bench = Bench::new();
        let began = Instant::now();
        let metered = race::output(command(&bench, true).env("FAULTY", fault));
        let took = began.elapsed();
        let outcome = bench.compare(&bare, metered);
        // Held launches and the drain, 5 s each, and what a busy machine adds.
        assert!(took < alone + Duration::from_secs(15), "{took:?}, and {alone:?} alone");
        if let Err(e) = read_all(&outcome, &bench) {
            assert!(!outcome.said.is_empty() || quiet(fault), "there is no evidence ({e}), and nobody says why");
        }
    });
    eprintln!("faults: {count} hangs of files and clocks, all survived");
}

/// The window before a census is brought into the file while the census goes on: a file system that hangs then holds no launch of it.
#[test]
fn a_file_system_that_hangs_in_a_census_holds_no_launch() {
    let bench = |fault: &str| {
        let bench = Bench::new().env("FLOPSPROF_CENSUS", "1:200").env("FLOPSPROF_WINDOW", "60").env("FLOPSPROF_REPORT", "0");
        let mut command = shimmed(&bench, true, ("steps", &["400", "10000"]));
        command.env("FAULTY", fault).env("FAULTY_TEXT", "\"type\":\"window\"");
        let began = Instant::now();
        let output = race::output(&mut command);
        let took = began.elapsed();
        (bench.compare(&output.clone(), output), took)
    };
    let (outcome, alone) = bench("write=hang:1@1000000");
    let files = outcome.evidence();
    let census = files[0].lines.iter().find_map(|l| if let Record::Kernels(k) = &l.record { k.window } else { None }).expect("a census");
    // The window before it, whose index is one less, and so is its number among windows; and the census's own.
    for number in [census, census + 1] {
        let (outcome, took) = bench(&format!("write=hang:3000@{number}"));
        assert!(outcome.ended().ended, "{:?}", outcome.said);
        assert!(took < alone + Duration::from_millis(1500), "window {number}: {took:?}, and {alone:?} without it");
    }
}

/// A disk that takes no line, or no further one, while everything else works: stderr has it that there will be no evidence, and how much was lost.
#[test]
fn a_disk_that_takes_no_line_is_said() {
    for fault in ["write=5", "write=28@4+"] {
        let bench = Bench::new().env("FLOPSPROF_REPORT", "0");
        let outcome = bench.compare(bare(), race::output(command(&bench, true).env("FAULTY", fault).env("FAULTY_TEXT", "\"")));
        assert_eq!(outcome.said.len(), 2, "{:?}", outcome.said);
        assert!(outcome.said[0].starts_with("cannot write evidence to "), "{:?}", outcome.said);
        assert!(outcome.said[1].contains(" lines of evidence were lost: free space in "), "{:?}", outcome.said);
    }
}

/// A byte at a time, with each byte whole: nothing is lost.
#[test]
fn writes_of_one_byte_lose_nothing() {
    let outcome = survives("write=short");
    assert!(outcome.ended().lines.len() > 5);
    assert_eq!(outcome.said, [] as [&str; 0]);
}

/// The clocks that programs are given by libfaketime and its like change neither what is counted nor how long anything is waited for.
#[test]
fn strange_clocks_change_nothing() {
    let tricks = ["frozen", "backwards", "forwards", "jumps", "fails"];
    let count = race::each(&tricks, ToString::to_string, |trick| {
        let bench = Bench::new().env("CLOCK", *trick);
        let (bare, metered) = (race::output(&mut command(&bench, false)), race::output(&mut command(&bench, true)));
        let outcome = bench.compare(&bare, metered);
        let (truth, counted) = (outcome.truth(), outcome.counted());
        for (path, flop) in &truth {
            let counted = counted.get(path).copied().unwrap_or(0);
            assert!(counted <= *flop && counted * 100 >= flop * 60, "{counted} of {flop}: {}", outcome.course());
        }
        assert_eq!(outcome.said, [] as [&str; 0]);
        let file = outcome.ended();
        assert!(file.lines.windows(2).all(|l| l[0].at_ns <= l[1].at_ns), "time runs backwards in the evidence");
        assert!(outcome.windows().windows(2).all(|w| w[0].end_ns <= w[1].start_ns), "{}", outcome.course());
        let now = std::time::UNIX_EPOCH.elapsed().expect("a time").as_secs();
        assert!(now.abs_diff(file.start.unix_ns / 1_000_000_000) < 3600, "the evidence has the faked time");
    });
    eprintln!("faults: {count} strange clocks, all survived");
}

/// The records of a short run, with text of a length that no block has.
fn records() -> Vec<Record> {
    let fault = |n: usize| Record::Fault(Fault { kind: "disk".to_owned(), device: None, what: "x".repeat(n), remedy: "none".to_owned() });
    let start = Start { format: flopsprof::evidence::record::FORMAT, version: "0".to_owned(), simulated: true, ..Start::default() };
    let end = End { reason: "exit".to_owned(), lines_lost: 0, tokens: 1, steps: 1, meter_cpu_ns: 1 };
    vec![
        Record::Start(Box::new(start)),
        fault(1),
        Record::Declare(Declare { parameters: 7, trainable: 7, ..Declare::default() }),
        fault(33),
        Record::End(end),
    ]
}

/// Writes the records into a file that may have so many bytes, as far as they go. How many went.
fn write_into(folder: &Path, records: &[Record], most: u64) -> (Option<Writer>, usize) {
    limit_file_size(most);
    let Ok(mut writer) = Writer::create(folder, "a.jsonl") else { return (None, 0) };
    let written = records.iter().take_while(|r| writer.append(1, r).is_ok()).count();
    (Some(writer), written)
}

fn limit_file_size(most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is ours; the process is one that does nothing else.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
}

/// What the process does that the test below starts: in it nobody else writes.
fn disks_of_every_size() {
    // SAFETY: a constant disposition: a write beyond the limit is an error then.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let folder = tempfile::tempdir().expect("a folder");
    let (path, records) = (folder.path().join("a.jsonl"), records());
    let (_, all) = write_into(folder.path(), &records, libc::RLIM_INFINITY);
    assert_eq!(all, records.len());
    let whole = fs::read(&path).expect("evidence");
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    for most in 0..=whole.len() {
        fs::remove_file(&path).expect("removing it");
        let (writer, written) = write_into(folder.path(), &records, most as u64);
        let mut writer = writer.expect("an empty file fits");
        // A line is whole without its newline.
        let fit = ends.iter().filter(|end| **end - 1 <= most).count();
        assert_eq!(written, fit, "{most} bytes");
        // What is there is read, and what is missing is said.
        match read::read_file(&path) {
            Ok(file) => {
                assert_eq!((file.lines.len(), file.breaks.len()), (fit, 0), "{most} bytes");
                assert_eq!(file.torn_tail, !ends.contains(&most) && !ends.contains(&(most + 1)), "{most} bytes");
                assert_eq!(file.ended, fit == records.len(), "{most} bytes");
            }
            Err(ReadError::NotEvidence { .. }) => assert_eq!(fit, 0, "{most} bytes"),
            Err(e) => panic!("{most} bytes: {e}"),
        }
        // The disk has room again: the file goes on as if nothing had been.
        limit_file_size(libc::RLIM_INFINITY);
        records[written..].iter().for_each(|r| writer.append(1, r).expect("there is room"));
        let file = read::read_file(&path).unwrap_or_else(|e| panic!("{most} bytes, and room again: {e}"));
        assert_eq!(
            (file.lines.len(), file.breaks.len(), file.torn_tail, file.ended),
            (records.len(), 0, false, true),
            "{most} bytes, and room again"
        );
    }
    println!("faults: {} disks, full at every byte of {} lines, all read", whole.len() + 1, records.len());
}

#[test]
fn a_disk_that_is_full_at_every_byte() {
    const INSIDE: &str = "FLOPSPROF_TEST_DISKS";
    if std::env::var_os(INSIDE).is_some() {
        return disks_of_every_size();
    }
    let mut inside = Command::new(std::env::current_exe().expect("this test"));
    inside.args(["--exact", "system::a_disk_that_is_full_at_every_byte", "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let output = race::output(&mut inside);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("all read"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{}", said.lines().find(|l| l.contains("all read")).unwrap_or_default());
}
