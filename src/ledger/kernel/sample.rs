//! Samples of what kernels execute, and what they tell of all.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Key,
    spread::{Share, Spread},
};
use crate::{
    evidence::record::{Called, Kernel, Kernels, Kind, RollCall, Window},
    ledger::{arithmetic::Amount, track::Track},
};

/// What some of the launches executed.
pub(super) struct Sample<'a> {
    /// The middle of its time, ns.
    at_ns: u64,
    /// By path and row.
    flop: BTreeMap<&'a str, BTreeMap<Key, f64>>,
    /// FLOP of these that may be another row's of the same kernel and grid, and not so many or more.
    unsure: BTreeMap<&'a str, BTreeMap<Key, f64>>,
    /// Share of its launches of which nothing is known.
    unknown: f64,
    /// Whether it is of whole steps of the program, or of a time that has many of them.
    whole: bool,
}

impl<'a> Sample<'a> {
    pub(super) fn of_census(census: &'a Kernels, window: &Window) -> Self {
        let at_ns = middle(window.start_ns, window.end_ns);
        let mut sample = Self { at_ns, flop: BTreeMap::new(), unsure: BTreeMap::new(), unknown: 0.0, whole: census.step.is_some() };
        census.kernels.iter().for_each(|kernel| sample.add(kernel, 1.0));
        sample
    }

    pub(super) fn of_roll(call: &RollCall, track: &'a Track, variants: &Variants<'a>) -> Self {
        let at_ns = middle(call.start_ns, call.end_ns);
        let unknown = call.unknown as f64 / call.launches.max(1) as f64;
        let mut sample = Self { at_ns, flop: BTreeMap::new(), unsure: BTreeMap::new(), unknown, whole: true };
        // Launches heard whose census looked at a path.
        let (mut heard, mut looked): (u64, BTreeMap<&str, u64>) = (0, BTreeMap::new());
        for row in &call.rows {
            if let Some((census, window, kernel)) = called(track, row) {
                sample.add(kernel, row.launches as f64 / kernel.launches.max(1) as f64);
                if row.unsure {
                    sample.doubt(kernel, row.launches as f64, variants);
                }
                heard.grow(row.launches);
                looked_at(census, window).into_iter().for_each(|path| looked.entry(path).or_default().grow(row.launches));
            }
        }
        // Where more than a few were counted while the path was off, they would be taken for launches without operations, and the others be given theirs.
        sample.flop.retain(|path, _| {
            let off = heard.saturating_sub(looked.get(path).copied().unwrap_or(0));
            off.saturating_mul(100) <= heard
        });
        sample
    }

    /// Adds so many times what a row of a census executed.
    fn add(&mut self, kernel: &'a Kernel, times: f64) {
        for (path, flop) in &kernel.counts {
            *self.flop.entry(path).or_default().entry((kernel.kind, kernel.name.clone())).or_default() += *flop as f64 * times;
        }
    }

    /// Of so many launches it is not known which of the rows that are alike they are: all may be the same one.
    fn doubt(&mut self, kernel: &Kernel, launches: f64, variants: &Variants<'a>) {
        for (path, (least, most)) in variants.0.get(&alike(kernel)).into_iter().flatten() {
            let key = (kernel.kind, kernel.name.clone());
            *self.unsure.entry(path).or_default().entry(key).or_default() += launches * (most - least) / 2.0;
        }
    }

    pub(super) fn flop(&self, path: &str) -> f64 {
        self.flop.get(path).map_or(0.0, |rows| rows.values().sum())
    }
}

/// Kernel, grid and block.
type Alike<'a> = (Kind, &'a str, [u32; 3], [u32; 3]);

fn alike(kernel: &Kernel) -> Alike<'_> {
    (kernel.kind, &kernel.name, kernel.grid, kernel.block)
}

/// What launches that are alike executed at least and at most, by path: FLOP of one.
pub(super) struct Variants<'a>(BTreeMap<Alike<'a>, BTreeMap<&'a str, (f64, f64)>>);

impl<'a> Variants<'a> {
    pub(super) fn of(track: &'a Track) -> Self {
        let mut variants = Self(BTreeMap::new());
        if !track.rolls.iter().flat_map(|r| &r.rows).any(|r| r.unsure) {
            return variants;
        }
        for census in &track.censuses {
            let Some(window) = track.windows.iter().find(|w| Some(w.index) == census.window) else { continue };
            let paths = looked_at(census, window);
            for kernel in &census.kernels {
                let of = variants.0.entry(alike(kernel)).or_default();
                for path in &paths {
                    let flop = kernel.counts.get(*path).copied().unwrap_or(0) as f64 / kernel.launches.max(1) as f64;
                    let range = of.entry(path).or_insert((flop, flop));
                    *range = (range.0.min(flop), range.1.max(flop));
                }
            }
        }
        variants
    }
}

/// What samples tell of one path: each row's share of it.
pub(super) struct Told<'a> {
    path: &'a str,
    samples: &'a [&'a Sample<'a>],
    /// What each sample stands for: they add up to one.
    weights: Vec<f64>,
    /// By row and sample.
    shares: BTreeMap<Key, Vec<f64>>,
    /// The share of all that may be other rows'.
    doubt: f64,
}

impl<'a> Told<'a> {
    /// Of samples that all saw the path.
    pub(super) fn of(path: &'a str, samples: &'a [&'a Sample<'a>], windows: &[Window]) -> Self {
        let weights = weights(path, samples, windows);
        let mut shares: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
        for (i, sample) in samples.iter().enumerate() {
            let all = sample.flop(path);
            for (key, flop) in sample.flop.get(path).into_iter().flatten().filter(|(_, flop)| **flop > 0.0) {
                shares.entry(key.clone()).or_insert_with(|| vec![0.0; samples.len()])[i] += flop / all;
            }
        }
        let unsure = |s: &Sample| s.unsure.get(path).map_or(0.0, |rows| rows.values().sum::<f64>() / s.flop(path));
        let doubt = samples.iter().zip(&weights).map(|(s, w)| w * (s.unknown + unsure(s))).sum();
        Self { path, samples, weights, shares, doubt }
    }

    /// The rows, and their shares in the samples.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&Key, &Vec<f64>)> {
        self.shares.iter()
    }

    /// A row's share of all.
    pub(super) fn share(&self, shares: &[f64]) -> f64 {
        shares.iter().zip(&self.weights).map(|(s, w)| s * w).sum()
    }

    /// How far that may be off: by how the samples disagree, and by launches of which they do not know what they executed. Not known where samples are parts of steps: they may
    /// all be of the same part.
    pub(super) fn spread(&self, key: &Key, shares: &[f64]) -> Option<Spread> {
        let of = |(i, sample): (usize, &&Sample)| Share { share: shares[i], size: sample.flop(self.path), weight: self.weights[i] };
        let told: Vec<Share> = self.samples.iter().enumerate().map(of).collect();
        let spread = Spread::of(&told).filter(|_| self.samples.iter().all(|s| s.whole))?;
        let unsure = |s: &Sample| s.unsure.get(self.path).and_then(|rows| rows.get(key)).map_or(0.0, |flop| flop / s.flop(self.path));
        let own: f64 = self.samples.iter().zip(&self.weights).map(|(s, w)| w * unsure(s)).sum();
        Some(spread.plus(Spread::known(own.powi(2) + (self.share(shares) * self.doubt).powi(2))))
    }
}

/// What a row of a roll call is of: the census, the window that it was taken in, and its kernel.
pub(in crate::ledger) fn called<'a>(track: &'a Track, row: &Called) -> Option<(&'a Kernels, &'a Window, &'a Kernel)> {
    let census = track.censuses.iter().find(|c| c.window == Some(row.window))?;
    let window = track.windows.iter().find(|w| w.index == row.window)?;
    Some((census, window, census.kernels.get(row.row as usize)?))
}

/// The paths that were on in a census.
pub(in crate::ledger) fn looked_at<'a>(census: &'a Kernels, window: &'a Window) -> BTreeSet<&'a String> {
    window.counts.keys().chain(census.kernels.iter().flat_map(|k| k.counts.keys())).collect()
}

fn middle(start_ns: u64, end_ns: u64) -> u64 {
    start_ns / 2 + end_ns / 2
}

/// What each sample stands for: the path's operations in the windows nearest to it. They add up to one.
fn weights(path: &str, samples: &[&Sample], windows: &[Window]) -> Vec<f64> {
    let mut weights = vec![0.0; samples.len()];
    for window in windows {
        let at = middle(window.start_ns, window.end_ns);
        let nearest = samples.iter().enumerate().min_by_key(|(_, sample)| sample.at_ns.abs_diff(at)).map(|(i, _)| i);
        if let (Some(i), Some(flop)) = (nearest, window.counts.get(path)) {
            weights[i] += *flop as f64;
        }
    }
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| if sum > 0.0 { w / sum } else { 1.0 / samples.len() as f64 }).collect()
}
