//! The terminal's last row, kept for a line of ours.
//!
//! A training shows its own progress in a line that it writes again and again (tqdm), and two such lines in one place make each other unreadable. So the program gets the rows above the
//! last one to scroll in, as apt does it, and the line stands below. Where the terminal does not say how large it is, or cannot do that, there is none.

use std::io::{IsTerminal, Write};

/// Fewer rows are left to the program whole.
const LEAST_ROWS: u16 = 4;

/// The row, once it was taken.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// Of how many rows it is the last.
    of: Option<u16>,
}

impl Row {
    /// Of the terminal that stderr is; none where it is none, or one that only types.
    pub(super) fn new() -> Option<Self> {
        let types = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        (std::io::stderr().is_terminal() && !types).then(Self::default)
    }

    /// Writes a line there, as much of it as has room. In the background the terminal is somebody else's.
    pub(super) fn show(&mut self, text: &str) {
        let Some((rows, columns)) = size().filter(|(rows, _)| *rows >= LEAST_ROWS && in_foreground()) else { return self.give_back() };
        // In one write, so that nothing of the program's comes between: the cursor is where the program left it, before and after.
        let mut out = String::new();
        if self.of != Some(rows) {
            if let Some(before) = self.of.replace(rows).filter(|before| *before < rows) {
                out += &format!("\x1b7\x1b[{before};1H\x1b[2K\x1b8");
            }
            // A line further and back, which scrolls if the cursor is in the last row; then the rows above it are what scrolls.
            out += &format!("\x1bD\x1b[A\x1b7\x1b[1;{}r\x1b8", rows - 1);
        }
        let text: String = text.chars().filter(|c| !c.is_control()).take(usize::from(columns)).collect();
        out += &format!("\x1b7\x1b[{rows};1H\x1b[2K{text}\x1b8");
        write(&out);
    }

    /// Clears it, and lets the program's output have it again.
    pub(super) fn give_back(&mut self) {
        if let Some(rows) = self.of.take() {
            write(&format!("\x1b7\x1b[r\x1b[{rows};1H\x1b[2K\x1b8"));
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Rows and columns of the terminal, if it says.
fn size() -> Option<(u16, u16)> {
    // SAFETY: all zeros is a winsize.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the answer goes into a struct of ours.
    let known = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0 && size.ws_row > 0 && size.ws_col > 0;
    known.then_some((size.ws_row, size.ws_col))
}

/// Whether the shell gave the terminal to this job; so where it is not the one that controls it.
fn in_foreground() -> bool {
    // SAFETY: no preconditions.
    unsafe {
        let group = libc::tcgetpgrp(libc::STDERR_FILENO);
        group < 0 || group == libc::getpgrp()
    }
}
