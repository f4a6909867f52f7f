//! From 6·N·D to what was measured, line by line.
//!
//! ```text
//! measured = 6ND + attention + experts not met + looked-up parameters + gradients not needed + adapters' products
//!          + recomputation + pads + masked positions + tile padding + other phases + unexplained
//! ```
//! Every line but the last is made without the training's measurement, so the last one tells what is not understood. It is never folded into another.
//! Of several models, each has its own N and D, and each line is the sum of theirs: one measurement stands beside them all. One of them that cannot be estimated is there
//! with its 6·N·D alone.

use serde::Serialize;

use super::{
    case::Case,
    census::Census,
    declared::{Told, Trained},
    phases,
    rows::{Phases, Rows},
};
use crate::ledger::{arithmetic::add_up, job::only_model};

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
    /// Why it is not estimated, so that the lines have its 6·N·D alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// Reconciles a run; none where the program declared no model or no rows.
///
/// # Errors
/// In words, why it cannot be done although it did: an unknown architecture, a field that is missing or contradicts another.
pub fn reconcile(told: &Told, measured: f64, standard_error: Option<f64>) -> Result<Option<Reconciled>, String> {
    let (mut with_rows, nobodys) = models(told);
    if with_rows.iter().all(|t| !t.phases.contains_key("train")) {
        return told.complaints.first().map_or(Ok(None), |complaint| Err(complaint.clone()));
    }
    if with_rows.iter().filter_map(|t| t.phases.get("train")).flat_map(|rows| &rows.executed).all(|[rows, ..]| *rows == 0) {
        // All lines would be 0, and everything unexplained.
        return Err("the program declared its model and ended (or was killed) before it told any rows".to_owned());
    }
    with_rows.retain(|t| t.phases.values().any(|rows| rows.executed.iter().any(|[rows, ..]| *rows > 0)));
    let mut remarks = told.complaints.clone();
    if !nobodys.is_empty() {
        let tokens = tokens(nobodys.iter().filter_map(|phases| phases.get("train")));
        remarks.push(format!(
            "rows of processes that declared no model ({tokens} tokens of training) are in no line, and what they executed is unexplained: several models were declared, \
             and nobody says which it was"
        ));
    }
    let (mut cases, mut lines, mut models, mut model_flop, mut others) = (Vec::new(), Vec::new(), Vec::new(), 0.0, Vec::new());
    for trained in &with_rows {
        // What was counted stands for what was measured: interpolated parts are shared out alike.
        let counted = (!trained.counted.is_blurred() && told.all > 0.0).then(|| trained.counted.flop * measured / told.all);
        match one(trained) {
            Ok((case, own, flop)) => {
                let by_formula = own.iter().map(|l| l.flop).sum();
                models.push(OfModel { by_formula, measured: counted, ..OfModel::new(case.name.clone(), case.parameters, case.tokens) });
                model_flop += flop;
                remarks.extend(case.differs());
                add_lines(&mut lines, own);
                cases.push((case, &trained.phases));
            }
            Err(why) if with_rows.len() == 1 => return Err(why),
            Err(why) => {
                let name = trained.model.config["model_type"].as_str().unwrap_or("unknown").to_owned();
                let six = OfModel::new(name, trained.model.parameters.total, tokens(trained.phases.get("train")));
                others.push(OfModel { measured: counted, why_not: Some(why), ..six });
            }
        }
    }
    if cases.is_empty() {
        return Err(others.into_iter().filter_map(|m| m.why_not).collect::<Vec<_>>().join("; "));
    }
    for other in &others {
        lines[0].flop += other.six_nd;
        model_flop += other.six_nd;
    }
    models.extend(others);
    // Lines of nothing that most models cannot have.
    lines.retain(|l| !["experts_not_met", "adapter_products"].contains(&l.name) || l.flop != 0.0);
    let other = phases::other(told, &cases, measured);
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

/// Models with rows, and rows that are nobody's. Those of processes that declared no model are of the only one of their run, or of the only one there is.
fn models(told: &Told) -> (Vec<Trained>, Vec<&Phases>) {
    let (mut models, mut nobodys) = (told.models.clone(), Vec::new());
    for (run, phases) in &told.undeclared {
        match only_model(run, told.models.iter().enumerate().map(|(place, model)| (place, &model.runs))) {
            Some(place) => models[place].add_rows(phases.clone()),
            None if models.is_empty() => {}
            None => nobodys.push(phases),
        }
    }
    (models, nobodys)
}

/// Tokens without pads.
fn tokens<'a>(rows: impl IntoIterator<Item = &'a Rows>) -> u64 {
    let each = |[rows, length, decoder]: &[u64; 3]| rows.saturating_mul(length.saturating_add(*decoder));
    add_up(rows.into_iter().flat_map(|rows| &rows.documents).map(each))
}

/// A model that can be estimated: its lines, and the FLOP that its rows need.
fn one(trained: &Trained) -> Result<(Case, Vec<Line>, f64), String> {
    let case = Case::new(&trained.model, trained.phases.get("train").unwrap_or(&Rows::default()))?;
    let (lines, flop) = (training(&case, &trained.censuses)?, case.rows()?.model());
    Ok((case, lines, flop))
}

fn line(name: &'static str, flop: f64, source: &str, confidence: Confidence) -> Line {
    Line { name, flop, share: 0.0, source: source.to_owned(), confidence }
}

/// The lines of a model's training, by formula.
fn training(case: &Case, censuses: &[Census]) -> Result<Vec<Line>, String> {
    let (documents, plain, rows) = (case.documents()?, case.plain_documents()?, case.rows()?);
    let tokens = case.tokens as f64;
    let (total, active) = case.configured;
    let unmet = (total - active) as f64;
    let needed = (plain.products.backward + plain.scores.backward) as f64;
    let all = 2.0 * (plain.products.forward + plain.scores.forward) as f64;
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
            3.0 * plain.products.forward as f64 - 6.0 * (case.parameters as f64 - unmet) * tokens,
            "configuration: parameters that are looked up or element-wise, and tied ones that are used twice",
            Confidence::Exact,
        ),
        line("frozen_gradients", needed - all, "what is trained: gradients that nobody needs", Confidence::Exact),
        line(
            "adapter_products",
            documents.model() - plain.model(),
            "adapters: their matrices multiplied with each other once a batch, and frozen products made twice for dropout",
            Confidence::Exact,
        ),
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

impl OfModel {
    /// By 6·N·D alone.
    fn new(model_type: String, parameters: u64, tokens: u64) -> Self {
        let six_nd = 6.0 * parameters as f64 * tokens as f64;
        Self { model_type, parameters, tokens, six_nd, by_formula: six_nd, measured: None, why_not: None }
    }
}

fn several(models: &[OfModel]) -> String {
    let each = models.iter().map(|m| {
        let measured = m.measured.map_or_else(
            || "measured not told apart, because windows lie across another model's time".to_owned(),
            |flop| format!("measured {flop:.6e} with its evaluation"),
        );
        let training = m.why_not.as_ref().map_or_else(
            || format!("its training by formula {:.6e}", m.by_formula),
            |why| format!("which is all that the lines have of it, the rest being unexplained ({why})"),
        );
        format!("{} of {} parameters on {} tokens: 6ND {:.6e}, {training}, {measured}", m.model_type, m.parameters, m.tokens, m.six_nd)
    });
    format!("{} models were declared, and each line is the sum of theirs: {}", models.len(), each.collect::<Vec<_>>().join("; "))
}
