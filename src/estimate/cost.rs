//! Products counted: forward, backward, and again.
//!
//! The backward pass of `y = W x` is two products of the forward's size: the gradient of `x`, where something before it needs one, and that of `W`,
//! where it is trained. Of attention it is four, two for each of its products, or five in a fused kernel, which computes the scores again instead of
//! keeping them.
//!
//! Gradient checkpointing runs a layer's forward again, up to the last tensor that the backward pass wants (PyTorch's `early_stop`): where a layer ends
//! in a product and a sum, that product is not run again. Its reentrant form runs all of the layer again. It also makes the embeddings' output need a gradient (transformers 5 does so for every text
//! model, 4 where PEFT or TRL ask for it: a live model says which), so that gradients flow down to the first layer even where all of it is frozen.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    EstimateError,
    method::{Adapter, AdapterKind, Method},
    model::{Attention, Component, ENCODER, Layer, Linear, Model, Side, Work},
    workload::{Shape, Workload},
};

/// FLOP of one component, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flop {
    /// Forward.
    #[serde(serialize_with = "decimal")]
    pub forward: u128,
    /// Backward, without what is computed again.
    #[serde(serialize_with = "decimal")]
    pub backward: u128,
    /// Computed again: checkpointed layers, and scores in fused attention.
    #[serde(serialize_with = "decimal")]
    pub recomputed: u128,
}

impl Flop {
    /// Forward and backward: what the model needs, whoever computes it.
    #[must_use]
    pub fn model(&self) -> u128 {
        self.forward + self.backward
    }

    /// All that is executed.
    #[must_use]
    pub fn executed(&self) -> u128 {
        self.model() + self.recomputed
    }
}

fn decimal<S: serde::Serializer>(n: &u128, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&n.to_string())
}

/// FLOP by component.
pub type Costs = BTreeMap<Component, Flop>;

/// The sum of all components.
#[must_use]
pub fn sum(costs: &Costs) -> Flop {
    costs.values().fold(Flop::default(), |a, b| Flop {
        forward: a.forward + b.forward,
        backward: a.backward + b.backward,
        recomputed: a.recomputed + b.recomputed,
    })
}

/// How attention is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// Positions that the mask forbids are left out. Else all are computed and thrown away.
    pub skips_masked: bool,
    /// One kernel that keeps no scores, and computes them again backward (FlashAttention).
    pub fused: bool,
    /// Positions are computed in blocks of so many; 1 counts those of the mask alone.
    #[serde(skip)]
    pub block: u64,
}

impl Kernel {
    /// FlashAttention and what scaled_dot_product_attention takes on GPUs.
    pub const FLASH: Self = Self { skips_masked: true, fused: true, block: 1 };
    /// Matrix products and a softmax.
    pub const EAGER: Self = Self { skips_masked: false, fused: false, block: 1 };
}

/// How the job is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Layers are checkpointed.
    pub checkpointing: bool,
    /// Attention.
    pub kernel: Kernel,
    /// Forward only: evaluation.
    pub forward_only: bool,
    /// Batches that the rows come in: some adapters multiply their matrices once in each.
    pub batches: u64,
}

/// Counts a workload.
///
/// # Errors
/// When the numbers are beyond the arithmetic, or a model with an encoder gets no decoder lengths.
pub fn cost(model: &Model, method: &Method, workload: &Workload, run: Run) -> Result<Costs, EstimateError> {
    let split = workload.attention_by_document && !model.encoder_decoder;
    let mut costs = Costs::new();
    let of = |part| if split { part } else { Part::Row };
    for shape in &workload.executed {
        add(&mut costs, &pass(model, method, shape, run, of(Part::Products))?, shape.rows)?;
    }
    if split {
        for shape in &workload.documents {
            add(&mut costs, &pass(model, method, shape, run, Part::Scores)?, shape.rows)?;
        }
    }
    if let (Some(shape), Method::Lora { .. }) = (workload.executed.first(), method) {
        add(&mut costs, &pass(model, method, shape, run, Part::Batch)?, run.batches)?;
    }
    costs.retain(|_, f| f.executed() > 0);
    Ok(costs)
}

fn add(into: &mut Costs, row: &Costs, rows: u64) -> Result<(), EstimateError> {
    let too_large = || EstimateError::TooLarge { field: "tokens".to_owned(), why: "the operations do not fit 128 bits".to_owned() };
    for (component, flop) in row {
        let sum = into.entry(*component).or_default();
        for (sum, one) in [(&mut sum.forward, flop.forward), (&mut sum.backward, flop.backward), (&mut sum.recomputed, flop.recomputed)] {
            let all = one.checked_mul(u128::from(rows)).and_then(|n| sum.checked_add(n)).filter(|n| *n < 1 << 120);
            *sum = all.ok_or_else(too_large)?;
        }
    }
    Ok(())
}

/// What is counted of a pass.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// All that a row takes.
    Row,
    /// Its products with weights.
    Products,
    /// Its attention.
    Scores,
    /// What a batch takes whatever is in it: products of weights with weights.
    Batch,
}

/// One row of one shape, or one batch.
fn pass(model: &Model, method: &Method, shape: &Shape, run: Run, part: Part) -> Result<Costs, EstimateError> {
    if model.encoder_decoder && shape.decoder_length == 0 {
        return Err(EstimateError::Missing { field: "decoder length".to_owned(), model_type: model.model_type.clone() });
    }
    let mut pass = Pass { model, method, shape, run, part, costs: Costs::new() };
    pass.run();
    Ok(pass.costs)
}

struct Pass<'a> {
    model: &'a Model,
    method: &'a Method,
    shape: &'a Shape,
    run: Run,
    part: Part,
    costs: Costs,
}

/// What one operation costs forward, and whether its forward is run again.
#[derive(Clone, Copy, Default)]
struct Forward {
    component: Option<Component>,
    flop: u128,
    /// The part that `early_stop` leaves out, where this is a layer's last operation.
    unwanted: u128,
    /// Of an adapter, and what `early_stop` leaves out of it.
    adapter: u128,
    unwanted_adapter: u128,
}

impl Pass<'_> {
    fn run(&mut self) {
        let embeds = self.table() || self.model.embeddings.iter().any(|(name, _)| self.method.trains(None, true, name, "weight"));
        let wanted = self.model.input_gradients.unwrap_or(self.run.checkpointing);
        let first = self.model.text && (embeds || wanted && !self.run.forward_only);
        let (mut hidden, mut encoder, mut side) = (first, false, Side::Encoder);
        for (i, layer) in self.model.layers.iter().enumerate() {
            if self.model.encoder_decoder && side == Side::Encoder && layer.side == Side::Main {
                (encoder, hidden) = (hidden, first);
            }
            side = layer.side;
            hidden = self.layer(layer, hidden, encoder);
            // The tables of an image model are added behind its first layer.
            hidden |= i == 0 && !self.model.text && embeds;
        }
    }

    /// Counts the adapter of a table, of which one matrix is looked up and the other multiplied; says whether there is one.
    fn table(&mut self) -> bool {
        let Some((rank, width)) = self.model.table().and_then(|(name, width)| Some((self.method.table(name)?, width))) else {
            return false;
        };
        if matches!(self.part, Part::Row | Part::Products) {
            let flop = 2 * self.tokens(Side::Main) * u128::from(rank) * u128::from(width);
            let cost = self.costs.entry(Component::Adapters).or_default();
            cost.forward += flop;
            cost.backward += 2 * flop * u128::from(!self.run.forward_only);
        }
        true
    }

    /// Counts a layer; says whether its output needs a gradient.
    fn layer(&mut self, layer: &Layer, input: bool, encoder: bool) -> bool {
        let mut needs: Vec<bool> = Vec::with_capacity(layer.operations.len());
        let mut forwards: Vec<Forward> = Vec::with_capacity(layer.operations.len());
        for operation in &layer.operations {
            let from: Vec<bool> = operation
                .from
                .iter()
                .map(|&n| match n {
                    0 => input,
                    ENCODER => encoder,
                    n => needs[n - 1],
                })
                .collect();
            let any = from.iter().any(|b| *b);
            let (forward, need) = match &operation.work {
                Work::Linear(linear) => self.linear(layer, linear, any),
                Work::Attention(attention) => (self.attention(attention, &from), any),
                Work::Elementwise { name, parameters } => {
                    let name = format!("{}{name}", layer.name);
                    (Forward::default(), any || *parameters > 0 && self.method.trains(layer.index, false, &name, "weight"))
                }
                Work::Sum => (Forward::default(), any),
                Work::Zeros => (Forward::default(), self.run.checkpointing && !self.run.forward_only),
            };
            needs.push(need);
            forwards.push(forward);
        }
        let output = needs.last().copied().unwrap_or(input);
        if self.run.checkpointing && !self.run.forward_only && layer.checkpointed && output {
            self.again(layer, &forwards, &needs);
        }
        output
    }

    /// Adds a layer's forward once more, to the last operation that keeps something: what has no gradient keeps nothing.
    fn again(&mut self, layer: &Layer, forwards: &[Forward], needs: &[bool]) {
        let keeps = |i: &usize| needs[*i] && !matches!(layer.operations[*i].work, Work::Sum | Work::Zeros);
        let last = (0..forwards.len()).rev().find(keeps).filter(|_| !self.model.reentrant);
        for (i, forward) in forwards.iter().enumerate().take(last.map_or(usize::MAX, |n| n + 1)) {
            let Some(component) = forward.component else { continue };
            let (unwanted, unwanted_adapter) = if Some(i) == last { (forward.unwanted, forward.unwanted_adapter) } else { (0, 0) };
            self.costs.entry(component).or_default().recomputed += forward.flop - unwanted;
            if forward.adapter > 0 {
                self.costs.entry(Component::Adapters).or_default().recomputed += forward.adapter - unwanted_adapter;
            }
        }
    }

    fn tokens(&self, side: Side) -> u128 {
        let length = match side {
            Side::Main if self.model.encoder_decoder => self.shape.decoder_length,
            Side::Main | Side::Encoder => self.shape.length,
            Side::Row => 1,
            Side::Patches => self.shape.length - 1,
        };
        u128::from(length)
    }

    fn linear(&mut self, layer: &Layer, linear: &Linear, input: bool) -> (Forward, bool) {
        let trained = |parameter: &str| self.method.trained(layer, linear, parameter);
        // A tied head has no parameter of its own: it is trained when the table is.
        let weights = match self.model.embeddings.first() {
            Some((table, _)) if linear.tied => u64::from(self.method.trains_tied(table, &format!("{}{}", layer.name, linear.name))),
            _ => trained("weight"),
        };
        let adapter = self.method.adapter(layer, linear);
        let needs = input || weights > 0 || linear.bias && trained("bias") > 0 || adapter.is_some();
        match self.part {
            Part::Row | Part::Products => {}
            Part::Batch => return (adapter.map_or_else(Forward::default, |a| self.once(a, linear)), needs),
            Part::Scores => return (Forward::default(), needs),
        }
        // What is added to a frozen matrix has that one's gradient.
        let weights = if adapter.is_some_and(|a| matches!(a.kind, AdapterKind::Parameter { .. })) { linear.stored } else { weights };
        let tokens = self.tokens(linear.side) * u128::from(linear.met);
        let product = |a: u64, b: u64| 2 * tokens * u128::from(a) * u128::from(b);
        let flop = product(linear.inputs, linear.outputs);
        let backward = !self.run.forward_only;
        let cost = self.costs.entry(linear.component).or_default();
        cost.forward += flop;
        // Of some experts the gradients of the tokens that come to them: each gets its share.
        cost.backward += u128::from(backward) * (flop * u128::from(input) + flop * u128::from(weights) / u128::from(linear.stored));
        let mut forward = Forward { component: Some(linear.component), flop, unwanted: flop, ..Forward::default() };
        if let Some(Adapter { rank, kind: AdapterKind::Module | AdapterKind::Decomposed(_) }) = adapter {
            let (down, up) = (product(linear.inputs, rank), product(rank, linear.outputs));
            let cost = self.costs.entry(Component::Adapters).or_default();
            cost.forward += down + up;
            cost.backward += u128::from(backward) * (down * (1 + u128::from(input)) + 2 * up);
            // The adapter's second product is the last one; all before it is run again.
            forward = Forward { unwanted: 0, adapter: down + up, unwanted_adapter: up, ..forward };
        }
        if let Some(Adapter { kind: AdapterKind::Decomposed(dora), .. }) = adapter {
            // Scaled, so that the scale's gradient wants all products.
            forward.unwanted_adapter = 0;
            if dora.dropout && backward {
                let cost = self.costs.entry(Component::Adapters).or_default();
                cost.forward += flop;
                cost.backward += flop * u128::from(input);
                forward.adapter += flop;
            }
        }
        (forward, needs)
    }

    /// What an adapter takes once a batch, as PEFT executes it.
    fn once(&mut self, adapter: Adapter, linear: &Linear) -> Forward {
        let [inputs, outputs, rank, stored] = [linear.inputs, linear.outputs, adapter.rank, linear.stored].map(u128::from);
        let delta = 2 * stored * rank * inputs * outputs;
        let (forward, backward) = match adapter.kind {
            AdapterKind::Module => return Forward::default(),
            // The product goes by way of a unit matrix, and has no gradient.
            AdapterKind::Decomposed(_) => (2 * stored * inputs * rank * inputs + delta, 0),
            AdapterKind::Parameter { tried } => (delta * if tried && stored > 1 { 2 } else { 1 }, 2 * delta),
        };
        let cost = self.costs.entry(Component::Adapters).or_default();
        cost.forward += forward;
        cost.backward += backward * u128::from(!self.run.forward_only);
        Forward { component: Some(Component::Adapters), flop: forward, ..Forward::default() }
    }

    fn attention(&mut self, attention: &Attention, from: &[bool]) -> Forward {
        if !matches!(self.part, Part::Row | Part::Scores) {
            return Forward::default();
        }
        let pairs = pairs(attention, self.tokens(attention.side), self.tokens(attention.key_side), self.run.kernel);
        let with_keys = 2 * pairs * u128::from(attention.heads) * u128::from(attention.key_width);
        let with_values = 2 * pairs * u128::from(attention.heads) * u128::from(attention.value_width);
        let cost = self.costs.entry(Component::AttentionScores).or_default();
        cost.forward += with_keys + with_values;
        let [queries, keys, values, added] = [0, 1, 2, 3].map(|i| from.get(i).copied().unwrap_or(false));
        let any = queries || keys || values || added;
        if any && !self.run.forward_only {
            // A fused kernel computes all three gradients, wanted or not.
            let all = self.run.kernel.fused;
            let one = |wanted: bool, flop: u128| if wanted || all { flop } else { 0 };
            cost.backward +=
                one(values, with_values) + one(queries || keys || added, with_values) + one(queries, with_keys) + one(keys, with_keys);
            cost.recomputed += if all { with_keys } else { 0 };
        }
        Forward { component: Some(Component::AttentionScores), flop: with_keys + with_values, ..Forward::default() }
    }
}

/// Pairs of positions that are computed in one row.
#[must_use]
pub fn pairs(attention: &Attention, queries: u128, keys: u128, kernel: Kernel) -> u128 {
    let block = u128::from(kernel.block.max(1));
    let up = |n: u128| n.div_ceil(block) * block;
    if !kernel.skips_masked || !attention.causal {
        return up(queries) * up(keys);
    }
    let window = attention.window.map_or(queries, u128::from).min(queries);
    if block == 1 {
        // The first `window` positions see 1, 2, 3, ... positions, the others `window` each.
        return window * (window + 1) / 2 + (queries - window) * window;
    }
    let blocks = queries.div_ceil(block);
    (0..blocks)
        .map(|i| {
            let (first, last) = (i * block, (i + 1) * block - 1);
            let from = (first + 1).saturating_sub(window) / block;
            block * (up(last + 1) - from * block)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn causal(window: Option<u64>) -> Attention {
        Attention { heads: 1, key_width: 1, value_width: 1, causal: true, window, side: Side::Main, key_side: Side::Main }
    }

    proptest! {
        /// Against every pair looked at.
        #[test]
        fn pairs_are_those_of_the_mask(length in 1u64..200, window in prop::option::of(1u64..250), block in 1u64..40) {
            let seen = |q: u64, k: u64| k <= q && window.is_none_or(|w| q - k < w);
            let n = (0..length).flat_map(|q| (0..length).map(move |k| (q, k))).filter(|(q, k)| seen(*q, *k)).count();
            let length = u128::from(length);
            prop_assert_eq!(pairs(&causal(window), length, length, Kernel::FLASH), n as u128);
            let blocks = pairs(&causal(window), length, length, Kernel { block, ..Kernel::FLASH });
            prop_assert!(blocks >= n as u128);
            let all = length.div_ceil(u128::from(block)) * u128::from(block);
            prop_assert!(blocks <= all * all);
        }
    }

    #[test]
    fn blocks_round_out_the_diagonal() {
        let blocked = |length| pairs(&causal(None), length, length, Kernel { block: 128, ..Kernel::FLASH });
        assert_eq!(blocked(128), 128 * 128);
        assert_eq!(blocked(2048), 2048 * (2048 + 128) / 2);
    }
}
