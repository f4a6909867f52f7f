//! The estimate against what PyTorch counted on the real classes, against the Commission's examples and the AWS meter's formula, and against bad input.

#[path = "../synthetic/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod synthetic;

mod adapters;
mod aws;
mod command;
mod commission;
mod golden;
mod published;
mod told;

use std::{collections::BTreeMap, path::PathBuf};

use flopsprof::estimate::{
    config::Config,
    cost::Kernel,
    family,
    job::{Estimate, Job},
    method::{Method, Targets},
    workload::{Filling, Shape, Workload},
};

/// A published shape: Llama-3.2-3B.
const LLAMA_3B: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 3072, "intermediate_size": 8192,
    "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": true}"#;

fn job(config: &str, documents: Vec<Shape>, filling: Filling, batch: u64, method: Method) -> Job {
    let config = serde_json::from_str(config).expect("JSON");
    Job {
        model: family::model(Config::new(&config).expect("a configuration")).expect("a model"),
        parameters: None,
        workload: Workload::new(documents, filling, batch, None).expect("a workload"),
        lengths_known: true,
        method,
        checkpointing: false,
        kernel: Kernel::FLASH,
        batches: 1,
    }
}

fn estimate(job: &Job) -> Estimate {
    job.estimate(None).expect("an estimate")
}

fn lora(rank: u64, targets: &[&str]) -> Method {
    Method::Lora {
        rank,
        ranks: BTreeMap::new(),
        targets: Targets::Names(targets.iter().map(|t| (*t).to_owned()).collect()),
        parameters: Vec::new(),
        tried: true,
        dora: None,
        also: Vec::new(),
        quantised: false,
    }
}

/// A folder with files of these contents.
fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("writing a file");
    }
    let path = dir.path().to_owned();
    (dir, path)
}
