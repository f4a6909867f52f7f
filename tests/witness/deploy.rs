//! The capabilities that `deploy/` asks for: they suffice, and none of them is too much.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::{
    alone,
    harness::{Bench, zoo},
    held::Held,
    watch::{Watch, environment, flopsprof, launches, seen},
};

/// Text of a file below `deploy`.
fn text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)).expect("a file of deploy")
}

/// Those that the unit leaves, in the short form of setpriv: `sys_admin`.
fn asked() -> BTreeSet<String> {
    let unit = text("flopsprof-watch.service");
    let line = unit.lines().find_map(|l| l.strip_prefix("CapabilityBoundingSet=")).expect("the unit says which");
    line.split(' ').map(|c| c.strip_prefix("CAP_").expect("a capability").to_lowercase()).collect()
}

/// A witness with these capabilities alone, beside a program of another user that began before it: its words, the launches counted, those made, and the Slurm job.
fn witnessed(capabilities: &BTreeSet<String>) -> (Vec<String>, u64, u64, Option<String>) {
    let bench = Bench::below(Path::new("/tmp"));
    let dir = bench.dir.path();
    let program = dir.join("held");
    fs::copy(zoo("held"), &program).expect("copying a program");
    for path in [dir, &dir.join("gpu"), &dir.join("gpu/activity"), &dir.join("lib"), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("permissions");
    }
    // As in a container: its libcuda lies in a mount of its own, and it is somebody else's.
    let script = "mkdir own && mount -t tmpfs none own && cp lib/* own && export LD_LIBRARY_PATH=$PWD/own && exec setpriv --reuid 65534 --regid 65534 --clear-groups ./held 321";
    let mut job = Command::new("unshare");
    job.args(["--mount", "sh", "-ec", script]).current_dir(dir).env("SLURM_JOB_ID", "4711");
    job.envs(environment(&bench.command(false, "held", &[])));
    let held = Held::start(job);

    let mut command = Command::new("setpriv");
    let set: Vec<String> = capabilities.iter().map(|c| format!("+{c}")).collect();
    command.arg(format!("--bounding-set=-all,{}", set.join(","))).args(["--inh-caps=-all", "--no-new-privs"]);
    command.arg(env!("CARGO_BIN_EXE_flopsprof")).args(["watch", "--launches", "all", "--out"]).arg(bench.out());
    command.envs(environment(&flopsprof(&bench)));
    let watch = Watch::begin(command, &bench.out());
    let (said, pid) = (watch.said.clone(), held.pid);
    let made = held.work();
    // NVML alone looks once a second.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let (records, _) = watch.end_with_words();
    let was_seen = records.iter().any(|r| r["type"] == "seen" && r["pid"] == pid);
    let job = was_seen.then(|| seen(&records, pid)["slurm_job"].as_str().map(str::to_owned)).flatten();
    (said, launches(&records, pid), made, job)
}

#[test]
fn the_capabilities_that_the_unit_leaves_suffice() {
    let _alone = alone();
    let (said, counted, made, job) = witnessed(&asked());
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((counted, job.as_deref()), (made, Some("4711")));
}

#[test]
fn none_of_them_is_too_much() {
    let _alone = alone();
    for left_out in asked() {
        let mut capabilities = asked();
        capabilities.remove(&left_out);
        let (said, counted, made, job) = witnessed(&capabilities);
        assert!(said.len() > 1 || counted != made || job.is_none(), "nothing is missing without {left_out}: {said:?}");
    }
}

#[test]
fn kubernetes_asks_for_the_same() {
    let manifest = text("kubernetes.yaml");
    let line = manifest.lines().find_map(|l| l.trim().strip_prefix("add: [")?.strip_suffix(']')).expect("capabilities");
    assert_eq!(line.split(", ").map(str::to_lowercase).collect::<BTreeSet<_>>(), asked());
    assert!(manifest.contains("privileged: false") && manifest.contains("drop: [ALL]") && manifest.contains("hostPID: true"));
}

/// Both start the command with options that it has.
#[test]
fn the_commands_are_ones_that_there_are() {
    let unit = text("flopsprof-watch.service");
    let start =
        unit.lines().find_map(|l| l.strip_prefix("ExecStart=/usr/local/bin/flopsprof ")).expect("the unit's command").replace("%b", "x");
    let manifest = text("kubernetes.yaml");
    let pod = manifest.lines().find_map(|l| l.trim().strip_prefix("command: [flopsprof, ")?.strip_suffix(']')).expect("the pod's command");
    let pod = pod.replace(['"', ','], "").replace("$(NODE_NAME)", "x");
    let place = tempfile::tempdir().expect("a temporary folder");
    for line in [start, pod] {
        let line = line.replace("/var/lib/flopsprof", &place.path().display().to_string()).replace(":9417", ":0");
        let output = Command::new(env!("CARGO_BIN_EXE_flopsprof"))
            .args(line.split(' '))
            .args(["--for", "0.1"])
            .env("LD_LIBRARY_PATH", "/nonexistent")
            .output();
        let output = output.expect("the command");
        // 0, or 3 where there is nothing to witness; 2 would be wrong usage.
        assert!(matches!(output.status.code(), Some(0 | 3)), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
