//! Report files: whole or not there, where they belong, one writer at a time.
//!
//! A file is written under another name and renamed, so that whoever reads it sees a whole report, the old or the new one. Of all processes that want the
//! report of a folder written ([`in_turn`]) one does it, for all: who comes while it writes leaves word and goes, and it writes once more.

use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{aws, html, json::Report};

/// Where SageMaker keeps what belongs to a job.
pub const OPT_ML: &str = "/opt/ml";
/// Whoever holds it writes the reports of its folder.
const LOCK: &str = ".report.lock";
/// Somebody wants the report written.
const WANTED: &str = ".report.wanted";
/// Whoever holds it watches a process for its folder.
const WATCH: &str = ".report.watch";

/// The folder into which a run's report goes by itself: the run's, but on SageMaker the one that is uploaded.
#[must_use]
pub fn folder_for(run: &Path, opt_ml: &Path) -> PathBuf {
    let uploaded = opt_ml.join("output/data");
    let says_so = ["SM_MODEL_DIR", "TRAINING_JOB_NAME"].iter().any(|n| env::var_os(n).is_some_and(|v| !v.is_empty()));
    // Its parent is there only where SageMaker made it.
    if uploaded.is_dir() || (says_so && opt_ml.join("output").is_dir()) { uploaded } else { run.to_owned() }
}

/// Writes `report.json`, `report.html` and `flops_meter.json` where they belong; returns the folder.
///
/// # Errors
/// What the file system says, with the path.
pub fn write_all(report: &Report, run: &Path, opt_ml: &Path) -> io::Result<PathBuf> {
    let folder = folder_for(run, opt_ml);
    fs::create_dir_all(&folder).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", folder.display())))?;
    let json = |value: serde_json::Result<String>| Ok::<_, io::Error>(value? + "\n");
    replace(&folder.join("report.json"), json(serde_json::to_string_pretty(report))?.as_bytes())?;
    replace(&folder.join("report.html"), html::page(report).as_bytes())?;
    let meter = aws::flops_meter(report, &aws::Job::read(opt_ml));
    // The toolkit's own variable, and it makes the folder too.
    let aws = env::var_os("FLOPS_METER_OUT").filter(|v| !v.is_empty()).map_or_else(|| folder.join(aws::FILE), PathBuf::from);
    if let Some(parent) = aws.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", parent.display())))?;
    }
    replace(&aws, json(serde_json::to_string_pretty(&meter))?.as_bytes())?;
    Ok(folder)
}

/// Does `work` for a folder, or leaves it to the process that does it already: that one does it once more. None when it was left.
///
/// # Errors
/// What `work` says, or the file system of the folder.
pub fn in_turn<T, E: From<io::Error>>(folder: &Path, mut work: impl FnMut() -> Result<T, E>) -> Result<Option<T>, E> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", folder.display()));
    let wanted = folder.join(WANTED);
    mark(&wanted).map_err(named)?;
    let mut done = None;
    loop {
        let lock = mark(&folder.join(LOCK)).map_err(named)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(done),
            // A file system without locks: better written twice than not at all, but not by each of thousands of ranks.
            Err(TryLockError::Error(_)) => {
                let rank = env::var("RANK").or_else(|_| env::var("SLURM_PROCID")).unwrap_or_default();
                let _ = fs::remove_file(&wanted);
                return if rank.is_empty() || rank == "0" { work().map(Some) } else { Ok(done) };
            }
        }
        while fs::remove_file(&wanted).is_ok() {
            done = Some(work()?);
        }
        drop(lock);
        // Word may have been left between the last look and the end of the lock.
        if !wanted.exists() {
            return Ok(done);
        }
    }
}

/// The right to watch for a folder: one process has it. Given back when it is dropped.
#[must_use]
pub fn watch(folder: &Path) -> Option<File> {
    let lock = mark(&folder.join(WATCH)).ok()?;
    lock.try_lock().ok().map(|()| lock)
}

/// Opens a file that is there for its name and its lock alone, and makes it if it is missing. Never through a link: the folder may be one in which others can write.
fn mark(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

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
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    // What an earlier process of this number left. A link is removed, not followed.
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).open(&fresh).map_err(named)?;
    file.write_all(content).and_then(|()| fs::rename(&fresh, path)).map_err(|e| {
        let _ = fs::remove_file(&fresh);
        named(e)
    })
}
