//! Copies of the CUDA driver's library in use, and their probes: found, attached, let go.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::{
    library::{self, FileId},
    probe::{Launches, Probes},
};
use crate::{evidence::witness::Probed, process};

/// Looks at a process that became another program, after it did: it may load a copy that nobody knows.
const LOOKS_NS: [u64; 4] = [20_000_000, 100_000_000, 500_000_000, 2_000_000_000];
/// Such looks a second at most: a node that starts hundreds of processes a second is left to the sweeps.
const LOOKS_PER_S: u32 = 50;
/// A copy that nobody has mapped any more is let go after so many sweeps.
const UNUSED_SWEEPS: u32 = 6;

/// The copies that were found.
pub(super) struct Copies {
    mode: Launches,
    /// By file: sweeps since somebody had it mapped; none for one that is probed in any case.
    known: BTreeMap<FileId, Option<u32>>,
    /// Processes to look at: when, for which time, which.
    young: VecDeque<(u64, usize, u32)>,
    /// Looks in this second.
    looks: (u64, u32),
    /// Processes that brought a copy that nobody knew: what they called before its probes were there is not counted.
    users: Vec<u32>,
    /// Newly found, to be written.
    fresh: Vec<Probed>,
    /// Any is the stand-in GPU's.
    pub(super) simulated: bool,
    /// The first that could not be probed, and what would help.
    pub(super) failed: Option<String>,
}

impl Copies {
    pub(super) fn new(mode: Launches) -> Self {
        Self {
            mode,
            known: BTreeMap::new(),
            young: VecDeque::new(),
            looks: (0, 0),
            users: Vec::new(),
            fresh: Vec::new(),
            simulated: false,
            failed: None,
        }
    }

    /// Attaches to those in their usual places, and to further ones, before anybody uses them.
    pub(super) fn installed(&mut self, probes: &mut Probes, further: &[PathBuf]) {
        for path in library::installed().iter().map(PathBuf::as_path).chain(further.iter().map(PathBuf::as_path)) {
            self.attach_file(probes, path);
        }
    }

    fn attach_file(&mut self, probes: &mut Probes, path: &Path) {
        let Ok(file) = File::open(path) else { return };
        let Some(id) = library::file_id(&file) else { return };
        if !self.known.contains_key(&id) {
            self.attach(probes, id, &path.display().to_string(), None, Ok(file));
        }
    }

    fn attach_mapped(&mut self, probes: &mut Probes, mapped: &library::Mapped) {
        if !self.known.contains_key(&mapped.id) && !probes.leaving(&mapped.id) {
            let opened = mapped.open();
            self.attach(probes, mapped.id.clone(), &mapped.path, Some(mapped.pid), opened);
            self.users.push(mapped.pid);
        }
    }

    fn attach(&mut self, probes: &mut Probes, id: FileId, path: &str, pid: Option<u32>, opened: io::Result<File>) {
        let mut probed = Probed { path: path.to_owned(), device: id.0.clone(), inode: id.1, pid, ..Probed::default() };
        match opened.and_then(|file| Ok((library::points(&file)?, file))) {
            Ok((points, file)) => {
                self.simulated |= points.simulated;
                probed.simulated = points.simulated;
                match probes.attach(id.clone(), file, points, self.mode) {
                    Ok(report) => (probed.probed, probed.expensive) = (report.probed, report.expensive),
                    Err(e) => {
                        self.failed.get_or_insert_with(|| format!("{path} has no probes ({}): {}", e.what, e.remedy));
                        probed.why = e.what;
                    }
                }
            }
            Err(e) => probed.why = e.to_string(),
        }
        self.known.insert(id, pid.map(|_| 0));
        self.fresh.push(probed);
    }

    /// A process became another program: it is looked at in a moment.
    pub(super) fn executed(&mut self, now: u64, pid: u32) {
        self.young.push_back((now + LOOKS_NS[0], 0, pid));
    }

    /// Looks whether new programs bring copies that have no probes yet.
    pub(super) fn look_at_young(&mut self, probes: &mut Probes, now: u64) {
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
            maps.drivers.iter().for_each(|mapped| self.attach_mapped(probes, mapped));
            if maps.drivers.is_empty()
                && let Some(wait) = LOOKS_NS.get(turn + 1)
            {
                self.young.push_back((now + wait, turn + 1, pid));
            }
        }
    }

    /// Looks at all processes. Returns those that have a copy mapped.
    pub(super) fn sweep(&mut self, probes: &mut Probes) -> Vec<u32> {
        let (mut used, mut users) = (BTreeSet::new(), Vec::new());
        for pid in process::all().filter(|p| *p != std::process::id()) {
            let Some(maps) = library::maps(pid) else { continue };
            for mapped in &maps.drivers {
                used.insert(mapped.id.clone());
                self.attach_mapped(probes, mapped);
            }
            if !maps.drivers.is_empty() {
                users.push(pid);
            }
        }
        self.let_go(probes, &used);
        users
    }

    fn let_go(&mut self, probes: &mut Probes, used: &BTreeSet<FileId>) {
        let unused = |(id, sweeps): (&FileId, &mut Option<u32>)| {
            let sweeps = sweeps.as_mut()?;
            *sweeps = if used.contains(id) { 0 } else { *sweeps + 1 };
            (*sweeps > UNUSED_SWEEPS).then(|| id.clone())
        };
        let unused: Vec<FileId> = self.known.iter_mut().filter_map(unused).collect();
        for id in unused {
            self.known.remove(&id);
            probes.detach(&id);
        }
    }

    /// Processes that brought a copy that nobody knew, since this was asked last.
    pub(super) fn users(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.users)
    }

    /// The newly found.
    pub(super) fn fresh(&mut self) -> Vec<Probed> {
        std::mem::take(&mut self.fresh)
    }
}
