//! `flopsprof run` and `flopsprof demo`: programs under the command.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    flopsprof,
    harness::{BF16, Bench, zoo},
    report, said,
    terminal::{SIZE, Shown, kept_row},
};

/// `flopsprof run` with options, before a program of the zoo on the bench's stand-in GPU.
fn wrapped(bench: &Bench, options: &[&str], program: &str, args: &[&str]) -> Command {
    under_run(bench, options, &zoo(program), args)
}

/// The same before any program.
pub(crate) fn under_run(bench: &Bench, options: &[&str], program: &Path, args: &[&str]) -> Command {
    let bare = bench.start(false, program, args);
    let mut command = flopsprof();
    command.current_dir(bench.dir.path()).stdin(Stdio::null());
    for (name, value) in bare.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.arg("run").args(options).arg(program).args(args);
    command
}

#[test]
fn the_program_runs_as_ever_and_its_status_is_kept() {
    let bench = Bench::new();
    let bare = bench.command(false, "plain", &["200", "1000"]).output().expect("the program");
    let output = wrapped(&bench, &[], "plain", &["200", "1000"]).output().expect("the command");
    assert_eq!(output.stdout, bare.stdout);
    let (code, stdout, stderr) = said(&output);
    assert_eq!(code, Some(7));
    let (said, others): (Vec<&str>, Vec<&str>) = stderr.lines().partition(|l| l.starts_with("flopsprof: "));
    assert_eq!(others, [] as [&str; 0]);
    assert!(said[0].contains("simulated FLOP counted by 1 process(es)") && said[1].contains("next: flopsprof report"), "{said:?}");
    // What it points to is there, and is what the program executed.
    let report = report::json(&bench.out(), &[]);
    let truth = stdout.lines().find_map(|l| l.strip_prefix(&format!("truth {BF16} "))).expect("the program's own word");
    assert_eq!((report["total"]["flop"].as_str(), &report["simulated"]), (Some(truth), &true.into()));
}

/// The AWS toolkit's flag: its file, with what was measured.
#[test]
fn a_recipe_that_asks_for_it_gets_flops_meter_json() {
    let bench = Bench::new();
    let recipe = bench.dir.path().join("recipe.yaml");
    std::fs::write(&recipe, "model_name_or_path: a/b\ncompute_flops: true\n").expect("a recipe");
    let mut command = wrapped(&bench, &["--recipe", recipe.to_str().expect("UTF-8")], "plain", &["200", "1000"]);
    let file = bench.dir.path().join("out/flops_meter.json");
    let (code, stdout, stderr) = said(&command.env("FLOPS_METER_OUT", &file).output().expect("the command"));
    assert_eq!(code, Some(7), "{stderr}");
    assert!(stderr.contains("wrote"), "{stderr}");
    let meter: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).expect("the file")).expect("JSON");
    let truth = stdout.lines().find_map(|l| l.strip_prefix(&format!("truth {BF16} "))).expect("the program's own word");
    assert_eq!((meter["flopsprof"]["executed_flop"].as_str(), &meter["flopsprof"]["simulated"]), (Some(truth), &true.into()));
    assert_eq!(meter["recipe_config_details"]["compute_flops"], true);
}

/// Where nothing was metered there is no such file, and the one that was there before is not passed off as one.
#[test]
fn a_recipe_that_asks_for_it_and_gets_nothing_is_told_which_file_is_not_written() {
    let bench = Bench::new();
    let recipe = bench.dir.path().join("recipe.yaml");
    std::fs::write(&recipe, "compute_flops: true\n").expect("a recipe");
    let file = bench.dir.path().join("flops_meter.json");
    for (options, before) in [(&["--recipe"][..], false), (&["--quiet", "--recipe"], true)] {
        if before {
            std::fs::write(&file, "{}").expect("a file");
        }
        let mut command = wrapped(&bench, &[options, &[recipe.to_str().expect("UTF-8")]].concat(), "no_cuda", &[]);
        let (code, _, stderr) = said(&command.env("FLOPS_METER_OUT", &file).output().expect("the command"));
        assert_eq!(code, said(&bench.command(false, "no_cuda", &[]).output().expect("the program")).0);
        let line = stderr.lines().find(|l| l.contains("flops_meter.json")).unwrap_or_else(|| panic!("no word of it: {stderr}"));
        assert!(line.contains(file.to_str().expect("UTF-8")) && line.contains("is not written"), "{line}");
        assert!(line.contains("no process of the command used CUDA"), "{line}");
        assert_eq!((line.contains("the one that is there"), file.exists()), (before, before), "{line}");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "{}");
}

/// On a terminal one line shows the run, again and again, and how old the count is where a window is long. Windows grow with the age of the run, by the clock of the meter, and the line
/// says an age from four seconds on: the program goes on until both were seen, however busy the machine is.
#[test]
fn the_live_line_says_what_is_counted_and_until_when() {
    fn lines(shown: &str) -> Vec<&str> {
        kept_row(shown).into_iter().filter(|l| l.contains(" simulated FLOP counted") && l.contains(" simulated TFLOP/s  ")).collect()
    }
    let age = |line: &str| line.split_once(" up to ").map(|(_, age)| age.split(' ').next().and_then(|s| s.parse::<u64>().ok()));
    let young = |shown: &str| lines(shown).iter().any(|l| age(l).is_none());
    let aged = |shown: &str| lines(shown).iter().any(|l| matches!(age(l), Some(Some(4..60))));
    let bench = Bench::new();
    // Two minutes, if nobody ends it.
    let mut live = Shown::start(wrapped(&bench, &["--window", "60"], "plain", &["120000", "1000"]), true);
    live.until(|shown| lines(shown).len() >= 5 && young(shown) && aged(shown));
    // SAFETY: our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(i32::try_from(live.child.id()).expect("a process id"), libc::SIGTERM) }, 0);
    let (shown, code) = live.end();
    assert!(lines(&shown).len() >= 5 && young(&shown) && aged(&shown), "{shown}");
    assert_eq!(code, Some(128 + 15), "{shown}");
    assert!(shown.contains("next: flopsprof report"), "{shown}");
}

/// A program that writes a line of its own again and again, as tqdm does, and lines that scroll: both stay as they are, the row of ours stands below them, and is given back at the end.
#[test]
fn the_live_line_leaves_the_programs_own_alone() {
    let bench = Bench::new();
    let script = format!(
        "{} 4000 1000 & i=0; while [ $i -lt 40 ]; do printf '\r%s of 40|####' $i >&2; sleep 0.1; i=$((i+1)); done; echo >&2; seq 1 40 >&2; wait; sleep 1.5; echo the end >&2",
        zoo("plain").display()
    );
    let (shown, code) = Shown::start(under_run(&bench, &[], "sh".as_ref(), &["-c", &script]), true).end();
    assert_eq!(code, Some(0), "{shown}");
    let (rows, columns) = SIZE;
    let mut screen = vt100::Parser::new(rows.try_into().expect("rows"), columns.try_into().expect("columns"), 0);
    let row = |screen: &vt100::Parser, n: u16| screen.screen().contents_between(n, 0, n, columns);
    let (mut bars, mut kept) = (0, 0);
    for part in shown.split_inclusive("\x1b8") {
        screen.process(part.as_bytes());
        let above: Vec<String> = (0..rows - 1).map(|n| row(&screen, n)).collect();
        assert!(!above.iter().any(|l| l.contains("FLOP counted  ")), "{}", screen.screen().contents());
        // The bar has nothing behind it.
        bars += above.iter().filter(|l| l.ends_with(" of 40|####") && l.trim().len() <= "39 of 40|####".len()).count();
        kept += usize::from(row(&screen, rows - 1).starts_with("flopsprof: "));
    }
    assert!(bars >= 3 && kept >= 4, "{bars}, {kept}: {shown}");
    let end = screen.screen().contents();
    assert!(end.contains("40\nthe end\nflopsprof: ") && end.contains("next: flopsprof report"), "{end}");
    // The whole screen scrolls again.
    screen.process("x\r\n".repeat(usize::from(rows)).as_bytes());
    assert_eq!((row(&screen, 0).as_str(), row(&screen, rows - 2).as_str()), ("x", "x"));
}

/// A folder that cannot be written: the closing words say where the evidence is instead. An empty variable is none.
#[test]
fn evidence_that_went_elsewhere_is_found() {
    let bench = Bench::new();
    let file = bench.dir.path().join("a-file");
    std::fs::write(&file, "").expect("a file");
    let (code, _, stderr) =
        said(&wrapped(&bench, &["--out", file.to_str().expect("UTF-8")], "plain", &["100", "1000"]).output().expect("the command"));
    assert_eq!(code, Some(7));
    let next = stderr.lines().find_map(|l| l.strip_prefix("flopsprof: next: flopsprof report ")).unwrap_or_else(|| panic!("{stderr}"));
    assert!(stderr.contains("it is in") && !stderr.contains("nothing was metered"), "{stderr}");
    assert!(!flopsprof::evidence::read::read_run(next.as_ref()).expect("evidence").is_empty());

    let mut command = under_run(&bench, &[], &zoo("plain"), &["100", "1000"]);
    let (code, _, stderr) = said(&command.env("FLOPSPROF_OUT", "").current_dir(bench.dir.path()).output().expect("the command"));
    assert!(code == Some(7) && stderr.contains("evidence in "), "{stderr}");
}

#[test]
fn quiet_adds_nothing() {
    let bench = Bench::new();
    let (code, _, stderr) = said(&wrapped(&bench, &["--quiet"], "plain", &["50", "1000"]).output().expect("the command"));
    assert_eq!((code, stderr.as_str()), (Some(7), ""));
    assert!(bench.out().is_dir());
}

#[test]
fn a_death_by_signal_is_128_and_the_signal() {
    let bench = Bench::new();
    for (how, signal) in [("SIGTERM", 15), ("SIGKILL", 9), ("abort", 6)] {
        let (code, _, _) = said(&wrapped(&bench, &["-q"], "exit_kinds", &[how]).output().expect("the command"));
        assert_eq!(code, Some(128 + signal), "{how}");
    }
}

/// Under nohup a program outlives its terminal, wrapped or not.
#[test]
fn signals_that_are_ignored_stay_ignored() {
    let ignored = |wrapper: &str| {
        let script = format!("trap '' HUP INT USR1; {wrapper} grep SigIgn /proc/self/status");
        let output = Command::new("sh").args(["-c", &script]).output().expect("a shell");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    // Whoever started the tests may ignore more.
    let bits = ignored("").split_whitespace().last().and_then(|hex| u64::from_str_radix(hex, 16).ok()).expect("a mask");
    assert_eq!(bits & 0x203, 0x203, "{bits:x}");
    assert_eq!(ignored(&format!("{} run -q --no-witness", env!("CARGO_BIN_EXE_flopsprof"))), ignored(""));
}

/// A signal to the command is one to the program.
#[test]
fn signals_are_passed_on() {
    let bench = Bench::new();
    let child = wrapped(&bench, &["-q"], "plain", &["60000", "1000"]).stdout(Stdio::null()).process_group(0).spawn().expect("the command");
    let began = Instant::now();
    while !bench.out().exists() && began.elapsed() < Duration::from_secs(30) {
        thread::sleep(Duration::from_millis(10));
    }
    // SAFETY: our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).expect("a process id"), libc::SIGTERM) }, 0);
    let end = child.wait_with_output().expect("its end");
    assert_eq!(end.status.code(), Some(128 + 15));
    assert!(began.elapsed() < Duration::from_secs(45), "it ran to its own end");
}

#[test]
fn a_command_without_cuda_gets_a_line_that_says_so() {
    let bench = Bench::new();
    let (code, _, stderr) = said(&wrapped(&bench, &[], "no_cuda", &[]).output().expect("the command"));
    let (bare, _, _) = said(&bench.command(false, "no_cuda", &[]).output().expect("the program"));
    assert_eq!(code, bare);
    assert!(stderr.contains("flopsprof: nothing was metered: no process of the command used CUDA"), "{stderr}");
}

#[test]
fn what_cannot_be_run_is_126_or_127() {
    let run = |program: &Path| said(&flopsprof().arg("run").arg(program).output().expect("the command"));
    let (code, _, stderr) = run(Path::new("/nowhere/program"));
    assert_eq!(code, Some(127));
    assert!(stderr.contains("/nowhere/program"), "{stderr}");
    let (code, ..) = run(Path::new("/etc/hostname"));
    assert_eq!(code, Some(126));
}

#[test]
fn the_demo_measures_the_truth() {
    crate::harness::built();
    let tmp = tempfile::tempdir().expect("a temporary folder");
    let mut demo = flopsprof();
    demo.args(["demo", "--stand-in", "--seconds", "8"]).env("TMPDIR", tmp.path());
    let (code, stdout, stderr) = said(&demo.output().expect("the command"));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("\nmeasured = true (simulated)\n"), "{stdout}");
    assert!(stdout.contains("no NVIDIA driver here") || Path::new("/proc/driver/nvidia/version").exists(), "{stdout}");
}
