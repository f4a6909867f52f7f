//! The report as one HTML file, for whoever audits it: no script, nothing from the network, light and dark, and a clean PDF when it is printed.
//!
//! Everything that comes from outside (host names, program names, paths) is text to the template, which escapes it. A policy in the head forbids the
//! browser to load or run anything, whatever should slip through.

mod act;
mod axis;
mod chart;
mod complete;
mod table;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use axis::rate_unit;

use super::{
    figure::{duration, plain, utc, whole},
    json::{Operations, Report},
    text::{NOT_MEASURED, tier},
    verdict,
};
use crate::rule::Verdict;

/// Colours, type and print.
const STYLE: &str = include_str!("style.css");
/// In print the words stand in the margin of every page.
const SIMULATED: &str = "@page { @top-center { content: \"SIMULATED — no number in this report is a measurement\"; font: bold 9pt sans-serif; color: #b3261e; } }";
/// Nothing may be loaded or run but the style in the head.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The report as an HTML document.
#[must_use]
pub fn page(report: &Report) -> String {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content={ "flopsprof " (report.flopsprof) };
                title { (title(report)) }
                style { (PreEscaped(STYLE)) @if report.simulated { (PreEscaped(SIMULATED)) } }
            }
            body {
                @if report.simulated {
                    div.banner role="alert" { strong { "SIMULATED" } " — a stand-in GPU was used. No number in this report is a measurement, and nothing follows from it." }
                }
                main {
                    (head(report))
                    (act::verdict(report))
                    (keys(report))
                    (chart::charts(report))
                    (table::reconciliation(report))
                    (act::rule(report))
                    (act::forms(report))
                    (complete::completeness(report))
                    (table::doubts(report))
                    (table::paths(report))
                    (table::places(report))
                    (foot(report))
                }
            }
        }
    };
    document.into_string()
}

fn title(report: &Report) -> String {
    let names: Vec<&str> = report.runs.iter().map(|r| r.name.as_str()).filter(|n| !n.is_empty()).take(3).collect();
    let of = if names.is_empty() { String::new() } else { format!(" of {}", names.join(", ")) };
    let simulated = if report.simulated { "SIMULATED — " } else { "" };
    format!("{simulated}Training compute{of}")
}

fn head(report: &Report) -> Markup {
    let gpus: Vec<String> = report.gpu_hours.keys().cloned().collect();
    html! {
        header {
            p.kicker { "Training compute report" }
            h1 { (title(report).replacen("SIMULATED — ", "", 1)) }
            p.sub {
                (utc(report.began_unix_s)) " – " (utc(report.ended_unix_s)) " · "
                (report.devices.len()) " × " (if gpus.is_empty() { "GPU".to_owned() } else { gpus.join(", ") }) " · "
                (report.nodes.len()) " node" @if report.nodes.len() != 1 { "s" }
            }
        }
    }
}

/// The numbers that matter, large.
fn keys(report: &Report) -> Markup {
    let total = &report.total;
    let error = match total.standard_error {
        Some(0.0) => html! { "counted, none interpolated" },
        Some(e) => html! { "± " (sci(e)) " FLOP (standard error)" },
        None => html! { "error not known" },
    };
    let hours: f64 = report.gpu_hours.values().sum();
    html! {
        section.keys aria-label="Key figures" {
            @if let Some(why) = &report.unmeasured {
                (key("Executed", &html! { (NOT_MEASURED) }, &html! { (why) }, report))
            } @else {
                (key("Executed", &html! { (sci_whole(&total.flop, 4)) " " span.unit { "FLOP" } }, &html! { (error) " · tier: " (tier(report.tier)) }, report))
            }
            (key("Wall clock", &html! { (duration(report.wall_clock_s)) }, &html! { (small(report.wall_clock_s / 86_400.0, 2)) " days" }, report))
            (key("GPU time", &html! { (small(hours, 3)) " " span.unit { "h" } }, &html! {
                @for (i, (name, h)) in report.gpu_hours.iter().enumerate() { @if i > 0 { br; } (small(h / 24.0, 2)) " " (name) " days" }
            }, report))
            (key("Energy", &match report.energy_mj {
                Some(mj) => html! { (energy(mj)) },
                None => html! { "not known" },
            }, &match report.flop_per_joule {
                Some(f) => html! { (sci(f)) " FLOP/J, whole GPU boards" },
                None => html! { "NVML did not say for every device" },
            }, report))
            @if let Some(rate) = report.flop_per_s {
                (key("Rate", &html! { (small(rate / rate_unit(rate).0, 3)) " " span.unit { (rate_unit(rate).1) } }, &html! {
                    @match report.peak_share { Some(share) => { (small(100.0 * share, 3)) " % of dense tensor peak" }, None => { "of wall clock, all devices" } }
                }, report))
            }
        }
    }
}

fn key(name: &str, value: &Markup, note: &Markup, report: &Report) -> Markup {
    html! {
        div.key {
            div.name { (name) @if report.simulated { " (simulated)" } }
            div.value { (value) }
            div.note { (note) }
        }
    }
}

/// Energy in the unit that fits.
fn energy(mj: u64) -> String {
    match mj as f64 / 3.6e9 {
        kwh if kwh >= 1000.0 => format!("{} MWh", plain(kwh / 1e3, 3)),
        kwh if kwh >= 0.1 => format!("{} kWh", plain(kwh, 3)),
        _ => format!("{} kJ", plain(mj as f64 / 1e6, 3)),
    }
}

/// A number that may be very small, with its power of ten raised.
fn small(x: f64, figures: usize) -> Markup {
    act::ten_to_the(&plain(x, figures))
}

/// Three figures and a power of ten.
fn sci(x: f64) -> Markup {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates, and is not negative")]
    let figures = whole(x.max(0.0).round() as u128, 3);
    match figures {
        Some(s) if s.exponent >= 4 => html! { (s.mantissa) "×10" sup { (s.exponent) } },
        _ => html! { (plain(x, 3)) },
    }
}

/// What was executed, where it was looked at.
fn executed(operations: &Operations, figures: usize) -> Markup {
    if operations.tier.is_some() {
        sci_whole(&operations.flop, figures)
    } else {
        html! { "–" }
    }
}

/// A decimal string to so many figures.
fn sci_whole(decimal: &str, figures: usize) -> Markup {
    match decimal.parse().ok().and_then(|n| whole(n, figures)) {
        Some(s) => html! { (s.mantissa) "×10" sup { (s.exponent) } },
        None => html! { "0" },
    }
}

/// The class by which a verdict is coloured.
fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Below => "good",
        Verdict::Above => "serious",
        Verdict::Inconclusive => "warn",
        Verdict::Withheld | Verdict::NotApplicable => "none",
    }
}

fn foot(report: &Report) -> Markup {
    html! {
        footer {
            p {
                "Written by flopsprof " (report.flopsprof) " from the run's evidence"
                @for (name, versions) in &report.libraries { "; " (name) " " (versions.join(", ")) }
                "."
                @if let Some(a) = &report.assessment { " Rules: " (a.guidelines.title) ", " (a.guidelines.reference) ", " (a.guidelines.date) "." }
            }
            p { "The same figures, unrounded, are in report.json." @if let Some(a) = &report.assessment { " Verdict: " (verdict::word(a.verdict)) "." } }
        }
    }
}
