//! From 6·N·D to what was measured, line by line.
//!
//! ```text
//! measured = 6ND + attention + experts not met + looked-up parameters + gradients not needed
//!          + recomputation + pads + masked positions + tile padding + other phases + unexplained
//! ```
//! Every line but the last is made without the training's measurement, so the last one tells what is not understood. It is never folded into another.

use serde::Serialize;

use super::{case::Case, declared::Told, phases};

/// How far a line can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Follows from the configuration and the tokens.
    Exact,
    /// Counted on the GPU.
    Counted,
    /// By a rule whose assumption stands in the source.
    Assumed,
    /// What is left.
    Remainder,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Stable name.
    pub name: &'static str,
    /// FLOP; negative where 6ND has too much.
    pub flop: f64,
    /// Share of the measured total.
    pub share: f64,
    /// Where it is from.
    pub source: String,
    /// How far it can be trusted.
    pub confidence: Confidence,
}

impl Line {
    /// Its name for readers.
    #[must_use]
    pub fn title(&self) -> String {
        if self.name == "six_nd" { "6ND".to_owned() } else { self.name.replace('_', " ") }
    }
}

/// The lines, and what they add up to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reconciled {
    /// Executed FLOP, measured.
    pub measured: f64,
    /// Standard error of it; none where it is not known.
    pub standard_error: Option<f64>,
    /// From 6ND down to what is unexplained: they add up to `measured`.
    pub lines: Vec<Line>,
    /// What is unexplained over what was measured.
    pub unexplained_share: f64,
    /// Forward and backward of the rows that were trained on, without recomputation, by formula.
    pub model_flop: f64,
    /// Tokens trained on, without pads.
    pub tokens: u64,
    /// Parameters, adapters included.
    pub parameters: u64,
    /// What stands in doubt, in words.
    pub remarks: Vec<String>,
}

/// Reconciles a run; none where the program declared no model or no rows.
///
/// # Errors
/// In words, why it cannot be done although it did: an unknown architecture, a field that is missing or contradicts another.
pub fn reconcile(told: &Told, measured: f64, standard_error: Option<f64>) -> Result<Option<Reconciled>, String> {
    let (Some(model), Some(train)) = (&told.model, told.phases.get("train")) else {
        return told.complaints.first().map_or(Ok(None), |complaint| Err(complaint.clone()));
    };
    if train.executed.iter().all(|[rows, ..]| *rows == 0) {
        // All lines would be 0, and everything unexplained.
        return Err("the program declared its model and ended (or was killed) before it told any rows".to_owned());
    }
    let case = Case::new(model, train)?;
    let mut remarks = told.complaints.clone();
    let (documents, rows) = (case.documents()?, case.rows()?);
    let tokens = case.tokens as f64;
    let mut lines = Vec::new();
    let mut add = |name, flop, source: &str, confidence| lines.push(Line { name, flop, share: 0.0, source: source.to_owned(), confidence });

    // What 6ND should have been for the tokens trained on.
    let six_nd = 6.0 * case.parameters as f64 * tokens;
    add("six_nd", six_nd, "declared parameters, tokens without pads", Confidence::Exact);
    add("attention", 3.0 * documents.scores.forward as f64, "configuration, lengths of documents", Confidence::Exact);
    let (total, active) = case.configured;
    let unmet = (total - active) as f64;
    if unmet > 0.0 {
        add("experts_not_met", -6.0 * unmet * tokens, "configuration: experts a token is not sent to", Confidence::Exact);
    }
    add(
        "embedding_and_head",
        3.0 * documents.products.forward as f64 - 6.0 * (case.parameters as f64 - unmet) * tokens,
        "configuration: parameters that are looked up or element-wise, and tied ones that are used twice",
        Confidence::Exact,
    );
    let needed = (documents.products.backward + documents.scores.backward) as f64;
    let all = 2.0 * (documents.products.forward + documents.scores.forward) as f64;
    add("frozen_gradients", needed - all, "what is trained: gradients that nobody needs", Confidence::Exact);

    // What is executed besides.
    let checkpointed =
        if case.checkpointing() { "checkpointed layers, and scores in fused attention" } else { "scores in fused attention" };
    add("recomputation", rows.recomputed(), checkpointed, Confidence::Exact);
    add("pad_tokens", rows.model() - documents.model(), "rows as executed, less their documents", Confidence::Exact);
    add("masked_positions", case.masked()?, "attention with an explicit mask, or eager, computes what it throws away", Confidence::Assumed);
    let (products, attention) = case.tiles()?;
    add("tile_padding", products, "sides of matrices rounded up to 64", Confidence::Assumed);
    add("tile_padding_attention", attention, "attention in blocks of 128 positions", Confidence::Assumed);
    let other = phases::other(told, &case, measured)?;
    remarks.extend(other.remarks);
    add("other_phases", other.flop, &other.source, other.confidence);
    add("optimizer_and_other", 0.0, "element-wise work is not executed by tensor cores, and these are their counters", Confidence::Exact);
    let explained: f64 = lines.iter().map(|l| l.flop).sum();
    lines.push(Line {
        name: "unexplained",
        flop: measured - explained,
        share: 0.0,
        source: "what is left".to_owned(),
        confidence: Confidence::Remainder,
    });
    if case.parameters.abs_diff(total) > total / 50 {
        remarks.push(format!(
            "the program counts {} parameters and its configuration makes {total}: a part of the model is not in the configuration, or is packed",
            case.parameters
        ));
    }
    for line in &mut lines {
        line.share = if measured > 0.0 { line.flop / measured } else { 0.0 };
    }
    Ok(Some(Reconciled {
        measured,
        standard_error,
        unexplained_share: (measured - explained) / measured,
        lines,
        model_flop: rows.model(),
        tokens: case.tokens,
        parameters: case.parameters,
        remarks,
    }))
}
