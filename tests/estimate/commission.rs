//! The worked examples of the Commission's guidelines, Annex A.3 (C(2025) 5045).

use flopsprof::estimate::{cost::Kernel, gpu::hardware_method, job::Job, method::Method, workload::Workload};

/// 6 P D of an unknown architecture, FLOP.
fn six_nd(parameters: u64, tokens: u64) -> String {
    let job = Job {
        model: None,
        parameters: Some(parameters),
        workload: Workload::of_tokens(tokens, 1).expect("a workload"),
        lengths_known: false,
        method: Method::Full,
        checkpointing: false,
        kernel: Kernel::FLASH,
        batches: 0,
    };
    let estimate = job.estimate(None).expect("an estimate");
    assert_eq!(estimate.model_flop, estimate.six_nd, "for an unknown architecture the estimate is 6ND");
    assert!(estimate.notes.iter().any(|n| n.contains("not known") && n.contains("6ND")), "it says so: {:?}", estimate.notes);
    estimate.six_nd
}

#[test]
fn the_architecture_based_examples_to_the_digit() {
    const T: u64 = 1_000_000_000_000;
    for (name, parameters, tokens, exact, printed) in [
        ("A", 3_800_000_000, 33 * T / 10, "75240000000000000000000", ["7.5e22", "7.5e22"]),
        ("C", 600_000_000, 36 * T, "129600000000000000000000", ["1.3e23", "1.3e23"]),
        ("D", 1_540_000_000, 18 * T, "166320000000000000000000", ["1.6e23", "1.7e23"]),
        ("E", 1_700_000_000, 36 * T, "367200000000000000000000", ["3.7e23", "3.7e23"]),
        ("F", 2_500_000_000, 12 * T, "180000000000000000000000", ["1.8e23", "1.8e23"]),
        // Epochs count: 61e9 tokens, 164 times.
        ("G", 2_600_000_000, 61_000_000_000 * 164, "156062400000000000000000", ["1.5e23", "1.6e23"]),
    ] {
        let ours = six_nd(parameters, tokens);
        assert_eq!(ours, exact, "{name}");
        let value: f64 = ours.parse().expect("a number");
        let truncated = format!("{:.1}e{}", (value / 10f64.powf(value.log10().floor()) * 10.0).floor() / 10.0, value.log10().floor());
        let rounded = format!("{value:.1e}");
        // One version of the annex cuts the third digit off where the other rounds.
        assert!(
            printed.contains(&rounded.as_str()) || printed.contains(&truncated.as_str()),
            "{name}: {rounded} or {truncated}, not {printed:?}"
        );
        assert_eq!(rounded, printed[1], "{name}");
    }
}

#[test]
fn the_hardware_based_examples() {
    let b = hardware_method(1.0, 200_000.0 * 3600.0, 300e12, 0.5);
    assert_eq!(format!("{b:.0e}"), "1e23");
    let h = hardware_method(1.0, 370_000.0 * 3600.0, 989e12, 0.5);
    assert_eq!(format!("{h:.1e}"), "6.6e23");
    assert_eq!(format!("{h:.6e}"), "6.586740e23");
}
