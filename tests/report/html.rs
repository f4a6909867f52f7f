//! The HTML, as a browser shows and prints it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use flopsprof::evidence::record::{Declare, Fault};

use crate::{
    report,
    synthetic::{Evidence, FP64},
};

/// A browser and a reader of PDF. Debian's packages; installed when they are not there.
fn browser() -> &'static str {
    static BROWSER: OnceLock<&str> = OnceLock::new();
    BROWSER.get_or_init(|| {
        let there =
            |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success() || !o.stderr.is_empty());
        if !there("chromium") || !there("pdftotext") {
            let apt =
                |args: &[&str]| Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status().expect("apt-get");
            apt(&["update", "-q"]);
            let status = apt(&["install", "-q", "-y", "--no-install-recommends", "chromium", "poppler-utils", "fonts-dejavu-core"]);
            assert!(status.success(), "these tests need chromium and poppler-utils");
        }
        "chromium"
    })
}

/// Runs the browser on a page; returns stdout.
fn chromium(page: &Path, options: &[&str]) -> String {
    let profile = tempfile::tempdir().expect("a folder for the browser");
    let mut command = Command::new(browser());
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]);
    command.args([
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--no-pdf-header-footer",
        "--virtual-time-budget=2000",
    ]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).args(options).arg(format!("file://{}", page.display()));
    let output = command.output().expect("chromium");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Where pages and pictures of them are left, to be looked at.
fn pictures() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Two nodes with four GPUs each, an hour and a half; work that comes and goes, a format that takes turns.
fn training(simulated: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for rank in 0..8u64 {
        let mut evidence = Evidence::counted(&format!("node-{}", rank / 4), rank, 8, 540).taking_turns();
        evidence.start.simulated = simulated;
        "NVIDIA H200".clone_into(&mut evidence.device.name);
        evidence.start.job.insert("SLURM_JOB_ID".to_owned(), "4711".to_owned());
        for window in &mut evidence.windows {
            let phase = window.index as f64 / 540.0;
            let level = if (0.48..0.53).contains(&phase) { 0.05 } else { 0.9 - 0.25 * (phase * 9.0).sin().abs() };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and small")]
            let scaled = |flop: &mut u128| *flop = (*flop as f64 * level) as u128;
            window.counts.values_mut().for_each(scaled);
            let fp8 = window.counts.values().max().copied().unwrap_or(0) / if phase > 0.5 { 2 } else { 20 };
            window.counts.insert("sm__ops_path_tensor_op_hgmma_src_fp8".to_owned(), fp8);
        }
        evidence.tokens = 40_000_000;
        evidence.declared = Some(Declare { parameters: 8_030_261_248, trainable: 8_030_261_248, ..Declare::default() });
        if rank == 3 {
            let what = "the counters were busy for 40 s: another program held them".to_owned();
            evidence.faults = vec![Fault { kind: "busy".to_owned(), device: Some(3), what, remedy: "dcgmi profile --pause".to_owned() }];
        }
        evidence.write(folder.path());
    }
    folder
}

fn page(folder: &Path, name: &str, options: &[&str]) -> PathBuf {
    let file = pictures().join(name);
    let output = report(folder, [&["--html", file.to_str().expect("UTF-8")], options].concat());
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", String::from_utf8_lossy(&output.stderr));
    file
}

/// The text of a PDF, page by page.
fn pages(pdf: &Path) -> Vec<String> {
    let output = Command::new("pdftotext").args(["-layout".as_ref(), pdf.as_os_str(), "-".as_ref()]).output().expect("pdftotext");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.split('\u{c}').map(str::to_owned).filter(|p| !p.trim().is_empty()).collect()
}

const BASE: [&str; 6] = ["--base", "acme/base-8b", "--base-flops", "7.2e23", "--base-source", "its model card"];

#[test]
fn the_page_has_its_charts_and_its_words_and_needs_nothing_else() {
    let folder = training(false);
    let file = page(folder.path(), "training.html", &BASE);
    let source = fs::read_to_string(&file).expect("the page");
    for outside in ["http://", "src=", "<script", "@import", "url("] {
        assert!(!source.contains(outside), "{outside} stands in the page");
    }
    let dom = chromium(&file, &["--dump-dom"]);
    for id in ["over-time", "by-precision", "waterfall", "power"] {
        assert!(dom.contains(&format!("<figure id=\"{id}\"")), "the chart {id} is not there");
    }
    for words in [
        "Training compute of 4711",
        "Below one third of the base model's compute",
        "acme/base-8b",
        "Model Documentation Form: for the AI Office",
        "Model Documentation Form: for national competent authorities",
        "less than 1 month",
        "NVIDIA H200 days",
        "Annex XI, section 1",
        "2(e)",
        "the counters were busy for 40 s",
    ] {
        assert!(dom.contains(words), "{words} is not in the page");
    }
    assert!(!dom.contains("SIMULATED"));
    let shot = |name: &str, options: &[&str]| {
        let picture = pictures().join(name);
        let shot = format!("--screenshot={}", picture.display());
        chromium(&file, &[&[shot.as_str()], options].concat());
        let png = fs::read(&picture).expect("a picture");
        assert!(png.starts_with(b"\x89PNG") && png.len() > 50_000, "{name}: {} bytes", png.len());
        png
    };
    let light = shot("light.png", &["--window-size=1100,3600", "--blink-settings=preferredColorScheme=1"]);
    let dark = shot("dark.png", &["--window-size=1100,3600", "--blink-settings=preferredColorScheme=0"]);
    assert_ne!(light, dark);
    shot("narrow.png", &["--window-size=500,3000", "--blink-settings=preferredColorScheme=1"]);
    let pdf = pictures().join("training.pdf");
    chromium(&file, &[&format!("--print-to-pdf={}", pdf.display())]);
    let pages = pages(&pdf);
    assert!((2..=9).contains(&pages.len()), "{} pages", pages.len());
    assert!(pages[0].contains("Below one third"), "{}", pages[0]);
}

/// Whoever sees one page alone sees that it is no measurement.
#[test]
fn a_simulated_run_says_so_on_every_page_and_has_no_verdict() {
    let folder = training(true);
    let file = page(folder.path(), "simulated.html", &BASE);
    let dom = chromium(&file, &["--dump-dom"]);
    assert!(dom.contains("Verdict withheld: the run was simulated"));
    assert!(!dom.contains("Below one third"));
    let pdf = pictures().join("simulated.pdf");
    chromium(&file, &[&format!("--print-to-pdf={}", pdf.display())]);
    let pages = pages(&pdf);
    assert!(pages.len() >= 2);
    for (i, page) in pages.iter().enumerate() {
        assert!(page.contains("SIMULATED"), "page {}:\n{page}", i + 1);
    }
    let picture = format!("--screenshot={}", pictures().join("simulated.png").display());
    chromium(&file, &[&picture, "--window-size=1100,900"]);
}

/// Names come from outside, and are only ever text.
#[test]
fn hostile_names_stay_text() {
    const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&<script>document.title='owned'</script>";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut evidence = Evidence::counted("node", 0, 1, 3);
    evidence.write(folder.path());
    HOSTILE.clone_into(&mut evidence.start.process.comm);
    HOSTILE.clone_into(&mut evidence.device.name);
    HOSTILE.clone_into(&mut evidence.device.uuid);
    evidence.start.job.insert("SLURM_JOB_ID".to_owned(), HOSTILE.to_owned());
    evidence.windows[0].counts.insert(format!("{FP64}{HOSTILE}"), 7);
    evidence.faults = vec![Fault { kind: "x".to_owned(), device: None, what: HOSTILE.to_owned(), remedy: HOSTILE.to_owned() }];
    evidence.start.process.pid = 7;
    evidence.write(folder.path());
    // The file's name is the host's, which cannot hold a slash; the host's name in it can be anything.
    let file = folder.path().join("node-7-77.jsonl");
    let text = fs::read_to_string(&file).expect("evidence");
    let hostile = serde_json::to_string(HOSTILE).expect("JSON");
    fs::write(&file, text.replacen("\"hostname\":\"node\"", &format!("\"hostname\":{hostile}"), 1)).expect("changing it");
    let html = pictures().join("hostile.html");
    let output = report(folder.path(), ["--html", html.to_str().expect("UTF-8"), "--base", HOSTILE, "--base-flops", "1e24"]);
    // The chain is broken by the change, and the report is made all the same.
    assert_eq!(output.status.code(), Some(1));
    let dom = chromium(&html, &["--dump-dom"]);
    for tag in ["<img", "<script"] {
        assert!(!dom.contains(tag), "{tag} got through");
    }
    assert!(dom.contains("&lt;img src=x") && !dom.contains("<title>owned"), "{dom}");
}
