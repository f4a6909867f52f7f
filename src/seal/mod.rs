//! The seal: a signature over a run's evidence, and the check of both.
//!
//! A seal is an in-toto Statement v1 in a DSSE envelope, signed with Ed25519: formats that tools of the software supply chain read. The statement
//! ([`statement`]) names each evidence file with its SHA-256, and says by which library and command, with which settings, the run was made. The envelope
//! ([`dsse`]) carries it with the signature of a key ([`key`]) in PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` writes it. [`verify`] checks the hash
//! chain of every file, and what it finds against the seal.
//!
//! What this proves and what it cannot is written down in `docs/threat-model.md`. In short: a seal shows that the evidence is what the holder of the key
//! signed, whole and unchanged since; it cannot show that the holder did not make it up, because he is the one whose machine was measured.

pub mod dsse;
pub mod key;
pub mod statement;
pub mod verify;

use std::{io, path::PathBuf};

use thiserror::Error;

/// The seal's file in a run's folder.
pub const FILE_NAME: &str = "seal.dsse.json";

/// Why something cannot be sealed, or a seal not be read.
#[derive(Debug, Error)]
pub enum SealError {
    /// The file system refused.
    #[error("{path}: {cause}")]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// What the file system said.
        cause: io::Error,
    },
    /// The key file holds no Ed25519 key of the kind that is needed.
    #[error("{path}: {why}")]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The seal is not a DSSE envelope with an in-toto statement of ours.
    #[error("{path}: not a seal: {why}")]
    NotSeal {
        /// The seal.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The seal is of a newer flopsprof.
    #[error("{path}: sealed in format {found}, this flopsprof reads up to {known}: use flopsprof {version} or newer")]
    Newer {
        /// The seal.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest known here.
        known: u32,
        /// The version that wrote it.
        version: String,
    },
    /// The evidence does not hold: sealing it would only hide that.
    #[error("{path}:{line}: {what}: evidence that does not hold is not sealed")]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// The process still writes.
    #[error("{path}: process {pid} is still running: seal when it has ended")]
    Running {
        /// The file.
        path: PathBuf,
        /// The process.
        pid: u32,
    },
    /// The evidence cannot be read.
    #[error(transparent)]
    Read(#[from] crate::evidence::read::ReadError),
}
