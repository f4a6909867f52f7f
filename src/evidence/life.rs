//! Whether the process that writes a file still runs.
//!
//! A process that was killed leaves no last line, and neither does one that goes on. On the machine that it was started on, its id, its start and the machine's boot name it for ever, and
//! the meter in it is a thread with a name. From a container the processes of another one are not seen; from another machine none is: that nothing is seen there proves nothing.

use std::fs;

use super::record::Start;
use crate::foreign;

/// The meter's thread, and the one that has its files.
pub const THREADS: [&str; 2] = ["flopsprof", "flopsprof-files"];
/// The first namespace of process ids has this number on every machine (`PROC_PID_INIT_INO`).
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFC;

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
        let boot = foreign::line("/proc/sys/kernel/random/boot_id");
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
        let here = pid_namespace();
        let within = here == Some(FIRST_NAMESPACE) || (here.is_some() && here == writer.pid_namespace);
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
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let names: Vec<String> = threads.map(|t| foreign::line(t.path().join("comm"))).filter(|name| !name.is_empty()).collect();
        match names.iter().any(|name| THREADS.contains(&name.as_str())) {
            true => Life::Runs,
            false if self.ended || names.is_empty() => Life::Over,
            false => Life::Left,
        }
    }
}

/// The number of the namespace that this process's id is of; none where nothing says it.
#[must_use]
pub fn pid_namespace() -> Option<u64> {
    let name = fs::read_link("/proc/self/ns/pid").ok()?;
    name.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// The process that knows itself by this id and began then: here, or in a container that is within this one.
fn find(pid: u32, start_ticks: u64) -> Option<Process> {
    if let Some(process) = look(pid).filter(|p| p.start_ticks == start_ticks) {
        return Some(process);
    }
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    all.filter_map(look).find(|p| p.start_ticks == start_ticks && own_pid(p.pid) == Some(pid))
}

fn look(pid: u32) -> Option<Process> {
    let stat = foreign::text(format!("/proc/{pid}/stat")).ok()?;
    // A name may hold anything: what follows its last parenthesis is field 3 on, the state first.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Process { pid, start_ticks: fields.get(19)?.parse().ok()?, ended: matches!(fields.first(), Some(&("Z" | "X"))) })
}

/// Its id in its innermost namespace, which is the one that it knows itself by.
fn own_pid(pid: u32) -> Option<u32> {
    let status = foreign::text(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::evidence::record::{Host, Process as Writer};

    fn start(pid: u32) -> Start {
        let host = Host { boot_id: foreign::line("/proc/sys/kernel/random/boot_id"), hostname: "node7".to_owned(), ..Host::default() };
        let start_ticks = look(pid).expect("a process").start_ticks;
        Start { host, process: Writer { pid, start_ticks, pid_namespace: pid_namespace(), ..Writer::default() }, ..Start::default() }
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
        let expected = pid_namespace() == Some(FIRST_NAMESPACE);
        assert_eq!(Life::of(&container) == Life::Over, expected, "from the first namespace all are seen, from another its own");
    }
}
