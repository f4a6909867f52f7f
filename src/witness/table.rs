//! The processes that use a GPU, as they come, call and go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flopsprof_ebpf::{CALLED, Caller, ENDED, EXECUTED, Event, FORKED};

use super::{entry, identity};
use crate::evidence::witness::{Calls, Ended, Id, Seen};

/// Processes that ended and are still known by their ids.
const RECENT: usize = 256;

/// The processes.
#[derive(Default)]
pub struct Table {
    /// Those that use a GPU and live, and those that ended and are not written yet.
    listed: BTreeMap<Id, Listed>,
    /// Newly noticed, to be written.
    fresh: Vec<Seen>,
    ended: Vec<Ended>,
    /// The last that ended.
    recent: VecDeque<Id>,
    life: (u64, u64, u64),
    plain: bool,
}

#[derive(Default)]
struct Listed {
    seen: Seen,
    /// By entry point: calls, and how many of them were told.
    calls: BTreeMap<u32, (u64, u64)>,
    ended: bool,
}

/// Clock ticks after boot, as `/proc/PID/stat` has them.
fn ticks(started_ns: u64) -> u64 {
    // SAFETY: no preconditions.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    started_ns / (1_000_000_000 / u64::try_from(hertz).unwrap_or(100).max(1))
}

fn id(pid: u32, started_ns: u64) -> Id {
    Id { pid, start_ticks: ticks(started_ns) }
}

impl Table {
    /// An empty one; `plain`: command lines are kept as they are.
    #[must_use]
    pub fn new(plain: bool) -> Self {
        Self { plain, ..Self::default() }
    }

    /// Takes an event in. Returns the process when it became another program just now: it may bring a copy of the driver's library that nobody knows.
    pub fn event(&mut self, event: &Event) -> Option<u32> {
        let id = id(event.pid, event.started_ns);
        match event.kind {
            FORKED => self.life.0 += 1,
            EXECUTED => {
                self.life.1 += 1;
                return Some(event.pid);
            }
            ENDED => {
                self.life.2 += 1;
                self.end(id, event.ns, Some(event.status));
            }
            CALLED => {
                let comm = String::from_utf8_lossy(&event.comm).trim_end_matches('\0').to_owned();
                let seen = Seen { id, own_pid: event.pid, comm, uid: event.uid, cgroup_id: event.cgroup, ..Seen::default() };
                self.list(seen, event.parent, "called");
            }
            _ => {}
        }
        None
    }

    fn list(&mut self, mut seen: Seen, parent: u32, how: &str) {
        if self.listed.contains_key(&seen.id) {
            return;
        }
        how.clone_into(&mut seen.how);
        identity::look(&mut seen, self.plain);
        if seen.gone {
            seen.parents = identity::parents(parent);
        }
        self.fresh.push(seen.clone());
        self.listed.insert(seen.id, Listed { seen, ..Listed::default() });
    }

    /// Lists a process that was noticed elsewhere than by its calls; returns which it is, none when it is gone already.
    pub fn notice(&mut self, pid: u32, how: &str) -> Option<Id> {
        let stat = identity::stat(pid)?;
        self.list(Seen { id: stat.id, own_pid: pid, ..Seen::default() }, stat.parent, how);
        Some(stat.id)
    }

    /// Takes in what the probes counted so far.
    pub fn counted(&mut self, calls: &[(Caller, u64)]) {
        for (caller, count) in calls {
            let id = id(caller.pid, caller.started_ns);
            // The event that told of it was lost.
            self.list(Seen { id, own_pid: caller.pid, ..Seen::default() }, 0, "called");
            if let Some(listed) = self.listed.get_mut(&id) {
                listed.calls.entry(caller.entry).or_default().0 = *count;
            }
        }
    }

    fn end(&mut self, id: Id, at_ns: u64, status: Option<u32>) {
        if let Some(listed) = self.listed.get_mut(&id)
            && !std::mem::replace(&mut listed.ended, true)
        {
            self.ended.push(Ended { id, at_ns, status });
        }
    }

    /// Notices those that are gone although no event said so, and those that have our library only now.
    pub fn sweep(&mut self, now_ns: u64) {
        let gone: Vec<Id> = self.listed.keys().copied().filter(|id| identity::stat(id.pid).is_none_or(|s| s.id != *id)).collect();
        gone.into_iter().for_each(|id| self.end(id, now_ns, None));
        for listed in self.listed.values_mut().filter(|l| !l.ended && !l.seen.library) {
            if super::library::maps(listed.seen.id.pid).is_some_and(|m| m.metered) {
                listed.seen.library = true;
                self.fresh.push(listed.seen.clone());
            }
        }
    }

    /// Processes that use a GPU and live.
    pub fn living(&self) -> impl Iterator<Item = &Seen> {
        self.listed.values().filter(|l| !l.ended).map(|l| &l.seen)
    }

    /// The newest process with this id, also when it ended a while ago: the driver may list it somewhat longer.
    #[must_use]
    pub fn recent(&self, pid: u32) -> Option<Id> {
        let listed = self.listed.keys().chain(&self.recent);
        listed.filter(|id| id.pid == pid).max_by_key(|id| id.start_ticks).copied()
    }

    /// Whether the caller's process has ended.
    #[must_use]
    pub fn has_ended(&self, caller: &Caller) -> bool {
        self.listed.get(&id(caller.pid, caller.started_ns)).is_some_and(|l| l.ended)
    }

    /// Whether something is there to be told at once: a process that used a GPU ended.
    #[must_use]
    pub fn urgent(&self) -> bool {
        !self.ended.is_empty()
    }

    /// The newly noticed.
    pub fn fresh(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.fresh)
    }

    /// What an interval's record says of processes, and forgets those that have ended.
    pub fn interval(&mut self) -> (Vec<Calls>, Vec<Ended>, (u64, u64, u64)) {
        let mut callers = Vec::new();
        for (id, listed) in &mut self.listed {
            let mut calls = BTreeMap::new();
            for (number, (count, told)) in &mut listed.calls {
                if count > told {
                    let name = entry::entry(*number).map_or("unknown", |(name, _)| name);
                    *calls.entry(name.to_owned()).or_default() += *count - *told;
                    *told = *count;
                }
            }
            if !calls.is_empty() {
                callers.push(Calls { id: *id, calls });
            }
        }
        self.recent.extend(self.listed.iter().filter(|(_, l)| l.ended).map(|(id, _)| *id));
        self.recent.drain(..self.recent.len().saturating_sub(RECENT));
        self.listed.retain(|_, l| !l.ended);
        (callers, std::mem::take(&mut self.ended), std::mem::take(&mut self.life))
    }

    /// Process ids of the living that have our library.
    #[must_use]
    pub fn metered(&self) -> BTreeSet<u32> {
        self.living().filter(|s| s.library).map(|s| s.id.pid).collect()
    }
}
