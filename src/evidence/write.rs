//! Appends records to a process's evidence file.
//!
//! One `write(2)` a line, the newline last: a line is whole or it is the torn tail that [`super::read`] recognises. What could not be
//! written stays out of the chain, so that it can be appended again when the disk has recovered.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    CHAIN_START, add_own_hash,
    held::Held,
    line_hash,
    record::{Line, Record},
};

/// An evidence file being written.
#[derive(Debug)]
pub struct Writer {
    file: Held,
    path: PathBuf,
    prev: String,
    seq: u64,
    /// The file was put back after somebody had removed it.
    put_back: bool,
    /// Bytes of a line, or a whole one, reached the file without the newline (disk full): the next line starts behind a newline of its own.
    torn: bool,
}

impl Writer {
    /// Makes the run's folder if it is not there (mode 0700) and a new file in it (mode 0600, never one that exists, never through a link), whatever the
    /// process's umask is.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn create(folder: &Path, file_name: &str) -> io::Result<Self> {
        let named = |path: &Path, e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        make_folder(folder).map_err(|e| named(folder, e))?;
        let path = folder.join(file_name);
        let file = make_file(&path).map_err(|e| named(&path, e))?;
        // The program may change its directory.
        let path = std::path::absolute(&path).unwrap_or(path);
        Ok(Self { file, path, prev: CHAIN_START.to_owned(), seq: 0, put_back: false, torn: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file was put back after somebody had removed it.
    #[must_use]
    pub fn put_back(&self) -> bool {
        self.put_back
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
        self.have_file()?;
        let missing = self.write_whole(&bytes);
        // A line of which the newline alone found no room is there; written again it would be there twice.
        match missing {
            Ok(()) => self.torn = false,
            Err((1, _)) => self.torn = true,
            Err((_, e)) => return Err(e),
        }
        self.prev = hash;
        self.seq += 1;
        Ok(())
    }

    /// Sees to it that the descriptor is the evidence's, and that the file has a name: the process that it is written in may have closed it and opened another file under its
    /// number, or cleared the folder.
    ///
    /// # Errors
    /// What the file system says; the lines so far are kept as long as the descriptor is.
    pub fn have_file(&mut self) -> io::Result<()> {
        if let Some(mut file) = self.file.file() {
            return if file.metadata()?.nlink() > 0 { Ok(()) } else { self.put_back_from(&mut file) };
        }
        let again = OpenOptions::new().read(true).append(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(&self.path)?;
        let again = Held::new(again)?;
        if again.is() != self.file.is() {
            return Err(io::Error::other("another file is in its place"));
        }
        self.file = again;
        Ok(())
    }

    /// Makes the file anew, with what is in the one that has no name any more.
    fn put_back_from(&mut self, nameless: &mut fs::File) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            make_folder(folder)?;
        }
        let fresh = make_file(&self.path)?;
        if let Err(e) = copy(nameless, &fresh) {
            // Else it would be in the way of the next try.
            let _ = fs::remove_file(&self.path);
            return Err(e);
        }
        self.file = fresh;
        self.put_back = true;
        Ok(())
    }

    /// Writes all, or says how many bytes of it are missing, and why.
    fn write_whole(&mut self, mut bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut file = self.file.file().ok_or_else(|| (bytes.len(), io::ErrorKind::NotFound.into()))?;
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(0) => return Err((bytes.len(), io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    bytes = bytes.get(n..).unwrap_or_default();
                    self.torn = true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err((bytes.len(), e)),
            }
        }
        Ok(())
    }
}

/// Makes a file for its owner alone: never one that exists, never through a link.
fn make_file(path: &Path) -> io::Result<Held> {
    let file = OpenOptions::new()
        .create_new(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .read(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Held::new(file)
}

/// Appends all of a file to another. By hand: the standard library's way is a choice of system calls that few sandboxes know.
fn copy(from: &mut fs::File, to: &Held) -> io::Result<()> {
    let mut to = to.file().ok_or(io::ErrorKind::NotFound)?;
    let mut some = vec![0; 64 << 10];
    from.seek(SeekFrom::Start(0))?;
    loop {
        match from.read(&mut some) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(some.get(..n).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Makes a folder and those above it that are missing, each for its owner alone. One that is there stays as it is.
fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        // The umask may have taken the owner's own rights away.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o700)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let above = folder.parent().filter(|p| !p.as_os_str().is_empty()).ok_or(e)?;
            make_folder(above)?;
            match DirBuilder::new().mode(0o700).create(folder) {
                Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o700)),
                Err(_) if folder.is_dir() => Ok(()),
                Err(e) => Err(e),
            }
        }
        Err(_) if folder.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// A folder of this user's in one that everybody may write in, as `/tmp`: made if it is not there, and refused if somebody else made it, may write in it, or put a
/// link in its place.
///
/// # Errors
/// What the file system says, or that it is not ours, with the path.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    make_folder(folder)?;
    let at = fs::symlink_metadata(folder)?;
    // SAFETY: no preconditions.
    let uid = unsafe { libc::geteuid() };
    if !at.is_dir() || at.uid() != uid || at.mode() & 0o022 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{}: others may write in it", folder.display())));
    }
    Ok(())
}
