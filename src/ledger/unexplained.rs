//! Kernels that may have executed what nobody looked at.
//!
//! By its name a kernel makes products, and in each census that saw it, it executed nothing on the paths that were on. It may have multiplied on the CUDA cores, or on a path that was off. By the meter's own
//! rules ([`crate::window::look`]) that is settled when the paths that were off had a look after the census that must have met the kernel, or when one of them is known to be in use: then
//! its operations are counted or interpolated. Else what those paths executed is not known.

use std::collections::{BTreeMap, BTreeSet};

use super::{Paths, arithmetic::Amount, kernel::looked_at, track::Track};
use crate::{
    counter::plan::Plan,
    evidence::record::{Kernels, Tier, Window},
    window::look::{self, Need},
};

/// Such kernels, and the paths that they may have used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unexplained {
    /// By symbol: the part of the kernels' time that was theirs in a census, the largest; none where that was not counted.
    pub kernels: BTreeMap<String, Option<f64>>,
    /// Path metrics.
    pub paths: BTreeSet<String>,
}

/// What censuses say of a kernel that executed nothing in them.
struct Seen<'a> {
    need: Need,
    /// When the first of them ended.
    since_ns: u64,
    part: Option<f64>,
    /// Paths that were on in any of them.
    on: BTreeSet<&'a String>,
}

impl Unexplained {
    /// Whether everything is explained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kernels.is_empty()
    }

    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        for (kernel, part) in other.kernels {
            let ours = self.kernels.entry(kernel).or_default();
            *ours = [*ours, part].into_iter().flatten().reduce(f64::max);
        }
        self.paths.extend(other.paths);
    }

    /// Those of one device in one process, whose paths executed `paths`.
    #[must_use]
    pub fn of(track: &Track, paths: &Paths) -> Self {
        let plan = Plan { groups: track.plan.groups.clone(), uncovered: Vec::new() };
        let always = plan.always();
        let mut found = Self::default();
        for (kernel, seen) in idle(track, &always) {
            let off: BTreeSet<&String> = plan.groups.iter().flatten().filter(|path| !seen.on.contains(path)).collect();
            if off.iter().any(|path| paths.get(*path).is_some_and(|t| t.total() > 0)) {
                continue;
            }
            let doubtful: Vec<String> = off.into_iter().filter(|path| !met(track, path, &always, &seen)).cloned().collect();
            if !doubtful.is_empty() {
                found.kernels.insert(kernel.to_owned(), seen.part);
                found.paths.extend(doubtful);
            }
        }
        found
    }
}

/// Kernels that executed nothing in any census, although their names say that they make products.
fn idle<'a>(track: &'a Track, always: &BTreeSet<&str>) -> BTreeMap<&'a str, Seen<'a>> {
    let taken: Vec<(&Kernels, &Window)> = track.censuses.iter().filter_map(|c| Some((c, window(track, c)?))).collect();
    let mut idle: BTreeMap<&str, Seen> = BTreeMap::new();
    for (census, window) in &taken {
        for (kernel, part) in look::unexplained(&census.kernels) {
            let seen = idle.entry(kernel).or_insert_with(|| Seen {
                need: Need::of(executed(window, always), &census.kernels),
                since_ns: window.end_ns,
                part,
                on: BTreeSet::new(),
            });
            seen.part = [seen.part, part].into_iter().flatten().reduce(f64::max);
            seen.on.extend(looked_at(census, window));
        }
    }
    for kernel in taken.iter().flat_map(|(census, _)| &census.kernels).filter(|k| look::executes(k)) {
        idle.remove(kernel.name.as_str());
    }
    idle
}

/// The window of a census that counted.
fn window<'a>(track: &'a Track, census: &Kernels) -> Option<&'a Window> {
    track.windows.iter().find(|w| Some(w.index) == census.window && w.tier == Tier::Counted)
}

/// FLOP of what stands in every group.
fn executed(window: &Window, always: &BTreeSet<&str>) -> u128 {
    window.counts.iter().filter(|(path, _)| always.contains(path.as_str())).fold(0, |sum, (_, n)| sum.plus(*n))
}

/// Whether a path was looked at for long enough after the first census.
fn met(track: &Track, path: &str, always: &BTreeSet<&str>, seen: &Seen) -> bool {
    let on = |w: &&Window| w.tier == Tier::Counted && w.start_ns >= seen.since_ns && w.counts.contains_key(path);
    let (work, ns) = track
        .windows
        .iter()
        .filter(on)
        .fold((0u128, 0u64), |(work, ns), w| (work.plus(executed(w, always)), ns.plus(w.end_ns.saturating_sub(w.start_ns))));
    seen.need.met(work, std::time::Duration::from_nanos(ns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evidence::record::{self, Kernel},
        ledger::PathTotal,
    };

    /// Two groups, `a` and `b`, of which the first was on in a census at second 1; a window of the other follows in which so much was executed.
    fn track(names: &[(&str, u128)], follows: Option<u128>) -> Track {
        let window = |index: u64, turn: &str, work: u128| Window {
            index,
            start_ns: index * 1_000_000_000,
            end_ns: (index + 1) * 1_000_000_000,
            counts: [("always".to_owned(), work), (turn.to_owned(), 0)].into(),
            ..Window::default()
        };
        let kernel = |(name, flop): &(&str, u128)| Kernel {
            name: (*name).to_owned(),
            launches: 1,
            counts: [("always".to_owned(), *flop)].into(),
            durations_ns: vec![1000],
            ..Kernel::default()
        };
        let kernels = names.iter().map(kernel).collect();
        let groups = ["a", "b"].map(|turn| vec!["always".to_owned(), turn.to_owned()]).into();
        Track {
            plan: record::Plan { groups, ..record::Plan::default() },
            // The survey saw much of the other group, before the kernel was seen.
            windows: [window(0, "b", 1 << 40), window(1, "a", 100)].into_iter().chain(follows.map(|n| window(2, "b", n))).collect(),
            censuses: vec![Kernels { window: Some(1), kernels, ..Kernels::default() }],
            ..Track::default()
        }
    }

    fn of(names: &[(&str, u128)], follows: Option<u128>) -> Unexplained {
        Unexplained::of(&track(names, follows), &Paths::new())
    }

    const SEEN: [(&str, u128); 3] = [("gemm_a", 100), ("gemm_b", 0), ("softmax", 0)];

    #[test]
    fn a_product_that_nobody_saw_executed_is_named_with_the_paths_that_were_off() {
        let named = Unexplained { kernels: [("gemm_b".to_owned(), Some(1.0 / 3.0))].into(), paths: ["b".to_owned()].into() };
        assert_eq!(of(&SEEN, None), named);
        assert_eq!(of(&SEEN, Some(199)), named);
    }

    #[test]
    fn a_look_that_must_have_met_it_settles_it_and_so_does_a_path_in_use() {
        assert!(of(&SEEN, Some(200)).is_empty());
        let paths = [("b".to_owned(), PathTotal { counted: 1, ..PathTotal::default() })].into();
        assert!(Unexplained::of(&track(&SEEN, None), &paths).is_empty());
        assert!(of(&[("gemm_a", 100), ("softmax", 0)], None).is_empty());
        assert!(of(&[("gemm_a", 100), ("gemm_a", 0)], None).is_empty());
    }
}
