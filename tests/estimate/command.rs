//! `flopsprof estimate`, as a user types it.

use std::process::{Command, Output};

use serde_json::Value;

use super::{LLAMA_3B, folder};

pub(super) fn flopsprof(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flopsprof")).arg("estimate").args(args).output().expect("the command")
}

pub(super) fn json(args: &[&str]) -> Value {
    let output = flopsprof(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn methods_stand_side_by_side() {
    let (_dir, path) = folder(&[("config.json", LLAMA_3B)]);
    let path = path.to_str().expect("UTF-8");
    let said = json(&[
        path,
        "--rows",
        "1000",
        "-s",
        "2048",
        "--epochs",
        "2",
        "--method",
        "full,lora,frozen",
        "--freeze-layers",
        "14",
        "--gpu",
        "H200",
        "--utilisation",
        "40%",
    ]);
    let estimates = said["estimates"].as_array().expect("estimates");
    assert_eq!(estimates.len(), 3);
    assert_eq!(said["tier"], "analytic");
    let flop = |i: usize| estimates[i]["executed_flop"].as_str().expect("decimal").parse::<f64>().expect("a number");
    assert!(flop(0) > flop(1) && flop(0) > flop(2));
    assert_eq!(estimates[0]["tokens"], 2 * 1000 * 2048);
    let hours = estimates[0]["hardware"]["gpu_hours"].as_f64().expect("hours");
    assert!((hours - flop(0) / (989.4e12 * 0.4) / 3600.0).abs() < 1e-9 * hours);
    let verdict = |base: &[&str]| {
        let said = json(&[&[path, "--tokens", "1M", "-s", "2048"], base].concat());
        said["estimates"][0]["assessment"]["verdict"].as_str().expect("a verdict").to_owned()
    };
    assert_eq!(verdict(&["--base-flops", "1e23"]), "below");
    assert_eq!(verdict(&["--base-flops", "1e16"]), "above");
    assert_eq!(verdict(&["--base-flops", "6.1e16"]), "inconclusive", "2.03e16, give or take 30 %");
    let output = flopsprof(&[path, "--tokens", "1M", "-s", "2048", "--method", "full,lora"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for word in ["attention scores", "6ND", "recomputed", "lora r=8 q_proj,v_proj", "2,293,760"] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
}

/// Spectrum's files begin with the head and the table, whether they are one matrix or not.
#[test]
fn a_file_of_spectrum_says_what_is_trained() {
    let file = "unfrozen_parameters:\n- ^lm_head.weight$\n- ^model.embed_tokens.weight$\n# mlp.down_proj layers\n- model.layers.1.mlp.down_proj\n- model.layers.27.mlp.down_proj\n";
    let (dir, path) =
        folder(&[("config.json", LLAMA_3B), ("tied.yaml", file), ("head.yaml", "unfrozen_parameters: ['^lm_head.weight$', mlp.up_proj]")]);
    let config = path.to_str().expect("UTF-8");
    let at = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let of =
        |name: &str| json(&[config, "--tokens", "1M", "-s", "512", "--method", "frozen", "--spectrum", &at(name)])["estimates"][0].clone();
    let (tied, head) = (of("tied.yaml"), of("head.yaml"));
    assert_eq!(tied["parameters"]["trainable"], 128_256 * 3072 + 2 * 8192 * 3072);
    assert!(tied["notes"].as_array().expect("notes").is_empty(), "{tied}");
    // Alone the name of a tied head is nobody's, as in torch.
    assert_eq!(head["parameters"]["trainable"], 28 * 8192 * 3072);
    assert!(head["notes"].to_string().contains("^lm_head.weight$") && head["notes"].to_string().contains("stays frozen"), "{head}");
    for (content, word) in [
        ("unfrozen: []", "not there"),
        ("unfrozen_parameters: [1]", "[1]"),
        ("unfrozen_parameters: []", "[]"),
        ("a: [", "YAML"),
        ("- x", "not there"),
    ] {
        std::fs::write(at("wrong.yaml"), content).expect("a file");
        let output = flopsprof(&[config, "--tokens", "1M", "--method", "frozen", "--spectrum", &at("wrong.yaml")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(1) && ["wrong.yaml", "unfrozen_parameters", word].iter().all(|w| said.contains(w)),
            "{content}: {said}"
        );
    }
}

/// A layer ends in a product: the older way to checkpoint makes that one again too.
#[test]
fn reentrant_checkpointing_runs_layers_again_to_their_end() {
    let (_dir, path) = folder(&[("config.json", LLAMA_3B)]);
    let path = path.to_str().expect("UTF-8");
    let again = |more: &[&str]| {
        let said = json(&[&[path, "--rows", "10", "-s", "512", "--gradient-checkpointing"], more].concat());
        said["estimates"][0]["recomputed"].as_str().and_then(|n| n.parse::<u128>().ok()).expect("decimal")
    };
    assert_eq!(again(&["--reentrant"]) - again(&[]), 28 * 10 * 512 * 2 * 8192 * 3072);
    let output = flopsprof(&[path, "--tokens", "1M", "--reentrant"]);
    assert_eq!(output.status.code(), Some(2), "without checkpointing it says nothing");
}

/// A safetensors file of these tensors, without their bytes.
fn weights(head: &str) -> Vec<u8> {
    [&(head.len() as u64).to_le_bytes()[..], head.as_bytes()].concat()
}

/// Most published indexes say bytes, and small models have none: the weights' own heads say how many parameters there are.
#[test]
fn parameters_of_an_unknown_architecture_are_those_of_its_weights() {
    let (dir, path) = folder(&[("config.json", r#"{"model_type": "hyena"}"#)]);
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("a file");
    let parameters = || {
        let output = flopsprof(&[path.to_str().expect("UTF-8"), "--tokens", "10", "--json"]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (said["estimates"][0]["parameters"]["total"].as_u64(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let refused = || matches!(parameters(), (None, said) if said.contains("--params") && said.contains("model.safetensors") && said.contains("`hyena`"));
    assert!(refused());
    let one = r#"{"__metadata__": {"format": "pt"}, "a": {"dtype": "BF16", "shape": [300, 20], "data_offsets": [0, 12000]}, "n": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}"#;
    write("model.safetensors", &weights(one));
    assert_eq!(parameters().0, Some(6001));
    // Of several files, all that the index names.
    write(
        "model.safetensors.index.json",
        br#"{"metadata": {"total_size": 9}, "weight_map": {"a": "model.safetensors", "b": "more.safetensors"}}"#,
    );
    assert!(refused(), "one of them is not here");
    write(
        "more.safetensors",
        &weights(r#"{"b": {"dtype": "F8_E4M3", "shape": [10, 10], "data_offsets": [0, 100]}, "step": {"dtype": "I64", "shape": [1]}}"#),
    );
    assert_eq!(parameters().0, Some(6101));
    for broken in [
        weights(r#"{"b": {"dtype": "U8", "shape": [10, 10]}}"#),
        weights(r#"{"b": {"dtype": "F32", "shape": [-1, 10]}}"#),
        weights(r#"{"b": {"dtype": "F32", "shape": [4294967296, 4294967296]}}"#),
        weights("[]"),
        weights("{"),
        u64::MAX.to_le_bytes().to_vec(),
        Vec::new(),
    ] {
        write("more.safetensors", &broken);
        assert!(refused(), "{}", String::from_utf8_lossy(&broken));
    }
}

#[test]
fn an_unknown_architecture_gets_6nd_and_says_so() {
    let unknown = r#"{"model_type": "hyena", "architectures": ["HyenaForCausalLM"]}"#;
    let index = r#"{"metadata": {"total_parameters": 1000, "total_size": 2000}}"#;
    let (_dir, path) = folder(&[("config.json", unknown), ("model.safetensors.index.json", index)]);
    let path = path.to_str().expect("UTF-8");
    for args in [vec![path, "--tokens", "10"], vec!["--params", "1000", "--tokens", "10"]] {
        let said = json(&args);
        let estimate = &said["estimates"][0];
        assert_eq!((estimate["by"].as_str(), estimate["executed_flop"].as_str()), (Some("6ND"), Some("60000")));
        assert!(estimate["notes"][0].as_str().expect("a note").contains("6ND"), "{estimate}");
        assert_eq!((&estimate["parameters"]["trainable"], &estimate["four_n_two_t"]), (&1000.into(), &"60000".into()));
    }
    // What is trained depends on modules that nobody knows.
    for method in [&["lora"][..], &["qlora"], &["frozen", "--freeze-layers", "2"]] {
        let args = [&["--params", "1000", "--tokens", "10", "--method"], method].concat();
        let estimate = &json(&args)["estimates"][0];
        assert!(estimate["parameters"]["trainable"].is_null() && estimate["four_n_two_t"].is_null(), "{estimate}");
        assert!(estimate["notes"].to_string().contains("what is trained is not known"), "{estimate}");
        let text = String::from_utf8(flopsprof(&args).stdout).expect("UTF-8");
        let row = text.lines().find(|l| l.starts_with("trainable parameters")).expect("the row");
        assert!(row.ends_with("not known"), "{text}");
        // Nothing is recomputed, and is not written as a measurement of it.
        let row = text.lines().find(|l| l.starts_with("recomputed")).expect("the row");
        assert!(row.ends_with(" 0"), "{text}");
    }
}

/// As transformers' `num_train_epochs`.
#[test]
fn a_part_of_an_epoch_is_a_part_of_the_tokens() {
    let (_dir, path) = folder(&[("config.json", LLAMA_3B), ("lengths", "1000 3\n100 1\n")]);
    let (config, lengths) = (path.join("config.json"), path.join("lengths"));
    let (config, lengths) = (config.to_str().expect("UTF-8"), lengths.to_str().expect("UTF-8"));
    let rows = ["--rows", "11", "-s", "100"];
    for (of, epochs, tokens) in [
        (&rows[..], "0.5", 550u64),
        (&rows, "1", 1100),
        (&rows, "1.0", 1100),
        (&rows, "2.25", 2475),
        (&rows, "0.0005", 1),
        (&["--lengths", lengths], "0.5", 1550),
        (&["--lengths", lengths], "3", 9300),
    ] {
        let said = json(&[&[config], of, &["--epochs", epochs]].concat());
        assert_eq!(said["estimates"][0]["tokens"], tokens, "{of:?} {epochs}");
    }
    // Five and a half rows of an encoder and a decoder, six images.
    let (_dir, t5) = golden("t5");
    assert_eq!(json(&[&t5, "--rows", "11", "-s", "30", "--decoder-length", "10", "--epochs", "0.5"])["estimates"][0]["tokens"], 220);
    let (_dir, vit) = golden("vit");
    assert_eq!(json(&[&vit, "--rows", "11", "--epochs", "0.5"])["estimates"][0]["tokens"], 6 * 65);
    for (epochs, code, words) in [
        ("0", 2, "positive number of epochs"),
        ("-0.5", 2, "positive number of epochs"),
        ("NaN", 2, "positive number of epochs"),
        ("inf", 2, "positive number of epochs"),
        ("half", 2, "positive number of epochs"),
        ("1e300", 1, "2^63"),
        ("9e15", 1, "2^63"),
        ("1e-9", 1, "one token"),
    ] {
        let output = flopsprof(&[&[config], &rows[..], &["--epochs", epochs]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{epochs}: {said}");
        assert!(said.contains(words) && said.contains("epochs") && output.stdout.is_empty(), "{epochs}: {said}");
    }
}

/// A table of positions that were learned has an end; rotated and relative ones have none.
#[test]
fn rows_longer_than_the_learned_positions_are_refused() {
    let (lengths, path) = folder(&[("lengths", "100 3\n513 1\n")]);
    let file = path.join("lengths");
    let file = file.to_str().expect("UTF-8");
    for name in ["bert", "bert-classifier"] {
        let (_dir, bert) = golden(name);
        for args in [&["--rows", "10", "-s", "513"][..], &["--tokens", "1M", "-s", "2048"], &["--lengths", file]] {
            let output = flopsprof(&[&[bert.as_str()], args].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
            assert!(said.contains("max_position_embeddings") && said.contains("512") && output.stdout.is_empty(), "{args:?}: {said}");
        }
        for args in [&["--rows", "10", "-s", "512"][..], &["--lengths", file, "-s", "512"], &["--tokens", "1M"]] {
            assert!(json(&[&[bert.as_str()], args].concat())["estimates"][0]["tokens"].as_u64() > Some(300), "{args:?}");
        }
    }
    drop(lengths);
    let (_dir, vit) = golden("vit");
    let output = flopsprof(&[&vit, "--rows", "10", "-s", "66"]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("has 65 tokens"));
    for name in ["llama", "qwen3", "gemma3", "deepseek-v3"] {
        let (_dir, rotary) = golden(name);
        json(&[&rotary, "--rows", "1", "-s", "1M"]);
    }
    let (_dir, relative) = golden("t5");
    json(&[&relative, "--rows", "1", "-s", "1M", "--decoder-length", "10"]);
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_printed() {
    let with = |from: &str, to: &str| LLAMA_3B.replacen(from, to, 1);
    let moe = r#"{"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": 10, "num_local_experts": 2, "num_experts_per_tok": 3}"#;
    for (config, field) in [
        (with("\"hidden_size\": 3072, ", ""), "hidden_size"),
        (with("8192", "-8192"), "intermediate_size"),
        (with("\"num_hidden_layers\": 28", "\"num_hidden_layers\": 0"), "num_hidden_layers"),
        (with("128256", "1.5"), "vocab_size"),
        (with("\"num_key_value_heads\": 8", "\"num_key_value_heads\": 7"), "num_key_value_heads"),
        (with("\"num_attention_heads\": 24", "\"num_attention_heads\": \"24\""), "num_attention_heads"),
        (with("\"head_dim\": 128, ", "\"head_dim\": 9999999999999, "), "head_dim"),
        (with("true", "\"yes\""), "tie_word_embeddings"),
        (with("[\"LlamaForCausalLM\"]", "\"LlamaForCausalLM\""), "`architectures` is \"LlamaForCausalLM\": a list of words"),
        (with("\"model_type\": \"llama\", ", ""), "no `model_type`, which names the architecture: add it"),
        (moe.to_owned(), "num_experts_per_tok"),
        ("[1, 2]".to_owned(), "config.json"),
        ("{".to_owned(), "not JSON"),
    ] {
        let (_dir, path) = folder(&[("config.json", &config)]);
        let output = flopsprof(&[path.to_str().expect("UTF-8"), "--tokens", "1M", "-s", "2048"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("flopsprof: ") && said.contains(field), "{field} is not named: {said}");
        assert!(output.stdout.is_empty(), "half an answer");
    }
}

#[test]
fn wrong_usage_is_named() {
    let (_dir, path) = folder(&[("config.json", LLAMA_3B), ("lengths", "100 3\nmany 7\n")]);
    let config = path.join("config.json");
    let (config, lengths) = (config.to_str().expect("UTF-8"), path.join("lengths"));
    for (args, code, words) in [
        (vec![config, "--tokens", "0"], 2, "--tokens"),
        (vec![config, "--tokens", "-5"], 2, "`-5` is not a positive whole number"),
        (vec![config, "--tokens", "-5"], 2, "-5"),
        (vec![config, "--tokens", "9223372036854775808"], 2, "'--tokens <D>': `9223372036854775808` is too large: it must stay below 2^63"),
        (vec![config, "--tokens", "18446744073709551615"], 2, "2^63"),
        (vec![config, "--tokens", "1.5"], 2, "'--tokens <D>': `1.5` is not a positive whole number"),
        (vec![config, "--tokens", "1.0001K"], 2, "'--tokens <D>'"),
        (vec![config, "--rows", "2.5", "-s", "100"], 2, "'--rows <R>'"),
        (vec![config, "--rows", "2", "-s", "99.9"], 2, "'--sequence-length <S>'"),
        (vec![config, "--tokens", "1M", "--batch-size", "0.5"], 2, "'--batch-size <B>'"),
        (vec![config, "--tokens", "1M", "--method", "lora", "--lora-rank", "7.5"], 2, "'--lora-rank <R>'"),
        (vec!["--params", "1.5", "--tokens", "1M"], 2, "'--params <N>'"),
        (vec![config, "--tokens", "99999999999999999999"], 2, "--tokens"),
        (vec![config, "--rows", "10"], 2, "--sequence-length"),
        (vec![config], 2, "--tokens"),
        (vec![config, "--tokens", "1M", "--method", "lora", "--lora-targets", "q_prj"], 1, "q_prj"),
        (vec![config, "--tokens", "1M", "--method", "frozen"], 2, "--unfreeze"),
        (vec![config, "--tokens", "1M", "--method", "frozen", "--unfreeze", "layers.(99"], 1, "regular expression"),
        (vec![config, "--tokens", "1M", "--method", "frozen", "--unfreeze", r"layers\.99\."], 1, "layers"),
        (vec![config, "--tokens", "1M", "--method", "frozen", "--freeze-layers", "29"], 1, "frozen layers"),
        (vec![config, "--tokens", "1M", "--gpu", "H100"], 2, "--utilisation"),
        (vec![config, "--tokens", "1M", "--gpu", "Gaudi", "--utilisation", "0.4"], 1, "Gaudi"),
        (vec![config, "--tokens", "1M", "--gpu", "H100", "--utilisation", "140%"], 2, "140%"),
        (vec![config, "--lengths", lengths.to_str().expect("UTF-8")], 1, "line 2"),
        (vec!["/nowhere/config.json", "--tokens", "1M"], 1, "/nowhere/config.json"),
        (vec![config, "--rows", "9e18", "-s", "2048"], 1, "2^63"),
        (vec![config, "--tokens", "9.3e18"], 2, "2^63"),
        (vec![config, "--rows", "-3", "-s", "100"], 2, "--rows"),
        (vec!["--params", "-1", "--tokens", "1M"], 2, "--params"),
        (vec![config, "--tokens", "1M", "--freeze-layers", "14"], 2, "--method frozen"),
        (vec![config, "--tokens", "1M", "--method", "full,frozen", "--unfreeze", "up_proj", "--lora-rank", "4"], 2, "--method lora"),
        (vec![config, "--rows", "10", "-s", "128", "--decoder-length", "64"], 2, "--decoder-length"),
        (vec!["--params", "9e18", "--tokens", "9e18"], 1, "params"),
    ] {
        let output = flopsprof(&args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {words} is not in {said}");
        assert!(output.stdout.is_empty(), "{args:?}: half an answer");
    }
}

pub(super) fn golden_config(name: &str) -> Value {
    let file = format!("{}/tests/estimate/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Value = serde_json::from_slice(&std::fs::read(file).expect("a golden")).expect("JSON");
    golden["config"].clone()
}

pub(super) fn golden(name: &str) -> (tempfile::TempDir, String) {
    let (dir, path) = folder(&[("config.json", &golden_config(name).to_string())]);
    (dir, path.to_str().expect("UTF-8").to_owned())
}

#[test]
fn encoders_with_decoders_get_all_tokens() {
    let (_dir, t5) = golden("t5");
    for (tokens, length, decoder) in
        [("1000", "2048", "512"), ("5000", "2048", "512"), ("2561", "2048", "512"), ("2", "2048", "512"), ("10", "1", "3")]
    {
        let said = json(&[&t5, "--tokens", tokens, "-s", length, "--decoder-length", decoder]);
        assert_eq!(said["estimates"][0]["tokens"].to_string(), tokens);
    }
    // Those without a decoder have no rows for one.
    for class in ["T5EncoderModel", "T5ForTokenClassification"] {
        let (_dir, encoder) = golden("t5-encoder");
        let config = std::fs::read_to_string(format!("{encoder}/config.json")).expect("the file");
        let (_dir, path) = folder(&[("config.json", &config.replace("T5EncoderModel", class))]);
        let path = path.to_str().expect("UTF-8");
        assert_eq!(json(&[path, "--rows", "10", "-s", "128"])["estimates"][0]["tokens"], 1280, "{class}");
        assert_eq!(json(&[path, "--tokens", "1000", "-s", "128"])["estimates"][0]["tokens"], 1000, "{class}");
        let output = flopsprof(&[path, "--rows", "10", "-s", "128", "--decoder-length", "64"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains("--decoder-length"), "{class}: {said}");
    }
    for args in [
        vec![t5.as_str(), "--rows", "10", "-s", "128"],
        vec![&t5, "--tokens", "1000", "-s", "128"],
        vec![&t5, "--rows", "10", "-s", "128", "--decoder-length", "64", "--padding", "packed"],
    ] {
        let output = flopsprof(&args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let option = if args.contains(&"packed") { "--padding" } else { "--decoder-length" };
        assert!(output.status.code() == Some(2) && said.contains(option) && output.stdout.is_empty(), "{args:?}: {said}");
    }
}

#[test]
fn images_are_rows_of_a_length_of_their_own() {
    let (_dir, vit) = golden("vit");
    let said = json(&[&vit, "--rows", "10"]);
    assert_eq!(said["estimates"][0]["tokens"], 650, "8 x 8 patches and the class token");
    let (_lengths, path) = folder(&[("lengths", "512 3\n")]);
    let output = flopsprof(&[&vit, "--lengths", path.join("lengths").to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--lengths"));
}

/// Where an answer begins and ends is two numbers a token, no vocabulary. FlopCounterMode gave these of transformers' class, and 512 more for its table of rotations.
#[test]
fn a_head_that_marks_answers_is_no_vocabulary_wide() {
    let config = r#"{"architectures": ["LlamaForQuestionAnswering"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 1280}"#;
    let (_dir, path) = folder(&[("config.json", config)]);
    let said = json(&[path.to_str().expect("UTF-8"), "--rows", "2", "-s", "32", "--attention", "full"]);
    let estimate = &said["estimates"][0];
    assert_eq!(estimate["parameters"]["total"], 164_290, "{estimate}");
    assert_eq!(estimate["forward"], "11550720", "{estimate}");
}

/// A class of somebody's own is taken for the usual one, and not without a word.
#[test]
fn a_class_that_is_not_known_is_said() {
    let (_dir, path) = folder(&[("config.json", &LLAMA_3B.replace("LlamaForCausalLM", "LlamaForRewards"))]);
    let said = json(&[path.to_str().expect("UTF-8"), "--tokens", "1M", "-s", "2048"]);
    let notes = &said["estimates"][0]["notes"];
    assert!(notes[0].as_str().is_some_and(|n| n.contains("LlamaForRewards is not known")), "{notes}");
    let (_dir, path) = folder(&[("config.json", LLAMA_3B)]);
    assert_eq!(json(&[path.to_str().expect("UTF-8"), "--tokens", "1M", "-s", "2048"])["estimates"][0]["notes"], serde_json::json!([]));
}

/// Hidden states, or labels, are no words. FlopCounterMode and `numel` gave the numbers of transformers' classes.
#[test]
fn a_t5_that_says_no_words_has_no_head_for_them() {
    let file = format!("{}/tests/estimate/golden/t5.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Value = serde_json::from_slice(&std::fs::read(file).expect("a golden")).expect("JSON");
    for (class, decoder, head) in [
        ("T5ForConditionalGeneration", true, Some(2 * 256 * 512 * 80)),
        ("T5Model", true, None),
        ("T5EncoderModel", false, None),
        ("T5ForSequenceClassification", true, Some(10 * 2 * 256 * (256 + 2))),
        ("T5ForQuestionAnswering", true, Some(2 * 256 * 2 * 80)),
        ("T5ForTokenClassification", false, Some(2 * 256 * 2 * 640)),
    ] {
        let mut config = golden["config"].clone();
        config["architectures"] = serde_json::json!([class]);
        let (_dir, path) = folder(&[("config.json", &config.to_string())]);
        let of_decoder: &[&str] = if decoder { &["--decoder-length", "8"] } else { &[] };
        let said = json(&[&[path.to_str().expect("UTF-8"), "--rows", "10", "-s", "64"], of_decoder].concat());
        let components = said["estimates"][0]["components"].as_array().expect("components");
        let of = components.iter().find(|c| c["component"] == "head");
        assert_eq!(of.map(|c| c["forward"].as_str().expect("a number").to_owned()), head.map(|n: u64| n.to_string()), "{class}");
    }
}

/// As google/gemma-3-4b-it publishes it: what the language model is, stands in a part of its own, and what is usual is left out.
#[test]
fn a_model_that_also_sees_is_read_by_its_text() {
    let config = r#"{"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "mm_tokens_per_image": 256,
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34, "sliding_window": 1024},
        "vision_config": {"hidden_size": 1152, "image_size": 896, "model_type": "siglip_vision_model", "num_hidden_layers": 27, "patch_size": 14}}"#;
    let (_dir, path) = folder(&[("config.json", config)]);
    let said = json(&[path.to_str().expect("UTF-8"), "--tokens", "1M", "-s", "2048"]);
    let estimate = &said["estimates"][0];
    assert_eq!(estimate["parameters"]["total"], 3_880_263_168u64, "as transformers counts its language model");
    assert!(estimate["notes"][0].as_str().is_some_and(|n| n.contains("text_config")), "{estimate}");
}

fn run_with(recipe: &str, command: &[&str]) -> (tempfile::TempDir, Output) {
    let (dir, path) = folder(&[("recipe.yaml", recipe)]);
    let mut flopsprof = Command::new(env!("CARGO_BIN_EXE_flopsprof"));
    flopsprof.args(["run", "--recipe"]).arg(path.join("recipe.yaml")).args(["--out"]).arg(path.join("evidence")).args(command);
    // None of these is metered, so none needs the library.
    let output = flopsprof.current_dir(&path).env_remove("FLOPS_METER_OUT").env("FLOPSPROF_LIB", "/nowhere").output().expect("the command");
    (dir, output)
}

#[test]
fn a_recipe_that_cannot_be_read_is_named_and_nothing_runs() {
    for (recipe, words) in [
        ("compute_flops: [1, 2", "not YAML"),
        ("just words", "not YAML"),
        ("compute_flops: 3\n", "compute_flops is 3"),
        ("compute_flops: \"yes\"\n", "compute_flops is \"yes\""),
    ] {
        let (dir, output) = run_with(recipe, &["touch", "ran"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{recipe}: {said}");
        assert!(said.contains("recipe.yaml") && said.contains(words), "{recipe}: {said}");
        assert!(!dir.path().join("ran").exists(), "the command ran");
    }
}

#[test]
fn a_recipe_without_the_flag_runs_without_the_meter() {
    for recipe in ["model: x\n", "compute_flops: false\n"] {
        let (_dir, output) = run_with(recipe, &["sh", "-c", "test -z \"$LD_PRELOAD\" && exit 7"]);
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("not metered"));
    }
}
