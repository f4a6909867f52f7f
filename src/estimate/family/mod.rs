//! Architectures: from a configuration to the products of its layers.
//!
//! One table decides what is known. Defaults are those that transformers' configuration classes have, for fields that a published `config.json` may
//! leave out, and for those that a configuration inside another one does.

mod decoder;
mod defaults;
mod encoder;
mod moe;
mod t5;

use super::{
    EstimateError,
    config::Config,
    model::{Layer, Model, Side},
};

/// Reads a model; none where the architecture is not known here.
///
/// # Errors
/// [`EstimateError`] when a field is missing or contradicts another.
pub fn model(config: Config<'_>) -> Result<Option<Model>, EstimateError> {
    let mut notes = Vec::new();
    config.words("architectures")?;
    if let class = config.class()
        && !class.is_empty()
        && !CLASSES.iter().any(|end| class.ends_with(end))
    {
        notes.push(format!("the class {class} is not known here: its head is taken for that of the architecture's usual class"));
    }
    let mut language = config;
    // A name may be that of a language model and of one that sees too: gemma3.
    if (decoder::style(config.model_type()).is_none() || config.get("hidden_size").is_none())
        && let Some(text) = config.part("text_config")
    {
        notes.push(format!(
            "{} holds more than a language model: only its text_config ({}) is estimated; towers for images or sound are not",
            config.model_type(),
            text.model_type()
        ));
        language = text.with_defaults(defaults::of(text.model_type()));
        let left_out: Vec<_> = language.left_out().map(|(field, n)| format!("{field} {n}")).collect();
        if !left_out.is_empty() {
            notes.push(format!("what text_config leaves out is as in transformers' class: {}", left_out.join(", ")));
        }
    }
    let mut model = match language.model_type() {
        "t5" | "mt5" => t5::model(language)?,
        "bert" => encoder::bert(language)?,
        "vit" => encoder::vit(language)?,
        name => match decoder::style(name) {
            Some(style) => decoder::model(language, &style)?,
            None => return Ok(None),
        },
    };
    config.class().clone_into(&mut model.class);
    model.notes.splice(0..0, notes);
    Ok(Some(model))
}

/// What classes are called at their ends, whose heads are known.
const CLASSES: [&str; 13] = [
    "ForCausalLM",
    "LMHeadModel",
    "ForConditionalGeneration",
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForPreTraining",
    "ForNextSentencePrediction",
    "ForMultipleChoice",
    "ForImageClassification",
    "ForMaskedImageModeling",
];

/// Whether transformers computes this architecture's attention over all positions where nothing else is asked for: its scores are capped (gemma2), have sinks
/// (gpt_oss) or biases (t5), which scaled_dot_product_attention has not, or has as a mask.
#[must_use]
pub fn eager(model_type: &str) -> bool {
    matches!(model_type, "gemma2" | "gpt_oss" | "t5" | "mt5")
}

/// Names that [`model`] knows.
pub const KNOWN: &str = "llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, phi, phi3, mixtral, qwen2_moe, qwen3_moe, deepseek_v2, deepseek_v3, gpt_oss, t5, mt5, bert, vit";

/// A layer with one token a row: poolers and classifiers.
fn of_rows() -> Layer {
    Layer::new("", Side::Row)
}
