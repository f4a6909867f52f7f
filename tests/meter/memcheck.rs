//! The injected library under valgrind: no invalid access, no use of what nobody wrote, nothing lost.
//!
//! ```text
//! cargo test --test meter memcheck -- --ignored --nocapture      needs valgrind
//! ```

use std::{fs, process::Command};

use crate::harness::Bench;

/// What the stand-ins lose is theirs: the real libraries are NVIDIA's.
const SUPPRESSED: &str = "{\n the stand-ins\n Memcheck:Leak\n ...\n obj:*/lib*.so.1*\n}\n";

#[test]
#[ignore = "needs valgrind, which a machine for development need not have"]
fn valgrind_finds_nothing() {
    // A child has its parent's heap and not its parent's threads: what these held seems lost there.
    for (program, args, leaks) in
        [("steps", &["400", "5000"][..], "full"), ("reset", &[], "full"), ("waits", &[], "full"), ("fork_after", &[], "no")]
    {
        // Censuses too; no report, for what that starts is another program.
        let bench = Bench::new().env("FLOPSPROF_CENSUS", "0.5:40:1").env("FLOPSPROF_REPORT", "0");
        let bare = bench.command(false, program, args).output().expect("a program");
        let (log, suppressed) = (bench.dir.path().join("valgrind"), bench.dir.path().join("suppressed"));
        fs::write(&suppressed, SUPPRESSED).expect("a file");
        let metered = bench.command(true, program, args);
        let mut command = Command::new("valgrind");
        command.args(["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite", "--num-callers=30"]);
        command
            .arg(format!("--leak-check={leaks}"))
            .arg(format!("--log-file={}", log.display()))
            .arg(format!("--suppressions={}", suppressed.display()));
        command.arg("--error-exitcode=99").arg(metered.get_program()).args(metered.get_args()).current_dir(bench.dir.path());
        for (name, value) in metered.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let output = command.output().expect("valgrind is needed: apt install valgrind");
        let said = fs::read_to_string(&log).expect("valgrind's log");
        // A probe in the stand-in's code (eBPF's, of another program on this machine) is a breakpoint that valgrind runs into.
        assert!(!said.contains("SIGTRAP"), "{program}: probes stand in the stand-in's code: run it when nobody traces libcuda");
        assert_eq!(output.status, bare.status, "{program}: {said}");
        let summaries: Vec<&str> = said.lines().filter_map(|l| l.split_once("ERROR SUMMARY: ")).map(|(_, summary)| summary).collect();
        println!("{program}: {summaries:?}");
        assert!(!summaries.is_empty() && summaries.iter().all(|s| s.starts_with("0 errors")), "{said}");
        let windows = fs::read_dir(bench.out())
            .expect("evidence")
            .flatten()
            .any(|e| fs::read_to_string(e.path()).is_ok_and(|t| t.contains("\"type\":\"window\"")));
        assert!(windows, "{program} was not metered");
    }
}
