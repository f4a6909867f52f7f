//! Looks that a census asks for: at paths that were off in it.
//!
//! A census counts the paths of one group. A kernel that by its name makes products, and executed nothing on any of them, multiplied on the CUDA cores, or on a path that was off: one
//! that the survey missed, because the program's steps are long and the survey's windows short. So the other groups are looked at, each until it must have met
//! what the census saw: while it was on, twice as much was executed of what stands in every group, so that the census's launches were in it, wherever they begin. What shows
//! no operations by then uses no tensor cores: that is settled. The meter begins looks by these rules, and the ledger tells by the same ones whether they were long enough.

use std::time::Duration;

use crate::{
    counter::category::Category,
    evidence::record::{Kernel, Kind},
};

/// The part of the time of a census's kernels from which on a kernel is worth a look. Three changes of group are no price for less.
const LEAST_PART: f64 = 0.001;
/// How long a group is looked at, at the most: a program may have stopped what the census saw.
const LONGEST: Duration = Duration::from_secs(60);
/// A look is longer than the pace asks for, so that a program that is slower just then does not cost two changes of group more.
const SPARE: f64 = 1.25;
/// Where nothing that stands in every group was executed, a look is so many times as long as the census's kernels took.
const TIMES: u32 = 5;

/// Kernels of a census that by their names make products, and executed nothing on any path that was on: each with its part of the time of all kernels, where that is known.
#[must_use]
pub fn unexplained(kernels: &[Kernel]) -> Vec<(&str, Option<f64>)> {
    // Name, ns, and whether it executed anything. Lists here and below, for the injected library's size: there are some hundred names, and a group or nine.
    let (mut all, mut found): (f64, Vec<(&str, f64, bool)>) = (0.0, Vec::new());
    for kernel in kernels {
        let ns: f64 = kernel.durations_ns.iter().map(|ns| *ns as f64).sum();
        all += ns;
        if kernel.kind != Kind::Kernel {
            continue;
        }
        match found.iter_mut().find(|(name, ..)| *name == kernel.name) {
            Some(row) => (row.1, row.2) = (row.1 + ns, row.2 || executes(kernel)),
            None => found.push((&kernel.name, ns, executes(kernel))),
        }
    }
    let part = |ns: f64| (all > 0.0).then(|| ns / all);
    let idle = found.into_iter().filter(|(.., executes)| !executes).map(|(name, ns, _)| (name, part(ns)));
    idle.filter(|(name, part)| part.is_none_or(|p| p >= LEAST_PART) && Category::multiplies(name)).collect()
}

/// Whether a row of a census executed anything on the tensor cores.
#[must_use]
pub fn executes(kernel: &Kernel) -> bool {
    kernel.counts.values().any(|n| *n > 0)
}

/// How much a look must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// FLOP of what stands in every group; 0 where that says nothing.
    work: u128,
    time: Duration,
}

impl Need {
    /// After a census in which so much was executed of what stands in every group.
    #[must_use]
    pub fn of(work: u128, kernels: &[Kernel]) -> Self {
        let busy = kernels.iter().flat_map(|k| &k.durations_ns).fold(0u64, |sum, ns| sum.saturating_add(*ns));
        let time = if work == 0 && busy > 0 { Duration::from_nanos(busy).saturating_mul(TIMES).min(LONGEST) } else { LONGEST };
        Self { work: work.saturating_mul(2), time }
    }

    /// Whether a look that saw so much, in so long, is enough.
    #[must_use]
    pub fn met(&self, work: u128, time: Duration) -> bool {
        (self.work > 0 && work >= self.work) || time >= self.time
    }
}

/// The looks that are due.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks(Vec<Look>);

#[derive(Clone, Debug)]
struct Look {
    group: usize,
    need: Need,
    work: u128,
    given: Duration,
    /// A window was given that should be long enough, and what it counted is not told yet.
    pending: bool,
}

impl Looks {
    /// A group is to be looked at, from now on.
    pub(super) fn add(&mut self, group: usize, need: Need) {
        self.0.retain(|look| look.group != group);
        self.0.push(Look { group, need, work: 0, given: Duration::ZERO, pending: false });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next window of a look: its group and length. `pace`: how much of what stands in every group was executed so far, and in how long. By that one window is long enough, so that
    /// what it counts is a measure of the time around it; else, and where nobody knows, windows follow until they are.
    pub(super) fn window(&mut self, shortest: Duration, longest: Duration, pace: (u128, Duration)) -> Option<(usize, Duration)> {
        self.0.retain(|look| !look.need.met(0, look.given));
        let look = self.0.iter_mut().find(|look| !look.pending)?;
        let needs = if look.need.work > 0 && pace.0 > 0 {
            pace.1.mul_f64((SPARE * look.need.work.saturating_sub(look.work) as f64 / pace.0 as f64).min(1e6))
        } else {
            look.given
        };
        let length = needs.min(look.need.time - look.given).max(shortest).min(longest);
        look.pending = pace.0 > 0 && length >= needs;
        look.given += length;
        Some((look.group, length))
    }

    /// A window of a group counted so much of what stands in every group.
    pub(super) fn saw(&mut self, group: usize, work: u128) {
        self.0.retain_mut(|look| {
            if look.group == group {
                (look.work, look.pending) = (look.work.saturating_add(work), false);
            }
            look.group != group || !look.need.met(look.work, Duration::ZERO)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn kernel(name: &str, flop: u128, ns: u64) -> Kernel {
        let counts = if flop > 0 { [("p".to_owned(), flop)].into() } else { BTreeMap::new() };
        Kernel { name: name.to_owned(), launches: 1, counts, durations_ns: vec![ns], ..Kernel::default() }
    }

    #[test]
    fn a_product_that_executes_nothing_is_not_explained() {
        let kernels = [kernel("gemm_a", 7, 500), kernel("gemm_b", 0, 400), kernel("gemm_a", 0, 50), kernel("softmax", 0, 50)];
        assert_eq!(unexplained(&kernels), [("gemm_b", Some(0.4))]);
        // Some of its launches may have had nothing to do, and what takes no time is worth none.
        assert_eq!(unexplained(&[kernel("gemm_a", 7, 99_950), kernel("gemm_b", 0, 50)]), []);
        let untimed = Kernel { durations_ns: Vec::new(), ..kernel("gemm_b", 0, 0) };
        assert_eq!(unexplained(std::slice::from_ref(&untimed)), [("gemm_b", None)]);
        assert_eq!(unexplained(&[Kernel { kind: Kind::Graph, ..untimed }]), []);
    }

    #[test]
    fn a_look_is_long_enough_when_it_must_have_met_the_census() {
        let seconds = Duration::from_secs;
        let need = Need::of(100, &[kernel("gemm", 0, 1_000_000_000)]);
        assert!(!need.met(199, seconds(59)) && need.met(200, seconds(0)) && need.met(0, seconds(60)));
        let untold = Need::of(0, &[kernel("gemm", 0, 1_000_000_000)]);
        assert!(!untold.met(0, seconds(4)) && untold.met(0, seconds(5)));
    }
}
