//! From 6·N·D to what was measured, line by line.
//!
//! ```text
//! measured = 6ND + attention + experts not met + looked-up parameters + gradients not needed
//!          + recomputation + pads + masked positions + tile padding + other phases + unexplained
//! ```
//! Every line but the last is made without the training's measurement, so the last one tells what is not understood. It is never folded into another.
//! Of several models, each has its own N and D, and each line is the sum of theirs: one measurement stands beside them all.

use serde::Serialize;

use super::{
    case::Case,
    census::Census,
    declared::{Rows, Told, Trained},
    phases,
};

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
    /// Parameters, adapters included; none where several models were declared.
    pub parameters: Option<u64>,
    /// Each model, where several were declared: the lines are sums over them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<OfModel>,
    /// What stands in doubt, in words.
    pub remarks: Vec<String>,
}

/// What a model has in the lines, where several were declared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OfModel {
    /// `model_type`.
    pub model_type: String,
    /// Parameters, adapters included.
    pub parameters: u64,
    /// Tokens trained on, without pads.
    pub tokens: u64,
    /// 6·N·D of these.
    pub six_nd: f64,
    /// All lines of its training by formula, 6·N·D included.
    pub by_formula: f64,
    /// What windows counted while it was the declared one, evaluation included; none where too many of them lie across another model's time.
    pub measured: Option<f64>,
}

/// Reconciles a run; none where the program declared no model or no rows.
///
/// # Errors
/// In words, why it cannot be done although it did: an unknown architecture, a field that is missing or contradicts another.
pub fn reconcile(told: &Told, measured: f64, standard_error: Option<f64>) -> Result<Option<Reconciled>, String> {
    let mut with_rows = models(told);
    if with_rows.iter().all(|t| !t.phases.contains_key("train")) {
        return told.complaints.first().map_or(Ok(None), |complaint| Err(complaint.clone()));
    }
    if with_rows.iter().filter_map(|t| t.phases.get("train")).flat_map(|rows| &rows.executed).all(|[rows, ..]| *rows == 0) {
        // All lines would be 0, and everything unexplained.
        return Err("the program declared its model and ended (or was killed) before it told any rows".to_owned());
    }
    with_rows.retain(|t| t.phases.values().any(|rows| rows.executed.iter().any(|[rows, ..]| *rows > 0)));
    let mut remarks = told.complaints.clone();
    if told.models.len() > 1 && !told.phases.is_empty() {
        remarks.push(
            "rows of processes that declared no model are in no line: several models were declared, and nobody says which it was"
                .to_owned(),
        );
    }
    let (mut cases, mut lines, mut models, mut model_flop) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    for trained in &with_rows {
        let case = Case::new(&trained.model, trained.phases.get("train").unwrap_or(&Rows::default()))?;
        let own = training(&case, &trained.censuses)?;
        let six_nd = 6.0 * case.parameters as f64 * case.tokens as f64;
        let by_formula = own.iter().map(|l| l.flop).sum();
        // What was counted stands for what was measured: interpolated parts are shared out alike.
        let counted = (!trained.counted.is_blurred() && told.all > 0.0).then(|| trained.counted.flop * measured / told.all);
        let (model_type, parameters, tokens) = (case.name.clone(), case.parameters, case.tokens);
        models.push(OfModel { model_type, parameters, tokens, six_nd, by_formula, measured: counted });
        model_flop += case.rows()?.model();
        remarks.extend(differs(&case));
        add_lines(&mut lines, own);
        cases.push((case, &trained.phases));
    }
    // A line of nothing that most models cannot have.
    lines.retain(|l| l.name != "experts_not_met" || l.flop != 0.0);
    let other = phases::other(told, &cases, measured)?;
    remarks.extend(other.remarks);
    lines.push(Line { name: "other_phases", flop: other.flop, share: 0.0, source: other.source, confidence: other.confidence });
    lines.push(line(
        "optimizer_and_other",
        0.0,
        "element-wise work is not executed by tensor cores, and these are their counters",
        Confidence::Exact,
    ));
    let explained: f64 = lines.iter().map(|l| l.flop).sum();
    lines.push(line("unexplained", measured - explained, "what is left", Confidence::Remainder));
    for line in &mut lines {
        line.share = if measured > 0.0 { line.flop / measured } else { 0.0 };
    }
    let tokens = models.iter().fold(0u64, |sum, m| sum.saturating_add(m.tokens));
    let parameters = if let [one] = models.as_slice() { Some(one.parameters) } else { None };
    if parameters.is_some() {
        models.clear();
    } else {
        remarks.push(several(&models));
    }
    Ok(Some(Reconciled {
        measured,
        standard_error,
        unexplained_share: (measured - explained) / measured,
        lines,
        model_flop,
        tokens,
        parameters,
        models,
        remarks,
    }))
}

/// Models with rows. Rows of processes that declared no model are of the only one there is; of several nobody says which.
fn models(told: &Told) -> Vec<Trained> {
    let mut models = told.models.clone();
    if let [only] = models.as_mut_slice() {
        only.add_rows(told.phases.clone());
    }
    models
}

fn line(name: &'static str, flop: f64, source: &str, confidence: Confidence) -> Line {
    Line { name, flop, share: 0.0, source: source.to_owned(), confidence }
}

/// The lines of a model's training, by formula.
fn training(case: &Case, censuses: &[Census]) -> Result<Vec<Line>, String> {
    let (documents, rows) = (case.documents()?, case.rows()?);
    let tokens = case.tokens as f64;
    let (total, active) = case.configured;
    let unmet = (total - active) as f64;
    let needed = (documents.products.backward + documents.scores.backward) as f64;
    let all = 2.0 * (documents.products.forward + documents.scores.forward) as f64;
    let checkpointed =
        if case.checkpointing() { "checkpointed layers, and scores in fused attention" } else { "scores in fused attention" };
    let tiles = case.tiles(censuses)?;
    Ok(vec![
        // What 6ND should have been for the tokens trained on.
        line("six_nd", 6.0 * case.parameters as f64 * tokens, "declared parameters, tokens without pads", Confidence::Exact),
        line("attention", 3.0 * documents.scores.forward as f64, "configuration, lengths of documents", Confidence::Exact),
        line("experts_not_met", -6.0 * unmet * tokens, "configuration: experts a token is not sent to", Confidence::Exact),
        line(
            "embedding_and_head",
            3.0 * documents.products.forward as f64 - 6.0 * (case.parameters as f64 - unmet) * tokens,
            "configuration: parameters that are looked up or element-wise, and tied ones that are used twice",
            Confidence::Exact,
        ),
        line("frozen_gradients", needed - all, "what is trained: gradients that nobody needs", Confidence::Exact),
        // What is executed besides.
        line("recomputation", rows.recomputed(), checkpointed, Confidence::Exact),
        line("pad_tokens", rows.model() - documents.model(), "rows as executed, less their documents", Confidence::Exact),
        line(
            "masked_positions",
            case.masked()?,
            "attention with an explicit mask, or eager, computes what it throws away",
            Confidence::Assumed,
        ),
        line("tile_padding", tiles.flop, &tiles.source, tiles.confidence),
        line("tile_padding_attention", case.attention_tiles()?, "attention in blocks of 128 positions", Confidence::Assumed),
    ])
}

/// Adds another model's lines to those there are: the same ones in the same order.
fn add_lines(sum: &mut Vec<Line>, more: Vec<Line>) {
    if sum.is_empty() {
        *sum = more;
        return;
    }
    for (line, more) in sum.iter_mut().zip(more) {
        line.flop += more.flop;
        if more.confidence == Confidence::Assumed {
            line.confidence = more.confidence;
        }
        if !line.source.contains(&more.source) {
            line.source = format!("{}; {}", line.source, more.source);
        }
    }
}

fn differs(case: &Case) -> Option<String> {
    let (said, made) = (case.parameters, case.configured.0);
    (said.abs_diff(made) > made / 50).then(|| {
        format!(
            "the program counts {said} parameters and its configuration makes {made}: a part of the model is not in the configuration, or is packed"
        )
    })
}

fn several(models: &[OfModel]) -> String {
    let each = models.iter().map(|m| {
        let measured = m.measured.map_or_else(
            || "measured not told apart, because windows lie across another model's time".to_owned(),
            |flop| format!("measured {flop:.6e} with its evaluation"),
        );
        format!(
            "{} of {} parameters on {} tokens: 6ND {:.6e}, its training by formula {:.6e}, {measured}",
            m.model_type, m.parameters, m.tokens, m.six_nd, m.by_formula
        )
    });
    format!("{} models were declared, and each line is the sum of theirs: {}", models.len(), each.collect::<Vec<_>>().join("; "))
}
