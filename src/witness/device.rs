//! The devices in an interval: what NVML says of each, and of the processes on it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    nvml::{DeviceWitness, Witness},
    pm::{Pm, Wanted},
    table::Table,
};
use crate::{
    evidence::witness::{DeviceProcess, OnDevice},
    window::clock::{monotonic_ns, unix_ns},
};

/// Looks at clocks and at the list of processes, so often.
const CLOCK_NS: u64 = 100_000_000;
const LIST_NS: u64 = 1_000_000_000;
/// A clock that differs so much from its mean in the interval ends that: an idle GPU's clock is a fifth of a working one's, and the mean over both says of neither how many
/// cycles it had. On an H100 a job that began in the middle of an interval seemed metered for 88 % of its tensor time.
const MOVES: f64 = 0.1;
/// GPM counts from one moment for so long.
const GPM_NS: u64 = 30_000_000_000;

/// All devices that NVML shows.
pub struct Devices {
    devices: Vec<Device>,
    why: Option<String>,
    simulated: bool,
    next_clock: u64,
    next_list: u64,
}

struct Device {
    uuid: String,
    name: String,
    nvml: DeviceWitness,
    /// Sum of the clock's readings in this interval, and how many; the newest, where it began another.
    clocks: (f64, u32),
    moved: Option<u32>,
    /// Memory by process; none where NVML does not list them.
    listed: Option<BTreeMap<u32, Option<u64>>>,
    /// Processes on it when it was looked at last.
    there: BTreeSet<u32>,
    used_since_us: u64,
    /// When GPM's readings count from.
    gpm_since: u64,
}

impl Devices {
    /// Finds them.
    #[must_use]
    pub fn new() -> Self {
        let mut found = Self { devices: Vec::new(), why: None, simulated: false, next_clock: 0, next_list: 0 };
        match Witness::load() {
            Ok(witness) => {
                found.simulated = witness.simulated();
                for seen in witness.devices() {
                    let Ok(mut nvml) = witness.device(&seen.uuid) else { continue };
                    // GPM counts from here.
                    nvml.read();
                    let (listed, used_since_us) = (nvml.list().map(|_| BTreeMap::new()), unix_ns() / 1000);
                    let (uuid, name, gpm_since) = (seen.uuid, seen.name, monotonic_ns());
                    let (clocks, there) = ((0.0, 0), BTreeSet::new());
                    found.devices.push(Device { uuid, name, nvml, clocks, moved: None, listed, there, used_since_us, gpm_since });
                }
            }
            Err(e) => found.why = Some(e.to_string()),
        }
        found
    }

    /// Why there are none.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// They are the stand-in's.
    #[must_use]
    pub fn simulated(&self) -> bool {
        self.simulated
    }

    /// What has to be looked at more often than once an interval. Returns processes on the devices, when it looked for them.
    pub fn glance(&mut self, now: u64) -> Option<Vec<u32>> {
        let (clock, list) = (now >= self.next_clock, now >= self.next_list);
        for device in &mut self.devices {
            if clock && let Some(mhz) = device.nvml.clock() {
                device.reads(mhz);
            }
            if list {
                device.list();
            }
        }
        if clock {
            self.next_clock = now + CLOCK_NS;
        }
        if list {
            self.next_list = now + LIST_NS;
        }
        list.then(|| self.devices.iter().flat_map(|d| d.listed.iter().flatten().map(|(pid, _)| *pid)).collect())
    }

    /// Whether a device's clock is another now than in the interval so far.
    #[must_use]
    pub fn moved(&self) -> bool {
        self.devices.iter().any(|d| d.moved.is_some())
    }

    /// The devices, for PM sampling.
    #[must_use]
    pub fn wanted(&self) -> Vec<Wanted> {
        let gpm = |d: &Device| if d.nvml.identity().gpm { "GPM's" } else { "not known (GPM: Hopper and later)" };
        self.devices.iter().map(|d| Wanted { uuid: d.uuid.clone(), otherwise: gpm(d) }).collect()
    }

    /// Devices on which a process was when it was looked at last; none for one that has no context yet.
    pub fn of(&self, pid: u32) -> impl Iterator<Item = &str> {
        self.devices.iter().filter(move |d| d.there.contains(&pid)).map(|d| d.uuid.as_str())
    }

    /// The interval's devices; lists processes that only NVML knows of.
    pub fn interval(&mut self, now: u64, table: &mut Table, pm: &mut Pm) -> Vec<OnDevice> {
        self.devices.iter_mut().map(|d| d.interval(now, table, pm)).collect()
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::new()
    }
}

impl Device {
    fn reads(&mut self, mhz: u32) {
        // The interval could not end then: it was too short.
        let before = self.moved.take();
        for mhz in before.into_iter().chain([mhz]) {
            let mean = self.clocks.0 / f64::from(self.clocks.1.max(1));
            if self.clocks.1 > 0 && before.is_none() && (f64::from(mhz) - mean).abs() > MOVES * mean {
                self.moved = Some(mhz);
            } else {
                self.clocks = (self.clocks.0 + f64::from(mhz), self.clocks.1 + 1);
            }
        }
    }

    fn list(&mut self) {
        if let (Some(into), Some(listed)) = (&mut self.listed, self.nvml.list()) {
            self.there = listed.iter().map(|p| p.pid).collect();
            // This process has no work there, whatever CUPTI holds for it.
            for process in listed.into_iter().filter(|p| p.pid != std::process::id()) {
                let memory = into.entry(process.pid).or_default();
                *memory = (*memory).max(process.memory);
            }
        }
    }

    fn interval(&mut self, now: u64, table: &mut Table, pm: &mut Pm) -> OnDevice {
        self.list();
        let used = self.nvml.used(self.used_since_us);
        self.used_since_us = used.iter().map(|u| u.unix_us).max().unwrap_or(self.used_since_us);
        // Samples of one moment are of all processes: their number is the number of moments, and a process that is in few of them used the device seldom.
        let moments = used.iter().map(|u| u.unix_us).collect::<BTreeSet<_>>().len();
        let mut sm: BTreeMap<u32, f64> = BTreeMap::new();
        for u in &used {
            *sm.entry(u.pid).or_default() += f64::from(u.sm_pct) / moments as f64;
        }
        let processes = self.listed.as_mut().map(|listed| {
            for pid in sm.keys() {
                listed.entry(*pid).or_default();
            }
            std::mem::take(listed)
        });
        let living: BTreeMap<u32, _> = table.living().map(|s| (s.id.pid, s.id)).collect();
        let processes = processes.map(|listed| {
            let process = |(pid, memory): (u32, Option<u64>)| {
                // One that ended in this interval is still in the table.
                let id = living.get(&pid).copied().or_else(|| table.recent(pid)).or_else(|| table.notice(pid, "nvml"));
                DeviceProcess {
                    id: id.unwrap_or(crate::evidence::witness::Id { pid, start_ticks: 0 }),
                    sm_pct: sm.get(&pid).copied(),
                    memory,
                }
            };
            listed.into_iter().map(process).collect()
        });
        let next = self.moved.take().map_or((0.0, 0), |mhz| (f64::from(mhz), 1));
        let (sum, looks) = std::mem::replace(&mut self.clocks, next);
        let pm = pm.take(&self.uuid, now);
        // What was sampled takes the place of what GPM says, which counts from where that ended.
        let sampled = pm.as_ref().is_some_and(|p| p.end_ns > p.start_ns);
        let on = sampled || now >= self.gpm_since + GPM_NS;
        let gpm_since_ns = self.gpm_since;
        if on {
            self.gpm_since = now;
        }
        let mut nvml = self.nvml.read_and(on);
        if sampled {
            (nvml.gpm_hmma_pct, nvml.gpm_dmma_pct, nvml.gpm_any_tensor_pct) = (None, None, None);
        }
        OnDevice {
            uuid: self.uuid.clone(),
            name: self.name.clone(),
            nvml,
            pm,
            gpm_since_ns,
            clock_mhz: (looks > 0).then(|| sum / f64::from(looks)),
            processes,
        }
    }
}
