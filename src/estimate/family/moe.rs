//! Mixtures of experts: what is stored, and what a token meets.

use super::{
    super::{
        EstimateError,
        config::{Config, contradiction},
        model::{Component, Layer, Linear, Side},
    },
    decoder::gated,
};

/// No model has more experts, all layers together, that are modules: each has a name of its own, which patterns are tried on.
const MOST_MODULES: u64 = 1 << 18;

/// How experts are laid out.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Style {
    Mixtral,
    Qwen2,
    Qwen3,
    DeepSeek,
    GptOss,
}

/// Whether this layer has experts; the others are dense.
pub(super) fn has_experts(c: Config<'_>, style: Style, index: u64) -> Result<bool, EstimateError> {
    Ok(match style {
        Style::Mixtral | Style::GptOss => true,
        Style::Qwen2 | Style::Qwen3 => {
            !c.counts("mlp_only_layers")?.contains(&index) && (index + 1).is_multiple_of(c.size_or("decoder_sparse_step", 1)?)
        }
        Style::DeepSeek => index >= c.count_or("first_k_dense_replace", 0)? && index.is_multiple_of(c.size_or("moe_layer_freq", 1)?),
    })
}

/// Adds the router, the experts and what is shared.
pub(super) fn experts(c: Config<'_>, style: Style, layer: &mut Layer, from: usize, hidden: u64) -> Result<usize, EstimateError> {
    // Published configurations and those that newer releases of transformers write name it differently.
    let names = if style == Style::DeepSeek { ["n_routed_experts", "num_local_experts"] } else { ["num_experts", "num_local_experts"] };
    let count_field = names.into_iter().find(|f| c.get(f).is_some()).unwrap_or(names[0]);
    let (stored, met) = (c.size(count_field)?, c.size("num_experts_per_tok")?);
    if met > stored {
        return Err(contradiction(("num_experts_per_tok", met), (count_field, stored), "a token cannot meet more experts than there are"));
    }
    let layers = c.layers("num_hidden_layers")?;
    if c.experts_apart() && stored.saturating_mul(layers) > MOST_MODULES {
        return Err(contradiction(
            (count_field, stored),
            ("num_hidden_layers", layers),
            "no model has so many experts that are modules of their own",
        ));
    }
    let width = match style {
        Style::Mixtral | Style::GptOss => c.size("intermediate_size")?,
        _ => c.size("moe_intermediate_size")?,
    };
    let bias = style == Style::GptOss;
    // transformers 4 had modules for all but this one.
    let apart = c.experts_apart() && style != Style::GptOss;
    let block = if apart && style == Style::Mixtral { "block_sparse_moe" } else { "mlp" };
    let product = |name: &str, component, inputs, outputs, stored, met| Linear {
        name: format!("{block}.{name}"),
        component,
        side: Side::Main,
        inputs,
        outputs,
        bias,
        stored,
        met,
        // DeepSeek's router never was a module that PEFT can adapt.
        module: apart && (component == Component::Experts || style != Style::DeepSeek),
        tied: false,
    };
    // transformers 5 runs Qwen's shared expert first, 4 ran it last.
    let shared_first = if style == Style::Qwen2 && !apart { Some(shared_expert(c, layer, from, hidden)?) } else { None };
    let router_name = if style == Style::GptOss { "router" } else { "gate" };
    let router = layer.product(from, product(router_name, Component::Router, hidden, stored, 1, 1));
    let mut expert = |from, name: &str, inputs, outputs| {
        layer.product(from, product(&format!("experts.{name}"), Component::Experts, inputs, outputs, stored, met))
    };
    let [gate, up, down] = if style == Style::Mixtral { ["w1", "w3", "w2"] } else { ["gate_proj", "up_proj", "down_proj"] };
    let down = if apart {
        let (gate, up) = (expert(from, gate, hidden, width), expert(from, up, hidden, width));
        let active = layer.elementwise(&[gate, up], "experts.activation", 0);
        layer.product(active, product(&format!("experts.{down}"), Component::Experts, width, hidden, stored, met))
    } else {
        let both = expert(from, "gate_up_proj", hidden, 2 * width);
        let active = layer.elementwise(&[both], "experts.activation", 0);
        layer.product(active, product("experts.down_proj", Component::Experts, width, hidden, stored, met))
    };
    // Weighted by the router: both are kept for the backward pass.
    let routed = layer.elementwise(&[down, router], "experts.weighted", 0);
    match style {
        Style::Mixtral | Style::Qwen3 | Style::GptOss => Ok(routed),
        Style::Qwen2 => {
            let shared = match shared_first {
                Some(shared) => shared,
                None => shared_expert(c, layer, from, hidden)?,
            };
            let gate = layer.linear(from, "mlp.shared_expert_gate", Component::SharedExperts, hidden, 1, false);
            let gated = layer.elementwise(&[shared, gate], "mlp.shared_expert.weighted", 0);
            Ok(layer.sum(&[routed, gated]))
        }
        Style::DeepSeek => {
            let shared = c.count_or("n_shared_experts", 0)?;
            if shared == 0 {
                return Ok(routed);
            }
            let out = gated(layer, from, "mlp.shared_experts.", (hidden, shared * width), false, false, Component::SharedExperts);
            Ok(layer.sum(&[routed, out]))
        }
    }
}

fn shared_expert(c: Config<'_>, layer: &mut Layer, from: usize, hidden: u64) -> Result<usize, EstimateError> {
    let width = c.size("shared_expert_intermediate_size")?;
    Ok(gated(layer, from, "mlp.shared_expert.", (hidden, width), false, false, Component::SharedExperts))
}
