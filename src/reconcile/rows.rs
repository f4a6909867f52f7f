//! The rows that a program said went through its model, and how they grew.
//!
//! `flopsprof_declare_work`, as often as one likes, each time for the whole run of this process, takes a JSON object too:
//! ```json
//! {"format": 1, "phases": {"train": {"batches": 40, "steps": 10, "executed": [[80, 2048, 0]], "documents": [[80, 1500, 0]],
//!  "masked": [], "by_document": false, "backward": true}, "evaluate": {"...": 0}}}
//! ```
//! Each row is `[how many, length, the decoder's length]`. `executed` has pads in it, `documents` has not. `masked` are rows of `executed` that went
//! through attention with an explicit mask, which a kernel does not skip by. Rows of another model than the declared one, as of a frozen reference, have its `config`. Of ranks that share their tokens (tensor, pipeline parallelism) one says them.
//! What they grew by since a model was declared are that model's rows, so they are told once more before the next one is. Rows that begin anew do not replace
//! those before them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::declared::FORMAT;
use crate::estimate::workload::Shape;

/// Rows by phase.
pub type Phases = BTreeMap<String, Rows>;

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
    /// `config.json` of the model that they went through, where it is another one than the declared.
    #[serde(default)]
    pub config: Value,
}

#[derive(Deserialize)]
struct Work {
    format: u64,
    #[serde(default)]
    phases: BTreeMap<String, Rows>,
}

/// Rows as they are told again and again.
#[derive(Default)]
pub(super) struct Growing<'a> {
    /// The newest that nobody has taken.
    last: Option<&'a Value>,
    /// Those that are some model's already.
    before: Phases,
    /// Rows and batches of the newest.
    size: u64,
}

impl<'a> Growing<'a> {
    /// They are so many now.
    pub(super) fn tell(&mut self, said: &'a Value) {
        self.last = Some(said);
    }

    /// Those that are told next are others.
    pub(super) fn forget(&mut self) {
        self.before.clear();
    }

    /// What came since they were taken last, or why it cannot be read; none where nothing was told since.
    pub(super) fn take(&mut self) -> Option<Result<Phases, String>> {
        let phases = match serde_json::from_value::<Work>(self.last.take()?.clone()) {
            Ok(work) if work.format == FORMAT => work.phases,
            Ok(work) => return Some(Err(format!("the declared rows have format {}, {FORMAT} is read here", work.format))),
            Err(e) => return Some(Err(format!("the declared rows cannot be read: {e}"))),
        };
        let before = std::mem::replace(&mut self.before, phases);
        let grown = self.before.iter().map(|(name, now)| {
            let came = before.get(name).and_then(|before| now.less(before));
            (name.clone(), came.unwrap_or_else(|| now.clone()))
        });
        Some(Ok(grown.collect()))
    }

    /// Whether these are fewer than before: the program forgot them and began anew.
    pub(super) fn begin_anew(&mut self, said: &Value) -> bool {
        let phases = said["phases"].as_object();
        let executed =
            |rows: &Value| rows["executed"].as_array().into_iter().flatten().filter_map(|row| row[0].as_u64()).fold(0, u64::saturating_add);
        let size = phases.into_iter().flatten().map(|(_, rows)| executed(rows).saturating_add(rows["batches"].as_u64().unwrap_or(0)));
        let size = size.fold(0, u64::saturating_add);
        std::mem::replace(&mut self.size, size) > size
    }
}

pub(super) fn add_phases(to: &mut Phases, more: Phases) {
    for (phase, rows) in more {
        to.entry(phase).or_default().add(rows);
    }
}

impl Rows {
    /// What came since; none where there was more before, so that these are not the same rows grown.
    fn less(&self, before: &Self) -> Option<Self> {
        let less = |now: &[[u64; 3]], before: &[[u64; 3]]| {
            let mut rows: BTreeMap<[u64; 2], u64> = BTreeMap::new();
            for [n, a, b] in now {
                let sum = rows.entry([*a, *b]).or_default();
                *sum = sum.saturating_add(*n);
            }
            for [n, a, b] in before {
                let sum = rows.entry([*a, *b]).or_default();
                *sum = sum.checked_sub(*n)?;
            }
            Some(rows.into_iter().filter(|(_, n)| *n > 0).map(|([a, b], n)| [n, a, b]).collect())
        };
        Some(Self {
            batches: self.batches.checked_sub(before.batches)?,
            executed: less(&self.executed, &before.executed)?,
            documents: less(&self.documents, &before.documents)?,
            masked: less(&self.masked, &before.masked)?,
            ..self.clone()
        })
    }

    fn add(&mut self, other: Self) {
        self.batches = self.batches.saturating_add(other.batches);
        self.executed.extend(other.executed);
        self.documents.extend(other.documents);
        self.masked.extend(other.masked);
        self.by_document |= other.by_document;
        self.backward |= other.backward;
        if self.config.is_null() {
            self.config = other.config;
        }
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
