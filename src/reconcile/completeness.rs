//! How much of what the devices did was metered, and whose the rest was.
//!
//! Two witnesses, each with its limits. *Activity*: the device's tensor time by GPM, which misses nobody and tells nobody apart, against that of the metered
//! operations; it is a sampled average and has an error. Where its tensor cycles were sampled instead, they are counted, and only the time without samples is
//! uncertain. *Processes*: who called the driver (exact, by probes in the kernel) and who was on the device (the driver's list). "Complete" needs both to agree where
//! both are there.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    evidence::witness::{Cpu, Parent},
    ledger::{
        RunTotal,
        witness::{DeviceWitnessed, ProcessWitnessed, SourceWitnessed, WindowWitnessed},
    },
};

/// GPM against the counters, as a share: where one process had an H200 for itself the two agreed within 1.5 %.
const GPM: f64 = 0.02;
/// The same for what runs on older instructions (`mma.sync`), whose pipe time is not their share of the peak: FlashAttention-2 on an H200 was a third off.
const LOOSE: f64 = 0.34;
/// The driver brings GPM's counters up to date a few times a second: so much of the first and the last moment may be missing.
const EDGE_S: f64 = 0.2;
/// The share of the metered time that has to be witnessed...
const COVERED: f64 = 0.95;
/// ... or all of it but so much: a witness that starts with its job needs a moment.
const MISSED_NS: u64 = 500_000_000;
/// Tensor time below this share of the witnessed time is no work: there is nothing to compare.
const IDLE: f64 = 1e-4;

/// What a witness makes of a device or a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Metered processes executed everything, within the error.
    Complete,
    /// Nobody watched, or not for long enough.
    NotWitnessed,
    /// Something ran unmetered.
    Incomplete,
}

impl Verdict {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::NotWitnessed => "not witnessed",
            Self::Incomplete => "incomplete",
        }
    }
}

/// The completeness of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Completeness {
    /// The worst of its devices.
    pub verdict: Verdict,
    /// Why, in words.
    pub why: String,
    /// Devices.
    pub devices: Vec<Device>,
    /// Processes that used a GPU, the unmetered first.
    pub processes: Vec<Process>,
    /// What could not be witnessed, and what to do about it.
    pub missing: Vec<String>,
    /// Events of processes that the witness lost.
    pub events_lost: u64,
    /// Calls of the driver that it could not count.
    pub calls_lost: u64,
    /// The CPUs' side; none where nobody counted it.
    pub cpu: Option<Cpu>,
    /// Why the CPUs' floating-point operations are not counted; empty where they are.
    pub no_pmu: String,
}

/// One device.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// UUID.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Hostname.
    pub host: String,
    /// Whether metered processes executed all that it did.
    pub verdict: Verdict,
    /// Why, in words.
    pub why: String,
    /// Share of the metered time that was witnessed.
    pub covered: f64,
    /// Time in which its activity was witnessed, s.
    pub witnessed_s: f64,
    /// Time in which its tensor cores were active, at their peak, s.
    pub device_tensor_s: f64,
    /// The part of it that the operations of metered processes make, s.
    pub metered_tensor_s: f64,
    /// The one over the other; none where the device's activity is not known, or there was none.
    pub completeness: Option<f64>,
    /// Error of that, from the device-wide number.
    pub error: Option<f64>,
    /// The same window by window.
    pub windows: Vec<WindowWitnessed>,
    /// What told its tensor time, and from when to when, where PM sampling was asked for; else it was GPM all the time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceWitnessed>,
}

/// One process that used a GPU.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Hostname.
    pub host: String,
    /// Process id on the host.
    pub pid: u32,
    /// Start time in clock ticks after boot.
    pub start_ticks: u64,
    /// Its name.
    pub program: String,
    /// Its parents, the nearest first.
    pub parents: Vec<Parent>,
    /// It has evidence of its own in this report.
    pub metered: bool,
    /// The meter's library was in it.
    pub library: bool,
    /// User id.
    pub uid: u32,
    /// User name.
    pub user: String,
    /// Control group.
    pub cgroup: String,
    /// Container.
    pub container: Option<String>,
    /// Kubernetes pod's UID.
    pub pod: Option<String>,
    /// Slurm job.
    pub slurm_job: Option<String>,
    /// SHA-256 of its command line.
    pub cmdline_sha256: String,
    /// Its command line, where the witness was asked for it.
    pub cmdline: Option<String>,
    /// When it was first seen, Unix time, s.
    pub first_unix_s: f64,
    /// When it was last seen, Unix time, s.
    pub last_unix_s: f64,
    /// Devices that the driver listed it on; empty where that is not known.
    pub devices: Vec<String>,
    /// Time in which a kernel of it ran, by the driver, s; none where it does not say.
    pub busy_s: Option<f64>,
    /// Launches that were counted.
    pub launches: u64,
    /// Time in which launches were counted while it lived, s.
    pub launches_counted_s: f64,
    /// All calls of the driver that were counted, by entry point.
    pub calls: BTreeMap<String, u64>,
    /// It launched something, or a kernel of it ran: more than a context.
    pub worked: bool,
    /// Its share of the tensor time of the devices it was on: of an unmetered one what is left of them, divided among those by their time; none where that is
    /// not known.
    pub share: Option<f64>,
}

/// Judges what witnesses saw.
#[must_use]
pub fn completeness(run: &RunTotal) -> Completeness {
    let witnessed = &run.witnessed;
    let on = |uuid: &str| witnessed.processes.iter().filter(|p| !p.metered && p.devices.contains_key(uuid)).collect::<Vec<_>>();
    let astray = |host: &str| {
        let here = |p: &&ProcessWitnessed| p.host == host && !p.metered && p.devices.is_empty() && p.worked();
        witnessed.processes.iter().filter(here).count()
    };
    let devices: Vec<Device> = witnessed.devices.iter().map(|d| device(d, &on(&d.uuid), astray(&d.host))).collect();
    let worst = devices.iter().max_by_key(|d| d.verdict);
    let (verdict, why) = match worst {
        _ if witnessed.files == 0 => (Verdict::NotWitnessed, "no witness ran (flopsprof watch; flopsprof run starts one)".to_owned()),
        Some(device) => (device.verdict, device.why.clone()),
        None => match witnessed.processes.iter().filter(|p| !p.metered && p.worked()).count() {
            0 => (Verdict::NotWitnessed, "no device was seen at work".to_owned()),
            n => (Verdict::Incomplete, format!("{n} unmetered process(es) launched something, on which device is not known")),
        },
    };
    let mut processes: Vec<Process> = witnessed.processes.iter().map(|p| process(p, &witnessed.processes, &witnessed.devices)).collect();
    processes.sort_by(|a, b| (a.metered, !a.worked).cmp(&(b.metered, !b.worked)).then(a.first_unix_s.total_cmp(&b.first_unix_s)));
    let missing = witnessed.missing.iter().map(|(what, remedy)| format!("{what}: {remedy}"));
    Completeness {
        verdict,
        why,
        devices,
        processes,
        missing: missing.chain(witnessed.not_probed.iter().map(|p| format!("no probes in {p}"))).collect(),
        events_lost: witnessed.lost.0,
        calls_lost: witnessed.lost.1,
        cpu: witnessed.cpu.clone(),
        no_pmu: witnessed.no_pmu.clone(),
    }
}

fn device(d: &DeviceWitnessed, unmetered: &[&ProcessWitnessed], astray: usize) -> Device {
    let (device_s, metered_s) = d.tensor_s();
    let covered = if d.metered_ns == 0 { 1.0 } else { d.covered_ns as f64 / d.metered_ns as f64 };
    let witnessed_s = d.witnessed_ns as f64 / 1e9;
    let active = device_s.max(metered_s) > IDLE * witnessed_s && device_s > 0.0;
    let completeness = active.then(|| metered_s / device_s);
    let loose = if metered_s > 0.0 { (d.loose_s / metered_s).min(1.0) } else { 0.0 };
    let error = source_error(d, device_s) + loose * (LOOSE - GPM);
    let workers = unmetered.iter().filter(|p| p.worked()).count();
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let (verdict, why) = if covered < COVERED && (d.covered_ns == 0 || d.metered_ns - d.covered_ns.min(d.metered_ns) > MISSED_NS) {
        (
            Verdict::NotWitnessed,
            if covered == 0.0 { "nobody watched".to_owned() } else { format!("watched for {} of the metered time only", percent(covered)) },
        )
    } else if workers > 0 {
        (Verdict::Incomplete, format!("{workers} unmetered process(es) worked on it"))
    } else {
        match completeness {
            Some(share) if share + error < 1.0 => {
                (Verdict::Incomplete, format!("{} +- {} of its tensor time was metered", percent(share), percent(error)))
            }
            Some(share) => (Verdict::Complete, format!("{} +- {} of its tensor time was metered", percent(share), percent(error))),
            None if !(d.listed && d.probed) && witnessed_s == 0.0 => {
                let what = "neither its activity (GPM: Hopper and later) nor all processes on it are known";
                (Verdict::NotWitnessed, what.to_owned())
            }
            None if astray > 0 => {
                (Verdict::Incomplete, format!("{astray} unmetered process(es) launched something, on which device is not known"))
            }
            None if witnessed_s > 0.0 => (Verdict::Complete, "its tensor cores did nothing".to_owned()),
            None => (Verdict::Complete, "no unmetered process used it; its activity is not known (GPM: Hopper and later)".to_owned()),
        }
    };
    Device {
        uuid: d.uuid.clone(),
        name: d.name.clone(),
        host: d.host.clone(),
        verdict,
        why,
        covered,
        witnessed_s,
        device_tensor_s: device_s,
        metered_tensor_s: metered_s,
        completeness,
        error: completeness.map(|_| error),
        windows: d.windows.clone(),
        sources: d.sources.clone(),
    }
}

/// Error of a device's own tensor time, as a share. What was sampled and executed by nobody who is metered is cycles against nothing: it has no error but the time
/// without samples. How metered operations become cycles has GPM's, also where cycles were sampled: tf32 executed 521 of 512 operations a cycle on an H200.
fn source_error(d: &DeviceWitnessed, device_s: f64) -> f64 {
    let witnessed_s = d.witnessed_ns as f64 / 1e9;
    let exact = if device_s > 0.0 { ((d.pm_tensor_s.0 - d.pm_tensor_s.1) / device_s).clamp(0.0, 1.0) } else { 0.0 };
    let (held_ns, sampled_ns) = d.pm_ns;
    let lost = if held_ns > 0 { held_ns.saturating_sub(sampled_ns) as f64 / 1e9 } else { 0.0 };
    let edge = if d.witnessed_ns > sampled_ns { EDGE_S } else { 0.0 };
    (1.0 - exact) * GPM + if witnessed_s > 0.0 { (edge + lost) / witnessed_s } else { 0.0 }
}

fn process(p: &ProcessWitnessed, all: &[ProcessWitnessed], devices: &[DeviceWitnessed]) -> Process {
    let busy: Vec<f64> = p.devices.values().filter_map(|b| *b).collect();
    Process {
        host: p.host.clone(),
        pid: p.seen.id.pid,
        start_ticks: p.seen.id.start_ticks,
        program: p.seen.comm.clone(),
        parents: p.seen.parents.clone(),
        metered: p.metered,
        library: p.seen.library,
        uid: p.seen.uid,
        user: p.seen.user.clone(),
        cgroup: p.seen.cgroup.clone(),
        container: p.seen.container.clone(),
        pod: p.seen.pod.clone(),
        slurm_job: p.seen.slurm_job.clone(),
        cmdline_sha256: p.seen.cmdline_sha256.clone(),
        cmdline: p.seen.cmdline.clone(),
        first_unix_s: p.first_unix_s,
        last_unix_s: p.last_unix_s,
        devices: p.devices.keys().cloned().collect(),
        busy_s: (!busy.is_empty()).then(|| busy.iter().sum()),
        launches: p.launches(),
        launches_counted_s: p.launches_counted_s,
        calls: p.calls.clone(),
        worked: p.worked(),
        share: share(p, all, devices),
    }
}

/// What of the devices' tensor time is a process's.
fn share(p: &ProcessWitnessed, all: &[ProcessWitnessed], devices: &[DeviceWitnessed]) -> Option<f64> {
    let (mut its, mut whole) = (0.0, 0.0);
    for (uuid, busy) in &p.devices {
        let (device_s, metered_s) = devices.iter().find(|d| d.uuid == *uuid)?.tensor_s();
        let fellows: Vec<Option<f64>> =
            all.iter().filter(|o| o.metered == p.metered).filter_map(|o| o.devices.get(uuid).copied()).collect();
        let part = if fellows.len() == 1 {
            1.0
        } else {
            let sum: f64 = fellows.iter().map(|f| f.unwrap_or(0.0)).sum();
            if sum > 0.0 { busy.unwrap_or(0.0) / sum } else { return None }
        };
        its += part * if p.metered { metered_s.min(device_s) } else { (device_s - metered_s).max(0.0) };
        whole += device_s;
    }
    (whole > 0.0).then(|| its / whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn witnessed(device_s: f64, metered_s: f64) -> DeviceWitnessed {
        let window = WindowWitnessed { unix_s: 0.0, length_s: 100.0, device_tensor_s: device_s, metered_tensor_s: metered_s };
        DeviceWitnessed {
            metered_ns: 90_000_000_000,
            covered_ns: 90_000_000_000,
            witnessed_ns: 100_000_000_000,
            windows: vec![window],
            listed: true,
            probed: true,
            ..DeviceWitnessed::default()
        }
    }

    #[test]
    fn activity_alone_can_show_that_something_is_missing() {
        let whole = device(&witnessed(50.0, 49.8), &[], 0);
        assert_eq!(whole.verdict, Verdict::Complete, "{}", whole.why);
        assert!((whole.completeness.unwrap() - 0.996).abs() < 1e-9 && (whole.error.unwrap() - 0.022).abs() < 1e-9);
        assert_eq!(device(&witnessed(50.0, 40.0), &[], 0).verdict, Verdict::Incomplete);
        let mut loose = witnessed(50.0, 40.0);
        loose.loose_s = 40.0;
        assert_eq!(device(&loose, &[], 0).verdict, Verdict::Complete, "mma.sync: the error is a third");
    }

    #[test]
    fn sampled_cycles_have_no_error_but_the_time_without_samples() {
        let mut sampled = witnessed(50.0, 0.0);
        (sampled.pm_ns, sampled.pm_tensor_s) = ((100_000_000_000, 100_000_000_000), (50.0, 0.0));
        assert_eq!(device(&sampled, &[], 0).error, Some(0.0));
        // A tenth of a second without samples of a hundred.
        sampled.pm_ns.0 += 100_000_000;
        assert!((device(&sampled, &[], 0).error.unwrap() - 0.001).abs() < 1e-12);
        // Half of it was GPM's.
        (sampled.pm_ns, sampled.pm_tensor_s) = ((50_000_000_000, 50_000_000_000), (25.0, 0.0));
        assert!((device(&sampled, &[], 0).error.unwrap() - 0.012).abs() < 1e-12);
        // And what is metered becomes cycles by its peak.
        (sampled.pm_ns, sampled.pm_tensor_s) = ((100_000_000_000, 100_000_000_000), (50.0, 50.0));
        assert!((device(&sampled, &[], 0).error.unwrap() - 0.02).abs() < 1e-12);
    }

    #[test]
    fn an_unmetered_process_that_worked_is_one_that_is_missing() {
        let mut process = ProcessWitnessed { devices: BTreeMap::from([(String::new(), Some(0.0))]), ..ProcessWitnessed::default() };
        assert_eq!(device(&witnessed(50.0, 50.0), &[&process], 0).verdict, Verdict::Complete, "a context alone is nothing");
        process.calls.insert("cuLaunchKernel".to_owned(), 1);
        assert_eq!(device(&witnessed(50.0, 50.0), &[&process], 0).verdict, Verdict::Incomplete);
    }

    #[test]
    fn who_was_not_there_has_seen_nothing() {
        let mut late = witnessed(50.0, 50.0);
        late.covered_ns = 45_000_000_000;
        let late = device(&late, &[], 0);
        assert_eq!((late.verdict, late.why.as_str()), (Verdict::NotWitnessed, "watched for 50.0 % of the metered time only"));
        let nobody = completeness(&RunTotal::default());
        assert_eq!(nobody.verdict, Verdict::NotWitnessed);
    }

    #[test]
    fn without_gpm_processes_decide() {
        let mut old = witnessed(0.0, 0.0);
        (old.windows, old.witnessed_ns) = (Vec::new(), 0);
        assert_eq!(device(&old, &[], 0).verdict, Verdict::Complete);
        assert_eq!(device(&old, &[], 1).verdict, Verdict::Incomplete);
        old.probed = false;
        assert_eq!(device(&old, &[], 0).verdict, Verdict::NotWitnessed);
    }
}
