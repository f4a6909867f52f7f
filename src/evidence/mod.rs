//! Evidence: what was read, one file a process, in lines that hold each other.
//!
//! A run is a folder; each metered process appends JSON Lines to a file of its own in it, `<hostname>-<pid>-<start ticks>.jsonl`, flushed at every
//! window, so that `kill -9` costs at most the window that was open. Each line carries the hash of the one before it. The format has
//! a version; old versions stay readable.
//!
//! [`record`] says what a line says, [`write`] appends, [`read`] reads and checks the chain, [`follow`] reads along while a run is written. Nothing here computes with what it carries.

pub mod follow;
pub mod read;
pub mod record;
pub mod write;

use sha2::{Digest, Sha256};

/// `prev` of the first line.
pub const CHAIN_START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// SHA-256 of a line (without its newline), in hexadecimal: the `prev` of the next one.
#[must_use]
pub fn line_hash(line: &[u8]) -> String {
    hex(&Sha256::digest(line))
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}
