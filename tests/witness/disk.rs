//! A witness that cannot write its evidence says so, what would mend it, and does not end as if all were well.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{
    harness::Bench,
    watch::{environment, flopsprof, records},
};

/// What a witness without probes says of a second, and its exit code.
fn watched(mut command: Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().expect("the witness");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

/// A path has an end too: the folder can be made, and no file with a name of some length in it.
#[test]
fn a_folder_whose_path_leaves_no_room_for_a_files_name_is_refused() {
    let bench = Bench::new();
    let mut out: PathBuf = bench.out();
    while out.as_os_str().len() < 4078 {
        out.push("x".repeat((4078 - out.as_os_str().len()).saturating_sub(1).clamp(1, 200)));
    }
    let mut command = flopsprof(&bench);
    command.args(["watch", "--no-ebpf", "--every", "0.2", "--for", "1", "--out"]).arg(&out);
    let (code, said) = watched(command);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(out.to_str().expect("UTF-8")) && said.contains("File name too long"), "{said}");
    assert!(said.contains("give --out a shorter path") && !said.contains("witnessing into"), "{said}");
    assert_eq!(fs::read_dir(&out).expect("the folder").count(), 0, "nothing is left in it");
    // A name of one folder, likewise.
    let mut command = flopsprof(&bench);
    command.args(["watch", "--no-ebpf", "--for", "1", "--out"]).arg(bench.out().join("y".repeat(256)));
    let (code, said) = watched(command);
    assert!(code == Some(1) && said.contains("give --out a shorter path"), "{code:?} {said}");
}

/// What is written stays, what is not is said: when it happens, and at the end.
#[test]
fn a_disk_that_becomes_full_is_said_and_the_lost_lines_are_counted() {
    let bench = Bench::new();
    let mut shell = Command::new("bash");
    let watch = format!("{} watch --no-ebpf --every 0.2 --for 2 --out {}", env!("CARGO_BIN_EXE_flopsprof"), bench.out().display());
    // In KiB; the signal that comes with it would end the process.
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f 3; exec {watch}")]);
    shell.envs(environment(&flopsprof(&bench)));
    let (code, said) = watched(shell);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said.matches("flopsprof: cannot write evidence: ").count(), 1, "{said}");
    let lost = said
        .lines()
        .find_map(|l| l.strip_prefix("flopsprof: not witnessed: ")?.split_once(" lines of evidence are lost: ")?.0.parse::<u64>().ok());
    assert!(lost.is_some_and(|n| n > 0) && said.contains("give --out a folder"), "{said}");
    assert!(!records(&bench.out()).is_empty(), "{said}");
}
