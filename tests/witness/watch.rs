//! `flopsprof watch` beside a test.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::Bench;

/// A witness at work.
pub(crate) struct Watch {
    child: Child,
    out: PathBuf,
    /// What it said when it began.
    pub(crate) said: Vec<String>,
    rest: BufReader<std::process::ChildStderr>,
}

/// The command, with the bench's libraries.
pub(crate) fn flopsprof(bench: &Bench) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flopsprof"));
    command.envs(environment(&bench.command(false, "plain", &[])));
    command
}

/// What a command sets, for another that runs in its place.
pub(crate) fn environment(of: &Command) -> Vec<(OsString, OsString)> {
    of.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
}

impl Watch {
    /// Starts one with options, and waits until it is at work.
    pub(crate) fn start(bench: &Bench, options: &[&str]) -> Self {
        let mut command = flopsprof(bench);
        command.arg("watch").args(options).arg("--out").arg(bench.out());
        Self::begin(command, &bench.out())
    }

    /// The same for a command that was put together elsewhere.
    pub(crate) fn begin(mut command: Command, out: &Path) -> Self {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starting the witness");
        let mut rest = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut said = Vec::new();
        for line in rest.by_ref().lines() {
            said.push(line.expect("reading"));
            if said.last().is_some_and(|l| l.contains("witnessing into")) {
                break;
            }
        }
        let watch = Self { child, out: out.to_owned(), said, rest };
        assert!(watch.said.last().is_some_and(|l| l.contains("witnessing into")), "the witness ended: {:?}", watch.said);
        watch
    }

    /// Waits for a record; panics when it does not come.
    pub(crate) fn wait_for(&self, what: &str, found: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(record) = records(&self.out).into_iter().find(|r| found(r)) {
                return record;
            }
            assert!(Instant::now() < until, "{what} did not come: {:#?}", records(&self.out));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process's CPU time so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("its times");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks");
        Duration::from_millis(ticks * 10)
    }

    /// Where it answers Prometheus.
    pub(crate) fn address(&self) -> String {
        let words = self.said.iter().find_map(|l| l.strip_prefix("flopsprof: metrics at http://")?.strip_suffix("/metrics"));
        words.unwrap_or_else(|| panic!("{:?}", self.said)).to_owned()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: a signal to our own child.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a service manager would, and returns its records.
    pub(crate) fn end(self) -> Vec<Value> {
        let (records, rest) = self.end_with_words();
        assert_eq!(rest, "", "nothing went wrong");
        records
    }

    /// The same for one that had something to say meanwhile.
    pub(crate) fn end_with_words(mut self) -> (Vec<Value>, String) {
        // SAFETY: a signal to our own child.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        let mut rest = String::new();
        self.rest.read_to_string(&mut rest).expect("reading");
        assert_eq!(self.child.wait().expect("waiting").code(), Some(0));
        (records(&self.out), rest)
    }
}

impl Drop for Watch {
    /// One whose test has failed must not stay.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The records of the witness's file in a folder.
pub(crate) fn records(out: &Path) -> Vec<Value> {
    let files = fs::read_dir(out).into_iter().flatten().flatten().map(|e| e.path());
    let mut files: Vec<PathBuf> = files.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("witness-"))).collect();
    files.sort();
    let text: String = files.iter().map(|p| fs::read_to_string(p).expect("the witness's file")).collect();
    text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

/// Calls of a process in all intervals, by entry point.
pub(crate) fn calls(records: &[Value], pid: u64) -> std::collections::BTreeMap<String, u64> {
    let mut sum = std::collections::BTreeMap::new();
    let callers = records.iter().filter(|r| r["type"] == "interval").flat_map(|r| r["callers"].as_array().cloned().unwrap_or_default());
    for caller in callers.filter(|c| c["pid"] == pid) {
        for (name, n) in caller["calls"].as_object().expect("calls") {
            *sum.entry(name.clone()).or_default() += n.as_u64().expect("a number");
        }
    }
    sum
}

/// Launches of a process.
pub(crate) fn launches(records: &[Value], pid: u64) -> u64 {
    calls(records, pid).iter().filter(|(name, _)| flopsprof::witness::entry::launches(name)).map(|(_, n)| n).sum()
}

/// A process's record.
pub(crate) fn seen(records: &[Value], pid: u64) -> &Value {
    records.iter().find(|r| r["type"] == "seen" && r["pid"] == pid).unwrap_or_else(|| panic!("{pid} was not seen"))
}

/// What was lost: events, calls.
pub(crate) fn lost(records: &[Value]) -> (u64, u64) {
    let of = |i: usize| records.iter().filter_map(|r| r["lost"][i].as_u64()).sum();
    (of(0), of(1))
}
