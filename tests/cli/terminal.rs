//! A terminal for a command to write to.

use std::{
    fs::File,
    io::Read,
    os::fd::{FromRawFd, OwnedFd},
    process::{Child, Command, Stdio},
};

/// Its rows and columns.
pub(crate) const SIZE: (u16, u16) = (24, 100);

/// What was written to the row that is kept for `flopsprof run`, each time.
pub(crate) fn kept_row(shown: &str) -> Vec<&str> {
    shown.split("\x1b[2K").skip(1).filter_map(|l| Some(l.split_once("\x1b8")?.0)).collect()
}

/// A command that writes to a terminal of its own.
pub(crate) struct Shown {
    terminal: File,
    /// What was read from it so far.
    shown: Vec<u8>,
    pub(crate) child: Child,
}

impl Shown {
    /// Starts it with its stdout there, or its stderr.
    pub(crate) fn start(mut command: Command, stderr: bool) -> Self {
        let (mut terminal, mut its) = (0, 0);
        let size = libc::winsize { ws_row: SIZE.0, ws_col: SIZE.1, ws_xpixel: 0, ws_ypixel: 0 };
        let none = std::ptr::null_mut();
        // SAFETY: two numbers to write to, and a size.
        assert_eq!(unsafe { libc::openpty(&raw mut terminal, &raw mut its, none, none.cast(), &raw const size) }, 0);
        // SAFETY: both are ours alone.
        let (terminal, its) = unsafe { (OwnedFd::from_raw_fd(terminal), OwnedFd::from_raw_fd(its)) };
        // Else a process that another test starts at this moment keeps the terminal open.
        for fd in [&terminal, &its] {
            // SAFETY: a descriptor of ours.
            assert_eq!(unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(fd), libc::F_SETFD, libc::FD_CLOEXEC) }, 0);
        }
        if stderr {
            command.stdout(Stdio::null()).stderr(its)
        } else {
            command.stdout(its)
        };
        let child = command.spawn().expect("the command");
        Self { terminal: terminal.into(), shown: Vec::new(), child }
    }

    /// Reads along until it has shown that, or ends.
    pub(crate) fn until(&mut self, is: impl Fn(&str) -> bool) {
        let mut some = [0; 4096];
        while !is(&String::from_utf8_lossy(&self.shown)) {
            match self.terminal.read(&mut some) {
                Ok(n) if n > 0 => self.shown.extend(&some[..n]),
                _ => return,
            }
        }
    }

    /// What it has shown by its end, and its exit code.
    pub(crate) fn end(mut self) -> (String, Option<i32>) {
        // A terminal whose other side is closed answers with an error.
        let _ = self.terminal.read_to_end(&mut self.shown);
        (String::from_utf8_lossy(&self.shown).into_owned(), self.child.wait().expect("its end").code())
    }
}
