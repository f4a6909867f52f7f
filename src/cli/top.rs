//! `flopsprof top`: the kernels of a live run.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Result;
use flopsprof::{evidence::follow::Follow, report::top::Top};

/// There is no evidence.
const NO_EVIDENCE: u8 = 3;

/// Show what a run does at the moment: its rate, and the kernels of its last census.
///
/// Follows the evidence until every process that wrote some is over, by itself or killed; Ctrl-C ends it sooner. Of processes of other machines nobody here can tell:
/// how old their newest line is, is said. Where stdout is no terminal, or with --once, it is printed once.
///
/// Exit status: 0; 3 if there is no evidence.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flopsprof top run7\n  flopsprof top --once run7")]
pub(crate) struct Args {
    /// The run's folder
    #[arg(value_name = "DIR")]
    run: PathBuf,
    /// Print it once
    #[arg(long)]
    once: bool,
    /// Kernels to show for each process
    #[arg(long, short = 'n', value_name = "N", default_value_t = 15)]
    kernels: usize,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    every: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|s| (0.1..=3600.0).contains(s))
        .ok_or_else(|| format!("`{text}` is not a number of seconds from 0.1 to 3600"))
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let mut follow = Follow::new(&args.run);
    let mut top = Top::default();
    let once = args.once || !std::io::stdout().is_terminal();
    loop {
        for (file, line) in follow.look() {
            top.add(&file, &line);
        }
        if follow.files() == 0 {
            eprintln!(
                "flopsprof: {}: no evidence (*.jsonl) in this folder: was the job started with the library, and does it use CUDA?",
                args.run.display()
            );
            return Ok(ExitCode::from(NO_EVIDENCE));
        }
        top.look();
        let mut out = std::io::stdout().lock();
        if !once {
            // Home, and what was there is gone.
            out.write_all(b"\x1b[H\x1b[2J")?;
        }
        out.write_all(top.text(args.kernels).as_bytes())?;
        out.flush()?;
        if once || top.is_over() {
            return Ok(ExitCode::SUCCESS);
        }
        drop(out);
        thread::sleep(Duration::from_secs_f64(args.every));
    }
}
