//! What a program said through the C interface: of its model, and of its rows ([`super::rows`]).
//!
//! Each time a JSON object with `"format": 1`; fields that are not known here are left alone.
//!
//! `flopsprof_declare_model`, after adapters are in place, and again for another model: each one holds until the next:
//! ```json
//! {"format": 1, "config": {"model_type": "llama", "...": 0}, "parameters": {"total": 8030261248, "trainable": 3407872},
//!  "method": {"kind": "lora", "rank": 8, "targets": ["q_proj", "v_proj"], "also": [], "quantised": false},
//!  "gradient_checkpointing": true, "attention": "sdpa"}
//! ```
//! `kind` is `full`, `lora` or `frozen`. Adapters of stacked experts and other parameters stand in `parameters` (`["model.layers.0.mlp.experts.down_proj"]`; `tried` is true where PEFT's parametrization of them is a product, which PyTorch makes once more), `dora` is true where what is
//! trained is scaled by a magnitude of its own, and `dropout` the share of the adapters' input that is dropped; `not_estimated` names what else they do. Adapters of other ranks than `rank` stand in `ranks`, by module: `{"model.layers.0.self_attn.q_proj": 4}`. `frozen` has `"trained": ["model.layers.3.mlp.down_proj.weight", ...]`. `targets` may be `"all-linear"`.
//!
//! `reentrant` is true where checkpointing is PyTorch's reentrant one, which runs layers again to their end.
//! `input_gradients` tells whether the embeddings' output needs a gradient although no table is trained (`enable_input_require_grads`); without it, it does where layers are checkpointed.
//! `experts_apart` is true where each expert is a module, as in transformers 4: `targets`, `ranks`, `trained` then name all experts of a layer together, without their numbers
//! (`model.layers.0.mlp.experts.down_proj`).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::{
    census::{self, Census},
    rows::{Growing, Phases, add_phases},
};
use crate::{
    estimate::method::{Dora, Method, Targets},
    evidence::{
        read::ProcessEvidence,
        record::{Record, Window},
    },
    ledger::{
        arithmetic::add_up,
        job::{Key, Place},
    },
};

/// The format read here.
pub(super) const FORMAT: u64 = 1;

/// A declared model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Declared {
    /// Format.
    pub format: u64,
    /// `config.json`.
    #[serde(default)]
    pub config: Value,
    /// Parameters as they truly are: unpacked, whole.
    #[serde(default)]
    pub parameters: Parameters,
    /// How it is trained.
    #[serde(default)]
    pub method: Kind,
    /// Layers are checkpointed.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Checkpointed layers are run again to their end (`use_reentrant`).
    #[serde(default)]
    pub reentrant: bool,
    /// The embeddings' output is made to need a gradient, whatever is trained.
    #[serde(default)]
    pub input_gradients: Option<bool>,
    /// Experts are modules of their own (transformers 4), not stacked.
    #[serde(default)]
    pub experts_apart: bool,
    /// transformers' name of the attention: `eager`, `sdpa`, `flash_attention_2`, ...
    #[serde(default)]
    pub attention: String,
}

/// Parameters of a declared model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Parameters {
    /// All, adapters included.
    #[serde(default)]
    pub total: u64,
    /// Trained.
    #[serde(default)]
    pub trainable: u64,
}

/// How a declared model is trained.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Kind {
    /// `full`, `lora` or `frozen`.
    #[serde(default)]
    pub kind: String,
    /// Rank of adapters.
    #[serde(default)]
    pub rank: u64,
    /// Of those that have another one: their modules' names, and their ranks.
    #[serde(default)]
    pub ranks: BTreeMap<String, u64>,
    /// Modules with adapters.
    #[serde(default)]
    pub targets: Value,
    /// Parameters with adapters, where they are no modules.
    #[serde(default)]
    pub parameters: Vec<String>,
    /// PyTorch tries what PEFT makes of these.
    #[serde(default)]
    pub tried: bool,
    /// Weight-decomposed adapters.
    #[serde(default)]
    pub dora: bool,
    /// Share of the adapters' input that is dropped.
    #[serde(default)]
    pub dropout: f64,
    /// What else adapters do, by PEFT's names.
    #[serde(default)]
    pub not_estimated: Vec<String>,
    /// Modules trained whole.
    #[serde(default)]
    pub also: Vec<String>,
    /// Frozen weights are quantised.
    #[serde(default)]
    pub quantised: bool,
    /// Parameters that are trained, where only some are.
    #[serde(default)]
    pub trained: Vec<String>,
}

/// What windows counted in a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    /// FLOP.
    pub flop: f64,
    /// Seconds.
    pub seconds: f64,
    /// Of them, in windows that belong to other phases too.
    pub blurred: f64,
}

/// A model, and what was told and counted while it was the declared one.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The model.
    pub model: Declared,
    /// Its rows.
    pub phases: Phases,
    /// Runs in which it was declared.
    pub runs: BTreeSet<Key>,
    /// What windows counted meanwhile: blurred are those that lie across another model's time.
    pub counted: Counted,
    /// Censuses of its training, each different one once.
    pub(super) censuses: Vec<Census>,
}

/// Everything that was said, of one process or of all.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Models, each different one once.
    pub models: Vec<Trained>,
    /// Rows of processes that declared no model, by run.
    pub undeclared: BTreeMap<Key, Phases>,
    /// What was counted by phase, where phases were marked.
    pub counted: BTreeMap<String, Counted>,
    /// What was counted at all, FLOP.
    pub all: f64,
    /// Seconds in which a kernel ran, by NVML, and seconds that it looked at.
    pub busy: (f64, f64),
    /// What could not be understood, in words.
    pub complaints: Vec<String>,
    /// Of one process: its run.
    run: Key,
}

impl Told {
    /// What one process said.
    #[must_use]
    pub fn of(file: &ProcessEvidence) -> Self {
        let mut told = Self { run: Place::of(&file.start).key(), ..Self::default() };
        let mut marks: Vec<(u64, &str)> = Vec::new();
        // Since when which model: none where what was declared cannot be read.
        let mut models: Vec<(u64, Option<usize>)> = Vec::new();
        let mut rows = Growing::default();
        let mut last_reading = None;
        for line in &file.lines {
            match &line.record {
                Record::Model(said) => {
                    let model = told.model(&said.declared);
                    // What was told and counted before the first one is its, too.
                    let since = said.since_ns.unwrap_or(line.at_ns) * u64::from(!models.is_empty());
                    if let Some((_, before)) = models.last() {
                        told.rows(&mut rows, *before, true);
                    }
                    models.push((since, model));
                }
                Record::Work(said) => {
                    if rows.begin_anew(&said.declared) {
                        told.rows(&mut rows, models.last().and_then(|m| m.1), !models.is_empty());
                        rows.forget();
                    }
                    rows.tell(&said.declared);
                }
                Record::Phase(mark) => marks.push((mark.since_ns, &mark.phase)),
                Record::Reading(r) => told.looked(&mut last_reading, line.at_ns, r.nvml.gpu_utilization_pct),
                Record::Window(w) => {
                    told.looked(&mut last_reading, w.end_ns, w.nvml.as_ref().and_then(|n| n.gpu_utilization_pct));
                }
                _ => {}
            }
        }
        told.rows(&mut rows, models.last().and_then(|m| m.1), !models.is_empty());
        told.models.iter_mut().for_each(|model| model.runs = BTreeSet::from([told.run.clone()]));
        marks.sort_unstable();
        models.sort_unstable();
        for line in &file.lines {
            if let Record::Window(window) = &line.record {
                told.all += add_up(window.counts.values().copied()) as f64;
                shared(window, &marks, |phase, counted| told.counted.entry((*phase).to_owned()).or_default().add(counted));
                let of = &mut told.models;
                shared(window, &models, |model, counted| model.iter().for_each(|m| of[*m].counted.add(counted)));
            }
        }
        census::taken(file, &marks, &models).into_iter().for_each(|(model, census)| told.models[model].add_census(census));
        told
    }

    /// The place of a model that was declared, of each different one once; none if it cannot be read.
    fn model(&mut self, said: &Value) -> Option<usize> {
        let model = match serde_json::from_value::<Declared>(said.clone()) {
            Ok(model) if model.format == FORMAT => model,
            Ok(model) => {
                self.complain(format!("the declared model has format {}, {FORMAT} is read here", model.format));
                return None;
            }
            Err(e) => {
                self.complain(format!("the declared model cannot be read: {e}"));
                return None;
            }
        };
        Some(self.place(model))
    }

    fn place(&mut self, model: Declared) -> usize {
        self.models.iter().position(|m| m.model == model).unwrap_or_else(|| {
            self.models.push(Trained {
                model,
                phases: Phases::new(),
                runs: BTreeSet::new(),
                counted: Counted::default(),
                censuses: Vec::new(),
            });
            self.models.len() - 1
        })
    }

    /// Gives what the rows grew by to the model that was the declared one. `any`: one had been declared, though it may not have been readable.
    fn rows(&mut self, rows: &mut Growing<'_>, of: Option<usize>, any: bool) {
        let grown = match rows.take() {
            None => return,
            Some(Err(why)) => return self.complain(why),
            Some(Ok(grown)) => grown,
        };
        match of {
            Some(model) => add_phases(&mut self.models[model].phases, grown),
            None if any => self.complain("rows that were told after a model that cannot be read are in no line".to_owned()),
            None => add_phases(self.undeclared.entry(self.run.clone()).or_default(), grown),
        }
    }

    /// Once, of thousands of ranks.
    fn complain(&mut self, what: String) {
        if !self.complaints.contains(&what) {
            self.complaints.push(what);
        }
    }

    /// Adds what another process said.
    pub fn add(&mut self, other: Self) {
        for theirs in other.models {
            let place = self.place(theirs.model);
            let ours = &mut self.models[place];
            add_phases(&mut ours.phases, theirs.phases);
            ours.runs.extend(theirs.runs);
            ours.counted.add(theirs.counted);
            theirs.censuses.into_iter().for_each(|census| ours.add_census(census));
        }
        for (run, phases) in other.undeclared {
            add_phases(self.undeclared.entry(run).or_default(), phases);
        }
        for (phase, counted) in other.counted {
            self.counted.entry(phase).or_default().add(counted);
        }
        self.all += other.all;
        self.busy = (self.busy.0 + other.busy.0, self.busy.1 + other.busy.1);
        other.complaints.into_iter().for_each(|c| self.complain(c));
    }

    fn looked(&mut self, last: &mut Option<u64>, at: u64, percent: Option<u32>) {
        let Some(percent) = percent else { return };
        let length = last.map_or(1.0, |l| at.saturating_sub(l) as f64 / 1e9);
        self.busy.0 += length * f64::from(percent) / 100.0;
        self.busy.1 += length;
        *last = Some(at);
    }
}

/// Shares a window out among the marks it lies between. The mark does not wait for the boundary: a twentieth on either side belongs to the same cut.
fn shared<T: PartialEq>(w: &Window, marks: &[(u64, T)], mut give: impl FnMut(&T, Counted)) {
    let flop = add_up(w.counts.values().copied()) as f64;
    let length = w.end_ns.saturating_sub(w.start_ns) as f64;
    if length <= 0.0 {
        return;
    }
    for (n, (since, to)) in marks.iter().enumerate() {
        let until = marks.get(n + 1).map_or(u64::MAX, |m| m.0);
        let within = w.end_ns.min(until).saturating_sub(w.start_ns.max(*since)) as f64;
        let share = within / length;
        if share > 0.95 {
            give(to, Counted { flop, seconds: within / 1e9, blurred: 0.0 });
        } else if share > 0.05 {
            give(to, Counted { flop: flop * share, seconds: within / 1e9, blurred: within / 1e9 });
        }
    }
}

impl Trained {
    /// Rows that are this model's too.
    pub(super) fn add_rows(&mut self, rows: Phases) {
        add_phases(&mut self.phases, rows);
    }

    fn add_census(&mut self, census: Census) {
        /// Of thousands of ranks a few say it all.
        const MOST: usize = 64;
        if self.censuses.len() < MOST && !self.censuses.contains(&census) {
            self.censuses.push(census);
        }
    }
}

impl Counted {
    fn add(&mut self, other: Self) {
        self.flop += other.flop;
        self.seconds += other.seconds;
        self.blurred += other.blurred;
    }

    /// Most of it lies in windows that are of others too, so that sharing them out by time says little.
    #[must_use]
    pub fn is_blurred(&self) -> bool {
        /// The share of the counted time that may.
        const BLURRED: f64 = 0.1;
        self.seconds <= 0.0 || self.blurred > BLURRED * self.seconds
    }
}

impl Kind {
    /// As the estimate takes it.
    ///
    /// # Errors
    /// In words, when it is not known here.
    pub fn method(&self) -> Result<Method, String> {
        Ok(match self.kind.as_str() {
            "full" => Method::Full,
            "lora" => Method::Lora {
                rank: self.rank,
                ranks: self.ranks.clone(),
                targets: match &self.targets {
                    Value::String(all) if all == "all-linear" => Targets::AllLinear,
                    Value::String(one) => Targets::Names(vec![one.clone()]),
                    list => Targets::Names(serde_json::from_value(list.clone()).map_err(|e| format!("method.targets: {e}"))?),
                },
                parameters: self.parameters.clone(),
                tried: self.tried,
                dora: self.dora.then_some(Dora { dropout: self.dropout > 0.0 }),
                also: self.also.clone(),
                quantised: self.quantised,
            },
            "frozen" => Method::Named(self.trained.iter().cloned().collect()),
            other => return Err(format!("method.kind is `{other}`: full, lora or frozen is expected")),
        })
    }
}
