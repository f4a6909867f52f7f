//! Evidence that holds: what `verify` finds, what a seal adds, and how runs add up in the ledger. On evidence written by the crate's own writer.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use ed25519_dalek::SigningKey;
use flopsprof::{
    evidence::{
        record::{Device, End, FORMAT, Fault, Plan, Record, Start, Tier, Window},
        write::Writer,
    },
    seal::{
        FILE_NAME, SealError,
        dsse::{Envelope, IN_TOTO},
        key, statement,
        verify::{Outcome, Sealed, verify},
    },
};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

const PATH: &str = "sm__ops_path_tensor_src_bf16_dst_fp32";
const SECOND: u64 = 1_000_000_000;
/// FLOP in a window.
const EACH: u128 = 10u128.pow(15);

/// A process to write evidence of.
#[derive(Clone)]
struct Job {
    pid: u32,
    windows: u64,
    ended: bool,
    simulated: bool,
    job: Vec<(&'static str, &'static str)>,
    began_s: u64,
}

impl Default for Job {
    fn default() -> Self {
        Self { pid: 7, windows: 3, ended: true, simulated: false, job: vec![("SLURM_JOB_ID", "17")], began_s: 1_800_000_000 }
    }
}

fn write(folder: &Path, job: &Job) -> PathBuf {
    let mut start = Start { format: FORMAT, version: "0.1.0".to_owned(), simulated: job.simulated, ..Start::default() };
    start.unix_ns = job.began_s * SECOND;
    start.host.hostname = "node".to_owned();
    start.host.boot_id = "another machine's".to_owned();
    (start.process.pid, start.process.start_ticks) = (job.pid, 99);
    start.job = job.job.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut writer = Writer::create(folder, &format!("node-{}-99.jsonl", job.pid)).unwrap();
    let mut at = SECOND;
    let mut add = |record: Record| {
        at += SECOND;
        writer.append(at, &record).unwrap();
        at
    };
    add(Record::Start(Box::new(start)));
    let device = Device {
        name: "NVIDIA H200".to_owned(),
        uuid: "GPU-1".to_owned(),
        sm_count: 132,
        max_sm_clock_mhz: 1980,
        peak_flop_per_cycle: [(PATH.to_owned(), 540_672.0)].into(),
        ..Device::default()
    };
    add(Record::Device(Box::new(device)));
    add(Record::Plan(Plan { device: 0, groups: vec![vec![PATH.to_owned()]], uncovered: vec![] }));
    for index in 0..job.windows {
        let start_ns = (3 + index) * SECOND;
        let mut window: Window = serde_json::from_value(serde_json::json!({
            "device": 0, "index": index, "start_ns": start_ns, "end_ns": start_ns + SECOND, "tier": "counted",
            "opened": { "gated": true, "took_ns": 0, "held": 0, "slipped": 0, "longest_wait_ns": 0 }
        }))
        .unwrap();
        window.counts.insert(PATH.to_owned(), EACH);
        assert_eq!(window.tier, Tier::Counted);
        add(Record::Window(Box::new(window)));
    }
    if job.ended {
        add(Record::End(End { reason: "exit".to_owned(), ..End::default() }));
    }
    writer.path().to_owned()
}

fn run_of(job: &Job) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), job);
    (folder, file)
}

fn seal(folder: &Path, key: &SigningKey) {
    let statement = statement::state(&statement::read(folder).unwrap(), &[], None, None, 1);
    let envelope = Envelope::sign(IN_TOTO, &serde_json::to_vec(&statement).unwrap(), key);
    fs::write(folder.join(FILE_NAME), serde_json::to_vec(&envelope).unwrap()).unwrap();
}

fn outcome(folder: &Path) -> Outcome {
    verify(folder, None, None).unwrap().outcome()
}

/// What somebody may do to a file.
#[derive(Clone, Debug)]
enum Edit {
    Flip(usize, u8),
    Drop(usize),
    Swap(usize, usize),
    Repeat(usize),
    Cut(usize),
    Insert(usize, u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        6 => (any::<usize>(), 1u8..=255).prop_map(|(at, bits)| Edit::Flip(at, bits)),
        1 => any::<usize>().prop_map(Edit::Drop),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Edit::Swap(a, b)),
        1 => any::<usize>().prop_map(Edit::Repeat),
        2 => any::<usize>().prop_map(Edit::Cut),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
    ]
}

/// Applies an edit; none when it changes nothing.
fn apply(bytes: &[u8], edit: &Edit) -> Option<Vec<u8>> {
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    let n = lines.len();
    let changed = match *edit {
        Edit::Flip(at, bits) => {
            let mut bytes = bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= bits;
            bytes
        }
        Edit::Insert(at, byte) => {
            let mut bytes = bytes.to_vec();
            bytes.insert(at % (bytes.len() + 1), byte);
            bytes
        }
        Edit::Cut(at) => bytes[..at % bytes.len()].to_vec(),
        Edit::Drop(i) => {
            lines.remove(i % n);
            lines.concat()
        }
        Edit::Swap(a, b) => {
            lines.swap(a % n, b % n);
            lines.concat()
        }
        Edit::Repeat(i) => {
            lines.insert(i % n, lines[i % n]);
            lines.concat()
        }
    };
    (changed != bytes).then_some(changed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever is done to a file is found, sealed or not; the seal tells a cut from a kill.
    #[test]
    fn every_edit_is_found(windows in 0u64..6, ended in any::<bool>(), edit in edit()) {
        let (folder, file) = run_of(&Job { windows, ended, ..Job::default() });
        let key = SigningKey::from_bytes(&[7; 32]);
        let clean = if ended { Outcome::Holds } else { Outcome::Incomplete };
        prop_assert_eq!(outcome(folder.path()), clean);
        let bytes = fs::read(&file).unwrap();
        let Some(changed) = apply(&bytes, &edit) else { return Ok(()) };
        seal(folder.path(), &key);
        prop_assert_eq!(verify(folder.path(), None, Some(&key.verifying_key())).unwrap().outcome(), Outcome::Holds);
        fs::write(&file, &changed).unwrap();
        // Sealed: found, always.
        let v = verify(folder.path(), None, Some(&key.verifying_key())).unwrap();
        prop_assert_eq!(v.outcome(), Outcome::Changed);
        prop_assert!(!v.findings.is_empty());
        // Without the seal: found too, and what is left looks at best like a run that was killed.
        fs::remove_file(folder.path().join(FILE_NAME)).unwrap();
        let v = verify(folder.path(), None, None).unwrap();
        prop_assert!(v.outcome() >= Outcome::Incomplete, "{:?}", v);
        let cut_only = bytes.starts_with(&changed);
        if !cut_only && !matches!(edit, Edit::Flip(..) | Edit::Insert(..)) {
            prop_assert_eq!(v.outcome(), Outcome::Changed);
            prop_assert!(v.findings.iter().any(|f| f.line.is_some()));
        }
    }

    /// A changed byte of a killed run's file is found although the run has no last record: only what leaves a torn last line looks like the kill itself.
    #[test]
    fn a_flip_in_a_killed_run_is_told_from_the_kill(at in any::<usize>(), bits in 1u8..=255) {
        let (folder, file) = run_of(&Job { ended: false, ..Job::default() });
        let bytes = fs::read(&file).unwrap();
        let at = at % bytes.len();
        let last_line = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        fs::write(&file, apply(&bytes, &Edit::Flip(at, bits)).unwrap()).unwrap();
        let v = verify(folder.path(), None, None).unwrap();
        if v.outcome() == Outcome::Incomplete {
            prop_assert!(at >= last_line && v.findings.iter().any(|f| f.what.contains("inside a line")), "{} {:?}", at, v.findings);
        }
    }

    /// One changed byte of the seal is found, whichever it is; white space around the JSON is no content.
    #[test]
    fn a_changed_seal_is_found(at in any::<usize>(), bits in 1u8..=255) {
        let (folder, _) = run_of(&Job::default());
        let key = SigningKey::from_bytes(&[7; 32]);
        seal(folder.path(), &key);
        let path = folder.path().join(FILE_NAME);
        let bytes = fs::read(&path).unwrap();
        let changed = apply(&bytes, &Edit::Flip(at, bits)).unwrap();
        fs::write(&path, &changed).unwrap();
        let holds = verify(folder.path(), None, Some(&key.verifying_key())).unwrap().outcome() == Outcome::Holds;
        // The key id is a hint and is not signed.
        let id = key::key_id(&key.verifying_key());
        let hint = String::from_utf8_lossy(&bytes).find(&id).unwrap();
        let at = at % bytes.len();
        let in_hint = (hint..hint + id.len()).contains(&at) || String::from_utf8_lossy(&bytes)[..hint].rfind("\"keyid\"").is_some_and(|k| (k..hint).contains(&at));
        prop_assert!(!holds || in_hint, "byte {}", at);
    }
}

#[test]
fn a_wrong_key_a_missing_seal_and_moved_files_are_found() {
    let (folder, file) = run_of(&Job::default());
    let (key, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]).verifying_key());
    let no_seal = verify(folder.path(), None, Some(&other)).unwrap();
    assert!(no_seal.outcome() == Outcome::Changed && no_seal.findings[0].what.contains("no seal"));
    seal(folder.path(), &key);
    let wrong = verify(folder.path(), None, Some(&other)).unwrap();
    assert!(wrong.outcome() == Outcome::Changed && wrong.findings[0].what.contains("not signed by this key"), "{:?}", wrong.findings);
    assert!(matches!(verify(folder.path(), None, None).unwrap().sealed, Sealed::Unchecked(_)));
    // A file more, a file less, and a file under another name.
    let added = write(folder.path(), &Job { pid: 8, ..Job::default() });
    assert!(verify(folder.path(), None, None).unwrap().findings[0].what.contains("not in the seal"));
    fs::remove_file(added).unwrap();
    fs::rename(&file, file.with_file_name("other.jsonl")).unwrap();
    assert_eq!(verify(folder.path(), None, None).unwrap().findings.len(), 2);
    fs::remove_file(file.with_file_name("other.jsonl")).unwrap();
    let gone = verify(folder.path(), None, Some(&key.verifying_key())).unwrap();
    assert!(gone.findings[0].what.contains("is missing"), "{:?}", gone.findings);
}

#[test]
fn only_a_seal_tells_a_cut_from_a_kill() {
    let (folder, file) = run_of(&Job::default());
    let key = SigningKey::from_bytes(&[7; 32]);
    seal(folder.path(), &key);
    let bytes = fs::read(&file).unwrap();
    let line_end = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    fs::write(&file, &bytes[..line_end]).unwrap();
    let sealed = verify(folder.path(), None, Some(&key.verifying_key())).unwrap();
    assert!(sealed.findings[0].what.contains("was cut after it was sealed: 6 of 7 lines"), "{:?}", sealed.findings);
    fs::remove_file(folder.path().join(FILE_NAME)).unwrap();
    let unsealed = verify(folder.path(), None, None).unwrap();
    assert_eq!(unsealed.outcome(), Outcome::Incomplete);
    assert!(unsealed.findings[0].what.contains("nobody can tell which"), "{:?}", unsealed.findings);
    // A run that was killed before it was sealed holds.
    seal(folder.path(), &key);
    assert_eq!(verify(folder.path(), None, Some(&key.verifying_key())).unwrap().outcome(), Outcome::Holds);
}

#[test]
fn what_does_not_hold_or_still_runs_is_not_sealed() {
    let (folder, file) = run_of(&Job::default());
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("1000000000000000", "1000000000000001", 1)).unwrap();
    assert!(matches!(statement::read(folder.path()), Err(SealError::Broken { line: 4, .. })));
    // This very process.
    let alive = tempfile::tempdir().unwrap();
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    let mut start = Start { format: FORMAT, ..Start::default() };
    start.host.boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    (start.process.pid, start.process.start_ticks) = (std::process::id(), ticks);
    let mut writer = Writer::create(alive.path(), "a.jsonl").unwrap();
    writer.append(1, &Record::Start(Box::new(start))).unwrap();
    assert!(matches!(statement::read(alive.path()), Err(SealError::Running { .. })));
}

/// The command, with nothing of this machine's settings.
fn command(args: &[&str], db: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flopsprof")).args(args).env_remove("PRETRAIN_FLOPS").env("FLOPSPROF_LEDGER", db).output().unwrap()
}

fn code(args: &[&str]) -> (i32, String) {
    let out = command(args, Path::new("/nonexistent/ledger.db"));
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code().unwrap(), said)
}

#[test]
fn the_commands_seal_and_verify_with_documented_exit_codes() {
    let (folder, file) = run_of(&Job::default());
    let keys = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let private = keys.path().join("lab.pem");
    let public = keys.path().join("lab.pub.pem");
    let (private, public) = (private.to_str().unwrap(), public.to_str().unwrap());
    assert_eq!(code(&["verify", dir]).0, 0);
    fs::write(folder.path().join("report.json"), "{}").unwrap();
    let report = folder.path().join("report.json");
    let (rc, said) = code(&["seal", "--new-key", private, "--with", report.to_str().unwrap(), dir]);
    assert_eq!(rc, 0, "{said}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(private).unwrap().permissions().mode() & 0o777, 0o600);
    let (rc, said) = code(&["verify", "--key", public, dir]);
    assert!(rc == 0 && said.contains("signed by"), "{said}");
    let (rc, said) = code(&["verify", dir]);
    assert!(rc == 0 && said.contains("NOT checked"), "{said}");
    // The statement is in-toto's, and names library or its absence, command, settings and evidence.
    let envelope: Value = serde_json::from_slice(&fs::read(folder.path().join(FILE_NAME)).unwrap()).unwrap();
    assert_eq!(envelope["payloadType"], "application/vnd.in-toto+json");
    use base64::Engine;
    let payload = base64::engine::general_purpose::STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["subject"].as_array().unwrap().len(), 2);
    assert_eq!(statement["predicate"]["command"]["name"], "flopsprof");
    assert_eq!(statement["predicate"]["library"]["name"], "libflopsprof.so");
    assert_eq!(statement["predicate"]["configuration_sha256"].as_str().unwrap().len(), 64);
    // No seal is overwritten unasked; a new key never.
    assert!(code(&["seal", "--key", private, dir]).1.contains("--force"));
    assert_eq!(code(&["seal", "--key", private, "--force", dir]).0, 0);
    assert_eq!(code(&["seal", "--new-key", private, "--force", dir]).0, 1);
    // The wrong half of the key, and another's.
    assert!(code(&["verify", "--key", private, dir]).1.contains("this is a private key"));
    assert!(code(&["seal", "--force", "--key", public, dir]).1.contains("this is a public key"));
    let other = keys.path().join("other.pem");
    key::generate(&other).unwrap();
    let (rc, said) = code(&["verify", "--key", key::public_path(&other).to_str().unwrap(), dir]);
    assert!(rc == 1 && said.contains("not signed by this key"), "{said}");
    // A report that was sealed and changed: not in this seal any more (--force sealed without it), so evidence instead.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("1000000000000000", "1000000000000001", 1)).unwrap();
    let (rc, said) = code(&["verify", "--key", public, dir]);
    assert!(rc == 1 && said.contains("jsonl:4: does not match its own hash") && !said.contains("jsonl:5:"), "{said}");
    // Nothing, and of a newer version.
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(code(&["verify", empty.path().to_str().unwrap()]).0, 3);
    let newer = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(newer.path(), "a.jsonl").unwrap();
    writer.append(1, &Record::Start(Box::new(Start { format: 999, version: "9.0.0".to_owned(), ..Start::default() }))).unwrap();
    for verb in [&["verify"][..], &["seal", "--key", private], &["ledger", "add", "--base", "Qwen/Qwen3-8B"]] {
        let args: Vec<&str> = verb.iter().copied().chain([newer.path().to_str().unwrap()]).collect();
        let (rc, said) = code(&args);
        assert!(rc == 3 && said.contains("use flopsprof 9.0.0 or newer"), "{verb:?}: {rc} {said}");
    }
    // Killed.
    let (killed, _) = run_of(&Job { ended: false, ..Job::default() });
    assert_eq!(code(&["verify", killed.path().to_str().unwrap()]).0, 4);
}

#[test]
fn evidence_without_own_hashes_stays_readable() {
    // As format 1 wrote it: the chain, but no hash of each line's own.
    let folder = tempfile::tempdir().unwrap();
    let mut prev = "0".repeat(64);
    let mut text = String::new();
    for (seq, record) in [
        serde_json::json!({"type": "start", "format": 1, "version": "0.1.0", "simulated": false, "unix_ns": 1, "host": {"hostname": "n", "boot_id": "b", "kernel": "k"},
            "process": {"pid": 1, "ppid": 1, "start_ticks": 1, "comm": "c", "exe": "e", "cmdline_sha256": "", "uid": 0}, "configuration": {}, "job": {}}),
        serde_json::json!({"type": "end", "reason": "exit", "lines_lost": 0, "tokens": 0, "steps": 0, "meter_cpu_ns": 0}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut line = record;
        line["prev"] = prev.clone().into();
        line["seq"] = seq.into();
        line["at_ns"] = 1.into();
        let line = line.to_string();
        prev = flopsprof::evidence::line_hash(line.as_bytes());
        text += &line;
        text.push('\n');
    }
    fs::write(folder.path().join("a.jsonl"), text).unwrap();
    assert_eq!(outcome(folder.path()), Outcome::Holds);
}

mod ledger {
    use super::*;

    const BASE: [&str; 4] = ["--base", "acme/base-1", "--base-flops", "1.5e24"];

    struct Ledger {
        folder: TempDir,
    }

    impl Ledger {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn run(&self, name: &str, jobs: &[Job]) -> PathBuf {
            let folder = self.folder.path().join(name);
            for job in jobs {
                write(&folder, job);
            }
            folder
        }

        fn call(&self, args: &[&str]) -> (i32, String) {
            let out = command(args, &self.folder.path().join("ledger.db"));
            let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            (out.status.code().unwrap(), said)
        }

        fn add(&self, run: &Path, more: &[&str]) -> (i32, String) {
            let mut args = vec!["ledger", "add", run.to_str().unwrap()];
            args.extend(BASE);
            args.extend(more);
            self.call(&args)
        }

        fn added(&self, run: &Path) -> String {
            let (rc, said) = self.add(run, &[]);
            assert_eq!(rc, 0, "{said}");
            said
        }

        /// The first modification.
        fn shown(&self) -> Value {
            let (rc, said) = self.call(&["ledger", "show", "--json"]);
            assert_eq!(rc, 0, "{said}");
            serde_json::from_str::<Value>(&said).unwrap()["modifications"][0].clone()
        }

        fn direct(&self) -> u128 {
            self.shown()["assessment"]["direct"]["flop"].as_str().unwrap().parse().unwrap()
        }
    }

    #[test]
    fn rounds_add_up_and_a_run_counts_once() {
        let ledger = Ledger::new();
        let first = ledger.run("round-1", &[Job::default()]);
        let second = ledger.run("round-2", &[Job { pid: 8, job: vec![("SLURM_JOB_ID", "18")], ..Job::default() }]);
        assert!(ledger.added(&first).contains("added"));
        assert!(ledger.added(&second).contains("added"));
        assert_eq!(ledger.direct(), 6 * EACH);
        assert!(ledger.added(&first).contains("brought up to date"));
        // Under another path too.
        let copy = ledger.folder.path().join("copy");
        fs::create_dir(&copy).unwrap();
        fs::copy(first.join("node-7-99.jsonl"), copy.join("renamed.jsonl")).unwrap();
        assert!(ledger.added(&copy).contains("brought up to date"));
        assert_eq!(ledger.direct(), 6 * EACH);
        let shown = ledger.shown();
        assert_eq!(shown["runs"].as_array().unwrap().len(), 2);
        assert_eq!(shown["assessment"]["verdict"], "below");
        assert_eq!(shown["assessment"]["tests"][0]["threshold"]["exact"], (5 * 10u128.pow(23)).to_string());
        // The same base in other words is the same base.
        let (rc, said) = ledger.call(&["ledger", "show", "--base", "Base-1"]);
        assert!(rc == 0 && said.contains("2 run(s)") && said.contains("section 3.2"), "{said}");
    }

    #[test]
    fn a_run_that_grew_is_replaced_and_one_that_shrank_is_refused() {
        let ledger = Ledger::new();
        let run = ledger.run("run", &[Job::default()]);
        let file = run.join("node-7-99.jsonl");
        let whole = fs::read(&file).unwrap();
        let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
        fs::write(&file, &whole[..ends[4]]).unwrap();
        ledger.added(&run);
        assert_eq!(ledger.direct(), 2 * EACH);
        fs::write(&file, &whole).unwrap();
        ledger.added(&run);
        assert_eq!(ledger.direct(), 3 * EACH);
        // A rank more is the same run.
        write(&run, &Job { pid: 8, ..Job::default() });
        ledger.added(&run);
        assert_eq!((ledger.direct(), ledger.shown()["runs"].as_array().unwrap().len()), (6 * EACH, 1));
        // Cut, written anew, or a file less: refused, and nothing is lost.
        fs::write(&file, &whole[..ends[4]]).unwrap();
        let (rc, said) = ledger.add(&run, &[]);
        assert!(rc == 1 && said.contains("it was cut since"), "{said}");
        fs::remove_file(&file).unwrap();
        let (rc, said) = ledger.add(&run, &[]);
        assert!(rc == 1 && said.contains("node-7-99.jsonl") && said.contains("ledger remove 1"), "{said}");
        assert_eq!(ledger.direct(), 6 * EACH);
        assert_eq!(ledger.call(&["ledger", "remove", "1"]).0, 0);
        assert_eq!(ledger.call(&["ledger", "remove", "1"]).0, 1);
        ledger.added(&run);
        assert_eq!(ledger.direct(), 3 * EACH);
    }

    #[test]
    fn a_job_that_crashed_and_was_resumed_counts_what_it_executed_once() {
        let ledger = Ledger::new();
        // In one folder: the same job's two processes, the first one killed.
        let crashed = Job { ended: false, ..Job::default() };
        let resumed = Job { pid: 8, windows: 5, began_s: 1_800_001_000, ..Job::default() };
        let run = ledger.run("job", std::slice::from_ref(&crashed));
        ledger.added(&run);
        write(&run, &resumed);
        ledger.added(&run);
        assert_eq!((ledger.direct(), ledger.shown()["runs"].as_array().unwrap().len()), (8 * EACH, 1));
        // The kill cost at most the open window: told, bounded, and no obstacle to a verdict.
        let shown = ledger.shown();
        let gap = &shown["assessment"]["gaps"][0];
        assert!(gap["what"].as_str().unwrap().contains("killed") && gap["at_most"].is_string(), "{gap}");
        assert_eq!((&shown["assessment"]["verdict"], &shown["assessment"]["direct"]["lower_bound"]), (&"below".into(), &true.into()));
        // In a folder each.
        let other = Ledger::new();
        other.added(&other.run("crashed", &[crashed]));
        other.added(&other.run("resumed", &[resumed]));
        assert_eq!(other.direct(), 8 * EACH);
    }

    #[test]
    fn two_runs_in_one_folder_are_not_added_unasked() {
        let ledger = Ledger::new();
        let run = ledger.run("both", &[Job::default(), Job { pid: 8, job: vec![("SLURM_JOB_ID", "18")], ..Job::default() }]);
        let (rc, said) = ledger.add(&run, &[]);
        assert!(rc == 1 && said.contains("2 runs (17, 18)") && said.contains("--together"), "{said}");
        assert_eq!(ledger.add(&run, &["--together"]).0, 0);
        assert_eq!(ledger.direct(), 6 * EACH);
    }

    #[test]
    fn what_the_compute_was_for_decides_where_it_counts() {
        let ledger = Ledger::new();
        ledger.added(&ledger.run("train", &[Job::default()]));
        let other = |pid| Job { pid, job: vec![("SLURM_JOB_ID", "18")], ..Job::default() };
        assert_eq!(ledger.add(&ledger.run("generate", &[other(8)]), &["--as", "synthetic-private"]).0, 0);
        assert_eq!(ledger.add(&ledger.run("evaluate", &[other(9)]), &["--as", "evaluation"]).0, 0);
        assert_eq!(ledger.add(&ledger.run("mixed", &[other(10)]), &["--of-which", "evaluation=1e15", "--besides", "merged=5e15"]).0, 0);
        let a = ledger.shown()["assessment"].clone();
        assert_eq!(a["direct"]["flop"], (10 * EACH).to_string());
        assert_eq!(a["cumulative"]["flop"], (13 * EACH).to_string());
        let (rc, said) = ledger.add(&ledger.run("wrong", &[other(11)]), &["--of-which", "evaluation=1e16"]);
        assert!(rc == 1 && said.contains("more than was executed"), "{said}");
        assert_eq!(ledger.add(&ledger.run("odd", &[other(12)]), &["--as", "fun"]).0, 2);
    }

    #[test]
    fn simulated_runs_get_no_verdict_and_do_not_mix() {
        let ledger = Ledger::new();
        let simulated = ledger.run("simulated", &[Job { simulated: true, ..Job::default() }]);
        ledger.added(&simulated);
        let a = ledger.shown()["assessment"].clone();
        assert_eq!((&a["verdict"], &a["simulated"]), (&"withheld".into(), &true.into()));
        let real = ledger.run("real", &[Job { pid: 8, ..Job::default() }]);
        let (rc, said) = ledger.add(&real, &[]);
        assert!(rc == 1 && said.contains("simulated"), "{said}");
    }

    #[test]
    fn changed_evidence_and_missing_ranks_leave_no_below() {
        let ledger = Ledger::new();
        let ranks = vec![("SLURM_JOB_ID", "17"), ("RANK", "0"), ("WORLD_SIZE", "2")];
        let run = ledger.run("half", &[Job { job: ranks, ..Job::default() }]);
        let said = ledger.added(&run);
        assert!(said.contains("lower bound"), "{said}");
        assert_eq!(ledger.shown()["assessment"]["verdict"], "inconclusive");
        let changed = Ledger::new();
        let run = changed.run("run", &[Job::default()]);
        let file = run.join("node-7-99.jsonl");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replacen("1000000000000000", "0000000000000001", 1)).unwrap();
        assert!(changed.added(&run).contains("does not match its own hash"));
        assert_eq!(changed.shown()["assessment"]["verdict"], "inconclusive");
    }

    #[test]
    fn the_base_model_is_asked_for_remembered_and_contradicted_loudly() {
        let ledger = Ledger::new();
        let run = ledger.run("run", &[Job::default()]);
        let path = run.to_str().unwrap();
        let (rc, said) = ledger.call(&["ledger", "add", path]);
        assert!(rc == 1 && said.contains("which base model"), "{said}");
        let (rc, said) = ledger.call(&["ledger", "add", path, "--base", "acme/base-1"]);
        assert!(rc == 1 && said.contains("nothing is known here of the base model acme/base-1"), "{said}");
        for wrong in [
            &["--base-flops", "1e24", "--base-params", "8B", "--base-tokens", "15T"][..],
            &["--base-flops", "1e24", "--base-unknown", "x", "--base-no-estimate", "y"],
            &["--base-unknown", "x"],
            &["--base-params", "8B"],
            &["--systemic-risk", "--no-systemic-risk", "x"],
            &["--from-scratch", "--base-flops", "1e24"],
            &["--base-flops", "-3"],
        ] {
            let args: Vec<&str> = ["ledger", "add", path].into_iter().chain(wrong.iter().copied()).collect();
            assert_eq!(ledger.call(&args).0, 2, "{wrong:?}");
        }
        assert!(!ledger.folder.path().join("ledger.db").exists());
        ledger.added(&run);
        // Its name is enough from now on.
        assert_eq!(ledger.call(&["ledger", "add", path, "--base", "acme/base-1"]).0, 0);
        let (_, said) = ledger.call(&["ledger", "add", path, "--base", "acme/base-1", "--base-flops", "2e24"]);
        assert!(said.contains("what is known of the base model was changed"), "{said}");
        let (rc, said) = ledger.call(&["ledger", "add", path, "--base", "acme/base-1", "--base-flops", "2e24", "--modification", "other"]);
        assert!(rc == 0 && said.contains("counted for another modification too"), "{said}");
        let (rc, said) = ledger.call(&["ledger", "show", "--base", "nobody's"]);
        assert!(rc == 3 && said.contains("nothing in the ledger"), "{said}");
    }

    #[test]
    fn pretrain_flops_in_the_environment_is_heard() {
        let ledger = Ledger::new();
        let run = ledger.run("run", &[Job::default()]);
        let out = Command::new(env!("CARGO_BIN_EXE_flopsprof"))
            .args(["ledger", "add", run.to_str().unwrap(), "--base", "acme/base-1"])
            .env("FLOPSPROF_LEDGER", ledger.folder.path().join("ledger.db"))
            .env("PRETRAIN_FLOPS", "3e24")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(ledger.shown()["assessment"]["base"]["flop"], (3 * 10u128.pow(24)).to_string());
    }

    #[test]
    fn a_process_that_was_not_metered_is_no_zero() {
        let ledger = Ledger::new();
        let run = ledger.run("run", &[Job::default()]);
        let mut writer = Writer::create(&run, "node-9-99.jsonl").unwrap();
        let mut start = Start { format: FORMAT, ..Start::default() };
        start.job.insert("SLURM_JOB_ID".to_owned(), "17".to_owned());
        writer.append(1, &Record::Start(Box::new(start))).unwrap();
        let fault = Fault { kind: "no-cupti".to_owned(), what: "no libcupti".to_owned(), ..Fault::default() };
        writer.append(2, &Record::Fault(fault)).unwrap();
        writer.append(3, &Record::End(End::default())).unwrap();
        assert!(ledger.added(&run).contains("was not metered"));
        assert_eq!(ledger.shown()["assessment"]["verdict"], "inconclusive");
    }
}
