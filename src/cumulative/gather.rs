//! Reads a run once: what it adds up to, and by what its files are known again.

use std::path::Path;

use super::File;
use crate::{
    evidence::read::{self, ReadError},
    ledger::{FileTotal, Ledger, RunTotal},
};

/// A run that was read.
#[derive(Debug)]
pub struct Gathered {
    /// What it adds up to.
    pub total: RunTotal,
    /// Its files, each once.
    pub files: Vec<File>,
    /// The hash of each line of these files, in the same order.
    pub chains: Vec<Vec<String>>,
    /// When its first process began, Unix time, seconds.
    pub began_unix_s: u64,
}

/// Reads a run's folder, or one evidence file. In a folder a file without a whole line, of a process that was killed while it wrote the first, is named in the
/// total.
///
/// # Errors
/// [`ReadError`] when there is no evidence, or some of a newer format.
pub fn gather(run: &Path) -> Result<Gathered, ReadError> {
    let paths = read::files(run)?;
    let mut ledger = Ledger::default();
    let (mut files, mut chains, mut unreadable) = (Vec::<File>::new(), Vec::new(), Vec::new());
    let (mut began_ns, mut error) = (u64::MAX, None);
    let of = |e: read::ProcessEvidence| (FileTotal::of(&e), File::of(&e), e.hashes, e.start.unix_ns);
    read::each_file(&paths, of, |result| match result {
        Ok((total, file, chain, unix_ns)) => {
            // The ledger names a second copy, and leaves it out as this does.
            if !files.iter().any(|f| f.key == file.key) {
                files.push(file);
                chains.push(chain);
                began_ns = began_ns.min(unix_ns);
            }
            ledger.add(total);
        }
        Err(ReadError::NotEvidence { path, why }) if run.is_dir() => unreadable.push((path, why)),
        Err(e) => error = error.take().or(Some(e)),
    });
    if let Some(e) = error {
        return Err(e);
    }
    if files.is_empty() {
        let (path, why) = unreadable.into_iter().next().unwrap_or_default();
        return Err(ReadError::NotEvidence { path, why });
    }
    let mut total = ledger.total();
    total.unreadable = unreadable.into_iter().map(|(path, why)| format!("{}: {why}", path.display())).collect();
    Ok(Gathered { total, files, chains, began_unix_s: began_ns / 1_000_000_000 })
}
