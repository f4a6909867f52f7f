//! `flopsprof verify`: whether evidence is what was written, and what was sealed.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use flopsprof::seal::{
    SealError, key,
    verify::{Outcome, Sealed, verify},
};

/// Evidence or seal were changed.
const CHANGED: u8 = 1;
/// There is no evidence, or it cannot be read.
const NO_EVIDENCE: u8 = 3;
/// A file lacks its end.
const INCOMPLETE: u8 = 4;

/// Check that a run's evidence was not changed, and that its seal holds.
///
/// Every line carries the hash of the one before it and its own: a changed, dropped, swapped or repeated line is found, and the line where the chain breaks is
/// named. A file that was cut at the end of a line looks like one whose process was killed there; only a seal tells the two apart. Without a seal nothing
/// here stops somebody who writes the whole file anew.
///
/// Exit status: 0 if everything holds; 1 if evidence or seal were changed, the key is another one, or a key was given and there is no seal; 2 for wrong usage; 3
/// if there is no evidence, or it cannot be read (a newer version's); 4 if nothing was changed but a file that no seal vouches for lacks its end.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flopsprof verify run7\n  flopsprof verify --key auditor.pub.pem run7")]
pub(crate) struct Args {
    /// The run's folder, or a single evidence file
    #[arg(value_name = "DIR")]
    run: PathBuf,
    /// Public key (PEM) that the seal has to be signed with
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The seal [default: seal.dsse.json in the folder]
    #[arg(long, value_name = "FILE")]
    seal: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let key = args.key.as_deref().map(key::read_public).transpose()?;
    let v = match verify(&args.run, args.seal.as_deref(), key.as_ref()) {
        Ok(v) => v,
        Err(e @ (SealError::Read(_) | SealError::Newer { .. } | SealError::Io { .. })) => {
            eprintln!("flopsprof: {e}");
            return Ok(ExitCode::from(NO_EVIDENCE));
        }
        Err(e) => return Err(e.into()),
    };
    for finding in &v.findings {
        println!("{finding}");
    }
    println!("{} file(s), {} lines{}", v.files, v.lines, if v.simulated { ", simulated: no measurement" } else { "" });
    match &v.sealed {
        Sealed::No => println!("seal: none"),
        Sealed::Unchecked(s) => {
            println!("seal: of {} file(s), its signature NOT checked: give the signer's public key with --key", s.subject.len());
        }
        Sealed::By { key, statement } => println!("seal: of {} file(s), signed by {key}", statement.subject.len()),
    }
    Ok(match v.outcome() {
        Outcome::Holds => {
            println!("holds");
            ExitCode::SUCCESS
        }
        Outcome::Incomplete => {
            println!("nothing was changed, but a file lacks its end");
            ExitCode::from(INCOMPLETE)
        }
        Outcome::Changed => {
            println!("CHANGED");
            ExitCode::from(CHANGED)
        }
    })
}
