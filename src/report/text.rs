//! The report for a terminal.

use std::fmt::Write;

use super::{
    completeness, core,
    figure::duration,
    json::{Operations, Report, UnexplainedKernel, UnexplainedRow},
    kernel, verdict,
};
use crate::{
    evidence::record::Tier,
    ledger::arithmetic::add_up,
    reconcile::completeness::Verdict,
    rule::{Statement, TestName},
};

/// Kernels that a line names.
const NAMED: usize = 4;

/// Writes the report as text.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    let mark = if report.simulated { " (simulated)" } else { "" };
    let _ = writeln!(out, "flopsprof report{mark}");
    if report.simulated {
        out += "SIMULATED: the stand-in GPU was used. No number below is a measurement.\n";
    }
    let total = &report.total;
    if let Some(why) = &report.unmeasured {
        let _ = writeln!(out, "\nexecuted   not measured{mark}: {why}");
    } else {
        let _ = writeln!(out, "\nexecuted   {}{mark}, {}", quantity(total), tier(report.tier));
        let _ = writeln!(out, "           counted {} FLOP, interpolated {} FLOP", total.counted, total.interpolated);
    }
    six_nd(&mut out, report);
    if let Some(r) = &report.reconciliation {
        super::reconcile::text(&mut out, r, mark);
    }
    runs(&mut out, report);
    assessment(&mut out, report);
    paths(&mut out, report, mark);
    if let Some(cores) = &report.cuda_cores {
        core::text(&mut out, cores, report.total.flop_float, mark);
    }
    resources(&mut out, report, mark);
    places(&mut out, report, mark);
    estimates(&mut out, report, mark);
    completeness::text(&mut out, &report.completeness, mark);
    not_metered(&mut out, report);
    let libraries: Vec<String> = report.libraries.iter().map(|(name, versions)| format!("{name} {}", versions.join(", "))).collect();
    let _ = writeln!(out, "\nflopsprof {}; {}", report.flopsprof, libraries.join("; "));
    out
}

fn six_nd(out: &mut String, report: &Report) {
    let Some(six) = &report.six_nd else { return };
    let ratio = six.ratio.map(|r| format!("{r:.6} x ")).unwrap_or_default();
    let _ = writeln!(out, "           {ratio}6ND ({:.4e} FLOP)", six.six_nd.parse::<f64>().unwrap_or(f64::NAN));
    for (name, sourced) in [("N", &six.parameters), ("D", &six.tokens)] {
        let differs = sourced.evidence_says.map(|e| format!("; the program says {e}")).unwrap_or_default();
        let _ = writeln!(out, "           {name} = {} ({}{differs})", sourced.value, sourced.source);
    }
    for m in &six.models {
        let _ = writeln!(
            out,
            "           6ND has {} tokens of a model of {} parameters, {} of them trained",
            m.tokens, m.parameters, m.trainable
        );
    }
    if let Some(tokens) = six.undeclared {
        let _ =
            writeln!(out, "           {tokens} of the largest one's are of processes that declared no model: nobody says whose they are");
    }
}

/// More than one run adds up here: that must not go unsaid.
fn runs(out: &mut String, report: &Report) {
    if report.runs.len() > 1 {
        let _ = writeln!(out, "\nevidence of {} runs, added up:", report.runs.len());
        for run in &report.runs {
            let name = if run.name.is_empty() { "(not named)" } else { &run.name };
            let _ = writeln!(out, "  {name}: {} process(es)", run.processes);
        }
    }
}

fn assessment(out: &mut String, report: &Report) {
    let Some(a) = &report.assessment else { return };
    let _ = writeln!(out, "\nEU AI Act: {}", verdict::headline(a));
    if a.base.is_none() && a.headline == TestName::OneThird {
        out.push_str("           the base model was not stated: --base NAME, or --base-flops FLOP (flopsprof report --help)\n");
        return;
    }
    for test in &a.tests {
        let _ = writeln!(out, "  {:<28} {:<14} {}", verdict::title(test.name), verdict::word(test.verdict), verdict::comparison(test));
        let _ = writeln!(out, "  {:<28} {:<14} {} [{}]", "", "", test.why, test.citation);
    }
    if let Some(base) = &a.base {
        let _ = writeln!(out, "  base model: {}, {:.3e} FLOP, {}", base.name, base.flop_float, base.how);
    }
    for (title, statements) in [("what follows", &a.conclusions), ("assumed", &a.assumptions)] {
        if !statements.is_empty() {
            let _ = writeln!(out, "  {title}:");
            for s in statements {
                let _ = writeln!(out, "  - {}", statement(s));
            }
        }
    }
    let _ = writeln!(out, "  by {} ({})", a.guidelines.reference, a.guidelines.date);
}

fn statement(s: &Statement) -> String {
    s.citation.map_or_else(|| s.text.clone(), |c| format!("{} [{c}]", s.text))
}

fn paths(out: &mut String, report: &Report, mark: &str) {
    if report.unmeasured.is_some() {
        return;
    }
    let _ = writeln!(
        out,
        "\n{:<9} {:<14} {:<6} {:>22} {:>7} {:>9} {:>9}  tier",
        "family",
        "source",
        "acc.",
        format!("FLOP{mark}"),
        "share",
        "looked at",
        "std.err."
    );
    let total = report.total.flop_float;
    for row in report.paths.iter().filter(|r| r.operations.flop != "0") {
        let o = &row.operations;
        let share = if total > 0.0 { 100.0 * o.flop_float / total } else { 0.0 };
        let _ = writeln!(
            out,
            "{:<9} {:<14} {:<6} {:>22} {:>6.2}% {:>8.2}% {:>9}  {}",
            if row.family.is_empty() { "-" } else { &row.family },
            row.source,
            if row.accumulator.is_empty() { "-" } else { &row.accumulator },
            o.flop,
            share,
            100.0 * o.covered,
            error(o),
            tier(o.tier),
        );
    }
    for row in report.paths.iter().filter(|r| r.sparse.as_ref().is_some_and(|n| n != "0")) {
        let _ = writeln!(out, "2:4 sparse: {}{mark} FLOP of {}", row.sparse.as_deref().unwrap_or_default(), short(&row.metric));
    }
    let idle = report.paths.iter().filter(|r| r.operations.flop == "0");
    let idle: Vec<String> = idle.map(|r| format!("{} ({:.2}% of the time)", short(&r.metric), 100.0 * r.operations.covered)).collect();
    if !idle.is_empty() {
        let _ = writeln!(out, "nothing executed while looked at: {}", idle.join(", "));
    }
}

fn resources(out: &mut String, report: &Report, mark: &str) {
    let _ = writeln!(out, "\nwall clock {}", duration(report.wall_clock_s));
    for (name, hours) in &report.gpu_hours {
        let _ = writeln!(out, "GPU time   {hours:.4} h on {name}");
    }
    if let Some(rate) = report.flop_per_s {
        let share = report.peak_share.map(|s| format!(", {:.1} % of the dense tensor peak while metered", 100.0 * s)).unwrap_or_default();
        let _ = writeln!(out, "rate       {:.2}{mark} TFLOP/s of wall clock{share}", rate / 1e12);
    }
    match report.energy_mj {
        Some(mj) => {
            let per = report.flop_per_joule.map(|f| format!(", {f:.3e}{mark} FLOP/J")).unwrap_or_default();
            let _ = writeln!(out, "energy     {:.1}{mark} kJ of whole devices{per}", mj as f64 / 1e6);
        }
        None => out.push_str("energy     not known: NVML did not say\n"),
    }
}

fn places(out: &mut String, report: &Report, mark: &str) {
    for (title, rows) in [
        (
            "process",
            report
                .processes
                .iter()
                .map(|p| {
                    (
                        format!(
                            "{} {} ({}{})",
                            p.host,
                            p.pid,
                            p.program,
                            p.rank.as_ref().map(|r| format!(", rank {r}")).unwrap_or_default()
                        ),
                        &p.operations,
                    )
                })
                .collect::<Vec<_>>(),
        ),
        ("device", report.devices.iter().map(|d| (format!("{} {}", d.name, d.uuid), &d.operations)).collect()),
        ("node", report.nodes.iter().map(|n| (n.host.clone(), &n.operations)).collect()),
    ] {
        let _ = writeln!(out, "\nby {title}");
        for (name, operations) in rows {
            let executed = match operations.tier {
                Some(_) => format!("{}{mark}, {}", quantity(operations), tier(operations.tier)),
                None => NOT_MEASURED.to_owned(),
            };
            let _ = writeln!(out, "  {name}: {executed}");
        }
    }
    let held = add_up(report.processes.iter().map(|p| p.launches_held));
    let longest = report.processes.iter().map(|p| p.longest_wait_ms).fold(0.0, f64::max);
    // An empty sum of floats is -0.
    let cpu = report.processes.iter().map(|p| p.meter_cpu_s).fold(0.0, |a, b| a + b);
    let _ = writeln!(out, "\nthe meter held {held} launches at boundaries (longest {longest:.0} ms) and used {cpu:.2} s of CPU");
    if let Some(o) = &report.overhead {
        let _ = writeln!(
            out,
            "it took {:.3} % of the time (budget {} %): windows {:.2} s, changes of counters {:.2} s, censuses {:.2} s",
            100.0 * o.share,
            100.0 * o.budget,
            o.windows_s,
            o.rotation_s,
            o.census_s
        );
    }
}

fn estimates(out: &mut String, report: &Report, mark: &str) {
    for e in &report.estimated {
        let flop = e.flop.map_or_else(
            || "not known (no peak known for this chip, or NVML did not say)".to_owned(),
            |f| format!("about {f:.2e}{mark} FLOP"),
        );
        let _ = writeln!(out, "\nnot counted, estimated by {} on {}: {flop} in {}", tier(Some(e.tier)), e.device, duration(e.seconds));
        let _ = writeln!(out, "  because: {}", e.why);
    }
}

/// What is not metered, or in doubt, one thing a line.
#[must_use]
pub fn doubts(report: &Report) -> Vec<String> {
    let n = &report.not_metered;
    let mut lines = Vec::new();
    for f in &n.faults {
        let device = f.device.map(|d| format!("GPU {d}: ")).unwrap_or_default();
        lines.push(format!("{device}{}: {}", f.what, f.remedy));
    }
    lines.extend(n.uncounted_s.iter().map(|(why, s)| format!("{} interpolated or estimated: {why}", duration(*s))));
    lines.extend(n.uncovered.iter().map(|p| format!("{}: one pass cannot read it on this chip", short(p))));
    if !n.never_looked.is_empty() && report.unmeasured.is_none() {
        let paths: Vec<&str> = n.never_looked.iter().map(|p| short(p)).collect();
        lines.push(format!("the run was too short for a turn of {}: what they executed is not known", paths.join(", ")));
    }
    lines.extend(n.unexplained.as_ref().map(|u| unexplained(u, report)));
    if !n.unclean_ends.is_empty() {
        lines.push(format!(
            "{} process(es) have no last record (killed, or still running): the total is a lower bound, at most {} are missing: {}",
            n.unclean_ends.len(),
            duration(n.missing_s_at_most),
            n.unclean_ends.join(", ")
        ));
    }
    for run in report.runs.iter().filter(|r| r.ranks_missing > 0) {
        let which = if run.missing.is_empty() { String::new() } else { format!(" ({})", run.missing) };
        lines.push(format!("{} rank(s) of the job left no evidence here{which}: the total is a lower bound", run.ranks_missing));
    }
    if report.completeness.verdict == Verdict::Incomplete {
        lines.push(format!("the witness saw more than was metered: {}", report.completeness.why));
    }
    lines.extend(n.unreadable.iter().map(|f| format!("no evidence can be read from a file of the run: the total is a lower bound: {f}")));
    lines.extend(n.duplicates.iter().map(|d| format!("counted once: {d}")));
    lines.extend(n.clocks.iter().cloned());
    lines.extend(n.breaks.iter().map(|b| format!("evidence was changed: {b}")));
    lines
}

/// Kernels that may have executed what nobody looked at, by name, and where.
fn unexplained(row: &UnexplainedRow, report: &Report) -> String {
    let name = |k: &UnexplainedKernel| {
        let part = k.time_share.map_or_else(|| "time not counted".to_owned(), |p| format!("{:.1} % of the kernels' time", 100.0 * p));
        format!("{} ({part})", kernel::short(&k.name))
    };
    let mut names: Vec<String> = row.kernels.iter().take(NAMED).map(name).collect();
    if row.kernels.len() > NAMED {
        names.push(format!("{} more", row.kernels.len() - NAMED));
    }
    let path = |metric: &String| {
        let covered = report.paths.iter().find(|r| r.metric == *metric).map_or(0.0, |r| r.operations.covered);
        format!("{} (looked at {:.2} % of the time)", short(metric), 100.0 * covered)
    };
    format!(
        "kernels that make products by their names executed nothing that a census saw: {}. What they executed on {} is not known: the total is a lower bound",
        names.join(", "),
        row.paths.iter().map(path).collect::<Vec<_>>().join(", ")
    )
}

fn not_metered(out: &mut String, report: &Report) {
    let lines = doubts(report);
    if lines.is_empty() {
        out.push_str("\nnot metered: nothing that the meter knows of\n");
        return;
    }
    out.push_str("\nnot metered, or in doubt\n");
    for line in lines {
        let _ = writeln!(out, "  - {line}");
    }
}

fn quantity(o: &Operations) -> String {
    let error = match o.standard_error {
        Some(0.0) => String::new(),
        Some(e) => format!(" +- {e:.2e}"),
        None => " +- unknown".to_owned(),
    };
    if o.flop_float == 0.0 { format!("0{error} FLOP") } else { format!("{:.6e}{error} FLOP", o.flop_float) }
}

fn error(o: &Operations) -> String {
    match o.standard_error {
        Some(0.0) => "0".to_owned(),
        Some(e) => format!("{e:.2e}"),
        None => "unknown".to_owned(),
    }
}

/// What stands for a number where nothing was looked at.
pub const NOT_MEASURED: &str = "not measured";

/// A tier's name.
#[must_use]
pub fn tier(tier: Option<Tier>) -> &'static str {
    match tier {
        None => NOT_MEASURED,
        Some(Tier::Counted) => "counted",
        Some(Tier::Sampled) => "sampled",
        Some(Tier::Gpm) => "gpm",
        Some(Tier::Utilization) => "utilization",
        Some(Tier::Analytic) => "analytic",
    }
}

fn short(metric: &str) -> &str {
    metric.strip_prefix(crate::counter::plan::PREFIX).unwrap_or(metric)
}
