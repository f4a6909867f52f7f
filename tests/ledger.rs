//! The ledger's arithmetic, whatever evidence it is given: the order of files changes nothing, more evidence never makes a total smaller, and whole numbers stay
//! whole to the last digit.

use std::{collections::BTreeMap, path::PathBuf};

use flopsprof::{
    evidence::{
        read::ProcessEvidence,
        record::{Boundary, Device, End, FORMAT, Fault, Line, NvmlReading, Plan, Record, Start, Tier, Window},
    },
    ledger::{self, FileTotal, Ledger, PathTotal, RunTotal, arithmetic::add_up, overhead::Overhead, span::Spans},
};
use proptest::prelude::*;

/// Stands in every group.
const ALWAYS: &str = "sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32";
/// Takes turns.
const TURNS: &str = "sm__ops_path_tensor_src_fp64";
const SECOND: u64 = 1_000_000_000;

/// A window: its length and the pause before it, what it counted, and whether the path that takes turns was on.
#[derive(Clone, Debug)]
struct Part {
    length_ns: u64,
    pause_ns: u64,
    flop: [u128; 2],
    turn: bool,
    gated: bool,
}

/// A process.
#[derive(Clone, Debug)]
struct Job {
    host: u8,
    gpu: u8,
    rank: u64,
    began_ns: u64,
    tokens: u64,
    energy_mj: u64,
    ended: bool,
    parts: Vec<Part>,
}

fn part() -> impl Strategy<Value = Part> {
    // Beyond what a float holds without rounding, on purpose.
    let flop = [0u128..1 << 90, 0u128..1 << 90];
    (1..60 * SECOND, 0..3 * SECOND, flop, any::<bool>(), any::<bool>()).prop_map(|(length_ns, pause_ns, flop, turn, gated)| Part {
        length_ns,
        pause_ns,
        flop,
        turn,
        gated,
    })
}

fn job() -> impl Strategy<Value = Job> {
    let place = (0u8..3, 0u8..3, 0u64..8, SECOND..1000 * SECOND);
    let said = (0u64..1 << 50, 0u64..1 << 40, any::<bool>());
    (place, said, prop::collection::vec(part(), 1..8)).prop_map(|((host, gpu, rank, began_ns), (tokens, energy_mj, ended), parts)| Job {
        host,
        gpu,
        rank,
        began_ns,
        tokens,
        energy_mj,
        ended,
        parts,
    })
}

impl Job {
    /// Its evidence; `number` makes it another process's.
    fn evidence(&self, number: usize) -> ProcessEvidence {
        let mut start = Start { format: FORMAT, simulated: true, unix_ns: 1_800_000_000 * SECOND + self.began_ns, ..Start::default() };
        (start.host.hostname, start.host.boot_id) = (format!("node-{}", self.host), format!("boot-{}", self.host));
        start.process.pid = u32::try_from(100 + number).expect("few");
        start.job = [("SLURM_JOB_ID", "7".to_owned()), ("RANK", self.rank.to_string()), ("WORLD_SIZE", "8".to_owned())]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        let device = Device {
            uuid: format!("GPU-{}-{}", self.host, self.gpu),
            max_sm_clock_mhz: 1980,
            sm_count: 132,
            peak_flop_per_cycle: [(ALWAYS.to_owned(), 540_672.0), (TURNS.to_owned(), 33_792.0)].into(),
            ..Device::default()
        };
        let groups = vec![vec![ALWAYS.to_owned(), TURNS.to_owned()], vec![ALWAYS.to_owned()]];
        let mut records = vec![
            (self.began_ns, Record::Start(Box::new(start.clone()))),
            (self.began_ns, Record::Device(Box::new(device))),
            (self.began_ns, Record::Plan(Plan { device: 0, groups, uncovered: Vec::new() })),
            (
                self.began_ns,
                Record::Fault(Fault { kind: format!("fault-{}", number % 3), device: None, what: "w".to_owned(), remedy: "r".to_owned() }),
            ),
        ];
        let mut at = self.began_ns;
        for (index, part) in (0..).zip(&self.parts) {
            let start_ns = at + part.pause_ns;
            at = start_ns + part.length_ns;
            let mut counts = BTreeMap::from([(ALWAYS.to_owned(), part.flop[0])]);
            if part.turn {
                counts.insert(TURNS.to_owned(), part.flop[1]);
            }
            let exposed_ns = if part.gated { 0 } else { part.pause_ns };
            let window = Window {
                device: 0,
                index,
                start_ns,
                end_ns: at,
                tier: Tier::Counted,
                why: String::new(),
                group: Some(usize::from(!part.turn)),
                counts,
                cycles: Some(part.length_ns * 2),
                opened: Boundary { gated: part.gated, exposed_ns, held: index, ..Boundary::default() },
                nvml: Some(NvmlReading { energy_mj: Some(self.energy_mj + at / 1000), ..NvmlReading::default() }),
                tokens: self.tokens,
                steps: index,
                ..Window::default()
            };
            records.push((at, Record::Window(Box::new(window))));
        }
        if self.ended {
            let end = End { reason: "exit".to_owned(), lines_lost: 1, tokens: self.tokens, steps: 3, meter_cpu_ns: 0 };
            records.push((at, Record::End(end)));
        }
        let lines: Vec<Line> = (0..).zip(records).map(|(seq, (at_ns, record))| Line { prev: String::new(), seq, at_ns, record }).collect();
        ProcessEvidence {
            path: PathBuf::from(format!("{number:03}.jsonl")),
            identity: number.to_string(),
            start,
            start_ns: self.began_ns,
            hashes: vec![String::new(); lines.len()],
            lines,
            breaks: Vec::new(),
            torn_tail: false,
            ended: self.ended,
        }
    }
}

fn add<'a>(files: impl IntoIterator<Item = &'a ProcessEvidence>) -> RunTotal {
    let mut ledger = Ledger::default();
    for file in files {
        ledger.add(FileTotal::of(file));
    }
    ledger.total()
}

/// Everything whole of some paths.
fn whole(paths: &ledger::Paths) -> Vec<(String, u128, u128, (u64, u64))> {
    paths.iter().map(|(name, p)| (name.clone(), p.counted, p.interpolated, p.looked_ns)).collect()
}

/// Everything whole of a run, in an order that does not depend on the order of the files.
fn of_run(run: &RunTotal) -> String {
    let nodes: Vec<_> = run.nodes.iter().map(|(host, paths)| (host, whole(paths))).collect();
    let devices: Vec<_> =
        run.devices.iter().map(|d| (&d.uuid, &d.host, whole(&d.paths), d.metered_ns, d.energy_mj, &d.processes)).collect();
    let mut processes: Vec<_> =
        run.processes.iter().map(|p| (p.pid, whole(&p.paths), p.metered_ns, p.held, p.ended, p.missing_ns())).collect();
    processes.sort();
    let mut faults: Vec<_> = run.faults.iter().map(|f| &f.kind).collect();
    faults.sort();
    let mut clocks = run.clocks.clone();
    clocks.sort();
    format!(
        "{:#?}",
        (
            (whole(&run.paths), nodes, devices, processes, faults, clocks),
            (run.wall_ns, run.began_unix_ns, run.ended_unix_ns, run.tokens, run.steps, run.lines_lost, run.slipped),
            (&run.runs, run.ranks_missing(), run.tier(), &run.never_looked),
        )
    )
}

fn near(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
        (None, None) => true,
        _ => false,
    }
}

fn total() -> impl Strategy<Value = PathTotal> {
    let sparse = prop::option::of(0u128..1 << 100);
    (0u128..1 << 100, 0u128..1 << 100, prop::option::of(0u32..1 << 20), 0u64..1 << 60, 0u64..1 << 60, sparse).prop_map(
        |(counted, interpolated, variance, on, off, sparse)| PathTotal {
            counted,
            interpolated,
            // Whole and small: its sums are exact too.
            variance: variance.map(f64::from),
            looked_ns: (on, on + off),
            sparse,
        },
    )
}

fn plus(a: &PathTotal, b: &PathTotal) -> PathTotal {
    let mut sum = a.clone();
    sum.add(b);
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Files in any order are the same run.
    #[test]
    fn the_order_of_files_changes_nothing(
        (files, order) in prop::collection::vec(job(), 1..8).prop_flat_map(|jobs| {
            let files: Vec<ProcessEvidence> = jobs.iter().enumerate().map(|(n, job)| job.evidence(n)).collect();
            let order = Just((0..files.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(files), order)
        }),
    ) {
        let (straight, shuffled) = (add(&files), add(order.iter().map(|i| &files[*i])));
        prop_assert_eq!(of_run(&straight), of_run(&shuffled));
        for (path, total) in &straight.paths {
            prop_assert!(near(total.variance, shuffled.paths[path].variance), "{}", path);
        }
    }

    /// Sums of sums: whichever are added first.
    #[test]
    fn adding_is_associative_and_commutative(a in total(), b in total(), c in total()) {
        prop_assert_eq!(plus(&plus(&a, &b), &c), plus(&a, &plus(&b, &c)));
        prop_assert_eq!(plus(&a, &b), plus(&b, &a));
    }

    /// The same of times and of what the meter cost.
    #[test]
    fn spans_and_overheads_add_up_in_any_order(
        parts in prop::collection::vec((0u64..1 << 50, 0u64..1 << 40, 0u64..1 << 40, 0u64..1 << 40), 3..12),
    ) {
        let spans = |parts: &[(u64, u64, u64, u64)]| {
            let mut spans = Spans::default();
            parts.iter().for_each(|(start, length, ..)| spans.add(*start, start + length));
            spans
        };
        let overhead = |parts: &[(u64, u64, u64, u64)]| {
            let mut sum = Overhead::default();
            for (life_ns, windows_ns, rotation_ns, census_ns) in parts.iter().copied() {
                sum.add(&Overhead { life_ns, windows_ns, rotation_ns, census_ns, allowed: 0.005, most: 0.25 });
            }
            sum
        };
        let turned: Vec<_> = parts.iter().rev().copied().collect();
        prop_assert_eq!(spans(&parts).merged(), spans(&turned).merged());
        prop_assert_eq!(overhead(&parts), overhead(&turned));
        let (left, right) = parts.split_at(parts.len() / 2);
        let mut grouped = spans(left).compact();
        grouped.add_shifted(&spans(right).compact(), 0);
        prop_assert_eq!(grouped.merged(), spans(&parts).merged());
        let mut grouped = overhead(left);
        grouped.add(&overhead(right));
        prop_assert_eq!(grouped, overhead(&parts));
    }

    /// One file more, or one line more of a file: no total is smaller for it.
    #[test]
    fn totals_never_shrink(jobs in prop::collection::vec(job(), 2..6), cut in 4usize..12) {
        let files: Vec<ProcessEvidence> = jobs.iter().enumerate().map(|(n, job)| job.evidence(n)).collect();
        let all = add(&files);
        let fewer = add(&files[..files.len() - 1]);
        let mut shorter = files.clone();
        let last = shorter.last_mut().expect("two at least");
        last.lines.truncate(cut);
        last.ended &= matches!(last.lines.last().map(|l| &l.record), Some(Record::End(_)));
        for less in [fewer, add(&shorter)] {
            for (path, total) in &less.paths {
                prop_assert!(all.paths[path].counted >= total.counted && all.paths[path].looked_ns >= total.looked_ns, "{}", path);
            }
            prop_assert!(all.tokens >= less.tokens && all.lines_lost >= less.lines_lost);
            for device in &less.devices {
                let now = all.devices.iter().find(|d| d.uuid == device.uuid).expect("a device does not go");
                prop_assert!(now.metered_ns >= device.metered_ns && now.processes.is_superset(&device.processes));
            }
        }
    }

    /// What is counted is the sum of the windows to the unit, far beyond what a float can tell apart; and everything adds up to the same.
    #[test]
    fn whole_numbers_do_not_drift(jobs in prop::collection::vec(job(), 1..8)) {
        let files: Vec<ProcessEvidence> = jobs.iter().enumerate().map(|(n, job)| job.evidence(n)).collect();
        let run = add(&files);
        let always: u128 = jobs.iter().flat_map(|j| &j.parts).map(|p| p.flop[0]).sum();
        let turns: u128 = jobs.iter().flat_map(|j| &j.parts).filter(|p| p.turn).map(|p| p.flop[1]).sum();
        prop_assert_eq!(run.paths[ALWAYS].counted, always);
        prop_assert_eq!(run.paths.get(TURNS).map_or(0, |p| p.counted), turns);
        let counted = |paths: &ledger::Paths| ledger::sum(paths).counted;
        let whole = counted(&run.paths);
        prop_assert_eq!(run.nodes.values().map(counted).sum::<u128>(), whole);
        prop_assert_eq!(run.devices.iter().map(|d| counted(&d.paths)).sum::<u128>(), whole);
        prop_assert_eq!(run.processes.iter().map(|p| counted(&p.paths)).sum::<u128>(), whole);
        prop_assert_eq!(run.kernels.total(), ledger::sum(&run.paths).total());
    }
}

/// What no GPU counts stops at the largest number instead of beginning again at nothing.
#[test]
fn sums_that_do_not_fit_stop() {
    assert_eq!(add_up([u128::MAX, 5]), u128::MAX);
    assert_eq!(add_up([u64::MAX - 1, 1]), u64::MAX);
    let part = Part { length_ns: SECOND, pause_ns: 0, flop: [u128::MAX / 2 + 7, 3], turn: true, gated: true };
    let job = Job { host: 0, gpu: 0, rank: 0, began_ns: SECOND, tokens: u64::MAX, energy_mj: 0, ended: true, parts: vec![part; 3] };
    let run = add(&[job.evidence(0), job.evidence(1)]);
    assert_eq!((run.paths[ALWAYS].counted, run.paths[TURNS].counted, run.tokens), (u128::MAX, 18, u64::MAX));
}
