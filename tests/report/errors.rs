//! The standard errors of the kernels' table: of runs whose steps differ in length, the truth is within twice the error about as often as it should be.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use flopsprof::{
    evidence::{
        read::read_run,
        record::{Called, Kernel, Kernels, Kind, RollCall, Tier, Window},
    },
    ledger::{
        PathTotal,
        kernel::KernelTotals,
        track::{Track, tracks},
    },
};
use serde_json::Value;

use crate::report;

const PATH: &str = "p";
/// Lengths of the steps, tokens.
const LENGTHS: u64 = 32;
/// Windows of a run, and steps in each.
const WINDOWS: u64 = 100;
const STEPS: u64 = 30;

/// A sequence of numbers: the same in every run of the test (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// FLOP by kernel of a step whose length is the n-th: products, attention, what does not depend on it, and a product that long steps do with another kernel.
fn step(n: u64) -> [(&'static str, u128); 4] {
    let length = u128::from(512 + 64 * n);
    let other = if length > 1500 { "long" } else { "short" };
    [("product", 40_000 * length), ("attention", 10 * length * length), ("head", 10_000_000), (other, 30_000 * length)]
}

/// A run with a burst of so many steps, or a roll call of them, at so many random times, and what its kernels executed.
fn run(random: &mut Random, bursts: u64, steps: u64, roll: bool) -> (Track, BTreeMap<String, u128>) {
    let (mut track, mut truth) = (Track::default(), BTreeMap::new());
    let mut execute = |lengths: &[u64]| -> u128 {
        let all = lengths.iter().flat_map(|n| step(*n));
        all.map(|(name, flop)| {
            *truth.entry(name.to_owned()).or_default() += flop;
            flop
        })
        .sum()
    };
    let window = |track: &mut Track, start_ns: u64, ns: u64, flop: u128| {
        let index = track.windows.len() as u64;
        let counts = BTreeMap::from([(PATH.to_owned(), flop)]);
        track.windows.push(Window { index, start_ns, end_ns: start_ns + ns, tier: Tier::Counted, counts, ..Window::default() });
        index
    };
    let kernel = |(name, flop): (&str, u128), launches: u64| Kernel {
        kind: Kind::Kernel,
        name: name.to_owned(),
        launches,
        counts: BTreeMap::from([(PATH.to_owned(), flop * u128::from(launches))]),
        ..Kernel::default()
    };
    let census = |index: u64, lengths: &[u64]| Kernels {
        window: Some(index),
        step: Some(4),
        kernels: lengths.iter().flat_map(|n| step(*n)).map(|k| kernel(k, 1)).collect(),
        ..Kernels::default()
    };
    let lengths = |random: &mut Random, n: u64| (0..n).map(|_| random.below(LENGTHS)).collect::<Vec<u64>>();
    let mut at: Vec<u64> = Vec::new();
    while (at.len() as u64) < bursts {
        let one = random.below(WINDOWS);
        if !at.contains(&one) {
            at.push(one);
        }
    }
    if roll {
        // Every length was counted once.
        let all: Vec<u64> = (0..LENGTHS).collect();
        let flop = execute(&all);
        let index = window(&mut track, 0, 1, flop);
        track.censuses.push(census(index, &all));
    }
    for i in 0..WINDOWS {
        let (start_ns, all) = (10 + i * 1_000_000, lengths(random, STEPS));
        let flop = execute(&all);
        window(&mut track, start_ns, 500_000, flop);
        if !at.contains(&i) {
            continue;
        }
        let some = lengths(random, steps);
        if roll {
            let mut heard: BTreeMap<u32, u64> = BTreeMap::new();
            for n in &some {
                (0..4).for_each(|k| *heard.entry(u32::try_from(4 * n + k).expect("few")).or_default() += 1);
            }
            let rows = heard.into_iter().map(|(row, launches)| Called { window: 0, row, launches, unsure: false }).collect();
            track.rolls.push(RollCall { start_ns, end_ns: start_ns + 500_000, launches: 4 * steps, rows, ..RollCall::default() });
        } else {
            let flop = execute(&some);
            let index = window(&mut track, start_ns + 700_000, 1000, flop);
            track.censuses.push(census(index, &some));
        }
    }
    (track, truth)
}

/// How often the truth was within twice the error, by kernel; and how large the error was beside the deviation.
fn covered(bursts: u64, steps: u64, roll: bool) -> BTreeMap<String, f64> {
    const RUNS: u64 = 300;
    let (mut within, mut told): (BTreeMap<String, f64>, BTreeMap<String, f64>) = Default::default();
    for seed in 0..RUNS {
        let (track, truth) = run(&mut Random(seed * 7919), bursts, steps, roll);
        let counted = truth.values().sum();
        let total = PathTotal { counted, variance: Some(0.0), looked_ns: (1, 1), ..PathTotal::default() };
        let kernels = KernelTotals::of(&track, &[(PATH.to_owned(), total)].into());
        assert_eq!(kernels.total(), counted);
        for ((_, name), row) in &kernels.rows {
            let error = row.standard_error().expect("there are several bursts");
            let off = (row.total() as f64 - truth[name] as f64).abs();
            *within.entry(name.clone()).or_default() += f64::from(u8::from(off <= 2.0 * error));
            *told.entry(name.clone()).or_default() += 1.0;
        }
    }
    told.into_iter().map(|(name, n)| (name.clone(), within[&name] / n)).collect()
}

/// Steps of 32 lengths, bursts of a step or of some, and roll calls: in 95 of 100 runs, if the shares of steps were normal. They are not, and of very few steps a kernel that only long
/// ones launch may be in all of a run's bursts or in none: that no estimate from the bursts can know.
#[test]
fn the_truth_is_within_twice_the_error_as_often_as_is_promised() {
    for (bursts, steps, roll, least) in [
        (2, 1, false, 0.88),
        (3, 1, false, 0.88),
        (5, 1, false, 0.89),
        (12, 1, false, 0.93),
        (40, 1, false, 0.95),
        (20, 3, false, 0.94),
        (4, 20, true, 0.94),
    ] {
        let covered = covered(bursts, steps, roll);
        for (name, share) in &covered {
            let few = bursts < 5 && steps == 1 && ["long", "short"].contains(&name.as_str());
            assert!(few || *share >= least, "{bursts} bursts of {steps}: {covered:?}");
        }
    }
}

/// Were the errors wide enough for anything they would be of no use: with more steps they become smaller as they should.
#[test]
fn errors_shrink_with_the_steps_that_were_sampled() {
    let error = |bursts, steps, roll| {
        let mut all: Vec<f64> = (0..100)
            .map(|seed| {
                let (track, truth) = run(&mut Random(seed * 104_729), bursts, steps, roll);
                let total = PathTotal { counted: truth.values().sum(), variance: Some(0.0), looked_ns: (1, 1), ..PathTotal::default() };
                let kernels = KernelTotals::of(&track, &[(PATH.to_owned(), total)].into());
                kernels.rows[&(Kind::Kernel, "attention".to_owned())].standard_error().expect("several") / truth["attention"] as f64
            })
            .collect();
        all.sort_by(f64::total_cmp);
        all[50]
    };
    let (few, many, heard) = (error(5, 1, false), error(20, 5, false), error(8, 200, true));
    assert!(few > 3.0 * many && many > 2.0 * heard && heard < 0.015, "{few} {many} {heard}");
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/evidence/2026-11-25-h100-lengths")
}

/// What one round of the recorded training executes by kernel: it is of eight lengths, each once, and so each launch that differs from the others comes a whole number of times. That number is
/// what roll calls of thousands of steps say, rounded.
fn a_round() -> BTreeMap<String, f64> {
    let files = read_run(&recorded()).expect("evidence");
    let track = tracks(&files[0]).remove(0);
    let (mut launches, mut steps): (BTreeMap<_, f64>, f64) = (BTreeMap::new(), 0.0);
    // The first was of a time in which not all lengths had been counted.
    for row in track.rolls.iter().filter(|r| r.unknown == 0).flat_map(|r| &r.rows) {
        let census = track.censuses.iter().find(|c| c.window == Some(row.window)).expect("a census");
        let kernel = &census.kernels[row.row as usize];
        let flop = kernel.counts.values().sum::<u128>() / u128::from(kernel.launches);
        *launches.entry((kernel.name.clone(), kernel.grid, kernel.block, flop)).or_default() += row.launches as f64;
        // Each of the four layers has one, in every step.
        steps += if kernel.name.contains("flash_bprop_wgmma") { row.launches as f64 / 4.0 } else { 0.0 };
    }
    let mut round: BTreeMap<String, f64> = BTreeMap::new();
    for ((name, _, _, flop), n) in launches.into_iter().filter(|((.., flop), _)| *flop > 0) {
        let times = n / (steps / 8.0);
        assert!((times - times.round()).abs() < 0.25 && times > 0.5, "{name}: {flop} FLOP {times} times a round");
        *round.entry(name).or_default() += times.round() * flop as f64;
    }
    round
}

/// A training of three minutes at eight lengths, metered on an H100: each kernel's share of it, as the table tells it, against what it must have been.
#[test]
fn a_recorded_training_of_many_lengths_is_within_its_errors() {
    let output = report(&recorded(), ["--kernels=1000", "--json"]);
    let table: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let total = table["total"].as_str().and_then(|t| t.parse::<f64>().ok()).expect("a total");
    let round = a_round();
    let all: f64 = round.values().sum();
    let rows = table["kernels"].as_array().expect("rows").iter().filter(|k| k["flop"] != "0");
    let mut off = Vec::new();
    for row in rows {
        let share = row["share"].as_f64().expect("a share");
        let error = row["standard_error"].as_f64().expect("an error") / total;
        let truth = round.get(row["symbol"].as_str().expect("a name")).copied().unwrap_or(0.0) / all;
        off.push(((share - truth) / error, share, truth, error / share));
    }
    let within = |sigmas: f64| off.iter().filter(|o| o.0.abs() <= sigmas).count() as f64 / off.len() as f64;
    assert!(off.len() > 15 && within(2.0) >= 0.9 && within(3.0) >= 0.95, "{off:#?}");
    // And they are no excuse: of the ten largest the worst is within half a per cent.
    assert!(off.iter().take(10).all(|o| (o.1 / o.2 - 1.0).abs() < 0.005 && o.3 < 0.01), "{off:#?}");
}
