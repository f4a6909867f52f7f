//! From evidence to lines: what the program said and what was counted, against what PyTorch counted for the same rows.

use std::{collections::BTreeMap, fs, path::Path, process::Command, sync::LazyLock};

use flopsprof::evidence::{
    record::{Boundary, Declare, Declared, Device, End, NvmlReading, Phase, Record, Start, Tier, Window},
    write::Writer,
};
use serde_json::{Value, json};

const PATH: &str = "sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32";
const SECOND: u64 = 1_000_000_000;

/// Evidence of a run whose windows counted these FLOP, each ten seconds long, with what the program said before them.
fn evidence(folder: &Path, said: Vec<Record>, windows: &[u128]) {
    process(folder, 1, said, windows, 0);
}

/// The same of one of several processes, and the tokens that it added.
fn process(folder: &Path, pid: u32, said: Vec<Record>, windows: &[u128], tokens: u64) {
    process_of("", folder, pid, said, windows, tokens);
}

/// The same of one of a job of this name.
fn process_of(job: &str, folder: &Path, pid: u32, said: Vec<Record>, windows: &[u128], tokens: u64) {
    let mut writer = Writer::create(folder, &format!("node-{pid}-1.jsonl")).expect("a file");
    let mut add = |at: u64, record: Record| writer.append(at, &record).expect("a line");
    let mut start = Start { format: 1, version: "0.1.0".to_owned(), unix_ns: 1_700_000_000 * SECOND, ..Start::default() };
    start.process.pid = pid;
    start.job.insert("SLURM_JOB_ID".to_owned(), job.to_owned());
    add(0, Record::Start(Box::new(start)));
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
    add(1000 * SECOND, Record::End(End { reason: "exit".to_owned(), tokens, ..End::default() }));
}

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(include_str!("../src/report/report.schema.json")).expect("JSON");
    jsonschema::draft202012::new(&schema).expect("a schema")
});

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
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let broken: Vec<String> = SCHEMA.iter_errors(&report).map(|e| format!("{}: {e}", e.instance_path)).collect();
    assert_eq!(broken, [] as [&str; 0]);
    report["reconciliation"].clone()
}

fn line(said: &Value, name: &str) -> f64 {
    let lines = said["lines"]["lines"].as_array().unwrap_or_else(|| panic!("no lines: {said}"));
    lines.iter().find(|l| l["name"] == name).map_or(0.0, |l| l["flop"].as_f64().expect("a number"))
}

fn declared(value: Value) -> Declared {
    Declared { declared: value, since_ns: None }
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
    // None of them has a share of nothing: what is taken away has its own, below it.
    assert!(lines.iter().any(|l| l["flop"].as_f64() < Some(0.0)) && chart.contains("> −") && !chart.contains("> 0 %<"), "{chart}");
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
        Some("lora") => counted["declared"].clone(),
        _ => json!({"kind": "full"}),
    };
    let model = json!({
        "format": 1, "config": golden["config"], "method": method, "attention": "eager", "input_gradients": counted["input_gradients"],
        "reentrant": counted["reentrant"] == true,
        "experts_apart": golden["case"].as_str().is_some_and(|case| case.ends_with("-modules")),
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
    assert!(seen >= 120, "{seen} cases");
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

/// Rows that no mark tells when they ran, between those that train: a reference that is asked of the same model.
#[test]
fn rows_without_gradients_are_counted_by_their_formula() {
    let dir = tempfile::tempdir().expect("a folder");
    let work = json!({"format": 1, "phases": {
        "train": {"batches": 10, "executed": [[80, 2048, 0]], "documents": [[80, 2048, 0]], "backward": true},
        "inference": {"batches": 10, "executed": [[80, 2048, 0]], "documents": [[80, 2048, 0]], "backward": false},
    }});
    let mark = Record::Phase(Phase { phase: "train".to_owned(), since_ns: 1 });
    // A third of what is executed forward and backward is executed forward.
    let forward = executed("80", "2048", "causal") / 3.0;
    let all = executed("80", "2048", "flash") + forward;
    evidence(dir.path(), vec![model(), Record::Work(declared(work)), mark], &[all.round() as u128]);
    let said = reconciliation(dir.path());
    assert!((line(&said, "other_phases") / forward - 1.0).abs() < 1e-9, "{said:#}");
    assert_eq!(said["lines"]["tokens"], 80 * 2048, "tokens are those of the training alone");
    let left = line(&said, "unexplained") + line(&said, "tile_padding") + line(&said, "tile_padding_attention");
    assert!((left / all).abs() < 1e-9, "{said:#}");
    let other = said["lines"]["lines"].as_array().expect("lines").iter().find(|l| l["name"] == "other_phases").expect("a line");
    assert_eq!((&other["confidence"], &other["source"]), (&json!("assumed"), &json!("inference: formula of its rows")), "{other}");
}

/// A frozen reference beside the trained model: of another size, it has its own formula; of an architecture that is not known, the rest keeps its lines.
#[test]
fn rows_of_another_model_are_counted_by_its_own_formula() {
    let mut other: Value = serde_json::from_str(LLAMA).expect("JSON");
    let run = |config: Option<Value>, flop: f64| {
        let dir = tempfile::tempdir().expect("a folder");
        let mut work = json!({"format": 1, "phases": {
            "train": {"batches": 10, "executed": [[80, 2048, 0]], "documents": [[80, 2048, 0]], "backward": true},
            "reference": {"batches": 10, "executed": [[80, 2048, 0]], "documents": [[80, 2048, 0]], "backward": false},
        }});
        if let Some(config) = config {
            work["phases"]["reference"]["config"] = config;
        }
        let mark = Record::Phase(Phase { phase: "train".to_owned(), since_ns: 1 });
        evidence(dir.path(), vec![model(), Record::Work(declared(work)), mark], &[flop.round() as u128]);
        reconciliation(dir.path())
    };
    let training = executed("80", "2048", "flash");
    let forward = executed("80", "2048", "causal") / 3.0;
    let said = run(None, training + forward);
    assert!((line(&said, "other_phases") / forward - 1.0).abs() < 1e-9, "{said:#}");
    // Half of the layers, and the head as it is.
    other["num_hidden_layers"] = 11.into();
    let head = 2.0 * 80.0 * 2048.0 * 2048.0 * 32000.0;
    let half = head + (forward - head) / 2.0;
    let said = run(Some(other.clone()), training + half);
    assert!((line(&said, "other_phases") / half - 1.0).abs() < 1e-9, "{said:#}");
    let left = line(&said, "unexplained") + line(&said, "tile_padding") + line(&said, "tile_padding_attention");
    assert!((left / training).abs() < 1e-9 && said["lines"]["tokens"] == 80 * 2048, "{said:#}");
    other["model_type"] = "hyena".into();
    let said = run(Some(other), training + half);
    let left = line(&said, "unexplained") + line(&said, "tile_padding") + line(&said, "tile_padding_attention");
    assert!(near(left, half) && line(&said, "other_phases") == 0.0, "{said:#}");
    let remarks = said["lines"]["remarks"].to_string();
    assert!(remarks.contains("reference: its rows are in no line") && remarks.contains("hyena"), "{remarks}");
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
    let dir = tempfile::tempdir().expect("a folder");
    evidence(dir.path(), Vec::new(), &[1000]);
    let said = reconciliation(dir.path());
    assert!(said["lines"].is_null() && said["why_not"].is_null(), "nothing was declared: {said}");
}

/// A golden's model, the rows of its one batch and the FLOP that PyTorch counted for them, as a process declares them.
struct Job {
    model: Value,
    rows: [u64; 3],
    parameters: u64,
    trainable: u64,
    flop: u128,
}

impl Job {
    fn new(name: &str) -> Self {
        let path = format!("{}/tests/estimate/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let golden: Value = serde_json::from_slice(&fs::read(path).expect("a golden")).expect("JSON");
        let counted = &golden["counted"].as_array().expect("counts")[0];
        let (said, flop) = of_golden(&golden, counted);
        let Record::Model(Declared { declared: model, .. }) = said[0].clone() else { panic!("no model") };
        let number = |value: &Value| value.as_u64().expect("a number");
        let rows = [number(&golden["rows"]), number(&golden["length"]), 0];
        Self { model, rows, parameters: number(&counted["parameters"]), trainable: number(&counted["trainable"]), flop }
    }

    fn tokens(&self) -> u64 {
        self.rows[0] * self.rows[1]
    }

    /// Declared when so many tokens had been added.
    fn declared(&self, since_ns: u64, tokens: u64) -> [Record; 2] {
        let sizes = Declare { parameters: self.parameters, trainable: self.trainable, tokens: Some(tokens) };
        [Record::Declare(sizes), Record::Model(Declared { declared: self.model.clone(), since_ns: Some(since_ns) })]
    }

    fn six_nd(&self) -> f64 {
        6.0 * self.parameters as f64 * self.tokens() as f64
    }
}

/// Rows so far of a whole process.
fn told(rows: &[[u64; 3]]) -> Record {
    let train = json!({"batches": rows.len(), "executed": rows, "documents": rows, "backward": true});
    Record::Work(declared(json!({"format": 1, "phases": {"train": train}})))
}

fn near(a: f64, b: f64) -> bool {
    (a / b - 1.0).abs() < 1e-4
}

/// What a report of these two trainings says, whatever process did which.
fn assert_both(said: &Value, a: &Job, b: &Job) {
    let measured = (a.flop + b.flop) as f64;
    assert!(near(line(said, "six_nd"), a.six_nd() + b.six_nd()), "each with its own N and D: {said:#}");
    // FlopCounterMode knows no tiles.
    let left = line(said, "unexplained") + line(said, "tile_padding") + line(said, "tile_padding_attention");
    assert!((left / measured).abs() < 1e-4, "{left} of {measured}: {said:#}");
    assert_eq!((&said["lines"]["tokens"], &said["lines"]["parameters"]), (&(a.tokens() + b.tokens()).into(), &Value::Null));
    let remarks = said["lines"]["remarks"].to_string();
    assert_eq!(remarks.matches("2 models were declared, and each line is the sum of theirs").count(), 1, "{remarks}");
}

#[test]
fn two_models_that_a_process_trains_in_turn_have_each_their_own_6nd() {
    let (a, b) = (Job::new("llama"), Job::new("qwen2"));
    assert!(a.parameters != b.parameters && a.model["config"] != b.model["config"]);
    let turn = |since_ns| {
        let (first, second) = (a.declared(5, 0), b.declared(since_ns, a.tokens()));
        first.into_iter().chain([told(&[a.rows])]).chain(second).chain([told(&[a.rows, b.rows])]).collect::<Vec<_>>()
    };
    let dir = tempfile::tempdir().expect("a folder");
    process(dir.path(), 1, turn(10 * SECOND + 10), &[a.flop, b.flop], a.tokens() + b.tokens());
    let said = reconciliation(dir.path());
    assert_both(&said, &a, &b);
    // The window was cut where the second one was declared.
    for (model, job) in said["lines"]["models"].as_array().expect("models").iter().zip([&a, &b]) {
        assert_eq!((&model["parameters"], &model["tokens"]), (&job.parameters.into(), &job.tokens().into()));
        assert!(near(model["measured"].as_f64().expect("told apart"), job.flop as f64), "{model}");
    }
    let six = a.six_nd() + b.six_nd();
    let (_, text) = report(dir.path(), false);
    for words in [
        format!("{:.6} x 6ND ({six:.4e} FLOP)", (a.flop + b.flop) as f64 / six),
        format!("6ND has {} tokens of a model of {} parameters", b.tokens(), b.parameters),
        "2 models were declared".to_owned(),
    ] {
        assert!(text.contains(&words), "{words} is not in\n{text}");
    }
    // The toolkit's formula is a sum, too.
    let file = dir.path().join("flops_meter.json");
    let status = Command::new(env!("CARGO_BIN_EXE_flopsprof")).args(["report", "--aws"]).arg(&file).arg(dir.path()).status();
    assert!(status.expect("the command").success());
    let meter: Value = serde_json::from_slice(&fs::read(&file).expect("the file")).expect("JSON");
    let formula = |j: &Job| (4 * j.parameters + 2 * j.trainable) as f64 * j.tokens() as f64;
    assert_eq!(meter["Flops_architecture"], format!(" {:.2e}", formula(&a) + formula(&b)).replace('e', "e+0"));
    assert!(meter["flopsprof"]["corrections"].to_string().contains("several models"), "{meter}");
    // One window over both: the lines stand, and what was measured of each is not made up.
    let dir = tempfile::tempdir().expect("a folder");
    process(dir.path(), 1, turn(5 * SECOND), &[a.flop + b.flop], a.tokens() + b.tokens());
    let said = reconciliation(dir.path());
    assert_both(&said, &a, &b);
    assert!(said["lines"]["models"][0]["measured"].is_null(), "{said:#}");
    assert!(said["lines"]["remarks"].to_string().contains("measured not told apart"), "{said:#}");
}

#[test]
fn ranks_that_declared_different_models_have_each_their_own_6nd() {
    let (a, b) = (Job::new("llama"), Job::new("phi"));
    let dir = tempfile::tempdir().expect("a folder");
    for (pid, job) in [(1, &a), (2, &b)] {
        let said = job.declared(5, 0).into_iter().chain([told(&[job.rows])]).collect();
        process(dir.path(), pid, said, &[job.flop], job.tokens());
    }
    let said = reconciliation(dir.path());
    assert_both(&said, &a, &b);
    for (model, job) in said["lines"]["models"].as_array().expect("models").iter().zip([&a, &b]) {
        assert!(near(model["measured"].as_f64().expect("told apart"), job.flop as f64), "{model}");
    }
    // Whose tokens are those of an option, nobody says.
    let output = Command::new(env!("CARGO_BIN_EXE_flopsprof")).args(["report", "--tokens", "1M"]).arg(dir.path()).output();
    let output = output.expect("the command");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty() && said.contains("declared several models"), "{said}");
}

/// A program may forget its rows for a second training of the same model: what it told before stands.
#[test]
fn rows_that_begin_anew_add_to_those_before() {
    let a = Job::new("llama");
    let dir = tempfile::tempdir().expect("a folder");
    let twice = [2 * a.rows[0], a.rows[1], 0];
    let said = a.declared(5, 0).into_iter().chain([told(&[twice]), told(&[a.rows]), told(&[a.rows])]).collect();
    process(dir.path(), 1, said, &[3 * a.flop], 3 * a.tokens());
    let said = reconciliation(dir.path());
    assert_eq!(said["lines"]["tokens"], 3 * a.tokens(), "{said:#}");
    assert!(near(line(&said, "six_nd"), 3.0 * a.six_nd()), "{said:#}");
    assert!(said["lines"]["models"].is_null() && said["lines"]["parameters"] == a.parameters, "{said:#}");
    // And of another model, although there are more of them now than there were of the first.
    let b = Job::new("qwen2");
    let longer = [9 * b.rows[0], b.rows[1] + 1, 0];
    let dir = tempfile::tempdir().expect("a folder");
    let said = a.declared(5, 0).into_iter().chain([told(&[a.rows])]).chain(b.declared(6, a.tokens())).chain([told(&[longer])]);
    process(dir.path(), 1, said.collect(), &[a.flop], a.tokens());
    assert_eq!(reconciliation(dir.path())["lines"]["tokens"], a.tokens() + longer[0] * longer[1]);
}

/// Rows and tokens of ranks that declared no model are those of the only model of their run; where a run has several, the report says how many are nobody's.
#[test]
fn what_a_rank_tells_without_a_model_is_of_its_runs_only_one() {
    let (a, b) = (Job::new("llama"), Job::new("qwen2"));
    let rank = |folder: &Path, pid: u32, run: &str, job: &Job, declares: bool| {
        let said = job.declared(5, 0).into_iter().filter(|_| declares).chain([told(&[job.rows])]).collect();
        process_of(run, folder, pid, said, &[job.flop], job.tokens());
    };
    // Two runs of two ranks, of which the first alone declares its model.
    let dir = tempfile::tempdir().expect("a folder");
    for (pid, run, job, declares) in [(1, "7", &a, true), (2, "7", &a, false), (3, "8", &b, true), (4, "8", &b, false)] {
        rank(dir.path(), pid, run, job, declares);
    }
    let said = reconciliation(dir.path());
    assert!(near(line(&said, "six_nd"), 2.0 * (a.six_nd() + b.six_nd())), "{said:#}");
    let left = line(&said, "unexplained") + line(&said, "tile_padding") + line(&said, "tile_padding_attention");
    assert!((left / (2 * (a.flop + b.flop)) as f64).abs() < 1e-4, "{said:#}");
    assert!(!said["lines"]["remarks"].to_string().contains("declared no model"), "{said:#}");
    let six = of_report(dir.path())["six_nd"].clone();
    assert_eq!(
        six["models"][0]["tokens"].as_u64().zip(six["models"][1]["tokens"].as_u64()),
        Some((2 * a.tokens(), 2 * b.tokens())),
        "{six}"
    );
    assert!(six["undeclared"].is_null());
    // The same evidence given once more tells nothing twice.
    let again = Command::new(env!("CARGO_BIN_EXE_flopsprof")).args(["report", "--json"]).args([dir.path(), dir.path()]).output();
    let again: Value = serde_json::from_slice(&again.expect("the command").stdout).expect("JSON");
    assert_eq!(again["reconciliation"]["lines"]["tokens"], said["lines"]["tokens"]);
    // In one run of both nobody says which.
    let dir = tempfile::tempdir().expect("a folder");
    for (pid, job, declares) in [(1, &a, true), (2, &b, true), (3, &a, false)] {
        rank(dir.path(), pid, "7", job, declares);
    }
    let remarks = reconciliation(dir.path())["lines"]["remarks"].to_string();
    assert!(remarks.contains(&format!("({} tokens of training) are in no line", a.tokens())), "{remarks}");
    assert_eq!(of_report(dir.path())["six_nd"]["undeclared"], a.tokens());
    let (_, text) = report(dir.path(), false);
    assert!(text.contains(&format!("{} of the largest one's are of processes that declared no model", a.tokens())), "{text}");
}

fn of_report(folder: &Path) -> Value {
    serde_json::from_str(&report(folder, true).1).expect("JSON")
}

/// One architecture that is not known among several costs its own lines: its 6ND stands with the others', and the rest of it is unexplained.
#[test]
fn an_unknown_model_among_several_leaves_the_others_their_lines() {
    let (a, mut b) = (Job::new("llama"), Job::new("qwen2"));
    b.model["config"] = json!({"model_type": "hyena"});
    let dir = tempfile::tempdir().expect("a folder");
    for (pid, job) in [(1, &a), (2, &b)] {
        let said = job.declared(5, 0).into_iter().chain([told(&[job.rows])]).collect();
        process(dir.path(), pid, said, &[job.flop], job.tokens());
    }
    let said = reconciliation(dir.path());
    assert!(near(line(&said, "six_nd"), a.six_nd() + b.six_nd()), "{said:#}");
    let left = line(&said, "unexplained") + line(&said, "tile_padding") + line(&said, "tile_padding_attention");
    assert!(near(left, b.flop as f64 - b.six_nd()), "{said:#}");
    let models = &said["lines"]["models"];
    assert_eq!((&models[1]["model_type"], &models[1]["tokens"]), (&json!("hyena"), &b.tokens().into()), "{models}");
    assert!(models[0]["why_not"].is_null() && models[1]["why_not"].as_str().is_some_and(|w| w.contains("hyena")), "{models}");
    assert!(near(models[1]["measured"].as_f64().expect("told apart"), b.flop as f64), "{models}");
    let remarks = said["lines"]["remarks"].to_string();
    assert!(remarks.contains("`hyena` is not known here") && remarks.contains("the rest being unexplained"), "{remarks}");
    // The form of the documentation says of what the size is.
    let size = of_report(dir.path())["forms"]["model_documentation"][0].to_string();
    assert!(size.contains("the largest of 2 models that this run trained"), "{size}");
    // Of two that are not known there is nothing to say.
    let dir = tempfile::tempdir().expect("a folder");
    let mut c = Job::new("phi");
    c.model["config"] = json!({"model_type": "mamba"});
    for (pid, job) in [(1, &c), (2, &b)] {
        let said = job.declared(5, 0).into_iter().chain([told(&[job.rows])]).collect();
        process(dir.path(), pid, said, &[job.flop], job.tokens());
    }
    let said = reconciliation(dir.path());
    assert!(said["lines"].is_null() && said["why_not"].as_str().is_some_and(|w| w.contains("hyena") && w.contains("mamba")), "{said}");
}

/// DoRA's are LoRA's lines and one more: 1 batch of products of both matrices, and for dropout the frozen product once more, backward where its input has a gradient.
#[test]
fn what_adapters_take_besides_has_a_line_of_its_own() {
    let golden: Value = serde_json::from_slice(&fs::read("tests/estimate/golden/llama.json").expect("a golden")).expect("JSON");
    let lines = |dora: bool, dropout: bool| {
        let is = |c: &&Value| {
            c["declared"]["kind"] == "lora"
                && c["checkpointing"] == false
                && c["declared"]["parameters"].is_null()
                && ((c["dora"] == true), c["dropout"].is_number()) == (dora, dropout)
        };
        let counted = golden["counted"].as_array().expect("counts").iter().find(is).expect("a count");
        let (said, flop) = of_golden(&golden, counted);
        let dir = tempfile::tempdir().expect("a folder");
        evidence(dir.path(), said, &[flop]);
        let said = reconciliation(dir.path());
        ["adapter_products", "frozen_gradients", "embedding_and_head"].map(|name| line(&said, name))
    };
    let (lora, dora, dropped) = (lines(false, false), lines(true, false), lines(true, true));
    // 3 layers; queries of 256 x 256, values of 256 x 64, rank 8; 2 rows of 96 tokens.
    let once = f64::from(3 * (2 * 256 * 8 * 512 + 2 * 256 * 8 * 320));
    let again = f64::from((3 + 2) * 2 * 192 * 256 * 320);
    assert_eq!((lora[0], dora[0], dropped[0]), (0.0, once, once + again));
    for dora in [dora, dropped] {
        let magnitudes = f64::from(3 * 320 * 6 * 192);
        assert_eq!((dora[1], dora[2]), (lora[1], lora[2] - magnitudes), "they are looked up in no product");
    }
}

/// What adapters do that nobody estimates is said, whether the program names it or its numbers show it.
#[test]
fn adapters_that_are_not_estimated_are_said() {
    let job = Job::new("llama");
    let remarks = |method: Value, trainable: u64| {
        let mut model = job.model.clone();
        (model["method"], model["parameters"]["trainable"]) = (method, trainable.into());
        let dir = tempfile::tempdir().expect("a folder");
        evidence(dir.path(), vec![Record::Model(declared(model)), told(&[job.rows])], &[job.flop]);
        reconciliation(dir.path())["lines"]["remarks"].to_string()
    };
    let lora = json!({"kind": "lora", "rank": 8, "targets": ["q_proj", "v_proj"]});
    assert_eq!(remarks(lora.clone(), 19_968), "[]");
    assert!(remarks(lora.clone(), 40_000).contains("trains 40000 parameters and what it says of its method makes 19968"));
    let mut other = lora;
    other["not_estimated"] = json!(["use_qalora", "layer_replication"]);
    assert!(remarks(other, 19_968).contains("not estimated, so that it is in no line: use_qalora, layer_replication"));
}

/// One of several that cannot be read leaves its rows out, and the report says so.
#[test]
fn rows_of_a_model_that_cannot_be_read_are_nobodys() {
    let a = Job::new("llama");
    let dir = tempfile::tempdir().expect("a folder");
    let other = Record::Model(Declared { declared: json!({"format": 9}), since_ns: Some(6) });
    let said = a.declared(5, 0).into_iter().chain([told(&[a.rows]), other, told(&[a.rows, [1, 7, 0]])]).collect();
    process(dir.path(), 1, said, &[a.flop], a.tokens());
    let said = reconciliation(dir.path());
    assert_eq!(said["lines"]["tokens"], a.tokens(), "{said:#}");
    let remarks = said["lines"]["remarks"].to_string();
    assert!(remarks.contains("format 9") && remarks.contains("are in no line"), "{remarks}");
}

/// PEFT's `rank_pattern`: each adapter executes what its own rank makes.
#[test]
fn adapters_of_several_ranks_count_each_with_its_own() {
    let golden: Value = serde_json::from_slice(&fs::read("tests/estimate/golden/llama.json").expect("a golden")).expect("JSON");
    let lora = |c: &&Value| c["method"] == "lora" && c["targets"] == json!(["q_proj", "v_proj"]);
    let counted = golden["counted"].as_array().expect("counts").iter().find(lora).expect("adapters");
    let (said, flop) = of_golden(&golden, counted);
    let Record::Model(Declared { declared: mut model, .. }) = said[0].clone() else { panic!("no model") };
    // The one rank is nobody's: each module has its own, which is what PyTorch counted.
    let layers = golden["config"]["num_hidden_layers"].as_u64().expect("a number");
    let names = (0..layers).flat_map(|i| ["q_proj", "v_proj"].map(|p| format!("model.layers.{i}.self_attn.{p}")));
    let ranks: serde_json::Map<String, Value> = names.map(|name| (name, golden["rank"].clone())).collect();
    let left = |model: Value| {
        let dir = tempfile::tempdir().expect("a folder");
        evidence(dir.path(), vec![Record::Model(declared(model)), said[1].clone()], &[flop]);
        let said = reconciliation(dir.path());
        let left = line(&said, "unexplained") + line(&said, "tile_padding") + line(&said, "tile_padding_attention");
        (left / flop as f64).abs()
    };
    model["method"]["rank"] = 512.into();
    assert!(left(model.clone()) > 0.01, "a rank that they do not have");
    model["method"]["ranks"] = ranks.into();
    assert!(left(model) < 1e-4);
}
