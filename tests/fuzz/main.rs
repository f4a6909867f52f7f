//! Fuzzing: the corpus again, and some mutations of it, as many as fit a few seconds.
//!
//! ```text
//! cargo test --test fuzz                                           the corpus, and 2 s of mutations of each target
//! FLOPSPROF_FUZZ_S=600 cargo test --test fuzz --release mutations  longer, still blind
//! tests/fuzz/guided/run 3600                                       guided by coverage, for hours: see there
//! ```
//! `corpus/<target>` holds what reaches every branch that was ever reached, minimised; `corpus/<target>/found-*` what once broke something.

mod mutate;
mod targets;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use mutate::{Random, mutate};
use targets::{TARGETS, Target};

/// How long each target is fuzzed, seconds, unless this variable says otherwise.
const SECONDS: &str = "FLOPSPROF_FUZZ_S";
const DEFAULT: f64 = 2.0;

/// The inputs of a target's corpus, in a fixed order.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("a file of the corpus").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.into_iter().map(|p| (fs::read(&p).expect("a file of the corpus"), p)).map(|(bytes, path)| (path, bytes)).collect()
}

/// Runs a target; what it panics with names the input.
fn run(target: &Target, input: &[u8], what: &str) {
    if std::panic::catch_unwind(|| (target.run)(input)).is_err() {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
        fs::write(&path, input).expect("keeping the input");
        panic!("{}: {what} breaks it: the input is kept in {}", target.name, path.display());
    }
}

#[test]
fn the_corpus_holds() {
    for target in &TARGETS {
        for (path, bytes) in corpus(target) {
            run(target, &bytes, &path.display().to_string());
        }
    }
}

#[test]
fn mutations_of_the_corpus_hold() {
    let seconds = std::env::var(SECONDS).map_or(DEFAULT, |s| s.parse().unwrap_or_else(|_| panic!("{SECONDS}={s} is no number")));
    let executions = AtomicU64::new(0);
    for target in &TARGETS {
        let corpus = corpus(target);
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let mut n = 0;
        while Instant::now() < until {
            // Another seed for each: what breaks can be made again from its number.
            let mut random = Random(n);
            let (_, input) = &corpus[random.below(corpus.len())];
            run(target, &mutate(input, target.form, &mut random), &format!("mutation {n}"));
            n += 1;
        }
        println!("{}: {n} mutations", target.name);
        executions.fetch_add(n, Ordering::Relaxed);
    }
    assert!(executions.into_inner() > 1000, "hardly anything was executed");
}

/// The one envelope that was ever signed is in the corpus: else the check of forgeries checks nothing.
#[test]
fn the_corpus_holds_a_seal_that_verifies() {
    let envelope = targets::signed_envelope();
    let target = TARGETS.iter().find(|t| t.name == "envelope").expect("the target");
    assert!(corpus(target).iter().any(|(_, bytes)| *bytes == envelope), "{}", String::from_utf8_lossy(&envelope));
}
