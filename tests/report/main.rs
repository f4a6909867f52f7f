//! The report in each of its forms, by its readers: auditors (HTML, print), pipelines (the AWS toolkit's file), and what many ranks add up to.

#[path = "../synthetic/mod.rs"]
#[allow(dead_code, reason = "the tests of the command use the rest")]
mod synthetic;
#[path = "../synthetic/many.rs"]
mod thousands;

mod aws;
mod completeness;
mod errors;
mod golden;
mod html;
mod kernels;
mod many;
mod tiles;
mod unmeasured;

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Output},
};

/// The command, with nothing from outside that it would take for its own.
fn flopsprof() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flopsprof"));
    let ours = |name: &str| name.starts_with("FLOPSPROF_") || name == "PRETRAIN_FLOPS" || name.starts_with("TRAINING_");
    for (name, _) in std::env::vars_os().filter(|(n, _)| ours(&n.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// `flopsprof report` with options.
fn report(folder: &Path, options: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    flopsprof().arg("report").args(options).arg(folder).output().expect("the command")
}
