//! The committed probes are what their source says.

use std::{fs, path::Path, process::Command};

/// Runs a command that has to work, and says what it said if it does not.
fn must(command: &mut Command, why: &str) {
    let output = command.output().unwrap_or_else(|e| panic!("{why}: {command:?}: {e}"));
    assert!(output.status.success(), "{why}: {command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn there(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success())
}

#[test]
fn the_committed_object_is_what_the_source_builds() {
    if !there("clang-19") || !there("llvm-strip-19") {
        let why = "clang-19 is needed to build the probes again, and is not here; installing it needs root and Debian's archive";
        must(Command::new("apt-get").args(["update", "-qq"]), why);
        must(Command::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends", "clang-19", "llvm-19"]), why);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ebpf");
    let built = tempfile::tempdir().expect("a temporary folder");
    let again = built.path().join("again.o");
    must(Command::new(folder.join("build")).arg(&again), "building the probes");
    let (again, committed) =
        (fs::read(again).expect("the object"), fs::read(folder.join("flopsprof.bpf.o")).expect("the committed object"));
    assert!(again == committed, "ebpf/flopsprof.bpf.o is not what ebpf/probe builds: run ebpf/build and commit it");
    // And it is what the loader is handed.
    assert!(flopsprof_ebpf::object() == committed);
}
