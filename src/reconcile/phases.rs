//! What was executed outside training: evaluation, checkpointing, whatever a program marks.
//!
//! Where windows were cut at the marks, their counts say it. Where a window lies across marks, its counts are shared out by time, and if that is more than a
//! tenth of the phase's time, the formula of the rows that were declared is taken instead.

use std::collections::BTreeSet;

use super::{case::Case, declared::Told, lines::Confidence, rows::Phases};

/// FLOP outside training.
pub(super) struct Other {
    pub(super) flop: f64,
    pub(super) source: String,
    pub(super) confidence: Confidence,
    pub(super) remarks: Vec<String>,
}

/// Sums what is not training, of all models.
pub(super) fn other(told: &Told, cases: &[(Case, &Phases)], measured: f64) -> Other {
    // What was counted stands for what was measured: interpolated parts are shared out alike.
    let scale = if told.all > 0.0 { measured / told.all } else { 0.0 };
    let mut sum =
        Other { flop: 0.0, source: "no phase but training is marked".to_owned(), confidence: Confidence::Exact, remarks: Vec::new() };
    let mut sources = Vec::new();
    let names = told.counted.keys().chain(cases.iter().flat_map(|(_, p)| p.keys())).filter(|p| *p != "train").collect::<BTreeSet<_>>();
    for name in names {
        let c = told.counted.get(name).copied().unwrap_or_default();
        let rows = || cases.iter().filter_map(|(case, phases)| Some((case, phases.get(name).filter(|r| !r.executed.is_empty())?)));
        let blurred = c.is_blurred();
        if !blurred || rows().next().is_none() && c.seconds > 0.0 {
            sum.flop += c.flop * scale;
            sources.push(format!("{name}: windows between its marks, {:.1} s", c.seconds));
            if blurred {
                sum.confidence = Confidence::Assumed;
                sum.remarks.push(format!("{name}: windows lie across its marks: their counts are shared out by time"));
            } else if sum.confidence == Confidence::Exact {
                sum.confidence = Confidence::Counted;
            }
        } else if rows().next().is_some() {
            let (known, unknown): (Vec<_>, Vec<_>) = rows().map(|(case, rows)| case.phase(rows)).partition(Result::is_ok);
            if !known.is_empty() {
                sum.flop += known.into_iter().flatten().sum::<f64>();
                sum.confidence = Confidence::Assumed;
                sources.push(format!("{name}: formula of its rows"));
            }
            let whys = unknown.into_iter().filter_map(Result::err);
            sum.remarks.extend(whys.map(|why| format!("{name}: its rows are in no line, and what they executed is unexplained: {why}")));
        }
    }
    if !sources.is_empty() {
        sum.source = sources.join("; ");
    }
    sum
}
