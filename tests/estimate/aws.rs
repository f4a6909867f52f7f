//! The AWS Fine-Tuning FLOPs Meter's formula beside ours, where it goes wrong. Its errors of reading a live model (parameters before PEFT wraps them, packed
//! 4-bit weights, partitioned ones, tokens after a resume) are tested with the Python package.

use flopsprof::estimate::{
    method::Method,
    workload::{Filling, Shape},
};

use super::{LLAMA_3B, estimate, job, lora};

/// Its formula: F = (4 N + 2 N_trainable) D.
fn aws(parameters: u64, trainable: u64, tokens: u64) -> f64 {
    (4.0 * parameters as f64 + 2.0 * trainable as f64) * tokens as f64
}

fn off(value: f64, truth: f64) -> f64 {
    value / truth - 1.0
}

/// Error 7: it says that it leaves pads out and counts them.
#[test]
fn pads_are_counted_apart() {
    let lengths = vec![Shape::new(900, 200), Shape::new(100, 2048)];
    let padded = estimate(&job(LLAMA_3B, lengths.clone(), Filling::Longest, 16, Method::Full));
    let bare = estimate(&job(LLAMA_3B, lengths, Filling::None, 16, Method::Full));
    assert_eq!(padded.tokens, 900 * 200 + 100 * 2048);
    assert!(padded.executed_tokens > 3 * padded.tokens, "{} of {}", padded.executed_tokens, padded.tokens);
    let theirs = aws(padded.parameters.total, padded.parameters.trainable.expect("known"), padded.executed_tokens);
    let trained_on = bare.model_flop.parse::<f64>().expect("a number");
    assert!(off(theirs, trained_on) > 2.0, "AWS {theirs:e}, of real tokens {trained_on:e}");
    assert_eq!(padded.six_nd, bare.six_nd, "D is what is trained on");
}

/// Error 10: every expert is taken for one that every token meets.
#[test]
fn of_experts_only_those_met_count() {
    // Mixtral-8x7B's shape.
    let config = r#"{"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8,
        "num_experts_per_tok": 2, "sliding_window": null}"#;
    let ours = estimate(&job(config, vec![Shape::new(1000, 1024)], Filling::None, 1, Method::Full));
    assert_eq!(ours.parameters.total, 46_702_792_704);
    assert_eq!(ours.parameters.active, 12_879_925_248);
    let theirs = aws(ours.parameters.total, ours.parameters.trainable.expect("known"), ours.tokens);
    let flop: f64 = ours.model_flop.parse().expect("a number");
    assert!((3.4..3.7).contains(&(theirs / flop)), "AWS {theirs:e}, ours {flop:e}");
}

/// Error 10: no attention. At 32k tokens it is more than half of what is executed besides.
#[test]
fn attention_is_in() {
    let ours = estimate(&job(LLAMA_3B, vec![Shape::new(10, 32_768)], Filling::None, 1, Method::Full));
    let theirs = aws(ours.parameters.total, ours.parameters.trainable.expect("known"), ours.tokens);
    let flop: f64 = ours.model_flop.parse().expect("a number");
    // 6 L d s per token against 6 N: 28 x 3072 x 32768 over 3.21e9.
    assert!((0.8..0.95).contains(&off(flop, theirs)), "AWS {theirs:e}, ours {flop:e}");
}

/// Error 10: a table of embeddings is looked up, not multiplied with.
#[test]
fn looked_up_embeddings_execute_nothing() {
    // Qwen2.5-0.5B's shape, untied: 28 % of its parameters are the table.
    let config = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": false}"#;
    let ours = estimate(&job(config, vec![Shape::new(1000, 64)], Filling::None, 1, Method::Full));
    let theirs = aws(ours.parameters.total, ours.parameters.trainable.expect("known"), ours.tokens);
    let flop: f64 = ours.model_flop.parse().expect("a number");
    assert!(off(theirs, flop) > 0.2, "AWS {theirs:e}, ours {flop:e}");
}

/// Error 17: the numbers of its own announcement.
#[test]
fn the_blogs_sample_is_not_the_model_it_names() {
    let tokens = 1_000_000;
    let adapters = estimate(&job(LLAMA_3B, vec![Shape::new(500, 2000)], Filling::None, 1, lora(8, &["q_proj", "v_proj"])));
    assert_eq!(adapters.parameters.total - adapters.parameters.adapters, 3_212_749_824, "the blog's N_total is 1585294704");
    assert_eq!(adapters.parameters.trainable, Some(2_293_760), "the blog's N_trainable is 680094720");
    let formula: f64 = adapters.four_n_two_t.expect("known").parse().expect("a number");
    assert_eq!(format!("{formula:.2e}"), "1.29e16");
    assert!(6.7e18 / formula > 500.0, "the blog says 6.7e18 for these tokens");
    let full = estimate(&job(LLAMA_3B, vec![Shape::new(500, 2000)], Filling::None, 1, Method::Full));
    let six_nd: f64 = full.six_nd.parse().expect("a number");
    assert_eq!(format!("{six_nd:.2e}"), "1.93e16");
    assert!(1.9e19 / six_nd > 900.0, "the blog says 1.9e19");
    assert_eq!(full.tokens, tokens);
    // Its own sample, by its own formula.
    assert_eq!(format!("{:.2e}", aws(1_585_294_704, 680_094_720, 2150)), "1.66e13", "the sample prints 1.45e13");
}

/// `4 N + 2 N_trained` takes every frozen weight for one that a gradient passes. It does not reach below the lowest layer that is trained.
#[test]
fn a_frozen_lower_half_has_no_backward_pass() {
    let method = Method::FrozenLayers(14);
    let ours = estimate(&job(LLAMA_3B, vec![Shape::new(1000, 1024)], Filling::None, 1, method));
    let theirs = aws(ours.parameters.total, ours.parameters.trainable.expect("known"), ours.tokens);
    let flop: f64 = ours.model_flop.parse().expect("a number");
    assert!(off(theirs, flop) > 0.15, "AWS {theirs:e}, ours {flop:e}");
}
