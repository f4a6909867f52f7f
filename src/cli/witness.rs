//! The witness that `flopsprof run` brings along: `flopsprof watch` in a process of its own, out of the command's way.

use std::{
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use flopsprof::inject::config;

/// `0`: no witness is started.
const SWITCH: &str = "FLOPSPROF_WITNESS";
/// How long its last lines may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A witness at work.
pub(super) struct Witness(Child);

impl Witness {
    /// Starts it for a job that has just been started. None where none is wanted, another process of the node starts it, or it cannot be started: the job
    /// runs all the same.
    pub(super) fn start(out: &Path, job: u32, quiet: bool) -> Option<Self> {
        if std::env::var(SWITCH).is_ok_and(|v| v.trim() == "0") || config::disabled() || !config::first_of_node() {
            return None;
        }
        let mut command = Command::new(std::env::current_exe().ok()?);
        command.args(["watch", "--job", &job.to_string(), "--out"]).arg(out);
        for name in ["LD_PRELOAD", "LD_AUDIT", "CUDA_INJECTION64_PATH"] {
            command.env_remove(name);
        }
        let said = if quiet { Stdio::null() } else { Stdio::inherit() };
        // A group of its own: Ctrl-C is for the command, which may have more to do.
        command.env(config::DISABLE, "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said).process_group(0);
        match command.spawn() {
            Ok(child) => Some(Self(child)),
            Err(e) => {
                if !quiet {
                    eprintln!("flopsprof: not witnessed: flopsprof watch cannot be started: {e}");
                }
                None
            }
        }
    }

    /// Lets it write its last lines: it closes its stdout behind them, and ends by itself.
    pub(super) fn end(mut self) {
        // SAFETY: a signal to our own child, which was not waited for yet.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
        let Some(said) = self.0.stdout.take() else { return };
        let mut poll = libc::pollfd { fd: said.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let patience = i32::try_from(PATIENCE.as_millis()).unwrap_or(0);
        // SAFETY: one descriptor, which lives until the call is over.
        if unsafe { libc::poll(&raw mut poll, 1, patience) } == 0 {
            let _ = self.0.kill();
        }
    }
}
