//! Decoder-only language models: Llama and its relatives.

use super::{
    super::{
        EstimateError,
        config::{Config, contradiction},
        model::{Attention, Component, INPUT, Layer, Linear, Model, Side},
    },
    moe,
};
use Component::{AttentionProjections, Head, Mlp};

/// How an architecture differs from Llama.
pub(super) struct Style {
    /// Where the query, key and value projections have biases; `None` asks `attention_bias`.
    query_bias: Option<bool>,
    /// And the output projection.
    output_bias: Option<bool>,
    /// Query and key heads are normed.
    head_norms: bool,
    /// Norms in a layer, over the hidden size.
    norms: Norms,
    /// The head's matrix is the embedding's where the configuration does not say.
    tied: bool,
    /// Width of a head where the configuration does not say; `None` is hidden size over heads.
    head_width: Option<u64>,
    /// Which layers see a window only.
    windows: Windows,
    /// Feed-forward.
    feed_forward: FeedForward,
    /// Query, key and value (and gate and up) are one matrix.
    fused: bool,
    /// Multi-head latent attention.
    latent: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Norms {
    /// Before attention and before feed-forward.
    Two,
    /// Also after each, before the sum.
    Four,
    /// One with a bias, before both, which run beside each other.
    Parallel,
}

#[derive(Clone, Copy)]
enum Windows {
    None,
    /// All layers.
    All,
    /// From `max_window_layers` on, where `use_sliding_window` is set.
    Upper,
    /// All but every so many-th, where `sliding_window_pattern` does not say how many.
    But(u64),
}

#[derive(Clone, Copy, PartialEq)]
enum FeedForward {
    /// Gate, up, down.
    Gated,
    /// Two matrices with biases.
    Plain,
    /// Experts.
    Experts(moe::Style),
}

const LLAMA: Style = Style {
    query_bias: None,
    output_bias: None,
    head_norms: false,
    norms: Norms::Two,
    tied: false,
    head_width: None,
    windows: Windows::None,
    feed_forward: FeedForward::Gated,
    fused: false,
    latent: false,
};

/// The table of what is known.
pub(super) fn style(model_type: &str) -> Option<Style> {
    let qwen = Style { query_bias: Some(true), output_bias: Some(false), windows: Windows::Upper, ..LLAMA };
    let gemma = Style { tied: true, head_width: Some(256), ..LLAMA };
    Some(match model_type {
        "llama" => LLAMA,
        "mistral" => Style { query_bias: Some(false), output_bias: Some(false), windows: Windows::All, ..LLAMA },
        "qwen2" => qwen,
        "qwen3" => Style { query_bias: None, output_bias: None, head_norms: true, head_width: Some(128), ..qwen },
        "gemma" => gemma,
        "gemma2" => Style { norms: Norms::Four, windows: Windows::But(2), ..gemma },
        "gemma3" | "gemma3_text" => Style { norms: Norms::Four, windows: Windows::But(6), head_norms: true, ..gemma },
        "phi" => {
            Style { query_bias: Some(true), output_bias: Some(true), norms: Norms::Parallel, feed_forward: FeedForward::Plain, ..LLAMA }
        }
        "phi3" => Style { query_bias: Some(false), output_bias: Some(false), fused: true, windows: Windows::All, ..LLAMA },
        "mixtral" => Style {
            query_bias: Some(false),
            output_bias: Some(false),
            windows: Windows::All,
            feed_forward: FeedForward::Experts(moe::Style::Mixtral),
            ..LLAMA
        },
        "qwen2_moe" => Style { feed_forward: FeedForward::Experts(moe::Style::Qwen2), ..qwen },
        "qwen3_moe" => {
            Style { query_bias: None, output_bias: None, head_norms: true, feed_forward: FeedForward::Experts(moe::Style::Qwen3), ..qwen }
        }
        "deepseek_v2" | "deepseek_v3" => Style { latent: true, feed_forward: FeedForward::Experts(moe::Style::DeepSeek), ..LLAMA },
        "gpt_oss" => Style {
            query_bias: Some(true),
            output_bias: Some(true),
            head_width: Some(64),
            windows: Windows::But(2),
            feed_forward: FeedForward::Experts(moe::Style::GptOss),
            ..LLAMA
        },
        _ => return None,
    })
}

/// Builds a model of a style.
pub(super) fn model(c: Config<'_>, style: &Style) -> Result<Model, EstimateError> {
    let (hidden, layers, vocabulary) = (c.size("hidden_size")?, c.layers("num_hidden_layers")?, c.size("vocab_size")?);
    let windows = windows(c, style, layers)?;
    let mut stack = Vec::new();
    for (index, window) in windows.iter().enumerate() {
        let index = index as u64;
        let mut layer = Layer::hidden(format!("model.layers.{index}."), Side::Main, index);
        let bias = u64::from(style.norms == Norms::Parallel) * hidden;
        let normed = layer.elementwise(&[INPUT], "input_layernorm", hidden + bias);
        let attended =
            if style.latent { latent(c, &mut layer, normed, hidden)? } else { attention(c, style, &mut layer, normed, *window)? };
        let attended =
            if style.norms == Norms::Four { layer.elementwise(&[attended], "post_attention_layernorm", hidden) } else { attended };
        if style.norms == Norms::Parallel {
            let fed = feed_forward(c, style, &mut layer, normed, hidden, index)?;
            layer.sum(&[INPUT, attended, fed]);
        } else {
            let middle = layer.sum(&[INPUT, attended]);
            let name = if style.norms == Norms::Four { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
            let normed = layer.elementwise(&[middle], name, hidden);
            let fed = feed_forward(c, style, &mut layer, normed, hidden, index)?;
            let fed = if style.norms == Norms::Four { layer.elementwise(&[fed], "post_feedforward_layernorm", hidden) } else { fed };
            layer.sum(&[middle, fed]);
        }
        stack.push(layer);
    }
    let tied = c.flag_or("tie_word_embeddings", style.tied)?;
    head(c, style, &mut stack, hidden, vocabulary, tied)?;
    Ok(Model {
        model_type: c.model_type().to_owned(),
        class: String::new(),
        embeddings: vec![("model.embed_tokens".to_owned(), vocabulary * hidden)],
        layers: stack,
        encoder_decoder: false,
        text: true,
        input_gradients: None,
        reentrant: false,
        fixed_length: None,
        positions: None,
        notes: Vec::new(),
    })
}

/// The last norm, and what turns hidden states into answers.
fn head(c: Config<'_>, style: &Style, stack: &mut Vec<Layer>, hidden: u64, vocabulary: u64, tied: bool) -> Result<(), EstimateError> {
    let parallel = style.norms == Norms::Parallel;
    let mut layer = Layer::new("", Side::Main);
    let name = if parallel { "model.final_layernorm" } else { "model.norm" };
    let normed = layer.elementwise(&[INPUT], name, if parallel { 2 * hidden } else { hidden });
    if c.class().ends_with("ForSequenceClassification") || c.class().ends_with("ForTokenClassification") {
        // transformers computes the scores of all tokens and takes the last one's.
        layer.linear(normed, "score", Head, hidden, c.labels()?, c.class().ends_with("ForTokenClassification"));
    } else if c.class().ends_with("ForQuestionAnswering") {
        // Where an answer begins, and where it ends.
        layer.linear(normed, "qa_outputs", Head, hidden, 2, true);
    } else if !c.class().ends_with("Model") || c.class().ends_with("LMHeadModel") {
        layer.product(
            normed,
            Linear {
                name: "lm_head".to_owned(),
                component: Head,
                side: Side::Main,
                inputs: hidden,
                outputs: vocabulary,
                bias: parallel,
                stored: 1,
                met: 1,
                module: true,
                tied,
            },
        );
    }
    stack.push(layer);
    Ok(())
}

/// Grouped-query attention.
fn attention(c: Config<'_>, style: &Style, layer: &mut Layer, from: usize, window: Option<u64>) -> Result<usize, EstimateError> {
    let (hidden, heads) = (c.size("hidden_size")?, c.size("num_attention_heads")?);
    let key_heads = c.size_or("num_key_value_heads", heads)?;
    c.divides("num_attention_heads", heads, "num_key_value_heads", key_heads)?;
    let width = match (c.optional("head_dim")?, style.head_width) {
        (Some(width), _) | (None, Some(width)) => width,
        (None, None) => c.divides("hidden_size", hidden, "num_attention_heads", heads)?,
    };
    let said = c.flag_or("attention_bias", false)?;
    let (query_bias, output_bias) = (style.query_bias.unwrap_or(said), style.output_bias.unwrap_or(said));
    let (queries, keys, values) = if style.fused {
        let all = layer.linear(from, "self_attn.qkv_proj", AttentionProjections, hidden, (heads + 2 * key_heads) * width, query_bias);
        (all, all, all)
    } else {
        let mut one = |name: &str, heads: u64| {
            layer.linear(from, &format!("self_attn.{name}"), AttentionProjections, hidden, heads * width, query_bias)
        };
        (one("q_proj", heads), one("k_proj", key_heads), one("v_proj", key_heads))
    };
    let (queries, keys) = if style.head_norms {
        (layer.elementwise(&[queries], "self_attn.q_norm", width), layer.elementwise(&[keys], "self_attn.k_norm", width))
    } else {
        (queries, keys)
    };
    if c.model_type() == "gpt_oss" {
        // Sinks stand beside the scores in the softmax and are no product.
        let sinks = layer.elementwise(&[queries], "self_attn.sinks", heads);
        let scores = scores(heads, width, width, window);
        let attended = layer.attention(sinks, keys, values, scores);
        return Ok(layer.linear(attended, "self_attn.o_proj", AttentionProjections, heads * width, hidden, output_bias));
    }
    let attended = layer.attention(queries, keys, values, scores(heads, width, width, window));
    let name = if style.feed_forward == FeedForward::Plain { "self_attn.dense" } else { "self_attn.o_proj" };
    Ok(layer.linear(attended, name, AttentionProjections, heads * width, hidden, output_bias))
}

fn scores(heads: u64, key_width: u64, value_width: u64, window: Option<u64>) -> Attention {
    Attention { heads, key_width, value_width, causal: true, window, side: Side::Main, key_side: Side::Main }
}

/// Multi-head latent attention, as it is trained: keys and values are expanded from the latent for every head.
fn latent(c: Config<'_>, layer: &mut Layer, from: usize, hidden: u64) -> Result<usize, EstimateError> {
    let (heads, plain, rotated) = (c.size("num_attention_heads")?, c.size("qk_nope_head_dim")?, c.size("qk_rope_head_dim")?);
    let (values, rank) = (c.size("v_head_dim")?, c.size("kv_lora_rank")?);
    let bias = c.flag_or("attention_bias", false)?;
    let width = plain + rotated;
    let queries = match c.optional("q_lora_rank")? {
        None => layer.linear(from, "self_attn.q_proj", AttentionProjections, hidden, heads * width, false),
        Some(rank) => {
            let low = layer.linear(from, "self_attn.q_a_proj", AttentionProjections, hidden, rank, bias);
            let normed = layer.elementwise(&[low], "self_attn.q_a_layernorm", rank);
            layer.linear(normed, "self_attn.q_b_proj", AttentionProjections, rank, heads * width, false)
        }
    };
    let low = layer.linear(from, "self_attn.kv_a_proj_with_mqa", AttentionProjections, hidden, rank + rotated, bias);
    let normed = layer.elementwise(&[low], "self_attn.kv_a_layernorm", rank);
    let expanded = layer.linear(normed, "self_attn.kv_b_proj", AttentionProjections, rank, heads * (plain + values), false);
    let keys = layer.sum(&[expanded, low]);
    let attended = layer.attention(queries, keys, expanded, scores(heads, width, values, None));
    Ok(layer.linear(attended, "self_attn.o_proj", AttentionProjections, heads * values, hidden, bias))
}

fn feed_forward(c: Config<'_>, style: &Style, layer: &mut Layer, from: usize, hidden: u64, index: u64) -> Result<usize, EstimateError> {
    match style.feed_forward {
        FeedForward::Experts(experts) if moe::has_experts(c, experts, index)? => moe::experts(c, experts, layer, from, hidden),
        FeedForward::Plain => {
            let width = c.size_or("intermediate_size", 4 * hidden)?;
            let up = layer.linear(from, "mlp.fc1", Mlp, hidden, width, true);
            let active = layer.elementwise(&[up], "mlp.activation_fn", 0);
            Ok(layer.linear(active, "mlp.fc2", Mlp, width, hidden, true))
        }
        _ => Ok(gated(layer, from, "mlp.", (hidden, c.size("intermediate_size")?), style.fused, c.flag_or("mlp_bias", false)?, Mlp)),
    }
}

/// Gate, up and down.
pub(super) fn gated(
    layer: &mut Layer,
    from: usize,
    prefix: &str,
    (hidden, width): (u64, u64),
    fused: bool,
    bias: bool,
    component: Component,
) -> usize {
    let active = if fused {
        let both = layer.linear(from, &format!("{prefix}gate_up_proj"), component, hidden, 2 * width, bias);
        layer.elementwise(&[both], "activation", 0)
    } else {
        let gate = layer.linear(from, &format!("{prefix}gate_proj"), component, hidden, width, bias);
        let up = layer.linear(from, &format!("{prefix}up_proj"), component, hidden, width, bias);
        layer.elementwise(&[gate, up], "activation", 0)
    };
    layer.linear(active, &format!("{prefix}down_proj"), component, width, hidden, bias)
}

/// The window of each layer.
fn windows(c: Config<'_>, style: &Style, layers: u64) -> Result<Vec<Option<u64>>, EstimateError> {
    // 0 is what transformers writes where windows are switched off.
    let window = Some(c.count_or("sliding_window", 0)?).filter(|w| *w > 0);
    let every = |n: u64| (0..layers).map(|i| window.filter(|_| (i + 1) % n != 0)).collect();
    if let (Some(types), false) = (c.words("layer_types")?, matches!(style.windows, Windows::None)) {
        if types.len() as u64 != layers {
            return Err(contradiction(("layer_types", types.len() as u64), ("num_hidden_layers", layers), "there must be a type a layer"));
        }
        return types
            .iter()
            .map(|t| match *t {
                "full_attention" => Ok(None),
                "sliding_attention" if window.is_some() => Ok(window),
                "sliding_attention" => {
                    Err(EstimateError::Missing { field: "sliding_window".to_owned(), model_type: c.model_type().to_owned() })
                }
                other => Err(EstimateError::Wrong {
                    field: "layer_types".to_owned(),
                    value: other.to_owned(),
                    expected: "full_attention or sliding_attention".to_owned(),
                }),
            })
            .collect();
    }
    Ok(match style.windows {
        Windows::None => vec![None; usize::try_from(layers).unwrap_or(0)],
        Windows::All => (0..layers).map(|_| window).collect(),
        Windows::Upper => {
            let (used, from) = (c.flag_or("use_sliding_window", false)?, c.count_or("max_window_layers", 28)?);
            (0..layers).map(|i| window.filter(|_| used && i >= from)).collect()
        }
        Windows::But(n) => every(c.size_or("sliding_window_pattern", n)?),
    })
}
