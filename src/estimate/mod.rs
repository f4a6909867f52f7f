//! What a training job will execute, by formula: from a model's configuration and the tokens it is to see, before the run and without a GPU.
//!
//! 6·N·D is one number for two unknowns: it takes every parameter for one that every token meets in a product of matrices, forgets attention, and
//! knows neither frozen weights nor recomputation. Here the products themselves are listed:
//!
//! ```text
//! config.json ──family──> model (layers of products, in the order of the data)
//! tokens, rows, lengths ──workload──┐
//! full, LoRA, frozen ─────method────┼──cost──> FLOP per component: forward, backward, recomputed ──job──> GPU hours, energy
//! ```
//! A product of `(t x i)` and `(i x o)` is `2 t i o` FLOP: a multiply-add is two, everywhere. Element-wise work (norms, activations, softmax, the
//! optimizer) is not in it: it is some thousandth of the products, and not executed by tensor cores. Whether a product is executed backward
//! follows the gradient: through the graph of each layer, from what is trained and what needs a gradient.
//!
//! `tests/estimate` holds what PyTorch's FlopCounterMode counted on the real classes, which this must equal.

pub mod config;
pub mod cost;
pub mod family;
pub mod gpu;
pub mod job;
pub mod method;
pub mod model;
pub mod peft;
mod remark;
pub mod spectrum;
pub mod weights;
pub mod workload;

use thiserror::Error;

/// Why there is no estimate. Each names the field it is about.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EstimateError {
    /// A field that is needed is not there.
    #[error("the configuration has no `{field}`, which model_type {model_type} needs")]
    Missing {
        /// The field.
        field: String,
        /// What needs it.
        model_type: String,
    },
    /// The architecture is not named.
    #[error(
        "the configuration has no `model_type`, which names the architecture: add it as the model's published config.json has it (known: {}), or give the number of parameters alone (--params) for 6ND",
        family::KNOWN
    )]
    NoModelType,
    /// A field says what cannot be.
    #[error("`{field}` is {value}: {expected} is expected")]
    Wrong {
        /// The field or option.
        field: String,
        /// What it says.
        value: String,
        /// What it should.
        expected: String,
    },
    /// Two fields contradict each other.
    #[error("`{field}` ({value}) and `{other}` ({other_value}) contradict each other: {why}")]
    Contradiction {
        /// One.
        field: String,
        /// Its value.
        value: String,
        /// The other.
        other: String,
        /// Its value.
        other_value: String,
        /// In which way.
        why: String,
    },
    /// A number beyond all that can be computed with.
    #[error("`{field}` is too large: {why}")]
    TooLarge {
        /// The field or option.
        field: String,
        /// Which bound it breaks.
        why: String,
    },
    /// A name or pattern that nothing in the model answers to.
    #[error("`{field}` names {name}, and no module of this model is called that; its modules are {modules}")]
    NoSuchModule {
        /// The option.
        field: String,
        /// The name or pattern.
        name: String,
        /// What there is.
        modules: String,
    },
    /// A parameter to adapt that is not in the model.
    #[error("`lora parameters` names {name}, and no parameter of this model is called that; its products' are {parameters}")]
    NoSuchParameter {
        /// The name.
        name: String,
        /// What there is.
        parameters: String,
    },
}
