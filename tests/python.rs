//! The Python package, by its own tests: without torch and transformers, as CI has it.

use std::{path::Path, process::Command};

#[test]
fn the_python_packages_tests_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let output = Command::new("python3")
        .args(["-B", "-m", "unittest", "discover", "-s", "tests"])
        .current_dir(folder)
        .env_remove("FLOPSPROF_OUT")
        .env_remove("PRETRAIN_FLOPS")
        .output()
        .expect("python3: it is needed for these tests");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // unittest is content when it finds no tests at all.
    let ran = said.lines().find_map(|l| l.strip_prefix("Ran ")?.split(' ').next()?.parse::<u32>().ok());
    assert!(ran.is_some_and(|n| n >= 20) && !said.contains("skipped"), "{said}");
}
