//! Runs many checks at a time: their programs sleep most of the time.

use std::{
    os::unix::process::CommandExt,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Command, Output, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// Checks at a time.
const AT_ONCE: usize = 8;
/// A program that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(60);

/// Runs `check` for each, and fails with what every failed one said. Returns how many there were.
pub(crate) fn each<T: Sync>(all: &[T], name: impl Fn(&T) -> String + Sync, check: impl Fn(&T) + Sync) -> usize {
    many(AT_ONCE, all, name, check)
}

/// The same, so many at a time: where they wait for seconds on end.
pub(crate) fn many<T: Sync>(at_once: usize, all: &[T], name: impl Fn(&T) -> String + Sync, check: impl Fn(&T) + Sync) -> usize {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(one))) {
                        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
                        let failure = format!("{}: {}", name(one), said.unwrap_or("it failed"));
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failed.is_empty(), "{} of {} failed:\n\n{}", failed.len(), all.len(), failed.join("\n\n"));
    all.len()
}

/// What became of a program; one that hangs is killed, and that is a failure.
pub(crate) fn output(command: &mut Command) -> Output {
    let child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starting a program");
    let group = libc::pid_t::try_from(child.id()).expect("a process id");
    let (done, ended) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let hangs = ended.recv_timeout(LONGEST) == Err(mpsc::RecvTimeoutError::Timeout);
        if hangs {
            // SAFETY: the group of our own child, which has not been waited for.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        hangs
    });
    let output = child.wait_with_output().expect("its end");
    drop(done);
    assert!(!watch.join().expect("the watch"), "it hangs: {output:?}");
    output
}
