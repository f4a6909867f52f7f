//! The command `flopsprof`: a file a verb, no logic here.
//!
//! What a verb prints goes to stdout, what is wrong to stderr as `flopsprof: …`; exit codes stand in each verb's help. Where none is said, 0 is
//! success, 1 an error and 2 a usage error.

mod base;
mod configuration;
mod count;
mod demo;
mod doctor;
mod estimate;
mod ledger;
mod library;
mod live;
mod plan;
mod recipe;
mod report;
mod row;
mod run;
mod seal;
mod top;
mod verify;
mod watch;
mod witness;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Count, from the GPU's own counters, the floating-point operations a training job really executed.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  flopsprof run python train.py\n  flopsprof report flopsprof-1795519003-42\n  LD_PRELOAD=$(flopsprof lib) python train.py"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Args),
    Report(Box<report::Args>),
    Top(top::Args),
    Watch(watch::Args),
    Estimate(Box<estimate::Args>),
    Ledger(ledger::Args),
    Verify(verify::Args),
    Seal(seal::Args),
    Plan(plan::Args),
    Doctor(doctor::Args),
    Demo(demo::Args),
    Lib(library::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(args) => run::run(args),
        Verb::Report(args) => report::run(*args),
        Verb::Top(args) => top::run(args),
        Verb::Watch(args) => watch::run(args),
        Verb::Estimate(args) => estimate::run(*args),
        Verb::Ledger(args) => ledger::run(args),
        Verb::Verify(args) => verify::run(args),
        Verb::Seal(args) => seal::run(args),
        Verb::Plan(args) => plan::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Demo(args) => demo::run(args),
        Verb::Lib(args) => library::run(args),
    };
    match result {
        Ok(code) => code,
        // A reader that has seen enough (`flopsprof report … | head`) is no error.
        Err(e) if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("flopsprof: {e:#}");
            ExitCode::FAILURE
        }
    }
}
