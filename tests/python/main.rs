//! The Python package, by its own tests: without torch and transformers, and with the real ones on a CPU.

mod frameworks;
#[path = "../wheels/mod.rs"]
mod wheels;

use std::{path::Path, process::Command};

#[test]
fn the_python_packages_tests_pass() {
    passes(Command::new("python3").arg("-B"), "tests", 100);
}

#[test]
fn they_pass_with_the_real_transformers() {
    passes(&mut frameworks::python(), "tests/real", 28);
}

/// Runs the tests of a folder, of which there are at least so many.
fn passes(python: &mut Command, tests: &str, least: u32) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let output = python
        .args(["-m", "unittest", "discover", "-s", tests])
        .current_dir(folder)
        .env_remove("FLOPSPROF_OUT")
        .env_remove("PRETRAIN_FLOPS")
        .output()
        .expect("python3: it is needed for these tests");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // unittest is content when it finds no tests at all.
    let ran = said.lines().find_map(|l| l.strip_prefix("Ran ")?.split(' ').next()?.parse::<u32>().ok());
    assert!(ran.is_some_and(|n| n >= least) && !said.contains("skipped"), "{said}");
}
