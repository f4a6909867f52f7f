//! `flopsprof report --kernels`: which kernels executed the operations.

use std::{collections::BTreeMap, fs, path::Path};

use flopsprof::evidence::record::{Kernel, Kernels, Kind, Spent};
use serde_json::Value;

use crate::{
    report,
    synthetic::{BF16, Evidence, FP64},
};

const GEMM: &str = "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT";
const ATTENTION: &str = "_Z16flash_bwd_kernelPf";

fn kernel(name: &str, blocks: u32, launches: u64, path: &str, flop: u128, ns: u64) -> Kernel {
    Kernel {
        kind: Kind::Kernel,
        name: name.to_owned(),
        grid: [blocks, 1, 1],
        block: [128, 1, 1],
        stream: 0,
        launches,
        counts: BTreeMap::from([(path.to_owned(), flop)]),
        durations_ns: vec![ns; usize::try_from(launches).expect("few")],
    }
}

/// A run of which windows 1 and 6 were censuses: first three quarters of the operations were products, later half of them.
fn run() -> Evidence {
    let mut evidence = Evidence::counted("node", 0, 1, 8);
    for (index, [gemm, attention]) in [(1, [750u128, 250u128]), (6, [500, 500])] {
        let flop = [gemm * 1_000_000_000, attention * 1_000_000_000];
        evidence.windows[index].counts.insert(BF16.to_owned(), flop.iter().sum());
        let mut kernels = vec![
            kernel(GEMM, 132, 10, BF16, flop[0] / 2, 100_000),
            kernel(GEMM, 264, 5, BF16, flop[0] / 2, 200_000),
            kernel(ATTENTION, 16, 4, BF16, flop[1], 300_000),
        ];
        kernels.push(Kernel {
            counts: BTreeMap::new(),
            ..kernel("_ZN2at6native29vectorized_elementwise_kernelILi4EEEvv", 99, 40, BF16, 0, 2000)
        });
        let launches = kernels.iter().map(|k| k.launches).sum();
        evidence.censuses.push(Kernels {
            window: Some(index as u64),
            launches,
            ranges: launches,
            step: Some(59),
            kernels,
            ..Kernels::default()
        });
    }
    // Executed all along, and never in a census.
    evidence.windows[0].counts.insert(FP64.to_owned(), 7_000_000_000_001);
    let spent = Spent { share: 0.005, windows_ns: 200_000_000, rotation_ns: 100_000_000, census_ns: 100_000_000 };
    evidence.windows.last_mut().expect("windows").spent = Some(spent);
    evidence
}

fn json(evidence: &Evidence, options: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    evidence.write(folder.path());
    let output = report(folder.path(), options);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn printed(evidence: &Evidence, options: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    evidence.write(folder.path());
    let output = report(folder.path(), options);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn number(of: &Value) -> u128 {
    of.as_str().expect("a decimal string").parse().expect("a number")
}

#[test]
fn rows_and_residual_add_up_to_the_total() {
    let evidence = run();
    let table = json(&evidence, &["--kernels", "--json"]);
    let rows = table["kernels"].as_array().expect("rows");
    let sum: u128 = rows.iter().map(|r| number(&r["flop"])).sum::<u128>() + number(&table["residual"]["flop"]);
    let counted: u128 = evidence.windows.iter().flat_map(|w| w.counts.values()).sum();
    assert_eq!((sum, number(&table["total"])), (counted, counted));
    assert_eq!(number(&table["residual"]["paths"][FP64]), 7_000_000_000_001, "{table:#}");
    // Each census stands for half of the run.
    let share = rows[0]["share"].as_f64().expect("a share");
    assert!((share - 0.625 * (1.0 - table["residual"]["share"].as_f64().expect("a share"))).abs() < 1e-6, "{share}");
    // They disagree by a quarter: 0.125 from the mean each, a standard error of 0.125; with two alone it is widened to half of Student's 13.968.
    let error = rows[0]["standard_error"].as_f64().expect("an error") / counted as f64;
    assert!((error / 6.984 - 0.125).abs() < 1e-3, "{error}");
    assert_eq!((&table["censuses"], &table["launches_seen"], &table["simulated"]), (&2.into(), &118.into(), &true.into()));
}

#[test]
fn a_row_says_what_its_kernel_is_and_how_fast() {
    let table = json(&run(), &["--kernels", "--json"]);
    let rows = table["kernels"].as_array().expect("rows");
    let [gemm, attention, elementwise] = [0, 1, 2].map(|i| &rows[i]);
    assert_eq!((gemm["name"].as_str(), gemm["category"].as_str()), (Some(GEMM), Some("gemm")));
    assert_eq!(
        (attention["name"].as_str(), attention["category"].as_str()),
        (Some("flash_bwd_kernel(float*)"), Some("attention_backward"))
    );
    assert_eq!((elementwise["category"].as_str(), elementwise["flop"].as_str()), (Some("elementwise"), Some("0")));
    assert_eq!(gemm["launches_seen"], 30);
    assert_eq!(gemm["shapes"][0]["grid"], serde_json::json!([132, 1, 1]));
    assert_eq!(gemm["shapes"][1]["launches"], 10);
    // 1250e9 FLOP in 20 x 0.1 ms and 10 x 0.2 ms.
    let rate = gemm["flop_per_s"].as_f64().expect("a rate");
    assert!((rate / (1250e9 / 4e-3) - 1.0).abs() < 1e-9, "{rate}");
    let peak = 540_672.0 * 1.98e9;
    assert!((gemm["peak_share"].as_f64().expect("a share") / (rate / peak) - 1.0).abs() < 1e-9);
    assert_eq!(attention["duration"]["p50_ns"].as_u64().expect("ns") / 1000, 300);
}

#[test]
fn the_largest_are_listed_and_the_others_summed() {
    let table = json(&run(), &["--kernels=1", "--json"]);
    let rows = table["kernels"].as_array().expect("rows");
    let sum = number(&rows[0]["flop"]) + number(&table["rest"]["flop"]) + number(&table["residual"]["flop"]);
    assert_eq!((rows.len(), &table["rest"]["kernels"], sum), (1, &2.into(), number(&table["total"])));
    let text = printed(&run(), &["--kernels=1"]);
    for part in ["SIMULATED", GEMM, "2 more kernels", "residual", "by category: GEMM", "132x1x1 +1"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn csv_has_a_line_a_kernel_and_adds_up_too() {
    let evidence = run();
    let text = printed(&evidence, &["--csv"]);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let head = reader.headers().expect("a head").clone();
    let column = |name: &str| head.iter().position(|h| h == name).unwrap_or_else(|| panic!("{name}: {head:?}"));
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().expect("CSV");
    let sum: u128 = rows.iter().map(|r| r[column("flop")].parse::<u128>().expect("FLOP")).sum();
    assert_eq!((rows.len(), sum), (4, evidence.windows.iter().flat_map(|w| w.counts.values()).sum()));
    assert_eq!((&rows[3][0], &rows[3][column(FP64)]), ("(residual)", "7000000000001"));
    assert_eq!(&rows[1][column("symbol")], ATTENTION);
    assert!(rows.iter().all(|r| &r[column("simulated")] == "true"));
    // The columns of the paths add up to that of all, also where kernels are left out.
    let text = printed(&evidence, &["--kernels=1", "--csv"]);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().expect("CSV");
    assert_eq!((rows.len(), &rows[1][0]), (3, "(2 more kernels)"));
    for row in &rows {
        let of_paths: u128 =
            head.iter().zip(row).filter(|(name, _)| name.starts_with("sm__ops_path")).map(|(_, n)| n.parse::<u128>().expect("FLOP")).sum();
        assert_eq!(of_paths.to_string(), &row[column("flop")], "{row:?}");
    }
}

/// A path that only kernels below the listed ones used has its column all the same.
#[test]
fn csv_has_a_column_for_each_path_of_the_rest() {
    let mut evidence = run();
    evidence.windows[0].counts.remove(FP64);
    evidence.windows[1].counts.insert(FP64.to_owned(), 7);
    evidence.censuses[0].kernels[3].counts.insert(FP64.to_owned(), 7);
    let text = printed(&evidence, &["--kernels=1", "--csv"]);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let at = reader.headers().expect("a head").iter().position(|h| h == FP64).unwrap_or_else(|| panic!("{text}"));
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().expect("CSV");
    assert_eq!(rows.iter().map(|r| &r[at]).collect::<Vec<_>>(), ["0", "7", "0"], "{text}");
}

/// `flopsprof top` calls counted what was counted, and does not promise a census that will not come.
#[test]
fn top_says_what_was_counted_and_why_there_is_no_census() {
    let top = |evidence: &Evidence| {
        let folder = tempfile::tempdir().expect("a folder");
        evidence.write(folder.path());
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_flopsprof")).args(["top", "--once"]).arg(folder.path()).output();
        String::from_utf8(output.expect("the command").stdout).expect("UTF-8")
    };
    let mut evidence = Evidence::counted("node", 0, 1, 2);
    let one: u128 = evidence.windows[0].counts.values().sum();
    evidence.windows[1].tier = flopsprof::evidence::record::Tier::Sampled;
    let text = top(&evidence);
    assert!(text.contains(&format!("{:.6e} simulated FLOP counted, {:.4e} sampled", one as f64, one as f64)), "{text}");
    assert!(text.contains("none: the run was too short, or its budget too small"), "{text}");
    evidence.windows[1].spent = Some(Spent::default());
    let text = top(&evidence);
    assert!(text.contains("none: the budget is 0"), "{text}");
    // Of a run that goes on, the first may still come.
    let text = top(&Evidence { ended: false, ..Evidence::counted("node", 0, 1, 2) });
    assert!(text.contains("none yet"), "{text}");
}

#[test]
fn without_a_census_the_table_says_why() {
    let text = printed(&Evidence::counted("node", 0, 1, 3), &["--kernels"]);
    assert!(text.contains("100.00%") && text.contains("residual") && text.contains("no census was taken"), "{text}");
}

#[test]
fn what_the_meter_took_stands_in_the_report() {
    let text = printed(&run(), &[]);
    assert!(
        text.contains("it took 0.500 % of the time (budget 0.5 %): windows 0.20 s, changes of counters 0.10 s, censuses 0.10 s"),
        "{text}"
    );
    let report = json(&run(), &["--json"]);
    assert_eq!(report["overhead"]["census_s"], 0.1);
    let schema: Value = serde_json::from_str(flopsprof::report::json::SCHEMA).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    assert!(validator.is_valid(&report), "{:?}", validator.iter_errors(&report).map(|e| e.to_string()).collect::<Vec<_>>());
    // Evidence of older versions does not say.
    assert!(!printed(&Evidence::counted("node", 0, 1, 3), &[]).contains("it took"));
}

/// The page shows the kinds of kernels, and has no such chart where no census told them apart.
#[test]
fn the_page_has_a_chart_of_the_kinds_where_there_was_a_census() {
    let html = |evidence: &Evidence| {
        let folder = tempfile::tempdir().expect("a folder");
        evidence.write(folder.path());
        let file = folder.path().join("report.html");
        let output = report(folder.path(), ["--html", file.to_str().expect("UTF-8")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(file).expect("the page")
    };
    let page = html(&run());
    for part in ["<figure id=\"by-kernel\"", "GEMM", "not seen in a census", "apportioned by 2 censuses"] {
        assert!(page.to_lowercase().contains(&part.to_lowercase()), "{part} is not in the page");
    }
    assert!(!html(&Evidence::counted("node", 0, 1, 3)).contains("by-kernel"));
    let json = json(&run(), &["--json"]);
    let schema = serde_json::from_str(flopsprof::report::json::SCHEMA).expect("JSON");
    assert!(jsonschema::draft202012::is_valid(&schema, &json), "{json}");
    let shares = &json["kernels"];
    let all: f64 = shares["categories"].as_array().expect("a list").iter().filter_map(|c| c["share"].as_f64()).sum();
    assert!((all + shares["residual_share"].as_f64().expect("a number") - 1.0).abs() < 1e-9, "{shares}");
}

/// Recorded kernels of PyTorch, among them those whose names hold a word of another category, as `lambda` holds LAMB.
#[test]
fn recorded_kernels_have_their_categories_and_no_negative_nothing() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evidence/2026-11-25-h100-cuda-cores");
    let output = report(&recorded, ["--kernels=100", "--json"]);
    let table: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut seen = 0;
    for row in table["kernels"].as_array().expect("rows") {
        let name = row["name"].as_str().expect("a name");
        for (part, category) in [
            ("silu_kernel", "elementwise"),
            ("silu_backward_kernel", "elementwise"),
            ("bfloat16_copy_kernel", "elementwise"),
            ("FusedAdamMathFunctor", "optimizer"),
            ("GammaBetaBackward", "normalisation"),
            ("compute_dot_do_o", "attention_backward"),
            ("convert_dq_to_16bits", "attention_backward"),
        ] {
            if name.contains(part) {
                assert_eq!(row["category"], category, "{name}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 7, "{seen} of them");
    for form in [&["--kernels=100"][..], &["--kernels=100", "--csv"]] {
        let output = report(&recorded, form);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(!text.split([' ', ',']).any(|word| word.starts_with("-0")), "{text}");
    }
}

/// Of the recorded runs, those with a census among them, one has products that executed nothing while nobody looked at their path: the head of an odd vocabulary, on mma.sync. It is
/// called what it is, and no other run is.
#[test]
fn one_recorded_run_has_kernels_that_nobody_saw_executed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evidence");
    let (mut named, mut censuses) = (Vec::new(), 0);
    for run in fs::read_dir(folder).expect("recorded runs").flatten().map(|e| e.path()).filter(|p| p.is_dir()) {
        let report: Value = serde_json::from_slice(&report(&run, ["--json"]).stdout).expect("JSON");
        censuses += report["kernels"]["censuses"].as_u64().unwrap_or(0);
        let said = &report["not_metered"]["unexplained"];
        if said.is_null() {
            continue;
        }
        named.push(run.file_name().expect("a name").to_owned());
        let kernels = said["kernels"].as_array().expect("kernels");
        assert!(kernels.len() == 3 && kernels.iter().all(|k| k["name"].as_str().is_some_and(|n| n.contains("s1688gemm_bf16"))), "{said}");
        assert!(said["paths"].as_array().expect("paths").contains(&"sm__ops_path_tensor_op_hmma_src_bf16_dst_fp32".into()), "{said}");
        assert_eq!((&report["tier"], &report["not_metered"]["lower_bound"]), (&"sampled".into(), &true.into()));
    }
    assert_eq!(named, ["2026-11-26-h200-census-odd-ckpt"]);
    assert!(censuses >= 17, "{censuses}");
}
