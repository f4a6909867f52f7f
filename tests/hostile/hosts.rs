//! Hostile hosts.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use flopsprof::evidence::read;

use crate::{
    harness::{Bench, Outcome, compiled},
    race,
    table::{HOSTS, Host, Want},
};

/// Per cent of what ran that is counted at the least, where everything is: the meter may come late to a first launch, and a launch slip through a boundary, where two
/// cores are busy with eight hosts.
const SLIPS: u128 = 60;

pub(crate) fn is_root() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// A bench that other users may use too.
pub(crate) fn open_to_all() -> Bench {
    let bench = Bench::below(&std::env::temp_dir());
    for folder in ["", "gpu", "gpu/activity", "tmp"] {
        fs::set_permissions(bench.dir.path().join(folder), fs::Permissions::from_mode(0o777)).expect("permissions");
    }
    fs::set_permissions(bench.dir.path().join("lib"), fs::Permissions::from_mode(0o755)).expect("permissions");
    bench
}

/// Runs a program in a folder that is empty at its start.
pub(crate) fn run(bench: &Bench, command: &mut Command) -> Output {
    let folder = bench.dir.path().join("work");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("permissions");
    race::output(command.current_dir(&folder))
}

fn check(host: &Host) {
    let bench = if host.root { open_to_all() } else { Bench::new() };
    // Something to say on stderr, so that it is seen where it goes.
    let faulty = host.program == "descriptors" && host.how.contains("stderr") || host.how == "streams-reused";
    let bench = if faulty { bench.fault("nvmlInit_v2=999,nvmlInitWithFlags=999") } else { bench };
    let program = compiled("hostile", host.program);
    let bare = run(&bench, &mut bench.start(false, &program, &[host.how]));
    assert!(![Some(2), Some(9)].contains(&bare.status.code()), "the bare program fails: {bare:?}");
    let metered = run(&bench, &mut bench.start(true, &program, &[host.how]));
    judge(&bench.compare(&bare, metered), host.want, &bench.out());
}

/// Whether the evidence says what it must.
pub(crate) fn judge(outcome: &Outcome, want: Want, out: &Path) {
    if want == Want::Nothing {
        assert!(!out.exists(), "evidence of a program that had nothing to meter; said {:?}", outcome.said);
        return;
    }
    if want == Want::Any && read::read_run(out).is_err() {
        // Either there was no time for any, or stderr says why there is none.
        assert!(read::files(out).is_err() || outcome.said.iter().any(|l| l.contains("lost")), "{:?}", outcome.said);
        return;
    }
    let (truth, counted) = (outcome.truth(), outcome.counted());
    let context = format!("{counted:?} of {truth:?}; said {:?}; windows:\n{}", outcome.said, outcome.course());
    for (path, flop) in &counted {
        assert!(truth.get(path).is_some_and(|t| flop <= t), "more is counted than ran: {context}");
    }
    match want {
        Want::Whole => {
            let short = truth.iter().any(|(path, flop)| counted.get(path).copied().unwrap_or(0) * 100 < flop * SLIPS);
            assert!(!short, "not all is counted: {context}");
            assert!(outcome.evidence().iter().all(|f| f.ended && !f.torn_tail), "the evidence does not say that it ended; {context}");
        }
        Want::Part => assert!(!counted.is_empty(), "nothing is counted: {context}"),
        Want::Any | Want::Nothing => {}
    }
}

/// Exit status, signal, output, open files, threads, signal masks and handlers, children, limits: everything as without the meter.
#[test]
fn nobody_can_tell_the_difference() {
    let only = std::env::var("HOSTILE").unwrap_or_default();
    let all: Vec<&Host> = HOSTS.iter().filter(|h| format!("{} {}", h.program, h.how).contains(&only)).collect();
    let (here, elsewhere): (Vec<&Host>, Vec<&Host>) = all.into_iter().partition(|h| !h.root || is_root());
    compiled("hostile", "ends");
    let count = race::each(&here, |h| format!("{} {}", h.program, h.how), |h| check(h));
    eprintln!("hostile hosts: {count} programs, 0 differences ({} more need root)", elsewhere.len());
}
