//! What is wrong is said once: each command with files that are not there, or are something else.

use std::{fs, path::Path};

use crate::{run, synthetic::Evidence};

/// No part of a message comes twice: a cause that stands in a message and is its source too would be printed by both.
#[test]
fn no_command_says_its_cause_twice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    Evidence::counted("node", 0, 1, 3).write(&folder.path().join("run"));
    let (run7, nothing, here) = (path("run"), path("nothing"), path(""));
    let text = path("text");
    fs::write(&text, "neither YAML: nor: {JSON").expect("a file");
    // A folder cannot be made in a file, whoever one is.
    let (beside, inside) = (format!("{text}/file"), format!("{text}/folder/file"));
    let commands: Vec<Vec<&str>> = vec![
        vec!["estimate", &nothing, "--tokens", "1M"],
        vec!["estimate", &text, "--tokens", "1M"],
        vec!["estimate", &here, "--tokens", "1M"],
        vec!["estimate", "--params", "1B", "--lengths", &nothing],
        vec!["estimate", "--params", "1B", "--lengths", &text],
        vec!["estimate", "--params", "1B", "--tokens", "1M", "--method", "frozen", "--spectrum", &nothing],
        vec!["estimate", "--params", "1B", "--tokens", "1M", "--method", "frozen", "--spectrum", &text],
        vec!["estimate", "--params", "1B", "--tokens", "1M", "--measured", &nothing],
        vec!["estimate", "--params", "1B", "--tokens", "1M", "--measured", &here],
        vec!["estimate", "--params", "1B", "--tokens", "1M", "--measured", &text],
        vec!["report", &nothing],
        vec!["report", &here],
        vec!["report", &text],
        vec!["report", "--kernels", &nothing],
        vec!["report", "--csv", &text],
        vec!["report", "--write", &nothing],
        vec!["report", "--html", &beside, &run7],
        vec!["report", "--aws", &beside, &run7],
        vec!["report", "--base", "nobody's", &run7],
        vec!["report", "--base", "a", "--base-flops", "1e24", "--of-which", "evaluation=9e99", &run7],
        vec!["top", &nothing],
        vec!["top", "--once", &text],
        vec!["ledger", "--db", &nothing, "show"],
        vec!["ledger", "--db", &text, "show"],
        vec!["ledger", "--db", &inside, "add", "--from-scratch", &run7],
        vec!["ledger", "--db", &text, "add", "--from-scratch", &run7],
        vec!["ledger", "--db", &here, "add", "--from-scratch", &run7],
        vec!["ledger", "--db", &nothing, "add", "--from-scratch", &text],
        vec!["ledger", "--db", &text, "remove", "1"],
        vec!["verify", &nothing],
        vec!["verify", &here],
        vec!["verify", &text],
        vec!["verify", "--key", &nothing, &run7],
        vec!["verify", "--key", &text, &run7],
        vec!["verify", "--seal", &nothing, &run7],
        vec!["verify", "--seal", &text, &run7],
        vec!["seal", "--key", &nothing, &nothing],
        vec!["seal", "--key", &nothing, &run7],
        vec!["seal", "--key", &text, &run7],
        vec!["seal", "--new-key", &beside, &run7],
        vec!["seal", "--key", &text, "--with", &nothing, &run7],
        vec!["seal", "--new-key", "/dev/null", "--out", &beside, &run7],
        vec!["plan", "--cupti", &nothing],
        vec!["plan", "--cupti", &text],
        vec!["run", &nothing],
        vec!["run", "--no-witness", "--out", &inside, "true"],
        vec!["run", "--no-witness", "--recipe", &nothing, "true"],
        vec!["run", "--no-witness", "--recipe", &text, "true"],
        vec!["run", "--no-witness", "--recipe", &here, "true"],
        vec!["watch", "--out", &inside, "--for", "0.1"],
        vec!["demo", "--out", &inside, "--launches", "1"],
    ];
    let mut silent = 0;
    for command in commands {
        let (code, printed, wrong) = run(&command);
        let said = format!("{printed}{wrong}");
        if code == Some(0) {
            // What cannot be opened may be no matter: then nobody says so.
            silent += 1;
            continue;
        }
        let twice = said.lines().filter_map(|line| repeated(line, folder.path())).collect::<Vec<_>>();
        assert!(!said.trim().is_empty() && twice.is_empty(), "{command:?} says {twice:?} twice: {said}");
    }
    assert!(silent <= 2, "{silent} commands were content");
}

/// What a line says twice: a part between colons, the system's word for what is wrong, or a file.
fn repeated<'a>(line: &'a str, folder: &Path) -> Option<&'a str> {
    let parts: Vec<&str> = line.split(": ").collect();
    let again = parts.iter().enumerate().find(|(i, part)| part.len() > 8 && parts[..*i].iter().any(|before| before.contains(*part)));
    let of = |text: &'static str| (line.matches(text).count() > 1).then_some(text);
    let folder = folder.to_str().expect("UTF-8");
    // A command may say of one file where it is and that another lies beside it, but no file twice.
    let files: Vec<&str> = line.split([' ', ':', '(', ')', '=', ',', ';', '`']).filter(|w| w.starts_with(folder)).collect();
    let file = files.iter().enumerate().find(|(i, file)| files[..*i].contains(*file)).map(|(_, file)| *file);
    again.map(|(_, part)| *part).or_else(|| of("(os error")).or(file)
}
