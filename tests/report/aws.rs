//! `flops_meter.json`: the toolkit's keys, order and types.

use std::{fs, path::Path};

use flopsprof::evidence::record::Declare;
use serde_json::Value;

use crate::{flopsprof, synthetic::Evidence};

/// The keys that the toolkit's code writes, in its order, with the types that they can have (`flops_meter.py`, 17.12.2025).
const KEYS: [(&str, &[&str]); 22] = [
    ("N_total", &["int"]),
    ("N_trainable", &["int"]),
    ("tokens_processed", &["int"]),
    ("Flops_architecture", &["str", "float"]),
    ("Flops_hardware", &["str", "null"]),
    ("pct_of_pretrain", &["float", "null"]),
    ("exceeds_30pct", &["bool", "null"]),
    ("model_name", &["str"]),
    ("num_epochs", &["float"]),
    ("training_duration_seconds", &["float", "int"]),
    ("gpu_size", &["int"]),
    ("gpu_rank", &["int"]),
    ("Flops_original", &["str", "null"]),
    ("threshold_type", &["str"]),
    ("threshold_value", &["str"]),
    ("training_job_name", &["str"]),
    ("training_id", &["str"]),
    ("recipe_config", &["str"]),
    ("recipe_config_details", &["object", "null"]),
    ("gpu_name", &["str", "null"]),
    ("instance_type", &["str", "null"]),
    ("model_package_group_name", &["str", "null"]),
];

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// Writes the file for a run, and checks its form.
fn meter(evidence: &[Evidence], options: &[&str], env: &[(&str, &str)]) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder");
    evidence.iter().for_each(|e| drop(e.write(folder.path())));
    let file = folder.path().join("flops_meter.json");
    let mut command = flopsprof();
    command.args(["report", "--aws"]).arg(&file).args(options).arg(folder.path()).envs(env.iter().copied());
    let output = command.output().expect("the command");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(&file).expect("the file");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    // In the text, because a map forgets the order.
    let at = |key: &str| text.find(&format!("\n  \"{key}\":")).unwrap_or_else(|| panic!("{key} is not in {text}"));
    let places: Vec<usize> = KEYS.iter().map(|(key, _)| at(key)).chain([at("flopsprof")]).collect();
    assert!(places.is_sorted(), "{text}");
    assert_eq!(json.as_object().expect("an object").len(), KEYS.len() + 1, "{text}");
    for (key, kinds) in KEYS {
        assert!(kinds.contains(&kind(&json[key])), "{key} is a {}: {text}", kind(&json[key]));
    }
    json
}

fn trained(simulated: bool) -> Evidence {
    let declared = Some(Declare { parameters: 3_210_000_000, trainable: 2_290_000, ..Declare::default() });
    let mut evidence = Evidence { declared, tokens: 1_000_000, ..Evidence::counted("node", 0, 1, 6) };
    evidence.start.simulated = simulated;
    evidence
}

#[test]
fn numbers_are_written_as_the_toolkit_writes_them() {
    let job = [
        ("TRAINING_JOB_NAME", "pipelines-abc123-TrainingStep-xyz789"),
        ("TRAINING_INSTANCE_TYPE", "ml.p5en.48xlarge"),
        ("MODEL_PACKAGE_GROUP_NAME", "group"),
    ];
    let json = meter(&[trained(false)], &[], &[&job[..], &[("PRETRAIN_FLOPS", "1.5e24")]].concat());
    // (4 x 3.21e9 + 2 x 2.29e6) x 1e6, the formula that the toolkit documents.
    assert_eq!(json["Flops_architecture"], " 1.28e+16");
    assert_eq!((&json["Flops_hardware"], &json["Flops_original"]), (&" 2.40e+16".into(), &" 1.50e+24".into()));
    // One third, not 30 %, and not the whole.
    assert_eq!((&json["threshold_type"], &json["threshold_value"]), (&"30pct_of_actual_pretraining".into(), &" 5.00e+23".into()));
    assert_eq!((&json["exceeds_30pct"], &json["flopsprof"]["verdict"]), (&false.into(), &"below".into()));
    assert!((json["pct_of_pretrain"].as_f64().expect("a number") - 2.4e16 / 1.5e24).abs() < 1e-20);
    assert_eq!((&json["training_job_name"], &json["training_id"]), (&job[0].1.into(), &"xyz789".into()));
    assert_eq!((&json["instance_type"], &json["model_package_group_name"]), (&job[1].1.into(), &"group".into()));
    assert_eq!((&json["gpu_size"], &json["gpu_name"]), (&1.into(), &"Stand-in H100".into()));
    assert_eq!(json["flopsprof"]["executed_flop"], (6 * crate::synthetic::WINDOW_FLOP).to_string());
}

/// Each number that is not the toolkit's is named, with what it would have been where that can be told.
#[test]
fn the_corrections_are_told_with_their_reasons() {
    // Above 30 % of the base model's compute, and not above a third.
    let mut evidence = trained(false);
    evidence.tokens = 5_000_000;
    let json = meter(&[evidence], &["--base", "acme/base", "--base-flops", "7.5e16"], &[]);
    let corrections = json["flopsprof"]["corrections"].as_array().expect("a list");
    let of = |key: &str| corrections.iter().find(|c| c["key"] == key).unwrap_or_else(|| panic!("{key} is not corrected"));
    for (key, _) in KEYS.iter().filter(|(k, _)| corrections.iter().any(|c| c["key"] == *k)) {
        assert!(of(key)["why"].as_str().is_some_and(|w| w.len() > 40), "{key}");
    }
    // Below 1e23 the toolkit compares with 3.3e22 although the base model's compute is known.
    assert_eq!((&of("threshold_value")["toolkit"], &json["threshold_value"]), (&" 3.30e+22".into(), &" 2.50e+16".into()));
    assert_eq!(of("exceeds_30pct")["toolkit"], false);
}

#[test]
fn what_is_not_known_is_null_or_zero_as_the_toolkit_has_it() {
    let json = meter(&[Evidence::counted("node", 0, 2, 3)], &[], &[]);
    assert_eq!((&json["Flops_architecture"], &json["N_total"], &json["gpu_size"]), (&0.0.into(), &0.into(), &2.into()));
    assert_eq!((&json["Flops_original"], &json["exceeds_30pct"]), (&Value::Null, &Value::Null));
    assert_eq!(json["threshold_value"], " 3.33e+22");
    assert_eq!((&json["flopsprof"]["lower_bound"], &json["flopsprof"]["simulated"]), (&true.into(), &true.into()));
}

#[test]
fn a_simulated_run_exceeds_nothing() {
    let json = meter(&[trained(true)], &["--base", "tiny", "--base-flops", "10"], &[]);
    assert_eq!((&json["exceeds_30pct"], &json["flopsprof"]["verdict"]), (&Value::Null, &"withheld".into()));
}

/// SageMaker's folder says which recipe it was, and what the recipe says of the model.
#[test]
fn the_recipe_is_read_where_sagemaker_puts_it() {
    let opt_ml = tempfile::tempdir().expect("a temporary folder");
    let put = |path: &str, text: &str| {
        let path = opt_ml.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    put("input/config/hyperparameters.json", r#"{"config": "\"recipes/lora.yaml\""}"#);
    put("code/recipes/lora.yaml", "model_name_or_path: meta-llama/Llama-3.2-3B\nnum_train_epochs: 10\ncompute_flops: true\nlora_r: 8\n");
    let job = flopsprof::report::aws::Job::read(opt_ml.path());
    assert_eq!(job.recipe, "\"recipes/lora.yaml\"");
    assert_eq!(job.recipe_details.expect("its content")["num_train_epochs"], 10);
    assert_eq!(flopsprof::report::aws::Job::read(Path::new("/nowhere")).recipe, "");
}
