//! Tensor time: operations in the unit in which a device's own activity is told.
//!
//! NVML says for what share of the cycles a device's tensor cores were active; operations divided by what a device does in a cycle at most are cycles, too.

use std::collections::BTreeMap;

/// What was executed in a stretch of time, in cycles of a whole device at its peak. There are as many as windows, of thousands of ranks: they are kept small.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slice {
    /// When it began, the machine's own clock.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Cycles that a whole device takes for it at the path's peak.
    pub cycles: f64,
    /// The part of them of paths whose peak in operations is not their pipe's peak in cycles.
    pub loose: f32,
    /// SM clock, MHz, by the cycles that passed: right when no other context shared the device. 0 where it is not known.
    pub clock_mhz: f32,
}

/// Slices by their time.
#[derive(Clone, Debug, Default)]
pub struct Work {
    slices: BTreeMap<(u64, u64), Slice>,
    /// Operations of paths whose peak is not known.
    pub no_peak: bool,
}

impl Work {
    /// Adds operations of a path.
    pub fn add(&mut self, path: &str, peak: Option<f64>, (start_ns, end_ns): (u64, u64), flop: f64) {
        let slice = self.slices.entry((start_ns, end_ns)).or_insert(Slice { start_ns, end_ns, ..Slice::default() });
        match peak.filter(|p| *p > 0.0) {
            Some(peak) => {
                slice.cycles += flop / peak;
                // Older instructions keep the pipe active for more or fewer cycles than their peak says: FlashAttention-2 on an H200 by a third.
                slice.loose += if path.contains("op_hmma") { (flop / peak) as f32 } else { 0.0 };
            }
            None => self.no_peak |= flop > 0.0,
        }
    }

    /// Says what the clock was in a stretch.
    pub fn clock(&mut self, start_ns: u64, end_ns: u64, cycles: Option<u64>) {
        if let (Some(slice), Some(cycles)) = (self.slices.get_mut(&(start_ns, end_ns)), cycles)
            && end_ns > start_ns
        {
            slice.clock_mhz = (cycles as f64 / (end_ns - start_ns) as f64 * 1e3) as f32;
        }
    }

    /// All slices, in the order of time.
    #[must_use]
    pub fn slices(self) -> Vec<Slice> {
        self.slices.into_values().collect()
    }
}
