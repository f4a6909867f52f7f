//! Checks a run: the hash chain of every file, and what is there against the seal.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use ed25519_dalek::VerifyingKey;

use super::{
    FILE_NAME, SealError,
    dsse::Envelope,
    key::key_id,
    statement::{File, PREDICATE_TYPE, Resource, STATEMENT_TYPE, Statement},
};
use crate::evidence::read::{self, ProcessEvidence, ReadError};

/// How a check ends, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything holds.
    Holds,
    /// Nothing is wrong, but a file lacks its end, and no seal says that it did when it was sealed: its process was killed, or it was cut.
    Incomplete,
    /// Evidence or seal were changed.
    Changed,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it means.
    pub outcome: Outcome,
    /// The file.
    pub path: PathBuf,
    /// The line, where it is about one.
    pub line: Option<usize>,
    /// What was found.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.what),
            None => write!(f, "{}: {}", self.path.display(), self.what),
        }
    }
}

/// What is known of the seal.
#[derive(Clone, Debug, PartialEq)]
pub enum Sealed {
    /// There is none.
    No,
    /// There is one; nobody gave a key to check its signature with.
    Unchecked(Box<Statement>),
    /// It is signed by the key that was given.
    By {
        /// The key's id.
        key: String,
        /// What was signed.
        statement: Box<Statement>,
    },
}

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verification {
    /// Evidence files that were looked at.
    pub files: usize,
    /// Lines in them.
    pub lines: usize,
    /// The stand-in GPU was used.
    pub simulated: bool,
    /// The seal.
    pub sealed: Sealed,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Verification {
    /// The worst of what was found.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.findings.iter().map(|f| f.outcome).max().unwrap_or(Outcome::Holds)
    }
}

/// Checks a run's folder, or a single evidence file. The seal is looked for in the folder unless one is named; with a key it has to be there.
///
/// # Errors
/// [`SealError`] when something cannot be read at all, or is of a newer version. What was changed is no error but a [`Finding`].
pub fn verify(run: &Path, seal: Option<&Path>, key: Option<&VerifyingKey>) -> Result<Verification, SealError> {
    let mut v = Verification { files: 0, lines: 0, simulated: false, sealed: Sealed::No, findings: Vec::new() };
    let folder = if run.is_dir() { run } else { run.parent().unwrap_or(Path::new(".")) };
    let seal_path = seal.map_or_else(|| folder.join(FILE_NAME), Path::to_owned);
    if seal.is_some() || key.is_some() || seal_path.exists() {
        v.sealed = read_seal(&seal_path, key, &mut v.findings)?;
    }
    let paths = match read::files(run) {
        Ok(paths) => paths,
        // All files gone is worth more than "no evidence" when a seal names them.
        Err(ReadError::Empty { .. }) if !matches!(v.sealed, Sealed::No) => Vec::new(),
        Err(e) => return Err(e.into()),
    };
    let statement = match &v.sealed {
        Sealed::No => None,
        Sealed::Unchecked(s) | Sealed::By { statement: s, .. } => Some((**s).clone()),
    };
    let mut seen = BTreeSet::new();
    for path in paths {
        let bytes = fs::read(&path).map_err(|cause| SealError::Io { path: path.clone(), cause })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sealed = statement.as_ref().map(|s| (s, s.subject.iter().find(|r| r.name == name)));
        let evidence = check_chain(&path, &bytes, &mut v)?;
        match sealed {
            Some((statement, Some(resource))) => {
                let file = statement.predicate.evidence.iter().find(|f| f.name == name);
                compare(&path, &bytes, evidence.as_ref(), resource, file, &mut v.findings);
            }
            Some((_, None)) => v.findings.push(changed(&path, None, "is not in the seal: it was added or renamed after sealing")),
            None => incomplete(&path, evidence.as_ref(), &mut v.findings),
        }
        seen.insert(name);
    }
    // A single file is checked as it is asked for; a folder has to hold all that was sealed.
    for resource in statement.iter().flat_map(|s| &s.subject).filter(|r| run.is_dir() && !seen.contains(&r.name)) {
        let path = folder.join(&resource.name);
        // Files that are no evidence (a report) stand in the seal too.
        match fs::read(&path) {
            Ok(bytes) if Resource::of(&resource.name, &bytes).sha256() == resource.sha256() => {}
            Ok(_) => v.findings.push(changed(&path, None, "was changed after it was sealed")),
            Err(_) => v.findings.push(changed(&path, None, "stands in the seal and is missing")),
        }
    }
    Ok(v)
}

fn changed(path: &Path, line: Option<usize>, what: impl Into<String>) -> Finding {
    Finding { outcome: Outcome::Changed, path: path.to_owned(), line, what: what.into() }
}

fn read_seal(path: &Path, key: Option<&VerifyingKey>, findings: &mut Vec<Finding>) -> Result<Sealed, SealError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            findings.push(changed(path, None, "there is no seal here to check"));
            return Ok(Sealed::No);
        }
        Err(cause) => return Err(SealError::Io { path: path.to_owned(), cause }),
    };
    let statement = parse(path, &bytes, key);
    match (statement, key) {
        (Ok(statement), Some(key)) => Ok(Sealed::By { key: key_id(key), statement: Box::new(statement) }),
        (Ok(statement), None) => Ok(Sealed::Unchecked(Box::new(statement))),
        (Err(SealError::NotSeal { why, .. }), _) => {
            findings.push(changed(path, None, why));
            Ok(Sealed::No)
        }
        (Err(e), _) => Err(e),
    }
}

/// The statement of a seal; with a key, only if it is signed by that key.
///
/// # Errors
/// [`SealError::NotSeal`], [`SealError::Newer`].
pub fn parse(path: &Path, bytes: &[u8], key: Option<&VerifyingKey>) -> Result<Statement, SealError> {
    let not_seal = |why: String| SealError::NotSeal { path: path.to_owned(), why };
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|e| not_seal(format!("it is no DSSE envelope: {e}")))?;
    let payload = match key {
        Some(key) => envelope.verified_payload(key),
        None => envelope.payload(),
    };
    let payload = payload.map_err(not_seal)?;
    // The version alone first: a newer statement may not be readable.
    let value: serde_json::Value = serde_json::from_slice(&payload).map_err(|e| not_seal(format!("its statement: {e}")))?;
    if value["_type"] != STATEMENT_TYPE || value["predicateType"] != PREDICATE_TYPE {
        return Err(not_seal(format!("it states {}, not {PREDICATE_TYPE}", value["predicateType"])));
    }
    let format = value["predicate"]["format"].as_u64().unwrap_or(0);
    if format > u64::from(super::statement::FORMAT) {
        return Err(SealError::Newer {
            path: path.to_owned(),
            found: u32::try_from(format).unwrap_or(u32::MAX),
            known: super::statement::FORMAT,
            version: value["predicate"]["flopsprof"].as_str().unwrap_or("").to_owned(),
        });
    }
    serde_json::from_value(value).map_err(|e| not_seal(format!("its statement: {e}")))
}

/// The chain of one file. None when it cannot be read as evidence at all, which is a finding, not the end of the check: other files may hold.
fn check_chain(path: &Path, bytes: &[u8], v: &mut Verification) -> Result<Option<ProcessEvidence>, SealError> {
    v.files += 1;
    match read::parse(path, bytes) {
        Ok(evidence) => {
            v.lines += evidence.lines.len();
            v.simulated |= evidence.start.simulated;
            v.findings.extend(evidence.breaks.iter().map(|b| changed(path, Some(b.line), b.what.clone())));
            Ok(Some(evidence))
        }
        Err(ReadError::NotEvidence { why, .. }) => {
            // Not even one whole line: its process was killed while it wrote the first.
            let outcome = if bytes.contains(&b'\n') { Outcome::Changed } else { Outcome::Incomplete };
            v.findings.push(Finding { outcome, path: path.to_owned(), line: Some(1), what: why });
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

/// A file that nobody sealed has to end with its last record.
fn incomplete(path: &Path, evidence: Option<&ProcessEvidence>, findings: &mut Vec<Finding>) {
    let Some(evidence) = evidence.filter(|e| !e.ended || e.torn_tail) else { return };
    let where_ = if evidence.torn_tail { "ends inside a line" } else { "ends without its last record" };
    findings.push(Finding {
        outcome: Outcome::Incomplete,
        path: path.to_owned(),
        line: None,
        what: format!("{where_}: its process was killed, or the file was cut; without a seal nobody can tell which"),
    });
}

/// A file against what was sealed, with what differs where that can be told.
fn compare(
    path: &Path,
    bytes: &[u8],
    evidence: Option<&ProcessEvidence>,
    resource: &Resource,
    file: Option<&File>,
    findings: &mut Vec<Finding>,
) {
    if Resource::of(&resource.name, bytes).sha256() == resource.sha256() {
        return;
    }
    let what = match (evidence, file) {
        (Some(e), Some(file)) if e.breaks.is_empty() => {
            let common = e.hashes.get(file.lines.wrapping_sub(1)) == Some(&file.chain_end);
            if e.hashes.len() < file.lines {
                format!("was cut after it was sealed: {} of {} lines are left", e.hashes.len(), file.lines)
            } else if common && e.hashes.len() > file.lines {
                format!("grew after it was sealed: {} lines then, {} now", file.lines, e.hashes.len())
            } else if common {
                "was changed behind its last line after it was sealed".to_owned()
            } else {
                "was written anew after it was sealed".to_owned()
            }
        }
        _ => "was changed after it was sealed".to_owned(),
    };
    findings.push(changed(path, None, what));
}
