//! Folders that cannot be made, disks that are full, descriptors that are closed, evidence that was changed.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use flopsprof::evidence::{
    read,
    record::{Record, Window},
};

use crate::harness::{BF16, Bench};

/// Room for the first lines of evidence, which are long, and not for a second's.
const LITTLE: u64 = 8192;

/// Evidence that cannot go where it should goes to the temporary folder, and says so.
#[test]
fn a_folder_that_cannot_be_made() {
    let bench = Bench::new();
    let (file, tmp) = (bench.dir.path().join("file"), bench.dir.path().join("tmp"));
    fs::write(&file, "").expect("a file");
    // Below a file no folder can be made, not even by root.
    let bench = bench.env("FLOPSPROF_OUT", file.join("run"));
    let outcome = bench.run("plain", &["300", "1000"]);
    assert_eq!(outcome.said.len(), 1, "{:?}", outcome.said);
    assert!(outcome.said[0].contains("cannot write evidence") && outcome.said[0].contains("FLOPSPROF_OUT"), "{:?}", outcome.said);
    // The line names the folder it went to.
    let instead = fs::read_dir(&tmp).expect("tmp").flatten().next().expect("a folder in the temporary one").path().join("run");
    assert!(outcome.said[0].contains(instead.to_str().expect("UTF-8")), "{:?}", outcome.said);
    let outcome = outcome.at(instead);
    assert_eq!(outcome.counted(), outcome.truth(), "{}", outcome.course());
    outcome.assert_fault("disk");
}

/// No place at all: one line, and the program runs.
#[test]
fn no_place_for_evidence_at_all() {
    let bench = Bench::new();
    let file = bench.dir.path().join("file");
    fs::write(&file, "").expect("a file");
    let bench = bench.env("FLOPSPROF_OUT", file.join("run")).env("TMPDIR", file);
    let outcome = bench.run("plain", &["300", "1000"]);
    assert!(outcome.said.iter().any(|l| l.contains("cannot write evidence")), "{:?}", outcome.said);
    assert!(outcome.said.iter().any(|l| l.contains("lost")), "what was lost is not told: {:?}", outcome.said);
}

/// Limits the size of files that a program may write, as a full disk does: writes beyond it fail.
fn limit(command: &mut Command, bytes: u64) -> &mut Command {
    // SAFETY: setrlimit may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
            if libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        })
    }
}

#[test]
fn a_disk_that_is_full_to_the_end() {
    let bench = Bench::new();
    let run = |metered| limit(&mut bench.command(metered, "plain", &["1000", "1000"]), LITTLE).output().expect("starting a program");
    let outcome = bench.compare(&run(false), run(true));
    // What fitted can be read, and stderr says that there was more.
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted().get(BF16).copied().unwrap_or(0));
    assert!(counted < truth, "{counted} of {truth}");
    assert!(!outcome.evidence()[0].ended);
    assert_eq!(outcome.said.len(), 2, "{:?}", outcome.said);
    assert!(outcome.said[0].contains("cannot write evidence") && outcome.said[1].contains("lost"), "{:?}", outcome.said);
}

#[test]
fn a_disk_that_is_full_for_a_while_loses_nothing() {
    let bench = Bench::new();
    let args = ["1500", "1000"];
    let bare = bench.command(false, "plain", &args).output().expect("starting a program");
    let mut command = bench.command(true, "plain", &args);
    let child = limit(&mut command, LITTLE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starting a program");
    thread::sleep(Duration::from_secs(1));
    let room = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    let pid = libc::pid_t::try_from(child.id()).expect("a process id");
    // SAFETY: the limit is ours; the process is our child, which has not been waited for.
    assert_eq!(unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &raw const room, std::ptr::null_mut()) }, 0);
    let outcome = bench.compare(&bare, child.wait_with_output().expect("its end"));
    assert_eq!(outcome.said.len(), 1, "{:?}", outcome.said);
    assert!(outcome.said[0].contains("cannot write evidence"), "{:?}", outcome.said);
    assert_eq!(outcome.counted(), outcome.truth(), "{}", outcome.course());
    outcome.ended();
}

/// A program that closed its standard streams does not get the evidence in their place.
/// A program that clears its output while it runs: the evidence that was in it is put back, and nothing is lost.
#[test]
fn evidence_that_is_removed_is_put_back() {
    let bench = Bench::new().env("FLOPSPROF_WINDOW", "0.2");
    let outcome = bench.run("clears", &["2000", "1000"]);
    let fault = outcome.assert_fault("removed");
    assert!(fault.what.contains("put back with all its lines"), "{fault:?}");
    assert_eq!(outcome.counted(), outcome.truth(), "{}", outcome.course());
    outcome.ended();
}

#[test]
fn closed_standard_streams_do_not_become_the_evidence() {
    let bench = Bench::new();
    let closed = |command: &mut Command| -> Output {
        // SAFETY: close may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                for fd in 0..3 {
                    let _ = libc::close(fd);
                }
                Ok(())
            });
        }
        command.output().expect("starting a program")
    };
    // Something to say on stderr too.
    let bench = bench.fault("cuptiRangeProfilerStart=35@3+");
    let bare = closed(&mut bench.command(false, "plain", &["500", "1000"]));
    let metered = closed(&mut bench.command(true, "plain", &["500", "1000"]));
    let outcome = bench.compare(&bare, metered);
    let file = outcome.ended();
    let text = fs::read_to_string(&file.path).expect("evidence");
    assert!(!text.contains("truth "), "the program's own output stands in the evidence");
    assert!(text.lines().all(|l| !l.starts_with("flopsprof:")), "the meter's own lines stand in the evidence");
    assert_eq!(text.lines().count(), file.lines.len());
}

/// Every prefix of a file is readable or says why not; the whole windows of it stay.
#[test]
fn evidence_that_was_cut_is_read_up_to_the_cut() {
    let bench = Bench::new();
    let outcome = bench.run("plain", &["500", "1000"]);
    let file = outcome.ended();
    let bytes = fs::read(&file.path).expect("evidence");
    let first = bytes.iter().position(|b| *b == b'\n').expect("a first line") + 1;
    for cut in (0..bytes.len()).step_by(97) {
        match read::parse(&file.path, &bytes[..cut]) {
            Ok(part) => {
                assert!(cut + 1 >= first);
                assert_eq!(part.breaks, [], "a cut is no change");
                // A line is whole without its newline.
                let ends = |at: usize| bytes.get(at).is_some_and(|b| *b == b'\n');
                let whole = (0..=cut).filter(|at| ends(*at)).count();
                assert_eq!(part.lines, file.lines[..whole], "cut at {cut}");
                assert_eq!(part.torn_tail, !ends(cut - 1) && !ends(cut), "cut at {cut}");
            }
            Err(e) => assert!(cut < first && e.to_string().contains("not an evidence file"), "cut at {cut}: {e}"),
        }
    }
    fs::write(&file.path, &bytes[..bytes.len() * 2 / 3]).expect("cutting");
    let (status, report) = outcome.report();
    assert_eq!(status, Some(0));
    assert!(report.contains("did not end well") || report.contains("cut") || report.contains("ends inside"), "{report}");
}

/// A number that was changed is read, and named in the report.
#[test]
fn evidence_that_was_changed_is_named() {
    let bench = Bench::new();
    let outcome = bench.run("plain", &["500", "1000"]);
    let file = outcome.ended();
    let text = fs::read_to_string(&file.path).expect("evidence");
    let changed = text.replacen(&format!("\"{BF16}\":\"3"), &format!("\"{BF16}\":\"9"), 1);
    assert_ne!(text, changed, "there is a window to change");
    fs::write(&file.path, changed).expect("changing");
    let read = read::read_file(&file.path).expect("evidence");
    assert_eq!(read.breaks.len(), 1, "{:?}", read.breaks);
    let (status, report) = outcome.report();
    assert_ne!(status, Some(0), "evidence that was changed is no good evidence");
    assert!(report.contains("changed") && report.contains(&format!(".jsonl:{}:", read.breaks[0].line)), "{report}");
}

#[test]
fn what_is_no_evidence_is_refused_with_a_reason() {
    let bench = Bench::new();
    for (name, content) in [("empty.jsonl", ""), ("noise.jsonl", "\u{1}\u{2}\n"), ("other.jsonl", "{\"a\":1}\n"), ("list.jsonl", "[]\n")] {
        let path = bench.dir.path().join(name);
        fs::write(&path, content).expect("a file");
        let output = Command::new(env!("CARGO_BIN_EXE_flopsprof")).arg("report").arg(&path).output().expect("the command");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(name) && stderr.contains("not an evidence file"), "{name}: {output:?}");
        assert!(output.stdout.is_empty(), "half a report: {output:?}");
    }
}

fn windows(file: &read::ProcessEvidence) -> impl Iterator<Item = &Window> {
    file.lines.iter().filter_map(|l| if let Record::Window(w) = &l.record { Some(&**w) } else { None })
}

/// `kill -9` at any moment: what is there can be read, and at most the window that was open is missing.
#[test]
fn killed_at_any_moment() {
    thread::scope(|scope| {
        for moment in 0..12u32 {
            scope.spawn(move || {
                let bench = Bench::new();
                let mut child = bench
                    .command(true, "plain", &["5000", "1000"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("a program");
                // Irregular moments, some of them inside a boundary.
                thread::sleep(Duration::from_micros(u64::from(300_000 + moment * 83_777)));
                child.kill().expect("killing it");
                let killed_ns = flopsprof::window::clock::monotonic_ns();
                child.wait().expect("its end");
                let said: Vec<String> = BufReader::new(child.stderr.take().expect("stderr")).lines().map(|l| l.expect("a line")).collect();
                assert_eq!(said, [] as [&str; 0]);
                let files = read::read_run(&bench.out()).expect("evidence");
                assert_eq!(files[0].breaks, []);
                assert!(!files[0].ended);
                let ends = windows(&files[0]).map(|w| w.end_ns);
                // A window lasts 0.1 s; a machine that is busy with other tests is late.
                let last = ends.max().unwrap_or(files[0].start_ns);
                let missing = Duration::from_nanos(killed_ns.saturating_sub(last));
                assert!(missing < Duration::from_millis(350), "{missing:?} before the kill stand in no window");
                let planned: Vec<_> = windows(&files[0]).map(|w| w.next_ns).collect();
                assert!(planned.iter().all(|next| next.is_some_and(|ns| ns <= 100_000_000)), "the open window's length: {planned:?}");
            });
        }
    });
}
