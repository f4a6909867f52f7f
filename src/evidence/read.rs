//! Reads evidence files and checks what holds their lines together.
//!
//! A file may end in the middle of a line (the process was killed, the disk was full): what stands before is good. A line that does not
//! carry the hash of the line before it, does not match its own, or has a number out of order, means that the file was changed after it was written: it is still
//! read, unless it says what cannot be ([`super::sense`]), and the [`Break`] says where. A file that ends at the end of a line, but without its last record, may have been cut there or its process killed:
//! only a seal ([`crate::seal`]) tells these apart.

use std::{
    collections::BTreeMap,
    fs, io,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use thiserror::Error;

use super::{
    CHAIN_START, line_hash, own_hash_holds,
    record::{FORMAT, Line, Record, Start},
    sense::nonsense,
};

/// The format since which each line carries its own hash.
const OWN_HASH_SINCE: u32 = 2;

/// One process's evidence.
#[derive(Clone, Debug)]
pub struct ProcessEvidence {
    /// The file.
    pub path: PathBuf,
    /// Hash of its first line: the same in every copy of it, and in no other file.
    pub identity: String,
    /// Its first record.
    pub start: Start,
    /// `at_ns` of the first line.
    pub start_ns: u64,
    /// Every whole line that could be understood, in order.
    pub lines: Vec<Line>,
    /// Where the chain does not hold. Empty for a file nobody touched.
    pub breaks: Vec<Break>,
    /// The file ends inside a line.
    pub torn_tail: bool,
    /// Hash of each line in `lines`, in hexadecimal.
    pub hashes: Vec<String>,
    /// The last line says that the process ended.
    pub ended: bool,
}

/// A place where the chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// Line number from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

/// Why a file or folder cannot be read as evidence.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file system refused.
    #[error("{path}: {cause}")]
    Io {
        /// What was being read.
        path: PathBuf,
        /// What the file system said.
        cause: io::Error,
    },
    /// No first line, or one of something else.
    #[error("{path}: not an evidence file: {why}")]
    NotEvidence {
        /// The file.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// Written by a newer flopsprof.
    #[error("{path}: written in evidence format {found}, this flopsprof reads up to {FORMAT}: use flopsprof {version} or newer")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The version of its writer.
        version: String,
    },
    /// A folder without any.
    #[error("{path}: no evidence (*.jsonl) in this folder: was the job started with the library, and did it use CUDA?")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

/// Reads all evidence files of a run's folder (or one file), sorted by name.
///
/// # Errors
/// [`ReadError`] when the folder cannot be read or holds no evidence, or one of its files is none.
pub fn read_run(path: &Path) -> Result<Vec<ProcessEvidence>, ReadError> {
    files(path)?.iter().map(|p| read_file(p)).collect()
}

/// The evidence files of a run's folder, sorted by name, or the one file that is given.
///
/// # Errors
/// [`ReadError`] when the folder cannot be read or holds none.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let io = |cause| ReadError::Io { path: path.to_owned(), cause };
    if fs::metadata(path).map_err(io)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files: Vec<PathBuf> = fs::read_dir(path)
        .map_err(io)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|x| x == "jsonl"))
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(ReadError::Empty { path: path.to_owned() });
    }
    Ok(files)
}

/// Reads files on all cores and hands what `map` makes of each to `each`, in the order of the files. At any moment a few files are in memory, whatever their
/// number.
pub fn each_file<T: Send>(files: &[PathBuf], map: impl Fn(ProcessEvidence) -> T + Sync, mut each: impl FnMut(Result<T, ReadError>)) {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(files.len());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (send, results) = mpsc::sync_channel(2 * threads);
        for _ in 0..threads {
            let (send, next, map) = (send.clone(), &next, &map);
            scope.spawn(move || {
                while let Some((i, file)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, files.get(i)?))) {
                    if send.send((i, read_file(file).map(map))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let (mut due, mut early) = (0, BTreeMap::new());
        for (i, result) in results {
            early.insert(i, result);
            while let Some(result) = early.remove(&due) {
                each(result);
                due += 1;
            }
        }
    });
}

/// Reads one evidence file.
///
/// # Errors
/// [`ReadError`] when it cannot be read, or its first line is not that of an evidence file of a format known here.
pub fn read_file(path: &Path) -> Result<ProcessEvidence, ReadError> {
    let bytes = fs::read(path).map_err(|cause| ReadError::Io { path: path.to_owned(), cause })?;
    parse(path, &bytes)
}

/// What [`read_file`] does, on bytes.
///
/// # Errors
/// As [`read_file`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<ProcessEvidence, ReadError> {
    let not_evidence = |why: String| ReadError::NotEvidence { path: path.to_owned(), why };
    let mut lines: Vec<Line> = Vec::new();
    let mut hashes: Vec<String> = Vec::new();
    let mut breaks = Vec::new();
    let mut rest = bytes;
    let mut number = 0;
    let mut torn_tail = false;
    // The line before was changed: that this one does not carry its hash is no second finding.
    let mut before_changed = false;
    while !rest.is_empty() {
        number += 1;
        let (text, after) = match rest.iter().position(|&b| b == b'\n') {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            // A whole line of which only the newline found no room.
            None if own_hash_holds(rest) == Some(true) => (rest, &[][..]),
            None => {
                torn_tail = true;
                break;
            }
        };
        rest = after;
        if lines.is_empty() {
            check_format(path, text)?;
        }
        let mut wrong = |what: String| breaks.push(Break { line: number, what });
        match Line::parse(text).map(|line| (nonsense(&line.record), line)) {
            Ok((Some(what), _)) if lines.is_empty() => return Err(not_evidence(format!("first line: it has {what}"))),
            Ok((Some(what), _)) => wrong(format!("has {what}, which cannot be")),
            Ok((None, line)) => {
                if line.prev != hashes.last().map_or(CHAIN_START, String::as_str) && !before_changed {
                    wrong("does not carry the hash of the line before it".to_owned());
                }
                if line.seq != lines.last().map_or(0, |l| l.seq.saturating_add(1)) {
                    wrong(format!("has number {} out of order", line.seq));
                }
                let own_hash_due = match &lines.first().unwrap_or(&line).record {
                    Record::Start(start) => start.format >= OWN_HASH_SINCE,
                    _ => false,
                };
                let own = own_hash_holds(text);
                before_changed = own == Some(false);
                match own {
                    Some(true) => {}
                    Some(false) => wrong("does not match its own hash".to_owned()),
                    None if own_hash_due => wrong("has lost its own hash".to_owned()),
                    None => {}
                }
                torn_tail = false;
                hashes.push(line_hash(text));
                lines.push(line);
            }
            // A line cut short by a full disk: the writer starts the next one behind a newline and chains it to the last whole line. With no next one the
            // file ends in it.
            Err(e) if e.is_eof() && !text.is_empty() && own_hash_holds(text).is_none() => torn_tail = true,
            Err(e) if lines.is_empty() => return Err(not_evidence(format!("first line: {e}"))),
            Err(e) => wrong(format!("cannot be read: {e}")),
        }
    }
    let Some(first) = lines.first() else {
        return Err(not_evidence("it has no whole line".to_owned()));
    };
    let Record::Start(start) = &first.record else {
        return Err(not_evidence("its first line is not a start record".to_owned()));
    };
    let identity = hashes.first().cloned().unwrap_or_default();
    let ended = matches!(lines.last().map(|l| &l.record), Some(Record::End(_)));
    Ok(ProcessEvidence {
        path: path.to_owned(),
        identity,
        start: (**start).clone(),
        start_ns: first.at_ns,
        lines,
        breaks,
        torn_tail,
        hashes,
        ended,
    })
}

/// Looks at the format number alone: a newer format may have a first line this version cannot parse.
fn check_format(path: &Path, text: &[u8]) -> Result<(), ReadError> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u32,
        #[serde(default)]
        version: String,
    }
    match serde_json::from_slice::<Version>(text) {
        // A changed digit is no newer version.
        Ok(v) if v.format > FORMAT && own_hash_holds(text) == Some(false) => {
            Err(ReadError::NotEvidence { path: path.to_owned(), why: "the first line does not match its own hash".to_owned() })
        }
        Ok(v) if v.format > FORMAT => Err(ReadError::Newer { path: path.to_owned(), found: v.format, version: v.version }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The straight way and the general one say the same of every recorded line, and of lines that are cut or changed.
    #[test]
    fn lines_are_read_the_same_either_way() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evidence");
        let mut seen = 0;
        for run in fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().is_dir()) {
            for file in files(&run.path()).unwrap() {
                for line in fs::read(file).unwrap().split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                    assert_eq!(Line::parse(line).unwrap(), serde_json::from_slice::<Line>(line).unwrap());
                    for cut in (0..line.len()).step_by(37) {
                        assert_eq!(
                            Line::parse(&line[..cut]).unwrap_err().is_eof(),
                            serde_json::from_slice::<Line>(&line[..cut]).unwrap_err().is_eof()
                        );
                        let mut changed = line.to_vec();
                        changed[cut] = b'"';
                        assert_eq!(Line::parse(&changed).ok(), serde_json::from_slice::<Line>(&changed).ok());
                    }
                    seen += 1;
                }
            }
        }
        assert!(seen > 10);
    }
}
