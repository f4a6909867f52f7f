//! Brings records to the evidence file, whatever the disk does.
//!
//! The file is made when there is something to say, not before: a process that only looks at the GPU leaves no trace. A record that cannot be written
//! waits in memory and is tried again with the next one. A folder that cannot be made is replaced by one in the temporary directory, with a
//! line on stderr that says so.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
};

use super::{
    config::{Config, Said, instead_of, private_of},
    identity,
    say::say,
};
use crate::{
    evidence::{
        record::{Fault, Record},
        write::{Writer, private_folder},
    },
    window::clock::monotonic_ns,
};

/// The kind of fault that says that the evidence had been removed.
const REMOVED: &str = "removed";

/// Records that may wait in memory: a day of windows.
const WAITING: usize = 10_000;

/// Makes the file; a program that became another by `exec` is the same process to the kernel, and its evidence has the name already.
fn create(folder: &Path, name: &str) -> io::Result<Writer> {
    let mut result = Writer::create(folder, &format!("{name}.jsonl"));
    for n in 2..100 {
        match result {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => result = Writer::create(folder, &format!("{name}-{n}.jsonl")),
            _ => break,
        }
    }
    result
}

/// The evidence of this process.
pub(super) struct Journal {
    out: PathBuf,
    /// The folder that the file is in, wherever the program goes.
    folder: Option<PathBuf>,
    temporary: PathBuf,
    said: Said,
    simulated: bool,
    writer: Option<Writer>,
    waiting: VecDeque<(u64, Record)>,
    dropped: u64,
    /// The disk refuses at the moment, and stderr has been told.
    refused: bool,
    told: Vec<String>,
    /// The last fault written.
    fault: Option<Fault>,
}

impl Journal {
    pub(super) fn new(config: &Config, simulated: bool) -> Self {
        Self {
            out: config.out.clone(),
            folder: None,
            temporary: config.temporary.clone(),
            said: config.said.clone(),
            simulated,
            writer: None,
            waiting: VecDeque::new(),
            dropped: 0,
            refused: false,
            told: Vec::new(),
            fault: None,
        }
    }

    /// Whether anything has been said so far.
    pub(super) fn begun(&self) -> bool {
        self.writer.is_some() || !self.waiting.is_empty()
    }

    /// The folder that the evidence is in; none before there is any.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Records that were given up because too many waited.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Adds a record; faults are told on stderr too, each kind once. A fault that repeats window after window is written once: each window says why
    /// it was not counted.
    pub(super) fn add(&mut self, record: Record) {
        if let Record::Fault(fault) = &record {
            if self.fault.as_ref() == Some(fault) {
                return;
            }
            self.fault = Some(fault.clone());
        }
        if !self.begun() {
            self.waiting.push_back((monotonic_ns(), Record::Start(Box::new(identity::start(self.simulated, false, &self.said)))));
        }
        if let Record::Fault(fault) = &record {
            self.tell(fault);
        }
        self.waiting.push_back((monotonic_ns(), record));
        if self.waiting.len() > WAITING {
            // Not the first, which says whose evidence it is.
            self.waiting.remove(1);
            self.dropped += 1;
        }
    }

    /// Adds a fault of which stderr was told.
    pub(super) fn add_told(&mut self, fault: Fault) {
        self.told.push(fault.kind.clone());
        self.add(Record::Fault(fault));
    }

    /// Adds records, and writes what waits.
    pub(super) fn keep(&mut self, records: Vec<Record>) {
        records.into_iter().for_each(|record| self.add(record));
        self.flush();
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if self.writer.is_none() {
            self.open();
        }
        self.look_after();
        let Some(writer) = &mut self.writer else { return };
        while let Some((at_ns, record)) = self.waiting.front() {
            if let Err(e) = writer.append(*at_ns, record) {
                if !self.refused {
                    self.refused = true;
                    say(&format!("cannot write evidence to {}: {e}: it is kept in memory and tried again", writer.path().display()));
                }
                return;
            }
            self.waiting.pop_front();
        }
        self.refused = false;
    }

    /// Sees to it that the file is there, and says, once, if it had been removed: before what waits, of which the last may be the end.
    fn look_after(&mut self) {
        let Some(writer) = &mut self.writer else { return };
        // What does not succeed is tried again with the next line, which says why.
        let _ = writer.have_file();
        if !writer.put_back() || self.told.iter().any(|kind| kind == REMOVED) {
            return;
        }
        let fault = Fault {
            kind: REMOVED.to_owned(),
            device: None,
            what: format!(
                "the evidence was removed while it was being written, and put back with all its lines: {}",
                writer.path().display()
            ),
            remedy: "set FLOPSPROF_OUT to a folder that nobody clears; of processes that had ended before it nothing is left".to_owned(),
        };
        self.tell(&fault);
        let at_ns = self.waiting.front().map_or_else(monotonic_ns, |(at_ns, _)| *at_ns);
        self.waiting.push_front((at_ns, Record::Fault(fault)));
    }

    /// What is still in memory at the end is lost: says how much.
    pub(super) fn close(&mut self) {
        self.flush();
        let lost = self.waiting.len() as u64 + self.dropped;
        if lost > 0 {
            say(&format!(
                "{lost} lines of evidence were lost: free space in {} or set FLOPSPROF_OUT to another folder",
                self.out.display()
            ));
        }
    }

    fn open(&mut self) {
        let Some((_, Record::Start(start))) = self.waiting.front() else { return };
        let name = identity::file_name(start);
        let refused = match create(&self.out, &name) {
            Ok(writer) => {
                self.writes(writer);
                return;
            }
            Err(e) => e,
        };
        if self.refused {
            return;
        }
        self.refused = true;
        let instead = instead_of(&self.temporary, &self.out);
        match private_folder(&private_of(&self.temporary)).and_then(|()| create(&instead, &name)) {
            Ok(writer) => {
                self.writes(writer);
                self.refused = false;
                let what = format!("cannot write evidence: {refused}: it goes to {} instead", instead.display());
                let remedy = "set FLOPSPROF_OUT to a folder that can be written".to_owned();
                self.add(Record::Fault(Fault { kind: "disk".to_owned(), device: None, what, remedy }));
                self.out = instead;
            }
            Err(_) => say(&format!("cannot write evidence: {refused}: set FLOPSPROF_OUT to a folder that can be written")),
        }
    }

    fn writes(&mut self, writer: Writer) {
        self.folder = writer.path().parent().and_then(|p| std::path::absolute(p).ok());
        self.writer = Some(writer);
    }

    fn tell(&mut self, fault: &Fault) {
        if !self.told.contains(&fault.kind) {
            self.told.push(fault.kind.clone());
            let device = fault.device.map(|d| format!("GPU {d}: ")).unwrap_or_default();
            say(&format!("{device}{}: {}", fault.what, fault.remedy));
        }
    }
}
