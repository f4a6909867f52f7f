//! What an estimate assumes or leaves out, in words.

use std::collections::BTreeSet;

use super::{
    family,
    job::{Counted, Job},
    method::{AdapterKind, Method},
    model::{Model, Side, Work},
};

impl Job {
    /// What depends on the kernel of attention, and is not in a configuration.
    fn masked(&self, model: &Model) -> Option<String> {
        let name = &model.model_type;
        if family::eager(name) {
            return Some(if self.kernel.skips_masked {
                format!(
                    "only the positions that masks allow are counted: transformers by itself computes all of them for {name} (--attention full)"
                )
            } else {
                format!(
                    "all positions of attention are counted, as transformers by itself computes them for {name} (--attention flash counts those that masks allow)"
                )
            });
        }
        if !self.kernel.skips_masked {
            return None;
        }
        let longest = self.workload.executed.iter().map(|s| s.length).max().unwrap_or(0);
        let causal = || {
            model.layers.iter().flat_map(|l| &l.operations).filter_map(|o| match &o.work {
                Work::Attention(a) if a.causal => Some(a),
                _ => None,
            })
        };
        let pads = self.workload.executed_tokens().ok() > self.workload.real_tokens().ok();
        let (what, options) = if causal().any(|a| a.window.is_some_and(|w| w < longest)) {
            ("windows", "--attention full")
        } else if self.workload.attention_by_document {
            ("documents beside each other", "--padding packed-across --attention full")
        } else if pads && causal().next().is_some() {
            ("pads", "--attention full")
        } else {
            return None;
        };
        Some(format!(
            "only the positions that masks allow are counted, as FlashAttention has it: scaled_dot_product_attention computes rows with {what} whole ({options})"
        ))
    }

    /// Adds what the estimate assumes, or leaves out, and nobody asked it to.
    pub(super) fn remarks(&self, notes: &mut Vec<String>, counted: &Counted) {
        if let Some(model) = &self.model {
            if self.lengths_known {
                notes.extend(self.masked(model));
            } else {
                let rows = model.layers.iter().any(|l| l.side == Side::Row);
                let heads = if rows { ", and what is computed once a row (pooler, classifier)," } else { "" };
                notes.push(format!("attention scores{heads} are left out: no sequence length is given"));
            }
        }
        if let (Some(model), Method::Unfrozen(patterns)) = (&self.model, &self.method)
            && let Some((layer, head)) = model.linears().find(|(_, l)| l.tied)
            && let Some(pattern) = patterns.iter().find(|p| p.is_match(&head.parameter(layer)))
            && model.embeddings.first().is_some_and(|(table, _)| !self.method.trains(None, true, table, "weight"))
        {
            notes.push(format!(
                "`{pattern}` names {}, which is tied: its matrix is the table's and no parameter of its own, and stays frozen",
                head.parameter(layer)
            ));
        }
        let kinds = self.model.iter().flat_map(Model::linears).filter_map(|(y, l)| self.method.adapter(y, l).map(|a| a.kind));
        let once: BTreeSet<_> = kinds
            .filter_map(|kind| match kind {
                AdapterKind::Module => None,
                AdapterKind::Decomposed(_) => Some("DoRA multiplies both matrices of an adapter with each other"),
                AdapterKind::Parameter { .. } => {
                    Some("adapters of parameters (PEFT's target_parameters) are multiplied out, and the whole gradient of what they adapt is computed")
                }
            })
            .collect();
        for what in once {
            notes.push(if self.lengths_known {
                format!("{what}, once a batch: {} batches are taken, and products as PEFT 0.21 executes them", self.batches)
            } else {
                format!("{what}, once a batch, which is left out: no sequence length is given, so the number of batches is not known")
            });
        }
        if let Some(given) = self.parameters
            && given.abs_diff(counted.total) > counted.total / 50
        {
            notes.push(format!(
                "the configuration makes {} parameters where {given} are given: the products of the configuration are counted",
                counted.total
            ));
        }
    }
}
