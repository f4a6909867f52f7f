//! Contexts that are not where the meter expects them, and contexts that end.

use flopsprof::evidence::record::Tier;

use crate::harness::{BF16, Bench};

#[test]
fn a_context_that_is_not_primary_is_named_as_not_metered() {
    let bench = Bench::new();
    let outcome = bench.run("foreign_context", &[]);
    outcome.assert_fault("foreign-context");
    assert_eq!(outcome.counted(), [].into());
}

#[test]
fn beside_one_that_is_not_primary_the_primary_one_is_counted() {
    let bench = Bench::new();
    let outcome = bench.run("foreign_context", &["both"]);
    outcome.assert_fault("foreign-context");
    assert_eq!(outcome.counted(), [(BF16.to_owned(), outcome.truth()[BF16])].into());
}

/// The driver keeps the context from the meter, or does not say whether there is one: of a short program too it is said that it was not metered.
#[test]
fn a_context_that_the_driver_does_not_give_is_named_as_not_metered() {
    for call in ["cuDeviceGet", "cuDevicePrimaryCtxGetState", "cuDevicePrimaryCtxRetain"] {
        let bench = Bench::new().env("FLOPSPROF_SIM_FAULT_OURS", "1").fault(&format!("{call}=999"));
        let outcome = bench.run("plain", &["300", "1000"]);
        let fault = outcome.assert_fault("no-context");
        assert!(fault.device == Some(0) && fault.what.contains(call), "{fault:?}");
        assert_eq!(outcome.counted(), [].into());
    }
}

/// For a moment at the start alone: then it is metered, and nothing is said.
#[test]
fn a_context_that_the_driver_gives_a_little_later_is_metered() {
    for call in ["cuDeviceGet", "cuDevicePrimaryCtxGetState", "cuDevicePrimaryCtxRetain"] {
        let bench = Bench::new().env("FLOPSPROF_SIM_FAULT_OURS", "1").fault(&format!("{call}=999@1"));
        let outcome = bench.run("plain", &["300", "1000"]);
        assert_eq!((outcome.faults(), outcome.said.len()), (Vec::new(), 0), "{:?}", outcome.said);
        assert!(!outcome.counted().is_empty(), "{}", outcome.course());
    }
}

/// The window that is open when a program resets its device is lost with the context; before it everything is counted, after it CUPTI refuses to: the witness stands in, and
/// it is said.
#[test]
fn a_reset_device_loses_the_open_window_and_is_witnessed_from_then_on() {
    let bench = Bench::new();
    let outcome = bench.run("reset", &[]);
    let faults = outcome.faults();
    assert_eq!(faults.iter().map(|f| (f.kind.as_str(), f.device)).collect::<Vec<_>>(), [("context-lost", Some(0)); 2], "{faults:?}");
    assert!(faults[1].what.contains("after a reset") && faults[1].remedy.contains("cudaDeviceReset"), "{faults:?}");
    let (truth, counted) = (outcome.truth()[BF16], outcome.counted()[BF16]);
    assert!(counted < truth && counted * 5 >= truth, "{counted} of {truth}");
    // The second context's windows follow the first's.
    let windows = outcome.windows();
    assert!(windows.windows(2).all(|w| w[0].end_ns <= w[1].start_ns), "{}", outcome.course());
    assert!(windows.last().is_some_and(|w| w.tier == Tier::Gpm && w.why.contains("after a reset")), "{}", outcome.course());
    assert!(outcome.ledger().paths[BF16].interpolated > 0, "what was not counted is reckoned with");
}

/// The meter holds a reference of its own: the program's last one does not end the context under it, and nothing is lost.
#[test]
fn a_released_context_is_counted_to_the_end() {
    Bench::new().run("reset", &["release"]).assert_exact();
}
