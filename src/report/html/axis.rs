//! Scales, ticks and colours of charts.

use super::super::figure::plain;

/// The drawing area inside a chart, in its own units.
#[derive(Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    /// Where a share (0 to 1) of the width is.
    pub(super) fn x(self, share: f64) -> f64 {
        self.left + share.clamp(0.0, 1.0) * self.width
    }

    /// Where a share of the height is, from below.
    pub(super) fn y(self, share: f64) -> f64 {
        self.top + (1.0 - share.clamp(0.0, 1.0)) * self.height
    }
}

/// A linear axis from 0 to a round number, with ticks.
pub(super) struct Axis {
    pub(super) top: f64,
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// For so many seconds, in steps of a clock.
    pub(super) fn time(span_s: f64) -> Self {
        const STEPS: [f64; 26] = [
            0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
            10_800.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0, 604_800.0,
        ];
        let (unit, name) = time_unit(span_s);
        let step = STEPS.into_iter().find(|s| *s >= span_s / 8.0).unwrap_or(span_s / 8.0);
        let ticks = (0..=9u8).map(f64::from).map(|i| i * step).take_while(|t| *t <= span_s);
        let text = |t: f64| if t == 0.0 { "0".to_owned() } else { format!("{} {name}", label(t / unit)) };
        Self { top: span_s, ticks: ticks.map(|t| (t / span_s, text(t))).collect() }
    }

    /// For values up to `most`, in units of `unit`.
    pub(super) fn new(most: f64, unit: f64) -> Self {
        let most = if most > 0.0 && most.is_finite() { most / unit } else { 1.0 };
        let raw = most / 4.0;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw).unwrap_or(raw);
        let count = (most / step).ceil();
        let ticks = (0..=4u8).map(f64::from).filter(|i| *i <= count).map(|i| (i / count, label(i * step))).collect();
        Self { top: count * step * unit, ticks }
    }
}

/// A tick's number, without needless zeros.
fn label(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    let text = plain(x, 3);
    if text.contains('.') && !text.contains('x') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The unit in which FLOP per second are read best.
pub(super) fn rate_unit(most: f64) -> (f64, &'static str) {
    match most {
        m if m >= 1e18 => (1e18, "EFLOP/s"),
        m if m >= 1e15 => (1e15, "PFLOP/s"),
        m if m >= 1e12 => (1e12, "TFLOP/s"),
        m if m >= 1e9 => (1e9, "GFLOP/s"),
        m if m >= 1e6 => (1e6, "MFLOP/s"),
        _ => (1.0, "FLOP/s"),
    }
}

/// Watts, kilowatts or megawatts.
pub(super) fn power_unit(most: f64) -> (f64, &'static str) {
    match most {
        m if m >= 1e6 => (1e6, "MW"),
        m if m >= 1e4 => (1e3, "kW"),
        _ => (1.0, "W"),
    }
}

/// Seconds, minutes, hours or days.
fn time_unit(seconds: f64) -> (f64, &'static str) {
    match seconds {
        s if s > 3.0 * 86_400.0 => (86_400.0, "days"),
        s if s > 3.0 * 3600.0 => (3600.0, "h"),
        s if s > 180.0 => (60.0, "min"),
        _ => (1.0, "s"),
    }
}

/// The class by which a number format is coloured. Formats not named here share one colour.
pub(super) fn colour(format: &str) -> &'static str {
    match format {
        "bf16" => "c1",
        "fp16" => "c2",
        "tf32" => "c3",
        f if f.starts_with("fp8") => "c4",
        "fp64" => "c5",
        f if f.starts_with("fp4") || f.starts_with("fp6") => "c6",
        _ => "c7",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_above_the_values() {
        for (most, unit, top, last) in
            [(9.3e14, 1e12, 1e15, "1000"), (600.0, 1.0, 600.0, "600"), (7.1, 1.0, 8.0, "8"), (0.0, 1.0, 1.0, "1")]
        {
            let axis = Axis::new(most, unit);
            assert!((axis.top - top).abs() < 1e-6 * top, "{most}: {}", axis.top);
            assert_eq!(axis.ticks.last().unwrap(), &(1.0, last.to_owned()), "{most}");
            assert_eq!(axis.ticks[0], (0.0, "0".to_owned()));
        }
    }
}
