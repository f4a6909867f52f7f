//! What was executed when, and at what power, coarse enough to draw.
//!
//! Time is cut into slots of one length, a power of two times 0.1 s, aligned to the clock's zero, so that two timelines always meet: when there are too
//! many slots, pairs of them become one. What a window holds is spread evenly over it. Floats, for charts: nothing is added up from here.

use std::collections::BTreeMap;

/// The shortest slot.
const SHORTEST_NS: u64 = 100_000_000;
/// Slots at most, from the first to the last: a chart's points.
const SLOTS: u64 = 240;

/// Amounts over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// Length of a slot, ns.
    pub slot_ns: u64,
    /// FLOP by path metric, by slot: slot `i` is `[i, i + 1) * slot_ns`.
    pub flop: BTreeMap<u64, BTreeMap<String, f64>>,
    /// Energy, mJ, by device's UUID and slot.
    pub energy: BTreeMap<String, BTreeMap<u64, f64>>,
    /// First and last slot that holds anything.
    range: Option<(u64, u64)>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { slot_ns: SHORTEST_NS, flop: BTreeMap::new(), energy: BTreeMap::new(), range: None }
    }
}

impl Timeline {
    /// Spreads operations of a path over `[start, end)`.
    pub fn add_flop(&mut self, path: &str, start: u64, end: u64, flop: f64) {
        if flop > 0.0 {
            self.reach(start, end);
            for (slot, share) in pieces(self.slot_ns, start, end) {
                let paths = self.flop.entry(slot).or_default();
                match paths.get_mut(path) {
                    Some(sum) => *sum += flop * share,
                    None => drop(paths.insert(path.to_owned(), flop * share)),
                }
            }
        }
    }

    /// Spreads a device's energy over `[start, end)`.
    pub fn add_energy(&mut self, uuid: &str, start: u64, end: u64, mj: f64) {
        self.reach(start, end);
        let slot_ns = self.slot_ns;
        let slots = self.energy.entry(uuid.to_owned()).or_default();
        for (slot, share) in pieces(slot_ns, start, end) {
            *slots.entry(slot).or_default() += mj * share;
        }
    }

    /// Adds another's, shifted in time. Two processes on one device read the same energy: it is taken once.
    pub fn add(&mut self, other: &Self, shift_ns: i64) {
        let shifted = |slot: u64| {
            let start = slot.saturating_mul(other.slot_ns).saturating_add_signed(shift_ns);
            (start, start.saturating_add(other.slot_ns))
        };
        for (slot, paths) in &other.flop {
            let (start, end) = shifted(*slot);
            paths.iter().for_each(|(path, flop)| self.add_flop(path, start, end, *flop));
        }
        for (uuid, slots) in &other.energy {
            let mut theirs = Self { slot_ns: self.slot_ns.max(other.slot_ns), ..Self::default() };
            for (slot, mj) in slots {
                let (start, end) = shifted(*slot);
                theirs.add_energy(uuid, start, end, *mj);
            }
            let Some((first, last)) = theirs.range else { continue };
            self.reach(first.saturating_mul(theirs.slot_ns), (last + 1).saturating_mul(theirs.slot_ns));
            while theirs.slot_ns < self.slot_ns {
                theirs.coarsen();
            }
            while self.slot_ns < theirs.slot_ns {
                self.coarsen();
            }
            let ours = self.energy.entry(uuid.clone()).or_default();
            for (slot, mj) in theirs.energy.remove(uuid).unwrap_or_default() {
                let sum = ours.entry(slot).or_default();
                *sum = sum.max(mj);
            }
        }
    }

    /// First and last slot that holds anything.
    #[must_use]
    pub fn range(&self) -> Option<(u64, u64)> {
        self.range
    }

    /// Makes slots long enough that `[start, end)` and what there is fit.
    fn reach(&mut self, start: u64, end: u64) {
        loop {
            let (from, to) = (start / self.slot_ns, end.saturating_sub(1).max(start) / self.slot_ns);
            let (first, last) = self.range.map_or((from, to), |(a, b)| (a.min(from), b.max(to)));
            if last - first < SLOTS {
                self.range = Some((first, last));
                return;
            }
            self.coarsen();
        }
    }

    fn coarsen(&mut self) {
        self.slot_ns *= 2;
        self.range = self.range.map(|(first, last)| (first / 2, last / 2));
        for (slot, paths) in std::mem::take(&mut self.flop) {
            let into = self.flop.entry(slot / 2).or_default();
            paths.into_iter().for_each(|(path, flop)| *into.entry(path).or_default() += flop);
        }
        for slots in self.energy.values_mut() {
            for (slot, mj) in std::mem::take(slots) {
                *slots.entry(slot / 2).or_default() += mj;
            }
        }
    }
}

/// The slots that `[start, end)` touches, with the share of it in each.
fn pieces(slot_ns: u64, start: u64, end: u64) -> impl Iterator<Item = (u64, f64)> {
    // At the end of all time there is no later moment: what happens then happens just before.
    let start = start.min(u64::MAX - 1);
    let end = end.max(start + 1);
    (start / slot_ns..=(end - 1) / slot_ns).map(move |slot| {
        let overlap = end.min((slot + 1).saturating_mul(slot_ns)) - start.max(slot * slot_ns);
        (slot, overlap as f64 / (end - start) as f64)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flop(t: &Timeline) -> f64 {
        t.flop.values().flat_map(BTreeMap::values).sum()
    }

    proptest! {
        /// Nothing is lost or made, and there are never more slots than a chart has points.
        #[test]
        fn sums_stay(parts in prop::collection::vec((0u64..1 << 45, 1u64..1 << 42, 1u32..1000), 1..30), shift in -(1i64 << 40)..1 << 40) {
            let (mut one, mut two) = (Timeline::default(), Timeline::default());
            for (i, (start, length, amount)) in parts.iter().enumerate() {
                let into = if i % 2 == 0 { &mut one } else { &mut two };
                into.add_flop("p", start + (1 << 41), start + (1 << 41) + length, f64::from(*amount));
                into.add_energy(if i % 2 == 0 { "a" } else { "b" }, start + (1 << 41), start + (1 << 41) + length, f64::from(*amount));
            }
            let sum: f64 = parts.iter().map(|p| f64::from(p.2)).sum();
            one.add(&two, shift);
            prop_assert!((flop(&one) - sum).abs() < 1e-6 * sum);
            let mj: f64 = one.energy.values().flat_map(BTreeMap::values).sum();
            prop_assert!((mj - sum).abs() < 1e-6 * sum);
            let (first, last) = one.range().unwrap();
            prop_assert!(last - first < SLOTS);
        }
    }

    #[test]
    fn energy_that_two_processes_read_of_one_device_counts_once() {
        let mut one = Timeline::default();
        one.add_energy("gpu", 0, 1_000_000_000, 500.0);
        let two = one.clone();
        one.add(&two, 0);
        let mj: f64 = one.energy["gpu"].values().sum();
        assert!((mj - 500.0).abs() < 1e-9);
    }
}
