//! How long the report of a large job takes, and how much memory: `flopsprof report` over the evidence of 4,096 ranks of 8 hours, on two cores.
//!
//! ```text
//! cargo bench --bench merge                       4,096 ranks, 8 hours: some 8 GB under target/tmp, kept for the next time
//! cargo bench --bench merge -- --ranks 64         fewer
//! cargo bench --bench merge -- --assert           fails when it takes 60 s, or 1 GiB
//! ```
//! The evidence is generated and marked as simulated: it is read as any other.

#[path = "../tests/synthetic/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod synthetic;
#[path = "../tests/synthetic/many.rs"]
mod thousands;

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use flopsprof::evidence::record::FORMAT;

/// The promise.
const SECONDS: f64 = 60.0;
const BYTES: u64 = 1 << 30;
/// On so many cores.
const CORES: usize = 2;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: u64| {
        args.iter()
            .position(|a| a == name)
            .map_or(default, |i| args.get(i + 1).and_then(|n| n.parse().ok()).expect("a number behind the option"))
    };
    let (ranks, hours) = (number("--ranks", 4096), number("--hours", 8));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("merge-{FORMAT}-{ranks}-{hours}"));
    if !folder.exists() {
        let fresh = folder.with_extension("part");
        let _ = std::fs::remove_dir_all(&fresh);
        let bytes = thousands::write_job(&fresh, ranks, hours);
        std::fs::rename(&fresh, &folder).expect("renaming the evidence");
        println!("generated {ranks} files, {:.2} GB", bytes as f64 / 1e9);
    }
    let (seconds, cpu, peak) = measure(&folder);
    let mib = peak as f64 / f64::from(1 << 20);
    // CPU time beside the clock: on a machine that does other things too the two differ.
    println!("{ranks} ranks, {hours} h (simulated): {seconds:.1} s and {cpu:.1} s of CPU on {CORES} cores, {mib:.0} MiB at most");
    if args.iter().any(|a| a == "--assert") {
        assert!(seconds < SECONDS && peak < BYTES, "the promise is {SECONDS} s and {} MiB", BYTES >> 20);
    }
}

/// Runs the report; seconds by the clock and of CPU, and the most memory, bytes.
fn measure(folder: &Path) -> (f64, f64, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flopsprof"));
    command.args(["report", "--json"]).arg(folder).stdout(Stdio::null());
    // SAFETY: sched_setaffinity may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let mut cores: libc::cpu_set_t = std::mem::zeroed();
            (0..CORES).for_each(|core| libc::CPU_SET(core, &mut cores));
            if libc::sched_setaffinity(0, size_of_val(&cores), &raw const cores) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    let began = Instant::now();
    let status = command.status().expect("the command");
    let clock = began.elapsed().as_secs_f64();
    assert!(status.success(), "the report failed");
    // SAFETY: all zeros is a rusage; the answer is of all children that were waited for, of which there was one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage), 0);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    // Linux counts memory in KiB.
    (clock, seconds(usage.ru_utime) + seconds(usage.ru_stime), u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10)
}
