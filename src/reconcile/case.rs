//! A declared job, costed several ways, so that each line is the difference of two.

use super::{
    census::Census,
    declared::Declared,
    lines::Confidence,
    products,
    rows::{Rows, shapes},
    tiles::{self, Padding},
};
use crate::{
    estimate::{
        EstimateError,
        config::Config,
        cost::{Costs, Flop, Kernel, Run, cost, sum},
        family,
        job::Job,
        method::Method,
        model::{Component, Model},
        workload::{Shape, Workload},
    },
    ledger::arithmetic::add_up,
};

/// A declared job.
pub(super) struct Case {
    job: Job,
    model: Model,
    train: Workload,
    masked: Vec<Shape>,
    batches: u64,
    /// `model_type`.
    pub(super) name: String,
    /// All parameters, as the program counted them.
    pub(super) parameters: u64,
    /// Those of the model as the configuration makes it, adapters included, and those of them that a token meets.
    pub(super) configured: (u64, u64),
    /// Tokens without pads.
    pub(super) tokens: u64,
    /// Trained parameters: as the program counted them, and as its method makes them.
    trained: (u64, u64),
    /// What its adapters do that is not estimated.
    not_estimated: Vec<String>,
}

/// FLOP of attention's scores, and of everything else.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Split {
    pub(super) scores: Flop,
    pub(super) products: Flop,
}

impl Split {
    fn of(costs: &Costs) -> Self {
        let all = sum(costs);
        let scores = costs.get(&Component::AttentionScores).copied().unwrap_or_default();
        Self {
            scores,
            products: Flop {
                forward: all.forward - scores.forward,
                backward: all.backward - scores.backward,
                recomputed: all.recomputed - scores.recomputed,
            },
        }
    }

    /// Forward and backward.
    pub(super) fn model(&self) -> f64 {
        (self.scores.model() + self.products.model()) as f64
    }

    /// Computed again.
    pub(super) fn recomputed(&self) -> f64 {
        (self.scores.recomputed + self.products.recomputed) as f64
    }

    /// All of it.
    pub(super) fn executed(&self) -> f64 {
        self.model() + self.recomputed()
    }
}

impl Case {
    pub(super) fn new(model: &Declared, train: &Rows) -> Result<Self, String> {
        let config = Config::new(&model.config).map_err(|e| e.to_string())?;
        let (input_gradients, reentrant) = (model.input_gradients, model.reentrant);
        let built = Model { input_gradients, reentrant, ..built(config.with_experts_apart(model.experts_apart))? };
        let fused = model.attention != "eager";
        let workload = said(train)?;
        let job = Job {
            model: Some(built.clone()),
            parameters: None,
            workload: workload.clone(),
            lengths_known: true,
            method: model.method.method()?,
            checkpointing: model.gradient_checkpointing,
            kernel: Kernel { skips_masked: fused, fused, block: 1 },
            batches: train.batches,
        };
        let counted = job.count().map_err(|e| e.to_string())?;
        Ok(Self {
            tokens: workload.real_tokens().map_err(|e| e.to_string())?,
            parameters: if model.parameters.total > 0 { model.parameters.total } else { counted.total },
            configured: (counted.total, counted.active),
            name: built.model_type.clone(),
            model: built,
            train: workload,
            masked: said(&Rows { executed: train.masked.clone(), ..Rows::default() })?.executed,
            batches: train.batches.max(1),
            trained: (model.parameters.trainable, counted.trainable.unwrap_or(0)),
            not_estimated: model.method.not_estimated.clone(),
            job,
        })
    }

    fn cost(&self, model: &Model, job: &Job, workload: &Workload, kernel: Kernel, forward_only: bool) -> Result<Split, String> {
        let run = Run { checkpointing: self.job.checkpointing, kernel, forward_only, batches: job.batches };
        Ok(Split::of(&cost(model, &job.method, workload, run).map_err(|e: EstimateError| e.to_string())?))
    }

    /// A kernel that computes what the mask allows, and no more.
    fn skipping(&self) -> Kernel {
        Kernel { skips_masked: true, ..self.job.kernel }
    }

    /// Documents alone: what training on these tokens takes.
    pub(super) fn documents(&self) -> Result<Split, String> {
        self.of_documents(&self.job)
    }

    /// The same with adapters through which tokens go, and no more.
    pub(super) fn plain_documents(&self) -> Result<Split, String> {
        let mut job = Job { batches: 0, ..self.job.clone() };
        if let Method::Lora { dora, .. } = &mut job.method {
            *dora = None;
        }
        self.of_documents(&job)
    }

    fn of_documents(&self, job: &Job) -> Result<Split, String> {
        let workload = Workload { executed: self.train.documents.clone(), documents: Vec::new(), attention_by_document: false };
        self.cost(&self.model, job, &workload, self.skipping(), false)
    }

    /// Rows with their pads.
    pub(super) fn rows(&self) -> Result<Split, String> {
        self.cost(&self.model, &self.job, &self.train, self.skipping(), false)
    }

    /// What masked positions cost that are computed all the same.
    pub(super) fn masked(&self) -> Result<f64, String> {
        let rows = self.dense();
        if rows.is_empty() {
            return Ok(0.0);
        }
        // Rows of packed documents are masked all or none.
        let allowed = self.scores(rows, self.train.attention_by_document, self.skipping())?;
        Ok(self.scores(rows, false, self.computing())? - allowed)
    }

    /// Rows whose attention is computed whole: those with an explicit mask, or all where the kernel skips nothing.
    fn dense(&self) -> &[Shape] {
        if self.job.kernel.skips_masked { &self.masked } else { &self.train.executed }
    }

    /// A kernel that computes what is masked, too.
    fn computing(&self) -> Kernel {
        Kernel { skips_masked: false, ..self.job.kernel }
    }

    /// What the scores of these rows take.
    fn scores(&self, rows: &[Shape], by_document: bool, kernel: Kernel) -> Result<f64, String> {
        let workload = Workload { executed: rows.to_vec(), documents: self.train.documents.clone(), attention_by_document: by_document };
        self.cost(&self.model, &self.job, &workload, kernel, false).map(|c| c.scores.executed() as f64)
    }

    /// What is computed because products are cut into tiles: as censuses counted it, or else by rule.
    pub(super) fn tiles(&self, censuses: &[Census]) -> Result<Padding, String> {
        let uncounted = match self.counted(censuses)? {
            Ok(padding) => return Ok(padding),
            Err(why) => why,
        };
        let exact = self.rows()?;
        let (model, method) = tiles::padded(&self.model, &self.job.method);
        let job = Job { method, ..self.job.clone() };
        let rounded = self.cost(&model, &job, &self.train, self.skipping(), false)?;
        let experts = match self.train.executed.first() {
            Some(row) => {
                let products = products::of(&model, &job, Shape { rows: 1, ..*row }).map_err(|e: EstimateError| e.to_string())?;
                tiles::experts(&products, self.batches)
            }
            None => 0.0,
        };
        let flop = (rounded.products.executed() - exact.products.executed()) as f64 + experts;
        Ok(Padding {
            flop,
            source: format!("sides of matrices rounded up to {}: {uncounted}", tiles::SIDE),
            confidence: Confidence::Assumed,
        })
    }

    /// Tile padding by the censuses whose launches are the products of this model; else why none is.
    fn counted(&self, censuses: &[Census]) -> Result<Result<Padding, String>, String> {
        /// Of more lengths than this nobody finds the batch that a census saw, where the program does not tell.
        const MOST_LENGTHS: usize = 64;
        if censuses.is_empty() {
            return Ok(Err("no census of training was taken".to_owned()));
        }
        let of = |batch: Shape| products::of(&self.model, &self.job, batch).map_err(|e: EstimateError| e.to_string());
        if self.train.executed.len() > MOST_LENGTHS {
            return Ok(tiles::Lengths::of_many(self.rows()?.products.executed() as f64).padding(censuses, of));
        }
        let rows = add_up(self.train.executed.iter().map(|s| s.rows));
        let batch = rows.div_ceil(self.batches);
        let mut lengths = tiles::Lengths::default();
        for shape in &self.train.executed {
            let one = Shape { rows: batch, ..*shape };
            lengths.add(one, of(one)?, shape.rows as f64 / batch.max(1) as f64);
        }
        Ok(lengths.padding(censuses, of))
    }

    /// The same of attention, by rule: in blocks, of those that the mask allows, or of all.
    pub(super) fn attention_tiles(&self) -> Result<f64, String> {
        if !self.job.kernel.fused {
            return Ok(0.0);
        }
        let (rows, by_document, kernel) = if self.masked.is_empty() {
            (&self.train.executed[..], self.train.attention_by_document, self.skipping())
        } else {
            // Batches with an explicit mask and batches without: these are left out.
            (self.dense(), false, self.computing())
        };
        let blocks = Kernel { block: tiles::ATTENTION, ..kernel };
        Ok(self.scores(rows, by_document, blocks)? - self.scores(rows, by_document, kernel)?)
    }

    /// Rows of another phase, which may be another model's: a frozen one then.
    pub(super) fn phase(&self, rows: &Rows) -> Result<f64, String> {
        let mut job = Job { batches: rows.batches, ..self.job.clone() };
        let model = if rows.config.is_null() {
            self.model.clone()
        } else {
            job.method = Method::Full;
            built(Config::new(&rows.config).map_err(|e| e.to_string())?)?
        };
        self.cost(&model, &job, &said(rows)?, self.job.kernel, !rows.backward).map(|c| c.executed())
    }

    /// Where what the program said of itself is not what is estimated.
    pub(super) fn differs(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let (said, made) = (self.parameters, self.configured.0);
        if said.abs_diff(made) > made / 50 {
            remarks.push(format!(
                "the program counts {said} parameters and its configuration makes {made}: a part of the model is not in the configuration, or is packed"
            ));
        }
        let (said, made) = self.trained;
        if said > 0 && said.abs_diff(made) > said / 50 {
            remarks.push(format!(
                "the program trains {said} parameters and what it says of its method makes {made}: adapters or weights that are not known here are in no line"
            ));
        }
        if !self.not_estimated.is_empty() {
            remarks.push(format!("not estimated, so that it is in no line: {} of its adapters", self.not_estimated.join(", ")));
        }
        remarks
    }

    /// Layers are computed again.
    pub(super) fn checkpointing(&self) -> bool {
        self.job.checkpointing
    }
}

fn built(config: Config<'_>) -> Result<Model, String> {
    let model = family::model(config).map_err(|e| e.to_string())?;
    model.ok_or_else(|| format!("the architecture `{}` is not known here: only 6ND stands beside the measurement", config.model_type()))
}

/// Rows as the estimate takes them.
fn said(rows: &Rows) -> Result<Workload, String> {
    Workload::said(shapes(&rows.executed), shapes(&rows.documents), rows.by_document).map_err(|e| e.to_string())
}
