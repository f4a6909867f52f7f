//! Three numbers that are all called utilisation, beside each other.
//!
//! *HFU* is what the hardware executed over what it could have; *MFU* is what the model needed (forward and backward, nothing twice) over the same; NVML's is
//! the share of time in which any kernel ran at all, and says nothing of how much it did.

use serde::Serialize;

use super::declared::Told;
use crate::ledger::RunTotal;

/// The numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Executed over peak.
    pub hfu: Option<f64>,
    /// Model FLOP over peak; none where the program declared no model.
    pub mfu: Option<f64>,
    /// Share of time in which a kernel ran, by NVML.
    pub nvml_utilization: Option<f64>,
    /// What NVML's share times the peak would have claimed, FLOP.
    pub nvml_would_claim: Option<f64>,
    /// That over what was measured.
    pub nvml_over_measured: Option<f64>,
}

/// Computes them.
#[must_use]
pub fn rates(told: &Told, run: &RunTotal, measured: f64, model_flop: Option<f64>) -> Rates {
    let hfu = run.peak_share();
    let nvml = (told.busy.1 > 0.0).then_some(told.busy.0 / told.busy.1);
    let at_peak = hfu.filter(|h| *h > 0.0).map(|h| measured / h);
    let claim = nvml.zip(at_peak).map(|(u, p)| u * p);
    Rates {
        hfu,
        mfu: hfu.zip(model_flop).filter(|_| measured > 0.0).map(|(h, m)| h * m / measured),
        nvml_utilization: nvml,
        nvml_would_claim: claim,
        nvml_over_measured: claim.filter(|_| measured > 0.0).map(|c| c / measured),
    }
}
