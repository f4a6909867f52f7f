//! `flopsprof report`: text, JSON by its schema, exit codes.

use std::{fs, io::Read, path::Path, process::Stdio, sync::LazyLock};

use flopsprof::evidence::{
    line_hash,
    record::{Declare, Fault, Tier},
};
use serde_json::Value;

use crate::{
    flopsprof, run,
    synthetic::{Evidence, FP64, WINDOW_FLOP},
};

/// The schema that the command prints.
static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let (code, schema, _) = run(["report", "--schema"]);
    assert_eq!(code, Some(0));
    jsonschema::draft202012::new(&serde_json::from_str(&schema).expect("JSON")).expect("a schema")
});

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The JSON of a folder, by the schema.
pub(crate) fn json(folder: &Path, options: &[&str]) -> Value {
    let args = ["report", "--json", folder.to_str().expect("UTF-8")];
    let (code, stdout, stderr) = run(args.iter().chain(options));
    assert!(code == Some(0) || code == Some(1), "{code:?}: {stderr}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    let wrong: Vec<String> = SCHEMA.iter_errors(&report).map(|e| format!("{}: {e}", e.instance_path)).collect();
    assert_eq!(wrong, [] as [&str; 0], "{stdout}");
    report
}

#[test]
fn the_schema_is_one_and_refuses_what_is_no_report() {
    let (_, schema, _) = run(["report", "--schema"]);
    assert!(jsonschema::meta::is_valid(&serde_json::from_str(&schema).expect("JSON")));
    let folder = folder();
    Evidence::counted("node", 0, 1, 3).write(folder.path());
    let report = json(folder.path(), &[]);
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut report = report.clone();
        change(&mut report);
        assert!(!SCHEMA.is_valid(&report), "{report}");
    };
    broken(&|r| r["total"]["flop"] = 12.into());
    broken(&|r| r["total"]["flop"] = "-3".into());
    broken(&|r| r["total"]["flop"] = "1e9".into());
    broken(&|r| r["total"]["more"] = 1.into());
    broken(&|r| r["paths"][0]["more"] = 1.into());
    broken(&|r| r["format"] = 2.into());
    broken(&|r| r["tier"] = "guessed".into());
    broken(&|r| r["surprise"] = Value::Null);
    broken(&|r| r["processes"] = Value::Array(Vec::new()));
    for key in report.as_object().expect("an object").keys() {
        broken(&|r| drop(r.as_object_mut().expect("an object").remove(key)));
    }
}

#[test]
fn a_counted_run_is_the_sum_of_its_windows() {
    let folder = folder();
    Evidence::counted("node", 0, 2, 6).write(folder.path());
    Evidence::counted("node", 1, 2, 6).write(folder.path());
    let report = json(folder.path(), &[]);
    assert_eq!(report["total"]["flop"], (12 * WINDOW_FLOP).to_string());
    assert_eq!((&report["total"]["standard_error"], &report["tier"]), (&0.0.into(), &"counted".into()));
    assert_eq!((&report["wall_clock_s"], &report["energy_mj"]), (&60.0.into(), &72_000_000.into()));
    assert_eq!(report["not_metered"]["ranks_missing"], 0);
    let (code, text, stderr) = run([Path::new("report"), folder.path()]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for part in ["SIMULATED", "4.800000e16 FLOP (simulated), counted", "wall clock 60.00 s", "72.0 (simulated) kJ"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn what_took_turns_is_interpolated_and_says_so() {
    let folder = folder();
    Evidence::counted("node", 0, 1, 6).taking_turns().write(folder.path());
    let report = json(folder.path(), &[]);
    let path = report["paths"].as_array().expect("a list").iter().find(|p| p["metric"] == FP64).expect("its row");
    assert_eq!((&path["tier"], &path["covered"]), (&"sampled".into(), &0.5.into()));
    assert_ne!(path["interpolated"], "0");
    assert!(path["standard_error"].as_f64().expect("a number") > 0.0);
    assert_eq!(report["tier"], "sampled");
}

#[test]
fn what_was_not_counted_is_estimated_beside_the_total() {
    for (tier, name) in [(Tier::Gpm, "gpm"), (Tier::Utilization, "utilization")] {
        let folder = folder();
        Evidence::counted("node", 0, 1, 3).estimated(tier).write(folder.path());
        let report = json(folder.path(), &[]);
        assert_eq!((&report["total"]["flop"], &report["tier"]), (&"0".into(), &name.into()));
        assert!(report["estimated"][0]["flop"].as_f64().expect("a number") > 1e15);
        let (_, text, _) = run([Path::new("report"), folder.path()]);
        assert!(text.contains(&format!("not counted, estimated by {name}")) && text.contains("no libcupti"), "{text}");
    }
}

#[test]
fn the_formula_stands_beside_the_measurement() {
    let folder = folder();
    let declared = Some(Declare { parameters: 8_000_000_000, trainable: 8_000_000_000, ..Declare::default() });
    Evidence { declared, tokens: 1_000_000, ..Evidence::counted("node", 0, 1, 12) }.write(folder.path());
    let report = json(folder.path(), &[]);
    assert_eq!(report["six_nd"]["six_nd"], "48000000000000000");
    assert!((report["six_nd"]["ratio"].as_f64().expect("a number") - 1.0).abs() < 1e-12);
    let given = json(folder.path(), &["--params", "4B", "--tokens", "1e6"]);
    assert_eq!(given["six_nd"]["parameters"]["evidence_says"], 8_000_000_000_u64);
    let (_, text, _) = run(["report".as_ref(), "--params".as_ref(), "4B".as_ref(), folder.path().as_os_str()]);
    assert!(text.contains("2.000000 x 6ND") && text.contains("the program says 8000000000"), "{text}");
}

#[test]
fn faults_ends_and_ranks_that_are_missing_are_told() {
    let folder = folder();
    let fault = Fault { kind: "nvml".to_owned(), device: Some(0), what: "no energy".to_owned(), remedy: "make NVML visible".to_owned() };
    Evidence { faults: vec![fault], ended: false, ..Evidence::counted("node", 0, 4, 3) }.write(folder.path());
    let report = json(folder.path(), &[]);
    assert_eq!(report["not_metered"]["ranks_missing"], 3);
    assert_eq!(report["not_metered"]["faults"][0]["kind"], "nvml");
    assert_eq!(report["processes"][0]["ended_cleanly"], false);
    let (_, text, _) = run([Path::new("report"), folder.path()]);
    for part in ["GPU 0: no energy: make NVML visible", "3 rank(s) of the job left no evidence", "lower bound"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn evidence_that_was_changed_is_reported_with_code_1() {
    let folder = folder();
    let file = Evidence::counted("node", 0, 1, 3).write(folder.path());
    let text = fs::read_to_string(&file).expect("evidence");
    fs::write(&file, text.replacen(&WINDOW_FLOP.to_string(), "9", 1)).expect("changing it");
    let (code, stdout, _) = run([Path::new("report"), folder.path()]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("evidence was changed"), "{stdout}");
    assert_eq!(json(folder.path(), &[])["not_metered"]["breaks"].as_array().expect("a list").len(), 1);
}

/// Whoever changes a line and gives it its own hash again is found by the next line, which carries the old one's.
#[test]
fn a_line_that_was_written_anew_is_found_by_the_chain() {
    let folder = folder();
    let file = Evidence::counted("node", 0, 1, 3).write(folder.path());
    let text = fs::read_to_string(&file).expect("evidence");
    let number = text.lines().position(|l| l.contains(&WINDOW_FLOP.to_string())).expect("a window");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let changed = lines[number].replacen(&WINDOW_FLOP.to_string(), "9", 1);
    let (body, _) = changed.rsplit_once(",\"sha256\":\"").expect("its own hash");
    lines[number] = format!("{body},\"sha256\":\"{}\"}}", line_hash(body.as_bytes()));
    fs::write(&file, lines.join("\n") + "\n").expect("changing it");
    let breaks = json(folder.path(), &[])["not_metered"]["breaks"].clone();
    let breaks: Vec<&str> = breaks.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(breaks.len() == 1 && breaks[0].contains("does not carry the hash of the line before it"), "{breaks:?}");
    // `verify` names the line too, without a seal.
    let (code, stdout, _) = run([Path::new("verify"), folder.path()]);
    assert_ne!(code, Some(0), "{stdout}");
    assert!(stdout.contains(&format!(":{}:", number + 2)), "{stdout}");
}

#[test]
fn what_is_no_evidence_is_refused_with_code_3() {
    let folder = folder();
    let refused = |path: &Path, why: &str| {
        let (code, stdout, stderr) = run([Path::new("report"), path]);
        assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
        assert!(stderr.starts_with("flopsprof: ") && stderr.contains(path.to_str().expect("UTF-8")) && stderr.contains(why), "{stderr}");
    };
    refused(&folder.path().join("nowhere"), "No such file");
    refused(folder.path(), "no evidence");
    let mut newer = Evidence::counted("node", 0, 1, 1);
    (newer.start.format, newer.start.version) = (99, "9.0.0".to_owned());
    let file = newer.write(folder.path());
    refused(&file, "use flopsprof 9.0.0 or newer");
    // A digit that was changed is no newer version.
    let text = fs::read_to_string(&file).expect("evidence");
    fs::write(&file, text.replacen("\"format\":99", "\"format\":98", 1)).expect("changing it");
    refused(&file, "does not match its own hash");
}

#[test]
fn wrong_usage_is_code_2() {
    for args in
        [&["report"][..], &["report", "--params", "none", "x"], &["report", "--speed", "x"], &["report", "--schema", "x"], &["fly"], &[]]
    {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(!stderr.is_empty());
    }
}

/// A reader that has seen enough is no error.
#[test]
fn a_broken_pipe_ends_quietly() {
    let folder = folder();
    // More than a pipe holds.
    for rank in 0..300 {
        Evidence::counted(&"node".repeat(15), rank, 300, 1).write(folder.path());
    }
    for options in [&[][..], &["--json"]] {
        let mut child = flopsprof()
            .arg("report")
            .args(options)
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command");
        let mut head = [0; 100];
        child.stdout.take().expect("a pipe").read_exact(&mut head).expect("its first bytes");
        let end = child.wait_with_output().expect("its end");
        assert_eq!((end.status.code(), String::from_utf8_lossy(&end.stderr).as_ref()), (Some(0), ""), "{options:?}");
    }
}
