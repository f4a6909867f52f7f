//! Runs a program of the zoo bare and under the meter, on a stand-in GPU of its own, and compares.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use flopsprof::{
    evidence::{
        read::{self, ProcessEvidence},
        record::{Fault, Record, Window},
    },
    ledger::{self, RunTotal},
};
use tempfile::TempDir;

/// What the meter's own lines on stderr begin with.
const OURS: &str = "flopsprof: ";
/// The stand-ins, and the names under which programs load them.
pub(crate) const LIBRARIES: [(&str, &str); 3] = [("cuda", "libcuda.so.1"), ("cupti", "libcupti.so.13"), ("nvml", "libnvidia-ml.so.1")];

/// What cargo builds them by, and the command's library.
///
/// With an example among them cargo reckons with what only tests need, as it did for these tests. Without one, crates that both need get other features, and these, whatever
/// needs them, and the library itself are compiled once more; and again for the next run of the tests.
pub(crate) const BUILD: &str = "build --quiet --lib --example session_cost --package flopsprof --package flopsprof-sim-cuda --package flopsprof-sim-cupti \
                                --package flopsprof-sim-nvml";

/// Metrics of the zoo's kernels.
pub(crate) const BF16: &str = "sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32";
/// The one that takes turns.
pub(crate) const FP64: &str = "sm__ops_path_tensor_src_fp64";
/// The metric of `zoo_fp8`.
pub(crate) const FP8: &str = "sm__ops_path_tensor_src_fp8";

/// The folder with the command and the libraries that were built with these tests.
pub(crate) fn built() -> &'static Path {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let output = cargo(BUILD).output().expect("cargo");
        assert!(output.status.success(), "building the stand-ins: {}", String::from_utf8_lossy(&output.stderr));
    });
    folder()
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_flopsprof")).parent().expect("the command lies in a folder")
}

/// Cargo, to build where these tests were built, and as they were.
pub(crate) fn cargo(words: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(words.split_whitespace());
    cargo.arg("--target-dir").arg(folder().parent().expect("a profile's folder lies in the target folder"));
    if folder().ends_with("release") {
        cargo.arg("--release");
    }
    cargo
}

/// The file of a built library.
pub(crate) fn library(name: &str) -> PathBuf {
    built().join(format!("lib{name}.so"))
}

/// A program of the zoo.
pub(crate) fn zoo(program: &str) -> PathBuf {
    compiled("zoo", program)
}

/// A program or library of a folder below `tests`, whose sources are compiled once.
pub(crate) fn compiled(sources: &'static str, program: &str) -> PathBuf {
    static FOLDERS: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folders.entry(sources).or_insert_with(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(sources);
        fs::create_dir_all(&folder).expect("the folder for the programs");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(sources);
        let sources: Vec<PathBuf> = fs::read_dir(sources).expect("sources").flatten().map(|e| e.path()).collect();
        std::thread::scope(|scope| {
            for source in sources.iter().filter(|p| p.extension().is_some_and(|x| x == "c")) {
                scope.spawn(|| compile(source, &folder));
            }
        });
        folder
    });
    let program = folder.join(program);
    assert!(program.exists(), "{} is not there", program.display());
    program
}

fn compile(source: &Path, folder: &Path) {
    let name = source.file_stem().expect("a source has a name").to_string_lossy().into_owned();
    let (program, shared): (_, &[&str]) =
        if name.starts_with("lib") { (folder.join(format!("{name}.so")), &["-shared", "-fPIC"]) } else { (folder.join(name), &[]) };
    // Renamed into place: another run of these tests may be executing the old one.
    let fresh = program.with_extension(format!("{}", std::process::id()));
    let output = Command::new("cc")
        .args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .args([&fresh, source])
        .args(shared)
        .arg("-ldl")
        .output()
        .expect("cc: a C compiler is needed for these tests");
    assert!(output.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    fs::rename(&fresh, &program).expect("renaming a program");
}

/// A machine with stand-in GPUs of its own, and what programs on it are started with.
pub(crate) struct Bench {
    pub(crate) dir: Arc<TempDir>,
    serial: u64,
    env: BTreeMap<OsString, OsString>,
}

impl Bench {
    /// A machine with all three libraries and one GPU, whose calls take no longer than they must. Windows are cut every 0.1 s.
    pub(crate) fn new() -> Self {
        Self::below(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// The same in this folder.
    pub(crate) fn below(folder: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = Arc::new(tempfile::Builder::new().prefix("meter-").tempdir_in(folder).expect("a temporary folder"));
        let serial = u64::from(std::process::id()) << 32 | u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let libraries = dir.path().join("lib");
        for folder in [&libraries, &dir.path().join("gpu"), &dir.path().join("tmp")] {
            fs::create_dir(folder).expect("a folder of the test");
        }
        // As a GPU that was there before the program; see `tests/sim/cuda/src/shared.rs`.
        fs::write(dir.path().join("gpu/activity"), [0; 4096]).expect("the stand-in's state");
        for (built, name) in LIBRARIES {
            // Links of the file, not of the name: what a process has mapped shows under its own name then.
            let (built, linked) = (library(&format!("flopsprof_sim_{built}")), libraries.join(name));
            fs::hard_link(&built, &linked).or_else(|_| fs::copy(&built, &linked).map(|_| ())).expect("linking a library");
        }
        let bench = Self { serial, env: BTreeMap::new(), dir };
        let cupti = bench.lib("libcupti.so.13");
        let (gpu, out, tmp) = (bench.dir.path().join("gpu"), bench.out(), bench.dir.path().join("tmp"));
        bench
            .env("LD_LIBRARY_PATH", &libraries)
            .env("FLOPSPROF_SIM_DIR", gpu)
            .env("FLOPSPROF_SIM_SERIAL", serial.to_string())
            .env("FLOPSPROF_SIM_FAST", "1")
            .env("FLOPSPROF_OUT", out)
            .env("FLOPSPROF_WINDOW", "0.1")
            // Named, so that a machine with a CUDA toolkit uses the stand-in too.
            .env("FLOPSPROF_CUPTI", cupti)
            .env("TMPDIR", tmp)
    }

    /// Sets a variable for the programs, metered or not.
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Takes one away.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.env.remove(&OsString::from(name));
        self
    }

    /// Makes functions of the stand-ins fail; see `tests/sim/cuda/src/fault.rs`.
    pub(crate) fn fault(self, faults: &str) -> Self {
        self.env("FLOPSPROF_SIM_FAULT", faults)
    }

    /// The file under which programs load a library.
    pub(crate) fn lib(&self, name: &str) -> PathBuf {
        self.dir.path().join("lib").join(name)
    }

    /// Puts a file in a library's place that is no library.
    pub(crate) fn broken(self, name: &str) -> Self {
        let path = self.lib(name);
        let _ = fs::remove_file(&path);
        fs::write(path, "not a library").expect("writing a file");
        self
    }

    /// Puts a copy of a library in its place that lacks a symbol.
    pub(crate) fn lacking(self, name: &str, symbol: &str) -> Self {
        let path = self.lib(name);
        let mut bytes = fs::read(&path).expect("reading a library");
        // The string table has it between two zeros; another letter makes it another symbol.
        let (wanted, mut found) = ([&[0], symbol.as_bytes(), &[0]].concat(), 0);
        while let Some(at) = bytes.windows(wanted.len()).position(|w| w == wanted) {
            bytes[at + 1] = b'_';
            found += 1;
        }
        assert!(found > 0, "{symbol} is not in {name}");
        fs::remove_file(&path).expect("unlinking a library");
        fs::write(path, bytes).expect("writing a library");
        self
    }

    /// The run's folder.
    pub(crate) fn out(&self) -> PathBuf {
        self.dir.path().join("evidence")
    }

    /// A program of the zoo, ready to start.
    pub(crate) fn command(&self, metered: bool, program: &str, args: &[&str]) -> Command {
        self.start(metered, &zoo(program), args)
    }

    /// Any program, ready to start.
    pub(crate) fn start(&self, metered: bool, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).current_dir(self.dir.path());
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("FLOPSPROF_")) {
            command.env_remove(name);
        }
        command.env_remove("CUDA_INJECTION64_PATH").envs(&self.env);
        if metered {
            command.env("LD_PRELOAD", library("flopsprof"));
        }
        command
    }

    /// Runs a program bare and metered, and checks that nobody could tell the difference: exit status, stdout, and stderr less the meter's own lines.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Outcome {
        let bare = self.command(false, program, args).output().expect("starting a program");
        let metered = self.command(true, program, args).output().expect("starting a program");
        self.compare(&bare, metered)
    }

    /// Checks that a metered program behaved as the bare one.
    pub(crate) fn compare(&self, bare: &Output, metered: Output) -> Outcome {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let stderr = text(&metered.stderr);
        let (said, others): (Vec<&str>, Vec<&str>) = stderr.lines().partition(|l| l.starts_with(OURS));
        let context = format!("metered stderr:\n{stderr}\nbare: {bare:?}\nmetered: {metered:?}");
        assert_eq!(metered.status, bare.status, "exit status; {context}");
        assert_eq!(text(&metered.stdout), text(&bare.stdout), "stdout; {context}");
        assert_eq!(others, text(&bare.stderr).lines().collect::<Vec<_>>(), "stderr; {context}");
        let said = said.into_iter().map(|l| l[OURS.len()..].to_owned()).collect();
        Outcome { _dir: self.dir.clone(), out: self.out(), status: metered.status, stdout: text(&metered.stdout), said }
    }
}

impl Bench {
    /// What the UUIDs of its GPUs have in common.
    fn uuid(&self) -> String {
        format!("666c6f7073696d{:016x}", self.serial)
    }

    /// The locks by which metered processes take turns at this bench's GPUs, which are named after them.
    pub(crate) fn locks(&self) -> Vec<PathBuf> {
        let ours = |path: &PathBuf| path.to_string_lossy().replace('-', "").contains(&self.uuid());
        fs::read_dir("/dev/shm").into_iter().flatten().flatten().map(|e| e.path()).filter(ours).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // They outlive the processes.
        for lock in self.locks() {
            let _ = fs::remove_file(lock);
        }
    }
}

/// What came of a metered run.
pub(crate) struct Outcome {
    /// Keeps the evidence until it has been looked at.
    _dir: Arc<TempDir>,
    /// Where its evidence is.
    out: PathBuf,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    /// The meter's lines on stderr.
    pub(crate) said: Vec<String>,
}

impl Outcome {
    /// The same, with its evidence elsewhere.
    pub(crate) fn at(self, out: PathBuf) -> Self {
        Self { out, ..self }
    }

    /// What the program executed, by its own word.
    pub(crate) fn truth(&self) -> BTreeMap<String, u128> {
        let mut truth = BTreeMap::new();
        for line in self.stdout.lines() {
            if let ["truth", metric, flop] = line.split(' ').collect::<Vec<_>>()[..] {
                *truth.entry(metric.to_owned()).or_insert(0) += flop.parse::<u128>().expect("a number");
            }
        }
        truth
    }

    /// The evidence: every file of it whole, unbroken, and marked as simulated.
    pub(crate) fn evidence(&self) -> Vec<ProcessEvidence> {
        let files = read::read_run(&self.out).unwrap_or_else(|e| panic!("{e}; said {:?}", self.said));
        for file in &files {
            assert_eq!(file.breaks, [], "{}", file.path.display());
            assert!(file.start.simulated, "{} is not marked as simulated", file.path.display());
        }
        files
    }

    /// The evidence of a program that had one metered process and ended in a way that lets the meter end too.
    pub(crate) fn ended(&self) -> ProcessEvidence {
        let mut files = self.evidence();
        assert_eq!(files.len(), 1, "one process was metered");
        let file = files.remove(0);
        assert!(file.ended && !file.torn_tail, "{:?}", file.lines.last());
        file
    }

    /// FLOP that stand in windows, by path.
    pub(crate) fn counted(&self) -> BTreeMap<String, u128> {
        let mut sum = BTreeMap::new();
        for (path, flop) in self.windows().into_iter().flat_map(|w| w.counts) {
            *sum.entry(path).or_insert(0) += flop;
        }
        sum.retain(|_, flop| *flop > 0);
        sum
    }

    pub(crate) fn windows(&self) -> Vec<Window> {
        let lines = self.evidence().into_iter().flat_map(|f| f.lines);
        lines.filter_map(|l| if let Record::Window(w) = l.record { Some(*w) } else { None }).collect()
    }

    /// The windows, one a line, for messages.
    pub(crate) fn course(&self) -> String {
        let lines = self.windows().into_iter().map(|w| {
            let counts: Vec<String> = w.counts.iter().filter(|(_, n)| **n > 0).map(|(m, n)| format!("{m}={n}")).collect();
            let gate = if w.opened.gated { String::new() } else { format!("ungated: {}", w.opened.why_ungated) };
            let (from, to) = (w.start_ns as f64 / 1e9, w.end_ns as f64 / 1e9);
            format!("  {} {from:.4}..{to:.4} {:?} {} {gate} {}\n", w.device, w.tier, w.why, counts.join(" "))
        });
        lines.collect()
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        let lines = self.evidence().into_iter().flat_map(|f| f.lines);
        lines.filter_map(|l| if let Record::Fault(f) = l.record { Some(f) } else { None }).collect()
    }

    /// What the ledger makes of the evidence.
    pub(crate) fn ledger(&self) -> RunTotal {
        ledger::run_total(&self.evidence())
    }

    /// What the command prints with these arguments and the run's folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_flopsprof")).args(arguments).arg(&self.out).output().expect("the command");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What `flopsprof report` prints, and its exit status.
    pub(crate) fn report(&self) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_flopsprof")).arg("report").arg(&self.out).output().expect("the command");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains("SIMULATED"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    }

    /// Everything that ran was counted, and there was nothing to say.
    pub(crate) fn assert_exact(&self) {
        assert_eq!(self.counted(), self.truth(), "counted against true; windows:\n{}", self.course());
        assert_eq!(self.said, [] as [&str; 0]);
        assert_eq!(self.faults(), []);
    }

    /// One thing was not metered: one fault of that kind, one line on stderr that says it with a remedy, and the report repeats it.
    pub(crate) fn assert_fault(&self, kind: &str) -> Fault {
        let faults = self.faults();
        assert_eq!(faults.iter().map(|f| f.kind.as_str()).collect::<Vec<_>>(), [kind], "{faults:#?}, said {:?}", self.said);
        let fault = faults[0].clone();
        assert_eq!(self.said.len(), 1, "one line on stderr: {:?}", self.said);
        assert!(self.said[0].contains(&fault.what) && self.said[0].contains(&fault.remedy), "{:?} says not {fault:?}", self.said);
        assert!(!fault.remedy.is_empty(), "{fault:?} has no remedy");
        let (status, report) = self.report();
        assert_eq!(status, Some(0));
        let report = unwrapped(&report);
        assert!(
            report.contains(&unwrapped(&fault.what)) && report.contains(&unwrapped(&fault.remedy)),
            "the report does not repeat {fault:?}:\n{report}"
        );
        fault
    }

    /// No evidence was written, because there was nothing to write about.
    pub(crate) fn assert_no_trace(&self) {
        assert!(!self.out.exists(), "evidence of a process that had nothing to meter");
        assert_eq!(self.said, [] as [&str; 0]);
    }

    /// The signal that ended it.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// A text with its line breaks and indents as single spaces.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
