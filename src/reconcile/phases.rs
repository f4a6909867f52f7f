//! What was executed outside training: evaluation, checkpointing, whatever a program marks.
//!
//! Where windows were cut at the marks, their counts say it. Where a window lies across marks, its counts are shared out by time, and if that is more than a
//! tenth of the phase's time, the formula of the rows that were declared is taken instead.

use std::collections::BTreeMap;

use super::{
    case::Case,
    declared::{Stretch, Told},
    lines::Confidence,
};
use crate::evidence::{read::ProcessEvidence, record::Record};

/// FLOP outside training.
pub(super) struct Other {
    pub(super) flop: f64,
    pub(super) source: String,
    pub(super) confidence: Confidence,
    pub(super) remarks: Vec<String>,
}

/// The share of a phase's counted time that may lie in windows across marks.
const BLURRED: f64 = 0.1;

/// FLOP that windows counted in a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counted {
    flop: f64,
    seconds: f64,
    /// Of them, in windows that belong to other phases too.
    blurred: f64,
}

/// Sums what is not training.
pub(super) fn other(files: &[ProcessEvidence], told: &Told, case: &Case, measured: f64) -> Result<Other, String> {
    let (counted, all) = counted(files, &told.stretches);
    // What was counted stands for what was measured: interpolated parts are shared out alike.
    let scale = if all > 0.0 { measured / all } else { 0.0 };
    let mut sum = Other { flop: 0.0, source: "no phase but training is marked".to_owned(), confidence: Confidence::Exact, remarks: Vec::new() };
    let mut sources = Vec::new();
    let names = counted.keys().chain(told.phases.keys()).filter(|p| *p != "train").collect::<std::collections::BTreeSet<_>>();
    for name in names {
        let c = counted.get(name).copied().unwrap_or_default();
        let rows = told.phases.get(name).filter(|r| !r.executed.is_empty());
        let blurred = c.seconds <= 0.0 || c.blurred > BLURRED * c.seconds;
        if !blurred || rows.is_none() && c.seconds > 0.0 {
            sum.flop += c.flop * scale;
            sources.push(format!("{name}: windows between its marks, {:.1} s", c.seconds));
            if blurred {
                sum.confidence = Confidence::Assumed;
                sum.remarks.push(format!("{name}: windows lie across its marks: their counts are shared out by time"));
            } else if sum.confidence == Confidence::Exact {
                sum.confidence = Confidence::Counted;
            }
        } else if let Some(rows) = rows {
            sum.flop += case.phase(rows)?;
            sum.confidence = Confidence::Assumed;
            sources.push(format!("{name}: formula of its rows"));
        }
    }
    if !sources.is_empty() {
        sum.source = sources.join("; ");
    }
    Ok(sum)
}

/// What windows counted by phase, and in all.
fn counted(files: &[ProcessEvidence], stretches: &[Stretch]) -> (BTreeMap<String, Counted>, f64) {
    let mut phases: BTreeMap<String, Counted> = BTreeMap::new();
    let mut all = 0.0;
    for (i, file) in files.iter().enumerate() {
        let stretches: Vec<&Stretch> = stretches.iter().filter(|s| s.file == i).collect();
        for line in &file.lines {
            let Record::Window(w) = &line.record else { continue };
            let flop = w.counts.values().sum::<u128>() as f64;
            let length = w.end_ns.saturating_sub(w.start_ns) as f64;
            all += flop;
            if length <= 0.0 {
                continue;
            }
            for s in &stretches {
                let within = w.end_ns.min(s.span.1).saturating_sub(w.start_ns.max(s.span.0)) as f64;
                if within <= 0.0 {
                    continue;
                }
                let share = within / length;
                let phase = phases.entry(s.phase.clone()).or_default();
                phase.seconds += within / 1e9;
                // The mark does not wait for the boundary: a hundredth on either side belongs to the same cut.
                if share > 0.95 {
                    phase.flop += flop;
                } else if share > 0.05 {
                    phase.flop += flop * share;
                    phase.blurred += within / 1e9;
                }
            }
        }
    }
    (phases, all)
}
