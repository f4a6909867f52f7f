//! A census of training steps, and whether its launches are the products that the model makes.
//!
//! A launch that multiplies matrices executes at least 2·M·N·K of a product of the model, and no more than tiles can make of that. So the launches of a census are given to products, each
//! to one that it can be, and as many to each as the model makes of it in a whole number of batches. If that comes out even, to the last launch, they are these products, and what they
//! executed besides is tile padding, counted. Which of two launches is which of two products does not matter: the sum is the same.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use super::products::Products;
use crate::{
    evidence::{
        read::ProcessEvidence,
        record::{Kernels, Record, Window},
    },
    ledger::arithmetic::{Amount, add_up},
};

/// More batches than this are in no census.
pub(super) const MOST_BATCHES: usize = 256;

/// The launches of a census that used tensor cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// FLOP of a launch, and how many there were: those of products.
    products: BTreeMap<u128, u64>,
    /// Launches that were put together although they executed different things, as evidence of before 2026-11-25 has them.
    merged: u64,
    /// Paths that were not on in it: groups of counters take turns.
    unseen: usize,
    /// The batches that it is of, where the program told: rows, positions, and a decoder's.
    pub(super) batches: Vec<[u64; 3]>,
}

/// What a census says of the products of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Matched {
    /// Batches that the census saw.
    pub(super) batches: u64,
    /// Launches.
    pub(super) launches: u64,
    /// 2·M·N·K of these, FLOP.
    pub(super) needed: u128,
    /// What they executed, FLOP.
    pub(super) executed: u128,
}

impl Matched {
    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            batches: self.batches.plus(other.batches),
            launches: self.launches.plus(other.launches),
            needed: self.needed.plus(other.needed),
            executed: self.executed.plus(other.executed),
        }
    }
}

impl Census {
    /// Takes one down; none if nothing was launched in it, or if it looked at the CUDA cores.
    pub(super) fn of(kernels: &Kernels) -> Option<Self> {
        if kernels.cores || kernels.kernels.is_empty() {
            return None;
        }
        let mut census = Self { batches: kernels.batches.clone(), ..Self::default() };
        for kernel in &kernels.kernels {
            let flop = add_up(kernel.counts.values().copied());
            if flop == 0 || kernel.launches == 0 {
                continue;
            }
            if is_attention(&kernel.name) {
                continue;
            }
            let launches = u128::from(kernel.launches);
            if !flop.is_multiple_of(launches) {
                census.merged.grow(kernel.launches);
            }
            census.products.entry(flop / launches).or_default().grow(kernel.launches);
        }
        Some(census)
    }

    /// One of these launches, FLOP and how many, in these batches.
    #[cfg(test)]
    pub(super) fn made(products: BTreeMap<u128, u64>, batches: Vec<[u64; 3]>) -> Self {
        Self { products, batches, ..Self::default() }
    }

    /// Whether its launches are the products of some number of batches, and what they executed then.
    ///
    /// # Errors
    /// In words, why they are not.
    pub(super) fn matched(&self, products: &Products) -> Result<Matched, String> {
        self.even(products, None).map_err(|why| self.but_unseen(why))
    }

    /// The same of these, the products of all its batches together.
    ///
    /// # Errors
    /// In words, why they are not.
    pub(super) fn matched_all(&self, products: &Products) -> Result<Matched, String> {
        let batches = self.batches.len() as u64;
        self.even(products, Some(1)).map(|matched| Matched { batches, ..matched }).map_err(|why| self.but_unseen(why))
    }

    fn but_unseen(&self, why: String) -> String {
        match self.unseen {
            0 => why,
            paths => format!("{why} (it did not look at {paths} paths, which take turns)"),
        }
    }

    /// `times`: how often the products were made, where that is known.
    fn even(&self, products: &Products, times: Option<u64>) -> Result<Matched, String> {
        let launches = add_up(self.products.values().copied());
        if self.merged > 0 {
            return Err(format!("{} launches were not told apart by what they executed", self.merged));
        }
        let (each, flop) = (products.launches(), products.flop());
        if launches == 0 || each == 0 || flop == 0 {
            return Err("it saw no product".to_owned());
        }
        let executed = add_up(self.products.iter().map(|(flop, n)| flop.saturating_mul(u128::from(*n))));
        let fits = |batches: u64| {
            let rest = given(&self.products, products, batches)?;
            let [least, most] = [products.experts.0, products.experts.1].map(|flop| flop.saturating_mul(u128::from(batches)));
            let left = add_up(rest.iter().map(|(flop, n)| flop.saturating_mul(u128::from(*n))));
            (least..=most).contains(&left).then_some(())
        };
        let numbers = if let Some(times) = times {
            vec![times]
        } else if products.experts.0 > 0 {
            // How many launches they are is not known: what all executed together says how many batches there can be.
            let most = u64::try_from(executed / flop).unwrap_or(u64::MAX).min(MOST_BATCHES as u64);
            (1..=most).rev().collect::<Vec<_>>()
        } else if launches.is_multiple_of(each) {
            vec![launches / each]
        } else {
            return Err(format!("{launches} launches of products are no whole number of batches, each of which makes {each}"));
        };
        let mut found = numbers.into_iter().filter(|batches| fits(*batches).is_some());
        let batches = found.next().ok_or_else(|| format!("{launches} launches of products are not those that the model makes"))?;
        if found.next().is_some() {
            return Err("its launches may be those of one number of batches or another".to_owned());
        }
        Ok(Matched { batches, launches, needed: flop.saturating_mul(u128::from(batches)), executed })
    }
}

/// Gives launches to the products of so many batches; returns those that are left for the experts. None if a product does not get as many as are made of it, or
/// if launches are left and there are no experts.
///
/// From small to large, each launch goes to the product that it can be and that will be too small soonest: if any way of giving them out comes out even, this one does.
fn given(launches: &BTreeMap<u128, u64>, products: &Products, batches: u64) -> Option<Vec<(u128, u64)>> {
    let mut coming = products.single.iter().peekable();
    // Products that a launch of this size can be: until which size, and how many are missing.
    let mut open: BinaryHeap<Reverse<(u128, u64)>> = BinaryHeap::new();
    let mut rest = Vec::new();
    for (&flop, &launches) in launches {
        while let Some(product) = coming.next_if(|p| p.flop <= flop) {
            open.push(Reverse((product.most, product.times.saturating_mul(batches))));
        }
        let mut left = launches;
        while left > 0 {
            let Some(Reverse((most, missing))) = open.pop() else { break };
            if most < flop {
                return None;
            }
            let taken = missing.min(left);
            left -= taken;
            if missing > taken {
                open.push(Reverse((most, missing - taken)));
            }
        }
        if left > 0 {
            rest.push((flop, left));
        }
    }
    let all = coming.peek().is_none() && open.is_empty();
    (all && (rest.is_empty() || products.experts.0 > 0)).then_some(rest)
}

/// Kernels of fused attention: FlashAttention, cuDNN's and PyTorch's have it in their names.
fn is_attention(name: &str) -> bool {
    let name = name.to_lowercase();
    ["flash", "fmha", "sdpa", "attention", "attn", "mha"].iter().any(|part| name.contains(part))
}

/// The censuses of a process, each with the model that was trained then: none in which a window lies across the time of another model, or of another phase.
pub(super) fn taken(file: &ProcessEvidence, marks: &[(u64, &str)], models: &[(u64, Option<usize>)]) -> Vec<(usize, Census)> {
    let windows = || file.lines.iter().filter_map(|l| if let Record::Window(w) = &l.record { Some(w) } else { None });
    let all = |device: u32| {
        file.lines.iter().rev().find_map(|l| if let Record::Plan(p) = &l.record { (p.device == device).then_some(&p.groups) } else { None })
    };
    let mut found = Vec::new();
    for line in &file.lines {
        let Record::Kernels(kernels) = &line.record else { continue };
        let Some(window) = windows().find(|w| w.device == kernels.device && Some(w.index) == kernels.window) else { continue };
        let trains = marks.is_empty() || during(window, marks).is_some_and(|phase| *phase == "train");
        if let (true, Some(Some(model)), Some(mut census)) = (trains, during(window, models), Census::of(kernels)) {
            let paths: BTreeSet<&String> = all(kernels.device).into_iter().flatten().flatten().collect();
            census.unseen = paths.into_iter().filter(|path| !window.counts.contains_key(*path)).count();
            found.push((*model, census));
        }
    }
    found
}

/// What held for all of a window; none where that changed in it.
fn during<'a, T>(window: &Window, marks: &'a [(u64, T)]) -> Option<&'a T> {
    // A mark does not wait for the boundary.
    let near = window.end_ns.saturating_sub(window.start_ns) / 20;
    let at = marks.iter().rposition(|(since, _)| *since <= window.start_ns.saturating_add(near))?;
    let until = marks.get(at + 1).map_or(u64::MAX, |m| m.0);
    (until.saturating_add(near) >= window.end_ns).then_some(&marks[at].1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::products::{Product, Products},
        *,
    };

    fn up(side: u64, tile: u64) -> u128 {
        u128::from(side.next_multiple_of(tile))
    }

    /// A model's products by their sides, and the launches of so many batches with tiles of these sides, one pair for each launch in turn.
    fn made(sides: &[([u64; 3], u64)], tiles: &[(u64, u64)], batches: u64) -> (Products, Census) {
        let mut products = BTreeMap::<u128, Product>::new();
        let mut census = Census::default();
        let mut tiles = tiles.iter().cycle();
        for ([m, n, k], times) in sides {
            let flop = 2 * u128::from(m * n * k);
            let most = 2 * [m, n, k].map(|side| u128::from(side + 511)).iter().product::<u128>();
            let product = products.entry(flop).or_insert(Product { flop, most, times: 0 });
            product.most = product.most.max(most);
            product.times += times;
            for _ in 0..times * batches {
                let (a, b) = tiles.next().expect("some");
                *census.products.entry(2 * up(*m, *a) * up(*n, *b) * up(*k, 64)).or_default() += 1;
            }
        }
        (Products { single: products.into_values().collect(), ..Products::default() }, census)
    }

    fn side() -> impl Strategy<Value = u64> {
        prop_oneof![Just(8), Just(256), Just(2048), Just(5632), Just(32003), 1u64..9000]
    }

    proptest! {
        /// Whatever tiles a library picks, its launches are found to be the model's products, and what they execute besides is told to the unit. One launch more or less, and they are not.
        #[test]
        fn launches_of_any_tiles_are_matched_and_no_others(
            sides in prop::collection::vec(([side(), side(), side()], 1u64..5), 1..12),
            tiles in prop::collection::vec((prop::sample::select(vec![64u64, 128, 192, 256, 384, 512]), prop::sample::select(vec![8u64, 64, 128, 192, 256])), 1..9),
            batches in 1u64..4,
            which in 0usize..100,
        ) {
            let (products, census) = made(&sides, &tiles, batches);
            let matched = census.matched(&products).expect("they are");
            prop_assert_eq!(matched.batches, batches);
            prop_assert_eq!(matched.needed, products.flop() * u128::from(batches));
            prop_assert_eq!(matched.executed, census.products.iter().map(|(flop, n)| flop * u128::from(*n)).sum::<u128>());
            let all: u64 = census.products.values().sum();
            let chosen = *census.products.keys().nth(which % census.products.len()).expect("one");
            // Another product in the place of one that is made: smaller than any, or larger than all can be.
            for other in [products.single[0].flop - 1, products.single.iter().map(|p| p.most).max().expect("one") + 1] {
                let mut wrong = census.clone();
                *wrong.products.get_mut(&chosen).expect("it") -= 1;
                wrong.products.retain(|_, n| *n > 0);
                *wrong.products.entry(other).or_default() += 1;
                prop_assert!(wrong.matched(&products).is_err());
            }
            let mut more = census.clone();
            *more.products.get_mut(&chosen).expect("it") += 1;
            prop_assert!(more.matched(&products).is_err() || (all + 1).is_multiple_of(products.launches()));
        }
    }

    /// Two sizes that tiles make overlap: to whom a launch goes first must not leave another without.
    #[test]
    fn launches_that_can_be_several_products_find_one_each() {
        let product = |flop, most| Product { flop, most, times: 1 };
        let products = Products { single: vec![product(10, 100), product(20, 30)], ..Products::default() };
        let census = |sizes: [u128; 2]| Census { products: BTreeMap::from(sizes.map(|s| (s, 1))), ..Census::default() };
        assert_eq!(census([25, 90]).matched(&products).expect("both").executed, 115);
        assert!(census([40, 90]).matched(&products).is_err(), "nothing is left for the second");
        let merged = Census { merged: 1, ..census([25, 90]) };
        assert!(merged.matched(&products).unwrap_err().contains("not told apart"));
    }

    /// Experts get what tokens they get: all of their launches together are what is known.
    #[test]
    fn experts_are_matched_by_their_sum() {
        let products = Products { single: vec![Product { flop: 1000, most: 1200, times: 2 }], experts: (600, 900), ..Products::default() };
        let census = |sizes: &[(u128, u64)]| Census { products: sizes.iter().copied().collect(), ..Census::default() };
        let matched = census(&[(1000, 2), (1100, 2), (300, 3), (50, 8)]).matched(&products).expect("two batches");
        assert_eq!((matched.batches, matched.needed, matched.executed), (2, 5200, 5500));
        assert!(census(&[(1000, 4), (100, 3)]).matched(&products).is_err(), "less than experts take");
        assert!(census(&[(1000, 1), (300, 9)]).matched(&products).is_err(), "a product is missing");
    }
}
