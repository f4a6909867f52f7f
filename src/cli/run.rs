//! `flopsprof run`: meters a command and everything it starts.

use std::{
    ffi::{OsStr, OsString},
    io::{ErrorKind, IsTerminal},
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use flopsprof::{inject::config, window::clock::unix_ns};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2},
    iterator::Signals,
};

use super::{library, live::Live, recipe::Recipe, witness::Witness};

/// As `env` and `timeout` have it: their own failure, and the shell's codes for a command that is not there or cannot be run.
const NO_RECIPE: u8 = 125;
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Meter a command and everything it starts.
///
/// The command runs as it would without: same output, same signals, same exit status (128 + signal when it was killed). On a terminal its last row shows
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
    let set = || std::env::var_os(config::OUT).filter(|v| !v.is_empty()).map(PathBuf::from);
    let out = args.out.or_else(set).unwrap_or_else(default_folder);
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
    let mut live = Live::new(&out, !args.quiet);
    let status = wait(child, &mut live).context("waiting for the command")?;
    if let Some(witness) = witness {
        witness.end();
    }
    forwarding.close();
    let _ = forwarder.join();
    live.end();
    if !args.quiet && metered {
        live.conclude();
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
