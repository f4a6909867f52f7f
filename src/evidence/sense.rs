//! What no line of evidence says, whoever wrote it: numbers that no machine has, paths without a name.
//!
//! JSON and types let these pass. A line that says one was changed after it was written, and is taken for one that cannot be read, so that nothing behind the
//! reader has to think of infinite peaks. Whole numbers may be as large as they like: sums of them stop ([`crate::ledger::arithmetic`]).

use std::collections::BTreeMap;

use super::{
    record::{NvmlReading, Record},
    witness::PmReading,
};

/// FLOP that no GPU does in one cycle: a GB300 does 10^7.
pub(crate) const PEAK: f64 = 1e12;
/// Per cent that no reading of NVML is. What is a little below none or above all is measurement.
pub(crate) const PERCENT: f64 = 1e6;

/// What is wrong with a record, in words; none if it makes sense.
#[must_use]
pub fn nonsense(record: &Record) -> Option<String> {
    match record {
        Record::Device(device) => device
            .peak_flop_per_cycle
            .iter()
            .find(|(path, peak)| path.is_empty() || !(0.0..=PEAK).contains(*peak))
            .map(|(path, peak)| format!("a peak of {peak:e} FLOP per cycle of path {path:?}")),
        Record::Plan(plan) => {
            let mut paths = plan.groups.iter().flatten().chain(&plan.uncovered);
            paths.any(String::is_empty).then(|| "a path without a name".to_owned())
        }
        Record::Window(window) => {
            let share = window.spent.as_ref().map_or(0.0, |s| s.share);
            if !(0.0..=1.0).contains(&share) {
                return Some(format!("a budget of {share:e} of the time"));
            }
            nameless(&window.counts).or_else(|| window.nvml.as_ref().and_then(reading))
        }
        Record::Kernels(kernels) => kernels.kernels.iter().find_map(|k| nameless(&k.counts)),
        Record::Reading(r) => reading(&r.nvml),
        Record::Interval(interval) => interval.devices.iter().filter_map(|d| d.pm.as_ref()).find_map(sampled),
        Record::Fault(fault) => fault.kind.is_empty().then(|| "a fault without a name".to_owned()),
        _ => None,
    }
}

fn nameless(counts: &BTreeMap<String, u128>) -> Option<String> {
    counts.contains_key("").then(|| "a path without a name".to_owned())
}

fn reading(nvml: &NvmlReading) -> Option<String> {
    let readings = [nvml.gpm_hmma_pct, nvml.gpm_dmma_pct, nvml.gpm_any_tensor_pct];
    readings.into_iter().flatten().find(|percent| percent.abs() > PERCENT).map(|percent| format!("a tensor activity of {percent:e} %"))
}

fn sampled(pm: &PmReading) -> Option<String> {
    if !(0.0..=PEAK).contains(&pm.peak) {
        return Some(format!("a peak of {:e} tensor cycles in a cycle", pm.peak));
    }
    // Without a peak, or cycles that passed, nothing is made of it.
    let most = pm.peak * pm.elapsed_cycles as f64;
    let percent = 100.0 * pm.tensor_cycles as f64 / most;
    (most > 0.0 && percent > PERCENT).then(|| format!("a tensor activity of {percent:e} %"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{
        record::{Device, Fault, Reading},
        witness::{Interval, OnDevice},
    };

    #[test]
    fn what_no_machine_says_is_named() {
        let device = |peak| Record::Device(Box::new(Device { peak_flop_per_cycle: [("p".to_owned(), peak)].into(), ..Device::default() }));
        assert_eq!(nonsense(&device(540_672.0)), None);
        assert!(nonsense(&device(1e308)).is_some_and(|w| w.contains("1e308")));
        assert!(nonsense(&device(-1.0)).is_some());
        let percent = |p| Record::Reading(Reading { device: 0, nvml: NvmlReading { gpm_hmma_pct: Some(p), ..NvmlReading::default() } });
        assert_eq!((nonsense(&percent(-0.01)), nonsense(&percent(100.2))), (None, None));
        assert!(nonsense(&percent(-1e9)).is_some());
        let pm = |peak, tensor_cycles| {
            let pm = PmReading { peak, tensor_cycles, elapsed_cycles: 1000, samples: 1, ..PmReading::default() };
            Record::Interval(Box::new(Interval { devices: vec![OnDevice { pm: Some(pm), ..OnDevice::default() }], ..Interval::default() }))
        };
        assert_eq!((nonsense(&pm(528.0, 528_000)), nonsense(&pm(0.0, 7))), (None, None));
        assert!(nonsense(&pm(f64::NAN, 1)).is_some() && nonsense(&pm(-1.0, 1)).is_some());
        assert!(nonsense(&pm(1e-9, u64::MAX)).is_some_and(|w| w.contains("tensor activity")));
        assert!(
            nonsense(&Record::Fault(Fault { kind: String::new(), device: None, what: String::new(), remedy: String::new() })).is_some()
        );
    }
}
