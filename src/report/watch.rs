//! Writes a report again and again while a process runs, and once more when it has ended, however it did.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::file;

/// Shortest pause between two reports of a run that goes on.
const PAUSE: Duration = Duration::from_secs(30);
/// A report that took so long is made again after a thousand times that: less than a thousandth of the time goes into it.
const SHARE: u32 = 1000;
/// How long after a process's end its fellows may still write.
const FELLOWS: Duration = Duration::from_millis(200);

/// Writes for a folder as long as a process runs; returns what the last writing said. None when another process watches for the folder already.
///
/// # Errors
/// What `write` says at the last writing: what fails while the process runs may work the next time.
pub fn watch<T, E: From<io::Error>>(folder: &Path, pid: i32, mut write: impl FnMut() -> Result<T, E>) -> Result<Option<T>, E> {
    let Some(_right) = file::watch(folder) else { return Ok(None) };
    let process = Process::open(pid);
    // SAFETY: no preconditions. What it writes for must not wait for it.
    unsafe { libc::nice(10) };
    loop {
        let began = Instant::now();
        let _ = write();
        if process.ended_within((began.elapsed() * SHARE).max(PAUSE)) {
            // Its fellows end with it; their last lines are on their way.
            thread::sleep(FELLOWS);
            return write().map(Some);
        }
    }
}

/// Another process.
enum Process {
    /// The kernel tells when it ends.
    Told(OwnedFd),
    /// It has to be asked.
    Asked(i32),
}

impl Process {
    fn open(pid: i32) -> Self {
        // SAFETY: numbers go in, a new descriptor comes out.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match i32::try_from(fd) {
            // SAFETY: a descriptor that was just made, owned by nobody else.
            Ok(fd) if fd >= 0 => Self::Told(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Self::Asked(pid),
        }
    }

    /// Waits for its end, so long at most.
    fn ended_within(&self, longest: Duration) -> bool {
        match self {
            Self::Told(fd) => {
                let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                let longest = i32::try_from(longest.as_millis()).unwrap_or(i32::MAX);
                // SAFETY: one descriptor, which lives until the call is over.
                unsafe { libc::poll(&raw mut poll, 1, longest) > 0 }
            }
            Self::Asked(pid) => {
                let until = Instant::now() + longest;
                loop {
                    // SAFETY: signal 0 only asks.
                    if unsafe { libc::kill(*pid, 0) } != 0 {
                        return true;
                    }
                    if Instant::now() >= until {
                        return false;
                    }
                    thread::sleep(Duration::from_millis(500));
                }
            }
        }
    }
}
