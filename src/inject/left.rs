//! Whether the program has left: its threads have all ended, and only ours keep the process.
//!
//! A program whose main thread leaves by `pthread_exit` ends when its last thread does; the C library counts ours among them. So it is looked now and then whether
//! the main thread has ended, which few do, and if so, whether any other has not.

use std::{fs, time::Duration};

use super::apart;
use crate::foreign;

/// How often it is looked: so much later such a program ends.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// What the names of our threads begin with.
const OURS: &str = "flopsprof";

/// Whether none of the program's threads is left. False where there is no `/proc`.
pub(super) fn has_left() -> bool {
    let main = std::process::id();
    apart::run(move || ended(main) && others().is_some_and(|others| others.iter().all(|task| ours(*task) || ended(*task)))).unwrap_or(false)
}

/// The process's tasks.
fn others() -> Option<Vec<u32>> {
    fs::read_dir("/proc/self/task").ok()?.map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn ours(task: u32) -> bool {
    foreign::text(format!("/proc/self/task/{task}/comm")).is_ok_and(|name| name.starts_with(OURS))
}

/// Whether a task has ended, and is only kept until the process ends.
fn ended(task: u32) -> bool {
    let Ok(stat) = foreign::text(format!("/proc/self/task/{task}/stat")) else { return false };
    // The name before it may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}
