//! The witness's round: brings together what the probes, NVML and `/proc` say, and appends it to the run's folder.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io,
    path::PathBuf,
    time::Duration,
};

use super::{
    cpu::{self, Cpus},
    device::Devices,
    identity,
    library::{self, FileId},
    probe::{Launches, Lost, Probes, Refused},
    table::Table,
};
use crate::{
    evidence::{
        WITNESS,
        record::{End, Record},
        witness::{Interval, Probed, Seen, Source, Sources},
        write::Writer,
    },
    inject::{config::Said, identity as own},
    window::clock::monotonic_ns,
};

/// Launches are counted one second...
const SAMPLE_NS: u64 = 1_000_000_000;
/// ... in sixty.
const SAMPLE_EVERY_NS: u64 = 60_000_000_000;
/// Between two looks at all processes for copies of the driver's library.
const SWEEP_NS: u64 = 10_000_000_000;
/// Looks at a process that became another program, after it did: it may load a copy that nobody knows.
const LOOKS_NS: [u64; 4] = [20_000_000, 100_000_000, 500_000_000, 2_000_000_000];
/// Such looks a second at most: a node that starts hundreds of processes a second is left to the sweeps.
const LOOKS_PER_S: u32 = 50;
/// The probes' counts are read so often.
const READ_NS: u64 = 500_000_000;
/// A copy that nobody has mapped any more is let go after so many sweeps.
const UNUSED_SWEEPS: u32 = 6;
/// Records that may wait while the disk refuses.
const WAITING: usize = 10_000;

/// What is asked of a witness.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run's folder; none: nothing is written.
    pub out: Option<PathBuf>,
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
}

/// A witness.
pub struct Watch {
    options: Options,
    probes: Result<Probes, Refused>,
    devices: Devices,
    table: Table,
    cpus: Cpus,
    /// Processes whose meter's thread is counted.
    meters: BTreeSet<u32>,
    /// Records not written yet.
    waiting: VecDeque<(u64, Record)>,
    writer: Option<Writer>,
    lines_lost: u64,
    simulated: bool,
    lost: Lost,
    /// The first copy that could not be probed, and what would help.
    failed: Option<String>,
    copies: BTreeMap<FileId, Option<u32>>,
    young: VecDeque<(u64, usize, u32)>,
    looks: (u64, u32),
    interval_began: u64,
    launches_since: Option<u64>,
    launches_on_ns: u64,
    next_sample: u64,
    next_sweep: u64,
    next_read: u64,
    last: Option<Interval>,
}

impl Watch {
    /// Begins: loads the probes and attaches them to every copy of the driver's library in use.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let probes = if options.probes {
            Probes::load()
        } else {
            Err(Refused { what: "no probes were asked for".to_owned(), remedy: "leave --no-ebpf out".to_owned() })
        };
        let now = monotonic_ns();
        let devices = Devices::new();
        let mut watch = Self {
            table: Table::new(options.plain),
            simulated: devices.simulated(),
            devices,
            cpus: Cpus::new(),
            meters: BTreeSet::new(),
            waiting: VecDeque::from([(now, Record::Start(Box::new(own::start(false, true, &Said::read()))))]),
            writer: None,
            lines_lost: 0,
            lost: Lost::default(),
            failed: None,
            copies: BTreeMap::new(),
            young: VecDeque::new(),
            looks: (0, 0),
            interval_began: now,
            launches_since: None,
            launches_on_ns: 0,
            next_sample: now,
            next_sweep: now + SWEEP_NS,
            next_read: now + READ_NS,
            last: None,
            probes,
            options,
        };
        watch.sources();
        if let Some(pid) = watch.options.job {
            let _ = watch.cpus.add_job(pid);
        }
        let usual = library::installed().into_iter().chain(watch.options.drivers.clone());
        for path in usual.collect::<Vec<_>>() {
            watch.attach_file(&path);
        }
        watch.sweep(now);
        if watch.options.launches == Launches::All {
            watch.launches(true);
        }
        watch
    }

    /// What is missing for a full witness, and what would help; none when all is there.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let probes = self.probes.as_ref().err().map(|e| format!("no probes in the kernel ({}): {}", e.what, e.remedy));
        let nvml = self.devices.why().map(|why| format!("no NVML ({why}): what devices did is not known"));
        let missing: Vec<String> = probes.into_iter().chain(self.failed.clone()).chain(nvml).collect();
        (!missing.is_empty()).then(|| missing.join("; "))
    }

    /// Whether anything at all can be witnessed.
    #[must_use]
    pub fn blind(&self) -> bool {
        self.probes.is_err() && self.devices.why().is_some()
    }

    /// Whether any of what it says is from the stand-in GPU.
    #[must_use]
    pub fn simulated(&self) -> bool {
        self.simulated
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
        let sources = Sources {
            launches: launches.to_owned(),
            every_ns: u64::try_from(self.options.every.as_nanos()).unwrap_or(u64::MAX),
            ebpf: self.probes.as_ref().map_or_else(|e| off(&e.what, &e.remedy), |_| on.clone()),
            nvml: self
                .devices
                .why()
                .map_or_else(|| on.clone(), |why| off(why, "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility")),
            pmu: cpu::source(),
        };
        self.add(Record::Sources(sources));
    }

    fn add(&mut self, record: Record) {
        self.waiting.push_back((monotonic_ns(), record));
        if self.waiting.len() > WAITING {
            // Not the first, which says whose evidence it is.
            self.waiting.remove(1);
            self.lines_lost += 1;
        }
    }

    /// One round: waits so long at most for something to happen, then does what is due.
    pub fn step(&mut self, wait: Duration) {
        self.wait(wait);
        let now = monotonic_ns();
        self.events(now);
        self.look_at_devices(now);
        if now >= self.next_read {
            self.next_read = now + READ_NS;
            self.read_calls();
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_NS;
            self.sweep(now);
        }
        self.sample(now);
        let every = u64::try_from(self.options.every.as_nanos()).unwrap_or(u64::MAX);
        // A job's report is written soon after its processes have ended: what they did stands in the evidence then.
        let urgent = self.table.urgent() && now >= self.interval_began + every.min(200_000_000);
        if urgent || now >= self.interval_began + every {
            self.interval();
        }
        self.flush();
    }

    /// The last interval, and the last line.
    pub fn finish(&mut self) {
        self.events(monotonic_ns());
        self.launches(false);
        self.interval();
        if self.writer.is_some() || self.wanted() {
            let end = End { reason: "exit".to_owned(), lines_lost: self.lines_lost, ..End::default() };
            self.add(Record::End(end));
        }
        self.flush();
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
                self.young.push_back((now + LOOKS_NS[0], 0, pid));
            }
        }
        self.look_at_young(now);
        self.tell_fresh();
    }

    /// Looks whether new programs bring copies of the driver's library that have no probes yet.
    fn look_at_young(&mut self, now: u64) {
        for _ in 0..self.young.len() {
            let Some((due, turn, pid)) = self.young.pop_front() else { break };
            if due > now {
                self.young.push_back((due, turn, pid));
                continue;
            }
            let second = now / 1_000_000_000;
            self.looks = if self.looks.0 == second { (second, self.looks.1 + 1) } else { (second, 1) };
            if self.looks.1 > LOOKS_PER_S {
                continue;
            }
            let Some(maps) = library::maps(pid) else { continue };
            for mapped in &maps.drivers {
                self.attach_mapped(mapped);
            }
            if maps.drivers.is_empty()
                && let Some(wait) = LOOKS_NS.get(turn + 1)
            {
                self.young.push_back((now + wait, turn + 1, pid));
            }
        }
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
        self.tell_fresh();
    }

    fn tell_fresh(&mut self) {
        for seen in self.table.fresh() {
            self.add(Record::Seen(Box::new(seen)));
        }
    }

    fn attach_mapped(&mut self, mapped: &library::Mapped) {
        if !self.copies.contains_key(&mapped.id) {
            let opened = mapped.open();
            self.attach(mapped.id.clone(), &mapped.path, Some(mapped.pid), opened);
        }
    }

    fn attach_file(&mut self, path: &std::path::Path) {
        let Ok(file) = File::open(path) else { return };
        let Some(id) = library::file_id(&file) else { return };
        if !self.copies.contains_key(&id) {
            self.attach(id, &path.display().to_string(), None, Ok(file));
        }
    }

    fn attach(&mut self, id: FileId, path: &str, pid: Option<u32>, opened: io::Result<File>) {
        let Ok(probes) = &mut self.probes else { return };
        let mut probed = Probed { path: path.to_owned(), device: id.0.clone(), inode: id.1, pid, ..Probed::default() };
        let read = opened.and_then(|file| Ok((library::points(&file)?, file)));
        match read {
            Ok((points, file)) => {
                self.simulated |= points.simulated;
                probed.simulated = points.simulated;
                match probes.attach(id.clone(), file, points, self.options.launches) {
                    Ok(report) => (probed.probed, probed.expensive) = (report.probed, report.expensive),
                    Err(e) => {
                        self.failed.get_or_insert_with(|| format!("{path} has no probes ({}): {}", e.what, e.remedy));
                        probed.why = e.what;
                    }
                }
            }
            Err(e) => probed.why = e.to_string(),
        }
        self.copies.insert(id, pid.map(|_| 0));
        self.add(Record::Probed(probed));
    }

    /// Looks at all processes: copies of the driver's library, and who of the listed is gone.
    fn sweep(&mut self, now: u64) {
        let first = self.copies.values().all(Option::is_none) && self.table.living().next().is_none();
        let mut used = BTreeSet::new();
        for pid in identity::pids().into_iter().filter(|p| *p != std::process::id()) {
            let Some(maps) = library::maps(pid) else { continue };
            for mapped in &maps.drivers {
                used.insert(mapped.id.clone());
                self.attach_mapped(mapped);
            }
            // It may have called before the probes were there.
            if first && !maps.drivers.is_empty() {
                self.table.notice(pid, "mapped");
            }
        }
        let unused: Vec<FileId> = self
            .copies
            .iter_mut()
            .filter_map(|(id, sweeps)| {
                let sweeps = sweeps.as_mut()?;
                *sweeps = if used.contains(id) { 0 } else { *sweeps + 1 };
                (*sweeps > UNUSED_SWEEPS).then(|| id.clone())
            })
            .collect();
        for id in unused {
            self.copies.remove(&id);
            if let Ok(probes) = &mut self.probes {
                probes.detach(&id);
            }
        }
        self.table.sweep(now);
        self.tell_fresh();
    }

    fn read_calls(&mut self) {
        if let Ok(probes) = &mut self.probes {
            let calls = probes.calls();
            self.table.counted(&calls);
            for (caller, _) in calls.iter().filter(|(c, _)| self.table.has_ended(c)) {
                probes.forget(caller);
            }
        }
        self.tell_fresh();
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
            None if now >= self.next_sample => {
                self.next_sample = now + SAMPLE_EVERY_NS;
                if self.table.living().next().is_some() {
                    self.launches(true);
                }
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
                let why = Probed { path: "all copies".to_owned(), why: e.what, ..Probed::default() };
                self.add(Record::Probed(why));
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
        let devices = self.devices.interval(now, &mut self.table);
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
        self.add(Record::Interval(Box::new(interval)));
    }

    /// Whether there is something for the evidence: a witness that a job brought along waits until the job has evidence of its own, or uses a GPU.
    fn wanted(&self) -> bool {
        let Some(out) = &self.options.out else { return false };
        let Some(job) = self.options.job else { return true };
        let ours = |s: &Seen| s.id.pid == job || s.parents.iter().any(|p| p.pid == job);
        let told = |(_, r): &(u64, Record)| if let Record::Seen(seen) = r { ours(seen) } else { false };
        let evidence = |e: std::fs::DirEntry| e.path().extension().is_some_and(|x| x == "jsonl");
        self.waiting.iter().any(told) || std::fs::read_dir(out).into_iter().flatten().flatten().any(evidence)
    }

    fn flush(&mut self) {
        if self.waiting.is_empty() || (self.writer.is_none() && !self.open()) {
            return;
        }
        let Some(writer) = &mut self.writer else { return };
        while let Some((at_ns, record)) = self.waiting.front() {
            if writer.append(*at_ns, record).is_err() {
                return;
            }
            self.waiting.pop_front();
        }
    }

    fn open(&mut self) -> bool {
        if !self.wanted() {
            return false;
        }
        let (Some(out), Some((_, Record::Start(start)))) = (&self.options.out, self.waiting.front_mut()) else { return false };
        start.simulated = self.simulated;
        let name = format!("{WITNESS}{}.jsonl", own::file_name(start));
        self.writer = Writer::create(out, &name).ok();
        self.writer.is_some()
    }

    /// Why nothing is written, where that is so: the folder cannot be.
    ///
    /// # Errors
    /// What the file system says.
    pub fn check(&self) -> io::Result<()> {
        let Some(out) = self.options.out.as_ref().filter(|_| self.options.job.is_none()) else { return Ok(()) };
        std::fs::create_dir_all(out)?;
        let probe = out.join(format!(".witness.{}", std::process::id()));
        File::create(&probe)?;
        std::fs::remove_file(probe)
    }
}
