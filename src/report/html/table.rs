//! Tables: paths, devices, nodes, processes, and what stands in doubt.

use maud::{Markup, html};

use crate::evidence::record::Tier;

use super::{
    super::{
        core::CudaCores,
        figure::{duration, plain},
        json::{Operations, Report},
        text::{doubts as said, tier},
    },
    energy, executed, sci,
};

/// Rows of devices and processes that a page shows; report.json has them all.
const ROWS: usize = 64;

/// What is not metered, or in doubt.
pub(super) fn doubts(report: &Report) -> Markup {
    let lines = said(report);
    html! {
        section {
            h2 { "Not metered, or in doubt" }
            @if lines.is_empty() { p { "Nothing that the meter knows of." } } @else { ul { @for line in &lines { li { (line) } } } }
        }
    }
}

/// From 6ND to what was measured, line by line, and the numbers that are called utilisation.
pub(super) fn reconciliation(report: &Report) -> Markup {
    let Some(said) = &report.reconciliation else { return html! {} };
    let rates = &said.rates;
    if said.lines.is_none() && said.why_not.is_none() && rates.hfu.is_none() && rates.nvml_utilization.is_none() {
        return html! {};
    }
    let percent = |x: Option<f64>| x.map_or_else(|| "not known".to_owned(), |x| format!("{:.1} %", 100.0 * x));
    html! {
        section {
            h2 { "From 6ND to what was measured" }
            @if let Some(why) = &said.why_not { p { "Not reconciled with 6ND: " (why) "." } }
            @if let Some(lines) = &said.lines {
                table {
                    thead { tr { th { "Line" } th.n { "FLOP" } th.n { "Share" } th { "Confidence" } th { "Source" } } }
                    tbody {
                        @for line in &lines.lines {
                            tr class=[(line.flop == 0.0).then_some("dim")] {
                                td { (line.title()) }
                                td.n { @if line.flop < 0.0 { "−" } (sci(line.flop.abs())) }
                                td.n { (format!("{:.2} %", 100.0 * line.share).replace('-', "−")) }
                                td { (format!("{:?}", line.confidence).to_lowercase()) }
                                td.dim { (line.source) }
                            }
                        }
                        tr.sum { td { "measured" } td.n { (sci(lines.measured)) } td.n { "100.00 %" } td {} td {} }
                    }
                }
                @if !lines.remarks.is_empty() { ul { @for remark in &lines.remarks { li { (remark) } } } }
            }
            @if rates.hfu.is_some() || rates.nvml_utilization.is_some() {
                table {
                    thead { tr { th { "Called utilisation" } th.n { "Value" } th { "What it is" } } }
                    tbody {
                        tr { td { "HFU" } td.n { (percent(rates.hfu)) } td.dim { "what was executed over the dense tensor peak" } }
                        tr { td { "MFU" } td.n { (percent(rates.mfu)) } td.dim { "what the model needed for its rows, pads included and nothing twice, over the same" } }
                        tr {
                            td { "NVML" }
                            td.n { (percent(rates.nvml_utilization)) }
                            td.dim {
                                "time in which any kernel ran"
                                @if let Some(claim) = rates.nvml_over_measured { "; taken for FLOP, " (plain(claim, 3)) " times what was measured" }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Every path that was looked at.
pub(super) fn paths(report: &Report) -> Markup {
    html! {
        section {
            h2 { "By path" }
            table {
                thead { tr { th { "Path" } th.n { "FLOP" } th.n { "of it counted" } th.n { "Standard error" } th.n { "Looked at" } th { "Tier" } } }
                tbody {
                    @for row in &report.paths {
                        tr class=[(row.operations.flop == "0").then_some("dim")] {
                            td {
                            code { (row.metric.strip_prefix(crate::counter::plan::PREFIX).unwrap_or(&row.metric)) }
                            @if let Some(sparse) = row.sparse.as_ref().filter(|n| *n != "0") { div.dim { (sparse) " of it 2:4 sparse" } }
                        }
                            (figures(&row.operations))
                        }
                    }
                    tr.sum { td { "all" } (figures(&report.total)) }
                }
            }
            @if let Some(cores) = &report.cuda_cores { (cuda_cores(cores)) }
        }
    }
}

/// What the CUDA cores executed: beside the total, not in it.
fn cuda_cores(cores: &CudaCores) -> Markup {
    html! {
        h3 { "Beside the tensor cores" }
        @if !cores.formats.is_empty() {
            table {
                thead { tr { th { "CUDA cores" } th.n { "FLOP, the whole run" } th.n { "Standard error" } th.n { "Seen in censuses" } th { "Tier" } } }
                tbody { @for row in &cores.formats { tr {
                    td { (row.format) }
                    td.n { @match row.flop { Some(flop) => { (sci(flop)) }, None => "not known" } }
                    td.n { @match row.standard_error { Some(e) => { (sci(e)) }, None => "not known" } }
                    td.n { (row.seen) }
                    td { (tier(Some(Tier::Sampled))) }
                } } }
            }
        }
        p.dim {
            (cores.censuses) " census(es) of " (cores.launches_seen) " launches; not in the total above."
            @if cores.devices_missing > 0 { " " (cores.devices_missing) " device(s) without such a census are missing in it." }
        }
        @if !cores.doubts.is_empty() { ul { @for (why, times) in &cores.doubts { li { (why) @if *times > 1 { " (" (times) " times)" } } } } }
    }
}

fn figures(o: &Operations) -> Markup {
    html! {
        td.n { (o.flop) }
        td.n { @if o.flop == o.counted { "all" } @else { (o.counted) } }
        td.n { @match o.standard_error { Some(0.0) => "0", Some(e) => { (sci(e)) }, None => "not known" } }
        td.n { (plain(100.0 * o.covered, 4)) " %" }
        td { (tier(o.tier)) }
    }
}

/// Devices, nodes and processes.
pub(super) fn places(report: &Report) -> Markup {
    html! {
        @if report.runs.len() > 1 || report.runs.iter().any(|r| r.ranks.is_some()) {
            section {
                h2 { "By run" }
                table {
                    thead { tr { th { "Run" } th.n { "Processes" } th.n { "Ranks" } th { "Without evidence" } } }
                    tbody { @for r in &report.runs { tr {
                        td { @if r.name.is_empty() { "(not named)" } @else { (r.name) } }
                        td.n { (r.processes) }
                        td.n { @match r.ranks { Some(n) => { (n) }, None => "–" } }
                        td { @if r.ranks_missing == 0 { "none" } @else if r.missing.is_empty() { (r.ranks_missing) } @else { (r.ranks_missing) ": " (r.missing) } }
                    } } }
                }
            }
        }
        section {
            h2 { "By device" }
            table {
                thead { tr { th { "Device" } th { "Node" } th.n { "Hours" } th.n { "Energy" } th.n { "FLOP" } th { "Tier" } } }
                tbody { @for d in report.devices.iter().take(ROWS) { tr {
                    td { (d.name) div.dim { code { (d.uuid) } } }
                    td { (d.host) }
                    td.n { (plain(d.hours, 4)) }
                    td.n { @match d.energy_mj { Some(mj) => { (energy(mj)) }, None => "not known" } }
                    td.n { (executed(&d.operations, 6)) }
                    td { (tier(d.operations.tier)) }
                } } }
            }
            (rest(report.devices.len()))
        }
        @if report.nodes.len() > 1 {
            section {
                h2 { "By node" }
                table {
                    thead { tr { th { "Node" } th.n { "FLOP" } th { "Tier" } } }
                    tbody { @for n in report.nodes.iter().take(ROWS) { tr { td { (n.host) } td.n { (executed(&n.operations, 6)) } td { (tier(n.operations.tier)) } } } }
                }
                (rest(report.nodes.len()))
            }
        }
        section {
            h2 { "By process" }
            table {
                thead { tr { th { "Process" } th.n { "Rank" } th.n { "FLOP" } th { "Ended" } th.n { "Meter's CPU" } th.n { "Longest wait" } } }
                tbody { @for p in report.processes.iter().take(ROWS) { tr {
                    td { (p.program) " " (p.pid) " on " (p.host) div.dim { code { (file_name(&p.file)) } } }
                    td.n { @match &p.rank { Some(r) => { (r) }, None => "–" } }
                    td.n { (executed(&p.operations, 6)) }
                    td { @if p.ended_cleanly { "by itself" } @else { "no last record: killed, or still running" } }
                    td.n { (duration(p.meter_cpu_s)) }
                    td.n { (plain(p.longest_wait_ms, 2)) " ms" }
                } } }
            }
            (rest(report.processes.len()))
        }
    }
}

/// The machine's folders are nobody's business; the file's name finds it.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn rest(rows: usize) -> Markup {
    html! { @if rows > ROWS { p.dim { "and " (rows - ROWS) " more, in report.json" } } }
}
