//! Operations where nothing was counted: activity times peak.
//!
//! Only for a device on which a process has no counted window at all: elsewhere the counted windows say more. GPM's tensor activity and NVML's busy time are
//! the whole device's, so what they give is an upper bound for one of several processes on it; the report says so.

use serde::Serialize;

use super::track::Track;
use crate::evidence::record::{Tier, Window};

/// An estimate, and what it is made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimated {
    /// [`Tier::Gpm`] or [`Tier::Utilization`].
    pub tier: Tier,
    /// Device name.
    pub device: String,
    /// FLOP; none where no peak is known for the chip.
    pub flop: Option<f64>,
    /// Seconds it covers.
    pub seconds: f64,
    /// Why nothing was counted.
    pub why: String,
}

/// FLOP of one multiprocessor in one cycle at the dense 16-bit tensor peak, by compute capability: NVIDIA's published dense peaks divided by
/// multiprocessors and boost clock. V100 125 TFLOP/s (80, 1.53 GHz), A100 312 (108, 1.41), A10 125 (72, 1.695), L40 181 (142, 2.49), H100 SXM 989
/// (132, 1.83).
const PEAK_PER_SM_CYCLE: [((u32, u32), f64); 5] = [((7, 0), 1024.0), ((8, 0), 2048.0), ((8, 6), 1024.0), ((8, 9), 512.0), ((9, 0), 4096.0)];

/// Estimates a track that has no counted window; nothing for one that has.
#[must_use]
pub fn estimate(track: &Track) -> Vec<Estimated> {
    if track.counted() {
        return Vec::new();
    }
    [Tier::Gpm, Tier::Utilization].into_iter().filter_map(|tier| of_tier(track, tier)).collect()
}

fn of_tier(track: &Track, tier: Tier) -> Option<Estimated> {
    let windows: Vec<&Window> = track.windows.iter().filter(|w| w.tier == tier).collect();
    let first = windows.first()?;
    let peak = peak(track);
    let mut flop = peak.map(|_| 0.0);
    let mut seconds = 0.0;
    for window in &windows {
        let length = (window.end_ns - window.start_ns) as f64 / 1e9;
        seconds += length;
        let reading = window.nvml.clone().unwrap_or_default();
        let percent = match tier {
            Tier::Gpm => reading.gpm_hmma_pct.or(reading.gpm_any_tensor_pct),
            _ => reading.gpu_utilization_pct.map(f64::from),
        };
        let clock = reading.sm_clock_mhz.map_or(f64::from(track.device.max_sm_clock_mhz), f64::from) * 1e6;
        flop = flop.zip(peak).zip(percent).map(|((sum, per_cycle), pct)| sum + per_cycle * clock * length * pct / 100.0);
    }
    Some(Estimated { tier, device: track.device.name.clone(), flop, seconds, why: first.why.clone() })
}

/// FLOP per cycle of the whole device at the dense 16-bit tensor peak.
fn peak(track: &Track) -> Option<f64> {
    let device = &track.device;
    let said = device.peak_flop_per_cycle.iter().filter(|(m, _)| m.contains("src_bf16") || m.contains("src_fp16")).map(|(_, p)| *p);
    said.reduce(f64::max).or_else(|| {
        let per_sm = PEAK_PER_SM_CYCLE.iter().find(|(cc, _)| *cc == device.compute_capability)?.1;
        (device.sm_count > 0).then(|| per_sm * f64::from(device.sm_count))
    })
}
