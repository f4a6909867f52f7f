//! A model's `config.json`, read from its file or folder.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// No configuration is larger, bytes: what is, is another file (weights, given by mistake).
const LARGEST: u64 = 64 << 20;

/// A configuration and what lies beside it.
#[derive(Default)]
pub(super) struct Source {
    /// Where it is.
    pub(super) path: PathBuf,
    /// It.
    pub(super) config: Option<serde_json::Value>,
    /// Parameters by the index of the weights.
    pub(super) parameters: Option<u64>,
}

impl Source {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        let name = || path.display().to_string();
        let mut bytes = Vec::new();
        File::open(&path).and_then(|f| f.take(LARGEST + 1).read_to_end(&mut bytes)).with_context(name)?;
        if bytes.len() as u64 > LARGEST {
            bail!("{}: larger than {} MiB: this is no config.json", name(), LARGEST >> 20);
        }
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            bail!("{}: not JSON in UTF-8: this is UTF-16, as some editors and shells write it: convert it", name());
        }
        // Some editors put a mark before UTF-8 that JSON does not have.
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let config = serde_json::from_slice(text).with_context(|| format!("{}: not JSON", name()))?;
        let index = path.with_file_name("model.safetensors.index.json");
        let index: Option<serde_json::Value> = fs::read(index).ok().and_then(|b| serde_json::from_slice(&b).ok());
        let parameters = index.and_then(|i| i.get("metadata")?.get("total_parameters")?.as_u64());
        Ok(Self { path, config: Some(config), parameters })
    }

    pub(super) fn name(&self) -> String {
        if self.config.is_some() { self.path.display().to_string() } else { "the estimate".to_owned() }
    }
}
