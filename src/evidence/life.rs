//! Whether the process that writes a file still runs.
//!
//! A process that was killed leaves no last line, and neither does one that goes on. On the machine that it was started on, its id, its start and the machine's boot name it for ever, and
//! the meter in it is a thread with a name. From a container the processes of another one are not seen; from another machine none is: that nothing is seen there proves nothing.

use super::record::Start;
use crate::process::{self, Folder};

/// The meter's thread, and the one that has its files.
pub const THREADS: [&str; 2] = ["flopsprof", "flopsprof-files"];

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs, and the meter in it.
    Runs,
    /// It runs, and the meter in it does not: it became another program (`exec`).
    Left,
    /// It is over.
    Over,
    /// Nobody here can tell, for this reason.
    Unknown(String),
}

/// A process, as it is seen from here.
struct Process {
    pid: u32,
    start_ticks: u64,
    /// It has ended, and its parent has not asked for it yet.
    ended: bool,
}

impl Life {
    /// Looks for the process of a file's first record.
    #[must_use]
    pub fn of(start: &Start) -> Self {
        let unknown = |why: String| Self::Unknown(why);
        let boot = process::boot_id();
        if boot.is_empty() || start.host.boot_id.is_empty() {
            return unknown("without /proc nothing says whether it runs".to_owned());
        }
        if boot != start.host.boot_id {
            return unknown(format!("written on another host, {}, or before a restart of it", start.host.hostname));
        }
        let writer = &start.process;
        if let Some(found) = find(writer.pid, writer.start_ticks) {
            return found.life();
        }
        let here = process::namespace();
        let within = here == Some(process::FIRST_NAMESPACE) || (here.is_some() && here == writer.pid_namespace);
        // Where others' processes are hidden (hidepid), the first one is.
        if !within || look(1).is_none() {
            return unknown(
                "written in another container of this host, or by another user: its processes are not seen from here".to_owned(),
            );
        }
        Self::Over
    }

    /// Whether there will be no more of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Over | Self::Left)
    }
}

impl Process {
    fn life(&self) -> Life {
        let folder = Folder::of(self.pid);
        let names: Vec<String> = folder.threads().flatten().map(|t| folder.thread(t).name()).filter(|name| !name.is_empty()).collect();
        match names.iter().any(|name| THREADS.contains(&name.as_str())) {
            true => Life::Runs,
            false if self.ended || names.is_empty() => Life::Over,
            false => Life::Left,
        }
    }
}

/// Whether a thread of this name is one of ours: all of theirs begin like the meter's.
#[must_use]
pub fn is_ours(thread: &str) -> bool {
    thread.starts_with(THREADS[0])
}

/// The process that knows itself by this id and began then: here, or in a container that is within this one.
fn find(pid: u32, start_ticks: u64) -> Option<Process> {
    if let Some(process) = look(pid).filter(|p| p.start_ticks == start_ticks) {
        return Some(process);
    }
    let own_pid = |p: &Process| Folder::of(p.pid).status()?.own_pid();
    process::all().filter_map(look).find(|p| p.start_ticks == start_ticks && own_pid(p) == Some(pid))
}

fn look(pid: u32) -> Option<Process> {
    let stat = Folder::of(pid).stat()?;
    Some(Process { pid, start_ticks: stat.start_ticks()?, ended: stat.has_ended() })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::evidence::record::{Host, Process as Writer};

    fn start(pid: u32) -> Start {
        let host = Host { boot_id: process::boot_id(), hostname: "node7".to_owned(), ..Host::default() };
        let start_ticks = look(pid).expect("a process").start_ticks;
        Start { host, process: Writer { pid, start_ticks, pid_namespace: process::namespace(), ..Writer::default() }, ..Start::default() }
    }

    #[test]
    fn a_process_runs_until_it_is_killed_and_its_meter_is_a_thread_of_it() {
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let start = start(sleeper.id());
        assert_eq!(Life::of(&start), Life::Left, "a program without the meter");
        // A zombie first.
        sleeper.kill().unwrap();
        while !look(sleeper.id()).expect("nobody asked for it yet").ended {
            std::thread::yield_now();
        }
        assert_eq!(Life::of(&start), Life::Over);
        sleeper.wait().unwrap();
        assert_eq!(Life::of(&start), Life::Over);
        // Its id is another's by now.
        let mut reused = self::start(std::process::id());
        reused.process.start_ticks += 1;
        assert_eq!(Life::of(&reused), Life::Over);
        let meter = std::thread::Builder::new().name(THREADS[1].to_owned());
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let thread = meter.spawn(move || told.recv().is_err()).unwrap();
        let own = self::start(std::process::id());
        // The new thread names itself.
        while Life::of(&own) != Life::Runs {
            std::thread::yield_now();
        }
        drop(tell);
        thread.join().unwrap();
        while Life::of(&own) != Life::Left {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_not_seen_from_here_is_not_known() {
        let mut elsewhere = start(std::process::id());
        elsewhere.host.boot_id = "another".to_owned();
        assert!(matches!(Life::of(&elsewhere), Life::Unknown(why) if why.contains("another host, node7")));
        let mut container = start(std::process::id());
        (container.process.start_ticks, container.process.pid_namespace) = (1, Some(7));
        let expected = process::namespace() == Some(process::FIRST_NAMESPACE);
        assert_eq!(Life::of(&container) == Life::Over, expected, "from the first namespace all are seen, from another its own");
    }
}
