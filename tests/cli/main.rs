//! The command, as its users start it: what each verb prints, on which stream, and the exit code.

#[path = "../meter/harness.rs"]
#[expect(dead_code, reason = "the tests of the meter use the rest")]
mod harness;
#[path = "../synthetic/mod.rs"]
mod synthetic;

mod refused;
mod report;
mod terminal;
mod tools;
mod top;
mod wrapped;

use std::{
    ffi::OsStr,
    process::{Command, Output},
};

/// The command, with no setting of ours from outside.
fn flopsprof() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flopsprof"));
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("FLOPSPROF_")) {
        command.env_remove(name);
    }
    command
}

/// Runs it: exit code, stdout, stderr.
fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> (Option<i32>, String, String) {
    said(&flopsprof().args(args).output().expect("the command"))
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}
