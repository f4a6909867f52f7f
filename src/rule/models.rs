//! Base models whose training compute is known, or can be estimated from what their makers say.
//!
//! A help, no authority: the model card that a user has before him goes first, and every report prints the source. Only dense transformers stand here,
//! for which 6·P·D holds, and only those whose makers state the tokens; `15T+` and `up to 9T` are taken as 15T and 9T. A distilled model's
//! parent does not count (Guidelines, Annex A.1). What came after pre-training (instruction tuning) is not in the tokens: the estimate is then a
//! little low, and so is its third.

use serde::Serialize;

/// A base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Model {
    /// Its name on the hub, without the organisation, in lower case.
    pub name: &'static str,
    /// Parameters.
    pub parameters: u64,
    /// Tokens it was trained on; none where its maker does not say.
    pub tokens: Option<u64>,
    /// FLOP, where its maker says it.
    pub published: Option<u128>,
    /// Where this is from.
    pub source: &'static str,
}

const M: u64 = 1_000_000;
const T: u64 = 1_000_000_000_000;

const fn card(name: &'static str, million_parameters: u64, tokens: u64, source: &'static str) -> Model {
    Model { name, parameters: million_parameters * M, tokens: Some(tokens), published: None, source }
}

const LLAMA_2: &str = "model card of Llama 2: 2T tokens";
const LLAMA_3: &str = "model card of Llama 3, 3.1 and 3.3: 15T+ tokens";
const LLAMA_3_2: &str = "model card of Llama 3.2: up to 9T tokens";
const QWEN_2_5: &str = "technical report of Qwen2.5: 18T tokens";
const QWEN_3: &str = "technical report of Qwen3: 36T tokens";
const GEMMA_2: &str = "technical report of Gemma 2: 2T, 8T and 13T tokens";

/// All of them.
static MODELS: [Model; 27] = [
    card("llama-2-7b", 6_740, 2 * T, LLAMA_2),
    card("llama-2-13b", 13_020, 2 * T, LLAMA_2),
    card("llama-2-70b", 68_980, 2 * T, LLAMA_2),
    card("meta-llama-3-8b", 8_030, 15 * T, LLAMA_3),
    card("meta-llama-3-70b", 70_600, 15 * T, LLAMA_3),
    card("llama-3.1-8b", 8_030, 15 * T, LLAMA_3),
    card("llama-3.1-70b", 70_600, 15 * T, LLAMA_3),
    Model {
        name: "llama-3.1-405b",
        parameters: 405_000 * M,
        tokens: Some(15_600_000 * M),
        published: Some(38 * 10u128.pow(24)),
        source: "The Llama 3 Herd of Models: 3.8e25 FLOP",
    },
    card("llama-3.3-70b", 70_600, 15 * T, LLAMA_3),
    card("llama-3.2-1b", 1_230, 9 * T, LLAMA_3_2),
    card("llama-3.2-3b", 3_210, 9 * T, LLAMA_3_2),
    card("qwen2.5-0.5b", 490, 18 * T, QWEN_2_5),
    card("qwen2.5-1.5b", 1_540, 18 * T, QWEN_2_5),
    card("qwen2.5-3b", 3_090, 18 * T, QWEN_2_5),
    card("qwen2.5-7b", 7_610, 18 * T, QWEN_2_5),
    card("qwen2.5-14b", 14_700, 18 * T, QWEN_2_5),
    card("qwen2.5-32b", 32_500, 18 * T, QWEN_2_5),
    card("qwen2.5-72b", 72_700, 18 * T, QWEN_2_5),
    card("qwen3-0.6b", 600, 36 * T, QWEN_3),
    card("qwen3-1.7b", 1_700, 36 * T, QWEN_3),
    card("qwen3-4b", 4_000, 36 * T, QWEN_3),
    card("qwen3-8b", 8_200, 36 * T, QWEN_3),
    card("qwen3-14b", 14_800, 36 * T, QWEN_3),
    card("gemma-2-2b", 2_610, 2 * T, GEMMA_2),
    card("gemma-2-9b", 9_240, 8 * T, GEMMA_2),
    card("gemma-2-27b", 27_230, 13 * T, GEMMA_2),
    Model {
        name: "mistral-7b-v0.1",
        parameters: 7_240 * M,
        tokens: None,
        published: None,
        source: "its maker does not say on how many tokens it was trained",
    },
];

/// A base model by its name, with or without its organisation, and with or without `-Instruct`, `-it`, `-chat` or `-hf` behind it.
#[must_use]
pub fn known_model(name: &str) -> Option<&'static Model> {
    let lower = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let mut short = lower.as_str();
    while let Some(shorter) = ["-instruct", "-chat", "-hf", "-it", "-base"].iter().find_map(|s| short.strip_suffix(s)) {
        short = shorter;
    }
    MODELS.iter().find(|m| m.name == short)
}

/// All base models known here.
#[must_use]
pub fn known_models() -> &'static [Model] {
    &MODELS
}
