//! Numbers as people write them: significant figures, orders of magnitude, days, bands.

use std::fmt;

/// `mantissa`×10^`exponent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scientific {
    /// With as many figures as were asked for.
    pub mantissa: String,
    /// Of ten.
    pub exponent: i32,
}

impl fmt::Display for Scientific {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x10^{}", self.mantissa, self.exponent)
    }
}

/// A whole number to so many significant figures, halves upwards, exactly. None for 0, which has none.
#[must_use]
pub fn whole(n: u128, figures: usize) -> Option<Scientific> {
    let digits = n.to_string();
    let (exponent, figures) = (digits.len() - 1, figures.max(1));
    if n == 0 {
        return None;
    }
    let mut kept: String = digits.chars().chain(std::iter::repeat('0')).take(figures).collect();
    let mut exponent = i32::try_from(exponent).unwrap_or(i32::MAX);
    if digits.as_bytes().get(figures).is_some_and(|next| *next >= b'5') {
        kept = (kept.parse::<u128>().unwrap_or(0) + 1).to_string();
        // 9.96 became 10.0.
        if kept.len() > figures {
            kept.pop();
            exponent += 1;
        }
    }
    let mantissa = if figures == 1 { kept } else { format!("{}.{}", &kept[..1], &kept[1..]) };
    Some(Scientific { mantissa, exponent })
}

/// A positive amount to so many significant figures: 0.0042, 1.5, 380, 4.0x10^5.
#[must_use]
pub fn plain(x: f64, figures: usize) -> String {
    if x <= 0.0 || !x.is_finite() {
        return "0".to_owned();
    }
    let rounded = format!("{:.*e}", figures.max(1) - 1, x);
    let (mantissa, exponent) = rounded.split_once('e').unwrap_or((&rounded, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-3..5).contains(&exponent) {
        return Scientific { mantissa: mantissa.to_owned(), exponent }.to_string();
    }
    let decimals = usize::try_from(i32::try_from(figures).unwrap_or(2) - 1 - exponent).unwrap_or(0);
    let value: f64 = rounded.parse().unwrap_or(x);
    format!("{value:.decimals$}")
}

/// As Python writes it, with the space that the AWS toolkit's format puts before a positive number: ` 1.45e+13`.
#[must_use]
pub fn python(x: f64) -> String {
    let rounded = format!("{x:.2e}");
    let (mantissa, exponent) = rounded.split_once('e').unwrap_or((&rounded, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
    format!(" {mantissa}e{sign}{digits:0>2}")
}

/// How long, in the unit that fits.
#[must_use]
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.2} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.2} h", s / 3600.0),
        s => format!("{:.2} days", s / 86_400.0),
    }
}

/// Seconds since 1970 as a date and time, UTC.
#[must_use]
pub fn utc(unix_s: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "a float saturates")]
    let seconds = unix_s.round() as i64;
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days.
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The national authorities' band of a training time.
#[must_use]
pub fn time_band(days: f64) -> &'static str {
    const MONTH: f64 = 365.25 / 12.0;
    match days / MONTH {
        m if m < 1.0 => "less than 1 month",
        m if m < 3.0 => "1 to 3 months",
        m if m < 6.0 => "3 to 6 months",
        _ => "more than 6 months",
    }
}

/// The band of a number of parameters.
#[must_use]
pub fn parameter_band(n: u64) -> &'static str {
    match n {
        0..500_000_000 => "1 to 500 million",
        500_000_000..5_000_000_000 => "500 million to 5 billion",
        5_000_000_000..15_000_000_000 => "5 to 15 billion",
        15_000_000_000..50_000_000_000 => "15 to 50 billion",
        50_000_000_000..100_000_000_000 => "50 to 100 billion",
        100_000_000_000..500_000_000_000 => "100 to 500 billion",
        500_000_000_000..1_000_000_000_000 => "500 billion to 1 trillion",
        _ => "more than 1 trillion",
    }
}

/// Ranges of numbers, first and last: `1-3, 7`.
#[must_use]
pub fn ranges(parts: &[(u64, u64)]) -> String {
    parts.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_significant_figures() {
        for (n, says) in [
            (24_000_000_000_000_000_000_000_000, "2.4x10^25"),
            (24_500_000_000_000_000_000_000_000, "2.5x10^25"),
            (24_499_999_999_999_999_999_999_999, "2.4x10^25"),
            (99_600, "1.0x10^5"),
            (7, "7.0x10^0"),
        ] {
            assert_eq!(whole(n, 2).unwrap().to_string(), says);
        }
        assert_eq!(whole(9_500, 1).unwrap().to_string(), "1x10^4");
        assert_eq!(whole(0, 2), None);
        for (x, says) in [(0.004_21, "0.0042"), (1.0, "1.0"), (380.4, "380"), (99.6, "100"), (412_000.0, "4.1x10^5"), (2e-5, "2.0x10^-5")] {
            assert_eq!(plain(x, 2), says);
        }
    }

    #[test]
    fn numbers_as_the_aws_toolkit_writes_them() {
        assert_eq!(
            (python(1.447e13), python(3.3e22), python(2e-7)),
            (" 1.45e+13".to_owned(), " 3.30e+22".to_owned(), " 2.00e-07".to_owned())
        );
    }

    #[test]
    fn dates_and_bands() {
        assert_eq!(utc(1_767_225_600.0), "2026-01-01 00:00:00 UTC");
        assert_eq!(utc(951_827_696.0), "2000-02-29 12:34:56 UTC");
        assert_eq!(
            [10.0, 40.0, 100.0, 200.0].map(time_band),
            ["less than 1 month", "1 to 3 months", "3 to 6 months", "more than 6 months"]
        );
        assert_eq!(parameter_band(8_030_261_248), "5 to 15 billion");
        assert_eq!(ranges(&[(1, 3), (7, 7), (9, 10)]), "1-3, 7, 9-10");
    }

    proptest! {
        /// A rounded number lies within half a unit of its last figure.
        #[test]
        fn rounding_is_within_half_a_unit(n in 1u128..u128::MAX / 100, figures in 1usize..5) {
            let s = whole(n, figures).unwrap();
            let last = i32::try_from(figures).unwrap() - 1;
            let mantissa: u128 = s.mantissa.replace('.', "").parse().unwrap();
            if s.exponent >= last {
                let unit = 10u128.pow(u32::try_from(s.exponent - last).unwrap());
                prop_assert!((mantissa * unit).abs_diff(n) <= unit / 2, "{s} of {n}");
            } else {
                prop_assert_eq!(mantissa, n * 10u128.pow(u32::try_from(last - s.exponent).unwrap()));
            }
        }
    }
}
