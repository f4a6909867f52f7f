//! `flopsprof demo`: meters a workload of known operations and checks that the count is the truth.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use flopsprof::{
    counter::plan::PREFIX,
    evidence::read,
    inject::config,
    ledger::{self, PathTotal},
    report::{json, text},
    workload::{
        Kernel,
        run::{For, Truth, Workload},
    },
};
use serde::{Deserialize, Serialize};

use super::library;

/// Measured is not true.
const DIFFERS: u8 = 1;
/// Nothing could be run.
const NOTHING_RUN: u8 = 3;
/// The recorded run that is shown where there is no GPU: a training, which tells its model and its tokens.
const RECORDED: &str = "2026-11-25-h100-trainer-2048";
/// How far a path that takes turns may be off: its standard errors, and a relative error.
const SIGMAS: f64 = 3.0;
/// What a path that takes turns may be off relative to the truth: a short run is interpolated for a large part.
const TURN_TOLERANCE: f64 = 0.05;

/// Meter a workload whose operations are known by construction, and check that measured = true.
///
/// Runs every tensor-core instruction of the device (bf16, fp16, tf32, fp8, fp64; wgmma and mma.sync) in turn, under the meter, on the GPU of this
/// machine. Where there is none, a stand-in GPU takes its place: everything then says `simulated`, and the report of a recorded H200
/// run is shown too.
///
/// Exit status: 0 if measured = true; 1 if not; 2 for wrong usage; 3 if nothing could be run.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flopsprof demo\n  flopsprof demo --kernel wgmma_bf16 --seconds 30")]
pub(crate) struct Args {
    /// Kernels, by name; all of the device by default (--list shows them)
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    kernel: Vec<String>,
    /// Seconds to run
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// Launches, instead of seconds
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    launches: Option<u64>,
    /// Run the kernels one after the other, each so long, instead of in turn, launch by launch: paths that take turns can then miss their kernel
    #[arg(long)]
    apart: bool,
    /// Launches of one block and one iteration, as fast as the host can; with --launches
    #[arg(long, requires = "launches")]
    tiny: bool,
    /// Streams to spread the launches over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    streams: u16,
    /// Device ordinal
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Folder for the evidence [default: a temporary one, removed when measured = true]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only run the workload, without the meter, and print what was executed as JSON
    #[arg(long)]
    bare: bool,
    /// With --bare: write the JSON to a file
    #[arg(long, value_name = "FILE", requires = "bare")]
    truth: Option<PathBuf>,
    /// List the kernels of the device
    #[arg(long)]
    list: bool,
    /// Use the stand-in GPU even where there is a real one
    #[arg(long)]
    stand_in: bool,
}

/// What the workload executed.
#[derive(Serialize, Deserialize)]
struct Executed {
    device: String,
    launches: u64,
    /// Seconds from the first launch to the end of the last.
    seconds: f64,
    /// When the first launch was done, on the monotonic clock (ns).
    first_done_ns: Option<u64>,
    /// FLOP by metric, decimal.
    truth: BTreeMap<String, String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    if !(args.seconds.is_finite() && args.seconds > 0.0 && args.seconds <= 86_400.0) {
        bail!("--seconds {}: a number above 0, up to 86400", args.seconds);
    }
    if args.bare || args.list {
        return bare(&args);
    }
    metered(&args)
}

/// Runs the workload in this process.
fn bare(args: &Args) -> Result<ExitCode> {
    let mut workload = match Workload::open(args.device, usize::from(args.streams)) {
        Ok(workload) => workload,
        Err(e) => {
            eprintln!("flopsprof: {e}");
            return Ok(ExitCode::from(NOTHING_RUN));
        }
    };
    if args.list {
        workload.kernels().for_each(|k| println!("{:<18} {} -> {}, {}", k.name, k.source, k.accumulator, k.metric));
        return Ok(ExitCode::SUCCESS);
    }
    let kernels: Vec<&'static Kernel> = if args.kernel.is_empty() {
        workload.kernels().collect()
    } else {
        args.kernel.iter().map(|name| workload.kernel(name)).collect::<Result<_, _>>()?
    };
    let start = std::time::Instant::now();
    let length = args.launches.map_or_else(|| For::Time(Duration::from_secs_f64(args.seconds)), For::Launches);
    match (args.tiny, args.launches) {
        (true, Some(launches)) => kernels.iter().try_for_each(|k| workload.burst(k, launches))?,
        _ if args.apart => kernels.iter().try_for_each(|k| workload.run(&[*k], length))?,
        _ => workload.run(&kernels, length)?,
    }
    let executed = Executed {
        device: workload.device_name(),
        launches: workload.launches(),
        seconds: start.elapsed().as_secs_f64(),
        first_done_ns: workload.first_done_ns(),
        truth: workload.truth().iter().map(|(m, n)| (m.clone(), n.to_string())).collect(),
    };
    let text = serde_json::to_string(&executed)?;
    match &args.truth {
        Some(file) => fs::write(file, text).with_context(|| format!("writing {}", file.display()))?,
        None => println!("{text}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs this command again, under the meter, and compares.
fn metered(args: &Args) -> Result<ExitCode> {
    let scratch = std::env::temp_dir().join(format!("flopsprof-demo-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
    let out = args.out.clone().unwrap_or_else(|| scratch.join("evidence"));
    let truth_file = scratch.join("truth.json");
    let exe = std::env::current_exe()?;
    let mut command = Command::new(&exe);
    command.args(["demo", "--bare", "--truth"]).arg(&truth_file).args([
        "--device",
        &args.device.to_string(),
        "--streams",
        &args.streams.to_string(),
    ]);
    match args.launches {
        Some(launches) => command.args(["--launches", &launches.to_string()]),
        None => command.args(["--seconds", &args.seconds.to_string()]),
    };
    if !args.kernel.is_empty() {
        command.args(["--kernel", &args.kernel.join(",")]);
    }
    for (on, flag) in [(args.apart, "--apart"), (args.tiny, "--tiny")] {
        if on {
            command.arg(flag);
        }
    }
    command.env("LD_PRELOAD", library::path()?).env(config::OUT, &out).env(config::REPORT, "0");
    let simulated = args.stand_in || !driver_is_here();
    if simulated {
        println!("no NVIDIA driver here: the stand-in GPU takes its place, and everything below is simulated");
        command.env("LD_LIBRARY_PATH", stand_in(&exe, &scratch)?);
        command.env_remove("CUDA_INJECTION64_PATH");
    }
    let status = command.status().with_context(|| format!("starting {}", exe.display()))?;
    if !status.success() {
        eprintln!("flopsprof: the workload ended with {status}");
        return Ok(ExitCode::from(NOTHING_RUN));
    }
    let executed: Executed = serde_json::from_slice(&fs::read(&truth_file)?).context("reading what the workload executed")?;
    let truth: Truth = executed.truth.iter().map(|(m, n)| Ok((m.clone(), n.parse()?))).collect::<Result<_>>()?;
    let run = ledger::run_total(&read::read_run(&out)?);
    print!("{}", text::text(&json::report(&run, None)));
    let good = compare(&executed, &truth, &run.paths, run.simulated);
    if good {
        if simulated {
            recorded(&exe)?;
        }
        let _ = fs::remove_dir_all(&scratch);
    } else {
        println!("evidence kept in {}", out.display());
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) })
}

/// Prints counted beside true, path by path. True if they agree: to the unit where a path was looked at all the time, within its own error where it took turns.
fn compare(executed: &Executed, truth: &Truth, paths: &BTreeMap<String, PathTotal>, simulated: bool) -> bool {
    let mark = if simulated { " (simulated)" } else { "" };
    println!("\nmeasured against true{mark}: {}, {} launches, {:.1} s", executed.device, executed.launches, executed.seconds);
    println!("{:<32} {:>22} {:>22} {:>12}  verdict", "path", "true FLOP", "measured FLOP", "measured/true");
    let mut good = true;
    for (metric, flop) in truth {
        let found = path_of(metric, paths);
        let measured = found.map_or(0, PathTotal::total);
        let difference = measured.abs_diff(*flop) as f64;
        let verdict = match found {
            None => "not counted",
            Some(_) if measured == *flop => "equal",
            Some(p) if p.interpolated == 0 => "differs",
            Some(p) if p.standard_error().is_some_and(|e| difference <= SIGMAS * e) => "within its error",
            Some(_) if difference <= TURN_TOLERANCE * *flop as f64 => "within 5 % (took turns)",
            Some(_) => "differs",
        };
        good &= !matches!(verdict, "not counted" | "differs");
        let name = metric.strip_prefix(PREFIX).unwrap_or(metric);
        println!("{name:<32} {flop:>22} {measured:>22} {:>12.8}  {verdict}", measured as f64 / *flop as f64);
    }
    println!("{}", if good { format!("measured = true{mark}") } else { format!("measured is NOT true{mark}") });
    good
}

/// The chip's path for a kernel's metric: the same, or, on chips that count all instructions of a format together, the one without the instruction.
fn path_of<'a>(metric: &str, paths: &'a BTreeMap<String, PathTotal>) -> Option<&'a PathTotal> {
    let all = || metric.split_once("_src_").map(|(_, rest)| format!("{PREFIX}src_{rest}"));
    paths.get(metric).or_else(|| paths.get(&all()?))
}

fn driver_is_here() -> bool {
    Path::new("/proc/driver/nvidia/version").exists() || Path::new("/dev/nvidiactl").exists()
}

/// A folder with the stand-in's libraries under the real ones' names.
fn stand_in(exe: &Path, scratch: &Path) -> Result<PathBuf> {
    let beside = exe.parent().context("this command's file has no folder")?;
    let folder = scratch.join("stand-in");
    fs::create_dir_all(&folder)?;
    for (built, name) in [("cuda", "libcuda.so.1"), ("cupti", "libcupti.so.13"), ("nvml", "libnvidia-ml.so.1")] {
        let file = beside.join(format!("libflopsprof_sim_{built}.so"));
        if !file.exists() {
            bail!(
                "there is no NVIDIA driver here, and the stand-in GPU is not built: {} is missing (cargo build --release --workspace builds it)",
                file.display()
            );
        }
        let link = folder.join(name);
        if !link.exists() {
            symlink(&file, &link).with_context(|| format!("linking {}", link.display()))?;
        }
    }
    Ok(folder)
}

/// Shows the report of a run that was recorded on a real GPU, where the sources are at hand.
fn recorded(exe: &Path) -> Result<()> {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evidence").join(RECORDED);
    if run.is_dir() {
        println!("\nand a run recorded on a real GPU (flopsprof report tests/evidence/{RECORDED}):\n");
        Command::new(exe).arg("report").arg(run).status().with_context(|| format!("starting {}", exe.display()))?;
    }
    Ok(())
}
