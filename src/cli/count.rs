//! Counts as people write them.

/// A count: digits, a number with K, M, B (G) or T behind it, or with an exponent; whole, and below 2^63. It is read digit by digit: no float rounds it.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a positive whole number (8030261248, 8.03B, 8.03e9)");
    let (number, scale) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 3),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 6),
        Some(b'B' | b'b' | b'G' | b'g') => (&text[..text.len() - 1], 9),
        Some(b'T' | b't') => (&text[..text.len() - 1], 12),
        _ => (text, 0),
    };
    let (number, exponent) = match number.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i32>().map_err(|_| wrong())?),
        None => (number, 0),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{part}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let significant = digits.trim_end_matches('0');
    let zeros = digits.len() - significant.len();
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Err(wrong());
    }
    // What stands behind the last digit that is not 0: places of which a fraction would have some.
    let places = |n: usize| i64::try_from(n).unwrap_or(i64::from(u32::MAX));
    let behind = i64::from(exponent) + i64::from(scale) + places(zeros) - places(part.len());
    if behind < 0 {
        return Err(wrong());
    }
    let too_large = || format!("`{text}` is too large: it must stay below 2^63");
    let tens = u32::try_from(behind).ok().and_then(|n| 10u64.checked_pow(n)).ok_or_else(too_large)?;
    significant.parse::<u64>().ok().and_then(|n| n.checked_mul(tens)).filter(|n| *n < 1 << 63).ok_or_else(too_large)
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn counts_are_read_as_people_write_them() {
        for (text, n) in [
            ("8030261248", 8_030_261_248),
            ("8.03B", 8_030_000_000),
            ("1e9", 1_000_000_000),
            ("70b", 70_000_000_000),
            ("1.5M", 1_500_000),
            ("0.5k", 500),
            ("2.0", 2),
            ("1.50e1", 15),
            ("1200e-2", 12),
            (".5M", 500_000),
            ("007", 7),
            ("9.2e18", 9_200_000_000_000_000_000),
            ("9223372036854775807", (1 << 63) - 1),
            // As a float it would be 1 more.
            ("9007199254740.993K", 9_007_199_254_740_993),
        ] {
            assert_eq!(count(text), Ok(n), "{text}");
        }
        for wrong in [
            "0", "0.0", "-5", "", "B", ".", "NaN", "inf", "ten", "1.5", "0.9999", "1.0001K", "1e-3", "1,000", "1_000", "+5", " 5", "1e",
            "1e9e", "5 M",
        ] {
            assert!(count(wrong).is_err_and(|e| e.contains("positive whole number")), "{wrong}");
        }
        for large in ["9.3e18", "1e30", "10000000T", "99999999999999999999", "9223372036854775808", "18446744073709551615", "1e999999999"] {
            assert!(count(large).is_err_and(|e| e.contains("2^63")), "{large}");
        }
    }
}
