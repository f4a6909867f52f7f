//! The eBPF probes: loaded, attached to every copy of the driver's library, and read.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsRawFd, RawFd},
    thread::JoinHandle,
};

use aya::{
    Btf, EbpfLoader, Pod,
    maps::{Array, MapData, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::{
        RawTracePoint, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
};
use flopsprof_ebpf::{COOKIE_LAUNCH, Caller, Event, LOST_CALLS, LOST_EVENTS, name};

use super::{
    entry::{Class, entry},
    library::{FileId, Points},
};
use crate::process;

/// [`Caller`] as a key of a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(Caller);

// SAFETY: integers without padding, of which any bytes are valid.
unsafe impl Pod for Key {}

/// Why there are no probes, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is missing.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// What could not be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Events of processes: the ring was full.
    pub events: u64,
    /// Calls: too many processes at once.
    pub calls: u64,
}

/// When launches are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launches {
    /// Never.
    Off,
    /// One second in sixty.
    Sampled,
    /// Always.
    All,
}

/// A copy of the driver's library with its probes.
struct Attached {
    /// Held open: the way to the file, whatever becomes of its name and of the process that had it mapped.
    file: File,
    points: Points,
    _rare: Vec<UProbeLink>,
    launches: Vec<UProbeLink>,
}

/// The probes.
pub struct Probes {
    bpf: aya::Ebpf,
    events: RingBuf<MapData>,
    calls: PerCpuHashMap<MapData, Key, u64>,
    lost: PerCpuArray<MapData, u64>,
    on: Array<MapData, u64>,
    attached: BTreeMap<FileId, Attached>,
    /// Copies whose probes are being taken away.
    leaving: BTreeMap<FileId, JoinHandle<()>>,
    launching: bool,
}

/// What was attached to one copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entry points that are probed, or will be when launches are counted.
    pub probed: Vec<String>,
    /// Launches whose first instruction makes a probe expensive: probed only when all launches are asked for.
    pub expensive: Vec<String>,
    /// It is the stand-in GPU's.
    pub simulated: bool,
}

impl Probes {
    /// Loads the probes, and attaches those of processes' lives.
    ///
    /// # Errors
    /// What is missing for it.
    pub fn load() -> Result<Self, Refused> {
        // The kernel's events tell of processes by their ids on the host, and /proc has to mean the same by them.
        let namespace = process::namespace();
        if namespace != Some(process::FIRST_NAMESPACE) {
            return Err(Refused {
                what: format!(
                    "this process has not the host's process ids ({})",
                    namespace.map_or_else(String::new, |n| format!("pid:[{n}]"))
                ),
                remedy: "docker run --pid=host; in Kubernetes hostPID: true".to_owned(),
            });
        }
        // Without the kernel's own types the loader would place nothing, and the probes would read what happens to lie there.
        let btf = Btf::from_sys_fs().map_err(|e| Refused {
            what: format!("the kernel does not tell its types (/sys/kernel/btf/vmlinux: {})", short(&e)),
            remedy: "a kernel with CONFIG_DEBUG_INFO_BTF; in a container, mount /sys".to_owned(),
        })?;
        let mut bpf = EbpfLoader::new().btf(Some(&btf)).load(flopsprof_ebpf::object()).map_err(|e| refused("loading the probes", &e))?;
        for (program, tracepoint) in name::LIFE {
            let attach = |bpf: &mut aya::Ebpf| -> Result<(), Box<dyn std::error::Error>> {
                let program: &mut RawTracePoint = bpf.program_mut(program).ok_or("no such program")?.try_into()?;
                program.load()?;
                program.attach(tracepoint)?;
                Ok(())
            };
            attach(&mut bpf).map_err(|e| refused(&format!("the tracepoint {tracepoint}"), e.as_ref()))?;
        }
        let load = |bpf: &mut aya::Ebpf| -> Result<(), Box<dyn std::error::Error>> {
            let program: &mut UProbe = bpf.program_mut(name::CALLED).ok_or("no such program")?.try_into()?;
            Ok(program.load()?)
        };
        load(&mut bpf).map_err(|e| refused("the probe of entry points", e.as_ref()))?;
        if !std::path::Path::new("/sys/bus/event_source/devices/uprobe").exists() {
            return Err(Refused {
                what: "the kernel has no uprobes (/sys/bus/event_source/devices/uprobe is not there)".to_owned(),
                remedy: "a kernel with CONFIG_UPROBES and CONFIG_PERF_EVENTS; in a container, mount /sys".to_owned(),
            });
        }
        let mut map = |name: &str| bpf.take_map(name).ok_or_else(|| refused_text(name, "no such map"));
        let (events, calls, lost, on) = (map(name::EVENTS)?, map(name::CALLS)?, map(name::LOST)?, map(name::LAUNCHES_ON)?);
        let wrong = |e: aya::maps::MapError| refused("a map of the probes", &e);
        Ok(Self {
            events: RingBuf::try_from(events).map_err(wrong)?,
            calls: PerCpuHashMap::try_from(calls).map_err(wrong)?,
            lost: PerCpuArray::try_from(lost).map_err(wrong)?,
            on: Array::try_from(on).map_err(wrong)?,
            bpf,
            attached: BTreeMap::new(),
            leaving: BTreeMap::new(),
            launching: false,
        })
    }

    /// The descriptor that becomes readable when a process calls the driver for the first time.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }

    /// Attaches to a copy: its rare entry points now, its launches where these are being counted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach(&mut self, id: FileId, file: File, points: Points, mode: Launches) -> Result<Report, Refused> {
        let mut report = Report { simulated: points.simulated, ..Report::default() };
        for (number, (_, cheap)) in &points.at {
            let Some((name, class)) = entry(*number) else { continue };
            if class == Class::Launch && !cheap {
                report.expensive.push(name.to_owned());
            }
            if class == Class::Rare || mode == Launches::All || (mode == Launches::Sampled && *cheap) {
                report.probed.push(name.to_owned());
            }
        }
        let rare = self.attach_all(&file, &points, Class::Rare, true)?;
        let launches = if self.launching { self.attach_all(&file, &points, Class::Launch, mode == Launches::All)? } else { Vec::new() };
        self.attached.insert(id, Attached { file, points, _rare: rare, launches });
        Ok(report)
    }

    /// Takes a copy's probes away.
    pub fn detach(&mut self, id: &FileId) {
        let copy = self.attached.remove(id);
        // As for launches: it takes long, and nobody has to wait.
        self.leaving.insert(id.clone(), std::thread::spawn(move || drop(copy)));
    }

    /// Whether probes that were taken away are still there: new ones beside them would count twice.
    pub fn leaving(&mut self, id: &FileId) -> bool {
        self.leaving.retain(|_, thread| !thread.is_finished());
        self.leaving.contains_key(id)
    }

    /// Begins to count launches, or ends it. What a call counts begins and ends at one moment for all copies and entry points.
    ///
    /// # Errors
    /// What the kernel says; launches are not counted then.
    pub fn count_launches(&mut self, on: bool, mode: Launches) -> Result<(), Refused> {
        if on == self.launching {
            return Ok(());
        }
        if on {
            let ids: Vec<FileId> = self.attached.keys().cloned().collect();
            for id in ids {
                let Some(mut copy) = self.attached.remove(&id) else { continue };
                let links = self.attach_all(&copy.file, &copy.points, Class::Launch, mode == Launches::All);
                let failed = links.as_ref().err().cloned();
                copy.launches = links.unwrap_or_default();
                self.attached.insert(id, copy);
                if let Some(e) = failed {
                    self.attached.values_mut().for_each(|c| c.launches.clear());
                    return Err(e);
                }
            }
        }
        self.on.set(0, u64::from(on), 0).map_err(|e| refused("a map of the probes", &e))?;
        if !on {
            let links: Vec<UProbeLink> = self.attached.values_mut().flat_map(|c| std::mem::take(&mut c.launches)).collect();
            // The kernel takes a tenth of a second for each, one after the other; nobody has to wait for that.
            std::thread::spawn(move || drop(links));
        }
        self.launching = on;
        Ok(())
    }

    fn attach_all(&mut self, file: &File, points: &Points, which: Class, expensive: bool) -> Result<Vec<UProbeLink>, Refused> {
        let program: Result<&mut UProbe, _> = self.bpf.program_mut(name::CALLED).ok_or(()).and_then(|p| p.try_into().map_err(|_| ()));
        let Ok(program) = program else { return Err(refused_text(name::CALLED, "no such program")) };
        // Not by its name, which may stand for another file by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut links = Vec::new();
        for (number, (offset, cheap)) in &points.at {
            let Some((name, class)) = entry(*number) else { continue };
            if class != which || !(*cheap || expensive) {
                continue;
            }
            let cookie = u64::from(*number) | if class == Class::Launch { COOKIE_LAUNCH } else { 0 };
            let point = UProbeAttachPoint { location: UProbeAttachLocation::AbsoluteOffset(*offset), cookie: Some(cookie) };
            let link = program.attach(point, &path, UProbeScope::AllProcesses).map_err(|e| refused(&format!("a probe at {name}"), &e))?;
            links.push(program.take_link(link).map_err(|e| refused(&format!("a probe at {name}"), &e))?);
        }
        Ok(links)
    }

    /// What happened since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            if item.len() >= size_of::<Event>() {
                // SAFETY: as many bytes as the struct has, any of which are valid in it; they need not be aligned.
                events.push(unsafe { std::ptr::read_unaligned(item.as_ptr().cast::<Event>()) });
            }
        }
        events
    }

    /// Calls by process and entry point, since each was last forgotten.
    #[must_use]
    pub fn calls(&self) -> Vec<(Caller, u64)> {
        self.calls.iter().filter_map(Result::ok).map(|(key, calls)| (key.0, calls.iter().sum())).collect()
    }

    /// Makes room of a process that has ended.
    pub fn forget(&mut self, caller: &Caller) {
        let _ = self.calls.remove(&Key(*caller));
    }

    /// What could not be told, since the probes were loaded.
    #[must_use]
    pub fn lost(&self) -> Lost {
        let of = |index| self.lost.get(&index, 0).map_or(0, |each| each.iter().sum());
        Lost { events: of(LOST_EVENTS), calls: of(LOST_CALLS) }
    }
}

/// The last of an error's causes says most.
fn short(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn refused(what: &str, error: &dyn std::error::Error) -> Refused {
    refused_text(what, &short(error))
}

fn refused_text(what: &str, why: &str) -> Refused {
    let remedy = "run it as root, or with CAP_SYS_ADMIN; in a container, privileged, with the host's process ids".to_owned();
    Refused { what: format!("{what}: {why}"), remedy }
}
