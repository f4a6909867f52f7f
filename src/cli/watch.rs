//! `flopsprof watch`: the node's witness.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use flopsprof::{
    reconcile::completeness::completeness,
    report::make,
    witness::{
        metrics::{Metrics, runs},
        probe::Launches,
        serve::serve,
        watch::{Options, Watch},
    },
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Not all of the evidence could be written.
const NOT_WRITTEN: u8 = 1;
/// Nothing can be witnessed here.
const BLIND: u8 = 3;
/// Longest pause between two rounds.
const ROUND: Duration = Duration::from_millis(100);
/// How often --listen works out how much was metered.
const COMPLETENESS: Duration = Duration::from_secs(15);

/// Witness who uses the GPUs of this node, metered or not.
///
/// Counts, with probes in the kernel (eBPF), who calls the CUDA driver; asks NVML what the devices did and which processes were on them; and appends both to the run's
/// folder, so that flopsprof report says how much of the devices' work was metered, and whose the rest was. flopsprof run starts it by itself.
///
/// What a device's tensor cores did comes from NVML's GPM. With --tensor pm the GPU's own counters are sampled instead, exact to the cycle, on GPUs without GPM too.
/// A GPU's counters have one owner at a time: it does not begin on a GPU with a metered process, gives way when one comes, and says so; from there on it is GPM. It
/// takes the libcupti of FLOPSPROF_CUPTI, else the CUDA toolkit's.
///
/// All of it needs root, or CAP_SYS_ADMIN, and the host's process ids. With less it says what is missing and does the rest.
///
/// Exit status: 0; 1 if the folder, or any of the evidence, cannot be written; 2 for wrong usage; 3 if nothing can be witnessed here.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flopsprof watch --out run7\n  flopsprof watch --out run7 --launches all --for 60\n  \
                  flopsprof watch --out unmetered --tensor pm\n  \
                  flopsprof watch --out /var/lib/flopsprof --listen --runs /data/runs")]
pub(crate) struct Args {
    /// The run's folder, to which the witness's evidence goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// When launches are counted: a probed launch takes 1 to 2 us longer
    #[arg(long, value_enum, default_value_t = When::Sampled)]
    launches: When,
    /// Length of an interval, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    every: f64,
    /// End after so many seconds [default: when it is told to, by SIGTERM or Ctrl-C]
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    duration: Option<f64>,
    /// Write command lines as they are: they may hold secrets [default: their SHA-256]
    #[arg(long)]
    command_lines: bool,
    /// Probe this copy of libcuda before anybody uses it, too
    #[arg(long, value_name = "FILE")]
    libcuda: Vec<PathBuf>,
    /// No probes in the kernel: NVML and /proc alone
    #[arg(long)]
    no_ebpf: bool,
    /// What tells the devices' tensor activity; pm takes the GPUs' counters for as long as no metered process needs them
    #[arg(long, value_enum, default_value_t = Tensor::Gpm)]
    tensor: Tensor,
    /// Answer Prometheus at /metrics there [default, with no address: 127.0.0.1:9417]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:9417")]
    listen: Option<String>,
    /// Of which runs --listen tells: a run's folder, or one in which runs' folders are [default: that of --out]
    #[arg(long, value_name = "DIR", requires = "listen")]
    runs: Vec<PathBuf>,
    /// The job that this witness is for: its first process (flopsprof run starts it so)
    #[arg(long, value_name = "PID", hide = true)]
    job: Option<u32>,
}

/// When launches are counted.
#[derive(Clone, Copy, clap::ValueEnum)]
enum When {
    /// Never
    Off,
    /// One second in sixty
    Sampled,
    /// Always
    All,
}

/// What tells the devices' tensor activity.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Tensor {
    /// NVML's GPM: a percentage, beside whoever counts (Hopper and later)
    Gpm,
    /// CUPTI's PM sampling: cycles, counted by the hardware; GPM where it is not to be had, and from where it gives way to a metered process
    Pm,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|s| (0.1..=1e6).contains(s)).ok_or_else(|| format!("`{text}` is not a number of seconds from 0.1 on"))
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).context("watching for signals")?;
    }
    if args.job.is_some() {
        // SAFETY: no preconditions. The job comes first.
        unsafe { libc::nice(10) };
    }
    more_files();
    let options = Options {
        out: args.out.clone(),
        launches: match args.launches {
            When::Off => Launches::Off,
            When::Sampled => Launches::Sampled,
            When::All => Launches::All,
        },
        every: Duration::from_secs_f64(args.every),
        plain: args.command_lines,
        job: args.job,
        drivers: args.libcuda.clone(),
        probes: !args.no_ebpf,
        pm_sampling: args.tensor == Tensor::Pm,
    };
    if options.pm_sampling {
        // It starts CUDA in this process, which nobody is to meter or trace.
        // SAFETY: no other thread of this process is there yet.
        unsafe { std::env::remove_var("CUDA_INJECTION64_PATH") };
    }
    let mut watch = Watch::new(options);
    if watch.blind() {
        eprintln!("flopsprof: not witnessed: {}", watch.missing().unwrap_or_default());
        return Ok(ExitCode::from(BLIND));
    }
    watch.check().with_context(|| args.out.display().to_string())?;
    if let Some(missing) = watch.missing() {
        eprintln!("flopsprof: witnessed in part: {missing}");
    }
    say(&mut watch);
    let metrics = args.listen.as_deref().map(|address| listen(address, &args)).transpose()?;
    if args.job.is_none() {
        eprintln!("flopsprof: witnessing into {}", args.out.display());
    }
    // SAFETY: no preconditions.
    let parent = unsafe { libc::getppid() };
    let end = args.duration.map(|s| Instant::now() + Duration::from_secs_f64(s));
    while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        // SAFETY: no preconditions.
        if args.job.is_some() && unsafe { libc::getppid() } != parent {
            break;
        }
        watch.step(ROUND);
        say(&mut watch);
        if let (Some(metrics), Some(interval)) = (&metrics, watch.take_last()) {
            let simulated = watch.simulated();
            lock(metrics).interval(&interval, watch.living(), simulated);
        }
    }
    let written = watch.finish();
    say(&mut watch);
    if let Err(lost) = &written {
        eprintln!("flopsprof: not witnessed: {lost}");
    }
    if args.job.is_some() {
        farewell();
    }
    Ok(if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(NOT_WRITTEN) })
}

fn say(watch: &mut Watch) {
    watch.lines().iter().for_each(|line| eprintln!("flopsprof: {line}"));
}

/// Tells who waits that the evidence is whole. The kernel takes a tenth of a second for each probe that goes, and nobody has to wait for that.
fn farewell() {
    // SAFETY: a constant string, and descriptors of ours, which nothing is written to from here on.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        for fd in 0..3 {
            libc::dup2(null, fd);
        }
    }
}

/// Begins to answer Prometheus; works out from time to time how much was metered.
fn listen(address: &str, args: &Args) -> Result<Arc<Mutex<Metrics>>> {
    let places: Vec<PathBuf> = [&args.out].into_iter().chain(&args.runs).cloned().collect();
    let metrics = Arc::new(Mutex::new(Metrics::new(&places)));
    let address = serve(address, metrics.clone()).map_err(|e| anyhow!("--listen {address}: {e}"))?;
    eprintln!("flopsprof: metrics at http://{address}/metrics");
    let shared = metrics.clone();
    thread::spawn(move || {
        loop {
            let folders = runs(&places);
            let began = Instant::now();
            if let Ok(total) = make::total(&folders) {
                lock(&shared).completeness(completeness(&total));
            }
            // Of a node with much evidence it is worked out less often: it is no work that anybody should notice.
            thread::sleep((began.elapsed() * 100).max(COMPLETENESS));
        }
    });
    Ok(metrics)
}

fn lock(metrics: &Mutex<Metrics>) -> MutexGuard<'_, Metrics> {
    metrics.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each probe is an open file: some forty for each copy of the driver's library.
fn more_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is ours.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(65_536);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
