//! A model as the products of matrices that a token goes through.
//!
//! A layer is a small graph: each operation takes the output of earlier ones, so that the way of the gradient can be followed. Names are those of
//! transformers' modules, because PEFT's targets and Spectrum's patterns speak of them.

use serde::Serialize;

/// The layer's input.
pub const INPUT: usize = 0;
/// The encoder's output, in a decoder's layer.
pub const ENCODER: usize = usize::MAX;

/// What an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// Patches of an image; a table of embeddings is looked up and executes nothing.
    Embedding,
    /// Query, key, value and output projections.
    AttentionProjections,
    /// The products of queries and keys, and of weights and values.
    AttentionScores,
    /// Feed-forward of dense layers.
    Mlp,
    /// The experts that a token is sent to.
    Experts,
    /// Experts that every token goes through.
    SharedExperts,
    /// The choice of experts.
    Router,
    /// From hidden states to logits.
    Head,
    /// Low-rank adapters.
    Adapters,
}

/// Which tokens an operation sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those of a decoder-only or encoder-only model, or of the decoder.
    Main,
    /// Those of the encoder of an encoder-decoder model.
    Encoder,
    /// One a row: a pooler, a classifier.
    Row,
    /// All but one a row: the patches of an image, without the class token.
    Patches,
}

/// A product with a matrix of weights.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Name of the module within its layer.
    pub name: String,
    /// What it belongs to.
    pub component: Component,
    /// Its tokens.
    pub side: Side,
    /// Columns.
    pub inputs: u64,
    /// Rows.
    pub outputs: u64,
    /// Whether it has a bias.
    pub bias: bool,
    /// Matrices of this shape that are stored: the experts.
    pub stored: u64,
    /// Matrices of this shape that a token meets.
    pub met: u64,
    /// It is an `nn.Linear`, which PEFT can adapt: stacked experts are not. Where experts are, each is one, and this is all of them, without their numbers in its name.
    pub module: bool,
    /// Its matrix is the embedding's.
    pub tied: bool,
}

impl Linear {
    /// The whole name of its matrix among the parameters. Stacked experts are parameters of their own.
    #[must_use]
    pub fn parameter(&self, layer: &Layer) -> String {
        format!("{}{}{}", layer.name, self.name, if self.stacked() { "" } else { ".weight" })
    }

    /// All its matrices are one parameter.
    #[must_use]
    pub fn stacked(&self) -> bool {
        self.stored > 1 && !self.module
    }

    /// Its name with the number of one of its experts in it, where these are modules.
    #[must_use]
    pub fn of_expert(&self, number: u64) -> String {
        self.name.replacen(".experts.", &format!(".experts.{number}."), 1)
    }
}

/// The products of attention.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Heads of the queries.
    pub heads: u64,
    /// Width of a head of queries and keys.
    pub key_width: u64,
    /// Width of a head of values.
    pub value_width: u64,
    /// A position sees those before it only.
    pub causal: bool,
    /// It sees so many at most, itself included.
    pub window: Option<u64>,
    /// Queries are of this side,
    pub side: Side,
    /// keys and values of this one.
    pub key_side: Side,
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Work {
    /// A product with weights.
    Linear(Linear),
    /// Attention: its inputs are queries, keys, values, and what is added to its scores.
    Attention(Attention),
    /// Element-wise with so many parameters of its own (a norm, a bias, a sink); it keeps its input for the backward pass.
    Elementwise {
        /// Name within the layer.
        name: String,
        /// Parameters.
        parameters: u64,
    },
    /// A sum: keeps nothing.
    Sum,
    /// Zeros that are added to scores, which a T5 that is checkpointed lets have a gradient.
    Zeros,
}

/// An operation.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Where its inputs come from: [`INPUT`], [`ENCODER`], or 1 + the index of an operation of this layer.
    pub from: Vec<usize>,
    /// What it does.
    pub work: Work,
}

/// Operations that are checkpointed together.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Name of the module, with the dot that ends it: `model.layers.0.`.
    pub name: String,
    /// Its tokens.
    pub side: Side,
    /// In the order of execution; the last one is its output.
    pub operations: Vec<Operation>,
    /// Gradient checkpointing applies to it.
    pub checkpointed: bool,
    /// Number among the hidden layers, for freezing the first so many.
    pub index: Option<u64>,
}

impl Layer {
    /// An empty one.
    #[must_use]
    pub fn new(name: impl Into<String>, side: Side) -> Self {
        Self { name: name.into(), side, operations: Vec::new(), checkpointed: false, index: None }
    }

    /// A hidden layer.
    #[must_use]
    pub fn hidden(name: impl Into<String>, side: Side, index: u64) -> Self {
        Self { checkpointed: true, index: Some(index), ..Self::new(name, side) }
    }

    fn push(&mut self, from: &[usize], work: Work) -> usize {
        self.operations.push(Operation { from: from.to_vec(), work });
        self.operations.len()
    }

    /// Adds an `nn.Linear`.
    pub fn linear(&mut self, from: usize, name: &str, component: Component, inputs: u64, outputs: u64, bias: bool) -> usize {
        let side = if from == ENCODER { Side::Encoder } else { self.side };
        self.product(
            from,
            Linear { name: name.to_owned(), component, side, inputs, outputs, bias, stored: 1, met: 1, module: true, tied: false },
        )
    }

    /// Adds a product of any kind.
    pub fn product(&mut self, from: usize, linear: Linear) -> usize {
        self.push(&[from], Work::Linear(linear))
    }

    /// Adds attention.
    pub fn attention(&mut self, queries: usize, keys: usize, values: usize, attention: Attention) -> usize {
        self.push(&[queries, keys, values], Work::Attention(attention))
    }

    /// Adds attention with [`Work::Zeros`] added to its scores.
    pub fn attention_with_zeros(&mut self, queries: usize, keys: usize, values: usize, attention: Attention) -> usize {
        let zeros = self.push(&[], Work::Zeros);
        self.push(&[queries, keys, values, zeros], Work::Attention(attention))
    }

    /// Adds element-wise work that keeps its input.
    pub fn elementwise(&mut self, from: &[usize], name: &str, parameters: u64) -> usize {
        self.push(from, Work::Elementwise { name: name.to_owned(), parameters })
    }

    /// Adds a sum.
    pub fn sum(&mut self, from: &[usize]) -> usize {
        self.push(from, Work::Sum)
    }
}

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// `model_type` of the configuration.
    pub model_type: String,
    /// The class, where the configuration names it.
    pub class: String,
    /// Parameters that are looked up: tables of embeddings. Name and count; the first is the one a head may be tied to.
    pub embeddings: Vec<(String, u64)>,
    /// The encoder's layers come first, where there are both.
    pub layers: Vec<Layer>,
    /// It has an encoder and a decoder.
    pub encoder_decoder: bool,
    /// Its inputs are tokens, so that checkpointing makes the embeddings' output need a gradient (transformers: `enable_input_require_grads`).
    pub text: bool,
    /// Whether the embeddings' output needs a gradient for more than the table's sake, where a live model has said so (transformers 4 does it for some trainings, and not for others).
    pub input_gradients: Option<bool>,
    /// Checkpointed layers are run again to their end, and not to the last tensor that is wanted (PyTorch's `use_reentrant`, which was transformers 4's default).
    pub reentrant: bool,
    /// Tokens a row has by construction: an image's patches and its class token.
    pub fixed_length: Option<u64>,
    /// The field that says how many positions were learned, and the number, where a row cannot be longer. Those that are rotated or relative have no such end.
    pub positions: Option<(&'static str, u64)>,
    /// What the estimate leaves out or assumes, in words.
    pub notes: Vec<String>,
}

/// Parameters of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// All that are stored.
    pub total: u64,
    /// Those of them that stand in tables of embeddings and are only looked up.
    pub looked_up: u64,
    /// Those a token meets: without the experts it is not sent to.
    pub active: u64,
}

impl Model {
    /// Counts the parameters.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        // What does not fit is refused by whoever asks: see `job`.
        let embeddings = self.embeddings.iter().fold(0u64, |sum, (_, n)| sum.saturating_add(*n));
        let mut count = Parameters { total: embeddings, looked_up: embeddings, active: embeddings };
        for operation in self.layers.iter().flat_map(|l| &l.operations) {
            match &operation.work {
                Work::Linear(l) => {
                    let bias = if l.bias { l.outputs } else { 0 };
                    let matrix = l.inputs.saturating_mul(l.outputs);
                    if l.tied {
                        count.looked_up = count.looked_up.saturating_sub(matrix);
                    }
                    let each = if l.tied { bias } else { matrix.saturating_add(bias) };
                    count.total = count.total.saturating_add(l.stored.saturating_mul(each));
                    count.active = count.active.saturating_add(l.met.saturating_mul(each));
                }
                Work::Elementwise { parameters, .. } => {
                    count.total = count.total.saturating_add(*parameters);
                    count.active = count.active.saturating_add(*parameters);
                }
                Work::Attention(_) | Work::Sum | Work::Zeros => {}
            }
        }
        count
    }

    /// The table that an adapter can be of, and how wide it is: that of the tokens, where all go through it in one way.
    #[must_use]
    pub fn table(&self) -> Option<(&str, u64)> {
        let (name, _) = self.embeddings.first().filter(|_| self.text && !self.encoder_decoder)?;
        Some((name, self.linears().next()?.1.inputs))
    }

    /// All products with weights, each with its layer.
    pub fn linears(&self) -> impl Iterator<Item = (&Layer, &Linear)> {
        self.layers.iter().flat_map(|layer| {
            layer.operations.iter().filter_map(move |o| if let Work::Linear(l) = &o.work { Some((layer, l)) } else { None })
        })
    }
}
