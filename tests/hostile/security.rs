//! What the meter leaves in the file system: for its owner alone, never through a link, and without root.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    harness::{Bench, compiled, library, zoo},
    hosts::{is_root, judge, open_to_all, run},
    race,
    table::Want,
};

const NOBODY: u32 = 65534;

/// Everything below a folder, and itself.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut all: Vec<PathBuf> = entries.flat_map(|p| if p.is_dir() && !p.is_symlink() { below(&p) } else { vec![p] }).collect();
    all.push(folder.to_owned());
    all
}

/// Whatever the program's umask is: folders 0700, evidence and locks 0600, and nothing that others may write.
#[test]
fn nothing_is_for_others_to_write() {
    for how in ["all-permissions-by-default", "no-permissions-by-default"] {
        let bench = Bench::new();
        let bench = bench.env("FLOPSPROF_OUT", "above/run");
        let program = compiled("hostile", "limits");
        let bare = run(&bench, &mut bench.start(false, &program, &[how]));
        let metered = run(&bench, &mut bench.start(true, &program, &[how]));
        bench.compare(&bare, metered);
        let folder = bench.dir.path().join("work/above");
        let (all, locks) = (below(&folder), bench.locks());
        assert!(all.iter().any(|p| p.extension().is_some_and(|x| x == "jsonl")), "{how}: {all:?}");
        assert!(all.iter().any(|p| p.ends_with("report.json")), "{how}: {all:?}");
        assert_eq!(locks.len(), 2, "{how}: {locks:?}");
        for path in all.iter().chain(&locks) {
            let mode = fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o7777;
            let evidence = path.extension().is_some_and(|x| x == "jsonl");
            let due = if path.is_dir() { 0o700 } else { 0o600 };
            if path.is_dir() || evidence || locks.contains(path) {
                assert_eq!(mode, due, "{how}: {}", path.display());
            }
            assert_eq!(mode & 0o022, 0, "{how}: {} is {mode:o}", path.display());
        }
    }
}

/// Somebody has put links into the run's folder, under every name that is known before: what they point to stays as it is.
#[test]
fn links_in_the_runs_folder_are_not_followed() {
    let bench = Bench::new();
    let (out, precious) = (bench.out(), bench.dir.path().join("precious"));
    fs::create_dir(&out).expect("the run's folder");
    let names = [".report.lock", ".report.wanted", ".report.watch", "report.json", "report.html", "flops_meter.json"];
    for name in names {
        symlink(&precious, out.join(name)).expect("a link");
    }
    fs::write(&precious, "precious").expect("a file");
    let outcome = bench.run("plain", &["300", "1000"]);
    judge(&outcome, Want::Whole, &out);
    assert_eq!(fs::read_to_string(&precious).expect("it"), "precious");
    // By hand too: what belongs there is written in the links' places, or refused with its name.
    let written = Command::new(env!("CARGO_BIN_EXE_flopsprof")).args(["report", "--write"]).arg(&out).output().expect("the command");
    assert_eq!(fs::read_to_string(&precious).expect("it"), "precious");
    let said = String::from_utf8_lossy(&written.stderr);
    assert!(!written.status.success() && said.contains("evidence"), "{written:?}");
    for lock in [".report.lock", ".report.wanted", ".report.watch"] {
        fs::remove_file(out.join(lock)).expect("removing a link");
    }
    let written = Command::new(env!("CARGO_BIN_EXE_flopsprof")).args(["report", "--write"]).arg(&out).output().expect("the command");
    assert!(written.status.success(), "{written:?}");
    assert_eq!(fs::read_to_string(&precious).expect("it"), "precious");
    assert!(!out.join("report.json").is_symlink());
}

/// The folder that stands in for one that cannot be written is in a place where everybody writes: somebody else's, or a link, is not used.
#[test]
fn a_folder_that_somebody_else_prepared_is_not_used() {
    for kind in ["link", "open", "another user's"] {
        if kind == "another user's" && !is_root() {
            continue;
        }
        let bench = Bench::new();
        let (file, tmp) = (bench.dir.path().join("file"), bench.dir.path().join("tmp"));
        fs::write(&file, "").expect("a file");
        // SAFETY: no preconditions.
        let prepared = tmp.join(format!("flopsprof-{}", unsafe { libc::geteuid() }));
        let trap = bench.dir.path().join("trap");
        fs::create_dir(&trap).expect("a folder");
        if kind == "link" {
            symlink(&trap, &prepared).expect("a link");
        } else {
            fs::create_dir(&prepared).expect("a folder");
            let open = kind == "open";
            fs::set_permissions(&prepared, fs::Permissions::from_mode(if open { 0o777 } else { 0o700 })).expect("permissions");
            if !open {
                std::os::unix::fs::chown(&prepared, Some(NOBODY), Some(NOBODY)).expect("giving it away");
            }
        }
        let bench = bench.env("FLOPSPROF_OUT", file.join("run"));
        let outcome = bench.run("plain", &["200", "1000"]);
        assert_eq!(below(&trap), [trap.as_path()], "{kind}: evidence went where it was led");
        assert_eq!(fs::read_dir(&prepared).expect("it").count(), 0, "{kind}: evidence lies where others may write");
        assert!(outcome.said.iter().any(|l| l.contains("cannot write evidence")), "{kind}: {:?}", outcome.said);
    }
}

/// Nothing needs root: a user of no rights meters his own program, and has the evidence.
#[test]
fn it_runs_without_root() {
    let bench = open_to_all();
    let lib = bench.dir.path().join("lib");
    let place = |from: &Path| {
        let to = lib.join(from.file_name().expect("a name"));
        fs::copy(from, &to).expect("a copy");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("permissions");
        to
    };
    let (program, ours, command) = (place(&zoo("plain")), place(&library("flopsprof")), place(Path::new(env!("CARGO_BIN_EXE_flopsprof"))));
    let start = |metered: bool| {
        let mut start = bench.start(false, &program, &["300", "1000"]);
        if metered {
            start.env("LD_PRELOAD", &ours);
        }
        if is_root() {
            start.uid(NOBODY).gid(NOBODY);
        }
        race::output(start.current_dir(bench.dir.path()))
    };
    let (bare, metered) = (start(false), start(true));
    let outcome = bench.compare(&bare, metered);
    judge(&outcome, Want::Whole, &bench.out());
    assert_eq!(outcome.said, [] as [&str; 0]);
    for file in below(&bench.out()) {
        let at = fs::metadata(&file).expect("a file");
        assert_eq!(at.uid(), if is_root() { NOBODY } else { at.uid() }, "{}", file.display());
    }
    // The command beside the library has left the report.
    assert!(command.exists() && bench.out().join("report.json").exists(), "{:?}", below(&bench.out()));
}
