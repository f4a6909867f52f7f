//! Every setting of the injected library: one table, read once, written into the evidence.
//!
//! All of the environment that is needed is read here, on the thread that starts CUDA: another thread that read it later could do so while the program changes it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::environment as env;
use crate::window::{budget, schedule::Steady};

/// Where evidence goes (a folder; made when the first context is seen).
pub const OUT: &str = "FLOPSPROF_OUT";
/// `1`: do nothing at all.
pub const DISABLE: &str = "FLOPSPROF_DISABLE";
/// Path of the libcupti to use.
pub const CUPTI: &str = "FLOPSPROF_CUPTI";
/// Steady length of a window, seconds.
pub const WINDOW: &str = "FLOPSPROF_WINDOW";
/// `0`: never hold launches at a boundary; what runs there is interpolated.
pub const GATE: &str = "FLOPSPROF_GATE";
/// Longest time the drain at exit may take, seconds.
pub const DRAIN: &str = "FLOPSPROF_DRAIN";
/// The share of the wall time that the meter may take, per cent; 0: no censuses.
pub const OVERHEAD: &str = "FLOPSPROF_OVERHEAD";
/// For tests and debugging: take censuses at definite moments, whatever they cost and however many processes the job has:
/// `<seconds after the first context>:<launches>[:<seconds between one's end and the next>][:roll|:cores]`, `roll`
/// for one with roll calls after it, `cores` for one that counts the CUDA cores too.
pub const CENSUS: &str = "FLOPSPROF_CENSUS";
/// The name of the run's folder where `OUT` is not set; the first process of a job chooses it, its children inherit it.
pub const RUN: &str = "FLOPSPROF_RUN";

/// `0`: no report is written when the job ends.
pub const REPORT: &str = "FLOPSPROF_REPORT";

/// All of them.
const ALL: [&str; 10] = [OUT, DISABLE, CUPTI, WINDOW, GATE, DRAIN, OVERHEAD, CENSUS, RUN, REPORT];

/// What a launcher says of a job, in the order in which one is taken as the job's name.
const JOB_IDS: [&str; 4] = ["TRAINING_JOB_NAME", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "JOB_NAME"];
/// Further variables that place a process in its job.
const JOB_PLACE: [&str; 10] = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "GROUP_RANK",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_NODEID",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    // A pod's place among those of its Kubernetes job: every job has a pod 0, so it is no name.
    "JOB_COMPLETION_INDEX",
];

/// What SageMaker uploads when a job ends; evidence anywhere else in its container would be lost.
const SAGEMAKER_UPLOADS: &str = "/opt/ml/output/data";

/// Default steady windows: with boundaries of some 30 ms, 0.05 % of a young run's time and 0.01 % of an old one's.
const DEFAULT_WINDOW: Steady = Steady { young: Duration::from_secs(60), old: Duration::from_secs(300) };
/// Shortest steady window, seconds: a hundred boundaries a second, for tests.
const LEAST_WINDOW: f64 = 0.005;
/// Default drain deadline: closing a window takes some 20 ms; the rest is for a file system that is slow.
const DEFAULT_DRAIN: Duration = Duration::from_secs(5);

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The run's folder.
    pub out: PathBuf,
    /// The libcupti to use, if one is named.
    pub cupti: Option<PathBuf>,
    /// Steady windows.
    pub window: Steady,
    /// It was set: it is kept, whatever its boundaries cost.
    pub window_set: bool,
    /// Whether boundaries hold launches.
    pub gate: bool,
    /// Drain deadline.
    pub drain: Duration,
    /// The share of the wall time that the meter may take.
    pub overhead: f64,
    /// Censuses at definite moments.
    pub census: Option<Asked>,
    /// How many processes the launcher says the job has; 1 where it says nothing.
    pub processes: u64,
    /// Where evidence goes when it cannot go where it should.
    pub temporary: PathBuf,
    /// What the evidence says of all this.
    pub said: Said,
    /// Settings that could not be understood, each with what is used instead.
    pub complaints: Vec<String>,
}

/// Variables as they are set, by name.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// The settings of this library.
    pub settings: BTreeMap<String, String>,
    /// What the launcher says of the job.
    pub job: BTreeMap<String, String>,
}

impl Said {
    /// By this process's environment.
    #[must_use]
    pub fn read() -> Self {
        Self { settings: present(&ALL), job: present(&JOB_IDS).into_iter().chain(present(&JOB_PLACE)).collect() }
    }
}

/// A census that is asked for, instead of one that the budget pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// After the first context.
    pub after: Duration,
    /// Launches of each.
    pub launches: usize,
    /// From the end of one to the next; none: one is enough.
    pub every: Option<Duration>,
    /// Roll calls follow, and censuses of what they do not know.
    pub rolls: bool,
    /// The CUDA cores are counted too.
    pub cores: bool,
}

impl Asked {
    fn parse(text: &str) -> Option<Self> {
        let seconds = |text: &str| text.parse::<f64>().ok().filter(|s| (0.0..=86_400.0).contains(s)).map(Duration::from_secs_f64);
        let mut parts = text.trim().split(':');
        let after = seconds(parts.next()?)?;
        let launches = parts.next()?.parse().ok().filter(|n| *n > 0)?;
        let mut more = parts.next();
        let every = more.and_then(seconds);
        if every.is_some() {
            more = parts.next();
        }
        let (rolls, cores) = (more == Some("roll"), more == Some("cores"));
        (more.is_none() || rolls || cores).then_some(())?;
        parts.next().is_none().then_some(Self { after, launches, every, rolls, cores })
    }
}

/// Whether the library is switched off.
#[must_use]
pub fn disabled() -> bool {
    env::var_os(DISABLE).is_some_and(|v| v != "0" && !v.is_empty())
}

impl Config {
    /// Reads the environment.
    #[must_use]
    pub fn read() -> Self {
        let mut complaints = Vec::new();
        let mut seconds = |name: &str, default: Duration, least: f64| match env::var(name) {
            Err(_) => default,
            Ok(text) => match text.trim().parse::<f64>() {
                Ok(s) if s.is_finite() && (least..=86_400.0).contains(&s) => Duration::from_secs_f64(s),
                _ => {
                    complaints
                        .push(format!("{name}={text} is not a number of seconds from {least} to 86400: {} is used", default.as_secs()));
                    default
                }
            },
        };
        let window_set = env::var_os(WINDOW).is_some();
        let asked = seconds(WINDOW, DEFAULT_WINDOW.young, LEAST_WINDOW);
        let window = if window_set { Steady::always(asked) } else { DEFAULT_WINDOW };
        let drain = seconds(DRAIN, DEFAULT_DRAIN, 0.0);
        let overhead = match env::var(OVERHEAD).ok().map(|t| (t.trim().parse::<f64>(), t)) {
            None => budget::DEFAULT,
            Some((Ok(percent), _)) if (0.0..=100.0).contains(&percent) => percent / 100.0,
            Some((_, text)) => {
                let used = 100.0 * budget::DEFAULT;
                complaints.push(format!("{OVERHEAD}={text} is not a percentage from 0 to 100: {used} is used"));
                budget::DEFAULT
            }
        };
        let census = env::var(CENSUS).ok().filter(|t| !t.is_empty()).and_then(|text| {
            let asked = Asked::parse(&text);
            if asked.is_none() {
                complaints.push(format!("{CENSUS}={text} is not <seconds>:<launches>[:<seconds between>]: it is left out"));
            }
            asked
        });
        Self {
            out: out(),
            cupti: env::var_os(CUPTI).filter(|v| !v.is_empty()).map(PathBuf::from),
            window,
            window_set,
            gate: env::var(GATE).map_or(true, |v| v.trim() != "0"),
            drain,
            overhead,
            census,
            processes: job_processes(),
            temporary: env::temp_dir(),
            said: Said::read(),
            complaints,
        }
    }
}

/// The run's folder: as set, else named after the job, so that all ranks meet, else after the first process of the job.
fn out() -> PathBuf {
    if let Some(out) = env::var_os(OUT).filter(|v| !v.is_empty()) {
        return PathBuf::from(out);
    }
    let job = JOB_IDS.iter().filter_map(|id| env::var(id).ok()).find(|v| !v.is_empty() && v != "none");
    let run = job.or_else(|| env::var(RUN).ok()).unwrap_or_else(|| std::process::id().to_string());
    let safe: String = run.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    let name = format!("flopsprof-{safe}");
    let uploaded = Path::new(SAGEMAKER_UPLOADS);
    if uploaded.is_dir() { uploaded.join(name) } else { PathBuf::from(name) }
}

/// Where evidence goes that cannot be written to the run's folder.
#[must_use]
pub fn instead_of(temporary: &Path, out: &Path) -> PathBuf {
    private_of(temporary).join(out.file_name().unwrap_or_default())
}

/// This user's folder in the temporary one.
pub(super) fn private_of(temporary: &Path) -> PathBuf {
    // SAFETY: no preconditions.
    temporary.join(format!("flopsprof-{}", unsafe { libc::geteuid() }))
}

/// Whether this process is the first of its node, as launchers number them; the only one where none does.
#[must_use]
pub fn first_of_node() -> bool {
    let numbers = ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"];
    numbers.iter().find_map(|n| env::var(n).ok()).is_none_or(|n| n.trim() == "0")
}

fn job_processes() -> u64 {
    let said = ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"].iter().filter_map(|n| env::var(n).ok()?.trim().parse().ok());
    said.max().unwrap_or(1)
}

fn present(names: &[&str]) -> BTreeMap<String, String> {
    names.iter().filter_map(|n| Some(((*n).to_owned(), env::var(n).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_census_that_is_asked_for() {
        let asked = |after, launches, every: Option<u64>| {
            Some(Asked { after: Duration::from_secs(after), launches, every: every.map(Duration::from_secs), rolls: false, cores: false })
        };
        assert_eq!(Asked::parse("5:200"), asked(5, 200, None));
        assert_eq!(Asked::parse("0:1476:30"), asked(0, 1476, Some(30)));
        assert!(Asked::parse("5:200:roll").is_some_and(|a| a.rolls && !a.cores && a.every.is_none()));
        assert!(Asked::parse("5:200:cores").is_some_and(|a| a.cores && !a.rolls && a.every.is_none()));
        assert!(Asked::parse("5:200:1:cores").is_some_and(|a| a.cores && a.every == Some(Duration::from_secs(1))));
        for wrong in ["", "5:200:cores:1", "5:200:1:2", "5", "5:", "5:0", "x:5", "-1:5", "1:2:x", "1:2:3:4", "1:-2"] {
            assert_eq!(Asked::parse(wrong), None, "{wrong}");
        }
    }
}
