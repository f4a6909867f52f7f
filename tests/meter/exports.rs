//! What the library shows of itself to the programs it is loaded into: its symbols stand before everybody else's, so each must be meant.

use std::process::Command;

use crate::harness::library;

/// Exported, and why.
const MEANT: [&str; 11] = [
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
    "flopsprof_mark_phase",
    "flopsprof_mark_step",
    "flopsprof_version",
];
/// What it is linked with: the C library; on older systems that is in parts. Neither libgcc nor the loader: a program of another C library would not start.
const NEEDED: [&str; 5] = ["libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so"];

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
