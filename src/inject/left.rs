//! Whether the program has left: its threads have all ended, and only ours keep the process.
//!
//! A program whose main thread leaves by `pthread_exit` ends when its last thread does; the C library counts ours among them. So it is looked now and then whether
//! the main thread has ended, which few do, and if so, whether any other has not.

use std::time::Duration;

use super::apart;
use crate::{evidence::life, process::Folder};

/// How often it is looked: so much later such a program ends.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// Whether none of the program's threads is left. False where there is no `/proc`.
pub(super) fn has_left() -> bool {
    let main = std::process::id();
    let look = move || {
        let own = Folder::own();
        let ended = |thread: &u32| own.thread(*thread).stat().is_some_and(|stat| stat.has_ended());
        let ours = |thread: &u32| life::is_ours(&own.thread(*thread).name());
        // One that was not told may be the program's.
        ended(&main) && own.threads().collect::<Option<Vec<u32>>>().is_some_and(|all| all.iter().all(|t| ours(t) || ended(t)))
    };
    apart::run(look).unwrap_or(false)
}
