//! The witness's evidence file: made when there is something for it, and written whatever the disk does.

use std::{collections::VecDeque, fs, io, path::PathBuf};

use crate::{
    evidence::{
        WITNESS,
        record::{End, Record},
        witness::Seen,
        write::Writer,
    },
    inject::{config::Said, identity},
    window::clock::monotonic_ns,
};

/// Records that may wait while the disk refuses.
const WAITING: usize = 10_000;

/// The evidence of a witness.
pub(super) struct Journal {
    out: PathBuf,
    /// The job that brought this witness along: nothing is written before it has evidence of its own, or uses a GPU.
    job: Option<u32>,
    waiting: VecDeque<(u64, Record)>,
    writer: Option<Writer>,
    lines_lost: u64,
}

impl Journal {
    pub(super) fn new(out: PathBuf, job: Option<u32>) -> Self {
        let first = (monotonic_ns(), Record::Start(Box::new(identity::start(false, true, &Said::read()))));
        Self { out, job, waiting: VecDeque::from([first]), writer: None, lines_lost: 0 }
    }

    /// Adds a record.
    pub(super) fn add(&mut self, record: Record) {
        self.waiting.push_back((monotonic_ns(), record));
        if self.waiting.len() > WAITING {
            // Not the first, which says whose evidence it is.
            self.waiting.remove(1);
            self.lines_lost += 1;
        }
    }

    /// Whether there is something for the evidence.
    fn wanted(&self) -> bool {
        let Some(job) = self.job else { return true };
        let ours = |s: &Seen| s.id.pid == job || s.parents.iter().any(|p| p.pid == job);
        let told = |(_, r): &(u64, Record)| if let Record::Seen(seen) = r { ours(seen) } else { false };
        let evidence = |e: fs::DirEntry| e.path().extension().is_some_and(|x| x == "jsonl");
        self.waiting.iter().any(told) || fs::read_dir(&self.out).into_iter().flatten().flatten().any(evidence)
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self, simulated: bool) {
        if self.waiting.is_empty() || (self.writer.is_none() && !self.open(simulated)) {
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

    fn open(&mut self, simulated: bool) -> bool {
        if !self.wanted() {
            return false;
        }
        let Some((_, Record::Start(start))) = self.waiting.front_mut() else { return false };
        start.simulated = simulated;
        let name = format!("{WITNESS}{}.jsonl", identity::file_name(start));
        self.writer = Writer::create(&self.out, &name).ok();
        self.writer.is_some()
    }

    /// The last line.
    pub(super) fn finish(&mut self, simulated: bool) {
        if self.writer.is_some() || self.wanted() {
            let end = End { reason: "exit".to_owned(), lines_lost: self.lines_lost, ..End::default() };
            self.add(Record::End(end));
        }
        self.flush(simulated);
    }

    /// Why nothing can be written, where that is so. A witness that a job brought along says nothing before it has to.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.job.is_some() {
            return Ok(());
        }
        fs::create_dir_all(&self.out)?;
        let probe = self.out.join(format!(".witness.{}", std::process::id()));
        fs::File::create(&probe)?;
        fs::remove_file(probe)
    }
}
