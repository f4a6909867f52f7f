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
    /// Why the disk refuses at the moment.
    refused: Option<io::Error>,
    /// What is to be said of that; each refusal is said once.
    said: Option<String>,
}

impl Journal {
    pub(super) fn new(out: PathBuf, job: Option<u32>) -> Self {
        let first = (monotonic_ns(), Record::Start(Box::new(identity::start(false, true, &Said::read()))));
        Self { out, job, waiting: VecDeque::from([first]), writer: None, lines_lost: 0, refused: None, said: None }
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
        if self.waiting.is_empty() {
            return;
        }
        match self.write(simulated) {
            Ok(()) => self.refused = None,
            Err(e) => {
                if self.refused.is_none() {
                    self.said = Some(format!("cannot write evidence: {e}: it is kept in memory and tried again"));
                }
                self.refused = Some(e);
            }
        }
    }

    fn write(&mut self, simulated: bool) -> io::Result<()> {
        if self.writer.is_none() && !self.open(simulated)? {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        while let Some((at_ns, record)) = self.waiting.front() {
            writer.append(*at_ns, record).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", writer.path().display())))?;
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Makes the file, if there is something for it.
    fn open(&mut self, simulated: bool) -> io::Result<bool> {
        if !self.wanted() {
            return Ok(false);
        }
        let name = self.name();
        if let Some((_, Record::Start(start))) = self.waiting.front_mut() {
            start.simulated = simulated;
        }
        self.writer = Some(Writer::create(&self.out, &format!("{WITNESS}{name}"))?);
        Ok(true)
    }

    /// The file's name behind what all witnesses' files begin with.
    fn name(&self) -> String {
        let Some((_, Record::Start(start))) = self.waiting.front() else { return String::new() };
        format!("{}.jsonl", identity::file_name(start))
    }

    /// What is to be said on stderr, once.
    pub(super) fn take_line(&mut self) -> Option<String> {
        self.said.take()
    }

    /// The last line.
    ///
    /// # Errors
    /// What is not in the file, why, and what would mend it.
    pub(super) fn finish(&mut self, simulated: bool) -> Result<(), String> {
        if self.writer.is_some() || self.wanted() {
            let end = End { reason: "exit".to_owned(), lines_lost: self.lines_lost, ..End::default() };
            self.add(Record::End(end));
        }
        self.flush(simulated);
        let Some(e) = &self.refused else { return Ok(()) };
        let lost = self.waiting.len() as u64 + self.lines_lost;
        Err(format!("{lost} lines of evidence are lost: {e}: {}", remedy(e)))
    }

    /// Why nothing can be written, where that is so. A witness that a job brought along says nothing before it has to.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.job.is_some() {
            return Ok(());
        }
        // As long as the file's own name will be: a path has an end.
        let probe = self.out.join(format!(".{}{}", WITNESS.trim_end_matches('-'), self.name()));
        let tried = fs::create_dir_all(&self.out).and_then(|()| fs::File::create(&probe)).and_then(|_| fs::remove_file(&probe));
        tried.map_err(|e| io::Error::new(e.kind(), format!("{e}: {}", remedy(&e))))
    }
}

/// What would mend it.
fn remedy(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::InvalidFilename => "give --out a shorter path",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space there, or give --out a folder on another disk",
        _ => "give --out a folder that can be written",
    }
}
