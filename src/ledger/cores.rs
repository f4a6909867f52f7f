//! What the CUDA cores executed, beside the tensor cores: a sample, never part of a total of counted operations.
//!
//! Their counters are patched into the program's code and make it many times slower, so they are on for a census's length now and then. In each of these
//! the tensor operations of the same launches are known from a census; the ratio of the two, over all of them together, times what the tensor cores executed in the whole run
//! is the estimate. Its error is that of a ratio, from one burst to the next, and that of the tensor operations. It is not known with one burst, nor where they are not of
//! whole steps: a burst begins where the program pauses, so at the same place in a step, and parts that all begin there agree with each other and not with the whole. There, and where
//! the tensor operations of a burst are not known (steps of many lengths), the ratio is that of roll calls, if there are any: what a launch of each kernel executed in the bursts, times
//! how often it came. A burst knows only the paths of the group of
//! counters that was on in its census: what it knows of them stands for the others by their shares of the run. A run without tensor operations has no such measure: then only what was
//! seen is told.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    PathTotal, Paths,
    arithmetic::{Amount, add_up},
    kernel::{KernelTotals, called, looked_at},
    sum,
    track::Track,
};
use crate::{
    counter::plan::CORES,
    evidence::record::{Kernel, Kernels, Window},
};

/// Formats of the CUDA cores.
const FORMATS: [&str; 3] = ["fp32", "fp16", "fp64"];

/// One burst: FLOP by format, and the tensor operations of the same launches; none where these are not known.
type Burst = (BTreeMap<&'static str, u128>, Option<f64>);

/// What the CUDA cores executed.
#[derive(Clone, Debug, Default)]
pub struct Cores {
    /// Bursts.
    pub bursts: u64,
    /// Launches in them.
    pub launches: u64,
    /// FLOP by format (`fp32`, `fp16`, `fp64`) in the bursts.
    pub seen: BTreeMap<&'static str, u128>,
    /// FLOP of the whole run by format, by the ratio to its tensor operations: the estimate and its variance, FLOP²; none where that is not known.
    pub total: BTreeMap<&'static str, (f64, Option<f64>)>,
    /// Devices in processes that executed tensor operations and have no such sample: they are missing in `total`.
    pub missing: u64,
    /// Why there is no burst, or none that was all well: how often.
    pub why: BTreeMap<String, u64>,
}

/// FLOP by format of counts by CUDA-core counter.
pub fn by_format(counts: &BTreeMap<String, u128>) -> BTreeMap<&'static str, u128> {
    let mut flop = BTreeMap::new();
    for (metric, format) in CORES {
        if let Some(n) = counts.get(metric) {
            flop.entry(format).or_insert(0u128).grow(*n);
        }
    }
    flop
}

impl Cores {
    /// Of one device in one process, whose paths are these.
    #[must_use]
    pub fn of(track: &Track, paths: &Paths) -> Self {
        let mut cores = Self::default();
        let (mut bursts, mut whole): (Vec<Burst>, bool) = (Vec::new(), true);
        for burst in &track.cores {
            if !burst.why.is_empty() {
                *cores.why.entry(burst.why.clone()).or_default() += 1;
            }
            if burst.kernels.is_empty() {
                continue;
            }
            cores.bursts += 1;
            cores.launches.grow(burst.launches);
            let flop = formats(burst);
            add(&mut cores.seen, &flop);
            let tensor = tensor(track, burst, paths);
            whole &= burst.step.is_some() || tensor.is_none();
            bursts.push((flop, tensor));
        }
        let total = sum(paths);
        let executed = total.total() as f64;
        let known: Vec<(BTreeMap<&'static str, u128>, f64)> =
            bursts.into_iter().filter_map(|(flop, tensor)| Some((flop, tensor.filter(|t| *t > 0.0)?))).collect();
        let heard = if known.is_empty() || !whole { by_roll_calls(track, paths) } else { None };
        if let Some(ratios) = heard {
            cores.total = ratios.into_iter().map(|(format, ratio)| (format, (ratio * executed, None))).collect();
            return cores;
        }
        if known.is_empty() {
            cores.missing = u64::from(executed > 0.0);
            return cores;
        }
        let n = known.len() as f64;
        let all: f64 = known.iter().map(|(_, t)| t).sum();
        for format in FORMATS {
            let flop = |burst: &BTreeMap<&'static str, u128>| burst.get(format).copied().unwrap_or(0) as f64;
            let ratio = known.iter().map(|(f, _)| flop(f)).sum::<f64>() / all;
            let squares: f64 = known.iter().map(|(f, t)| (flop(f) - ratio * t).powi(2)).sum();
            let of_bursts = (n > 1.0 && whole).then(|| squares * n / (n - 1.0) * (executed / all).powi(2));
            let variance = of_bursts.zip(total.variance).map(|(a, b)| a + b * ratio.powi(2));
            cores.total.insert(format, (ratio * executed, variance));
        }
        cores
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.bursts.grow(other.bursts);
        self.launches.grow(other.launches);
        self.missing.grow(other.missing);
        add(&mut self.seen, &other.seen);
        for (format, (flop, variance)) in &other.total {
            let mine = self.total.entry(format).or_insert((0.0, Some(0.0)));
            *mine = (mine.0 + flop, mine.1.zip(*variance).map(|(a, b)| a + b));
        }
        other.why.iter().for_each(|(why, n)| *self.why.entry(why.clone()).or_default() += n);
    }
}

/// Puts what each kernel's launches executed on the CUDA cores beside the rest that is known of it.
pub(super) fn see(kernels: &mut KernelTotals, track: &Track) {
    for kernel in track.cores.iter().flat_map(|c| &c.kernels) {
        let row = kernels.rows.entry((kernel.kind, kernel.name.clone())).or_default();
        row.cores.0.grow(kernel.launches);
        add(&mut row.cores.1, &by_format(&kernel.counts));
    }
}

fn formats(burst: &Kernels) -> BTreeMap<&'static str, u128> {
    let mut flop = BTreeMap::new();
    burst.kernels.iter().for_each(|k| add(&mut flop, &by_format(&k.counts)));
    flop
}

/// What the launches of a burst executed on the tensor cores, all paths together; none where that is not known.
fn tensor(track: &Track, burst: &Kernels, paths: &Paths) -> Option<f64> {
    let window = track.windows.iter().find(|w| Some(w.index) == burst.window).filter(|w| !w.counts.is_empty())?;
    // Its operations are those of a census, of the paths that were on in that.
    let of_census = |w: &&Window| w.index < window.index && track.censuses.iter().any(|c| c.window == Some(w.index));
    let census = track.windows.iter().filter(of_census).max_by_key(|w| w.index);
    let on: BTreeSet<&String> = [Some(window), census].into_iter().flatten().flat_map(|w| w.counts.keys()).collect();
    all_paths(add_up(window.counts.values().copied()) as f64, &on, paths)
}

/// Operations of all paths, of those of the paths that were on: the others have their shares of the run.
fn all_paths(flop: f64, on: &BTreeSet<&String>, paths: &Paths) -> Option<f64> {
    let all = add_up(paths.values().map(PathTotal::total)) as f64;
    let of_on = add_up(paths.iter().filter(|(path, _)| on.contains(path)).map(|(_, t)| t.total())) as f64;
    (of_on > 0.0).then(|| flop * (all / of_on))
}

/// What the CUDA cores executed for each operation of the tensor cores, by the launches that were heard; none if they do not tell.
fn by_roll_calls(track: &Track, paths: &Paths) -> Option<BTreeMap<&'static str, f64>> {
    let blocks = |kernel: &Kernel| kernel.launches as f64 * kernel.grid.iter().map(|n| f64::from(*n).max(1.0)).product::<f64>();
    // By kernel, grid and block: FLOP and launches; and by kernel alone: FLOP and blocks, for grids that no burst saw.
    let (mut alike, mut named): (BTreeMap<_, Executed>, BTreeMap<_, Executed>) = Default::default();
    for kernel in track.cores.iter().flat_map(|burst| &burst.kernels) {
        let flop = by_format(&kernel.counts);
        alike.entry((kernel.kind, &kernel.name, kernel.grid, kernel.block)).or_default().add(&flop, kernel.launches as f64);
        named.entry((kernel.kind, &kernel.name)).or_default().add(&flop, blocks(kernel));
    }
    let (mut heard, mut known, mut cores) = (0.0, 0.0, Executed::default());
    let (mut looked, mut tensor): (BTreeMap<&String, f64>, BTreeMap<&String, f64>) = Default::default();
    for row in track.rolls.iter().flat_map(|call| &call.rows) {
        let Some((census, window, kernel)) = called(track, row).filter(|(_, _, k)| k.launches > 0) else { continue };
        let times = row.launches as f64 / kernel.launches as f64;
        heard += row.launches as f64;
        for path in looked_at(census, window) {
            *looked.entry(path).or_default() += row.launches as f64;
            *tensor.entry(path).or_default() += times * kernel.counts.get(path).copied().unwrap_or(0) as f64;
        }
        let executed = match alike.get(&(kernel.kind, &kernel.name, kernel.grid, kernel.block)) {
            Some(executed) => Some((executed, row.launches as f64)),
            None => named.get(&(kernel.kind, &kernel.name)).map(|executed| (executed, times * blocks(kernel))),
        };
        if let Some((executed, n)) = executed.filter(|(executed, _)| executed.of > 0.0) {
            known += row.launches as f64;
            executed.flop.iter().for_each(|(format, flop)| *cores.flop.entry(format).or_default() += flop / executed.of * n);
        }
    }
    // A kernel that no burst saw would be taken for one that executes nothing.
    if heard == 0.0 || known < 0.99 * heard {
        return None;
    }
    let on: BTreeSet<&String> = looked.into_iter().filter(|(_, n)| *n >= 0.99 * heard).map(|(path, _)| path).collect();
    let tensor = all_paths(tensor.iter().filter(|(path, _)| on.contains(*path)).map(|(_, flop)| flop).sum(), &on, paths)?;
    (tensor > 0.0).then(|| FORMATS.map(|format| (format, cores.flop.get(format).copied().unwrap_or(0.0) / tensor)).into())
}

/// FLOP by format of so many launches, or blocks.
#[derive(Default)]
struct Executed {
    flop: BTreeMap<&'static str, f64>,
    of: f64,
}

impl Executed {
    fn add(&mut self, flop: &BTreeMap<&'static str, u128>, of: f64) {
        flop.iter().for_each(|(format, n)| *self.flop.entry(format).or_default() += *n as f64);
        self.of += of;
    }
}

fn add(into: &mut BTreeMap<&'static str, u128>, from: &BTreeMap<&'static str, u128>) {
    for (format, n) in from {
        into.entry(format).or_default().grow(*n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::record::{Called, RollCall, Tier};

    fn track(bursts: &[(u128, u128)]) -> Track {
        let mut track = Track::default();
        for (i, (core, tensor)) in bursts.iter().enumerate() {
            let index = i as u64;
            track.windows.push(Window { index, tier: Tier::Sampled, counts: [("p".to_owned(), *tensor)].into(), ..Window::default() });
            let counts = [(CORES[0].0.to_owned(), *core), (CORES[1].0.to_owned(), *core / 2)].into();
            track.cores.push(Kernels {
                cores: true,
                step: Some(1),
                window: Some(index),
                kernels: vec![Kernel { counts, launches: 1, ..Kernel::default() }],
                ..Kernels::default()
            });
        }
        track
    }

    fn paths(flop: u128) -> Paths {
        [("p".to_owned(), PathTotal { counted: flop, variance: Some(0.0), ..PathTotal::default() })].into()
    }

    /// 100 thread instructions, 50 of them FMA, are 150 FLOP.
    #[test]
    fn the_ratio_to_the_tensor_operations_is_scaled_to_the_run() {
        let one = Cores::of(&track(&[(100, 1000)]), &paths(1_000_000));
        assert_eq!(one.total["fp32"], (150_000.0, None));
        assert_eq!(one.seen, [("fp32", 150)].into());
        let two = Cores::of(&track(&[(100, 1000), (200, 2000)]), &paths(1_000_000));
        assert_eq!(two.total["fp32"], (150_000.0, Some(0.0)));
        let differ = Cores::of(&track(&[(100, 1000), (100, 2000)]), &paths(1_000_000));
        assert_eq!(differ.total["fp32"].0, 100_000.0);
        // Off by 50 each, twice: 1e6 / 3000 * sqrt(2 * (50² + 50²)).
        assert!((differ.total["fp32"].1.unwrap().sqrt() - 33_333.333).abs() < 0.01, "{differ:?}");
        // Parts of steps may all be the same part.
        let mut parts = track(&[(100, 1000), (200, 2000)]);
        parts.cores[1].step = None;
        assert_eq!(Cores::of(&parts, &paths(1_000_000)).total["fp32"], (150_000.0, None));
    }

    /// The error of the total is in that of what is scaled to it.
    #[test]
    fn the_tensor_operations_own_error_counts_too() {
        let mut paths = paths(1_000_000);
        paths.get_mut("p").unwrap().variance = Some(1e8);
        let cores = Cores::of(&track(&[(100, 1000), (200, 2000)]), &paths);
        assert!((cores.total["fp32"].1.unwrap().sqrt() - 0.15 * 1e4).abs() < 1e-6, "{cores:?}");
        paths.get_mut("p").unwrap().variance = None;
        assert_eq!(Cores::of(&track(&[(100, 1000), (200, 2000)]), &paths).total["fp32"].1, None);
    }

    /// Of two paths that take turns a burst knows one: a quarter of the run's operations, so of the burst's too.
    #[test]
    fn a_path_that_was_off_stands_in_by_its_share() {
        let mut track = track(&[(100, 1000)]);
        let mut paths = paths(1_000_000);
        paths.insert("q".to_owned(), PathTotal { counted: 3_000_000, variance: Some(0.0), ..PathTotal::default() });
        assert_eq!(Cores::of(&track, &paths).total["fp32"], (150_000.0, None));
        // Both were on in the census before it, and the launches executed nothing of the second.
        track.windows[0].index = 1;
        track.cores[0].window = Some(1);
        let counts = ["p", "q"].map(|p| (p.to_owned(), 0)).into();
        track.windows.insert(0, Window { index: 0, counts, ..Window::default() });
        track.censuses.push(Kernels { window: Some(0), ..Kernels::default() });
        assert_eq!(Cores::of(&track, &paths).total["fp32"], (600_000.0, None));
    }

    /// Of bursts whose tensor operations are not known, each kernel's are taken as often as a roll call heard it; one of another grid by its blocks.
    #[test]
    fn roll_calls_say_how_often_what_bursts_saw_came() {
        let mut track = track(&[]);
        let kernel = |name: &str, blocks, path: &str, flop| Kernel {
            name: name.to_owned(),
            grid: [blocks, 1, 1],
            launches: 2,
            counts: [(path.to_owned(), flop)].into(),
            ..Kernel::default()
        };
        track.windows.push(Window { counts: [("p".to_owned(), 2000)].into(), ..Window::default() });
        track.windows.push(Window { index: 1, tier: Tier::Utilization, ..Window::default() });
        let kernels = vec![kernel("product", 1, "p", 2000), kernel("sum", 4, "p", 0), kernel("sum", 8, "p", 0)];
        track.censuses.push(Kernels { window: Some(0), kernels, ..Kernels::default() });
        // 50 FLOP a launch, none in the product.
        let kernels = vec![kernel("product", 1, CORES[0].0, 0), kernel("sum", 4, CORES[0].0, 100)];
        track.cores.push(Kernels { cores: true, window: Some(1), kernels, ..Kernels::default() });
        let called = |row, launches| Called { window: 0, row, launches, unsure: false };
        track.rolls.push(RollCall { rows: vec![called(0, 10), called(1, 20), called(2, 30)], ..RollCall::default() });
        // 20 of 50 and 30 of 100, for 10 products of 1000; the run has a hundred times these.
        let cores = Cores::of(&track, &paths(1_000_000));
        assert_eq!((cores.total["fp32"], cores.missing), ((400_000.0, None), 0));
        // A kernel that no burst saw is not one that executes nothing.
        track.cores[0].kernels.remove(1);
        let cores = Cores::of(&track, &paths(1_000_000));
        assert!(cores.total.is_empty() && cores.missing == 1, "{cores:?}");
    }

    #[test]
    fn without_tensor_operations_nothing_is_scaled() {
        let none = Cores::of(&track(&[(100, 0)]), &paths(0));
        assert!(none.total.is_empty() && none.seen["fp32"] == 150 && none.missing == 0);
        assert_eq!(Cores::of(&track(&[]), &paths(7)).missing, 1);
    }
}
