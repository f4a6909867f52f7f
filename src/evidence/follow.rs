//! Follows a run while it is written: each look reads only what was appended since the one before.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{WITNESS, record::Line};

/// A run's folder being followed.
#[derive(Debug)]
pub struct Follow {
    folder: PathBuf,
    /// Bytes read of each file, up to the end of its last whole line.
    read: BTreeMap<PathBuf, u64>,
}

impl Follow {
    /// Begins to follow a folder, which need not be there yet.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), read: BTreeMap::new() }
    }

    /// The whole lines that metered processes appended since the last look, with the file each is from. What cannot be read or understood is left out: a live
    /// display is no place to judge evidence.
    pub fn look(&mut self) -> Vec<(PathBuf, Line)> {
        let mut lines = Vec::new();
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let metered = |e: &fs::DirEntry| !e.file_name().to_string_lossy().starts_with(WITNESS);
        for path in entries.filter(metered).map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "jsonl")) {
            let from = self.read.get(&path).copied().unwrap_or(0);
            let Some(bytes) = tail(&path, from) else { continue };
            let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            let parsed = bytes[..whole].split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok());
            lines.extend(parsed.map(|l| (path.clone(), l)));
            self.read.insert(path, from + whole as u64);
        }
        lines
    }

    /// Files seen so far.
    #[must_use]
    pub fn files(&self) -> usize {
        self.read.len()
    }
}

fn tail(path: &Path, from: u64) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{
        record::{Declare, Record},
        write::Writer,
    };

    #[test]
    fn each_line_is_seen_once_and_a_torn_one_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut follow = Follow::new(folder.path());
        assert!(follow.look().is_empty());
        let mut writer = Writer::create(folder.path(), "a.jsonl").unwrap();
        writer.append(1, &Record::Declare(Declare { parameters: 7, trainable: 7, ..Declare::default() })).unwrap();
        assert_eq!(follow.look().len(), 1);
        assert!(follow.look().is_empty());
        let whole = fs::read(folder.path().join("a.jsonl")).unwrap();
        fs::write(folder.path().join("b.jsonl"), &whole[..20]).unwrap();
        assert!(follow.look().is_empty());
        fs::write(folder.path().join("b.jsonl"), &whole).unwrap();
        assert_eq!(follow.look().len(), 1);
    }
}
