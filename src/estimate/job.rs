//! A job, estimated: the products of its model over its tokens, beside the formulas of others, and what it takes of a GPU.

use serde::Serialize;

use super::{
    EstimateError,
    config::contradiction,
    cost::{self, Costs, Flop, Kernel, Run},
    gpu::Gpu,
    method::{AdapterKind, Method},
    model::{Component, Model, Side, Work},
    workload::Workload,
};
use crate::rule;

/// No model has more parameters; with more, 6·N·D would not fit its arithmetic.
pub const MOST_PARAMETERS: u64 = 10_000_000_000_000_000;

/// What is to be estimated.
#[derive(Clone, Debug)]
pub struct Job {
    /// The model; none where its architecture is not known.
    pub model: Option<Model>,
    /// Parameters by the caller's word; needed where there is no model.
    pub parameters: Option<u64>,
    /// The tokens.
    pub workload: Workload,
    /// Sequence lengths are known, so that attention can be estimated.
    pub lengths_known: bool,
    /// What is trained.
    pub method: Method,
    /// Gradient checkpointing.
    pub checkpointing: bool,
    /// How attention is executed.
    pub kernel: Kernel,
    /// Batches that the rows come in.
    pub batches: u64,
}

/// Parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// All, adapters and copies that are trained in the place of frozen modules included.
    pub total: u64,
    /// Trained; none where that depends on modules of an architecture that is not known.
    pub trainable: Option<u64>,
    /// Those a token meets.
    pub active: u64,
    /// In tables that are only looked up.
    pub looked_up: u64,
    /// Of adapters.
    pub adapters: u64,
}

/// A component's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Which.
    pub component: Component,
    /// Its FLOP.
    #[serde(flatten)]
    pub flop: Flop,
}

/// An estimate.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// `model_type`, or `unknown`.
    pub model_type: String,
    /// The method's name.
    pub method: String,
    /// Layers are checkpointed.
    pub checkpointing: bool,
    /// How attention is taken.
    pub attention: Kernel,
    /// Parameters.
    pub parameters: Counted,
    /// Tokens without pads.
    pub tokens: u64,
    /// Tokens with pads.
    pub executed_tokens: u64,
    /// `products` (each product counted) or `6ND` (an unknown architecture).
    pub by: &'static str,
    /// By component; empty for an unknown architecture.
    pub components: Vec<Row>,
    /// Forward, FLOP.
    pub forward: String,
    /// Backward, FLOP.
    pub backward: String,
    /// Computed again, FLOP.
    pub recomputed: String,
    /// Forward and backward: the compute that updates parameters, FLOP. The Commission's guidelines let recomputation be left out.
    pub model_flop: String,
    /// With recomputation: what will be executed, FLOP.
    pub executed_flop: String,
    /// The same as a float.
    pub executed_flop_float: f64,
    /// 6·N·D, FLOP.
    pub six_nd: String,
    /// `model_flop` over 6·N·D.
    pub model_to_six_nd: f64,
    /// `(4 N + 2 N_trained) D`, FLOP: the AWS FLOPs Meter's formula, of true counts; none where it is not known what is trained.
    pub four_n_two_t: Option<String>,
    /// On a GPU, where one is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    /// What is assumed or left out.
    pub notes: Vec<String>,
    /// The same as numbers.
    #[serde(skip)]
    pub flop: Flop,
}

/// What it takes of a GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hardware {
    /// The GPU.
    pub gpu: String,
    /// Its peak, FLOP/s.
    pub peak_flop_per_s: f64,
    /// Of which operations that is.
    pub peak_source: String,
    /// Share of the peak at which it executes.
    pub utilisation: f64,
    /// Where the share is from.
    pub utilisation_source: String,
    /// GPU hours.
    pub gpu_hours: f64,
    /// Energy of the GPUs, kWh; none where the power is not known.
    pub energy_kwh: Option<f64>,
    /// Where the power is from.
    pub energy_source: String,
}

/// How fast a GPU works, and what it draws.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// Its name.
    pub gpu: String,
    /// Its peak, FLOP/s.
    pub peak: f64,
    /// Of which operations that is.
    pub peak_source: String,
    /// Share of it.
    pub utilisation: f64,
    /// Where the share is from.
    pub utilisation_source: String,
    /// Watts of one GPU, where they are known.
    pub watts: Option<f64>,
    /// Where they are from.
    pub watts_source: String,
}

impl Speed {
    /// A named GPU at a share of its peak.
    #[must_use]
    pub fn named(gpu: Gpu, name: &str, utilisation: f64, source: &str) -> Self {
        Self {
            gpu: name.to_owned(),
            peak: gpu.peak,
            peak_source: "dense 16-bit".to_owned(),
            utilisation,
            utilisation_source: source.to_owned(),
            watts: Some(gpu.watts),
            watts_source: "board power, drawn throughout: an upper bound".to_owned(),
        }
    }
}

impl Job {
    /// Costs of the workload as it is executed; without lengths, what tokens cost.
    ///
    /// # Errors
    /// As [`cost::cost`].
    pub fn costs(&self) -> Result<Option<Costs>, EstimateError> {
        let run = Run { checkpointing: self.checkpointing, kernel: self.kernel, forward_only: false, batches: self.batches };
        let Some(model) = &self.model else { return Ok(None) };
        if self.lengths_known {
            return cost::cost(model, &self.method, &self.workload, run).map(Some);
        }
        // Without lengths nobody knows how many rows there are, nor which positions see each other.
        let mut model = model.clone();
        model.layers.retain(|layer| layer.side != Side::Row);
        let mut costs = cost::cost(&model, &self.method, &self.workload, run)?;
        costs.remove(&Component::AttentionScores);
        Ok(Some(costs))
    }

    /// Parameters: counted in the model, or by the caller's word.
    ///
    /// # Errors
    /// When neither is there, or there are too many.
    pub fn count(&self) -> Result<Counted, EstimateError> {
        let Some(model) = &self.model else {
            let total = self.parameters.ok_or_else(|| EstimateError::Missing {
                field: "params".to_owned(),
                model_type: "(unknown architecture: 6ND needs the number of parameters)".to_owned(),
            })?;
            check(total)?;
            let trainable = matches!(self.method, Method::Full).then_some(total);
            return Ok(Counted { total, trainable, active: total, looked_up: 0, adapters: 0 });
        };
        let base = model.parameters();
        check(base.total)?;
        let (mut adapters, mut trainable, mut copies, mut unmet) = (0u64, 0u64, 0u64, 0u64);
        for (name, n) in &model.embeddings {
            trainable = trainable.saturating_add(n * u64::from(self.method.trains(None, true, name, "weight")));
            copies += n * u64::from(self.method.copies(name));
        }
        if let Some((name, width)) = model.table()
            && let Some(rank) = self.method.table(name)
        {
            let rows = model.embeddings.iter().find(|(n, _)| n == name).map_or(0, |(_, n)| n / width.max(1));
            adapters = adapters.saturating_add(rank.saturating_mul(rows + width));
        }
        for layer in &model.layers {
            for operation in &layer.operations {
                match &operation.work {
                    Work::Linear(l) => {
                        let trained = |p: &str| self.method.trained(layer, l, p);
                        // A copy of a tied head has a matrix of its own.
                        let copied = self.method.copies(&format!("{}{}", layer.name, l.name));
                        let (matrix, bias) = (l.inputs * l.outputs * u64::from(!l.tied || copied), l.outputs * u64::from(l.bias));
                        trainable += matrix * trained("weight") + bias * trained("bias");
                        copies += l.stored * (matrix + bias) * u64::from(copied);
                        if let Some(adapter) = self.method.adapter(layer, l) {
                            let own = adapter.parameters(l);
                            adapters = adapters.saturating_add(own);
                            // Of experts that are modules a token meets the adapters of those that it meets; others are multiplied out, all of them.
                            let multiplied = matches!(adapter.kind, AdapterKind::Parameter { .. });
                            unmet = unmet.saturating_add(if multiplied { 0 } else { own / l.stored * (l.stored - l.met.min(l.stored)) });
                        }
                    }
                    Work::Elementwise { name, parameters }
                        if self.method.trains(layer.index, false, &format!("{}{name}", layer.name), "weight") =>
                    {
                        trainable += parameters;
                    }
                    _ => {}
                }
            }
        }
        check(base.total.saturating_add(adapters).saturating_add(copies))?;
        Ok(Counted {
            total: base.total + adapters + copies,
            trainable: Some(trainable + adapters),
            active: base.active + adapters + copies - unmet,
            looked_up: base.looked_up,
            adapters,
        })
    }

    /// Estimates.
    ///
    /// # Errors
    /// [`EstimateError`], naming the field.
    pub fn estimate(&self, speed: Option<&Speed>) -> Result<Estimate, EstimateError> {
        if let Some(model) = &self.model {
            self.method.check(model)?;
            self.fits(model)?;
        }
        let parameters = self.count()?;
        let (tokens, executed_tokens) = (self.workload.real_tokens()?, self.workload.executed_tokens()?);
        let six_nd = rule::six_pd(parameters.total, tokens);
        let mut notes = self.model.as_ref().map(|m| m.notes.clone()).unwrap_or_default();
        let costs = self.costs()?;
        let flop = if let Some(costs) = &costs {
            self.remarks(&mut notes, &parameters);
            cost::sum(costs)
        } else {
            notes.push(
                "the architecture is not known here: this is 6ND of its parameters, without attention, frozen weights or recomputation; of a mixture of experts \
                 it is too much, since a token does not meet them all"
                    .to_owned(),
            );
            if parameters.trainable.is_none() {
                notes.push(
                    "what is trained is not known, since the modules are not: with adapters or frozen weights, less is executed backward"
                        .to_owned(),
                );
            }
            let nd = u128::from(parameters.total) * u128::from(tokens);
            Flop { forward: 2 * nd, backward: 4 * nd, recomputed: 0 }
        };
        Ok(Estimate {
            model_type: self.model.as_ref().map_or_else(|| "unknown".to_owned(), |m| m.model_type.clone()),
            method: self.method.name(),
            checkpointing: self.checkpointing,
            attention: self.kernel,
            tokens,
            executed_tokens,
            by: if self.model.is_some() { "products" } else { "6ND" },
            components: costs.into_iter().flatten().map(|(component, flop)| Row { component, flop }).collect(),
            forward: flop.forward.to_string(),
            backward: flop.backward.to_string(),
            recomputed: flop.recomputed.to_string(),
            model_flop: flop.model().to_string(),
            executed_flop: flop.executed().to_string(),
            executed_flop_float: flop.executed() as f64,
            six_nd: six_nd.to_string(),
            model_to_six_nd: if six_nd == 0 { f64::NAN } else { flop.model() as f64 / six_nd as f64 },
            four_n_two_t: parameters
                .trainable
                .map(|trained| (u128::from(tokens) * (4 * u128::from(parameters.total) + 2 * u128::from(trained))).to_string()),
            hardware: speed.map(|s| hardware(s, flop.executed() as f64)),
            parameters,
            notes,
            flop,
        })
    }

    /// No row is longer than the table of positions that a model learned.
    fn fits(&self, model: &Model) -> Result<(), EstimateError> {
        let Some((field, most)) = model.positions.filter(|_| self.lengths_known) else { return Ok(()) };
        match self.workload.executed.iter().map(|s| s.length).max() {
            Some(longest) if longest > most => Err(contradiction(
                ("sequence length", longest),
                (field, most),
                "positions are learned, and there are no more: rows must be cut (--sequence-length)",
            )),
            _ => Ok(()),
        }
    }
}

fn check(total: u64) -> Result<(), EstimateError> {
    if total > MOST_PARAMETERS {
        return Err(EstimateError::TooLarge { field: "params".to_owned(), why: format!("more than {MOST_PARAMETERS} parameters") });
    }
    Ok(())
}

fn hardware(speed: &Speed, flop: f64) -> Hardware {
    let seconds = flop / (speed.peak * speed.utilisation);
    Hardware {
        gpu: speed.gpu.clone(),
        peak_flop_per_s: speed.peak,
        peak_source: speed.peak_source.clone(),
        utilisation: speed.utilisation,
        utilisation_source: speed.utilisation_source.clone(),
        gpu_hours: seconds / 3600.0,
        energy_kwh: speed.watts.map(|w| seconds * w / 3.6e6),
        energy_source: speed.watts_source.clone(),
    }
}
