//! Keys: Ed25519 in PEM, PKCS#8 for the private one, SubjectPublicKeyInfo for the public one.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ed25519_dalek::{
    SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, spki::der::pem::LineEnding},
};
use sha2::{Digest, Sha256};

use super::SealError;
use crate::evidence::hex;

/// SHA-256 of a public key (SubjectPublicKeyInfo, DER), in hexadecimal; the same as `openssl pkey -pubin -outform DER | sha256sum` prints.
#[must_use]
pub fn key_id(key: &VerifyingKey) -> String {
    // Encoding 32 bytes behind a fixed prefix cannot fail.
    key.to_public_key_der().map(|der| hex(&Sha256::digest(der.as_bytes()))).unwrap_or_default()
}

/// Where a private key's public half is put: `key.pem` has `key.pub.pem` beside it.
#[must_use]
pub fn public_path(private: &Path) -> PathBuf {
    private.with_extension("pub.pem")
}

/// Reads a private key.
///
/// # Errors
/// [`SealError::Io`], [`SealError::Key`].
pub fn read_private(path: &Path) -> Result<SigningKey, SealError> {
    parse_private(path, &read(path)?)
}

/// What [`read_private`] does, on text.
///
/// # Errors
/// [`SealError::Key`].
pub fn parse_private(path: &Path, pem: &str) -> Result<SigningKey, SealError> {
    SigningKey::from_pkcs8_pem(pem).map_err(|e| {
        let why = if pem.contains("PUBLIC KEY") {
            "this is a public key; sealing needs the private one".to_owned()
        } else {
            format!("not an Ed25519 private key in PKCS#8 PEM (openssl genpkey -algorithm ed25519): {e}")
        };
        SealError::Key { path: path.to_owned(), why }
    })
}

/// Reads a public key.
///
/// # Errors
/// [`SealError::Io`], [`SealError::Key`].
pub fn read_public(path: &Path) -> Result<VerifyingKey, SealError> {
    parse_public(path, &read(path)?)
}

/// What [`read_public`] does, on text.
///
/// # Errors
/// [`SealError::Key`].
pub fn parse_public(path: &Path, pem: &str) -> Result<VerifyingKey, SealError> {
    VerifyingKey::from_public_key_pem(pem).map_err(|e| {
        let why = if pem.contains("PRIVATE KEY") {
            format!("this is a private key; verifying needs the public one ({}?)", public_path(path).display())
        } else {
            format!("not an Ed25519 public key in PEM (openssl pkey -pubout): {e}")
        };
        SealError::Key { path: path.to_owned(), why }
    })
}

/// Makes a new key from the operating system's randomness and writes both halves, the private one readable by its owner alone. Never over files that exist.
///
/// # Errors
/// [`SealError::Io`], [`SealError::Key`].
pub fn generate(path: &Path) -> Result<SigningKey, SealError> {
    let failed = |why: String| SealError::Key { path: path.to_owned(), why };
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| failed(format!("no randomness: {e}")))?;
    let key = SigningKey::from_bytes(&secret);
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| failed(e.to_string()))?;
    let public = key.verifying_key().to_public_key_pem(LineEnding::LF).map_err(|e| failed(e.to_string()))?;
    // The public half first: a private key without it can still make it, not the other way round.
    create(&public_path(path), public.as_bytes(), 0o644)?;
    create(path, private.as_bytes(), 0o600).inspect_err(|_| {
        let _ = fs::remove_file(public_path(path));
    })?;
    Ok(key)
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SealError> {
    let write = || OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(bytes);
    write().map_err(|cause| SealError::Io { path: path.to_owned(), cause })
}

fn read(path: &Path) -> Result<String, SealError> {
    fs::read_to_string(path).map_err(|cause| SealError::Io { path: path.to_owned(), cause })
}
