//! Hosts that are no C programs linked as usual: other C libraries, other preloaded and injected libraries, Python; and ways to load the library.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    harness::{BF16, Bench, compiled, library, zoo},
    hosts::{judge, run},
    race,
    table::Want,
};

/// Runs a host on a bench, metered or not.
type Run = dyn Fn(&Bench, bool) -> Output + Sync;

/// A host, and what becomes of it with (true) or without the meter.
struct Other {
    name: &'static str,
    want: Want,
    output: Box<Run>,
}

fn other(name: &'static str, want: Want, output: impl Fn(&Bench, bool) -> Output + Sync + 'static) -> Other {
    Other { name, want, output: Box::new(output) }
}

/// `tests/hostile/nothing.c`, compiled in another way.
fn nothing(compiler: &str, flags: &[&str], name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile/{name}"));
    let fresh = program.with_extension(std::process::id().to_string());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/nothing.c");
    let output = Command::new(compiler).args(["-O1", "-pthread", "-o"]).args([&fresh, &source]).args(flags).output();
    let output = output.unwrap_or_else(|e| panic!("{compiler}: {e}: the package musl-tools has it"));
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&fresh, &program).expect("renaming a program");
    program
}

/// The compiler of the other C library. A machine that lacks it gets it, if we may.
fn musl() -> &'static str {
    const COMPILER: &str = "musl-gcc";
    if Command::new(COMPILER).arg("--version").output().is_err() {
        let update = Command::new("apt-get").args(["-qq", "update"]).output();
        let install =
            Command::new("apt-get").args(["-qq", "-y", "install", "musl-tools"]).env("DEBIAN_FRONTEND", "noninteractive").output();
        assert!(
            Command::new(COMPILER).arg("--version").output().is_ok(),
            "{COMPILER} is not here, and cannot be installed ({update:?}, {install:?}): install musl-tools"
        );
    }
    COMPILER
}

fn with_preload(command: &mut Command, libraries: &[&Path]) {
    let names: Vec<&str> = libraries.iter().map(|l| l.to_str().expect("UTF-8")).collect();
    command.env("LD_PRELOAD", names.join(":"));
}

/// Another library is preloaded too, before ours or behind it.
fn beside(bench: &Bench, metered: bool, how: &str, first: bool) -> Output {
    let (theirs, ours) = (compiled("hostile", "libother.so"), library("flopsprof"));
    let mut command = bench.start(false, &compiled("hostile", "ends"), &[how]);
    match (metered, first) {
        (false, _) => with_preload(&mut command, &[&theirs]),
        (true, true) => with_preload(&mut command, &[&ours, &theirs]),
        (true, false) => with_preload(&mut command, &[&theirs, &ours]),
    }
    run(bench, &mut command)
}

fn python(how: &'static str, want: Want) -> Other {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/job.py");
    other(how, want, move |bench, metered| {
        let script = script.to_str().expect("UTF-8");
        run(bench, bench.start(metered, Path::new("python3"), &["-I", script, how]).env("PYTHONDONTWRITEBYTECODE", "1"))
    })
}

/// The library at a path that `LD_PRELOAD` cannot have in it, or that is not absolute; with everything else that its folder needs.
fn moved(bench: &Bench, folder: &str) -> PathBuf {
    let folder = bench.dir.path().join(folder);
    fs::create_dir_all(&folder).expect("a folder");
    let to = folder.join("libflopsprof.so");
    if !to.exists() {
        fs::copy(library("flopsprof"), &to).expect("copying the library");
    }
    to
}

fn all() -> Vec<Other> {
    let compiler = musl();
    let static_glibc = nothing("cc", &["-static"], "nothing-static");
    let dynamic_musl = nothing(compiler, &[], "nothing-musl");
    let static_musl = nothing(compiler, &["-static"], "nothing-musl-static");
    let mut all = Vec::new();
    for (name, program) in [("static", static_glibc), ("musl", dynamic_musl), ("static musl", static_musl)] {
        for how in ["plain", "main-thread-leaves"] {
            let program = program.clone();
            all.push(other(name, Want::Nothing, move |bench, metered| run(bench, &mut bench.start(metered, &program, &[how]))));
        }
    }
    for first in [true, false] {
        for how in ["return", "_exit", "_Exit", "quick_exit"] {
            // Its own `_exit` comes before ours and ends the process: the last window is lost.
            let want = if !first && how.starts_with('_') { Want::Part } else { Want::Whole };
            all.push(other("another preloaded library", want, move |bench, metered| beside(bench, metered, how, first)));
        }
    }
    all.push(other("another injected library", Want::Whole, |bench, metered| {
        let mut command = bench.start(metered, &zoo("plain"), &["300", "1000"]);
        run(bench, command.env("CUDA_INJECTION64_PATH", zoo("libinjected.so")))
    }));
    all.push(other("an injected library that is not there", Want::Whole, |bench, metered| {
        let mut command = bench.start(metered, &zoo("plain"), &["300", "1000"]);
        run(bench, command.env("CUDA_INJECTION64_PATH", "/nowhere/libinjected.so"))
    }));
    all.push(other("without CUDA beside another injected library", Want::Nothing, |bench, metered| {
        let mut command = bench.start(metered, &compiled("hostile", "nothing"), &["main-thread-leaves"]);
        run(bench, command.env("CUDA_INJECTION64_PATH", zoo("libinjected.so")))
    }));
    all.push(other("injected, not preloaded", Want::Whole, |bench, metered| {
        let mut command = bench.start(false, &compiled("hostile", "processes"), &["fork-after"]);
        if metered {
            command.env("CUDA_INJECTION64_PATH", library("flopsprof"));
        }
        run(bench, &mut command)
    }));
    all.push(other("a relative preload", Want::Whole, |bench, metered| {
        moved(bench, "work-lib");
        let mut command = bench.start(false, &compiled("hostile", "ends"), &["_exit"]);
        if metered {
            command.env("LD_PRELOAD", "../work-lib/libflopsprof.so");
        }
        run(bench, &mut command)
    }));
    for folder in ["with spaces in it", "with:colons"] {
        all.push(other("flopsprof run, from a path that LD_PRELOAD cannot have", Want::Whole, move |bench, metered| {
            let program = compiled("hostile", "ends");
            if !metered {
                return run(bench, &mut bench.start(false, &program, &["exit"]));
            }
            let lib = moved(bench, folder);
            let program = program.to_str().expect("UTF-8");
            let mut command = bench.start(false, Path::new(env!("CARGO_BIN_EXE_flopsprof")), &["run", "--quiet", program, "exit"]);
            run(bench, command.env("FLOPSPROF_LIB", lib))
        }));
    }
    all.extend([
        python("subprocesses", Want::Whole),
        python("forked-loaders", Want::Whole),
        python("forked-workers", Want::Whole),
        python("spawned-workers", Want::Whole),
        python("server-workers", Want::Whole),
        python("exception", Want::Whole),
        python("exit-in-thread", Want::Whole),
    ]);
    all
}

#[test]
fn nor_can_those_that_are_made_otherwise() {
    let only = std::env::var("HOSTILE").unwrap_or_default();
    let mut all = all();
    all.retain(|o| o.name.contains(&only));
    let count = race::each(
        &all,
        |o| o.name.to_owned(),
        |o| {
            let bench = Bench::new();
            let bare = (o.output)(&bench, false);
            let metered = (o.output)(&bench, true);
            judge(&bench.compare(&bare, metered), o.want, &bench.out());
        },
    );
    eprintln!("further hosts: {count}, 0 differences");
}

/// Another tool's injected library is called as the driver would have called it, and the first launch is counted all the same.
#[test]
fn a_tool_that_is_injected_too_costs_no_launch() {
    let bench = Bench::new().env("CUDA_INJECTION64_PATH", OsString::from(zoo("libinjected.so")));
    let outcome = bench.run("plain", &["300", "1000"]);
    assert!(outcome.stdout.starts_with("the other tool was injected\n"), "{}", outcome.stdout);
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    assert!(counted <= truth && counted * 100 >= truth * 97, "{counted} of {truth}");
}
