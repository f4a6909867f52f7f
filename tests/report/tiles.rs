//! Tile padding of recorded trainings: counted where a census saw the model's products, by rule where it did not.
//!
//! `tests/evidence/2026-11-26-h200-census-*`: transformers' Trainer on an H200, one census of one whole step in each (`tests/gpu/reconcile.py --tiles`).

use std::path::{Path, PathBuf};

use flopsprof::evidence::{
    read,
    record::{Kernel, Kernels, Phase, Record},
    write::Writer,
};
use serde_json::Value;

use crate::report;

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/evidence/2026-11-26-h200-census-{name}"))
}

/// A line of a run's reconciliation.
fn line(run: &Path, name: &str) -> Value {
    let output = report(run, ["--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let lines = said["reconciliation"]["lines"]["lines"].as_array().unwrap_or_else(|| panic!("{}", said["reconciliation"])).clone();
    lines.into_iter().find(|l| l["name"] == name).expect("the line")
}

fn share(run: &Path, name: &str) -> f64 {
    line(run, name)["share"].as_f64().expect("a number")
}

/// The source of the line of a recorded run whose records were changed; it must not pass for counted.
fn changed(name: &str, change: impl Fn(&mut Record)) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    for file in read::read_run(&recorded(name)).expect("evidence") {
        let mut writer = Writer::create(folder.path(), "vm-1-1.jsonl").expect("a file");
        for line in file.lines {
            let mut record = line.record;
            change(&mut record);
            writer.append(line.at_ns, &record).expect("a line");
        }
    }
    let padding = line(folder.path(), "tile_padding");
    assert_eq!(padding["confidence"], "assumed", "{padding}");
    padding["source"].as_str().expect("text").to_owned()
}

fn of_census(record: &mut Record, change: impl Fn(&mut Vec<Kernel>)) {
    if let Record::Kernels(kernels) = record {
        let Kernels { kernels, .. } = kernels.as_mut();
        change(kernels);
    }
}

fn is_product(kernel: &Kernel) -> bool {
    !kernel.counts.is_empty() && !kernel.name.contains("sdpa")
}

/// Products of weights, adapters and experts, by nvjet, split-K and CUTLASS's grouped kernels: all were the model's, and hardly anything is left unexplained.
#[test]
fn where_a_census_saw_the_models_products_their_padding_is_counted() {
    for (name, launches, executed, unexplained) in [
        // 22 layers of 7 products and the head, three times; of adapters none is needed below the lowest.
        ("full", 3 * (22 * 7 + 1), "1.008662", 1e-6),
        // Sides of 5600 and 32003, which no tile divides.
        ("odd", 3 * (22 * 7 + 1), "1.016812", 2e-3),
        ("lora", 569, "1.017260", 1e-3),
        ("moe", 171, "1.018388", 1e-3),
    ] {
        let run = recorded(name);
        let padding = line(&run, "tile_padding");
        assert_eq!(padding["confidence"], "counted", "{name}: {padding}");
        let source = padding["source"].as_str().expect("text");
        assert_eq!(
            source,
            format!("1 of 1 censuses: {launches} launches are the products of 1 batch(es), and executed {executed} x 2MNK"),
            "{name}"
        );
        assert!(share(&run, "unexplained").abs() < unexplained, "{name}: {}", line(&run, "unexplained"));
        assert!(share(&run, "tile_padding") > 0.005, "{name}");
    }
}

/// The head's products are `mma.sync` ones there, and the census was taken while the counters of these had not their turn. Nor had they it when a head was computed at any other time of those
/// 16 seconds, so that the run was counted without it: what is left unexplained is its part, and negative.
#[test]
fn where_it_did_not_look_at_a_path_the_rule_stays_and_says_so() {
    let padding = line(&recorded("odd-ckpt"), "tile_padding");
    assert_eq!(padding["confidence"], "assumed");
    assert!(share(&recorded("odd-ckpt"), "unexplained") < -0.03);
    let source = padding["source"].as_str().expect("text");
    for words in ["rounded up to 64", "594 launches of products", "each of which makes 597", "did not look at 3 paths"] {
        assert!(source.contains(words), "{words} is not in {source}");
    }
}

/// Batches each as long as its longest row, in a training that took its censuses by itself (`tests/gpu/reconcile.py --itself`): of the one that began and ended with a marked step the
/// program told the batch, and lengths that differ by less than a tile cannot be told apart otherwise. Attention with an explicit mask computes whole blocks, too.
#[test]
fn a_batch_of_many_lengths_is_the_one_that_the_program_told_of() {
    let run = recorded("ragged");
    let padding = line(&run, "tile_padding");
    let source = "1 of 2 censuses: 569 launches are the products of 1 batch(es), and executed 1.024392 x 2MNK, and other lengths are taken to be like these";
    assert_eq!((&padding["confidence"], &padding["source"]), (&"assumed".into(), &source.into()));
    assert!((0.012..0.014).contains(&share(&run, "tile_padding_attention")));
    assert!(share(&run, "unexplained").abs() < 0.006, "{}", line(&run, "unexplained"));
    let told = |batches: &'static [[u64; 3]]| {
        changed("ragged", |record| {
            if let Record::Kernels(kernels) = record {
                kernels.batches = batches.to_vec();
            }
        })
    };
    assert!(told(&[]).contains("batches of several lengths"), "{}", told(&[]));
    assert!(told(&[[8, 2008, 0]]).contains("are not those that the model makes"), "{}", told(&[[8, 2008, 0]]));
    assert!(told(&[[8, 1768, 0]; 2]).contains("are not those that the model makes"), "{}", told(&[[8, 1768, 0]; 2]));
}

#[test]
fn a_census_that_is_not_of_the_models_products_is_not_believed() {
    let first = |change: fn(&mut Kernel)| {
        move |record: &mut Record| of_census(record, |kernels| kernels.iter_mut().find(|k| is_product(k)).into_iter().for_each(change))
    };
    // A launch that is no product of the model, or one that is missing.
    let more = changed("full", first(|k| k.launches += 1));
    assert!(more.contains("were not told apart") || more.contains("no whole number of batches"), "{more}");
    let less = changed("full", |record| {
        of_census(record, |kernels| {
            let at = kernels.iter().position(is_product).expect("one");
            kernels.remove(at);
        });
    });
    assert!(less.contains("no whole number of batches, each of which makes 465"), "{less}");
    // As many, but one size is not what the model makes: half of it.
    let half = changed("full", first(|k| k.counts.values_mut().for_each(|flop| *flop /= 2)));
    assert!(half.contains("are not those that the model makes"), "{half}");
    // A census of something else than training.
    let evaluation = changed("full", |record| {
        if let Record::Phase(Phase { phase, .. }) = record {
            "evaluate".clone_into(phase);
        }
    });
    assert!(evaluation.contains("no census of training was taken"), "{evaluation}");
    let none = changed("full", |record| of_census(record, Vec::clear));
    assert!(none.contains("no census of training was taken"), "{none}");
}
