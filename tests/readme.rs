//! README says what was measured, and names the commands that CI runs.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A number as the table writes it.
fn shown(value: &Value) -> f64 {
    format!("{:.3e}", value.as_f64().expect("a number")).parse().expect("a number")
}

#[test]
fn the_table_of_checks_is_what_the_script_wrote() {
    let results: Vec<Value> = serde_json::from_str(&read("tests/gpu/results.json")).expect("JSON");
    let readme = read("README.md");
    let mut rows = 0;
    for line in readme.lines().filter(|l| l.starts_with("| `") && l.matches('|').count() >= 6) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let (id, value) = (cells[0].trim_matches('`'), cells[2]);
        let row = results.iter().find(|r| r["id"] == id).unwrap_or_else(|| panic!("{id} is not in results.json"));
        assert_eq!(shown(&row["value"]), value.parse::<f64>().expect(line), "{line}");
        assert_eq!(row["pass"] == false, line.contains("**missed**"), "{line}");
        assert_eq!(row["simulated"], false, "{line}");
        rows += 1;
    }
    assert!(rows >= 30, "{rows} rows were found");
    for missed in results.iter().filter(|r| r["pass"] == false) {
        let id = missed["id"].as_str().expect("an id");
        assert!(readme.contains(&format!("**`{id}`**")), "README does not say why {id} missed its mark");
    }
}

#[test]
fn the_table_of_peers_is_what_the_command_prints() {
    let root = env!("CARGO_MANIFEST_DIR");
    let printed = Command::new("python3")
        .args(["-B", "tests/gpu/peers.py", "table", "tests/gpu/results.json"])
        .current_dir(root)
        .output()
        .expect("python3");
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let table = String::from_utf8(printed.stdout).expect("UTF-8");
    assert_eq!(!table.is_empty(), read("tests/gpu/results.json").contains("\"peer.flopsprof.time\""));
    assert!(read("README.md").contains(&table), "README must hold what tests/gpu/peers.py table prints:\n{table}");
}

#[test]
fn the_test_command_is_the_one_that_ci_runs() {
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    let command = readme.lines().find(|l| l.contains("**Passes the tests**")).and_then(|l| l.split('`').nth(1)).expect("a command");
    assert!(ci.lines().any(|l| l.starts_with(command)), "{command} is not in .ci/run");
}
