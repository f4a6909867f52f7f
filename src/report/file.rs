//! Report files: whole or not there.
//!
//! A file is written under another name and renamed, so that whoever reads it sees a whole report, the old or the new one.

use std::{fs, io, path::Path};

/// Writes a file, in its place at once.
///
/// # Errors
/// What the file system says, with the path. Nothing is left behind then, and what was there stays.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other(format!("{}: this is no name of a file", path.display())))?;
    let mut fresh = std::ffi::OsString::from(".");
    fresh.push(name);
    fresh.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(fresh);
    let written = fs::write(&fresh, content).and_then(|()| fs::rename(&fresh, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&fresh);
        io::Error::new(e.kind(), format!("{}: {e}", path.display()))
    })
}
