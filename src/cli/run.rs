//! `flopsprof run`: meters a command and everything it starts.

use std::{
    ffi::{OsStr, OsString},
    io::{ErrorKind, IsTerminal, Write},
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use flopsprof::{
    evidence::{
        follow::Follow,
        record::{Record, Tier},
    },
    inject::config,
    report::top::Top,
    window::clock::unix_ns,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2},
    iterator::Signals,
};

use super::{library, recipe::Recipe, witness::Witness};

/// As `env` and `timeout` have it: their own failure, and the shell's codes for a command that is not there or cannot be run.
const NO_RECIPE: u8 = 125;
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Meter a command and everything it starts.
///
/// The command runs as it would without: same output, same signals, same exit status (128 + signal when it was killed). On a terminal a line shows
/// the FLOP counted so far, the rate, the power, and the largest kernels of the last census.
///
/// A witness of who else uses the node's GPUs runs beside it (flopsprof watch), with all that it may: root sees most. It says in one line what it lacks.
///
/// With a recipe of the AWS toolkit that says `compute_flops: true`, flops_meter.json is written at the end (to FLOPS_METER_OUT), with what was measured; with
/// one that does not, the command runs without the meter.
///
/// Exit status: the command's; 125 if the recipe cannot be read, 126 if the command cannot be run, 127 if it is not found.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  flopsprof run python train.py --epochs 3\n  flopsprof run --out /data/run7 torchrun --nproc-per-node 8 train.py"
)]
pub(crate) struct Args {
    /// Folder for the evidence [default: FLOPSPROF_OUT, else flopsprof-<time>-<pid> here]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Steady length of a counting window, in seconds [default: 60, growing to 300 in a run of 50 minutes]
    #[arg(long, value_name = "SECONDS")]
    window: Option<f64>,
    /// What the meter may cost, per cent of wall time: it governs how long windows are, how often counters change, and how often kernels are looked at
    /// one by one; 0: never the latter [default: 0.5]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    overhead: Option<f64>,
    /// A training recipe (YAML) with the flag compute_flops
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Start no witness of who else uses the GPUs (flopsprof watch) [env: FLOPSPROF_WITNESS=0]
    #[arg(long)]
    no_witness: bool,
    /// No live line and no closing words
    #[arg(long, short)]
    quiet: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let recipe = match args.recipe.as_deref().map(Recipe::read).transpose() {
        Ok(recipe) => recipe,
        Err(e) => {
            eprintln!("flopsprof: {e:#}");
            return Ok(ExitCode::from(NO_RECIPE));
        }
    };
    let metered = recipe.as_ref().is_none_or(|r| r.compute_flops);
    let out = args.out.or_else(|| std::env::var_os(config::OUT).map(PathBuf::from)).unwrap_or_else(default_folder);
    // The command may change its directory; the evidence must not follow it.
    let out = std::path::absolute(&out).with_context(|| format!("the evidence folder {}", out.display()))?;
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    if metered {
        load(&library::path()?, &mut command);
        command.env(config::OUT, &out);
    } else if !args.quiet {
        eprintln!("flopsprof: not metered: the recipe does not say compute_flops: true");
    }
    if let Some(window) = args.window {
        command.env(config::WINDOW, window.to_string());
    }
    if let Some(overhead) = args.overhead {
        command.env(config::OVERHEAD, overhead.to_string());
    }
    // Before the command starts, so that no signal falls between. What is ignored (nohup, a shell's &) stays so, for the command too.
    let watched = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2].into_iter().filter(|s| !is_ignored(*s));
    let mut signals = Signals::new(watched).context("watching for signals")?;
    let child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            let name = args.command[0].display();
            eprintln!("flopsprof: {name}: {e}");
            return Ok(ExitCode::from(if e.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }));
        }
    };
    let pid = child.id().cast_signed();
    let witness = (metered && !args.no_witness).then(|| Witness::start(&out, child.id(), args.quiet)).flatten();
    let forwarding = signals.handle();
    let forwarder = thread::spawn(move || {
        for signal in signals.forever() {
            // A terminal sends Ctrl-C and Ctrl-\ to the whole foreground group, so the command has had them.
            if !(matches!(signal, SIGINT | SIGQUIT) && std::io::stdin().is_terminal()) {
                // SAFETY: a signal to our own child, which is not waited for before this thread is told to end.
                let _ = unsafe { libc::kill(pid, signal) };
            }
        }
    });
    let mut live = Live::new(&out, !args.quiet && std::io::stderr().is_terminal());
    let status = wait(child, &mut live).context("waiting for the command")?;
    if let Some(witness) = witness {
        witness.end();
    }
    forwarding.close();
    let _ = forwarder.join();
    if !args.quiet && metered {
        live.finish(&out);
    }
    if let Some(recipe) = recipe.filter(|r| r.compute_flops) {
        // The command's exit status stands whatever becomes of the file.
        match recipe.finish(&out) {
            Ok(path) if !args.quiet => eprintln!("flopsprof: wrote {}", path.display()),
            Ok(_) => {}
            Err(e) => eprintln!("flopsprof: no flops_meter.json: {e:#}"),
        }
    }
    Ok(exit_code(status))
}

fn percent(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|p| (0.0..=100.0).contains(p)).ok_or_else(|| format!("`{text}` is not a percentage from 0 to 100"))
}

/// Waits for the command; looks at the evidence meanwhile.
fn wait(mut child: Child, live: &mut Live) -> std::io::Result<ExitStatus> {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(child.wait()));
    loop {
        match ended.recv_timeout(Duration::from_secs(1)) {
            Ok(status) => return status,
            Err(mpsc::RecvTimeoutError::Timeout) => live.show(),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(std::io::Error::other("the waiting thread ended")),
        }
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeros is a sigaction.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is changed; the answer goes into a struct of ours.
    unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0 && now.sa_sigaction == libc::SIG_IGN }
}

/// 128 + signal for a death by signal, as shells have it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}

fn default_folder() -> PathBuf {
    PathBuf::from(format!("flopsprof-{}-{}", unix_ns() / 1_000_000_000, std::process::id()))
}

/// Has the command loaded with our library, before whatever else is preloaded. Where its path has a space or a colon in it, which end a name in `LD_PRELOAD`, the
/// driver loads it instead: all is counted then but the last window of a process that ends by `_exit`.
fn load(library: &Path, command: &mut Command) {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    if library.as_os_str().as_bytes().iter().any(|b| b" :".contains(b)) {
        if let Some(other) = set("CUDA_INJECTION64_PATH").filter(|other| other != library.as_os_str()) {
            command.env("FLOPSPROF_INJECTION_BEFORE", other);
        }
        command.env("CUDA_INJECTION64_PATH", library);
        return;
    }
    let mut preload = library.as_os_str().to_owned();
    if let Some(others) = set("LD_PRELOAD") {
        preload.push(OsStr::new(":"));
        preload.push(others);
    }
    command.env("LD_PRELOAD", preload);
}

/// So old a count says how old it is.
const TOLD_AFTER_S: u64 = 4;

/// The newest window of a device.
struct Newest {
    flop: u128,
    ns: u64,
    power_mw: Option<u32>,
    seen: Instant,
}

/// What the evidence says so far.
struct Live {
    follow: Follow,
    on_terminal: bool,
    flop: u128,
    /// Of each device of each process.
    newest: std::collections::BTreeMap<(PathBuf, u32), Newest>,
    windows: u64,
    simulated: bool,
    faults: Vec<String>,
    top: Top,
    began: Instant,
    shown: bool,
}

impl Live {
    fn new(out: &Path, on_terminal: bool) -> Self {
        Self {
            follow: Follow::new(out),
            on_terminal,
            flop: 0,
            newest: std::collections::BTreeMap::new(),
            windows: 0,
            simulated: false,
            faults: Vec::new(),
            top: Top::default(),
            began: Instant::now(),
            shown: false,
        }
    }

    fn look(&mut self) {
        for (file, line) in self.follow.look() {
            self.top.add(&file, &line);
            match line.record {
                Record::Start(start) => self.simulated |= start.simulated,
                Record::Fault(fault) if !self.faults.contains(&fault.what) => self.faults.push(fault.what),
                Record::Window(window) => {
                    let flop: u128 = window.counts.values().sum();
                    // Of launches in which the CUDA cores were counted instead, it is known from a census.
                    self.flop += if window.tier == Tier::Counted { flop } else { 0 };
                    self.windows += 1;
                    let power_mw = window.nvml.as_ref().and_then(|n| n.power_mw);
                    let ns = window.end_ns.saturating_sub(window.start_ns);
                    self.newest.insert((file, window.device), Newest { flop, ns, power_mw, seen: Instant::now() });
                }
                Record::End(_) => self.newest.retain(|(of, _), _| *of != file),
                // Windows of an old run are long; the power is read more often.
                Record::Reading(reading) => {
                    if let (Some(newest), Some(mw)) = (self.newest.get_mut(&(file, reading.device)), reading.nvml.power_mw) {
                        newest.power_mw = Some(mw);
                    }
                }
                _ => {}
            }
        }
    }

    fn show(&mut self) {
        if !self.on_terminal {
            return;
        }
        self.look();
        if self.windows == 0 {
            return;
        }
        // Of those that were killed nothing is counted any more, and no last record says so.
        self.top.look();
        self.newest.retain(|(file, _), _| !self.top.file_is_over(file));
        let newest = self.newest.values();
        // A sum of no floats is -0.
        let rate = newest.clone().filter(|n| n.ns > 0).map(|n| n.flop as f64 / n.ns as f64 * 1e9).sum::<f64>() + 0.0;
        let watts = newest.clone().filter_map(|n| n.power_mw).map(|mw| f64::from(mw) / 1e3).sum::<f64>() + 0.0;
        let ago = newest.map(|n| n.seen.elapsed().as_secs()).max().filter(|s| *s >= TOLD_AFTER_S).map(|s| format!(" up to {s} s ago"));
        let mark = if self.simulated { " simulated" } else { "" };
        let seconds = self.began.elapsed().as_secs();
        self.shown = true;
        let kernels = self.top.words(2);
        let kernels = if kernels.is_empty() { kernels } else { format!("  {kernels}") };
        eprint!(
            "\r\x1b[Kflopsprof: {seconds} s  {:.4e}{mark} FLOP counted{}  {:.1}{mark} TFLOP/s  {watts:.0} W{kernels}",
            self.flop as f64,
            ago.unwrap_or_default(),
            rate / 1e12
        );
        let _ = std::io::stderr().flush();
    }

    fn finish(&mut self, out: &Path) {
        self.look();
        if self.shown {
            eprint!("\r\x1b[K");
        }
        if self.follow.files() == 0 {
            eprintln!("flopsprof: nothing was metered: no process of the command used CUDA (flopsprof doctor shows what is in place)");
            return;
        }
        let mark = if self.simulated { " simulated" } else { "" };
        eprintln!(
            "flopsprof: {:.6e}{mark} FLOP counted by {} process(es); evidence in {}",
            self.flop as f64,
            self.follow.files(),
            out.display()
        );
        eprintln!("flopsprof: next: flopsprof report {}", out.display());
    }
}
