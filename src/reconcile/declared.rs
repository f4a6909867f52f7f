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
    evidence::{read::ProcessEvidence, record::Record},
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

/// A stretch of a phase, on the clock of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Evidence file.
    pub file: usize,
    /// Phase.
    pub phase: String,
    /// From, to (exclusive), ns.
    pub span: (u64, u64),
}

/// Everything that was said, of all processes.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The model.
    pub model: Option<Declared>,
    /// Rows by phase, of all processes.
    pub phases: BTreeMap<String, Rows>,
    /// When was what.
    pub stretches: Vec<Stretch>,
    /// What could not be understood, in words.
    pub complaints: Vec<String>,
}

/// Gathers what the processes of a run said.
#[must_use]
pub fn gather(files: &[ProcessEvidence]) -> Told {
    let mut told = Told::default();
    for (i, file) in files.iter().enumerate() {
        let mut work = None;
        let mut marks: Vec<(u64, &str)> = Vec::new();
        for line in &file.lines {
            match &line.record {
                Record::Model(said) => match serde_json::from_value::<Declared>(said.declared.clone()) {
                    Ok(model) if model.format == FORMAT => told.model = Some(model),
                    Ok(model) => told.complaints.push(format!("the declared model has format {}, {FORMAT} is read here", model.format)),
                    Err(e) => told.complaints.push(format!("the declared model cannot be read: {e}")),
                },
                Record::Work(said) => work = Some(said),
                Record::Phase(mark) => marks.push((mark.since_ns, &mark.phase)),
                _ => {}
            }
        }
        if let Some(said) = work {
            match serde_json::from_value::<Work>(said.declared.clone()) {
                Ok(work) if work.format == FORMAT => {
                    for (phase, rows) in work.phases {
                        told.phases.entry(phase).or_default().add(rows);
                    }
                }
                Ok(work) => told.complaints.push(format!("the declared rows have format {}, {FORMAT} is read here", work.format)),
                Err(e) => told.complaints.push(format!("the declared rows cannot be read: {e}")),
            }
        }
        marks.sort_unstable();
        for (n, (since, phase)) in marks.iter().enumerate() {
            let until = marks.get(n + 1).map_or(u64::MAX, |m| m.0);
            told.stretches.push(Stretch { file: i, phase: (*phase).to_owned(), span: (*since, until) });
        }
    }
    told
}

impl Rows {
    fn add(&mut self, other: Self) {
        self.batches += other.batches;
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
