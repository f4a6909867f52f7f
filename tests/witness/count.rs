//! Launches counted are launches made, whoever makes them and from wherever.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    alone,
    harness::Bench,
    held::{Held, command},
    watch::{Watch, calls, launches, lost, seen},
};

/// A version 2 control group of its own.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
        let root =
            mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).and_then(|l| l.split(' ').nth(1)).expect("a cgroup2 mount");
        let group = Path::new(root).join(format!("flopsprof-test-{}", std::process::id()));
        fs::create_dir_all(&group).expect("a control group");
        Self(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn eight_processes_at_once_are_counted_to_the_last_launch() {
    let _alone = alone();
    let bench = Bench::new();
    let (bound, copied) = (bench.dir.path().join("bound"), bench.dir.path().join("copied"));
    for folder in [&bound, &copied] {
        fs::create_dir(folder).expect("a folder");
    }
    let lib = bench.dir.path().join("lib");
    let bind = format!("mount --bind {} {}\nexport LD_LIBRARY_PATH={}", lib.display(), bound.display(), bound.display());
    // A file system of its own, with a file of its own.
    let copy = format!("mount -t tmpfs none {0}\ncp {1}/* {0}\nexport LD_LIBRARY_PATH={0}", copied.display(), lib.display());
    let group = Group::new();
    let enter = format!("echo $$ > {}/cgroup.procs", group.0.display());
    let mut sleep = Command::new("sleep").arg("60").spawn().expect("a program without CUDA");

    let mut all = vec![
        ("before", Held::start(command(&bench, "", &["1111"]))),
        ("before, threads", Held::start(command(&bench, "", &["1250", "threads"]))),
        ("before, another mount namespace by bind", Held::start(command(&bench, &bind, &["1333"]))),
        ("before, another by copy", Held::start(command(&bench, &copy, &["1444"]))),
    ];
    let watch = Watch::start(&bench, &["--launches", "all", "--every", "1"]);
    all.push(("after", Held::start(command(&bench, "", &["1555"]))));
    all.push(("after, forked", Held::start(command(&bench, "", &["1666", "fork"]))));
    all.push(("after, a control group of its own", Held::start(command(&bench, &enter, &["1777"]))));
    all.push(("after, every kind of launch", Held::start(command(&bench, "", &["600", "every"]))));
    // A copy that nobody knows is found a moment after it is mapped.
    all.push(("after, another mount namespace by copy", Held::start(command(&bench, &copy, &["1888"]))));
    let late = all[8].1.pid;
    watch.wait_for("the last copy", |r| r["type"] == "probed" && r["pid"] == late);

    let pids: Vec<u64> = all.iter().map(|(_, h)| h.pid).collect();
    // All at once.
    let made: Vec<(&str, u64, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = all.into_iter().map(|(what, held)| scope.spawn(move || (what, held.pid, held.work()))).collect();
        threads.into_iter().map(|t| t.join().expect("a program")).collect()
    });
    let records = watch.end();
    sleep.kill().expect("ending it");
    sleep.wait().expect("waiting");

    assert_eq!(lost(&records), (0, 0));
    for (what, pid, made) in &made {
        assert_eq!(launches(&records, *pid), *made, "{what}: {:?}", calls(&records, *pid));
        assert!(
            records.iter().any(|r| r["ended"].as_array().is_some_and(|e| e.iter().any(|e| e["pid"] == *pid && e["status"] == 0))),
            "{what}"
        );
    }
    let every = calls(&records, pids[7]);
    for name in ["cuLaunchKernelEx", "cuLaunchCooperativeKernel", "cuGraphLaunch"] {
        assert_eq!(every[name], 600, "{every:?}");
    }
    assert_eq!(
        (every["cuInit"], every["cuDevicePrimaryCtxRetain"], every["cuModuleLoadData"], every["cuGraphInstantiateWithFlags"]),
        (1, 1, 1, 1)
    );
    // Rare calls of the copy that came last went by before it was known: no more than these.
    assert!(
        calls(&records, late)
            .keys()
            .all(|n| n.starts_with("cuLaunch") || n == "cuInit" || n.starts_with("cuDevice") || n.starts_with("cuModule"))
    );

    // Who they are, and where they come from.
    let me = std::process::id();
    for pid in &pids {
        let seen = seen(&records, *pid);
        let parents: Vec<u64> = seen["parents"].as_array().expect("parents").iter().filter_map(|p| p["pid"].as_u64()).collect();
        assert!(parents.contains(&u64::from(me)), "{seen}");
        assert_eq!((&seen["comm"], &seen["uid"], &seen["library"]), (&"held".into(), &0.into(), &false.into()));
        assert!(seen.get("cmdline").is_none() && seen["cmdline_sha256"].as_str().expect("a hash").len() == 64);
    }
    let forked = seen(&records, pids[5]);
    assert_eq!((forked["parents"][0]["comm"].as_str(), forked["parents"][1]["pid"].as_u64()), (Some("held"), Some(u64::from(me))));
    use std::os::unix::fs::MetadataExt;
    let inode = fs::metadata(&group.0).expect("the control group").ino();
    assert_eq!(seen(&records, pids[6])["cgroup_id"], inode);
    assert!(seen(&records, pids[6])["cgroup"].as_str().expect("a path").contains("flopsprof-test-"));
    // Who never loads the driver's library is not there: the sleeping one, the parent of the forked one, this test.
    for pid in [sleep.id(), me, u32::try_from(forked["parents"][0]["pid"].as_u64().expect("a pid")).expect("a pid")] {
        assert!(!records.iter().any(|r| r["type"] == "seen" && r["pid"] == pid), "{pid}");
    }
}

/// A program keeps the file that it loaded, a later one gets the new one: both are probed.
#[test]
fn libcuda_may_be_replaced_while_it_runs() {
    let _alone = alone();
    let bench = Bench::new();
    let library = bench.lib("libcuda.so.1");
    let replace = || {
        let fresh = library.with_extension("fresh");
        fs::copy(&library, &fresh).expect("copying a library");
        fs::rename(&fresh, &library).expect("replacing a library");
    };
    // A file of its own: the folder's libraries are links to files that other folders have too, and a file is probed once, under the name that was seen first.
    replace();
    let old = Held::start(command(&bench, "", &["700"]));
    // Its file has no name any more when the witness comes.
    replace();
    let watch = Watch::start(&bench, &["--launches", "all"]);
    let new = Held::start(command(&bench, "", &["800"]));
    replace();
    let newest = Held::start(command(&bench, "", &["900"]));
    let newest_pid = newest.pid;
    watch.wait_for("the newest file", |r| r["type"] == "probed" && r["pid"] == newest_pid);
    let made: Vec<(u64, u64)> = [old, new, newest].into_iter().map(|h| (h.pid, h.work())).collect();
    let records = watch.end();
    assert_eq!(lost(&records), (0, 0));
    for (pid, made) in made {
        assert_eq!(launches(&records, pid), made);
    }
    let deleted = records.iter().any(|r| r["type"] == "probed" && r["path"].as_str().is_some_and(|p| p.ends_with("(deleted)")));
    assert!(deleted, "{records:#?}");
}

/// By default launches are counted for one second of sixty: not more, and the time is said.
#[test]
fn launches_are_sampled_unless_all_are_asked_for() {
    let _alone = alone();
    let bench = Bench::new();
    let held = Held::start(command(&bench, "", &["500"]));
    let (pid, watch) = (held.pid, Watch::start(&bench, &["--every", "1", "--command-lines"]));
    watch.wait_for("the end of the second", |r| {
        r["type"] == "interval" && r["end_ns"].as_u64().is_some_and(|n| n > 0) && r["launches_on_ns"] == 0
    });
    held.work();
    let records = watch.end();
    assert_eq!(launches(&records, pid), 0);
    assert!(seen(&records, pid)["cmdline"].as_str().is_some_and(|c| c.ends_with("/held 500")), "{}", seen(&records, pid));
    let on: u64 = records.iter().filter_map(|r| r["launches_on_ns"].as_u64()).sum();
    assert!((900_000_000..3_000_000_000).contains(&on), "{on}");
}
