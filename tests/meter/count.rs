//! Programs that behave: all they execute is counted.

use crate::harness::{Bench, FP64};

#[test]
fn every_launch_of_a_plain_program_is_counted() {
    let bench = Bench::new();
    let outcome = bench.run("plain", &["400", "1000"]);
    outcome.assert_exact();
    assert_eq!(outcome.status.code(), Some(7));
    assert!(outcome.windows().len() > 3, "windows were cut while it ran");
    assert!(outcome.ended().ended);
}

#[test]
fn launches_as_fast_as_possible_right_after_the_start_are_counted() {
    Bench::new().run("plain", &["200", "0"]).assert_exact();
}

#[test]
fn several_threads_and_streams_are_counted() {
    Bench::new().run("plain", &["300", "1000", "4"]).assert_exact();
}

#[test]
fn a_path_that_takes_turns_is_counted_in_part_and_interpolated_for_the_rest() {
    let bench = Bench::new();
    let outcome = bench.run("plain", &["2000", "1000", "1", "fp64"]);
    let (truth, counted) = (outcome.truth()[FP64], outcome.counted()[FP64]);
    assert!(0 < counted && counted < truth, "{counted} of {truth}");
    let path = &outcome.ledger().paths[FP64];
    assert_eq!(path.counted, counted);
    let off = path.total().abs_diff(truth) as f64 / truth as f64;
    assert!(off < 0.25, "{path:?} against {truth}: {off}");
    assert_eq!(outcome.said, [] as [&str; 0]);
}
