//! Evidence: what was read, one file a process, in lines that hold each other.
//!
//! A run is a folder; each metered process appends JSON Lines to a file of its own in it, `<hostname>-<pid>-<start ticks>.jsonl`, flushed at every
//! window, so that `kill -9` costs at most the window that was open. Each line carries the hash of the one before it, and since format 2 its own as well, so that
//! a change in the last line is found too. The format has a version; old versions stay readable.
//!
//! [`record`] says what a line says ([`witness`]: what one of a witness does), [`write`] appends, [`read`] reads and checks the chain, [`sense`] knows what no line says,
//! [`follow`] reads along while a run is written, [`life`] tells whether its writer still runs, [`held`] keeps a file that is not safe where it is. Nothing here computes with what it carries.

pub mod follow;
pub mod held;
pub mod life;
pub mod read;
pub mod record;
pub mod sense;
pub mod witness;
pub mod write;

use sha2::{Digest, Sha256};

/// What the name of a witness's file begins with; what is in it is told by its first line alone.
pub const WITNESS: &str = "witness-";

/// `prev` of the first line.
pub const CHAIN_START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// SHA-256 of a line (without its newline), in hexadecimal: the `prev` of the next one.
#[must_use]
pub fn line_hash(line: &[u8]) -> String {
    hex(&Sha256::digest(line))
}

/// What stands before a line's own hash.
const OWN_HASH: &[u8] = b",\"sha256\":\"";
/// What stands behind it.
const OWN_HASH_END: &[u8] = b"\"}";
/// Length of a SHA-256 in hexadecimal.
const HEX: usize = 64;

/// Gives a line, a JSON object, its own hash as its last field: the SHA-256 of everything before that field.
fn add_own_hash(line: &mut Vec<u8>) {
    line.pop();
    let hash = line_hash(line);
    line.extend_from_slice(OWN_HASH);
    line.extend_from_slice(hash.as_bytes());
    line.extend_from_slice(OWN_HASH_END);
}

/// Whether a line matches its own hash; none when it carries none.
fn own_hash_holds(line: &[u8]) -> Option<bool> {
    let rest = line.strip_suffix(OWN_HASH_END)?;
    let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(HEX)?)?;
    let body = rest.strip_suffix(OWN_HASH)?;
    Some(line_hash(body).as_bytes() == hash)
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    // A digit at a time: every line of evidence goes through here, twice.
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    digits.map(|d| char::from_digit(u32::from(d), 16).unwrap_or_default()).collect()
}

/// A GPU's UUID in NVML's words: `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
#[must_use]
pub fn gpu_uuid(bytes: &[u8; 16]) -> String {
    let hex = hex(bytes);
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
