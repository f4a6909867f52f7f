//! Adapters that take something once a batch: DoRA, and those of stacked experts. What each product counts is held by the goldens; here, what a user sees.

use serde_json::Value;

use super::{
    LLAMA_3B,
    command::{flopsprof, golden, golden_config, json},
    folder,
};

fn number(estimate: &Value, field: &str) -> u128 {
    estimate[field].as_str().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{field} of {estimate}"))
}

fn refused(args: &[&str], code: i32, words: &[&str]) {
    let output = flopsprof(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(code) && output.stdout.is_empty(), "{args:?}: {said}");
    assert!(words.iter().all(|w| said.contains(w)), "{args:?}: {words:?} are not in {said}");
}

/// LoRA's products, a magnitude a row of the matrix, and products of both matrices that come once a batch however long it is.
#[test]
fn dora_stands_beside_lora_by_what_it_takes_a_batch() {
    let (_dir, path) = folder(&[("config.json", LLAMA_3B)]);
    let of = |more: &[&str]| {
        let said = json(&[&[path.to_str().expect("UTF-8"), "--rows", "64", "-s", "512", "--method", "lora,dora"], more].concat());
        [said["estimates"][0].clone(), said["estimates"][1].clone()]
    };
    let more = |both: &[Value; 2], field| number(&both[1], field) - number(&both[0], field);
    let plain = of(&[]);
    // 28 layers; queries of 3072 x 3072, values of 3072 x 1024, rank 8; 64 rows in batches of 8.
    let once = 28 * (2 * 3072 * 8 * (3072 + 3072) + 2 * 3072 * 8 * (3072 + 1024));
    assert_eq!((more(&plain, "forward"), more(&plain, "backward")), (8 * once, 0));
    let trained = |e: &Value| e["parameters"]["trainable"].as_u64().expect("a number");
    assert_eq!(trained(&plain[1]) - trained(&plain[0]), 28 * (3072 + 1024), "magnitudes");
    assert_eq!(more(&of(&["--batch-size", "64"]), "forward"), once);
    assert_eq!(more(&of(&["--gradient-checkpointing"]), "recomputed"), 8 * once);
    // With dropout, the frozen product once more.
    let dropped = of(&["--lora-dropout", "0.05"]);
    assert_eq!(more(&dropped, "forward") - 8 * once, 28 * 64 * 512 * 2 * 3072 * (3072 + 1024));
    assert_eq!(of(&["--lora-dropout", "0"])[1], plain[1]);
    let notes = plain[1]["notes"].to_string();
    assert!(notes.contains("DoRA") && notes.contains("8 batches are taken"), "{notes}");
    assert!(plain[1]["method"].as_str().is_some_and(|m| m.starts_with("dora r=8 q_proj")), "{}", plain[1]["method"]);
    // Without a length nobody knows how many batches there are.
    let said = json(&[path.to_str().expect("UTF-8"), "--tokens", "1M", "--method", "dora"]);
    assert!(said["estimates"][0]["notes"].to_string().contains("once a batch, which is left out"), "{said}");
}

/// As FlopCounterMode counted it in the golden: with attention in full, in one batch.
#[test]
fn adapters_of_stacked_experts_are_estimated_from_the_command_line() {
    let file = format!("{}/tests/estimate/golden/mixtral.json", env!("CARGO_MANIFEST_DIR"));
    let recorded: Value = serde_json::from_slice(&std::fs::read(file).expect("a golden")).expect("JSON");
    let counted = |with: &dyn Fn(&Value) -> bool| {
        let all = recorded["counted"].as_array().expect("counts");
        all.iter().find(|c| c["checkpointing"] == false && with(c)).expect("a count").clone()
    };
    let (_dir, path) = golden("mixtral");
    for (theirs, options) in [
        (
            counted(&|c| c["target_parameters"].is_array()),
            &["--lora-targets", "q_proj,v_proj", "--lora-parameters", "mlp.experts.gate_up_proj,mlp.experts.down_proj"][..],
        ),
        (counted(&|c| c["targets"] == "all-linear"), &["--lora-targets", "all-linear"]),
        (counted(&|c| c["targets"].to_string().contains("w1")), &["--lora-targets", "v_proj,w1,w2,w3"]),
    ] {
        let said = json(&[&[&path, "--rows", "2", "-s", "96", "--attention", "full", "--method", "lora"], options].concat());
        let ours = &said["estimates"][0];
        let theirs_of = |field: &str| u128::from(theirs[field].as_u64().expect("a number"));
        let off = |ours: u128, theirs: u128| (ours as f64 / theirs as f64 - 1.0).abs();
        assert!(off(number(ours, "forward"), theirs_of("forward")) < 1e-3, "{ours} for {theirs}");
        assert!(off(number(ours, "backward"), theirs_of("backward")) < 1e-3, "{ours} for {theirs}");
        assert_eq!(ours["parameters"]["trainable"], theirs["trainable"]);
        assert!(ours["notes"].to_string().contains("target_parameters"), "{ours}");
    }
    // By parameters alone: nothing else is adapted.
    let said = json(&[&path, "--rows", "2", "-s", "96", "--method", "lora", "--lora-parameters", "down_proj"]);
    assert_eq!(said["estimates"][0]["parameters"]["trainable"], 3 * 4 * 8 * (640 + 256));
}

/// Where experts are modules of their own, adapters are of each, and tokens go through those of the experts that they meet: nothing is multiplied out.
#[test]
fn adapters_of_experts_that_are_modules_are_estimated_from_the_command_line() {
    let (_dir, path) = golden("mixtral");
    let of = |experts: &str, more: &[&str]| {
        let all = [&[&path, "--rows", "2", "-s", "96", "--experts", experts], more].concat();
        json(&all)["estimates"][0].clone()
    };
    let lora = ["--method", "lora", "--lora-targets", "w1,w2,w3"];
    let (stacked, modules) = (of("stacked", &lora), of("modules", &lora));
    // Three layers of four experts of 256 x 640, rank 8; a token meets two of them.
    assert_eq!(modules["parameters"]["trainable"], 3 * 4 * 3 * 8 * (256 + 640));
    let met = |e: &Value| e["parameters"]["active"].as_u64().expect("a number");
    assert_eq!(met(&modules) - met(&of("modules", &["--method", "full"])), 3 * 2 * 3 * 8 * (256 + 640), "those of two experts of four");
    let components = modules["components"].as_array().expect("components");
    let adapters = components.iter().find(|c| c["component"] == "adapters").expect("adapters");
    assert_eq!(number(adapters, "forward"), 3 * 3 * 2 * (2 * 96) * 2 * 8 * (256 + 640));
    assert!(!modules["notes"].to_string().contains("target_parameters") && stacked["notes"].to_string().contains("target_parameters"));
    assert!(number(&stacked, "backward") > 2 * number(&modules, "backward"), "the whole gradient of what is adapted: {stacked} {modules}");
    // Full training is the same whatever they are kept as.
    let full = |experts| ["forward", "backward"].map(|f| number(&of(experts, &["--method", "full"]), f));
    assert_eq!(full("stacked"), full("modules"));
    // Patterns name experts one by one: one of four gets a quarter of the gradients.
    let frozen = |pattern| of("modules", &["--method", "frozen", "--unfreeze", pattern]);
    let [none, one, all] =
        [r"layers\.2\.mlp\.experts|w9|lm_head", r"lm_head|layers\.0\.block_sparse_moe\.experts\.2\.w2", r"lm_head|layers\.0\..*\.w2"]
            .map(frozen);
    let each = 2 * (2 * 96) * 2 * 256 * 640;
    assert_eq!(4 * (number(&all, "backward") - number(&one, "backward")), 3 * each, "{none}");
    let trained = |e: &Value| e["parameters"]["trainable"].as_u64().expect("a number");
    assert_eq!((trained(&one) - trained(&none), trained(&all) - trained(&none)), (256 * 640, 4 * 256 * 640));
    let mut many = golden_config("mixtral");
    many["num_local_experts"] = 16_777_216.into();
    let (_many, many) = folder(&[("config.json", &many.to_string())]);
    refused(&[many.to_str().expect("UTF-8"), "--tokens", "1M", "--experts", "modules"], 1, &["num_local_experts", "16777216", "modules"]);
    refused(
        &[&path, "--tokens", "1M", "--experts", "modules", "--method", "frozen", "--unfreeze", r"experts\.4\."],
        1,
        &["unfrozen parameters", "experts"],
    );
}

#[test]
fn adapters_that_peft_refuses_are_refused() {
    let (_dir, path) = golden("mixtral");
    let of = |more: &[&'static str]| [&[path.as_str(), "--rows", "2", "-s", "96", "--method"], more].concat();
    refused(&of(&["dora", "--lora-parameters", "down_proj"]), 2, &["--method dora", "--lora-parameters"]);
    refused(&of(&["lora", "--lora-parameters", "down_proj", "--lora-dropout", "0.1"]), 2, &["--lora-dropout", "--lora-parameters"]);
    refused(&of(&["dora", "--lora-targets", "all-linear"]), 1, &["config.json", "lora parameters", "DoRA"]);
    refused(&of(&["lora", "--lora-targets", "q_proj,w1"]), 1, &["lora targets", "w1", "w3 beside it"]);
    refused(&of(&["lora", "--lora-parameters", "experts.up"]), 1, &["`experts.up`", "mlp.experts.gate_up_proj"]);
    refused(&of(&["lora", "--lora-dropout", "1"]), 2, &["--lora-dropout", "below 1"]);
    refused(&of(&["full", "--lora-parameters", "down_proj"]), 2, &["--lora-parameters", "not asked for"]);
    refused(&of(&["full", "--lora-dropout", "0.1"]), 2, &["--lora-dropout", "not asked for"]);
}
