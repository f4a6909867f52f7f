//! Tile padding, by rule: tensor cores multiply tiles, and what sticks out of a matrix is multiplied too.
//!
//! An instruction of Hopper's (wgmma) is 64 rows high; libraries cut products into tiles of 64, 128 or 256 a side and 64 deep, and pick one that fits where the
//! matrix is large. So each side of a matrix of weights is rounded up to 64. It matters for adapters (rank 8 becomes 64), routers and odd
//! vocabularies; for all else it is nothing. FlashAttention works in blocks of 128 positions, whole ones along the diagonal. The kernels' own tiles
//! differ by library and version: this is an assumption, and says so.

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
