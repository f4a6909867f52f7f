//! What `flopsprof estimate` takes for granted, or leaves out, it says; and what cannot be read is named.

use std::fs;

use serde_json::json;

use super::{
    LLAMA_3B,
    command::{flopsprof, golden, json},
    folder,
};

fn text(args: &[&str]) -> String {
    let output = flopsprof(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A configuration inside another one has what differs from its class's defaults: the published ones of llava-1.5-7b and pixtral-12b.
#[test]
fn what_a_text_config_leaves_out_is_its_class_s() {
    let llava = json!({"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "tie_word_embeddings": false,
        "text_config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064}});
    let pixtral = json!({"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": {"model_type": "mistral",
        "hidden_size": 5120, "head_dim": 128, "intermediate_size": 14336, "num_hidden_layers": 40, "num_key_value_heads": 8,
        "sliding_window": null, "vocab_size": 131_072}});
    for (config, parameters, field) in
        [(&llava, 6_738_939_904u64, "hidden_size 4096"), (&pixtral, 12_247_782_400, "num_attention_heads 32")]
    {
        let (_dir, path) = folder(&[("config.json", &config.to_string())]);
        let said = json(&[path.to_str().expect("UTF-8"), "--tokens", "1M", "-s", "8192"]);
        let one = &said["estimates"][0];
        assert_eq!(one["parameters"]["total"], parameters);
        let notes = one["notes"].to_string();
        assert!(notes.contains("leaves out") && notes.contains(field), "{notes}");
        // Null is no window, and not the default one.
        assert!(!notes.contains("windows"), "{notes}");
    }
    // By itself it has all its fields, and one that is missing is a mistake.
    let (_dir, path) = folder(&[("config.json", &llava["text_config"].to_string())]);
    let error = String::from_utf8(flopsprof(&[path.to_str().expect("UTF-8"), "--tokens", "1M"]).stderr).expect("UTF-8");
    assert!(error.contains("no `hidden_size`"), "{error}");
}

/// Without lengths nobody knows how many rows there are: a pooler is not computed once a token.
#[test]
fn without_a_length_what_is_once_a_row_is_left_out() {
    let (_dir, path) = golden("bert-classifier");
    let said = json(&[&path, "--tokens", "1M"]);
    let one = &said["estimates"][0];
    let components: Vec<_> = one["components"].as_array().expect("components").iter().map(|c| c["component"].clone()).collect();
    assert_eq!(components, ["attention_projections", "mlp"]);
    assert!(one["notes"].to_string().contains("once a row"), "{one}");
    let (_dir, path) = folder(&[("config.json", LLAMA_3B)]);
    let said = json(&[path.to_str().expect("UTF-8"), "--tokens", "1M"]);
    let notes = said["estimates"][0]["notes"].to_string();
    assert!(notes.contains("attention scores are left out"), "{notes}");
}

#[test]
fn attention_is_taken_as_transformers_computes_it() {
    for (name, more) in [("gemma2", &[][..]), ("gpt-oss", &[]), ("t5", &["--decoder-length", "40"])] {
        let (_dir, path) = golden(name);
        let of = |options: &[&str]| json(&[&[&path[..], "--tokens", "1M", "-s", "96"], more, options].concat())["estimates"][0].clone();
        let (usual, full, flash) = (of(&[]), of(&["--attention", "full"]), of(&["--attention", "flash"]));
        assert_eq!(usual["executed_flop"], full["executed_flop"], "{name}");
        assert!(full["forward"].as_str().map(str::len) >= flash["forward"].as_str().map(str::len) && full["forward"] != flash["forward"]);
        assert!(usual["notes"].to_string().contains("all positions of attention are counted"), "{usual}");
        assert!(flash["notes"].to_string().contains("--attention full"), "{flash}");
    }
    // Elsewhere it depends on the kernel, and is said where that matters.
    let of = |name: &str, options: &[&str]| {
        let (_dir, path) = golden(name);
        json(&[&[&path[..], "-s", "96"], options].concat())["estimates"][0]["notes"].to_string()
    };
    assert!(of("mistral", &["--tokens", "1M"]).contains("with windows whole"));
    assert!(of("llama", &["--tokens", "1000", "--padding", "max"]).contains("with pads whole"));
    assert!(of("llama", &["--tokens", "1000", "--padding", "packed"]).contains("--padding packed-across --attention full"));
    assert_eq!(of("llama", &["--tokens", "960"]), "[]");
    assert_eq!(of("mistral", &["--tokens", "960", "--attention", "full"]), "[]");
    assert_eq!(of("bert", &["--tokens", "1000", "--padding", "max"]), "[]", "which sees all positions, pads too");
}

#[test]
fn the_table_is_read_as_one() {
    let (_dir, path) = golden("mistral");
    let methods = "full,lora,qlora,frozen";
    let said = text(&[
        &path,
        "--tokens",
        "1M",
        "-s",
        "96",
        "--method",
        methods,
        "--freeze-layers",
        "1",
        "--lora-targets",
        "q_proj,k_proj,v_proj,o_proj",
    ]);
    let rows: Vec<_> = said.lines().skip_while(|l| !l.starts_with("method ")).take_while(|l| !l.is_empty()).collect();
    assert!(rows.len() > 10 && rows.iter().all(|r| r.len() == rows[0].len()), "{said}");
    assert_eq!(rows[0].split("  ").filter(|cell| !cell.is_empty()).count(), 5, "{}", rows[0]);
    assert!(rows[0].contains("  lora r=8 q_proj,k_proj,v_pr...  "), "{}", rows[0]);
    // What holds for all methods stands there once.
    assert_eq!(said.matches("with windows whole").count(), 1, "{said}");
    assert!(said.contains("the base model was not stated: --base NAME"), "{said}");
    let said = text(&[&path, "--tokens", "1M", "-s", "96", "--base", "Llama-3.1-8B"]);
    assert!(!said.contains("not stated"), "{said}");
}

#[test]
fn options_that_would_do_nothing_are_wrong_usage() {
    let (_dir, path) = folder(&[("config.json", LLAMA_3B)]);
    let path = path.to_str().expect("UTF-8");
    for (options, word) in [
        (&["--padding", "max"][..], "--padding needs --sequence-length"),
        (&["--method", "frozen"], "--method frozen needs"),
        (&["--gpu", "H100", "--utilisation", "1e-320"], "0.000001 is the least"),
    ] {
        let output = flopsprof(&[&[path, "--tokens", "1M"], options].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && output.stdout.is_empty() && error.contains(word), "{options:?}: {error}");
    }
}

#[test]
fn a_file_of_another_form_is_named() {
    let (dir, _) = folder(&[]);
    let at = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("writing a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    // With the mark that some editors put before it, it is what it is.
    let marked = at("marked.json", &[b"\xef\xbb\xbf", LLAMA_3B.as_bytes()].concat());
    assert_eq!(json(&[&marked, "--tokens", "1M"])["estimates"][0]["model_type"], "llama");
    let wide: Vec<u8> = [0xfeff].into_iter().chain(LLAMA_3B.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let weights = dir.path().join("model.safetensors");
    fs::File::create(&weights).and_then(|f| f.set_len(1 << 40)).expect("a file with a hole");
    for (path, word) in [(at("wide.json", &wide), "UTF-16"), (weights.to_str().expect("UTF-8").to_owned(), "no config.json")] {
        let output = flopsprof(&[&path, "--tokens", "1M"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(word) && error.contains(&path), "{error}");
    }
}

/// What a run says of speed and power is that run's: its peak is of the paths that it used, and power that NVML did not say is not none.
#[test]
fn speed_is_said_as_the_run_measured_it() {
    let (_dir, path) = folder(&[("config.json", LLAMA_3B)]);
    let path = path.to_str().expect("UTF-8");
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/evidence/2026-11-25-simulated-gh100-demo");
    let said = text(&[path, "--tokens", "1M", "-s", "512", "--measured", run]);
    assert!(!said.contains("16-bit") && said.contains("TFLOP/s dense, of the operations it executed"), "{said}");
    assert!(text(&[path, "--tokens", "1M", "-s", "512", "--gpu", "H100", "--utilisation", "0.4"]).contains("989.4 TFLOP/s dense 16-bit"));
    let mut total = flopsprof::ledger::run_total(&flopsprof::evidence::read::read_run(std::path::Path::new(run)).expect("evidence"));
    for device in &mut total.devices {
        device.energy_mj = None;
    }
    let speed = flopsprof::report::estimate::measured(&total, "a run").expect("a speed");
    let hardware = super::job(LLAMA_3B, vec![super::Shape::new(1, 512)], super::Filling::None, 1, super::Method::Full)
        .estimate(Some(&speed))
        .expect("an estimate")
        .hardware
        .expect("a GPU");
    assert_eq!(hardware.energy_kwh, None);
    assert!(hardware.energy_source.contains("not known"), "{}", hardware.energy_source);
}
