//! `flopsprof watch --tensor pm`: the devices' tensor cycles, counted, for as long as nobody else needs the counters.

use std::{
    panic,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use flopsprof::{
    process,
    witness::{identity, library},
};

use serde_json::Value;

use crate::{
    alone,
    harness::{BF16, Bench},
    held::{Held, command},
    watch::{Watch, flopsprof},
};

/// Operations that the stand-in's tensor cores execute in a cycle, as was measured of wgmma bf16; what all of them count in a cycle; cycles in a second.
const FLOP_PER_TENSOR_CYCLE: f64 = 1024.0;
const TENSOR_CORES: f64 = 528.0;
const HERTZ: f64 = 1.98e9;

const PM: [&str; 4] = ["--tensor", "pm", "--every", "0.5"];

/// Runs a test, again when it fails while metered processes of somebody else's tests ran: each of them is one more for which the witness gives way, and on this
/// machine it cannot know that they have a stand-in of their own.
fn undisturbed(test: impl Fn() + panic::RefUnwindSafe) {
    let _alone = alone();
    for _ in 0..8 {
        let (over, disturbed) = (AtomicBool::new(false), AtomicBool::new(false));
        let result = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    disturbed.fetch_or(strangers(), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let result = panic::catch_unwind(&test);
            over.store(true, Ordering::Relaxed);
            result
        });
        match result {
            Err(_) if disturbed.load(Ordering::Relaxed) => {}
            Err(failed) => panic::resume_unwind(failed),
            Ok(()) => return,
        }
    }
    panic!("disturbed each time");
}

/// Whether there is a metered process that is no descendant of this one.
fn strangers() -> bool {
    let metered = |pid: &u32| library::maps(*pid).is_some_and(|m| m.metered && !m.drivers.is_empty());
    let ours = |pid: u32| pid == std::process::id() || identity::parents(pid).iter().any(|p| p.pid == std::process::id());
    process::all().filter(metered).any(|pid| !ours(pid))
}

/// An unmetered workload of known operations for so long; returns its FLOP.
fn demo(bench: &Bench, seconds: &str) -> f64 {
    let output = flopsprof(bench)
        .args(["demo", "--bare", "--kernel", "wgmma_bf16", "--seconds", seconds])
        .env_remove("LD_PRELOAD")
        .output()
        .expect("the command");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let executed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    executed["truth"]
        .as_object()
        .expect("FLOP by metric")
        .values()
        .map(|f| f.as_str().expect("a string").parse::<f64>().expect("FLOP"))
        .sum()
}

/// The device's intervals.
fn intervals(records: &[Value]) -> Vec<&Value> {
    records.iter().filter(|r| r["type"] == "interval").map(|r| &r["devices"][0]).collect()
}

/// What was sampled: a field of all intervals, added up.
fn sampled(records: &[Value], field: &str) -> u64 {
    intervals(records).iter().filter_map(|d| d["pm"][field].as_u64()).sum()
}

/// Why PM sampling ended, or could not be had.
fn ended(records: &[Value]) -> Vec<&str> {
    intervals(records).iter().filter_map(|d| d["pm"]["ended"].as_str()).collect()
}

fn gpm(device: &Value) -> bool {
    device["nvml"]["gpm_any_tensor_pct"].is_f64()
}

fn report(bench: &Bench) -> (Value, String) {
    let output = flopsprof(bench).args(["report", "--json"]).arg(bench.out()).output().expect("the command");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = flopsprof(bench).arg("report").arg(bench.out()).output().expect("the command").stdout;
    (serde_json::from_slice(&output.stdout).expect("JSON"), String::from_utf8(text).expect("UTF-8"))
}

/// GPM, from the first interval on, with a reason and no samples.
fn assert_gpm(records: &[Value], why: &str) {
    let all = intervals(records);
    let [first, rest @ ..] = &all[..] else { panic!("no interval") };
    assert!(first["pm"]["ended"].as_str().is_some_and(|e| e.contains(why)) && first["pm"]["samples"] == 0, "{first:#}");
    assert!(gpm(first) && rest.iter().all(|d| gpm(d) && d.get("pm").is_none()), "{all:#?}");
}

#[test]
fn cycles_of_an_unmetered_program_are_counted() {
    undisturbed(|| {
        let bench = Bench::new();
        let watch = Watch::start(&bench, &PM);
        assert_eq!(watch.said.len(), 1, "{:?}", watch.said);
        let own = watch.pid();
        let truth = demo(&bench, "2");
        thread::sleep(Duration::from_millis(300));
        let records = watch.end();
        assert!(records[0]["simulated"] == true && records[1]["pm_sampling"] == true, "{:#}", records[0]);

        let (tensor, elapsed) = (sampled(&records, "tensor_cycles") as f64, sampled(&records, "elapsed_cycles") as f64);
        assert!((tensor * FLOP_PER_TENSOR_CYCLE / truth - 1.0).abs() < 1e-4, "{tensor} cycles of {truth} FLOP");
        let all = intervals(&records);
        let held: u64 = all.iter().map(|d| d["pm"]["end_ns"].as_u64().expect("ns") - d["pm"]["start_ns"].as_u64().expect("ns")).sum();
        let covered = sampled(&records, "sampled_ns");
        assert!(held > 2_000_000_000 && held.abs_diff(covered) < 20_000_000, "{covered} of {held} ns");
        assert!((elapsed / (covered as f64 * HERTZ / 1e9) - 1.0).abs() < 1e-6, "{elapsed} cycles in {covered} ns");
        assert!(sampled(&records, "samples").abs_diff(covered / 1_000_000) <= 1, "a sample a millisecond");
        assert_eq!((sampled(&records, "overflows"), sampled(&records, "dropped"), ended(&records)), (0, 0, vec![]));
        // It holds from one interval to the next, in GPM's place.
        assert!(all.iter().all(|d| !gpm(d) && d["pm"]["peak"] == TENSOR_CORES), "{all:#?}");
        assert!(all.windows(2).all(|w| w[0]["pm"]["end_ns"] == w[1]["pm"]["start_ns"]));
        // The witness is no user of the GPU, for all that it has started CUDA.
        assert!(!records.iter().any(|r| r["type"] == "seen" && r["pid"] == own));
        assert_eq!(std::fs::read_dir(bench.out()).expect("the folder").flatten().count(), 1, "and it is not metered");

        let (report, text) = report(&bench);
        let device = &report["completeness"]["devices"][0];
        let seconds = truth / FLOP_PER_TENSOR_CYCLE / TENSOR_CORES / HERTZ;
        assert!((device["device_tensor_s"].as_f64().expect("s") / seconds - 1.0).abs() < 1e-3, "{device:#} {seconds}");
        let [source] = &device["sources"].as_array().expect("sources")[..] else { panic!("{device:#}") };
        assert!(source["source"] == "pm" && source["ended"] == "" && source["overflows"] == 0, "{source:#}");
        let error = device["error"].as_f64().expect("an error");
        assert!(error < 0.02 && (error - source["lost_s"].as_f64().expect("s") / device["witnessed_s"].as_f64().expect("s")).abs() < 1e-6);
        assert!(text.contains(": PM sampling, ") && text.contains("SIMULATED"), "{text}");
    });
}

/// What a launch of `held ... bf16` executes.
const HELD_FLOP: u128 = 132 * 4 * 65_536 * 100;

/// A metered program that waits until it is told to work; its evidence goes to a folder of its own.
fn metered(bench: &Bench, out: &Path) -> Held {
    let mut metered = command(bench, "", &["300", "bf16"]);
    metered.env("LD_PRELOAD", crate::harness::library("flopsprof")).env("FLOPSPROF_OUT", out);
    Held::start(metered)
}

/// Everything that it executed was counted.
fn assert_counted(out: &Path, launches: u64) {
    let total = flopsprof::ledger::run_total(&flopsprof::evidence::read::read_run(out).expect("evidence"));
    assert_eq!((total.paths[BF16].counted, total.paths[BF16].interpolated), (u128::from(launches) * HELD_FLOP, 0));
}

/// One that comes gets the counters before it has launched anything.
#[test]
fn it_gives_way_to_a_metered_process() {
    undisturbed(|| {
        // Calls take as long as they do on a real one.
        let bench = Bench::new().without("FLOPSPROF_SIM_FAST").env("FLOPSPROF_SIM_FLOPS", "1e14");
        let watch = Watch::start(&bench, &PM);
        let truth = demo(&bench, "1");
        thread::sleep(Duration::from_millis(300));
        let out = bench.dir.path().join("metered");
        let held = metered(&bench, &out);
        let pid = held.pid;
        watch.wait_for("the end of sampling", |r| r["devices"][0]["pm"]["ended"].is_string());
        // The meter asks every 20 ms, and its first Start takes 160.
        thread::sleep(Duration::from_millis(500));
        let made = held.work();
        thread::sleep(Duration::from_millis(700));
        let (records, said) = watch.end_with_words();

        assert_counted(&out, made);
        let why = format!("a metered process needs the counters: held {pid}");
        assert!(said.lines().count() == 1 && said.contains(" ends: ") && said.contains(&why), "{said}");
        assert_eq!(ended(&records), [why.as_str()]);
        // Each interval has one source, and none is missing.
        let all = intervals(&records);
        let at = all.iter().position(|d| d["pm"]["ended"].is_string()).expect("the last that was sampled");
        assert!(all[..=at].iter().all(|d| d["pm"]["samples"].as_u64().is_some_and(|n| n > 0) && !gpm(d)), "{all:#?}");
        assert!(at + 1 < all.len() && all[at + 1..].iter().all(|d| d.get("pm").is_none() && gpm(d)), "{all:#?}");
        assert!(all[at + 1]["gpm_since_ns"].as_u64() >= all[at]["pm"]["end_ns"].as_u64(), "{all:#?}");
        // What the one before it executed, who was not metered.
        let cycles = sampled(&records, "tensor_cycles") as f64;
        assert!((cycles * FLOP_PER_TENSOR_CYCLE / truth - 1.0).abs() < 1e-3, "{cycles} cycles of {truth} FLOP");
        let (report, text) = report(&bench);
        let sources = report["completeness"]["devices"][0]["sources"].as_array().expect("sources");
        let told: Vec<(&str, &str)> =
            sources.iter().map(|s| (s["source"].as_str().expect("a name"), s["ended"].as_str().expect("why"))).collect();
        assert_eq!(told, [("pm", why.as_str()), ("gpm", "")], "{text}");
    });
}

/// Without probes in the kernel a metered process is seen by the turn that it waits for.
#[test]
fn it_gives_way_to_one_that_nobody_saw_come() {
    undisturbed(|| {
        let bench = Bench::new().env("FLOPSPROF_SIM_FLOPS", "1e14");
        let watch = Watch::start(&bench, &[&PM[..], &["--no-ebpf"]].concat());
        thread::sleep(Duration::from_millis(300));
        let out = bench.dir.path().join("metered");
        let held = metered(&bench, &out);
        watch.wait_for("the end of sampling", |r| r["devices"][0]["pm"]["ended"].is_string());
        thread::sleep(Duration::from_millis(300));
        let made = held.work();
        let (records, said) = watch.end_with_words();
        assert!(said.contains("a metered process needs the counters"), "{said}");
        assert_eq!(ended(&records).len(), 1);
        assert_counted(&out, made);
    });
}

/// Who is there already is not disturbed.
#[test]
fn it_does_not_begin_beside_a_metered_process() {
    undisturbed(|| {
        let bench = Bench::new();
        for options in [&["--every", "0.5"][..], &["--every", "0.5", "--no-ebpf"]] {
            let other = Bench::new();
            let out = other.dir.path().join("metered");
            let held = metered(&bench, &out);
            let pid = held.pid;
            let mut asked = flopsprof(&bench);
            asked.args(["watch", "--tensor", "pm", "--out"]).arg(other.out()).args(options);
            let watch = Watch::begin(asked, &other.out());
            let why = format!("a metered process needs the counters: held {pid}");
            assert!(
                watch.said.iter().any(|l| l.starts_with("flopsprof: no PM sampling on GPU-") && l.contains(&why) && l.ends_with("GPM's")),
                "{:?}",
                watch.said
            );
            let made = held.work();
            thread::sleep(Duration::from_millis(700));
            assert_gpm(&watch.end(), &why);
            assert_counted(&out, made);
        }
    });
}

/// Somebody else has the counters, or nobody may: a line with what to do, and GPM.
#[test]
fn counters_that_cannot_be_had() {
    undisturbed(|| {
        for (fault, why, remedy) in [
            ("cuptiPmSamplingStart=26", "somebody else holds the GPU's counters", "dcgmi profile --pause"),
            ("cuptiPmSamplingEnable=35", "no permission to read the GPU's counters", "NVreg_RestrictProfilingToAdminUsers=0"),
            ("cuptiPmSamplingEnable=41", "confidential computing", "confidential computing"),
            ("cuptiPmSamplingSetConfig=27", "CUPTI refuses", "cuptiPmSamplingSetConfig"),
            ("cuptiProfilerHostGetNumOfPasses=garbage:0", "needs 0 passes", ""),
            ("cuptiPmSamplingGetCounterDataSize=garbage:1", "cannot be", ""),
            ("cuInit=100", "CUDA does not start", ""),
        ] {
            let bench = Bench::new().fault(fault);
            let watch = Watch::start(&bench, &[&PM[..], &["--no-ebpf"]].concat());
            let line = watch
                .said
                .iter()
                .find(|l| l.starts_with("flopsprof: no PM sampling on GPU-"))
                .unwrap_or_else(|| panic!("{fault}: {:?}", watch.said));
            assert!(line.contains(why) && line.contains(remedy) && line.ends_with("its tensor activity is GPM's"), "{fault}: {line}");
            thread::sleep(Duration::from_millis(700));
            assert_gpm(&watch.end(), why);
        }
    });
}

/// The real owner of the counters is another process: the second witness does without them, and the first keeps them.
#[test]
fn two_witnesses_do_not_take_them_from_each_other() {
    undisturbed(|| {
        let bench = Bench::new();
        let first = Watch::start(&bench, &PM);
        let other = bench.dir.path().join("other");
        // Locks that it cannot see, as in another container.
        let mut second = Command::new("unshare");
        let program = env!("CARGO_BIN_EXE_flopsprof");
        second.args([
            "--mount",
            "sh",
            "-ec",
            &format!("mount -t tmpfs none /dev/shm\nexec {program} watch --tensor pm --every 0.5 --out {}", other.display()),
        ]);
        for (name, value) in flopsprof(&bench).get_envs() {
            if let Some(value) = value {
                second.env(name, value);
            }
        }
        let second = Watch::begin(second, &other);
        assert!(
            second
                .said
                .iter()
                .any(|l| l.contains("somebody else holds the GPU's counters: cuptiPmSamplingStart: CUPTI_ERROR_HARDWARE_BUSY")),
            "{:?}",
            second.said
        );
        thread::sleep(Duration::from_millis(700));
        assert_gpm(&second.end(), "HARDWARE_BUSY");
        let records = first.end();
        assert!(ended(&records).is_empty() && sampled(&records, "samples") > 500, "{records:#?}");
    });
}

/// What ran over is counted and said, and what is left is not taken for the whole.
#[test]
fn an_overflow_is_counted_and_said() {
    undisturbed(|| {
        let bench = Bench::new().env("FLOPSPROF_SIM_PM_SAMPLES", "400");
        let watch = Watch::start(&bench, &PM);
        thread::sleep(Duration::from_millis(400));
        watch.signal(libc::SIGSTOP);
        thread::sleep(Duration::from_millis(1500));
        watch.signal(libc::SIGCONT);
        thread::sleep(Duration::from_millis(600));
        let truth = demo(&bench, "1");
        thread::sleep(Duration::from_millis(300));
        let (records, said) = watch.end_with_words();
        assert!(said.lines().count() == 1 && said.contains("the hardware's buffer ran over"), "{said}");
        assert_eq!((sampled(&records, "overflows"), ended(&records)), (1, vec![]));
        let held: u64 =
            intervals(&records).iter().map(|d| d["pm"]["end_ns"].as_u64().expect("ns") - d["pm"]["start_ns"].as_u64().expect("ns")).sum();
        let lost = held - sampled(&records, "sampled_ns");
        assert!((900_000_000..1_400_000_000).contains(&lost), "{lost} ns without samples");
        // It goes on afterwards.
        let cycles = sampled(&records, "tensor_cycles") as f64;
        assert!((cycles * FLOP_PER_TENSOR_CYCLE / truth - 1.0).abs() < 1e-4, "{cycles} cycles of {truth} FLOP");
        let (report, text) = report(&bench);
        let device = &report["completeness"]["devices"][0];
        let source = &device["sources"][0];
        assert!(source["overflows"] == 1 && (source["lost_s"].as_f64().expect("s") - lost as f64 / 1e9).abs() < 1e-6, "{source:#}");
        assert!(device["error"].as_f64().expect("an error") > 0.2, "{device:#}");
        assert!(text.contains("1 overflow(s) of the hardware's buffer"), "{text}");
    });
}

/// A library may fail and lie at any call: it is said in a line, and GPM goes on.
#[test]
fn whatever_cupti_answers_is_survived() {
    undisturbed(|| {
        for (fault, lives) in [
            // The first way is refused and the second is taken: a struct of 12.8, or another trigger.
            ("cuptiPmSamplingSetConfig=1@1", true),
            ("cuptiPmSamplingSetConfig=10@1", true),
            // The other word for an overflow.
            ("cuptiPmSamplingDecodeData=8@2", true),
            ("cuptiPmSamplingDecodeData=8@2+", false),
            ("cuptiPmSamplingDecodeData=garbage:0", true),
            ("cuptiPmSamplingDecodeData=999@3", false),
            ("cuptiPmSamplingGetCounterDataInfo=garbage:1", false),
            ("cuptiPmSamplingGetCounterDataInfo=garbage:2", false),
            // None ever comes.
            ("cuptiPmSamplingGetCounterDataInfo=garbage:0", false),
            // Samples that say what cannot be are not in the sums.
            ("cuptiPmSamplingCounterDataGetSampleInfo=garbage:0@1", true),
            ("cuptiPmSamplingCounterDataGetSampleInfo=garbage:1@1", true),
            ("cuptiProfilerHostEvaluateToGpuValues=garbage:0@1", true),
            ("cuptiProfilerHostEvaluateToGpuValues=garbage:3@1", true),
            ("cuptiProfilerHostEvaluateToGpuValues=garbage:0", false),
            ("cuptiProfilerHostEvaluateToGpuValues=7", false),
            ("cuptiPmSamplingStop=999", true),
            ("cuptiPmSamplingDisable=999", true),
        ] {
            let bench = Bench::new().fault(fault);
            let watch = Watch::start(&bench, &[&PM[..], &["--no-ebpf"]].concat());
            if lives {
                thread::sleep(Duration::from_millis(900));
            } else {
                watch.wait_for(fault, |r| r["devices"][0]["pm"]["ended"].is_string());
            }
            let living = watch.wait_for("an interval", |r| r["type"] == "interval");
            assert!(living["devices"][0]["pm"].is_object(), "{fault}: {living:#}");
            let (records, said) = watch.end_with_words();
            assert_eq!(ended(&records).is_empty(), lives, "{fault}: {said}");
            assert_eq!(said.contains(" ends: "), !lives, "{fault}: {said}");
            if fault.contains("garbage") && fault.ends_with("@1") {
                assert_eq!(sampled(&records, "dropped"), 1, "{fault}");
            }
            if lives && !fault.contains("Stop") {
                assert!(sampled(&records, "samples") > 100, "{fault}");
            }
            assert!(!records.is_empty() && records[records.len() - 1]["type"] == "end", "{fault}");
        }
    });
}

/// By default nobody's counters are touched.
#[test]
fn it_is_gpm_unless_asked() {
    undisturbed(|| {
        let bench = Bench::new().fault("cuInit=999,cuptiPmSamplingEnable=999");
        let watch = Watch::start(&bench, &["--every", "0.5"]);
        thread::sleep(Duration::from_millis(700));
        let records = watch.end();
        assert!(
            records[1].get("pm_sampling").is_none() && intervals(&records).iter().all(|d| d.get("pm").is_none() && gpm(d)),
            "{records:#?}"
        );
    });
}
