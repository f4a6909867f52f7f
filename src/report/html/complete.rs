//! How much of what the devices did was metered.

use maud::{Markup, html};

use super::{
    super::{
        completeness::{process, source},
        figure::{duration, plain},
        json::Report,
    },
    small,
};
use crate::reconcile::completeness::Verdict;

/// Unmetered processes that a page names; report.json has them all.
const ROWS: usize = 64;

/// The section.
pub(super) fn completeness(report: &Report) -> Markup {
    let c = &report.completeness;
    let unmetered: Vec<_> = c.processes.iter().filter(|p| !p.metered).collect();
    html! {
        section {
            h2 { "Completeness" }
            p { span class={ "pill " (class(c.verdict)) } { (c.verdict.words()) } @if report.simulated { " (simulated)" } ": " (c.why) }
            @if c.devices.iter().any(|d| d.witnessed_s > 0.0) {
                table {
                    thead { tr { th { "Device" } th.n { "Watched" } th.n { "Tensor time" } th.n { "of it metered" } th.n { "Completeness" } th { "Verdict" } } }
                    tbody { @for d in c.devices.iter().take(ROWS) { tr {
                        td { (d.name) div.dim { code { (d.uuid) } } }
                        td.n { (duration(d.witnessed_s)) }
                        td.n { (small(d.device_tensor_s, 4)) " s" }
                        td.n { (small(d.metered_tensor_s, 4)) " s" }
                        td.n { @match d.completeness { Some(share) => { (plain(100.0 * share, 4)) " % ± " (plain(100.0 * d.error.unwrap_or(0.0), 2)) " %" }, None => "not known" } }
                        td { (d.verdict.words()) div.dim { (d.why) } @for s in &d.sources { div.dim { (source(s)) } } }
                    } } }
                }
            }
            @if !unmetered.is_empty() {
                h3 { "Unmetered processes" }
                ul { @for p in unmetered.iter().take(ROWS) { li { (process(p)) } } }
                @if unmetered.len() > ROWS { p.dim { "and " (unmetered.len() - ROWS) " more, in report.json" } }
            }
            @if !c.missing.is_empty() { ul { @for missing in &c.missing { li { "Not witnessed: " (missing) } } } }
            @if c.events_lost + c.calls_lost > 0 {
                p { "The witness lost " (c.events_lost) " events of processes and " (c.calls_lost) " calls of the driver." }
            }
            @if let Some(cpu) = &c.cpu {
                p.dim {
                    @if cpu.job.opened > 0 { "CPU time of the job: " (duration(cpu.job.task_clock_ns as f64 / 1e9)) ", " (cpu.job.context_switches) " context switches; " }
                    @match cpu.job.flop { Some(flop) => { (flop) " FLOP on the CPU. " }, None => { (c.no_pmu) ". " } }
                    "The meter's threads took " (duration(cpu.meter.task_clock_ns as f64 / 1e9)) ", the witness " (duration(cpu.witness.task_clock_ns as f64 / 1e9)) "."
                }
            }
        }
    }
}

/// The class by which a verdict is coloured.
fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Complete => "good",
        Verdict::NotWitnessed => "none",
        Verdict::Incomplete => "warn",
    }
}
