//! Tile padding: tensor cores multiply tiles, and what sticks out of a matrix is multiplied too.
//!
//! Where a census saw the products of the model, launch by launch, what they executed beyond 2·M·N·K is this line, counted ([`Lengths::padding`]).
//!
//! Else it is made by rule. An instruction of Hopper's (wgmma) is 64 rows high; libraries cut products into tiles of 64, 128 or 256 a side and 64 deep, and pick one that fits where the
//! matrix is large. So each side of a matrix of weights is rounded up to 64. It matters for adapters (rank 8 becomes 64), routers and odd
//! vocabularies; for all else it is nothing. FlashAttention works in blocks of 128 positions, whole ones along the diagonal. The kernels' own tiles
//! differ by library and version: this is an assumption, and says so.

use super::{
    census::{Census, Matched},
    lines::Confidence,
    products::Products,
};
use crate::{
    estimate::{
        method::Method,
        model::{Model, Work},
        workload::Workload,
    },
    ledger::arithmetic::add_up,
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
pub(super) struct Lengths(Vec<Length>);

struct Length {
    /// Of a batch.
    products: Products,
    /// How many batches there were of it, on average full ones.
    batches: f64,
    /// What censuses saw of it.
    seen: Option<Matched>,
}

impl Lengths {
    /// Adds a length.
    pub(super) fn add(&mut self, products: Products, batches: f64) {
        self.0.push(Length { products, batches, seen: None });
    }

    /// What all batches executed beyond 2·M·N·K, by the censuses whose launches are the products of batches of one length.
    ///
    /// # Errors
    /// In words, why there is none.
    pub(super) fn padding(mut self, censuses: &[Census]) -> Result<Padding, String> {
        let mut why = None;
        let mut matched = 0;
        for census in censuses {
            let found = self.0.iter().enumerate().map(|(at, length)| census.matched(&length.products).map(|m| (at, m)));
            let (found, not): (Vec<_>, Vec<_>) = found.partition(Result::is_ok);
            match found.into_iter().flatten().collect::<Vec<_>>().as_slice() {
                [(at, seen)] => {
                    matched += 1;
                    let sum = self.0[*at].seen.get_or_insert_default();
                    *sum = sum.plus(*seen);
                }
                [] => why = why.or(not.into_iter().find_map(Result::err)),
                _ => why = why.or(Some("its launches may be of batches of several lengths".to_owned())),
            }
        }
        let seen = self.0.iter().filter_map(|l| l.seen).fold(Matched::default(), Matched::plus);
        if seen.needed == 0 {
            return Err(
                why.map_or_else(|| "no census of training was taken".to_owned(), |why| format!("a census cannot be matched: {why}"))
            );
        }
        // A length that no census saw is taken to be like those that one did.
        let excess = |m: Matched| m.executed.saturating_sub(m.needed) as f64 / m.needed as f64;
        let of = |l: &Length| l.batches * l.products.flop() as f64 * excess(l.seen.unwrap_or(seen));
        let all_seen = self.0.iter().all(|l| l.seen.is_some());
        let others = if all_seen { "" } else { ", and other lengths are taken to be like these" };
        Ok(Padding {
            flop: self.0.iter().map(of).sum(),
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

/// Experts get uneven shares of a batch: each one's last tile is half empty on average.
pub(super) fn experts(model: &Model, method: &Method, workload: &Workload, batches: u64, checkpointing: bool) -> f64 {
    let tokens = add_up(workload.executed.iter().map(|s| s.rows.saturating_mul(s.length)));
    if tokens == 0 {
        return 0.0;
    }
    let trained = !matches!(method, Method::Lora { .. });
    let passes = 2.0 + f64::from(u8::from(trained)) + f64::from(u8::from(checkpointing));
    let of = |l: &crate::estimate::model::Linear| {
        let empty = (l.stored * SIDE / 2) as f64 * batches as f64;
        passes * 2.0 * empty * l.inputs as f64 * l.outputs as f64
    };
    model.linears().map(|(_, l)| l).filter(|l| l.stored > 1).map(of).sum()
}
