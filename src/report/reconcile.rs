//! The reconciliation's form.

use std::fmt::Write;

use serde::Serialize;

use crate::{
    ledger::{self, RunTotal},
    reconcile::{
        declared::Told,
        lines::{self, Reconciled},
        rates::{self, Rates},
    },
};

/// The measurement line by line, and the rates.
#[derive(Clone, Debug, Serialize)]
pub struct Reconciliation {
    /// The lines; none where the program declared no model and no rows.
    pub lines: Option<Reconciled>,
    /// Why there are none although it did.
    pub why_not: Option<String>,
    /// The numbers that are called utilisation.
    pub rates: Rates,
}

/// Makes it.
#[must_use]
pub fn reconciliation(run: &RunTotal, told: &Told) -> Reconciliation {
    let total = ledger::sum(&run.paths);
    let measured = total.total() as f64;
    let reconciled = match run.unmeasured() {
        Some(why) if !told.models.is_empty() => Err(format!("nothing was measured: {why}")),
        _ => lines::reconcile(told, measured, total.standard_error()),
    };
    let (mut lines, why_not) = match reconciled {
        Ok(lines) => (lines, None),
        Err(why) => (None, Some(why)),
    };
    if let Some(lines) = lines.as_mut().filter(|l| run.tokens > 0 && l.tokens != run.tokens) {
        lines.remarks.push(format!(
            "the rows that the program told hold {} tokens, and it added {}: it was killed before it told the rest, or the two are of different things",
            lines.tokens, run.tokens
        ));
    }
    let rates = rates::rates(told, run, measured, lines.as_ref().map(|l| l.model_flop));
    Reconciliation { lines, why_not, rates }
}

/// Appends it to a text.
pub fn text(out: &mut String, reconciliation: &Reconciliation, mark: &str) {
    if let Some(why) = &reconciliation.why_not {
        let _ = writeln!(out, "\nnot reconciled with 6ND: {why}");
    }
    if let Some(r) = &reconciliation.lines {
        let _ = writeln!(out, "\nfrom 6ND to what was measured{mark}");
        for line in r.lines.iter().filter(|l| l.flop != 0.0 || l.name == "unexplained") {
            let confidence = format!("{:?}", line.confidence).to_lowercase();
            let flop = if line.flop == 0.0 { "0".to_owned() } else { format!("{:+.6e}", line.flop) };
            let _ = writeln!(out, "  {:<24} {flop:>14} {:>+8.2} %  {confidence}: {}", line.title(), 100.0 * line.share, line.source);
        }
        let _ = writeln!(out, "  {:<24} {:>+14.6e} {:>+8.2} %", "measured", r.measured, 100.0);
        for remark in &r.remarks {
            let _ = writeln!(out, "  note: {remark}");
        }
    }
    let percent = |x: Option<f64>| x.map_or_else(|| "not known".to_owned(), |x| format!("{:.1} %", 100.0 * x));
    let rates = &reconciliation.rates;
    if rates.hfu.is_some() || rates.nvml_utilization.is_some() {
        let claim = rates.nvml_over_measured.map(|c| format!(", as FLOP {c:.1} times what was measured")).unwrap_or_default();
        let _ = writeln!(
            out,
            "\nHFU {}{mark} (executed over peak), MFU {}{mark} (model FLOP over peak), NVML utilisation {}{mark} (time with a kernel{claim})",
            percent(rates.hfu),
            percent(rates.mfu),
            percent(rates.nvml_utilization)
        );
    }
}
