//! The witness's round: brings together what the probes, NVML and `/proc` say, and appends it to the run's folder.

use std::{collections::BTreeSet, io, path::PathBuf, time::Duration};

use super::{
    copies::Copies,
    cpu::{self, Cpus},
    device::Devices,
    journal::Journal,
    library,
    pm::Pm,
    probe::{Launches, Lost, Probes, Refused},
    table::Table,
};
use crate::{
    evidence::{
        record::Record,
        witness::{Interval, Probed, Seen, Source, Sources},
    },
    process,
    window::clock::monotonic_ns,
};

/// Launches are counted one second...
const SAMPLE_NS: u64 = 1_000_000_000;
/// ... in sixty.
const SAMPLE_EVERY_NS: u64 = 60_000_000_000;
/// Between two looks at all processes for copies of the driver's library.
const SWEEP_NS: u64 = 10_000_000_000;
/// The probes' counts are read so often.
const READ_NS: u64 = 500_000_000;
/// While the counters are taken for PM sampling, it is looked so often whether the meter has come into a process that was known before.
const LATE_NS: u64 = 1_000_000_000;
/// A process that used a GPU ended: the interval ends soon after, but is no shorter than this.
const SHORTEST_NS: u64 = 200_000_000;

/// What is asked of a witness.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run's folder.
    pub out: PathBuf,
    /// When launches are counted.
    pub launches: Launches,
    /// Length of an interval.
    pub every: Duration,
    /// Command lines are kept as they are.
    pub plain: bool,
    /// The job's first process, whose CPU time is counted, and whose evidence is waited for before anything is written.
    pub job: Option<u32>,
    /// Further copies of the driver's library to probe before anybody uses them.
    pub drivers: Vec<PathBuf>,
    /// Probes in the kernel are wanted at all.
    pub probes: bool,
    /// Devices' tensor cycles are to be sampled as long as nobody else needs the counters.
    pub pm_sampling: bool,
}

/// A witness.
pub struct Watch {
    options: Options,
    probes: Result<Probes, Refused>,
    copies: Copies,
    devices: Devices,
    pm: Pm,
    table: Table,
    cpus: Cpus,
    /// Processes whose meter's thread is counted.
    meters: BTreeSet<u32>,
    journal: Journal,
    lost: Lost,
    interval_began: u64,
    launches_since: Option<u64>,
    launches_on_ns: u64,
    next_sample: u64,
    next_sweep: u64,
    next_read: u64,
    next_late: u64,
    last: Option<Interval>,
}

impl Watch {
    /// Begins: loads the probes and attaches them to every copy of the driver's library in use.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let journal = Journal::new(options.out.clone(), options.job);
        let probes = if options.probes {
            Probes::load()
        } else {
            Err(Refused { what: "no probes were asked for".to_owned(), remedy: "leave --no-ebpf out".to_owned() })
        };
        let now = monotonic_ns();
        let mut watch = Self {
            copies: Copies::new(options.launches),
            devices: Devices::new(),
            pm: Pm::default(),
            table: Table::new(options.plain),
            cpus: Cpus::new(),
            meters: BTreeSet::new(),
            journal,
            lost: Lost::default(),
            interval_began: now,
            launches_since: None,
            launches_on_ns: 0,
            next_sample: now,
            next_sweep: now + SWEEP_NS,
            next_read: now + READ_NS,
            next_late: now,
            last: None,
            probes,
            options,
        };
        watch.sources();
        if let Some(pid) = watch.options.job {
            let _ = watch.cpus.add_job(pid);
        }
        if let Ok(probes) = &mut watch.probes {
            watch.copies.installed(probes, &watch.options.drivers);
            // Who has the driver's library already may have called it before the probes were there.
            for pid in watch.copies.sweep(probes) {
                watch.table.notice(pid, "mapped");
            }
        }
        if watch.options.pm_sampling {
            watch.sample_devices();
        }
        watch.tell_fresh();
        if watch.options.launches == Launches::All {
            watch.launches(true);
        }
        watch
    }

    /// Begins PM sampling where no metered process is.
    fn sample_devices(&mut self) {
        // Without probes nobody has looked yet.
        let own = std::process::id();
        let metered = |pid: &u32| *pid != own && library::maps(*pid).is_some_and(|m| m.metered && !m.drivers.is_empty());
        for pid in process::all().filter(metered) {
            self.table.notice(pid, "mapped");
        }
        self.look_at_devices(monotonic_ns());
        let wanted = self.devices.wanted();
        let (table, devices) = (&self.table, &self.devices);
        self.pm = Pm::begin(wanted, &|uuid: &str| in_the_way(table, devices, uuid));
        self.interval_began = monotonic_ns();
    }

    /// What is missing for a full witness, and what would help; none when all is there.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let probes = self.probes.as_ref().err().map(|e| format!("no probes in the kernel ({}): {}", e.what, e.remedy));
        let nvml = self.devices.why().map(|why| format!("no NVML ({why}): what devices did is not known"));
        let missing: Vec<String> = probes.into_iter().chain(self.copies.failed.clone()).chain(nvml).collect();
        (!missing.is_empty()).then(|| missing.join("; "))
    }

    /// Whether nothing at all can be witnessed.
    #[must_use]
    pub fn blind(&self) -> bool {
        self.probes.is_err() && self.devices.why().is_some()
    }

    /// Whether any of what it says is from the stand-in GPU.
    #[must_use]
    pub fn simulated(&self) -> bool {
        self.devices.simulated() || self.copies.simulated || self.pm.simulated()
    }

    /// What is to be said to whoever started it, once.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = self.pm.lines();
        lines.extend(self.journal.take_line());
        lines
    }

    /// Why nothing can be written, where that is so.
    ///
    /// # Errors
    /// What the file system says.
    pub fn check(&self) -> io::Result<()> {
        self.journal.check()
    }

    /// The newest whole interval, once.
    pub fn take_last(&mut self) -> Option<Interval> {
        self.last.take()
    }

    /// Processes that use a GPU and live.
    pub fn living(&self) -> impl Iterator<Item = &Seen> {
        self.table.living()
    }

    fn sources(&mut self) {
        let on = Source { on: true, ..Source::default() };
        let off = |why: &str, remedy: &str| Source { on: false, why: why.to_owned(), remedy: remedy.to_owned() };
        let launches = match (self.options.launches, &self.probes) {
            (_, Err(_)) | (Launches::Off, _) => "off",
            (Launches::Sampled, _) => "sampled",
            (Launches::All, _) => "all",
        };
        let driver = "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility";
        let sources = Sources {
            launches: launches.to_owned(),
            every_ns: self.every_ns(),
            ebpf: self.probes.as_ref().map_or_else(|e| off(&e.what, &e.remedy), |_| on.clone()),
            nvml: self.devices.why().map_or_else(|| on.clone(), |why| off(why, driver)),
            pm_sampling: self.options.pm_sampling,
            pmu: cpu::source(),
        };
        self.journal.add(Record::Sources(sources));
    }

    fn every_ns(&self) -> u64 {
        u64::try_from(self.options.every.as_nanos()).unwrap_or(u64::MAX)
    }

    /// One round: waits so long at most for something to happen, then does what is due.
    pub fn step(&mut self, wait: Duration) {
        self.wait(wait);
        let now = monotonic_ns();
        self.events(now);
        self.look_at_devices(now);
        let source_ended = self.look_at_samples(now);
        if now >= self.next_read {
            self.next_read = now + READ_NS;
            self.read_calls();
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_NS;
            if let Ok(probes) = &mut self.probes {
                self.copies.sweep(probes);
            }
            self.table.sweep(now);
        }
        self.sample(now);
        // A job's report is written soon after its processes have ended: what they did stands in the evidence then.
        let urgent = (self.table.urgent() || self.devices.moved()) && now >= self.interval_began + self.every_ns().min(SHORTEST_NS);
        if urgent || source_ended || now >= self.interval_began + self.every_ns() {
            self.interval();
        }
        self.tell_fresh();
        self.journal.flush(self.simulated());
    }

    /// The last interval, and the last line.
    ///
    /// # Errors
    /// What could not be written, why, and what would mend it.
    pub fn finish(&mut self) -> Result<(), String> {
        self.events(monotonic_ns());
        self.pm.finish(monotonic_ns());
        self.launches(false);
        self.interval();
        self.journal.finish(self.simulated())
    }

    fn wait(&self, longest: Duration) {
        let Ok(probes) = &self.probes else {
            std::thread::sleep(longest);
            return;
        };
        let mut poll = libc::pollfd { fd: probes.fd(), events: libc::POLLIN, revents: 0 };
        let ms = i32::try_from(longest.as_millis()).unwrap_or(1000);
        // SAFETY: one descriptor, which lives until the call is over.
        if unsafe { libc::poll(&raw mut poll, 1, ms) } > 0 {
            // Unread events of processes' lives keep the descriptor readable: many of them are read together.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn events(&mut self, now: u64) {
        let Ok(probes) = &mut self.probes else { return };
        for event in probes.events() {
            if event.pid == std::process::id() {
                continue;
            }
            if let Some(pid) = self.table.event(&event) {
                self.copies.executed(now, pid);
            }
        }
        self.copies.look_at_young(probes, now);
        self.tell_fresh();
    }

    /// Who is on the devices now may be gone when the interval ends.
    fn look_at_devices(&mut self, now: u64) {
        let Some(listed) = self.devices.glance(now) else { return };
        for pid in listed {
            if self.table.recent(pid).is_none() {
                self.table.notice(pid, "nvml");
            }
        }
        if self.probes.is_err() {
            // Nobody else tells who has ended.
            self.table.sweep(now);
        }
    }

    /// Reads what the devices sampled, unless somebody needs the counters. Whether it ended on one.
    fn look_at_samples(&mut self, now: u64) -> bool {
        if !self.pm.samples() {
            return false;
        }
        if now >= self.next_late {
            self.next_late = now + LATE_NS;
            // Where the driver brings the meter in, the process has called the driver before the library is there.
            self.table.sweep(now);
        }
        let (table, devices) = (&self.table, &self.devices);
        self.pm.tend(now, &|uuid: &str| in_the_way(table, devices, uuid))
    }

    /// What was found newly goes before what is said of it.
    fn tell_fresh(&mut self) {
        for pid in self.copies.users() {
            self.table.notice(pid, "mapped");
        }
        self.copies.fresh().into_iter().for_each(|probed| self.journal.add(Record::Probed(probed)));
        self.table.fresh().into_iter().for_each(|seen| self.journal.add(Record::Seen(Box::new(seen))));
    }

    fn read_calls(&mut self) {
        if let Ok(probes) = &mut self.probes {
            let mut calls = probes.calls();
            // For PM sampling this process calls the driver itself.
            calls.retain(|(caller, _)| caller.pid != std::process::id());
            self.table.counted(&calls);
            for (caller, _) in calls.iter().filter(|(c, _)| self.table.has_ended(c)) {
                probes.forget(caller);
            }
        }
        let meters = self.table.metered();
        self.meters.retain(|pid| meters.contains(pid));
        for pid in meters {
            if !self.meters.contains(&pid) && self.cpus.add_meter(pid) {
                self.meters.insert(pid);
            }
        }
    }

    /// Counts launches one second in sixty, where that is asked for.
    fn sample(&mut self, now: u64) {
        if self.options.launches != Launches::Sampled {
            return;
        }
        match self.launches_since {
            Some(since) if now >= since + SAMPLE_NS => self.launches(false),
            None if now >= self.next_sample && self.table.living().next().is_some() => {
                self.next_sample = now + SAMPLE_EVERY_NS;
                self.launches(true);
            }
            _ => {}
        }
    }

    fn launches(&mut self, on: bool) {
        let Ok(probes) = &mut self.probes else { return };
        let result = probes.count_launches(on, self.options.launches);
        let now = monotonic_ns();
        match (on, result) {
            (true, Ok(())) => self.launches_since = self.launches_since.or(Some(now)),
            (true, Err(e)) => {
                let why = Probed { path: "launches in all copies".to_owned(), why: e.what, ..Probed::default() };
                self.journal.add(Record::Probed(why));
            }
            (false, _) => {
                if let Some(since) = self.launches_since.take() {
                    self.launches_on_ns += now - since.max(self.interval_began);
                }
            }
        }
    }

    fn interval(&mut self) {
        self.read_calls();
        let now = monotonic_ns();
        if let Some(since) = self.launches_since {
            self.launches_on_ns += now - since.max(self.interval_began);
        }
        let devices = self.devices.interval(now, &mut self.table, &mut self.pm);
        self.tell_fresh();
        let (callers, ended, life) = self.table.interval();
        let lost = self.probes.as_ref().map(Probes::lost).unwrap_or_default();
        let interval = Interval {
            start_ns: self.interval_began,
            end_ns: now,
            devices,
            callers,
            launches_on_ns: std::mem::take(&mut self.launches_on_ns),
            ended,
            life,
            lost: (lost.events - self.lost.events, lost.calls - self.lost.calls),
            cpu: Some(self.cpus.read()),
        };
        self.lost = lost;
        self.interval_began = now;
        self.last = Some(interval.clone());
        self.journal.add(Record::Interval(Box::new(interval)));
    }
}

/// A metered process on a device. One that has just called the driver is on none yet, and counts for each.
fn in_the_way(table: &Table, devices: &Devices, uuid: &str) -> Option<String> {
    let here = |pid: u32| devices.of(pid).next().is_none() || devices.of(pid).any(|d| d == uuid);
    let found = table.living().find(|s| s.library && here(s.id.pid))?;
    Some(format!("{} {}", found.comm, found.id.pid))
}
