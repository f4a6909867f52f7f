//! Encoders: BERT and ViT.

use super::{
    super::{
        EstimateError,
        config::{Config, contradiction},
        model::{Attention, Component, INPUT, Layer, Linear, Model, Side},
    },
    of_rows,
};
use Component::{AttentionProjections, Head, Mlp};

/// Names of a layer's modules.
struct Names {
    projections: [&'static str; 4],
    feed_forward: [&'static str; 2],
}

const BERT: Names = Names {
    projections: ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"],
    feed_forward: ["intermediate.dense", "output.dense"],
};
const VIT: Names = Names {
    projections: ["attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"],
    feed_forward: ["mlp.fc1", "mlp.fc2"],
};

/// One layer: norms before (ViT) or after (BERT) its two halves.
fn layer(c: Config<'_>, name: String, index: u64, names: &Names, before: bool) -> Result<Layer, EstimateError> {
    let (hidden, heads, width) = (c.size("hidden_size")?, c.size("num_attention_heads")?, c.size("intermediate_size")?);
    let head = c.divides("hidden_size", hidden, "num_attention_heads", heads)?;
    let bias = c.flag_or("qkv_bias", true)?;
    let mut layer = Layer::hidden(name, Side::Main, index);
    let from = if before { layer.elementwise(&[INPUT], "layernorm_before", 2 * hidden) } else { INPUT };
    let [q, k, v] = [0, 1, 2].map(|i| layer.linear(from, names.projections[i], AttentionProjections, hidden, hidden, bias));
    let scores =
        Attention { heads, key_width: head, value_width: head, causal: false, window: None, side: Side::Main, key_side: Side::Main };
    let attended = layer.attention(q, k, v, scores);
    let out = layer.linear(attended, names.projections[3], AttentionProjections, hidden, hidden, true);
    let middle = layer.sum(&[INPUT, out]);
    let normed = layer.elementwise(&[middle], "layernorm", 2 * hidden);
    let up = layer.linear(normed, names.feed_forward[0], Mlp, hidden, width, true);
    let active = layer.elementwise(&[up], "activation", 0);
    let down = layer.linear(active, names.feed_forward[1], Mlp, width, hidden, true);
    if before {
        layer.sum(&[middle, down]);
    } else {
        let sum = layer.sum(&[normed, down]);
        layer.elementwise(&[sum], "output.LayerNorm", 2 * hidden);
    }
    Ok(layer)
}

fn model(c: Config<'_>, embeddings: Vec<(String, u64)>, layers: Vec<Layer>) -> Model {
    Model {
        model_type: c.model_type().to_owned(),
        class: String::new(),
        embeddings,
        layers,
        encoder_decoder: false,
        text: true,
        input_gradients: None,
        reentrant: false,
        fixed_length: None,
        positions: None,
        notes: Vec::new(),
    }
}

/// BERT with the head that `architectures` names.
pub(super) fn bert(c: Config<'_>) -> Result<Model, EstimateError> {
    let (hidden, vocabulary) = (c.size("hidden_size")?, c.size("vocab_size")?);
    let mut stack = Vec::new();
    let mut first = Layer::new("bert.embeddings.", Side::Main);
    first.elementwise(&[INPUT], "LayerNorm", 2 * hidden);
    stack.push(first);
    for i in 0..c.layers("num_hidden_layers")? {
        stack.push(layer(c, format!("bert.encoder.layer.{i}."), i, &BERT, false)?);
    }
    let class = c.class();
    if class.ends_with("ForMaskedLM") || class.ends_with("ForPreTraining") || class.ends_with("LMHeadModel") {
        let mut head = Layer::new("cls.predictions.", Side::Main);
        let tied = c.flag_or("tie_word_embeddings", true)?;
        if !tied {
            // transformers 5 shares it with the decoder's bias where it shares matrices; else it is there, and nobody adds it.
            head.elementwise(&[], "bias", vocabulary);
        }
        let dense = head.linear(INPUT, "transform.dense", Head, hidden, hidden, true);
        let normed = head.elementwise(&[dense], "transform.LayerNorm", 2 * hidden);
        head.product(
            normed,
            Linear {
                name: "decoder".to_owned(),
                component: Head,
                side: Side::Main,
                inputs: hidden,
                outputs: vocabulary,
                bias: true,
                stored: 1,
                met: 1,
                module: true,
                tied,
            },
        );
        stack.push(head);
    }
    if class.ends_with("ForTokenClassification") || class.ends_with("ForQuestionAnswering") {
        let mut head = Layer::new("", Side::Main);
        head.linear(INPUT, "classifier", Head, hidden, c.labels()?, true);
        stack.push(head);
    } else if !class.ends_with("ForMaskedLM") && !class.ends_with("LMHeadModel") {
        let mut pooled = of_rows();
        let pooler = pooled.linear(INPUT, "bert.pooler.dense", Head, hidden, hidden, true);
        let active = pooled.elementwise(&[pooler], "bert.pooler.activation", 0);
        if class.ends_with("ForPreTraining") || class.ends_with("ForNextSentencePrediction") {
            pooled.linear(active, "cls.seq_relationship", Head, hidden, 2, true);
        } else if class.ends_with("ForMultipleChoice") {
            pooled.linear(active, "classifier", Head, hidden, 1, true);
        } else if class.ends_with("ForSequenceClassification") {
            pooled.linear(active, "classifier", Head, hidden, c.labels()?, true);
        }
        stack.push(pooled);
    }
    let positions = ("max_position_embeddings", c.size_or("max_position_embeddings", 512)?);
    let tables = [
        ("bert.embeddings.word_embeddings", vocabulary),
        ("bert.embeddings.position_embeddings", positions.1),
        ("bert.embeddings.token_type_embeddings", c.size_or("type_vocab_size", 2)?),
    ];
    let tables = tables.iter().map(|(name, rows)| ((*name).to_owned(), rows * hidden)).collect();
    Ok(Model { positions: Some(positions), ..model(c, tables, stack) })
}

/// ViT with its classifier.
pub(super) fn vit(c: Config<'_>) -> Result<Model, EstimateError> {
    let (hidden, image, patch) = (c.size("hidden_size")?, c.size_or("image_size", 224)?, c.size_or("patch_size", 16)?);
    if patch > image {
        return Err(contradiction(("patch_size", patch), ("image_size", image), "a patch cannot be larger than the image"));
    }
    let patches = (image / patch) * (image / patch);
    let colours = c.size_or("num_channels", 3)?;
    // A convolution whose stride is its width: a product for every patch.
    let of_patches = |name: &str, component, inputs, outputs| Linear {
        name: name.to_owned(),
        component,
        side: Side::Patches,
        inputs,
        outputs,
        bias: true,
        stored: 1,
        met: 1,
        module: false,
        tied: false,
    };
    let mut first = Layer::new("vit.embeddings.", Side::Main);
    first.product(INPUT, of_patches("patch_embeddings.projection", Component::Embedding, colours * patch * patch, hidden));
    let mut stack = vec![first];
    for i in 0..c.layers("num_hidden_layers")? {
        stack.push(layer(c, format!("vit.layers.{i}."), i, &VIT, true)?);
    }
    let mut last = Layer::new("vit.", Side::Main);
    last.elementwise(&[INPUT], "layernorm", 2 * hidden);
    stack.push(last);
    let class = c.class();
    let mut tables =
        vec![("vit.embeddings.cls_token".to_owned(), hidden), ("vit.embeddings.position_embeddings".to_owned(), (patches + 1) * hidden)];
    if class.ends_with("ForMaskedImageModeling") {
        // All patches are made again from what is known of some: each of `encoder_stride` a side.
        let stride = c.size_or("encoder_stride", 16)?;
        let mut head = Layer::new("", Side::Main);
        head.product(INPUT, of_patches("decoder", Head, hidden, stride * stride * colours));
        stack.push(head);
        tables.push(("vit.embeddings.mask_token".to_owned(), hidden));
    } else {
        let mut head = of_rows();
        if class.ends_with("Model") {
            head.linear(INPUT, "pooler.dense", Head, hidden, c.size_or("pooler_output_size", hidden)?, true);
        } else {
            head.linear(INPUT, "classifier", Head, hidden, c.labels()?, true);
        }
        stack.push(head);
    }
    Ok(Model { text: false, fixed_length: Some(patches + 1), ..model(c, tables, stack) })
}
