//! Launches that a census has counted by themselves, so that they are known when they come again.
//!
//! What a launch executes is mostly said by its kernel, grid and block. Not always: the product that makes a weight's gradient has the weight's grid, whatever the number of
//! tokens that it adds up over. So a launch is known by what was launched just before it too, its context: in a step of another length, the kernels
//! around it have other grids.

use std::collections::{BTreeMap, HashMap};

/// How many launches a context has, the launch itself with them.
const CONTEXT: usize = 8;
/// Launches that differ in what they executed, although kernel, grid and block are the same, are told apart up to so many: a kernel whose work depends on its data would
/// fill the evidence.
pub(super) const VARIANTS: usize = 64;

/// Row of a census: the index of its window, and which of its rows.
pub(super) type Row = (u64, u32);

/// FLOP of a launch by path.
pub(super) type Executed = BTreeMap<String, u128>;

/// Where a launch goes and of what: all that a roll call sees of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The function or graph: the same for the same kernel, while the process lives.
    pub(super) handle: usize,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) stream: usize,
}

impl Place {
    /// A number for kernel, grid and block. Two of a program's some thousand places have the same one with a probability of 1e-12.
    pub(super) fn key(&self) -> u64 {
        let [a, b, c] = self.grid.map(u64::from);
        let [d, e, f] = self.block.map(u64::from);
        [self.handle as u64, a << 32 | b, c << 32 | d, e << 32 | f].into_iter().fold(0, mix)
    }
}

/// One step of a hash: multiply and fold (wyhash's mixing).
fn mix(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word ^ 0x9e37_79b9_7f4a_7c15) * u128::from(word ^ 0xe703_7ed1_a0b4_28db);
    #[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded.wrapping_add(word)
}

/// The launches just before.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail {
    keys: [u64; CONTEXT],
    seen: usize,
}

impl Trail {
    /// Goes on by a launch; its context, once enough launches came before.
    pub(super) fn step(&mut self, key: u64) -> Option<u64> {
        self.keys[self.seen % CONTEXT] = key;
        self.seen += 1;
        (self.seen >= CONTEXT).then(|| (0..CONTEXT).map(|i| self.keys[(self.seen + i) % CONTEXT]).fold(1, mix))
    }
}

/// What is known of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It was counted in this context, or all that were alike executed the same.
    Row(Row),
    /// Launches that were alike executed this and other things.
    OneOf(Row),
    /// Nothing like it was counted.
    No,
}

/// What censuses counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    contexts: HashMap<u64, Row>,
    /// The rows of a key that differ in what was executed.
    keys: HashMap<u64, Vec<(Row, Executed)>>,
}

impl Roster {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether anything like it was counted.
    pub(super) fn has(&self, key: u64) -> bool {
        self.keys.contains_key(&key)
    }

    /// Learns a launch of a census: what it executed, and where that stands.
    pub(super) fn learn(&mut self, key: u64, context: Option<u64>, row: Row, executed: &Executed) {
        if let Some(context) = context {
            // The newest counts.
            self.contexts.insert(context, row);
        }
        let rows = self.keys.entry(key).or_default();
        match rows.iter().position(|(_, e)| e == executed) {
            Some(at) => rows[at].0 = row,
            None if rows.len() < VARIANTS => rows.push((row, executed.clone())),
            None => {}
        }
    }

    /// What a launch executes.
    pub(super) fn find(&self, key: u64, context: Option<u64>) -> Known {
        if let Some(row) = context.and_then(|c| self.contexts.get(&c)) {
            return Known::Row(*row);
        }
        match self.keys.get(&key).map(Vec::as_slice) {
            Some([(row, _)]) => Known::Row(*row),
            Some([.., (row, _)]) => Known::OneOf(*row),
            _ => Known::No,
        }
    }

    /// What a launch of this key executed, if that stands in this row.
    pub(super) fn executed(&self, key: u64, row: Row) -> Option<&Executed> {
        self.keys.get(&key)?.iter().find(|(r, _)| *r == row).map(|(_, executed)| executed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executed(flop: u128) -> BTreeMap<String, u128> {
        [("p".to_owned(), flop)].into()
    }

    /// A step of ten launches whose length shows in the first one's grid alone; the last launch has one grid and executes what the length says.
    fn step(length: u32) -> Vec<(u64, u128)> {
        let place = |handle, x| Place { handle, grid: [x, 1, 1], block: [128, 1, 1], stream: 0 };
        (0..10).map(|i| (place(i, if i == 3 { length } else { 7 }).key(), if i == 9 { u128::from(length) } else { 1 })).collect()
    }

    fn learnt(lengths: &[u32]) -> Roster {
        let (mut roster, mut trail) = (Roster::default(), Trail::default());
        for (n, length) in lengths.iter().enumerate() {
            for (i, (key, flop)) in step(*length).into_iter().enumerate() {
                let context = trail.step(key);
                roster.learn(key, context, (n as u64, u32::try_from(i).unwrap()), &executed(flop));
            }
        }
        roster
    }

    #[test]
    fn a_launch_is_known_by_what_came_before_it() {
        let roster = learnt(&[100, 200]);
        let mut trail = Trail::default();
        for length in [200, 100, 100, 200] {
            let found: Vec<Known> =
                step(length).into_iter().map(|(key, _)| (key, trail.step(key))).map(|(k, c)| roster.find(k, c)).collect();
            assert_eq!(found[9], Known::Row((u64::from(length / 100 - 1), 9)));
        }
    }

    #[test]
    fn what_was_never_counted_is_not_known_and_what_differs_is_not_sure() {
        let roster = learnt(&[100, 200]);
        let mut trail = Trail::default();
        let found: Vec<Known> = step(300).into_iter().map(|(key, _)| (key, trail.step(key))).map(|(k, c)| roster.find(k, c)).collect();
        assert_eq!(found[3], Known::No);
        assert_eq!(found[4], Known::Row((1, 4)));
        assert_eq!(found[9], Known::OneOf((1, 9)));
        let (key, _) = step(100)[9];
        assert_eq!(roster.executed(key, (0, 9)), Some(&executed(100)));
        assert!(Roster::default().is_empty() && roster.has(key));
    }
}
