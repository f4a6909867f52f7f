//! `flopsprof seal`: signs a run's evidence.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use flopsprof::{
    evidence::read::ReadError,
    seal::{
        FILE_NAME, SealError,
        dsse::{Envelope, IN_TOTO},
        key,
        statement::{self, Resource},
    },
};

use super::library;

/// There is no evidence, or it cannot be read.
const NO_EVIDENCE: u8 = 3;

/// Sign a run's evidence: who, when, which files, by which library and settings.
///
/// Writes an in-toto Statement v1 in a DSSE envelope, signed with Ed25519. The run has to have ended, and its evidence has to hold (flopsprof verify): what was
/// changed before is not sealed. What a seal proves and what it cannot stands in docs/threat-model.md.
///
/// Exit status: 0; 1 if the evidence does not hold, its process still runs, or the key or the seal cannot be read or written; 2 for wrong usage; 3 if there is
/// no evidence.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  flopsprof seal --new-key lab.pem run7\n  flopsprof seal --key lab.pem --with report.json run7\n  flopsprof verify --key lab.pub.pem run7"
)]
pub(crate) struct Args {
    /// The run's folder
    #[arg(value_name = "DIR")]
    run: PathBuf,
    /// Private key, Ed25519 in PKCS#8 PEM (openssl genpkey -algorithm ed25519)
    #[arg(long, value_name = "FILE", required_unless_present = "new_key", conflicts_with = "new_key")]
    key: Option<PathBuf>,
    /// Make a new key there, readable by you alone, and its public half beside it (lab.pem, lab.pub.pem)
    #[arg(long, value_name = "FILE")]
    new_key: Option<PathBuf>,
    /// Seal a further file of the folder too: a report
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Where to write the seal [default: seal.dsse.json in the folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace a seal that is there
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    if !args.run.is_dir() {
        bail!("{}: a run's folder is sealed, all its files together", args.run.display());
    }
    let out = args.out.clone().unwrap_or_else(|| args.run.join(FILE_NAME));
    if out.exists() && !args.force {
        bail!("{}: there is a seal already: verify it, or replace it with --force", out.display());
    }
    let read = match statement::read(&args.run) {
        Err(SealError::Read(e @ (ReadError::Empty { .. } | ReadError::Io { .. } | ReadError::Newer { .. }))) => {
            eprintln!("flopsprof: {e}");
            return Ok(ExitCode::from(NO_EVIDENCE));
        }
        read => read?,
    };
    let others = args.with.iter().map(|path| other(&args.run, path)).collect::<Result<Vec<_>>>()?;
    // Before the key is made: a run that cannot be sealed leaves no key behind.
    let library = library::path().ok().and_then(|p| resource(&p));
    let command = std::env::current_exe().ok().and_then(|p| resource(&p));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let statement = statement::state(&read, &others, library, command, now);
    let key = match (&args.key, &args.new_key) {
        (Some(path), _) => key::read_private(path)?,
        (None, Some(path)) => key::generate(path)?,
        (None, None) => bail!("--key or --new-key is needed"),
    };
    let envelope = Envelope::sign(IN_TOTO, &serde_json::to_vec(&statement)?, &key);
    write(&out, format!("{}\n", serde_json::to_string_pretty(&envelope)?).as_bytes())?;
    println!(
        "sealed {} file(s){} in {}\nkey {}",
        statement.subject.len(),
        if statement.predicate.simulated { " (simulated: no measurement)" } else { "" },
        out.display(),
        key::key_id(&key.verifying_key())
    );
    if let Some(path) = &args.new_key {
        println!("new key: {} (keep it), {} (give it to who verifies)", path.display(), key::public_path(path).display());
    }
    if statement.predicate.library.is_none() {
        eprintln!("flopsprof: the injected library was not found here, so its digest is not in the seal (FLOPSPROF_LIB names it)");
    }
    Ok(ExitCode::SUCCESS)
}

/// A further file. It is found again by its name in the run's folder, so it has to be there.
fn other(run: &Path, path: &Path) -> Result<(String, Vec<u8>)> {
    let name = path.file_name().with_context(|| format!("{}: not a file", path.display()))?.to_string_lossy().into_owned();
    let inside = run.join(&name);
    let same = fs::canonicalize(path).ok().filter(|p| Some(p) == fs::canonicalize(&inside).ok().as_ref());
    if same.is_none() {
        bail!("{}: only a file that lies in {} can be sealed with it: copy it there", path.display(), run.display());
    }
    Ok((name, fs::read(path).with_context(|| path.display().to_string())?))
}

fn resource(path: &Path) -> Option<Resource> {
    Some(Resource::of(&path.file_name()?.to_string_lossy(), &fs::read(path).ok()?))
}

/// Whole or not at all: the new file takes the place of the old one.
fn write(out: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = out.with_file_name(name);
    fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, out)).with_context(|| {
        let _ = fs::remove_file(&beside);
        out.display().to_string()
    })
}
