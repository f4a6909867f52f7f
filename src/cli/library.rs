//! Where the library that belongs to this command is, and `flopsprof lib`, which prints it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

/// The file's name.
const NAME: &str = "libflopsprof.so";

/// The library beside the command, in `../lib`, or where `FLOPSPROF_LIB` says.
pub(crate) fn path() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("FLOPSPROF_LIB").filter(|v| !v.is_empty()) {
        let named = PathBuf::from(named);
        return std::fs::canonicalize(&named).with_context(|| format!("FLOPSPROF_LIB={}", named.display()));
    }
    let exe = std::env::current_exe().context("finding this command's own file")?;
    let folder = exe.parent().context("this command's file has no folder")?;
    let places = [folder.join(NAME), folder.join("../lib").join(NAME)];
    match places.iter().find(|p| p.exists()) {
        Some(found) => Ok(std::fs::canonicalize(found)?),
        None => bail!(
            "{NAME} is not at {} nor {}: build it with this command, or set FLOPSPROF_LIB to its path",
            places[0].display(),
            places[1].display()
        ),
    }
}

/// Print the path of the library that belongs to this command.
///
/// Exit status: 0; 1 if it is not there.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  LD_PRELOAD=$(flopsprof lib) python train.py")]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> Result<ExitCode> {
    println!("{}", path()?.display());
    Ok(ExitCode::SUCCESS)
}
