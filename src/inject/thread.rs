//! How a thread of ours begins.

use std::{
    io,
    thread::{Builder, JoinHandle},
};

use super::{guard, memory};

/// The stack, bytes, of a thread that calls into NVIDIA's libraries.
pub(super) const DEEP: usize = 2 << 20;

/// Starts a thread of ours, whose signals are masked as the caller's are. The name begins with `flopsprof` (15 bytes at the most), a panic in it stays in it. A thread of ours waits
/// until there is memory for another; on one of the host's the error is of the kind [`io::ErrorKind::OutOfMemory`].
pub(super) fn spawn(name: &str, stack: usize, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    if !memory::for_a_thread() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Builder::new().name(name.to_owned()).stack_size(stack).spawn(|| {
        guard::this_is_ours();
        guard::shield(work);
    })
}
