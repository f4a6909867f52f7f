//! One line on the host's stderr.

/// Writes `flopsprof: <text>` in one `write(2)`, and does not care whether anybody reads it: stderr may be closed, full or a socket.
pub(super) fn say(text: &str) {
    let line = format!("flopsprof: {}\n", text.replace('\n', " "));
    // SAFETY: the buffer is as long as said; errors are the reader's loss.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
}
