//! Appends records to a process's evidence file.
//!
//! One `write(2)` a line, the newline last: a line is whole or it is the torn tail that [`super::read`] recognises. What could not be
//! written stays out of the chain, so that it can be appended again when the disk has recovered.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    CHAIN_START, add_own_hash, line_hash,
    record::{Line, Record},
};

/// An evidence file being written.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    prev: String,
    seq: u64,
    /// Bytes of a line that reached the file without its newline (disk full): the next line starts behind a newline of its own.
    torn: bool,
}

impl Writer {
    /// Makes the run's folder if it is not there (mode 0700) and a new file in it (mode 0600, never one that exists, never through a link).
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn create(folder: &Path, file_name: &str) -> io::Result<Self> {
        let named = |path: &Path, e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| named(folder, e))?;
        let path = folder.join(file_name);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)
            .map_err(|e| named(&path, e))?;
        Ok(Self { file, path, prev: CHAIN_START.to_owned(), seq: 0, torn: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one record.
    ///
    /// # Errors
    /// What the file system says. The chain then goes on from the last whole line, and the same record may be appended again.
    pub fn append(&mut self, at_ns: u64, record: &Record) -> io::Result<()> {
        let line = Line { prev: self.prev.clone(), seq: self.seq, at_ns, record: record.clone() };
        let mut bytes = serde_json::to_vec(&line)?;
        add_own_hash(&mut bytes);
        let hash = line_hash(&bytes);
        bytes.push(b'\n');
        if self.torn {
            bytes.insert(0, b'\n');
        }
        self.write_whole(&bytes)?;
        self.prev = hash;
        self.seq += 1;
        self.torn = false;
        Ok(())
    }

    fn write_whole(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    bytes = &bytes[n..];
                    self.torn = true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
