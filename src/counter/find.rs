//! Which libcupti.
//!
//! Two copies in one process break the user's profiler: with ours on one copy and PyTorch's on another, torch.profiler records no GPU
//! event. So: the copy that is loaded already; else the one the framework will load, which lies in the same Python environment; else the
//! toolkit's; else the loader's. `FLOPSPROF_CUPTI` overrides all.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use cupti_sys::{Cupti, LoadError, raw::API_VERSION_12_6};
use thiserror::Error;

use crate::foreign;

/// The sonames, newest first.
const SONAMES: [&str; 2] = ["libcupti.so.13", "libcupti.so.12"];

/// A libcupti that can meter.
#[derive(Clone, Debug)]
pub struct Found {
    /// It.
    pub cupti: Cupti,
    /// Its file.
    pub path: PathBuf,
    /// Its `CUPTI_API_VERSION`.
    pub version: u32,
    /// How it was found.
    pub how: &'static str,
}

/// Why there is none.
#[derive(Debug, Error)]
pub enum FindError {
    /// None anywhere.
    #[error(
        "no libcupti found (looked for {}): install it beside the framework (pip install nvidia-cuda-cupti, or nvidia-cuda-cupti-cu12 for CUDA 12) or set FLOPSPROF_CUPTI to its path",
        SONAMES.join(" and ")
    )]
    None,
    /// `FLOPSPROF_CUPTI` names something that does not load.
    #[error("FLOPSPROF_CUPTI={0}: correct the path or unset the variable")]
    Named(LoadError),
    /// There is one, and it is too old.
    #[error(
        "{path} is CUPTI API {version}, the range profiler needs {API_VERSION_12_6} (CUDA 12.6) or newer: update it, or set FLOPSPROF_CUPTI to a newer one"
    )]
    Old {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// How a variable of the environment is read. In somebody else's process that is not the standard library's business.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Finds a libcupti and loads it. `named` is the value of `FLOPSPROF_CUPTI`.
///
/// # Errors
/// [`FindError`], which says what to do.
pub fn find(named: Option<&Path>, var: Variable<'_>) -> Result<Found, FindError> {
    if let Some(path) = named {
        let cupti = Cupti::open(path).map_err(FindError::Named)?;
        return judge(cupti, path, "FLOPSPROF_CUPTI");
    }
    // Whatever its version: a second one beside it would silence the profiler that uses it.
    if let Some(path) = mapped().first() {
        return loaded(path);
    }
    let mut old = None;
    let candidates = python(var).into_iter().map(|p| (p, "python")).chain(toolkit(var).into_iter().map(|p| (p, "toolkit")));
    for (path, how) in candidates.chain(SONAMES.iter().map(|s| (PathBuf::from(s), "loader"))) {
        let Ok(cupti) = Cupti::open(&path) else { continue };
        match judge(cupti, &path, how) {
            Ok(found) => return Ok(found),
            Err(e) => old = old.or(Some(e)),
        }
    }
    Err(old.unwrap_or(FindError::None))
}

/// The copy that the program loaded from this file.
///
/// # Errors
/// [`FindError`] when it is gone again or too old.
pub fn loaded(path: &Path) -> Result<Found, FindError> {
    judge(Cupti::loaded(path).ok_or(FindError::None)?, path, "already-loaded")
}

/// Whether a copy is the stand-in of the tests.
#[must_use]
pub fn is_stand_in(found: &Found) -> bool {
    found.cupti.is_stand_in()
}

/// Whether PyTorch is in the process.
#[must_use]
pub fn torch_is_mapped() -> bool {
    mapped_files().iter().any(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libtorch")))
}

fn judge(cupti: Cupti, path: &Path, how: &'static str) -> Result<Found, FindError> {
    let path = cupti.file().unwrap_or_else(|| path.to_owned());
    match cupti.version() {
        Ok(version) if version >= API_VERSION_12_6 => Ok(Found { cupti, path, version, how }),
        version => Err(FindError::Old { path, version: version.unwrap_or(0) }),
    }
}

/// The files of libcupti that this process has mapped.
#[must_use]
pub fn mapped() -> Vec<PathBuf> {
    let is_cupti = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libcupti.so"));
    mapped_files().into_iter().filter(|p| is_cupti(p)).collect()
}

/// Every file this process has mapped, by the name that it was mapped under: a file that was removed since, by an upgrade, is no other.
fn mapped_files() -> BTreeSet<PathBuf> {
    let maps = foreign::bytes("/proc/self/maps").unwrap_or_default();
    let path = |line: &[u8]| {
        let path = &line[line.iter().position(|b| *b == b'/')?..];
        Some(PathBuf::from(OsString::from_vec(path.strip_suffix(b" (deleted)").unwrap_or(path).to_vec())))
    };
    maps.split(|b| *b == b'\n').filter_map(path).collect()
}

/// Copies in the Python environment that runs: below the `site-packages` of what is mapped already, and beside the interpreter.
fn python(var: Variable<'_>) -> Vec<PathBuf> {
    let mut sites = BTreeSet::new();
    for file in mapped_files() {
        if let Some(site) = file.ancestors().find(|a| a.ends_with("site-packages") || a.ends_with("dist-packages")) {
            sites.insert(site.to_owned());
        }
    }
    for prefix in prefixes(var) {
        for lib in folders(&prefix.join("lib"), "python3") {
            sites.extend([lib.join("site-packages"), lib.join("dist-packages")]);
        }
    }
    let mut found = Vec::new();
    for soname in SONAMES {
        for site in &sites {
            for package in folders(&site.join("nvidia"), "") {
                let file = package.join("lib").join(soname);
                if file.exists() {
                    found.push(file);
                }
            }
        }
    }
    found
}

/// Where the interpreter that runs is installed: its virtual environment first, which only its unresolved path shows.
fn prefixes(var: Variable<'_>) -> Vec<PathBuf> {
    let mut prefixes = Vec::new();
    let command = foreign::bytes("/proc/self/cmdline").unwrap_or_default();
    let first = command.split(|b| *b == 0).next().unwrap_or_default();
    let first = PathBuf::from(OsString::from_vec(first.to_vec()));
    let is_python = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python"));
    if is_python(&first) {
        let candidates: Vec<PathBuf> = if first.components().count() > 1 {
            vec![first]
        } else {
            var("PATH").map(|p| std::env::split_paths(&p).map(|d| d.join(&first)).collect()).unwrap_or_default()
        };
        prefixes.extend(candidates.iter().find(|p| p.exists()).and_then(|p| Some(p.parent()?.parent()?.to_owned())));
    }
    if let Some(exe) = fs::read_link("/proc/self/exe").ok().filter(|p| is_python(p)) {
        prefixes.extend(exe.parent().and_then(Path::parent).map(Path::to_owned));
        prefixes.extend(var("VIRTUAL_ENV").map(PathBuf::from));
    }
    prefixes
}

/// Copies in a CUDA toolkit.
fn toolkit(var: Variable<'_>) -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|v| var(v).map(PathBuf::from));
    let roots: Vec<PathBuf> = named.chain([PathBuf::from("/usr/local/cuda")]).collect();
    let mut found = Vec::new();
    for root in roots {
        for soname in SONAMES {
            for folder in ["extras/CUPTI/lib64", "lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"] {
                let file = root.join(folder).join(soname);
                if file.exists() {
                    found.push(file);
                }
            }
        }
    }
    found
}

/// Sorted folders in a folder whose names begin so.
fn folders(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}
