//! Files that say nonsense: what the kernel or a file system answers is binary, empty, half, without an end, or no number, and the program is as ever.

use std::{collections::BTreeSet, fs, process::Command};

use crate::{
    begins::{self, Way},
    harness::{Bench, compiled},
    race,
    system::read_all,
};

/// What libfaulty.c has: bytes of all values, nothing, half of it, 8 MiB without the end of a line, no end at all, numbers that no integer holds, empty lines, quotes and parentheses.
const KINDS: u32 = 8;
/// Launches, 200 a second: long enough that everything is looked at that is looked at now and then.
const LAUNCHES: u32 = 80;

fn command(bench: &Bench, metered: bool, way: Way) -> Command {
    begins::command(bench, metered, (way, "plainly", LAUNCHES))
}

/// Names with the numbers in them left open: those of processes and threads.
fn pattern(name: &str) -> String {
    let mut pattern = String::new();
    for c in name.chars() {
        if !c.is_ascii_digit() {
            pattern.push(c);
        } else if !pattern.ends_with('#') {
            pattern.push('#');
        }
    }
    pattern
}

/// The files that a command reads under the shim.
fn files(mut command: Command, bench: &Bench) -> BTreeSet<String> {
    let list = bench.dir.path().join("files");
    race::output(command.env("FAULTY_FILES", &list));
    let ours = bench.dir.path().to_string_lossy().into_owned();
    let files = fs::read_to_string(list).expect("the list of files");
    files.lines().filter(|f| !f.starts_with(&ours)).map(pattern).collect()
}

/// Each file that the meter reads in a program, and each answer about files that it goes by.
#[test]
fn files_that_say_nonsense_change_nothing() {
    let mut faults: Vec<(Way, String, String)> = Vec::new();
    for way in [Way::Named, Way::Python] {
        let bench = Bench::new();
        let files = files(command(&bench, true, way), &bench);
        for must in ["/proc/#/stat", "/proc/#/comm", "/proc/#/cmdline", "/proc/#/task/#/stat", "/proc/sys/kernel/random/boot_id"] {
            assert!(files.contains(must), "{must} is not read: {files:?}");
        }
        assert!(way == Way::Named || files.contains("/proc/#/maps"), "{files:?}");
        for kind in 0..KINDS {
            faults.extend(files.iter().map(|f| (way, format!("read=garbage:{kind}"), f.clone())));
            let answers = ["readlink", "realpath", "readdir64", "getcwd", "statx", "fstat", "stat64", "lstat64", "fstat64", "uname"];
            faults.extend(answers.iter().map(|f| (way, format!("{f}=garbage:{kind}"), String::new())));
        }
    }
    let only = std::env::var("HOSTILE").unwrap_or_default();
    faults.retain(|(_, f, file)| format!("{f} {file}").contains(&only));
    let bare = [Way::Named, Way::Python].map(|way| (way, race::output(&mut command(&Bench::new(), false, way))));
    let check = |(way, fault, file): &(Way, String, String)| {
        let bench = Bench::new().env("FLOPSPROF_REPORT", if fault.starts_with("realpath") { "1" } else { "0" });
        let (_, bare) = bare.iter().find(|(w, _)| w == way).expect("a bare run");
        let mut command = command(&bench, true, *way);
        if !file.is_empty() {
            command.env("FAULTY_FILE", file);
        }
        let outcome = bench.compare(bare, race::output(command.env("FAULTY", fault)));
        assert!(outcome.said.len() <= 3, "{:?}", outcome.said);
        match read_all(&outcome, &bench) {
            Err(e) => assert!(!outcome.said.is_empty(), "there is no evidence ({e}), and nobody says why"),
            Ok(()) if bench.out().exists() => {
                let (truth, counted): (u128, u128) = (outcome.truth().values().sum(), outcome.counted().values().sum());
                let told = outcome.faults().iter().any(|f| f.kind == "no-cupti");
                assert!(counted * 100 >= truth * 60 || told, "{counted} of {truth}, and nothing is said:\n{}", outcome.course());
                let (status, report) = outcome.report();
                assert!(matches!(status, Some(0 | 2)), "{status:?}: {report}");
                let longest = outcome
                    .evidence()
                    .iter()
                    .flat_map(|f| fs::read_to_string(&f.path))
                    .map(|t| t.lines().map(str::len).max().unwrap_or(0))
                    .max();
                assert!(longest.unwrap_or(0) < 64 << 10, "a line of {longest:?} bytes");
            }
            Ok(()) => {}
        }
    };
    let count = race::each(&faults, |f| format!("{f:?}"), check);
    eprintln!("faults: {count} files and answers of nonsense, all survived");
}

/// The same of what the witness outside reads.
#[test]
fn a_witness_of_files_that_say_nonsense_ends_in_its_time() {
    let shim = compiled("hostile", "libfaulty.so");
    let watch = |bench: &Bench| {
        let mut command = bench.start(
            false,
            std::path::Path::new(env!("CARGO_BIN_EXE_flopsprof")),
            &["watch", "--no-ebpf", "--every", "0.2", "--for", "0.5", "--out"],
        );
        command.arg(bench.out()).env("LD_PRELOAD", &shim).env("FAULTY_WHO", "program");
        command
    };
    // Somebody to be witnessed meanwhile.
    let somebody = |bench: &Bench| {
        let mut program = begins::command(bench, false, (Way::Named, "plainly", 1000));
        let mut program = program.env_remove("LD_PRELOAD").stdout(std::process::Stdio::null()).spawn().expect("a program");
        std::thread::sleep(std::time::Duration::from_millis(100));
        move || drop((program.kill(), program.wait()))
    };
    let bench = Bench::new();
    let mut end = somebody(&bench);
    let files = files(watch(&bench), &bench);
    end();
    assert!(files.contains("/proc/#/status") && files.contains("/proc/#/stat"), "{files:?}");
    let mut faults: Vec<(String, String)> = Vec::new();
    for kind in 0..KINDS {
        faults.extend(files.iter().map(|f| (format!("read=garbage:{kind}"), f.clone())));
        faults.extend(["readlink", "realpath", "readdir64", "uname"].map(|f| (format!("{f}=garbage:{kind}"), String::new())));
    }
    let only = std::env::var("HOSTILE").unwrap_or_default();
    faults.retain(|(f, file)| format!("{f} {file}").contains(&only));
    let check = |(fault, file): &(String, String)| {
        let bench = Bench::new();
        let mut command = watch(&bench);
        if !file.is_empty() {
            command.env("FAULTY_FILE", file);
        }
        let began = std::time::Instant::now();
        let mut end = somebody(&bench);
        let output = race::output(command.env("FAULTY", fault));
        end();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(began.elapsed().as_secs() < 20, "it took {:?}: {said}", began.elapsed());
        assert!(matches!(output.status.code(), Some(0 | 3)) && !said.contains("panicked"), "{:?}, {said}", output.status);
        if output.status.code() == Some(0) {
            let files = flopsprof::evidence::read::read_run(&bench.out()).unwrap_or_else(|e| panic!("{e}"));
            assert!(files.iter().all(|f| f.ended && f.breaks.is_empty()), "{said}");
        }
    };
    let count = race::each(&faults, |f| format!("{f:?}"), check);
    eprintln!("faults: {count} files and answers of nonsense, all survived by the witness");
}
