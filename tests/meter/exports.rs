//! What the library shows of itself to the programs it is loaded into: its symbols stand before everybody else's, so each must be meant.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use crate::harness::library;

/// Exported, and why.
const MEANT: [&str; 12] = [
    // The driver calls it at cuInit.
    "InitializeInjection",
    // Ends of a process that run no exit handlers.
    "_Exit",
    "_exit",
    // Lets another tool have CUPTI's subscription.
    "cuptiSubscribe",
    // The C interface.
    "flopsprof_add_tokens",
    "flopsprof_declare_model",
    "flopsprof_declare_parameters",
    "flopsprof_declare_work",
    "flopsprof_mark_batch",
    "flopsprof_mark_phase",
    "flopsprof_mark_step",
    "flopsprof_version",
];
/// What it is linked with: the C library; on older systems that is in parts. Neither libgcc nor the loader: a program of another C library would not start.
const NEEDED: [&str; 5] = ["libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so"];

/// The most that it is, without what a debugger needs: it lies in the memory of every process of a job.
const BYTES: u64 = if cfg!(debug_assertions) { 3 << 20 } else { 2 << 20 };
/// The crates whose code is in it: ours and those that Cargo.toml names, what these need, and the standard library with its backtraces.
const CRATES: [&[&str]; 3] = [
    &["flopsprof", "cupti_sys", "libc", "libloading", "nvml_wrapper", "serde", "serde_core", "serde_json", "sha2"],
    &["nvml_wrapper_sys", "thiserror", "itoa", "memchr", "zmij", "block_buffer", "cpufeatures", "crypto_common", "digest", "hybrid_array"],
    &[
        "core",
        "alloc",
        "std",
        "std_detect",
        "panic_unwind",
        "hashbrown",
        "gimli",
        "addr2line",
        "object",
        "miniz_oxide",
        "adler2",
        "rustc_demangle",
    ],
];

fn lines(tool: &str, arguments: &[&str]) -> Vec<String> {
    let output = Command::new(tool).args(arguments).arg(library("flopsprof")).output().unwrap_or_else(|e| panic!("{tool}: {e}"));
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn every_exported_symbol_is_meant() {
    let exported = lines("nm", &["-D", "--defined-only", "--format=posix"]);
    let mut names: Vec<&str> = exported.iter().filter_map(|l| l.split(' ').next()).collect();
    names.sort_unstable();
    assert_eq!(names, MEANT);
}

#[test]
fn it_is_linked_with_the_c_library_alone() {
    let dynamic = lines("readelf", &["-d", "-W"]);
    let needed: Vec<&str> = dynamic.iter().filter(|l| l.contains("(NEEDED)")).filter_map(|l| l.split(['[', ']']).nth(1)).collect();
    assert!(!needed.is_empty());
    for file in needed {
        assert!(NEEDED.iter().any(|n| file.starts_with(n)), "{file} would be loaded into every process of a job");
    }
    // Never unloaded: its thread and its handlers keep their code.
    assert!(dynamic.iter().any(|l| l.contains("NODELETE")), "{dynamic:?}");
}

#[test]
fn it_is_small() {
    let stripped = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stripped.so");
    let output = Command::new("strip").arg("-o").arg(&stripped).arg(library("flopsprof")).output().expect("strip");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = fs::metadata(&stripped).expect("the stripped library").len();
    assert!(bytes <= BYTES, "{bytes} bytes stripped: what of the command is reachable from its symbols?");
}

/// Nothing of what only the command needs is in it: a dependency that comes in is a decision.
#[test]
fn it_is_made_of_few_crates() {
    let symbols = lines("nm", &["--demangle"]);
    let names = symbols
        .iter()
        .filter_map(|l| l.split_once(' ')?.1.split_once(' '))
        .filter_map(|(_, name)| name.trim_start_matches('<').split_once("::"));
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    for (name, _) in names.filter(|(n, _)| n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')) {
        *found.entry(name).or_default() += 1;
    }
    assert!(found.contains_key("flopsprof"), "{found:?}");
    // One alone is a function of ours under another's name: the compiler keeps one of two that are the same, byte for byte.
    let others: Vec<&&str> =
        found.iter().filter(|(n, count)| **count > 1 && !CRATES.concat().contains(n) && !n.starts_with("__")).map(|(n, _)| n).collect();
    assert!(others.is_empty(), "in the injected library: {others:?}");
}
