//! `flopsprof top` and the live line, of processes that were killed.

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use crate::{
    flopsprof,
    harness::{Bench, zoo},
    said,
    synthetic::{BEGAN_UNIX_NS, Evidence},
    terminal::{Shown, kept_row},
    wrapped::under_run,
};

fn top(bench: &Bench) -> String {
    let (code, stdout, stderr) = said(&flopsprof().arg("top").arg(bench.out()).output().expect("the command"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    stdout
}

/// Waits for something of a process that is told to go on for longer than that.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn top_tells_a_process_that_was_killed_from_one_that_runs_and_ends_with_it() {
    let bench = Bench::new();
    let mut program = bench.command(true, "plain", &["600000", "1000"]).stdout(Stdio::null()).spawn().expect("the program");
    until("no window was written", || bench.out().exists() && top_is(&bench, "last window"));
    assert!(top(&bench).contains(": running, "), "{}", top(&bench));
    let mut follower = flopsprof();
    follower.args(["top", "--every", "0.1"]).arg(bench.out());
    let follower = Shown::start(follower, false);
    program.kill().expect("a signal");
    // Nobody has asked for its status yet: the kernel still lists it.
    until("it runs, for ever", || top_is(&bench, ": killed: no end was written (newest line "));
    let (shown, code) = follower.end();
    assert!(code == Some(0) && shown.contains(": killed: no end was written"), "{shown}");
    program.wait().expect("its end");
    assert!(top_is(&bench, ": killed: no end was written") && top_is(&bench, "none: the run was too short"), "{}", top(&bench));
    // One that ended by itself stays ended.
    let bench = Bench::new();
    assert_eq!(bench.command(true, "plain", &["50", "1000"]).output().expect("the program").status.code(), Some(7));
    assert!(top(&bench).contains(": ended, "), "{}", top(&bench));
}

fn top_is(bench: &Bench, part: &str) -> bool {
    let output = flopsprof().arg("top").arg(bench.out()).output().expect("the command");
    String::from_utf8_lossy(&output.stdout).contains(part)
}

/// Of a process of another machine nobody can tell: how old its newest line is, is said, and when one was due.
#[test]
fn top_says_of_another_machines_processes_how_long_they_are_silent() {
    let of = |evidence: &Evidence| {
        let folder = tempfile::tempdir().expect("a folder");
        evidence.write(folder.path());
        said(&flopsprof().arg("top").arg(folder.path()).output().expect("the command")).1
    };
    let mut evidence = Evidence { ended: false, ..Evidence::counted("node7", 0, 1, 2) };
    evidence.windows[1].next_ns = Some(300_000_000_000);
    let text = of(&evidence);
    assert!(text.contains(": not known, and silent: killed, most likely (written on another host, node7, "), "{text}");
    assert!(text.contains("one was due within 300 s"), "{text}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_nanos();
    evidence.start.unix_ns = u64::try_from(now).expect("this century").max(BEGAN_UNIX_NS) - 100_000_000_000;
    let text = of(&evidence);
    let age = text.split_once("newest line ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok()).expect(&text);
    assert!(text.contains(": not known (written on another host, node7, ") && (80..300).contains(&age), "{text}");
    evidence.ended = true;
    assert!(of(&evidence).contains(": ended, "));
}

/// A process that was killed does nothing any more: its last rate is not shown on.
#[test]
fn the_live_line_forgets_a_process_that_was_killed() {
    let bench = Bench::new();
    let gone = bench.dir.path().join("gone");
    // The first look at evidence, some more, and some after it is killed: the command looks once a second.
    let script = format!(
        "{} 600000 1000 & while ! grep -qs '\"type\":\"window\"' {}/*.jsonl; do sleep 0.1; done; sleep 4; kill -9 $!; wait; : > {}; sleep 5",
        zoo("plain").display(),
        bench.out().display(),
        gone.display()
    );
    let (shown, code) = Shown::start(under_run(&bench, &[], "sh".as_ref(), &["-c", &script]), true).end();
    assert!(code == Some(0) && fs::exists(&gone).expect("a folder"), "{shown}");
    let rates: Vec<f64> =
        kept_row(&shown).into_iter().filter_map(|l| l.split_once(" simulated TFLOP/s")?.0.rsplit(' ').next()?.parse().ok()).collect();
    assert!(rates.iter().any(|r| *r > 0.0) && rates.last() == Some(&0.0), "{rates:?}: {shown}");
}
