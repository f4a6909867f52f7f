//! The cumulative ledger: what was spent on one modification of one base model, over runs, restarts and rounds.
//!
//! The Guidelines look at a model over its whole life, not at one job. So runs are added to a ledger, each once: a run is known by its files, and a file by
//! the hash of its first line, which names process, machine and moment. A run that is added again, under whatever path, replaces itself; one that has grown
//! replaces what it was, if what was there before is still its beginning; one that has shrunk or was written anew is refused. A job that crashed and was resumed
//! counts what both halves executed, steps done twice included, because they were executed.
//!
//! What is decided here is pure; [`gather`] reads a run, and [`store`] keeps the ledger.

pub mod gather;
pub mod store;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    evidence::{read::ProcessEvidence, record::Record},
    rule::{Component, Gap, Input, Origin},
};

/// A run in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is called: the folder's name.
    pub name: String,
    /// When its first process began, Unix time, seconds.
    pub began_unix_s: u64,
    /// Its files.
    pub files: Vec<File>,
    /// What its operations were for.
    pub components: Vec<Component>,
    /// What is missing in it.
    pub gaps: Vec<Gap>,
    /// Why it cannot be relied on.
    pub doubts: Vec<String>,
    /// It was run on the stand-in GPU.
    pub simulated: bool,
}

/// An evidence file, as it was when it was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Hash of its first line: whose evidence it is.
    pub key: String,
    /// Its name.
    pub name: String,
    /// Its lines.
    pub lines: usize,
    /// Hash of the last of them.
    pub chain_end: String,
    /// Its process ended.
    pub ended: bool,
}

impl File {
    /// A file as it is now.
    #[must_use]
    pub fn of(evidence: &ProcessEvidence) -> Self {
        Self {
            key: evidence.hashes.first().cloned().unwrap_or_default(),
            name: evidence.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            lines: evidence.lines.len(),
            chain_end: evidence.hashes.last().cloned().unwrap_or_default(),
            ended: matches!(evidence.lines.last().map(|l| &l.record), Some(Record::End(_))),
        }
    }
}

/// An entry that is in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kept {
    /// Its number, for `remove`.
    pub id: i64,
    /// When it was added, Unix time, seconds.
    pub added_unix_s: u64,
    /// The entry.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What adding an entry does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It was not there.
    New,
    /// It takes the place of these: it is the same run, unchanged, grown, or put together.
    Replaces(Vec<i64>),
}

/// Why an entry cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlaceError {
    /// Some of the run's files are not there any more.
    #[error(
        "{name} shares evidence with entry {id}, which has {} that are not here: add the whole run, or `ledger remove {id}` first",
        files.join(", ")
    )]
    Missing {
        /// The run.
        name: String,
        /// The entry.
        id: i64,
        /// The files.
        files: Vec<String>,
    },
    /// A file is shorter than it was.
    #[error("{file} had {was} lines when entry {id} was added, and has {now}: it was cut since (`flopsprof verify`)")]
    Shorter {
        /// The file.
        file: String,
        /// The entry.
        id: i64,
        /// Lines then.
        was: usize,
        /// Lines now.
        now: usize,
    },
    /// A file does not begin with what it was.
    #[error("{file} does not begin any more with what it was when entry {id} was added: it was written anew (`flopsprof verify`)")]
    Rewritten {
        /// The file.
        file: String,
        /// The entry.
        id: i64,
    },
    /// Real and simulated runs do not add up.
    #[error("{name} is {}, and the runs of this modification so far are {}: give simulated runs a modification of their own", said(*simulated), said(!simulated))]
    Simulated {
        /// The run.
        name: String,
        /// Whether it is.
        simulated: bool,
    },
}

const fn said(simulated: bool) -> &'static str {
    if simulated { "simulated" } else { "measured" }
}

/// Where an entry belongs among those of the same modification. `chains` are the hashes of its files' lines, in the order of the files.
///
/// # Errors
/// [`PlaceError`].
pub fn place(new: &Entry, chains: &[Vec<String>], kept: &[Kept]) -> Result<Placement, PlaceError> {
    let mut replaced = Vec::new();
    for old in kept {
        let overlaps = old.entry.files.iter().any(|f| new.files.iter().any(|n| n.key == f.key));
        if !overlaps {
            continue;
        }
        let missing = old.entry.files.iter().filter(|f| !new.files.iter().any(|n| n.key == f.key));
        let missing: Vec<String> = missing.map(|f| f.name.clone()).collect();
        if !missing.is_empty() {
            return Err(PlaceError::Missing { name: new.name.clone(), id: old.id, files: missing });
        }
        for file in &old.entry.files {
            let Some(now) = chains.iter().find(|c| c.first() == Some(&file.key)) else { continue };
            if now.len() < file.lines {
                let (was, now) = (file.lines, now.len());
                return Err(PlaceError::Shorter { file: file.name.clone(), id: old.id, was, now });
            }
            if now.get(file.lines.wrapping_sub(1)) != Some(&file.chain_end) {
                return Err(PlaceError::Rewritten { file: file.name.clone(), id: old.id });
            }
        }
        replaced.push(old.id);
    }
    if kept.iter().any(|k| !replaced.contains(&k.id) && k.entry.simulated != new.simulated) {
        return Err(PlaceError::Simulated { name: new.name.clone(), simulated: new.simulated });
    }
    Ok(if replaced.is_empty() { Placement::New } else { Placement::Replaces(replaced) })
}

/// Everything that was spent, as the rule wants it: each component and each gap says which run it is of.
#[must_use]
pub fn input(origin: Origin, kept: &[Kept]) -> Input {
    let of = |k: &Kept, what: &str| format!("run {} ({}): {what}", k.id, k.entry.name);
    Input {
        origin,
        components: kept
            .iter()
            .flat_map(|k| k.entry.components.iter().map(move |c| Component { what: of(k, &c.what), ..c.clone() }))
            .collect(),
        gaps: kept.iter().flat_map(|k| k.entry.gaps.iter().map(move |g| Gap { what: of(k, &g.what), ..g.clone() })).collect(),
        doubts: kept.iter().flat_map(|k| k.entry.doubts.iter().map(move |d| of(k, d))).collect(),
        simulated: kept.iter().any(|k| k.entry.simulated),
    }
}

/// The base model that an origin names, as the ledger knows it: without its organisation, in lower case, so that two ways of writing it are one model.
#[must_use]
pub fn base_key(origin: &Origin) -> String {
    match origin {
        Origin::Modification(base) => name_key(&base.name),
        Origin::Own { name, .. } => name_key(name),
        Origin::Scratch => "(from scratch)".to_owned(),
        Origin::NotStated => "(not stated)".to_owned(),
    }
}

/// A model's name as the ledger knows it.
#[must_use]
pub fn name_key(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).trim().to_ascii_lowercase()
}
