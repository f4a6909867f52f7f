//! What a report makes of a witness's evidence, in each of its forms.

use std::{fs, path::Path};

use flopsprof::evidence::{
    record::{End, Host, NvmlReading, Process, Record, Start},
    witness::{Calls, Cpu, CpuCounts, DeviceProcess, Ended, Id, Interval, OnDevice, Parent, PmReading, Seen, Source, Sources},
    write::Writer,
};
use serde_json::Value;

use crate::{
    report,
    synthetic::{BEGAN_UNIX_NS, Evidence, WINDOW_FLOP, WINDOW_NS},
};

/// SM clock of the synthetic device, and what it does in a cycle.
const HERTZ: f64 = 1.98e9;
const FLOP_PER_CYCLE: f64 = 540_672.0;

/// A witness of one machine, to be changed before it is written.
struct Witness {
    sources: Sources,
    seen: Vec<Seen>,
    intervals: Vec<Interval>,
    at_ns: u64,
}

/// The metered process of `Evidence::counted`, and one that is not metered.
const METERED: Id = Id { pid: 4000, start_ticks: 77 };
const OTHER: Id = Id { pid: 4001, start_ticks: 99 };

impl Witness {
    /// Beside `Evidence::counted`: an interval a window. The device did `times` what was counted.
    fn beside(evidence: &Evidence, times: f64, other: bool) -> Self {
        let on = Source { on: true, ..Source::default() };
        let sources =
            Sources { launches: "all".to_owned(), every_ns: WINDOW_NS, ebpf: on.clone(), nvml: on, pm_sampling: false, pmu: no_pmu() };
        let process = |id, own_pid, comm: &str| Seen {
            id,
            own_pid,
            comm: comm.to_owned(),
            uid: 1000,
            user: "anna".to_owned(),
            parents: vec![Parent { pid: 1, comm: "init".to_owned() }],
            how: "called".to_owned(),
            ..Seen::default()
        };
        // The metered one knows itself by another id: it is in a container.
        let mut seen = vec![Seen { library: true, ..process(METERED, evidence.start.process.pid, "python") }];
        if other {
            seen.push(Seen { slurm_job: Some("4711".to_owned()), ..process(OTHER, OTHER.pid, "<miner>") });
        }
        let seconds = WINDOW_NS as f64 / 1e9;
        let percent = 100.0 * times * WINDOW_FLOP as f64 / FLOP_PER_CYCLE / HERTZ / seconds;
        let intervals = evidence.windows.iter().map(|w| {
            let listed = |id, sm_pct| DeviceProcess { id, sm_pct: Some(sm_pct), memory: Some(1 << 30) };
            let mut processes = vec![listed(METERED, 60.0)];
            let mut callers = vec![Calls { id: METERED, calls: [("cuLaunchKernel".to_owned(), 1000)].into() }];
            if other {
                processes.push(listed(OTHER, 30.0));
                callers.push(Calls { id: OTHER, calls: [("cuLaunchKernelEx".to_owned(), 10), ("cuInit".to_owned(), 1)].into() });
            }
            let device = OnDevice {
                uuid: evidence.device.uuid.clone(),
                name: evidence.device.name.clone(),
                nvml: NvmlReading { gpm_any_tensor_pct: Some(percent), ..NvmlReading::default() },
                pm: None,
                gpm_since_ns: w.start_ns,
                clock_mhz: Some(HERTZ / 1e6),
                processes: Some(processes),
            };
            Interval {
                start_ns: w.start_ns,
                end_ns: w.end_ns,
                devices: vec![device],
                callers,
                launches_on_ns: WINDOW_NS,
                cpu: Some(Cpu {
                    job: CpuCounts { opened: 1, task_clock_ns: 12_340_000_000, context_switches: 99, ..CpuCounts::default() },
                    ..Cpu::default()
                }),
                ..Interval::default()
            }
        });
        Self { sources, seen, intervals: intervals.collect(), at_ns: evidence.at_ns }
    }

    fn write(&self, folder: &Path, host: &str) {
        let mut writer = Writer::create(folder, &format!("witness-{host}-1-1.jsonl")).expect("an evidence file");
        let start = Start {
            format: 3,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            simulated: true,
            witness: true,
            unix_ns: BEGAN_UNIX_NS,
            host: Host { hostname: host.to_owned(), boot_id: format!("boot-of-{host}"), kernel: "6.1.0".to_owned() },
            process: Process { pid: 1, start_ticks: 1, comm: "flopsprof".to_owned(), ..Process::default() },
            ..Start::default()
        };
        let mut append = |at_ns, record| writer.append(at_ns, &record).expect("a line of evidence");
        append(self.at_ns, Record::Start(Box::new(start)));
        append(self.at_ns, Record::Sources(self.sources.clone()));
        self.seen.iter().for_each(|s| append(self.at_ns, Record::Seen(Box::new(s.clone()))));
        self.intervals.iter().for_each(|i| append(i.end_ns, Record::Interval(Box::new(i.clone()))));
        append(self.intervals.last().map_or(self.at_ns, |i| i.end_ns), Record::End(End { reason: "exit".to_owned(), ..End::default() }));
    }
}

fn no_pmu() -> Source {
    Source { on: false, why: "the CPU's counters are not there".to_owned(), remedy: String::new() }
}

/// A run of ten windows beside a witness; the report's completeness, after a look at its schema.
fn completeness(folder: &Path) -> Value {
    let output = report(folder, ["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let schema: Value = serde_json::from_str(flopsprof::report::json::SCHEMA).expect("the schema");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let wrong: Vec<String> = validator.iter_errors(&report).map(|e| format!("{}: {e}", e.instance_path)).collect();
    assert_eq!(wrong, [] as [&str; 0]);
    assert_eq!(report["processes"].as_array().expect("processes").len(), 1, "a witness is no metered process");
    assert_eq!(report["total"]["flop"], (10 * WINDOW_FLOP).to_string());
    report["completeness"].clone()
}

fn near(value: &Value, expected: f64) -> bool {
    value.as_f64().is_some_and(|v| (v / expected - 1.0).abs() < 1e-9)
}

#[test]
fn what_metered_processes_did_alone_is_complete() {
    let folder = tempfile::tempdir().expect("a folder");
    let evidence = Evidence::counted("node-a", 0, 1, 10);
    evidence.write(folder.path());
    // GPM said 1 % more than was counted: within its error.
    Witness::beside(&evidence, 1.01, false).write(folder.path(), "node-a");
    let c = completeness(folder.path());
    assert_eq!((&c["verdict"], &c["devices"][0]["verdict"]), (&"complete".into(), &"complete".into()), "{c:#}");
    assert!(near(&c["devices"][0]["completeness"], 1.0 / 1.01), "{c:#}");
    assert_eq!((&c["processes"][0]["metered"], &c["processes"][0]["launches"]), (&true.into(), &10_000.into()));
    let text = String::from_utf8(report(folder.path(), [""; 0]).stdout).expect("UTF-8");
    assert!(text.contains("completeness: complete (simulated): 99.0 % +- 2.2 % of its tensor time was metered"), "{text}");
    assert!(text.contains("CPU        job 12.34 s, 99 context switches; the CPU's counters are not there"), "{text}");
}

/// Cycles are set beside cycles, at the clock that the samples themselves saw; of the time without samples nothing is said; GPM goes on where they end.
#[test]
fn sampled_cycles_take_gpms_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let evidence = Evidence::counted("node-a", 0, 1, 10);
    evidence.write(folder.path());
    let mut witness = Witness::beside(&evidence, 1.0, false);
    witness.sources.pm_sampling = true;
    let why = "a metered process needs the counters: python 4000";
    for (i, interval) in witness.intervals.iter_mut().take(4).enumerate() {
        // The last of them lost a quarter.
        let quarters = if i == 3 { 3 } else { 4 };
        let tensor = WINDOW_FLOP / 1024 * quarters / 4;
        let device = &mut interval.devices[0];
        (device.nvml.gpm_any_tensor_pct, device.clock_mhz) = (None, Some(300.0));
        device.pm = Some(PmReading {
            start_ns: interval.start_ns,
            end_ns: interval.end_ns,
            tensor_cycles: u64::try_from(tensor).expect("cycles"),
            elapsed_cycles: WINDOW_NS / 4 * quarters as u64 * 3 / 2,
            peak: 528.0,
            sampled_ns: WINDOW_NS / 4 * quarters as u64,
            samples: 100,
            overflows: u64::from(i == 3),
            ended: if i == 3 { why.to_owned() } else { String::new() },
            ..PmReading::default()
        });
    }
    witness.write(folder.path(), "node-a");
    let c = completeness(folder.path());
    let device = &c["devices"][0];
    let window_s = WINDOW_NS as f64 / 1e9;
    assert!((device["completeness"].as_f64().expect("a share") - 1.0).abs() < 1e-6, "{device:#}");
    let tensor_s = |hertz: f64, windows: f64| windows * WINDOW_FLOP as f64 / FLOP_PER_CYCLE / hertz;
    let [pm, gpm] = &device["sources"].as_array().expect("sources")[..] else { panic!("{device:#}") };
    assert_eq!((&pm["source"], &pm["ended"], &gpm["source"], &gpm["ended"]), (&"pm".into(), &why.into(), &"gpm".into(), &"".into()));
    assert!((pm["tensor_s"].as_f64().expect("s") / tensor_s(1.5e9, 3.75) - 1.0).abs() < 1e-6, "{pm:#}");
    assert!((gpm["tensor_s"].as_f64().expect("s") / tensor_s(HERTZ, 6.0) - 1.0).abs() < 1e-6, "{gpm:#}");
    assert!(near(&pm["lost_s"], window_s / 4.0) && pm["samples"] == 400 && pm["overflows"] == 1, "{pm:#}");
    // All of it is metered, so that its cycles are reckoned by its peak; and there are a quarter of a window and GPM's edges.
    assert!(near(&device["error"], 0.02 + (0.2 + window_s / 4.0) / (9.75 * window_s)), "{device:#}");
    assert!(near(&device["witnessed_s"], 9.75 * window_s), "{device:#}");
    let text = String::from_utf8(report(folder.path(), [""; 0]).stdout).expect("UTF-8");
    assert!(
        text.contains("s without, 1 overflow(s) of the hardware's buffer: a metered process needs the counters: python 4000"),
        "{text}"
    );
}

#[test]
fn who_ran_unmetered_is_named_with_its_share() {
    let folder = tempfile::tempdir().expect("a folder");
    let evidence = Evidence::counted("node-a", 0, 1, 10);
    evidence.write(folder.path());
    let mut witness = Witness::beside(&evidence, 1.6, true);
    witness.intervals[5].ended.push(Ended { id: OTHER, at_ns: evidence.at_ns + 5 * WINDOW_NS + 1, status: Some(0) });
    witness.intervals[3].lost = (7, 2);
    witness.write(folder.path(), "node-a");
    let c = completeness(folder.path());
    assert_eq!(c["verdict"], "incomplete", "{c:#}");
    assert!(near(&c["devices"][0]["completeness"], 1.0 / 1.6), "{c:#}");
    let other = &c["processes"][0];
    assert_eq!(
        (&other["pid"], &other["metered"], &other["program"], &other["slurm_job"]),
        (&4001.into(), &false.into(), &"<miner>".into(), &"4711".into())
    );
    assert!(near(&other["share"], 0.6 / 1.6) && near(&other["busy_s"], 30.0), "{other:#}");
    assert_eq!((&other["launches"], &other["calls"]["cuInit"]), (&100.into(), &10.into()));
    let text = String::from_utf8(report(folder.path(), [""; 0]).stdout).expect("UTF-8");
    assert!(text.contains("unmetered: <miner> 4001 on node-a (user anna, Slurm job 4711, started by init 1), 2026-01-01"), "{text}");
    assert!(text.contains("37.5 % of the tensor time, kernels ran 30.00 s, 100 launches in "), "{text}");
    assert!(text.contains("- the witness saw more than was metered: 1 unmetered process(es) worked on it"), "{text}");
    assert!(text.contains("the witness lost 7 events of processes and 2 calls of the driver"), "{text}");
    // The page shows a name as text, whatever it is.
    let page = folder.path().join("report.html");
    assert!(report(folder.path(), ["--html", page.to_str().expect("UTF-8")]).status.success());
    let page = fs::read_to_string(page).expect("the page");
    assert!(page.contains("&lt;miner&gt; 4001 on node-a") && !page.contains("<miner>") && page.contains("62.50 %"));
}

/// What one of two nodes did is not known: the worst decides.
#[test]
fn a_node_without_a_witness_is_not_witnessed() {
    let folder = tempfile::tempdir().expect("a folder");
    for (host, rank) in [("node-a", 0), ("node-b", 1)] {
        Evidence::counted(host, rank, 2, 5).write(folder.path());
    }
    Witness::beside(&Evidence::counted("node-a", 0, 2, 5), 1.0, false).write(folder.path(), "node-a");
    let output = report(folder.path(), ["--json"]);
    let c: Value = serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["completeness"].clone();
    let verdicts: Vec<&str> = c["devices"].as_array().expect("devices").iter().filter_map(|d| d["verdict"].as_str()).collect();
    assert_eq!((&c["verdict"], verdicts), (&"not_witnessed".into(), vec!["complete", "not_witnessed"]), "{c:#}");
}

/// A witness that came late has not seen the beginning; one without probes and GPM has seen nothing that decides.
#[test]
fn half_a_witness_is_none() {
    let evidence = Evidence::counted("node-a", 0, 1, 10);
    let late = tempfile::tempdir().expect("a folder");
    evidence.write(late.path());
    let mut witness = Witness::beside(&evidence, 1.0, false);
    witness.intervals.drain(..5);
    witness.write(late.path(), "node-a");
    let c = completeness(late.path());
    assert_eq!((&c["verdict"], &c["why"]), (&"not_witnessed".into(), &"watched for 50.0 % of the metered time only".into()), "{c:#}");

    let blind = tempfile::tempdir().expect("a folder");
    evidence.write(blind.path());
    let mut witness = Witness::beside(&evidence, 1.0, false);
    witness.sources.ebpf = Source { on: false, why: "no probes".to_owned(), remedy: "be root".to_owned() };
    witness.intervals.iter_mut().flat_map(|i| &mut i.devices).for_each(|d| d.nvml.gpm_any_tensor_pct = None);
    witness.write(blind.path(), "node-a");
    let c = completeness(blind.path());
    assert_eq!((&c["verdict"], &c["missing"][0]), (&"not_witnessed".into(), &"no probes: be root".into()), "{c:#}");
    assert!(c["devices"][0]["completeness"].is_null() && c["devices"][0]["error"].is_null());
}
