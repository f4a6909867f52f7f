//! What a program said of its model and its rows, through the C interface.
//!
//! Two JSON objects, each with `"format": 1`; fields that are not known here are left alone.
//!
//! `flopsprof_declare_model`, once, after adapters are in place:
//! ```json
//! {"format": 1, "config": {"model_type": "llama", "...": 0}, "parameters": {"total": 8030261248, "trainable": 3407872},
//!  "method": {"kind": "lora", "rank": 8, "targets": ["q_proj", "v_proj"], "also": [], "quantised": false},
//!  "gradient_checkpointing": true, "attention": "sdpa"}
//! ```
//! `kind` is `full`, `lora` or `frozen`; the last has `"trained": ["model.layers.3.mlp.down_proj.weight", ...]`. `targets` may be `"all-linear"`.
//!
//! `flopsprof_declare_work`, as often as one likes, each time for the whole run of this process:
//! ```json
//! {"format": 1, "phases": {"train": {"batches": 40, "steps": 10, "executed": [[80, 2048, 0]], "documents": [[80, 1500, 0]],
//!  "masked": [], "by_document": false, "backward": true}, "evaluate": {"...": 0}}}
//! ```
//! Each row is `[how many, length, the decoder's length]`. `executed` has pads in it, `documents` has not. `masked` are rows of `executed` that went
//! through attention with an explicit mask, which a kernel does not skip by. Of ranks that share their tokens (tensor, pipeline parallelism) one says them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    estimate::{
        method::{Method, Targets},
        workload::Shape,
    },
    evidence::{
        read::ProcessEvidence,
        record::{Record, Window},
    },
    ledger::arithmetic::add_up,
};

/// The format read here.
const FORMAT: u64 = 1;

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
    /// Modules with adapters.
    #[serde(default)]
    pub targets: Value,
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

/// Rows of a phase.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Rows {
    /// Batches (micro-batches) they came in.
    #[serde(default)]
    pub batches: u64,
    /// Rows as executed.
    #[serde(default)]
    pub executed: Vec<[u64; 3]>,
    /// Documents.
    #[serde(default)]
    pub documents: Vec<[u64; 3]>,
    /// Rows whose attention had an explicit mask.
    #[serde(default)]
    pub masked: Vec<[u64; 3]>,
    /// Attention stays within documents, by their bounds.
    #[serde(default)]
    pub by_document: bool,
    /// There was a backward pass.
    #[serde(default)]
    pub backward: bool,
}

#[derive(Deserialize)]
struct Work {
    format: u64,
    #[serde(default)]
    phases: BTreeMap<String, Rows>,
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

/// Everything that was said, of one process or of all.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The model.
    pub model: Option<Declared>,
    /// Rows by phase.
    pub phases: BTreeMap<String, Rows>,
    /// What was counted by phase, where phases were marked.
    pub counted: BTreeMap<String, Counted>,
    /// What was counted at all, FLOP.
    pub all: f64,
    /// Seconds in which a kernel ran, by NVML, and seconds that it looked at.
    pub busy: (f64, f64),
    /// What could not be understood, in words.
    pub complaints: Vec<String>,
}

impl Told {
    /// What one process said.
    #[must_use]
    pub fn of(file: &ProcessEvidence) -> Self {
        let mut told = Self::default();
        let mut work = None;
        let mut marks: Vec<(u64, &str)> = Vec::new();
        let mut last_reading = None;
        for line in &file.lines {
            match &line.record {
                Record::Model(said) => match serde_json::from_value::<Declared>(said.declared.clone()) {
                    Ok(model) if model.format == FORMAT => {
                        if told.model.as_ref().is_some_and(|m| *m != model) {
                            told.complaints
                                .push("a process declared several models: the lines take all its rows for the last one's".to_owned());
                        }
                        told.model = Some(model);
                    }
                    Ok(model) => told.complaints.push(format!("the declared model has format {}, {FORMAT} is read here", model.format)),
                    Err(e) => told.complaints.push(format!("the declared model cannot be read: {e}")),
                },
                Record::Work(said) => work = Some(said),
                Record::Phase(mark) => marks.push((mark.since_ns, &mark.phase)),
                Record::Reading(r) => told.looked(&mut last_reading, line.at_ns, r.nvml.gpu_utilization_pct),
                Record::Window(w) => {
                    told.looked(&mut last_reading, w.end_ns, w.nvml.as_ref().and_then(|n| n.gpu_utilization_pct));
                }
                _ => {}
            }
        }
        if let Some(said) = work {
            match serde_json::from_value::<Work>(said.declared.clone()) {
                Ok(work) if work.format == FORMAT => told.phases = work.phases,
                Ok(work) => told.complaints.push(format!("the declared rows have format {}, {FORMAT} is read here", work.format)),
                Err(e) => told.complaints.push(format!("the declared rows cannot be read: {e}")),
            }
        }
        marks.sort_unstable();
        for line in &file.lines {
            if let Record::Window(window) = &line.record {
                told.window(window, &marks);
            }
        }
        told
    }

    /// Adds what another process said.
    pub fn add(&mut self, other: Self) {
        if let (Some(model), Some(other)) = (&self.model, &other.model)
            && model != other
        {
            let said = "processes declared different models: the lines take all rows for the first one's".to_owned();
            // Once, of thousands of ranks.
            if !self.complaints.contains(&said) {
                self.complaints.push(said);
            }
        }
        self.model = self.model.take().or(other.model);
        for (phase, rows) in other.phases {
            self.phases.entry(phase).or_default().add(rows);
        }
        for (phase, c) in other.counted {
            let sum = self.counted.entry(phase).or_default();
            *sum = Counted { flop: sum.flop + c.flop, seconds: sum.seconds + c.seconds, blurred: sum.blurred + c.blurred };
        }
        self.all += other.all;
        self.busy = (self.busy.0 + other.busy.0, self.busy.1 + other.busy.1);
        self.complaints.extend(other.complaints);
    }

    fn looked(&mut self, last: &mut Option<u64>, at: u64, percent: Option<u32>) {
        let Some(percent) = percent else { return };
        let length = last.map_or(1.0, |l| at.saturating_sub(l) as f64 / 1e9);
        self.busy.0 += length * f64::from(percent) / 100.0;
        self.busy.1 += length;
        *last = Some(at);
    }

    /// Shares a window out among the phases it lies in. The mark does not wait for the boundary: a twentieth on either side belongs to the same cut.
    fn window(&mut self, w: &Window, marks: &[(u64, &str)]) {
        let flop = add_up(w.counts.values().copied()) as f64;
        self.all += flop;
        let length = w.end_ns.saturating_sub(w.start_ns) as f64;
        if length <= 0.0 {
            return;
        }
        for (n, (since, phase)) in marks.iter().enumerate() {
            let until = marks.get(n + 1).map_or(u64::MAX, |m| m.0);
            let within = w.end_ns.min(until).saturating_sub(w.start_ns.max(*since)) as f64;
            let share = within / length;
            if share <= 0.05 {
                continue;
            }
            let counted = self.counted.entry((*phase).to_owned()).or_default();
            counted.seconds += within / 1e9;
            if share > 0.95 {
                counted.flop += flop;
            } else {
                counted.flop += flop * share;
                counted.blurred += within / 1e9;
            }
        }
    }
}

impl Rows {
    fn add(&mut self, other: Self) {
        self.batches = self.batches.saturating_add(other.batches);
        self.executed.extend(other.executed);
        self.documents.extend(other.documents);
        self.masked.extend(other.masked);
        self.by_document |= other.by_document;
        self.backward |= other.backward;
    }
}

/// Rows as the estimate takes them.
#[must_use]
pub fn shapes(rows: &[[u64; 3]]) -> Vec<Shape> {
    let mut sum: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for [n, length, decoder_length] in rows {
        let all = sum.entry((*length, *decoder_length)).or_default();
        *all = all.saturating_add(*n);
    }
    sum.into_iter()
        .filter(|((length, _), n)| *length > 0 && *n > 0)
        .map(|((length, decoder_length), rows)| Shape { rows, length, decoder_length })
        .collect()
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
                targets: match &self.targets {
                    Value::String(all) if all == "all-linear" => Targets::AllLinear,
                    Value::String(one) => Targets::Names(vec![one.clone()]),
                    list => Targets::Names(serde_json::from_value(list.clone()).map_err(|e| format!("method.targets: {e}"))?),
                },
                also: self.also.clone(),
                quantised: self.quantised,
            },
            "frozen" => Method::Named(self.trained.iter().cloned().collect()),
            other => return Err(format!("method.kind is `{other}`: full, lora or frozen is expected")),
        })
    }
}
