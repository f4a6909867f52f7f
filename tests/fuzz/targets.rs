//! Everything that reads what somebody else wrote, as functions of bytes. None may panic, hang or take memory without bound, and what each must hold is
//! checked in it.

use std::{collections::BTreeMap, path::Path, sync::OnceLock};

use ed25519_dalek::SigningKey;
use flopsprof::{
    counter::category::Category,
    cumulative::{self, Entry, Kept},
    estimate::{
        config::Config,
        cost::Kernel,
        family,
        job::Job,
        method::{Dora, Method, Targets},
        peft,
        workload::{self, Filling, Shape, Workload},
    },
    evidence::{
        read::{self, ProcessEvidence},
        record::{Kind, Line},
    },
    ledger::{self, FileTotal, Ledger, RunTotal},
    reconcile::declared::Told,
    report::{
        aws, estimate as form, html, kernel,
        make::{Asked, made},
        text,
        top::Top,
    },
    rule::{Origin, assess, guidelines::CURRENT},
    seal::{
        dsse::{Envelope, IN_TOTO},
        key, verify,
    },
};
use serde::Deserialize;

/// How an input is built, for mutations that keep its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Lines of JSON.
    Lines,
    /// One JSON value.
    Json,
    /// Something else.
    Bytes,
}

/// Something to be fuzzed. Its corpus lies in `corpus/<name>`.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    pub(crate) run: fn(&[u8]),
}

/// All of them.
pub(crate) const TARGETS: [Target; 10] = [
    Target { name: "evidence", form: Form::Lines, run: evidence },
    Target { name: "report", form: Form::Lines, run: report },
    Target { name: "config", form: Form::Json, run: config },
    Target { name: "lengths", form: Form::Bytes, run: lengths },
    Target { name: "recipe", form: Form::Bytes, run: recipe },
    Target { name: "envelope", form: Form::Json, run: envelope },
    Target { name: "statement", form: Form::Json, run: statement },
    Target { name: "key", form: Form::Bytes, run: key_file },
    Target { name: "cumulative", form: Form::Json, run: cumulative_ledger },
    Target { name: "name", form: Form::Bytes, run: name },
];

/// Between two files of one input.
const NEXT_FILE: &[u8] = b"\n--- next file\n";

/// The reader of evidence.
fn evidence(bytes: &[u8]) {
    for line in bytes.split(|b| *b == b'\n') {
        // The short way reads what the general one reads. It may read more: a number too large for a float in a field that neither knows.
        if let Ok(general) = serde_json::from_slice::<Line>(line) {
            let fast = Line::parse(line).expect("what the general way reads");
            assert_eq!(format!("{fast:?}"), format!("{general:?}"));
        }
    }
    if let Ok(file) = read::parse(Path::new("fuzzed.jsonl"), bytes) {
        assert_eq!(file.lines.len(), file.hashes.len());
        // The last line may lack its newline: a full disk can have had room for all but that.
        assert!(file.lines.len() <= bytes.iter().filter(|b| **b == b'\n').count() + 1);
    }
}

/// Ledger, reconciliation and every form of the report, of several files.
fn report(bytes: &[u8]) {
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(NEXT_FILE.len()).position(|w| w == NEXT_FILE) {
        parts.push(&rest[..=at]);
        rest = &rest[at + NEXT_FILE.len()..];
    }
    parts.push(rest);
    let parsed = parts.iter().enumerate().map(|(i, part)| read::parse(Path::new(&format!("{i}.jsonl")), part));
    let files: Vec<ProcessEvidence> = parsed.filter_map(Result::ok).collect();
    if files.is_empty() {
        return;
    }
    let total = added(files.iter());
    let turned = added(files.iter().rev());
    // Of two files that begin with the same line the first counts, whatever the other says.
    for (path, sum) in total.paths.iter().filter(|_| total.duplicates.is_empty()) {
        let other = &turned.paths[path];
        assert_eq!((sum.counted, sum.interpolated, sum.looked_ns), (other.counted, other.interpolated, other.looked_ns), "{path}");
    }
    if total.paths.values().all(|p| p.total() < 1 << 100) {
        let nodes = total.nodes.values().map(|paths| ledger::sum(paths).counted).sum::<u128>();
        assert_eq!(nodes, total.paths.values().map(|p| p.counted).sum::<u128>(), "nodes add up to the run");
    }

    let mut told = Told::default();
    files.iter().map(Told::of).for_each(|t| told.add(t));
    for asked in asked() {
        let Ok(report) = made(&total, &told, asked) else { continue };
        let json = serde_json::to_value(&report).expect("a report is JSON");
        assert!(schema().is_valid(&json), "{:?}", schema().validate(&json).err().map(|e| format!("{} at {}", e, e.instance_path)));
        assert!(!text::text(&report).is_empty());
        let page = html::page(&report);
        assert!(page.ends_with("</html>") && !page.contains("<script>alert"), "what evidence says is text on the page");
        serde_json::to_string(&aws::flops_meter(&report, &aws::Job::default())).expect("JSON");
    }
    let kernels = kernel::kernels(&total, 20);
    assert!(!kernel::text(&kernels).is_empty());
    kernel::csv(&kernels, std::io::sink()).expect("a table");
    let mut top = Top::default();
    for file in &files {
        file.lines.iter().for_each(|line| top.add(&file.path, line));
    }
    let _ = (top.words(3), top.text(10), form::measured(&total, "fuzzed"));
}

fn added<'a>(files: impl Iterator<Item = &'a ProcessEvidence>) -> RunTotal {
    let mut ledger = Ledger::default();
    for file in files.map(FileTotal::of) {
        ledger.add(file);
    }
    ledger.total()
}

fn asked() -> &'static [Asked; 2] {
    static ASKED: OnceLock<[Asked; 2]> = OnceLock::new();
    ASKED.get_or_init(|| {
        let asked = |origin, parameters, tokens| Asked {
            parameters,
            tokens,
            origin,
            parts: Vec::new(),
            besides: Vec::new(),
            notes: vec!["a note".to_owned()],
            rules: CURRENT,
        };
        let base = r#"{"modification":{"name":"base","compute":{"published":{"flop":"100000000000000000000000","source":"card"}},"systemic_risk":"no"}}"#;
        let base = serde_json::from_str(base).unwrap_or(Origin::Scratch);
        [asked(Origin::NotStated, None, None), asked(base, Some(u64::MAX), Some(u64::MAX))]
    })
}

fn schema() -> &'static jsonschema::Validator {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let schema = serde_json::from_str(flopsprof::report::json::SCHEMA).expect("the schema is JSON");
        jsonschema::validator_for(&schema).expect("a schema")
    })
}

/// A model's configuration, estimated by every method.
fn config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    let Ok(Some(model)) = Config::new(&value).and_then(family::model) else { return };
    let workloads = [
        Workload::of_tokens(1_000_000, 2048),
        Workload::new(vec![Shape { rows: 3, length: 100, decoder_length: 50 }], Filling::Longest, 8, None),
        Workload::of_tokens(u64::MAX, 1 << 31),
    ];
    let adapters = |dora| Method::Lora {
        rank: 8,
        ranks: BTreeMap::new(),
        targets: Targets::AllLinear,
        parameters: Vec::new(),
        tried: true,
        dora,
        also: Vec::new(),
        quantised: false,
    };
    let stacked = peft::converted(adapters(None), &model).expect("all of them are targets");
    let methods = [Method::Full, adapters(None), adapters(Some(Dora { dropout: true })), stacked, Method::FrozenLayers(1)];
    let mut estimates = Vec::new();
    for workload in workloads.into_iter().flatten() {
        for method in methods.clone() {
            let job = Job {
                model: Some(model.clone()),
                parameters: None,
                workload: workload.clone(),
                lengths_known: true,
                method,
                checkpointing: true,
                kernel: Kernel::FLASH,
                batches: u64::MAX,
            };
            if let Ok(estimate) = job.estimate(None)
                && let Ok(assessed) = form::assessed(estimate, Origin::Scratch, CURRENT)
            {
                estimates.push(assessed);
            }
        }
    }
    if !estimates.is_empty() {
        assert!(!form::text(&estimates).is_empty());
        serde_json::to_string(&form::json(&estimates)).expect("JSON");
    }
}

/// A file of rows' lengths.
fn lengths(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(shapes) = workload::lengths(text) else { return };
    for filling in [Filling::None, Filling::Longest, Filling::Max, Filling::Packed, Filling::PackedAcross] {
        for longest in [None, Some(2048)] {
            if let Ok(workload) = Workload::new(shapes.clone(), filling, 8, longest) {
                let (real, executed) = (workload.real_tokens().expect("checked"), workload.executed_tokens().expect("checked"));
                assert!(executed >= real, "{executed} tokens are executed of {real}");
            }
        }
    }
}

/// A recipe of the AWS toolkit.
fn recipe(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok((details, _)) = aws::recipe(text) {
        assert!(details.is_object());
        serde_json::to_string(&details).expect("JSON");
    }
}

/// What the one envelope that the key ever signed says: `corpus/envelope` holds it.
const SIGNED: &[u8] = include_bytes!("statement.json");

fn signing_key() -> &'static SigningKey {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    KEY.get_or_init(|| SigningKey::from_bytes(&[7; 32]))
}

/// The envelope of the corpus.
pub(crate) fn signed_envelope() -> Vec<u8> {
    serde_json::to_vec(&Envelope::sign(IN_TOTO, SIGNED, signing_key())).expect("JSON")
}

/// A seal: whatever was done to the envelope, nothing passes for signed but what was.
fn envelope(bytes: &[u8]) {
    let path = Path::new("seal.dsse.json");
    let _ = verify::parse(path, bytes, None);
    let public = signing_key().verifying_key();
    if let Ok(envelope) = serde_json::from_slice::<Envelope>(bytes)
        && let Ok(payload) = envelope.verified_payload(&public)
    {
        assert_eq!(payload, SIGNED, "a forged payload");
        assert!(verify::parse(path, bytes, Some(&public)).is_ok());
    }
}

/// The statement of a seal, signed whatever it says.
fn statement(bytes: &[u8]) {
    let sealed = serde_json::to_vec(&Envelope::sign(IN_TOTO, bytes, signing_key())).expect("JSON");
    let _ = verify::parse(Path::new("seal.dsse.json"), &sealed, Some(&signing_key().verifying_key()));
}

/// A key's file.
fn key_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("key.pem");
    let private = key::parse_private(path, text).is_ok();
    let public = key::parse_public(path, text).map(|k| key::key_id(&k)).is_ok();
    assert!(!(private && public), "one file, two keys");
}

/// What the cumulative ledger keeps as JSON.
#[derive(Deserialize)]
struct Modification {
    origin: Origin,
    entries: Vec<Entry>,
}

/// Entries of the cumulative ledger, as its file has them.
fn cumulative_ledger(bytes: &[u8]) {
    let Ok(said) = serde_json::from_slice::<Modification>(bytes) else { return };
    let kept: Vec<Kept> = (0..).zip(said.entries).map(|(id, entry)| Kept { id, added_unix_s: 0, entry }).collect();
    let _ = cumulative::base_key(&said.origin);
    if let Some(first) = kept.first() {
        let _ = cumulative::place(&first.entry, &[], &kept);
    }
    if let Ok(assessment) = assess(&cumulative::input(said.origin, &kept), CURRENT) {
        assert!(!assessment.to_string().is_empty());
        serde_json::to_string(&assessment).expect("JSON");
    }
}

/// A kernel's name.
fn name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let name = kernel::name(Kind::Kernel, &text);
    let _ = Category::of(&name);
}
