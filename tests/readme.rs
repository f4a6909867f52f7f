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

/// What README's promises are said to be held by: rows of the script's results, files, benchmarks, and tests by module and name.
#[test]
fn what_holds_a_promise_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = read("README.md");
    let promises = readme.split("## What it promises").nth(1).and_then(|t| t.split("## ").next()).expect("the promises");
    let results: Vec<Value> = serde_json::from_str(&read("tests/gpu/results.json")).expect("JSON");
    let sources = Command::new("grep").args(["-rhoE", "fn [a-z0-9_]+", "src", "tests"]).current_dir(root).output().expect("grep");
    let functions: Vec<String> =
        String::from_utf8_lossy(&sources.stdout).lines().filter_map(|l| Some(l.strip_prefix("fn ")?.to_owned())).collect();
    let mut held = 0;
    for line in promises.lines().filter(|l| l.starts_with("| ") && l.matches('|').count() == 4) {
        let by = line.trim_matches('|').split(" | ").last().expect("a cell");
        for name in by.split('`').skip(1).step_by(2) {
            held += 1;
            if let Some(bench) = name.strip_prefix("cargo bench --bench ") {
                let bench = bench.split(' ').next().expect("a name");
                assert!(root.join(format!("benches/{bench}.rs")).exists(), "{line}");
            } else if let Some((module, test)) = name.split_once("::") {
                let begins = test.trim_end_matches('…');
                let found = functions.iter().any(|f| if begins == test { f == test } else { f.starts_with(begins) });
                assert!(found, "no test {module}::{test}: {line}");
            } else if let Some((folder, files)) = name.trim_end_matches('}').split_once('{') {
                let (files, end) = files.split_once('}').unwrap_or((files, ""));
                files.split(',').for_each(|f| assert!(root.join(format!("{folder}{f}{end}")).exists(), "{folder}{f}{end}: {line}"));
            } else if name.contains('/') {
                assert!(root.join(name).exists(), "{name}: {line}");
            } else {
                let begins = name.trim_end_matches('*');
                let row = |r: &Value| r["id"].as_str().is_some_and(|id| if begins == name { id == name } else { id.starts_with(begins) });
                assert!(results.iter().any(row), "{name} is not in results.json: {line}");
            }
        }
    }
    assert!(held >= 25, "{held} were found");
}

/// What boundaries and probes take of an old run is reckoned in the script with the library's own times between them.
#[test]
fn the_script_reckons_with_the_librarys_schedule() {
    let after = |file: &str, what: &str| -> u64 {
        let text = read(file);
        let rest = text.split_once(what).unwrap_or_else(|| panic!("{what} is not in {file}")).1;
        rest.chars().filter(|c| *c != '_').take_while(char::is_ascii_digit).collect::<String>().parse().expect(what)
    };
    let old = after("src/inject/config.rs", "DEFAULT_WINDOW: Steady = Steady { young: Duration::from_secs(60), old: Duration::from_secs(");
    let rare = after("src/window/schedule.rs", "RARE_PROBE: Duration = Duration::from_secs(");
    assert_eq!(after("tests/gpu/run.py", "OLD_WINDOW_MS = "), old * 1000);
    assert_eq!(after("tests/gpu/run.py", "RARE_PROBE_MS = "), rare * 1000);
}
