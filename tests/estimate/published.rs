//! `published.json`: shapes as people publish them, with the counts of transformers and of FlopCounterMode, by `published.py`.

use std::collections::BTreeSet;

use flopsprof::estimate::{cost::Kernel, job::Job, method::Method, workload::Shape};
use serde_json::Value;

use super::{command::golden_config, estimate, job};

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// Two rows with eager attention, whose masked positions FlopCounterMode counts.
fn eager(config: &Value, length: u64, decoder_length: u64) -> Job {
    let shape = Shape { rows: 2, length, decoder_length };
    Job { kernel: Kernel::EAGER, ..job(&config.to_string(), vec![shape], super::Filling::None, 1, Method::Full) }
}

#[test]
fn published_shapes_count_as_transformers_counts_them() {
    let published: Value = serde_json::from_str(include_str!("published.json")).expect("JSON");
    let models = published["models"].as_array().expect("models");
    let mut types = BTreeSet::new();
    for model in models {
        let (name, config) = (&model["name"], &model["config"]);
        types.insert(config["model_type"].as_str().expect("a name"));
        let (length, decoder_length) = match config["model_type"].as_str() {
            Some("t5") => (number(&published["length"]), number(&published["decoder_length"])),
            Some("vit") => ((number(&config["image_size"]) / number(&config["patch_size"])).pow(2) + 1, 0),
            _ => (number(&published["length"]), 0),
        };
        let said = estimate(&eager(config, length, decoder_length));
        assert_eq!(said.parameters.total, number(&model["parameters"]), "{name}");
        for (what, ours) in [("forward", said.flop.forward), ("backward", said.flop.backward)] {
            if let Some(theirs) = model[what].as_f64() {
                let off = ours as f64 / theirs - 1.0;
                assert!(off.abs() < 1e-5, "{name}, {what}: {ours} for {theirs}: {off:+e}");
            }
        }
    }
    let all = "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text phi phi3 mixtral qwen2_moe qwen3_moe deepseek_v2 deepseek_v3 gpt_oss t5 bert vit mistral3";
    assert_eq!(types, all.split(' ').collect(), "all that are known, and one that sees");
}

/// Parameters by `numel` and forward by FlopCounterMode, of the goldens' shapes in the other classes that transformers has for them.
#[test]
fn small_heads_are_those_of_the_class() {
    for (golden, class, parameters, forward) in [
        ("bert", "BertModel", 2_107_264, 736_362_496),
        ("bert", "BertForTokenClassification", 2_041_986, 736_296_960),
        ("bert", "BertForMultipleChoice", 2_107_521, 736_363_520),
        ("bert", "BertForNextSentencePrediction", 2_107_778, 736_364_544),
        ("bert", "BertForPreTraining", 2_174_594, 811_862_016),
        ("vit", "ViTModel", 1_910_912, 498_866_176),
        ("vit", "ViTForMaskedImageModeling", 1_894_720, 511_186_944),
        ("llama", "LlamaForTokenClassification", 2_099_458, 811_797_504u64),
    ] {
        let mut config = golden_config(golden);
        config["architectures"] = serde_json::json!([class]);
        // transformers makes no others of patches of this width.
        config["encoder_stride"] = 8.into();
        let said = estimate(&eager(&config, if golden == "vit" { 65 } else { 96 }, 0));
        assert_eq!(said.parameters.total, parameters, "{class}");
        // FlopCounterMode has the table of rotations besides.
        let off = said.flop.forward as f64 / forward as f64 - 1.0;
        assert!(off.abs() < 1e-5, "{class}: {} for {forward}", said.flop.forward);
    }
}
