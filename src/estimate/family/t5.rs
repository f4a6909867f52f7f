//! T5: an encoder, and a decoder that attends to it.

use super::{
    super::{
        EstimateError,
        config::Config,
        model::{Attention, Component, ENCODER, INPUT, Layer, Linear, Model, Side},
    },
    of_rows,
};
use Component::{AttentionProjections, Head, Mlp};

/// Buckets of relative positions, where the configuration does not say.
const BUCKETS: u64 = 32;

struct Sizes {
    hidden: u64,
    heads: u64,
    width: u64,
    feed_forward: u64,
    gated: bool,
    /// Dropout keeps a mask, so that what it is applied to is computed again under checkpointing.
    dropout: bool,
}

/// Reads a T5.
pub(super) fn model(c: Config<'_>) -> Result<Model, EstimateError> {
    let feed = c.word_or("feed_forward_proj", "relu")?;
    let sizes = Sizes {
        hidden: c.size("d_model")?,
        heads: c.size("num_heads")?,
        width: c.size("d_kv")?,
        feed_forward: c.size("d_ff")?,
        gated: feed.starts_with("gated"),
        dropout: c.share_or("dropout_rate", 0.1)? > 0.0,
    };
    let class = c.class();
    let is = |kind: &str| class.ends_with(kind);
    // What tokens of the input mean, it says without a decoder.
    let encoder_only = is("EncoderModel") || is("ForTokenClassification");
    let (vocabulary, layers) = (c.size("vocab_size")?, c.layers("num_layers")?);
    let below = c.size_or("num_decoder_layers", layers)?;
    let buckets = c.size_or("relative_attention_num_buckets", BUCKETS)?;
    let mut stack = Vec::new();
    for (name, side, count) in [("encoder", Side::Encoder, layers), ("decoder", Side::Main, below)] {
        if encoder_only && side == Side::Main {
            continue;
        }
        for i in 0..count {
            let mut layer = Layer::hidden(format!("{name}.block.{i}."), side, i);
            if i == 0 {
                // The first block has the biases by relative position for all of its stack.
                let biases = layer.elementwise(&[], "layer.0.SelfAttention.relative_attention_bias", buckets * sizes.heads);
                debug_assert_eq!(biases, 1);
            }
            let mut hidden = attention(&mut layer, INPUT, None, "layer.0.SelfAttention", side, &sizes);
            let feed = if side == Side::Main {
                hidden = attention(&mut layer, hidden, Some(ENCODER), "layer.1.EncDecAttention", side, &sizes);
                "layer.2.DenseReluDense"
            } else {
                "layer.1.DenseReluDense"
            };
            feed_forward(&mut layer, hidden, feed, &sizes);
            stack.push(layer);
        }
        let mut last = Layer::new(format!("{name}."), side);
        last.elementwise(&[INPUT], "final_layer_norm", sizes.hidden);
        stack.push(last);
    }
    if is("ForTokenClassification") || is("ForQuestionAnswering") {
        let name = if encoder_only { "classifier" } else { "qa_outputs" };
        let mut head = Layer::new("", if encoder_only { Side::Encoder } else { Side::Main });
        head.linear(INPUT, name, Head, sizes.hidden, c.labels()?, true);
        stack.push(head);
    } else if is("ForSequenceClassification") {
        let mut head = of_rows();
        let dense = head.linear(INPUT, "classification_head.dense", Head, sizes.hidden, sizes.hidden, true);
        let active = head.elementwise(&[dense], "classification_head.activation", 0);
        head.linear(active, "classification_head.out_proj", Head, sizes.hidden, c.labels()?, true);
        stack.push(head);
    } else if !is("Model") || is("LMHeadModel") {
        let mut head = Layer::new("", Side::Main);
        head.product(
            INPUT,
            Linear {
                name: "lm_head".to_owned(),
                component: Head,
                side: Side::Main,
                inputs: sizes.hidden,
                outputs: vocabulary,
                bias: false,
                stored: 1,
                met: 1,
                module: true,
                tied: c.flag_or("tie_word_embeddings", true)?,
            },
        );
        stack.push(head);
    }
    Ok(Model {
        model_type: c.model_type().to_owned(),
        class: String::new(),
        embeddings: vec![("shared".to_owned(), vocabulary * sizes.hidden)],
        layers: stack,
        encoder_decoder: !encoder_only,
        text: true,
        input_gradients: None,
        reentrant: false,
        fixed_length: None,
        positions: None,
        notes: Vec::new(),
    })
}

fn attention(layer: &mut Layer, from: usize, keys_from: Option<usize>, name: &str, side: Side, sizes: &Sizes) -> usize {
    let normed = layer.elementwise(&[from], &format!("{name}.layer_norm"), sizes.hidden);
    let inner = sizes.heads * sizes.width;
    let keys_from = keys_from.unwrap_or(normed);
    let q = layer.linear(normed, &format!("{name}.q"), AttentionProjections, sizes.hidden, inner, false);
    let k = layer.linear(keys_from, &format!("{name}.k"), AttentionProjections, sizes.hidden, inner, false);
    let v = layer.linear(keys_from, &format!("{name}.v"), AttentionProjections, sizes.hidden, inner, false);
    let cross = keys_from == ENCODER;
    let scores = Attention {
        heads: sizes.heads,
        key_width: sizes.width,
        value_width: sizes.width,
        causal: side == Side::Main && !cross,
        window: None,
        side,
        key_side: if cross { Side::Encoder } else { side },
    };
    let attended = if cross { layer.attention_with_zeros(q, k, v, scores) } else { layer.attention(q, k, v, scores) };
    let out = layer.linear(attended, &format!("{name}.o"), AttentionProjections, inner, sizes.hidden, false);
    let out = dropout(layer, out, sizes);
    layer.sum(&[from, out])
}

fn feed_forward(layer: &mut Layer, from: usize, name: &str, sizes: &Sizes) {
    let normed = layer.elementwise(&[from], &format!("{name}.layer_norm"), sizes.hidden);
    let first =
        |layer: &mut Layer, matrix: &str| layer.linear(normed, &format!("{name}.{matrix}"), Mlp, sizes.hidden, sizes.feed_forward, false);
    let up = if sizes.gated {
        let (gate, up) = (first(layer, "wi_0"), first(layer, "wi_1"));
        layer.elementwise(&[gate, up], "activation", 0)
    } else {
        let up = first(layer, "wi");
        layer.elementwise(&[up], "activation", 0)
    };
    let down = layer.linear(up, &format!("{name}.wo"), Mlp, sizes.feed_forward, sizes.hidden, false);
    let down = dropout(layer, down, sizes);
    layer.sum(&[from, down]);
}

fn dropout(layer: &mut Layer, from: usize, sizes: &Sizes) -> usize {
    if sizes.dropout { layer.elementwise(&[from], "dropout", 0) } else { from }
}
