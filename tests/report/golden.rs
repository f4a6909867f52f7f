//! Every recorded run in every format, against what was looked at and found good.
//!
//! `tests/evidence/<date>-<gpu>-<workload>` holds the evidence, `tests/golden/<the same>` the report in its formats. `UPDATE=1` writes the latter anew: look at
//! the difference before it is committed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::flopsprof;

/// A base model that is known by its name, so that there is a verdict to look at.
const OPTIONS: [&str; 2] = ["--base", "meta-llama/Llama-3.1-8B"];

fn runs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evidence");
    let mut runs: Vec<PathBuf> = fs::read_dir(folder).expect("tests/evidence").flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    runs.sort();
    runs
}

/// The report of a run in one format. Paths in it are relative, and the version is left open: neither is what is looked at here.
fn render(run: &Path, format: &str) -> String {
    let out = tempfile::tempdir().expect("a temporary folder");
    let file = out.path().join(format);
    let mut command = flopsprof();
    command.current_dir(run.parent().expect("a folder")).arg("report").args(OPTIONS);
    match format {
        "report.html" => command.arg("--html").arg(&file),
        "flops_meter.json" => command.arg("--aws").arg(&file),
        "report.json" => command.arg("--json"),
        _ => &mut command,
    };
    let output = command.arg(run.file_name().expect("a name")).output().expect("the command");
    assert!(output.status.success(), "{}: {}", run.display(), String::from_utf8_lossy(&output.stderr));
    let bytes = if file.exists() { fs::read(&file).expect("the report") } else { output.stdout };
    let text = String::from_utf8(bytes).expect("UTF-8");
    text.replace(&format!("flopsprof {}", env!("CARGO_PKG_VERSION")), "flopsprof VERSION")
        .replace(&format!("\"{}\"", env!("CARGO_PKG_VERSION")), "\"VERSION\"")
}

#[test]
fn every_recorded_run_renders_as_it_did_in_every_format() {
    let runs = runs();
    assert!(!runs.is_empty(), "there is no recorded run");
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for run in &runs {
        let name = run.file_name().expect("a name").to_str().expect("UTF-8");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        for format in ["report.txt", "report.json", "report.html", "flops_meter.json"] {
            let (now, file) = (render(run, format), golden.join(format));
            // What is simulated says so, in the name of its folder and in every form of its report.
            let simulated = now.to_lowercase().contains("simulated\": true") || (now.contains("SIMULATED") && !format.ends_with("json"));
            assert_eq!(simulated, name.contains("simulated"), "{name}: {format}");
            if update {
                fs::create_dir_all(&golden).expect("a folder");
                fs::write(&file, &now).expect("writing a golden file");
            } else if fs::read_to_string(&file).ok().as_ref() != Some(&now) {
                let left = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{format}"));
                fs::write(&left, now).expect("leaving what it is now");
                wrong.push(format!("{} is not {}", left.display(), file.display()));
            }
        }
    }
    assert_eq!(wrong, [] as [&str; 0], "look at the difference; UPDATE=1 cargo test --test report golden takes it over");
}
