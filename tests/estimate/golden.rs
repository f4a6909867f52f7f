//! `golden/*.json`: FlopCounterMode's counts of small models of every known architecture, by `record.py`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use flopsprof::estimate::{
    config::Config,
    cost::Kernel,
    family,
    job::Job,
    method::{Dora, Method, Targets},
    model::Work,
    peft,
    workload::{Filling, Shape, Workload},
};
use serde_json::Value;

fn goldens() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/estimate/golden");
    let mut files: Vec<_> = fs::read_dir(folder).expect("the folder of goldens").flatten().map(|e| e.path()).collect();
    files.sort();
    let read = |p: &Path| serde_json::from_slice(&fs::read(p).expect("a golden")).expect("JSON");
    files.iter().map(|p| (p.file_stem().expect("a name").to_string_lossy().into_owned(), read(p))).collect()
}

fn job(golden: &Value, counted: &Value) -> Job {
    // transformers 4 has experts that are modules of their own.
    let apart = golden["versions"]["transformers"].as_str().expect("a version").starts_with("4.");
    let config = Config::new(&golden["config"]).expect("a configuration").with_experts_apart(apart);
    let mut model = family::model(config).expect("a model").expect("a known architecture");
    model.input_gradients = counted["input_gradients"].as_bool();
    model.reentrant = counted["reentrant"] == true;
    let number = |v: &Value| v.as_u64().unwrap_or(0);
    let shape =
        Shape { rows: number(&golden["rows"]), length: number(&golden["length"]), decoder_length: number(&golden["decoder_length"]) };
    let method = match counted["method"].as_str().expect("a method") {
        "lora" => Method::Lora {
            rank: number(&golden["rank"]),
            ranks: BTreeMap::new(),
            targets: match &counted["targets"] {
                Value::String(_) => Targets::AllLinear,
                list => Targets::Names(serde_json::from_value(list.clone()).expect("names")),
            },
            parameters: serde_json::from_value(counted["target_parameters"].clone()).unwrap_or_default(),
            tried: true,
            dora: (counted["dora"] == true).then(|| Dora { dropout: counted["dropout"].as_f64() > Some(0.0) }),
            also: serde_json::from_value(counted["declared"]["also"].clone()).unwrap_or_default(),
            quantised: false,
        },
        "frozen" => Method::unfrozen(&[counted["trained"].as_str().expect("a pattern").to_owned()]).expect("a pattern"),
        _ => Method::Full,
    };
    let method = peft::converted(method, &model).expect("what PEFT makes of it");
    Job {
        model: Some(model),
        parameters: None,
        workload: Workload::new(vec![shape], Filling::None, 1, None).expect("a workload"),
        lengths_known: true,
        method,
        checkpointing: counted["checkpointing"].as_bool().expect("a switch"),
        // What FlopCounterMode can see, and all that it sees.
        kernel: Kernel::EAGER,
        batches: 1,
    }
}

#[test]
fn every_architecture_counts_as_flop_counter_mode_does() {
    let goldens = goldens();
    assert!(goldens.len() >= 24, "{} goldens", goldens.len());
    let (mut wrong, mut worst, mut cases, mut adapters) = (Vec::new(), 0.0f64, 0, BTreeSet::new());
    for (name, golden) in &goldens {
        for counted in golden["counted"].as_array().expect("counts") {
            adapters.insert((counted["dora"] == true, counted["dropout"].is_number(), counted["target_parameters"].is_array()));
            let estimate = job(golden, counted).estimate(None).unwrap_or_else(|e| panic!("{name}: {e}"));
            let backward = estimate.flop.backward + estimate.flop.recomputed;
            for (what, ours, theirs) in
                [("forward", estimate.flop.forward, &counted["forward"]), ("backward", backward, &counted["backward"])]
            {
                let theirs = theirs.as_f64().expect("a number");
                let off = ours as f64 / theirs - 1.0;
                worst = worst.max(off.abs());
                cases += 1;
                if off.abs() > 1e-3 {
                    wrong.push(format!("{name} {} {}: {what} {ours} for {theirs}: {off:+.5}", counted["method"], counted["checkpointing"]));
                }
            }
            for (what, ours) in [("parameters", estimate.parameters.total), ("trainable", estimate.parameters.trainable.expect("known"))] {
                if counted[what].as_u64() != Some(ours) {
                    wrong.push(format!("{name} {}: {what} {ours} for {}", counted["method"], counted[what]));
                }
            }
        }
    }
    assert_eq!(adapters.len(), 4, "plain ones, DoRA without and with dropout, of parameters");
    println!("{cases} counts of {} models; the worst is {worst:.2e} off", goldens.len());
    assert!(wrong.is_empty(), "{} of {cases}\n{}", wrong.len(), wrong.join("\n"));
}

/// Which positions attend to which: the sums of the masks that transformers makes.
#[test]
fn masks_are_counted_as_transformers_makes_them() {
    let mut seen = 0;
    for (name, golden) in goldens() {
        let Some(masks) = golden["mask_pairs"].as_array() else { continue };
        let model = job(&golden, &golden["counted"][0]).model.expect("a model");
        let length = u128::from(golden["length"].as_u64().expect("a length"));
        let attentions: Vec<_> = model
            .layers
            .iter()
            .flat_map(|l| &l.operations)
            .filter_map(|o| if let Work::Attention(a) = &o.work { Some(a) } else { None })
            .collect();
        assert_eq!(attentions.len(), masks.len(), "{name}: layers");
        for (i, (attention, mask)) in attentions.iter().zip(masks).enumerate() {
            let ours = flopsprof::estimate::cost::pairs(attention, length, length, Kernel::FLASH);
            assert_eq!(ours, u128::from(mask.as_u64().expect("a sum")), "{name}, layer {i}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen} masks");
}

/// PEFT 0.17 (with transformers 4.57) makes the product of adapters of stacked experts once a forward pass, where 0.21 makes it twice: FlopCounterMode's counts of the same model there.
#[test]
fn an_older_peft_multiplies_once() {
    let (_, golden) = goldens().into_iter().find(|(name, _)| name == "gpt-oss").expect("the golden");
    let counted = golden["counted"].as_array().expect("counts");
    let counted = counted.iter().find(|c| c["target_parameters"].is_array() && c["checkpointing"] == false).expect("adapters of experts");
    let mut job = job(&golden, counted);
    let Method::Lora { tried, .. } = &mut job.method else { panic!("no adapters") };
    *tried = false;
    let estimate = job.estimate(None).expect("an estimate");
    for (ours, theirs) in [(estimate.flop.forward, 1_655_542_272u64), (estimate.flop.backward, 2_904_096_768)] {
        assert!((ours as f64 / theirs as f64 - 1.0).abs() < 1e-5, "{ours} for {theirs}");
    }
}
