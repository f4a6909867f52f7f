//! The products of matrices that a batch of a declared model makes: how large each is, and how often it is made.
//!
//! Forward, the gradient of the input, that of the weight, and the forward again in a checkpointed layer: all four are 2·M·N·K of the same three sides. Which of them are made is for
//! [`cost`] to say: it is asked with all sides but those of one product at nothing.

use std::collections::BTreeMap;

use crate::{
    estimate::{
        EstimateError,
        cost::{Costs, Run, cost},
        job::Job,
        model::{Attention, Component, Linear, Model, Side, Work},
        workload::{Shape, Workload},
    },
    ledger::arithmetic::{Amount, add_up},
};

/// Tiles are at most so long on a side, those that a cluster of two multiprocessors shares included.
const LONGEST: u64 = 512;

/// Products of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Product {
    /// 2·M·N·K.
    pub(super) flop: u128,
    /// The same with all sides rounded up to tiles of the longest side.
    pub(super) most: u128,
    /// How many of them a batch makes.
    pub(super) times: u64,
}

/// All of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Products {
    /// In the order of size.
    pub(super) single: Vec<Product>,
    /// Of experts: together, since how many tokens each gets is nobody's to say. FLOP, and so with sides rounded up.
    pub(super) experts: (u128, u128),
    /// FLOP of one row in each of their matrices, in each of the products that are made with it.
    pub(super) expert_rows: u128,
}

impl Products {
    /// 2·M·N·K of all.
    pub(super) fn flop(&self) -> u128 {
        add_up(self.single.iter().map(|p| p.flop.saturating_mul(u128::from(p.times)))).plus(self.experts.0)
    }

    /// How many launches they are, without the experts'.
    pub(super) fn launches(&self) -> u64 {
        add_up(self.single.iter().map(|p| p.times))
    }

    /// Those of another batch, too, of which there are so many.
    pub(super) fn extend(&mut self, other: &Self, times: u64) {
        for product in &other.single {
            self.add(product.flop, product.most, product.times.saturating_mul(times));
        }
        let of_all = |flop: u128| flop.saturating_mul(u128::from(times));
        self.experts = (self.experts.0.plus(of_all(other.experts.0)), self.experts.1.plus(of_all(other.experts.1)));
        self.expert_rows = self.expert_rows.plus(of_all(other.expert_rows));
    }

    fn add(&mut self, flop: u128, most: u128, times: u64) {
        match self.single.binary_search_by(|p| p.flop.cmp(&flop)) {
            // Different sides may make the same size.
            Ok(at) => {
                self.single[at].most = self.single[at].most.max(most);
                self.single[at].times.grow(times);
            }
            Err(at) => self.single.insert(at, Product { flop, most, times }),
        }
    }
}

/// The products of a batch.
pub(super) fn of(model: &Model, job: &Job, batch: Shape) -> Result<Products, EstimateError> {
    let workload = Workload { executed: vec![batch], documents: Vec::new(), attention_by_document: false };
    // What adapters make of themselves once a batch is none of them: a census that has it is not matched.
    let run = Run { checkpointing: job.checkpointing, kernel: job.kernel, forward_only: false, batches: 0 };
    let mut alone = model.clone();
    alone.layers.iter_mut().flat_map(|l| &mut l.operations).for_each(|o| nothing(&mut o.work));
    let mut products = Products::default();
    let mut method = job.method.clone();
    if let Some((table, width)) = model.table()
        && let Some(rank) = method.table(table)
    {
        let tokens = batch.rows.saturating_mul(batch.length);
        let [all, sides] = [[tokens, rank, width].map(u128::from), [tokens, rank, width].map(up)];
        // Forward, and the gradients of both matrices. What it makes of all others, that they need a gradient below, is said in its place.
        products.add(padded(&all), padded(&sides), 3);
        method = method.without_table(table);
        alone.input_gradients = Some(true);
    }
    for (i, layer) in model.layers.iter().enumerate() {
        for (j, operation) in layer.operations.iter().enumerate() {
            let mut ask = |work: Work| {
                alone.layers[i].operations[j].work = work;
                let costs = cost(&alone, &method, &workload, run);
                nothing(&mut alone.layers[i].operations[j].work);
                costs
            };
            match &operation.work {
                Work::Linear(l) => {
                    let (tokens, stored) = (tokens(model, l, &batch), u128::from(l.stored));
                    let base = one(&ask(Work::Linear(l.clone()))?, |c| c != Component::Adapters && c != Component::AttentionScores);
                    let met = tokens.saturating_mul(l.met);
                    let filled = u128::from(met).plus(stored.saturating_mul(u128::from(LONGEST)));
                    let mut add = |(flop, times): (u128, u64), a: u64, b: u64| {
                        if stored > 1 {
                            let (many, sides) = (u128::from(times), [u128::from(a), u128::from(b)]);
                            products.experts.0.grow(flop.saturating_mul(many));
                            products.experts.1.grow(padded(&[filled, up(a), up(b), many]));
                            products.expert_rows.grow(padded(&[stored, sides[0], sides[1], many]));
                        } else if times > 0 {
                            products.add(flop, padded(&[up(tokens), up(a), up(b)]), times);
                        }
                    };
                    add(base, l.inputs, l.outputs);
                    let Some(adapter) = method.adapter(layer, l) else { continue };
                    for (inputs, outputs) in [(l.inputs, 0), (0, l.outputs)] {
                        let half = one(&ask(Work::Linear(Linear { inputs, outputs, ..l.clone() }))?, |c| c == Component::Adapters);
                        add(half, adapter.rank, inputs.max(outputs));
                    }
                }
                // A fused kernel is no product.
                Work::Attention(a) if !job.kernel.fused => {
                    for (key_width, value_width) in [(a.key_width, 0), (0, a.value_width)] {
                        let half = Attention { key_width, value_width, ..a.clone() };
                        let (flop, times) = one(&ask(Work::Attention(half))?, |c| c == Component::AttentionScores);
                        if times > 0 {
                            let width = key_width.max(value_width);
                            // 2 · queries · keys · width of each head and row: the pairs are what is left.
                            let (heads, longest) =
                                (u128::from(a.heads) * u128::from(batch.rows), up(batch.length.max(batch.decoder_length)));
                            products.add(flop, padded(&[heads, longest, longest, up(width)]), times);
                        }
                    }
                }
                Work::Attention(_) | Work::Elementwise { .. } | Work::Sum | Work::Zeros => {}
            }
        }
    }
    Ok(products)
}

/// Takes an operation's sides away.
fn nothing(work: &mut Work) {
    match work {
        Work::Linear(l) => (l.inputs, l.outputs) = (0, 0),
        Work::Attention(a) => (a.key_width, a.value_width) = (0, 0),
        Work::Elementwise { .. } | Work::Sum | Work::Zeros => {}
    }
}

/// The forward product, and how often its size is computed at all.
fn one(costs: &Costs, of: impl Fn(Component) -> bool) -> (u128, u64) {
    let found: BTreeMap<_, _> = costs.iter().filter(|(c, _)| of(**c)).collect();
    let (forward, executed) = found.values().fold((0, 0), |(f, e): (u128, u128), c| (f.plus(c.forward), e.plus(c.executed())));
    (forward, u64::try_from(executed.checked_div(forward).unwrap_or(0)).unwrap_or(0))
}

fn tokens(model: &Model, linear: &Linear, batch: &Shape) -> u64 {
    let each = match linear.side {
        Side::Main if model.encoder_decoder => batch.decoder_length,
        Side::Main | Side::Encoder => batch.length,
        Side::Row => 1,
        Side::Patches => batch.length.saturating_sub(1),
    };
    batch.rows.saturating_mul(each)
}

/// Twice their product, or the largest number.
fn padded(sides: &[u128]) -> u128 {
    sides.iter().fold(2, |product, side| product.saturating_mul(*side))
}

/// A side with whatever tiles make of it.
fn up(side: u64) -> u128 {
    u128::from(side) + u128::from(LONGEST - 1)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::estimate::{
        config::Config,
        cost::{Kernel, sum},
        family,
        method::{Method, Targets},
    };

    /// One by one they are what PyTorch's FlopCounterMode counted of the model, for which `cost` answers.
    #[test]
    fn they_add_up_to_the_cost_of_each_architecture() {
        let (mut seen, mut grouped) = (0, 0);
        for path in std::fs::read_dir("tests/estimate/golden").expect("goldens").flatten().map(|e| e.path()) {
            let golden: Value = serde_json::from_slice(&std::fs::read(&path).expect("a golden")).expect("JSON");
            let model = family::model(Config::new(&golden["config"]).expect("a configuration")).expect("a model").expect("a known one");
            let number = |name: &str| golden[name].as_u64().unwrap_or(0);
            let batch = Shape { rows: number("rows"), length: number("length"), decoder_length: number("decoder_length") };
            let workload = Workload::said(vec![batch], Vec::new(), false).expect("a workload");
            let lora = |targets: Targets| Method::Lora {
                rank: 8,
                ranks: BTreeMap::new(),
                targets,
                parameters: Vec::new(),
                tried: false,
                dora: None,
                also: Vec::new(),
                quantised: false,
            };
            let table = Targets::Names(["embed_tokens", "v_proj", "down_proj"].map(str::to_owned).to_vec());
            for (method, kernel) in [
                (Method::Full, Kernel::EAGER),
                (Method::Full, Kernel::FLASH),
                (lora(Targets::AllLinear), Kernel::EAGER),
                (lora(table), Kernel::EAGER),
            ] {
                for checkpointing in [false, true] {
                    let job = Job {
                        model: None,
                        parameters: None,
                        workload: workload.clone(),
                        lengths_known: true,
                        method: method.clone(),
                        checkpointing,
                        kernel,
                        batches: 0,
                    };
                    let products = of(&model, &job, batch).expect("products");
                    let run = Run { checkpointing, kernel: job.kernel, forward_only: false, batches: 0 };
                    let mut costs = cost(&model, &method, &workload, run).expect("a cost");
                    if kernel.fused {
                        costs.remove(&Component::AttentionScores);
                    }
                    let masked = kernel == Kernel::EAGER && costs.contains_key(&Component::AttentionScores);
                    assert_eq!(products.flop(), sum(&costs).executed(), "{} {masked} {}", path.display(), method.name());
                    assert!(products.single.iter().all(|p| p.flop < p.most && p.times > 0) && products.experts.0 <= products.experts.1);
                    assert!(products.single.windows(2).all(|p| p[0].flop < p[1].flop));
                    seen += 1;
                    grouped += u32::from(products.experts.0 > 0);
                }
            }
        }
        assert!(seen >= 120 && grouped >= 18, "{seen}, {grouped} with experts");
    }
}
