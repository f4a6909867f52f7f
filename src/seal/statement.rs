//! The in-toto statement about a run: which files it consists of, and by what they were made.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::SealError;
use crate::evidence::{
    hex,
    life::Life,
    read::{self, ProcessEvidence},
};

/// in-toto's type of a statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// What the predicate is about: a run.
pub const PREDICATE_TYPE: &str = "https://github.com/flopsprof/flopsprof/run/v1";
/// Version of [`Run`].
pub const FORMAT: u32 = 1;

/// A statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// The files, by name.
    pub subject: Vec<Resource>,
    /// [`PREDICATE_TYPE`].
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What is said of them.
    pub predicate: Run,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its name, without a folder.
    pub name: String,
    /// Its digests, by algorithm: `sha256`.
    pub digest: BTreeMap<String, String>,
}

impl Resource {
    /// A file by its bytes.
    #[must_use]
    pub fn of(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), digest: BTreeMap::from([("sha256".to_owned(), hex(&Sha256::digest(bytes)))]) }
    }

    /// Its SHA-256, in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> &str {
        self.digest.get("sha256").map_or("", String::as_str)
    }
}

/// What a seal says of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of flopsprof that sealed.
    pub flopsprof: String,
    /// When, by the sealing machine's clock, seconds since 1970.
    pub sealed_unix_s: u64,
    /// The stand-in GPU was used: no number in the evidence is a measurement.
    pub simulated: bool,
    /// The injected library, as it lay beside the command when the run was sealed; none when it was not found.
    pub library: Option<Resource>,
    /// The command that sealed.
    pub command: Option<Resource>,
    /// Versions of flopsprof that wrote the evidence.
    pub written_by: BTreeSet<String>,
    /// SHA-256 of the settings of all processes (environment variables of flopsprof and of the launcher), in hexadecimal. The settings themselves stand in the
    /// evidence.
    pub configuration_sha256: String,
    /// The evidence, file by file.
    pub evidence: Vec<File>,
}

/// One evidence file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its whole lines.
    pub lines: usize,
    /// Hash of the last of them: the end of the chain.
    pub chain_end: String,
    /// Its last line says that the process ended.
    pub ended: bool,
    /// It ends inside a line (the process was killed, the disk was full).
    pub torn_tail: bool,
}

/// The files that stood behind a statement, as they were read once: what was checked is what is signed.
pub struct Read {
    /// Bytes of each file.
    bytes: Vec<(String, Vec<u8>)>,
    /// What they say.
    evidence: Vec<ProcessEvidence>,
}

/// Reads a run's evidence for sealing, and refuses what does not hold or is still being written.
///
/// # Errors
/// [`SealError`].
pub fn read(folder: &Path) -> Result<Read, SealError> {
    let mut read = Read { bytes: Vec::new(), evidence: Vec::new() };
    for path in read::files(folder)? {
        let bytes = fs::read(&path).map_err(|cause| SealError::Io { path: path.clone(), cause })?;
        let evidence = read::parse(&path, &bytes)?;
        if let Some(b) = evidence.breaks.first() {
            return Err(SealError::Broken { path, line: b.line, what: b.what.clone() });
        }
        if !evidence.ended && matches!(Life::of(&evidence.start), Life::Runs | Life::Left) {
            return Err(SealError::Running { path, pid: evidence.start.process.pid });
        }
        read.bytes.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes));
        read.evidence.push(evidence);
    }
    Ok(read)
}

/// States what was read. `others` are further files to name (a report), `library` and `command` what made them.
#[must_use]
pub fn state(
    read: &Read,
    others: &[(String, Vec<u8>)],
    library: Option<Resource>,
    command: Option<Resource>,
    sealed_unix_s: u64,
) -> Statement {
    let subject = read.bytes.iter().chain(others).map(|(name, bytes)| Resource::of(name, bytes)).collect();
    let mut settings = Sha256::new();
    for e in &read.evidence {
        for (name, value) in e.start.configuration.iter().chain(&e.start.job) {
            settings.update(format!("{}\0{name}\0{value}\0", e.path.file_name().unwrap_or_default().display()));
        }
    }
    let file = |((name, bytes), e): (&(String, Vec<u8>), &ProcessEvidence)| File {
        name: name.clone(),
        bytes: bytes.len() as u64,
        lines: e.lines.len(),
        chain_end: e.hashes.last().cloned().unwrap_or_default(),
        ended: e.ended,
        torn_tail: e.torn_tail,
    };
    Statement {
        kind: STATEMENT_TYPE.to_owned(),
        subject,
        predicate_type: PREDICATE_TYPE.to_owned(),
        predicate: Run {
            format: FORMAT,
            flopsprof: env!("CARGO_PKG_VERSION").to_owned(),
            sealed_unix_s,
            simulated: read.evidence.iter().any(|e| e.start.simulated),
            library,
            command,
            written_by: read.evidence.iter().map(|e| e.start.version.clone()).collect(),
            configuration_sha256: hex(&settings.finalize()),
            evidence: read.bytes.iter().zip(&read.evidence).map(file).collect(),
        },
    }
}
