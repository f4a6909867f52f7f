//! Tile padding: tensor cores multiply tiles, and what sticks out of a matrix is multiplied too.
//!
//! Where a census saw the products of the model, launch by launch, what they executed beyond 2·M·N·K is this line, counted ([`Lengths::padding`]). Which batches it saw the program
//! tells where it marks them; else they are of one of the lengths that there were, if of one alone they can be.
//!
//! Else it is made by rule. An instruction of Hopper's (wgmma) is 64 rows high; libraries cut products into tiles of 64, 128 or 256 a side and 64 deep, and pick one that fits where the
//! matrix is large. So each side of a matrix of weights is rounded up to 64. It matters for adapters (rank 8 becomes 64), routers and odd
//! vocabularies; for all else it is nothing. FlashAttention works in blocks of 128 positions, whole ones along the diagonal. The kernels' own tiles
//! differ by library and version: this is an assumption, and says so.

use std::collections::BTreeMap;

use super::{
    census::{self, Census, Matched},
    lines::Confidence,
    products::Products,
};
use crate::{
    estimate::{
        method::Method,
        model::{Model, Work},
        workload::Shape,
    },
    ledger::arithmetic::Amount,
};

/// Sides of matrices are rounded up to this.
pub(super) const SIDE: u64 = 64;
/// Positions are computed in blocks of this many.
pub(super) const ATTENTION: u64 = 128;

/// The line.
pub(super) struct Padding {
    pub(super) flop: f64,
    pub(super) source: String,
    pub(super) confidence: Confidence,
}

/// Products of batches by their rows' length.
#[derive(Default)]
pub(super) struct Lengths {
    tried: Vec<Length>,
    /// 2·M·N·K of all batches whose lengths are too many to try each.
    others: f64,
}

struct Length {
    shape: Shape,
    /// Of a batch.
    products: Products,
    /// How many batches there were of it, on average full ones.
    batches: f64,
    /// What censuses saw of it.
    seen: Option<Matched>,
}

impl Lengths {
    /// Adds a length: a batch of it, its products, and how many there were of it.
    pub(super) fn add(&mut self, shape: Shape, products: Products, batches: f64) {
        self.tried.push(Length { shape, products, batches, seen: None });
    }

    /// Batches of more lengths than are tried: 2·M·N·K of them all, FLOP.
    pub(super) fn of_many(flop: f64) -> Self {
        Self { tried: Vec::new(), others: flop }
    }

    /// What all batches executed beyond 2·M·N·K, by the censuses whose launches are the products of batches that the program told of, or of batches of one length. `of` makes the
    /// products of a batch.
    ///
    /// # Errors
    /// In words, why there is none.
    pub(super) fn padding(mut self, censuses: &[Census], of: impl Fn(Shape) -> Result<Products, String>) -> Result<Padding, String> {
        let mut why = None;
        let mut matched = 0;
        let mut seen = Matched::default();
        for census in censuses {
            let found = if census.batches.is_empty() { self.tried(census) } else { self.told(census, &of) };
            match found {
                Ok((at, these)) => {
                    matched += 1;
                    seen = seen.plus(these);
                    if let Some(at) = at {
                        let sum = self.tried[at].seen.get_or_insert_default();
                        *sum = sum.plus(these);
                    }
                }
                Err(because) => why = why.or(Some(because)),
            }
        }
        if seen.needed == 0 {
            return Err(
                why.map_or_else(|| "no census of training was taken".to_owned(), |why| format!("a census cannot be matched: {why}"))
            );
        }
        // A length that no census saw is taken to be like those that one did.
        let excess = |m: Matched| m.executed.saturating_sub(m.needed) as f64 / m.needed as f64;
        let of = |l: &Length| l.batches * l.products.flop() as f64 * excess(l.seen.unwrap_or(seen));
        let all_seen = self.others <= 0.0 && self.tried.iter().all(|l| l.seen.is_some());
        let others = if all_seen { "" } else { ", and other lengths are taken to be like these" };
        Ok(Padding {
            flop: self.tried.iter().map(of).sum::<f64>() + self.others * excess(seen),
            source: format!(
                "{matched} of {} censuses: {} launches are the products of {} batch(es), and executed {:.6} x 2MNK{others}",
                censuses.len(),
                seen.launches,
                seen.batches,
                seen.executed as f64 / seen.needed as f64
            ),
            confidence: if all_seen { Confidence::Counted } else { Confidence::Assumed },
        })
    }

    /// The one length of whose batches a census can be, and what it saw.
    fn tried(&self, census: &Census) -> Result<(Option<usize>, Matched), String> {
        if self.others > 0.0 {
            return Err("which of its many lengths of batches a census saw is not known".to_owned());
        }
        let found = self.tried.iter().enumerate().map(|(at, length)| census.matched(&length.products).map(|m| (at, m)));
        let (found, not): (Vec<_>, Vec<_>) = found.partition(Result::is_ok);
        match found.into_iter().flatten().collect::<Vec<_>>().as_slice() {
            [(at, seen)] => Ok((Some(*at), *seen)),
            [] => Err(not.into_iter().find_map(Result::err).unwrap_or_default()),
            _ => Err("its launches may be of batches of several lengths".to_owned()),
        }
    }

    /// What a census saw of batches that the program told of, and which length they have, where it is one.
    fn told(&self, census: &Census, of: impl Fn(Shape) -> Result<Products, String>) -> Result<(Option<usize>, Matched), String> {
        if census.batches.len() > census::MOST_BATCHES {
            return Err(format!("it is said to be of {} batches", census.batches.len()));
        }
        let mut times = BTreeMap::<_, u64>::new();
        census.batches.iter().for_each(|batch| times.entry(*batch).or_default().grow(1));
        let mut products = Products::default();
        for ([rows, length, decoder_length], times) in times {
            products.extend(&of(Shape { rows, length, decoder_length })?, times);
        }
        let [_, length, decoder_length] = census.batches[0];
        let alike = census.batches.iter().all(|b| b[1..] == [length, decoder_length]);
        let at = self.tried.iter().position(|l| alike && (l.shape.length, l.shape.decoder_length) == (length, decoder_length));
        Ok((at, census.matched_all(&products)?))
    }
}

/// The model and method as tiles make them.
pub(super) fn padded(model: &Model, method: &Method) -> (Model, Method) {
    let mut model = model.clone();
    for layer in &mut model.layers {
        for operation in &mut layer.operations {
            if let Work::Linear(l) = &mut operation.work {
                l.inputs = l.inputs.next_multiple_of(SIDE);
                l.outputs = l.outputs.next_multiple_of(SIDE);
            }
        }
    }
    let mut method = method.clone();
    if let Method::Lora { rank, ranks, .. } = &mut method {
        ranks.values_mut().chain([rank]).for_each(|r| *r = r.next_multiple_of(SIDE));
    }
    (model, method)
}

/// Experts get uneven shares of a batch: each one's last tile is half empty on average, in each of the products that are made with it. These are of a batch of the padded model.
pub(super) fn experts(products: &Products, batches: u64) -> f64 {
    products.expert_rows as f64 * (SIDE / 2) as f64 * batches as f64
}

#[cfg(test)]
mod tests {
    use super::{super::products, *};
    use crate::estimate::{
        config::Config,
        cost::Kernel,
        family,
        job::Job,
        method::Targets,
        workload::{Shape, Workload},
    };

    fn product(flop: u128, most: u128, times: u64) -> Products {
        Products { single: vec![products::Product { flop, most, times }], ..Products::default() }
    }

    /// Two lengths that tiles make alike are told apart by what the program says, batches of several lengths in one census are matched together, and lengths that no census saw are
    /// taken to be like the others.
    #[test]
    fn batches_that_the_program_tells_of_need_no_guess() {
        let of = |batch: Shape| Ok(product(u128::from(batch.rows * batch.length), 4000, 2));
        let lengths = || {
            let mut lengths = Lengths::default();
            for length in [100, 110, 300] {
                let one = Shape { rows: 8, length, decoder_length: 0 };
                lengths.add(one, of(one).expect("products"), 10.0);
            }
            lengths
        };
        let census = |batches: &[u64], launches: &[(u128, u64)]| {
            let batches = batches.iter().map(|length| [8, *length, 0]).collect();
            Census::made(launches.iter().copied().collect(), batches)
        };
        // 8 x 100 and 8 x 110 become 1024 both.
        let refused = lengths().padding(&[census(&[], &[(1024, 2)])], of).err().expect("two can be");
        assert!(refused.contains("several lengths"), "{refused}");
        let padding = lengths().padding(&[census(&[110], &[(1024, 2)])], of).expect("one is");
        // 20 products of each length, and what sticks out of 880 as a part of it.
        assert_eq!(padding.flop.round(), (20.0 * 8.0 * 510.0 * (1024.0 - 880.0) / 880.0_f64).round());
        assert!(padding.source.contains("other lengths") && matches!(padding.confidence, Confidence::Assumed), "{}", padding.source);
        let padding = lengths().padding(&[census(&[100, 300], &[(1024, 2), (2560, 2)])], of).expect("both");
        assert_eq!(padding.flop.round(), (20.0 * 8.0 * 510.0 * (3584.0 - 3200.0) / 3200.0_f64).round());
        assert!(lengths().padding(&[census(&[300], &[(1024, 2)])], of).is_err(), "too small");
        // Of more lengths than are tried only what the program tells is known.
        let many = |batches: &[u64]| Lengths::of_many(1e6).padding(&[census(batches, &[(1024, 2)])], of);
        assert_eq!(many(&[110]).expect("told").flop.round(), (1e6 * (1024.0 - 880.0) / 880.0_f64).round());
        assert!(many(&[]).err().expect("not told").contains("many lengths"));
        assert!(many(&[110; 257]).err().expect("a file may say anything").contains("257 batches"));
    }

    /// Forward and the gradient of what comes in always; the gradient of the weight where it is trained, or an adapter of the parameter is; once more where layers are computed again.
    #[test]
    fn experts_have_half_a_tile_in_each_product_that_is_made() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../../tests/estimate/golden/mixtral.json")).expect("JSON");
        let row = Shape::new(2, 96);
        let of = |apart: bool, method: Method, checkpointing: bool| {
            let config = Config::new(&golden["config"]).expect("a configuration").with_experts_apart(apart);
            let (model, method) = padded(&family::model(config).expect("a model").expect("a known one"), &method);
            let workload = Workload::said(vec![row], Vec::new(), false).expect("a workload");
            let kernel = Kernel::FLASH;
            let job = Job { model: None, parameters: None, workload, lengths_known: true, method, checkpointing, kernel, batches: 3 };
            experts(&products::of(&model, &job, row).expect("products"), 3)
        };
        let lora = |targets: &[&str], parameters: &[&str]| Method::Lora {
            rank: 8,
            ranks: BTreeMap::new(),
            targets: Targets::Names(targets.iter().map(|s| (*s).to_owned()).collect()),
            parameters: parameters.iter().map(|s| (*s).to_owned()).collect(),
            tried: true,
            dora: None,
            also: Vec::new(),
            quantised: false,
        };
        let stacked = ["experts.gate_up_proj", "experts.down_proj"];
        // Three batches, three layers, four experts, three matrices of 256 x 640: half a tile of rows in each.
        let each = f64::from(3 * 3 * 4 * 3 * 2 * 32 * 256 * 640);
        for (method, checkpointing, products) in [
            (Method::Full, false, 3.0),
            (Method::Full, true, 4.0),
            (lora(&["q_proj"], &[]), false, 2.0),
            (lora(&["q_proj"], &stacked), false, 3.0),
            (lora(&["q_proj"], &stacked), true, 4.0),
            (Method::unfrozen(&["embed_tokens".to_owned()]).expect("a pattern"), false, 2.0),
        ] {
            assert_eq!(of(false, method.clone(), checkpointing), products * each, "{} {checkpointing}", method.name());
        }
        // Where experts are modules, their adapters are products too: of rank 64 in tiles, forward and both gradients of each matrix.
        let adapters = f64::from(3 * 3 * 4 * 3 * 2 * 32 * 64 * (256 + 640));
        assert_eq!(of(true, lora(&["q_proj", "w1", "w2", "w3"], &[]), false), 2.0 * each + 3.0 * adapters);
    }
}
