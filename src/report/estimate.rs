//! An estimate's form: JSON and a table, several methods side by side.

use std::{collections::BTreeSet, fmt::Write};

use serde::Serialize;

use crate::{
    estimate::job::{Estimate, Hardware, Speed},
    ledger::{self, RunTotal},
    rule::{self, Amount, Assessment, Component, Guidelines, Input, Kind, Origin, TestName},
};

use super::verdict;

/// The widest a method's column gets, characters.
const WIDEST: usize = 30;
/// Version of the form.
pub const FORMAT: u32 = 1;

/// Estimates as data.
#[derive(Debug, Serialize)]
pub struct Estimates<'a> {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of flopsprof.
    pub flopsprof: &'static str,
    /// No GPU was asked: formulas.
    pub tier: &'static str,
    /// One a method.
    pub estimates: &'a [Assessed],
}

/// An estimate, and what would follow from it.
#[derive(Debug, Serialize)]
pub struct Assessed {
    /// The estimate.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// What would follow under the EU AI Act.
    pub assessment: Assessment,
}

impl std::ops::Deref for Assessed {
    type Target = Estimate;

    fn deref(&self) -> &Estimate {
        &self.estimate
    }
}

/// Says what would follow from an estimate.
///
/// # Errors
/// [`rule::Error`] when what is said of the base model contradicts itself, or a number is too large to be meant.
pub fn assessed(estimate: Estimate, origin: Origin, rules: &'static Guidelines) -> Result<Assessed, rule::Error> {
    let component = |kind, what: &str, flop| Component {
        kind,
        what: what.to_owned(),
        amount: Amount::estimated(flop, rules),
        source: format!("estimated by {}", estimate.by),
    };
    let components = vec![
        component(Kind::Training, "forward and backward passes", estimate.flop.model()),
        component(Kind::Recomputation, "activations computed again", estimate.flop.recomputed),
    ];
    let input = Input { origin, components, gaps: Vec::new(), doubts: Vec::new(), simulated: false };
    let assessment = rule::assess(&input, rules)?;
    Ok(Assessed { estimate, assessment })
}

/// Estimates as data.
#[must_use]
pub fn json(estimates: &[Assessed]) -> Estimates<'_> {
    Estimates { format: FORMAT, flopsprof: env!("CARGO_PKG_VERSION"), tier: "analytic", estimates }
}

/// Estimates as a table.
#[must_use]
pub fn text(estimates: &[Assessed]) -> String {
    let mut out = String::new();
    let Some(first) = estimates.first() else { return out };
    let _ = writeln!(out, "flopsprof estimate (analytic: no GPU was asked)\n");
    let met = if first.by == "products" { format!(", {} met by a token", grouped(first.parameters.active)) } else { String::new() };
    let _ = writeln!(out, "model      {}, {} parameters{met}", first.model_type, grouped(first.parameters.total));
    let pads = first.executed_tokens - first.tokens.min(first.executed_tokens);
    let padded = if pads > 0 { format!(", and {} pads", grouped(pads)) } else { String::new() };
    let _ = writeln!(out, "tokens     {}{padded}\n", grouped(first.tokens));
    let width = estimates.iter().map(|e| e.method.chars().count()).max().unwrap_or(0).clamp(22, WIDEST);
    let mut row = |name: &str, cell: &dyn Fn(&Assessed) -> String| {
        let cells: String = estimates.iter().map(|e| format!("  {:>width$}", cell(e))).collect();
        let _ = writeln!(out, "{name:<24}{cells}");
    };
    row("method", &|e| shortened(&e.method));
    row("trainable parameters", &|e| e.parameters.trainable.map_or_else(|| "not known".to_owned(), grouped));
    let mut components: Vec<_> = estimates.iter().flat_map(|e| e.components.iter().map(|r| r.component)).collect();
    components.sort_unstable();
    components.dedup();
    for component in components {
        let name = format!("{component:?}").chars().fold(String::new(), |mut s, c| {
            if c.is_uppercase() && !s.is_empty() {
                s.push(' ');
            }
            s.extend(c.to_lowercase());
            s
        });
        row(&format!("  {name}"), &|e| {
            e.components.iter().find(|r| r.component == component).map_or_else(|| "-".to_owned(), |r| scientific(r.flop.executed() as f64))
        });
    }
    row("forward", &|e| scientific(e.flop.forward as f64));
    row("backward", &|e| scientific(e.flop.backward as f64));
    row("recomputed", &|e| scientific(e.flop.recomputed as f64));
    row("executed (all three)", &|e| scientific(e.flop.executed() as f64));
    row("forward + backward", &|e| scientific(e.flop.model() as f64));
    row("6ND", &|e| scientific(e.six_nd.parse().unwrap_or(f64::NAN)));
    row("  (f. + b.) / 6ND", &|e| format!("{:.4}", e.model_to_six_nd));
    row("(4N + 2Nt) D", &|e| e.four_n_two_t.as_ref().and_then(|f| f.parse().ok()).map_or_else(|| "not known".to_owned(), scientific));
    row("expected verdict", &|e| verdict::word(e.assessment.verdict).to_owned());
    if let Some(h) = &first.hardware {
        row("GPU hours", &|e| e.hardware.as_ref().map_or_else(String::new, |h| amount(h.gpu_hours)));
        let energy = |h: &Hardware| h.energy_kwh.map_or_else(|| "not known".to_owned(), amount);
        row("energy, kWh", &|e| e.hardware.as_ref().map_or_else(String::new, energy));
        let _ = writeln!(
            out,
            "\non {} at {:.1} % ({}) of {:.1} TFLOP/s {}; energy: {}",
            h.gpu,
            100.0 * h.utilisation,
            h.utilisation_source,
            h.peak_flop_per_s / 1e12,
            h.peak_source,
            h.energy_source
        );
    }
    let _ = writeln!(out, "\nEU AI Act, expected, first method: {}", verdict::headline(&first.assessment));
    if first.assessment.base.is_none() && first.assessment.headline == TestName::OneThird {
        out.push_str("  the base model was not stated: --base NAME, or --base-flops FLOP (flopsprof estimate --help)\n");
    }
    for test in &first.assessment.tests {
        let _ = writeln!(out, "  {:<28} {:<14} {}", verdict::title(test.name), verdict::word(test.verdict), verdict::comparison(test));
    }
    // Most hold for all methods.
    let mut said = BTreeSet::new();
    for note in estimates.iter().flat_map(|e| &e.notes).filter(|n| said.insert(*n)) {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

/// Speed and power of an earlier run.
///
/// # Errors
/// In words, when the run does not say.
pub fn measured(run: &RunTotal, name: &str) -> Result<Speed, String> {
    let device = run.devices.first().ok_or_else(|| format!("{name}: no device in the evidence"))?;
    let seconds: f64 = run.gpu_seconds().values().sum();
    let flop = ledger::sum(&run.paths).total() as f64;
    let share = run.peak_share().filter(|s| *s > 0.0 && seconds > 0.0);
    let share = share.ok_or_else(|| format!("{name}: nothing was counted there, or the chip's peak is not known"))?;
    let watts = run.energy_mj().map(|mj| mj as f64 / 1e3 / seconds);
    let mark = if run.simulated { " (simulated)" } else { "" };
    Ok(Speed {
        gpu: format!("{}{mark}", device.name),
        peak: flop / seconds / share,
        peak_source: "dense, of the operations it executed at the clock it may have".to_owned(),
        utilisation: share,
        utilisation_source: format!("measured in {name}{mark}"),
        watts,
        watts_source: watts.map_or_else(|| "not known: NVML did not say".to_owned(), |w| format!("{w:.0} W, measured in {name}{mark}")),
    })
}

/// A method's name, as wide as a column may be.
fn shortened(name: &str) -> String {
    if name.chars().count() <= WIDEST { name.to_owned() } else { name.chars().take(WIDEST - 3).chain("...".chars()).collect() }
}

/// Hours or kilowatt-hours: four places, or four digits of what is smaller.
fn amount(x: f64) -> String {
    if x < 0.001 { format!("{x:.3e}") } else { format!("{x:.4}") }
}

fn scientific(x: f64) -> String {
    if x == 0.0 { "0".to_owned() } else { format!("{x:.6e}") }
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
