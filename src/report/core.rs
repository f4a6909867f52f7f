//! What the CUDA cores executed: the report's part of it.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use crate::ledger::RunTotal;

/// What the CUDA cores executed, beside the tensor cores and in no total of theirs.
#[derive(Clone, Debug, Serialize)]
pub struct CudaCores {
    /// Censuses of theirs: bursts in which the program is many times slower.
    pub censuses: u64,
    /// Launches in them.
    pub launches_seen: u64,
    /// By format: `fp32`, `fp16`, `fp64`.
    pub formats: Vec<FormatRow>,
    /// Devices in processes that executed tensor operations and have no such census: their part is missing.
    pub devices_missing: u64,
    /// Why there was none, or not a whole one: how often.
    pub doubts: BTreeMap<String, u64>,
}

/// One number format.
#[derive(Clone, Debug, Serialize)]
pub struct FormatRow {
    /// `fp32`, `fp16` or `fp64`.
    pub format: String,
    /// FLOP in the censuses, decimal.
    pub seen: String,
    /// FLOP of the whole run, as the ratio to the tensor operations of the same launches gives them; null where there were none, or they are not known.
    pub flop: Option<f64>,
    /// Standard error of `flop`; null when it is not known: with one census, or some that are not of whole steps.
    pub standard_error: Option<f64>,
}

/// None where nothing was tried.
#[must_use]
pub fn cuda_cores(run: &RunTotal) -> Option<CudaCores> {
    let cores = &run.cores;
    (cores.bursts > 0 || !cores.why.is_empty()).then(|| CudaCores {
        censuses: cores.bursts,
        launches_seen: cores.launches,
        formats: cores
            .seen
            .iter()
            .map(|(format, seen)| FormatRow {
                format: (*format).to_owned(),
                seen: seen.to_string(),
                flop: cores.total.get(format).map(|t| t.0),
                standard_error: cores.total.get(format).and_then(|t| t.1).map(f64::sqrt),
            })
            .collect(),
        devices_missing: if cores.bursts > 0 { cores.missing } else { 0 },
        doubts: cores.why.clone(),
    })
}

/// Its lines for a terminal.
pub fn text(out: &mut String, cores: &CudaCores, total: f64, mark: &str) {
    // Of what all devices executed it is no share while some are missing.
    let total = if cores.devices_missing > 0 { 0.0 } else { total };
    let formats: Vec<String> = cores.formats.iter().map(|row| words(row, total, mark)).collect();
    if !formats.is_empty() {
        let _ = writeln!(
            out,
            "\nCUDA cores {}\n           sampled: {} census(es), {} launches; not in the total above, which is the tensor cores'",
            formats.join(", "),
            cores.censuses,
            cores.launches_seen
        );
    }
    if cores.devices_missing > 0 {
        let _ = writeln!(out, "           {} device(s) without such a census are missing in it", cores.devices_missing);
    }
    for (why, times) in &cores.doubts {
        let _ = writeln!(out, "  - {why}{}", if *times > 1 { format!(" ({times} times)") } else { String::new() });
    }
}

fn words(row: &FormatRow, total: f64, mark: &str) -> String {
    let Some(flop) = row.flop else {
        return format!(
            "{}: {}{mark} FLOP seen; the whole run's are not known: what the tensor cores executed in the same launches is not",
            row.format, row.seen
        );
    };
    let error = row.standard_error.map_or_else(|| "standard error unknown".to_owned(), |e| format!("± {e:.1e}"));
    let share = if total > 0.0 { format!(", {:.2} % of the tensor cores'", 100.0 * flop / total) } else { String::new() };
    format!("{} {flop:.4e}{mark} FLOP ({error}{share})", row.format)
}
