//! A context that the meter sees late, because a file system did not answer: what ran in it before is counted by nobody, and that must be said.

use crate::{
    harness::{BF16, Bench, FP8, Outcome},
    race,
    system::shimmed,
};

/// The line of the first window takes so long; the second device is first used in that time.
fn hung(turns: &str, milliseconds: u32) -> Outcome {
    let bench = Bench::new().env("FLOPSPROF_SIM_DEVICES", "2").env("FLOPSPROF_REPORT", "0");
    let command = |metered| {
        let mut command = shimmed(&bench, metered, ("two_devices", &[turns]));
        command.env("FAULTY", format!("write=hang:{milliseconds}@1")).env("FAULTY_TEXT", "\"type\":\"window\"");
        command
    };
    let bare = race::output(&mut command(false));
    bench.compare(&bare, race::output(&mut command(true)))
}

#[test]
fn a_device_that_was_used_while_a_file_system_hung_is_said_to_be_counted_from_then_on() {
    let outcome = hung("4000", 2500);
    let fault = outcome.assert_fault("late-context");
    assert_eq!(fault.device, Some(1));
    let (truth, counted) = (outcome.truth()[FP8], outcome.counted()[FP8]);
    assert!(counted > 0 && counted < truth, "{counted} of {truth}");
    assert!(outcome.ledger().lower_bound());
}

#[test]
fn a_device_that_was_never_seen_is_said_not_to_be_counted() {
    let outcome = hung("500", 2500);
    let fault = outcome.assert_fault("late-context");
    assert_eq!((fault.device, outcome.counted().get(FP8)), (Some(1), None));
    assert!(outcome.ledger().lower_bound());
}

/// While launches on one device wait until they can be counted, another thread's on another device do not.
#[test]
fn a_device_that_was_used_while_the_meter_began_with_another_is_said_to_be_counted_from_then_on() {
    let bench = Bench::new().env("FLOPSPROF_SIM_DEVICES", "2").fault("cuptiProfilerHostGetNumOfPasses=hang:20");
    let outcome = bench.run("two_threads", &[]);
    let fault = outcome.assert_fault("late-context");
    assert_eq!(fault.device, Some(1));
    let (truth, counted) = (outcome.truth(), outcome.counted());
    assert!(counted[BF16] == truth[BF16] && counted[FP8] > 0 && counted[FP8] < truth[FP8], "{counted:?} of {truth:?}");
}
