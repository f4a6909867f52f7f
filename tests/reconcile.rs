//! From evidence to lines: what the program said and what was counted, against what PyTorch counted for the same rows.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use flopsprof::evidence::{
    record::{Boundary, Declared, Device, End, NvmlReading, Phase, Record, Start, Tier, Window},
    write::Writer,
};
use serde_json::{Value, json};

const PATH: &str = "sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32";
const SECOND: u64 = 1_000_000_000;

/// Evidence of a run whose windows counted these FLOP, each ten seconds long, with what the program said before them.
fn evidence(folder: &Path, said: Vec<Record>, windows: &[u128]) {
    let mut writer = Writer::create(folder, "node-1-1.jsonl").expect("a file");
    let mut add = |at: u64, record: Record| writer.append(at, &record).expect("a line");
    add(0, Record::Start(Box::new(Start { format: 1, version: "0.1.0".to_owned(), unix_ns: 1_700_000_000 * SECOND, ..Start::default() })));
    let peak = BTreeMap::from([(PATH.to_owned(), 4096.0 * 132.0)]);
    let device = Device {
        name: "NVIDIA H100".to_owned(),
        uuid: "GPU-1".to_owned(),
        max_sm_clock_mhz: 1830,
        sm_count: 132,
        peak_flop_per_cycle: peak,
        ..Device::default()
    };
    add(1, Record::Device(Box::new(device)));
    said.into_iter().for_each(|r| add(2, r));
    for (i, flop) in windows.iter().enumerate() {
        let start_ns = i as u64 * 10 * SECOND + 10;
        let window = Window {
            device: 0,
            index: i as u64,
            start_ns,
            end_ns: start_ns + 10 * SECOND,
            tier: Tier::Counted,
            why: String::new(),
            group: Some(0),
            counts: BTreeMap::from([(PATH.to_owned(), *flop)]),
            cycles: None,
            opened: Boundary { gated: true, ..Boundary::default() },
            nvml: Some(NvmlReading { gpu_utilization_pct: Some(100), ..NvmlReading::default() }),
            tokens: 0,
            steps: 0,
            meter_cpu_ns: 0,
            ..Window::default()
        };
        add(start_ns + 10 * SECOND, Record::Window(Box::new(window)));
    }
    add(1000 * SECOND, Record::End(End { reason: "exit".to_owned(), ..End::default() }));
}

fn report(folder: &Path, json: bool) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flopsprof"));
    command.arg("report").arg(folder);
    if json {
        command.arg("--json");
    }
    let output = command.output().expect("the command");
    (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
}

fn reconciliation(folder: &Path) -> Value {
    let (status, text) = report(folder, true);
    assert_eq!(status, Some(0));
    serde_json::from_str::<Value>(&text).expect("JSON")["reconciliation"].clone()
}

fn line(said: &Value, name: &str) -> f64 {
    let lines = said["lines"]["lines"].as_array().unwrap_or_else(|| panic!("no lines: {said}"));
    lines.iter().find(|l| l["name"] == name).map_or(0.0, |l| l["flop"].as_f64().expect("a number"))
}

fn declared(value: Value) -> Declared {
    Declared { declared: value }
}

/// Every line stands in the page's waterfall.
#[test]
fn the_page_draws_every_line() {
    let golden: Value = serde_json::from_slice(&fs::read("tests/estimate/golden/llama.json").expect("a golden")).expect("JSON");
    let counted = &golden["counted"].as_array().expect("counts")[0];
    let (said, flop) = of_golden(&golden, counted);
    let folder = tempfile::tempdir().expect("a folder");
    evidence(folder.path(), said, &[flop + flop / 7]);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("waterfall.html");
    let mut command = Command::new(env!("CARGO_BIN_EXE_flopsprof"));
    let status = command.args(["report", "--html"]).arg(&file).arg(folder.path()).status().expect("the command");
    assert!(status.success());
    let page = fs::read_to_string(&file).expect("the page");
    let chart = page.split("<figure id=\"waterfall\"").nth(1).expect("the waterfall").split("</figure>").next().expect("its end");
    let lines = reconciliation(folder.path())["lines"]["lines"].as_array().expect("lines").clone();
    let drawn: Vec<&Value> = lines.iter().filter(|l| l["flop"] != 0.0).collect();
    assert!(drawn.len() >= 3, "{lines:?}");
    for line in drawn {
        let name = line["name"].as_str().expect("a name").replace("six_nd", "6ND").replace('_', " ");
        assert!(chart.contains(&format!(">{name}<")), "{name} is not in {chart}");
    }
    // And in its table, those of nothing too, with share, confidence and source; and beside them what is called utilisation.
    let table = page.split("From 6ND to what was measured").nth(1).expect("the table").split("</section>").next().expect("its end");
    for line in &lines {
        let name = line["name"].as_str().expect("a name").replace("six_nd", "6ND").replace('_', " ");
        let row =
            table.split("<tr").find(|r| r.contains(&format!("<td>{name}</td>"))).unwrap_or_else(|| panic!("{name} is not in {table}"));
        let share = format!("{:.2} %", 100.0 * line["share"].as_f64().expect("a share")).replace('-', "−");
        for cell in [share.as_str(), line["confidence"].as_str().expect("a word"), line["source"].as_str().expect("a source")] {
            assert!(row.contains(cell), "{name}: {cell} is not in {row}");
        }
    }
    for rate in ["HFU", "MFU", "NVML"] {
        assert!(table.contains(&format!("<td>{rate}</td>")), "{rate} is not in {table}");
    }
}

/// The declarations of a golden's job, and the FLOP that FlopCounterMode counted.
fn of_golden(golden: &Value, counted: &Value) -> (Vec<Record>, u128) {
    let method = match counted["method"].as_str() {
        Some("lora") => json!({"kind": "lora", "rank": golden["rank"], "targets": counted["targets"]}),
        _ => json!({"kind": "full"}),
    };
    let model = json!({
        "format": 1, "config": golden["config"], "method": method, "attention": "eager",
        "parameters": {"total": counted["parameters"], "trainable": counted["trainable"]},
        "gradient_checkpointing": counted["checkpointing"],
    });
    let rows = json!([[golden["rows"], golden["length"], golden["decoder_length"].as_u64().unwrap_or(0)]]);
    let work = json!({"format": 1, "phases": {"train": {"batches": 1, "steps": 1, "executed": rows, "documents": rows, "backward": true}}});
    let flop = counted["forward"].as_u64().expect("a number") + counted["backward"].as_u64().expect("a number");
    (vec![Record::Model(declared(model)), Record::Work(declared(work))], u128::from(flop))
}

#[test]
fn nothing_is_left_unexplained_of_what_pytorch_counted() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/estimate/golden");
    let mut seen = 0;
    for path in fs::read_dir(goldens).expect("goldens").flatten().map(|e| e.path()) {
        let golden: Value = serde_json::from_slice(&fs::read(&path).expect("a golden")).expect("JSON");
        for counted in golden["counted"].as_array().expect("counts").iter().filter(|c| c["method"] != "frozen") {
            let dir = tempfile::tempdir().expect("a folder");
            let (said, flop) = of_golden(&golden, counted);
            evidence(dir.path(), said, &[flop]);
            let said = reconciliation(dir.path());
            let sum: f64 = said["lines"]["lines"].as_array().expect("lines").iter().map(|l| l["flop"].as_f64().expect("a number")).sum();
            let measured = flop as f64;
            assert!((sum / measured - 1.0).abs() < 1e-12, "the lines add up");
            // FlopCounterMode knows no tiles.
            let left = line(&said, "unexplained") + line(&said, "tile_padding") + line(&said, "tile_padding_attention");
            assert!((left / measured).abs() < 1e-4, "{}: {} of {measured}: {said:#}", golden["case"], left);
            seen += 1;
        }
    }
    assert!(seen >= 80, "{seen} cases");
}

const LLAMA: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
    "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000}"#;

/// What the estimate says that rows execute.
fn executed(rows: &str, length: &str, attention: &str) -> f64 {
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("config.json");
    fs::write(&config, LLAMA).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_flopsprof"))
        .args(["estimate", config.to_str().expect("UTF-8"), "--rows", rows, "-s", length, "--attention", attention, "--json"])
        .output()
        .expect("the command");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    said["estimates"][0]["executed_flop_float"].as_f64().expect("a number")
}

fn model() -> Record {
    let config: Value = serde_json::from_str(LLAMA).expect("JSON");
    Record::Model(declared(json!({"format": 1, "config": config, "method": {"kind": "full"}, "attention": "sdpa"})))
}

#[test]
fn pads_and_evaluation_have_lines_of_their_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let work = json!({"format": 1, "phases": {
        "train": {"batches": 100, "executed": [[800, 2048, 0]], "documents": [[400, 2048, 0], [400, 1024, 0]], "masked": [[800, 2048, 0]], "backward": true},
        "evaluate": {"batches": 10, "executed": [[80, 2048, 0]], "documents": [[80, 2048, 0]], "backward": false},
    }});
    // Two windows of training and one of evaluation, cut at its marks.
    let phase = |name: &str, since_ns| Record::Phase(Phase { phase: name.to_owned(), since_ns });
    let said = vec![
        model(),
        Record::Work(declared(work)),
        phase("train", 1),
        phase("evaluate", 20 * SECOND + 10),
        phase("train", 30 * SECOND + 10),
    ];
    // Masked rows are computed whole by a fused kernel: flash's count, and scores seven halves times the other half of the square.
    let other_half = 800.0 * 22.0 * 7.0 * 2.0 * 2048.0 * f64::from(2048 * 2047 / 2);
    let training = executed("800", "2048", "flash") + other_half;
    let evaluation = 1.0e16;
    let half = (training / 2.0).round() as u128;
    evidence(dir.path(), said, &[half, half, evaluation as u128]);
    let said = reconciliation(dir.path());
    assert_eq!(line(&said, "other_phases"), evaluation, "{said:#}");
    let pads = line(&said, "pad_tokens");
    assert!(pads > 0.2 * training && pads < 0.3 * training, "{pads:e} of {training:e}");
    assert!((line(&said, "masked_positions") / other_half - 1.0).abs() < 1e-9);
    assert!(said["lines"]["unexplained_share"].as_f64().expect("a share").abs() < 1e-9, "{said:#}");
    assert_eq!(said["lines"]["tokens"], 400 * 2048 + 400 * 1024);
    let other = said["lines"]["lines"].as_array().expect("lines").iter().find(|l| l["name"] == "other_phases").expect("a line");
    assert_eq!(other["confidence"], "counted", "{other}");
    // NVML said 100 % where the tensor cores did some few.
    let rates = &said["rates"];
    assert_eq!(rates["nvml_utilization"], 1.0);
    let (hfu, mfu) = (rates["hfu"].as_f64().expect("a share"), rates["mfu"].as_f64().expect("a share"));
    assert!(mfu < hfu && hfu < 1.0, "{rates}");
    assert!((rates["nvml_over_measured"].as_f64().expect("a ratio") * hfu - 1.0).abs() < 1e-9);
    let (_, text) = report(dir.path(), false);
    for words in
        ["from 6ND to what was measured", "pad tokens", "masked positions", "unexplained", "HFU", "MFU", "NVML utilisation 100.0 %"]
    {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}

/// A declaration that makes no sense costs its lines, not the report.
#[test]
fn what_cannot_be_reconciled_is_said() {
    let work = json!({"format": 1, "phases": {"train": {"executed": [[1, 64, 0]], "documents": [[1, 64, 0]], "backward": true}}});
    for (model, words) in [
        (json!({"format": 1, "config": {"model_type": "hyena"}, "method": {"kind": "full"}}), "hyena"),
        (json!({"format": 1, "config": {"model_type": "llama"}, "method": {"kind": "full"}}), "hidden_size"),
        (json!({"format": 1, "config": serde_json::from_str::<Value>(LLAMA).expect("JSON"), "method": {"kind": "prefix"}}), "prefix"),
        (json!({"format": 9, "config": {}}), "format 9"),
        (json!({"format": 1, "config": {}, "gradient_checkpointing": "sometimes"}), "cannot be read"),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        evidence(dir.path(), vec![Record::Model(declared(model)), Record::Work(declared(work.clone()))], &[1000]);
        let said = reconciliation(dir.path());
        assert!(said["lines"].is_null() && said["why_not"].as_str().is_some_and(|w| w.contains(words)), "{words}: {said}");
    }
    let llama =
        |method: Value| declared(json!({"format": 1, "config": serde_json::from_str::<Value>(LLAMA).expect("JSON"), "method": method}));
    let none = json!({"format": 1, "phases": {"train": {"executed": [], "documents": [], "backward": true}}});
    let dir = tempfile::tempdir().expect("a folder");
    evidence(dir.path(), vec![Record::Model(llama(json!({"kind": "full"}))), Record::Work(declared(none))], &[1000]);
    let said = reconciliation(dir.path());
    assert!(said["lines"].is_null() && said["rates"]["mfu"].is_null(), "killed before any rows came: {said}");
    assert!(said["why_not"].as_str().is_some_and(|w| w.contains("before it told any rows")), "{said}");
    let (full, adapters) = (json!({"kind": "full"}), json!({"kind": "lora", "rank": 2, "targets": ["q_proj"]}));
    let dir = tempfile::tempdir().expect("a folder");
    let models = [&full, &full, &adapters].map(|m| Record::Model(llama(m.clone())));
    evidence(dir.path(), models.into_iter().chain([Record::Work(declared(work))]).collect(), &[1000]);
    let remarks = reconciliation(dir.path())["lines"]["remarks"].to_string();
    assert_eq!(remarks.matches("several models").count(), 1, "{remarks}");
    let dir = tempfile::tempdir().expect("a folder");
    evidence(dir.path(), Vec::new(), &[1000]);
    let said = reconciliation(dir.path());
    assert!(said["lines"].is_null() && said["why_not"].is_null(), "nothing was declared: {said}");
}
