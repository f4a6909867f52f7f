//! `flopsprof lib`, `plan` and `doctor`.

use std::path::Path;

use crate::{
    flopsprof,
    harness::{Bench, library},
    run, said,
};

#[test]
fn help_and_version_go_to_stdout() {
    for args in [&["--help"][..], &["-h"], &["report", "--help"], &["run", "--help"], &["--version"]] {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(!stdout.is_empty());
    }
}

#[test]
fn lib_prints_the_library_that_lies_beside_the_command() {
    let built = library("flopsprof");
    let (code, stdout, _) = run(["lib"]);
    assert_eq!((code, Path::new(stdout.trim_end())), (Some(0), built.as_path()));
    let (code, stdout, stderr) = said(&flopsprof().arg("lib").env("FLOPSPROF_LIB", "/nowhere/lib.so").output().expect("the command"));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("FLOPSPROF_LIB=/nowhere/lib.so"), "{stderr}");
}

#[test]
fn plan_asks_the_libcupti_it_is_given() {
    let bench = Bench::new();
    let cupti = bench.lib("libcupti.so.13");
    let plan = |args: &[&str]| said(&flopsprof().arg("plan").args(args).arg("--cupti").arg(&cupti).output().expect("the command"));
    let (code, chips, _) = plan(&[]);
    assert_eq!(code, Some(0));
    assert!(chips.lines().any(|l| l == "GH100"), "{chips}");
    let (code, text, _) = plan(&["--chip", "GH100"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("GH100 (simulated): ") && text.contains("counted all the time:"), "{text}");
    let (code, json, _) = plan(&["--chip", "GH100", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, &json["simulated"], &json["chip"]), (Some(0), &true.into(), &"GH100".into()));
    assert!(!json["groups"].as_array().expect("a list").is_empty());
    let (code, stdout, stderr) = plan(&["--chip", "GH999"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("does not know the chip GH999") && stderr.contains("GH100"), "{stderr}");
}

#[test]
fn plan_without_a_libcupti_says_what_to_do() {
    let (code, stdout, stderr) = run(["plan", "--cupti", "/nowhere/libcupti.so"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("/nowhere/libcupti.so"), "{stderr}");
}

/// Each thing that is missing has a line with its fix, and the exit code says that there was one.
#[test]
fn doctor_names_what_is_missing_and_its_fix() {
    let bench = Bench::new();
    let doctor = |bench: &Bench| {
        let mut command = bench.command(false, "plain", &[]);
        let mut doctor = flopsprof();
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => doctor.env(name, value),
                None => doctor.env_remove(name),
            };
        }
        command.env_clear();
        said(&doctor.arg("doctor").output().expect("the command"))
    };
    let (code, stdout, stderr) = doctor(&bench);
    assert!(stdout.contains("ok       libcuda") && stdout.contains("(simulated)"), "{stdout}{stderr}");
    // The kernel's part has no stand-in.
    let kernel = Path::new("/proc/driver/nvidia/version").exists();
    assert_eq!(code, Some(i32::from(!kernel)), "{stdout}");
    let broken = bench.broken("libcuda.so.1");
    let (code, stdout, _) = doctor(&broken);
    assert_eq!(code, Some(1));
    let missing = stdout.lines().filter(|l| l.starts_with("  MISSING  ")).count();
    assert_eq!(missing, stdout.lines().filter(|l| l.trim_start().starts_with("fix: ")).count(), "{stdout}");
    assert!(stdout.contains("MISSING  libcuda"), "{stdout}");
}
