//! A file whose descriptor somebody else may take away.
//!
//! In a process that is not ours every descriptor can be closed, and its number given to another file, at any moment. Before it is used it is looked at: if it
//! is not our file any more, it is left alone, for it is somebody else's.

use std::{
    fs::File,
    io,
    mem::ManuallyDrop,
    os::{
        fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd},
        unix::fs::MetadataExt,
    },
};

/// An open file, known by device and inode.
#[derive(Debug)]
pub struct Held {
    fd: RawFd,
    is: (u64, u64),
}

impl Held {
    /// Holds a file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(file: File) -> io::Result<Self> {
        let at = file.metadata()?;
        Ok(Self { is: (at.dev(), at.ino()), fd: file.into_raw_fd() })
    }

    /// Device and inode.
    #[must_use]
    pub fn is(&self) -> (u64, u64) {
        self.is
    }

    /// The file, for this moment; none when the descriptor is somebody else's by now.
    #[must_use]
    pub fn file(&self) -> Option<ManuallyDrop<File>> {
        // SAFETY: it is not closed through this: it may be nobody's, or somebody else's.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(self.fd) });
        file.metadata().is_ok_and(|at| (at.dev(), at.ino()) == self.is).then_some(file)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.file().is_some() {
            // SAFETY: it was our own a moment ago. Not by `File`, which ends the process if it is not.
            unsafe { libc::close(self.fd) };
        }
    }
}

impl AsRawFd for Held {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    #[test]
    fn a_descriptor_that_became_anothers_is_neither_used_nor_closed() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        let held = Held::new(File::create(&ours).unwrap()).unwrap();
        held.file().unwrap().write_all(b"ours").unwrap();
        let other = File::create(&theirs).unwrap();
        // SAFETY: both are open.
        assert!(unsafe { libc::dup2(other.as_raw_fd(), held.as_raw_fd()) } >= 0);
        assert!(held.file().is_none());
        let fd = held.as_raw_fd();
        drop(held);
        // SAFETY: it is still open, and ours to close.
        let mut left = unsafe { File::from_raw_fd(fd) };
        left.write_all(b"theirs").unwrap();
        assert_eq!((fs::read(&ours).unwrap(), fs::read(&theirs).unwrap()), (b"ours".to_vec(), b"theirs".to_vec()));
    }
}
