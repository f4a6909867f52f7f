//! Files that the kernel and other programs write (`/proc`, mostly): read whatever is in them, and no more of it than can be meant.
//!
//! The name of a process, a thread or a mapped file is any bytes that somebody liked: who read such a file as UTF-8 would see nothing of it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// More than the maps of a process with a hundred thousand mappings.
const MOST: u64 = 16 << 20;
/// More than any name or path that a line of evidence is to have.
const MOST_OF_A_LINE: usize = 4096;

/// The bytes of a file, as far as they go.
///
/// # Errors
/// What the file system says.
pub fn bytes(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The same as text; what is none is replaced.
///
/// # Errors
/// What the file system says.
pub fn text(path: impl AsRef<Path>) -> io::Result<String> {
    bytes(path).map(|b| String::from_utf8_lossy(&b).into_owned())
}

/// The first line of a file, cut where it is too long; empty where there is none.
#[must_use]
pub fn line(path: impl AsRef<Path>) -> String {
    let text = text(path).unwrap_or_default();
    cut(text.lines().next().unwrap_or_default().trim_end())
}

/// A text, cut where it is longer than a line of evidence is to be.
#[must_use]
pub fn cut(text: &str) -> String {
    let end = (0..=text.len().min(MOST_OF_A_LINE)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_read_all_the_same_and_what_is_long_is_cut() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        let written = |bytes: &[u8]| std::fs::write(&file, bytes).expect("a file");
        written(b"a\xff\xfeb\nsecond");
        assert_eq!((line(&file).as_str(), text(&file).expect("text").lines().count()), ("a\u{fffd}\u{fffd}b", 2));
        written("ä".repeat(1 << 20).as_bytes());
        assert_eq!(line(&file).len(), MOST_OF_A_LINE);
        assert_eq!((line("/dev/zero").len(), bytes("/dev/zero").expect("zeros").len() as u64), (MOST_OF_A_LINE, MOST));
        assert_eq!(line(folder.path()), "");
    }
}
