//! How the libraries that these tests load are built.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{BUILD, built, cargo};

/// The files of other people's crates that cargo takes for this.
fn others(words: &str) -> BTreeSet<String> {
    let output = cargo(words).arg("--message-format=json").output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = output.stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let theirs =
        messages.filter(|m| m["reason"] == "compiler-artifact" && m["package_id"].as_str().is_some_and(|p| !p.starts_with("path+")));
    let files = theirs.filter_map(|m| m["filenames"].as_array().cloned()).flatten();
    files.filter_map(|f| f.as_str().map(str::to_owned)).collect()
}

/// Features that differ would have nearly all of them compiled a second time, in the middle of the tests.
#[test]
fn nothing_is_compiled_again_for_the_libraries() {
    built();
    let (tests, libraries) = (others("test --no-run --test meter"), others(BUILD));
    assert!(libraries.iter().any(|f| f.contains("libserde_json-")), "{libraries:?}");
    let again: Vec<&String> = libraries.difference(&tests).collect();
    assert!(again.is_empty(), "{again:?}");
}
