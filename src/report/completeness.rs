//! How much was metered, for a terminal.

use std::fmt::Write;

use super::figure::{duration, utc};
use crate::{
    evidence::witness::CpuCounts,
    ledger::witness::SourceWitnessed,
    reconcile::completeness::{Completeness, Process, Verdict},
};

/// Unmetered processes that are named one by one; report.json has them all.
const ROWS: usize = 20;

/// Appends it to a text.
pub fn text(out: &mut String, c: &Completeness, mark: &str) {
    let _ = writeln!(out, "\ncompleteness: {}{mark}: {}", c.verdict.words(), c.why);
    for d in c.devices.iter().filter(|_| c.verdict != Verdict::NotWitnessed || c.devices.iter().any(|d| d.witnessed_s > 0.0)) {
        let share = d.completeness.map_or_else(String::new, |s| {
            format!(
                "{:.1} % +- {:.1} %{mark} of {:.2} s tensor time in {} watched, ",
                100.0 * s,
                100.0 * d.error.unwrap_or(0.0),
                d.device_tensor_s,
                duration(d.witnessed_s)
            )
        });
        let _ = writeln!(out, "  {} {}: {share}{}: {}", d.name, d.uuid, d.verdict.words(), d.why);
        for s in &d.sources {
            let _ = writeln!(out, "    {}", source(s));
        }
    }
    let unmetered: Vec<&Process> = c.processes.iter().filter(|p| !p.metered).collect();
    for p in unmetered.iter().take(ROWS) {
        let _ = writeln!(out, "  unmetered: {}", process(p));
    }
    if unmetered.len() > ROWS {
        let _ = writeln!(out, "  and {} more unmetered process(es), in report.json", unmetered.len() - ROWS);
    }
    for missing in &c.missing {
        let _ = writeln!(out, "  not witnessed: {missing}");
    }
    if c.events_lost + c.calls_lost > 0 {
        let _ = writeln!(out, "  the witness lost {} events of processes and {} calls of the driver", c.events_lost, c.calls_lost);
    }
    if let Some(cpu) = &c.cpu {
        let floating_point = match cpu.job.flop {
            Some(flop) => format!("{flop} FLOP on the CPU"),
            None => c.no_pmu.clone(),
        };
        let _ = writeln!(out, "CPU        job {}; {floating_point}", counts(&cpu.job));
        let _ = writeln!(out, "           meter's threads {}; witness {}", counts(&cpu.meter), counts(&cpu.witness));
    }
}

fn counts(c: &CpuCounts) -> String {
    if c.opened == 0 {
        return "not counted".to_owned();
    }
    let cycles = c.cycles.map(|n| format!(", {n} cycles")).unwrap_or_default();
    format!("{:.2} s, {} context switches{cycles}", c.task_clock_ns as f64 / 1e9, c.context_switches)
}

/// What told a device's tensor time in a stretch, in one line.
#[must_use]
pub fn source(s: &SourceWitnessed) -> String {
    let ended = if s.ended.is_empty() { String::new() } else { format!(": {}", s.ended) };
    let (from, to) = (utc(s.from_unix_s), utc(s.to_unix_s));
    match s.source {
        "pm" if s.samples == 0 && s.to_unix_s <= s.from_unix_s => format!("{from}: no PM sampling{ended}"),
        "pm" => {
            let overflows =
                if s.overflows == 0 { String::new() } else { format!(", {} overflow(s) of the hardware's buffer", s.overflows) };
            let dropped = if s.dropped == 0 { String::new() } else { format!(", {} dropped", s.dropped) };
            let lost = format!("{:.3} s without", s.lost_s);
            format!(
                "{from} to {to}: PM sampling, {:.2} s tensor time in {} samples{dropped}, {lost}{overflows}{ended}",
                s.tensor_s, s.samples
            )
        }
        "gpm" => format!("{from} to {to}: GPM, {:.2} s tensor time", s.tensor_s),
        _ => format!("{from} to {to}: its tensor time is not known"),
    }
}

/// A process in one line: who, where from, when, how much.
#[must_use]
pub fn process(p: &Process) -> String {
    let program = if p.program.is_empty() { "(gone before it could be looked at)" } else { &p.program };
    let mut words = format!("{program} {} on {}", p.pid, p.host);
    let user = if p.user.is_empty() { p.uid.to_string() } else { p.user.clone() };
    let mut about = vec![format!("user {user}")];
    about.extend(p.slurm_job.as_ref().map(|j| format!("Slurm job {j}")));
    about.extend(p.pod.as_ref().map(|p| format!("pod {p}")));
    about.extend(p.container.as_ref().map(|c| format!("container {}", &c[..c.len().min(12)])));
    about.extend(p.parents.first().map(|parent| format!("started by {} {}", parent.comm, parent.pid)));
    if p.library {
        about.push("with the meter's library, without evidence here".to_owned());
    }
    let _ = write!(words, " ({}), {} to {}", about.join(", "), utc(p.first_unix_s), utc(p.last_unix_s));
    if let Some(share) = p.share.filter(|_| p.worked) {
        let _ = write!(words, ", {:.1} % of the tensor time", 100.0 * share);
    }
    if let Some(busy) = p.busy_s {
        let _ = write!(words, ", kernels ran {}", duration(busy));
    }
    match (p.launches, p.launches_counted_s) {
        (_, 0.0) => {}
        (n, s) => {
            let _ = write!(words, ", {n} launches in {} counted", duration(s));
        }
    }
    if !p.worked {
        words += ", not seen to launch anything";
    }
    words
}
