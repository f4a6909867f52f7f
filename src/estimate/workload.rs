//! The tokens of a job: the rows that are executed, and the documents in them.
//!
//! What is executed are rows of some length, pads included. What is trained on are documents. The two are the same where every row is one document of
//! full length; else the difference is padding, or what packing puts together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::EstimateError;

/// No row is longer.
const LONGEST: u64 = 1 << 31;

/// So many rows of one length; for an encoder and a decoder, of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// How many.
    pub rows: u64,
    /// Tokens of each; the encoder's, where there is one.
    pub length: u64,
    /// The decoder's; 0 where there is no encoder.
    #[serde(default)]
    pub decoder_length: u64,
}

impl Shape {
    /// Rows of one length.
    #[must_use]
    pub fn new(rows: u64, length: u64) -> Self {
        Self { rows, length, decoder_length: 0 }
    }
}

/// How rows are made of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filling {
    /// Every document is a row of its own length.
    None,
    /// Filled up to the longest of the batch.
    Longest,
    /// Filled up to the longest row there may be.
    Max,
    /// Rows of the longest length, made of documents one after the other; attention stays within a document.
    Packed,
    /// The same, and attention goes across.
    PackedAcross,
}

/// What a job is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Rows as they are executed.
    pub executed: Vec<Shape>,
    /// Documents, without pads.
    pub documents: Vec<Shape>,
    /// Attention works on documents, not on rows: packed rows with their bounds.
    pub attention_by_document: bool,
}

impl Workload {
    /// Documents by their lengths, filled into rows. `rows_per_batch` and `longest` matter for padding and packing.
    ///
    /// # Errors
    /// When a length is 0 or too long, or the tokens are more than a 64-bit integer holds.
    pub fn new(documents: Vec<Shape>, filling: Filling, rows_per_batch: u64, longest: Option<u64>) -> Result<Self, EstimateError> {
        check(&documents)?;
        let documents = merged(documents);
        let most = documents.iter().map(|s| s.length).max().unwrap_or(1);
        let longest = longest.unwrap_or(most);
        if longest < most {
            return Err(EstimateError::Contradiction {
                field: "sequence length".to_owned(),
                value: longest.to_string(),
                other: "longest document".to_owned(),
                other_value: most.to_string(),
                why: "documents must fit a row: truncate them first".to_owned(),
            });
        }
        let total = tokens(&documents)?;
        let executed = match filling {
            Filling::None => documents.clone(),
            Filling::Max => {
                merged(documents.iter().map(|s| Shape { length: longest, decoder_length: most_decoder(&documents), ..*s }).collect())
            }
            Filling::Longest => padded_to_longest(&documents, rows_per_batch.max(1)),
            Filling::Packed | Filling::PackedAcross => {
                let (rows, rest) = (total / longest, total % longest);
                let mut rows = vec![Shape::new(rows, longest)];
                // The last row is filled up.
                rows.extend((rest > 0).then(|| Shape::new(1, longest)));
                merged(rows)
            }
        };
        let workload = Self { executed, documents, attention_by_document: filling == Filling::Packed };
        workload.executed_tokens()?;
        Ok(workload)
    }

    /// Rows and documents as somebody says them.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn said(executed: Vec<Shape>, documents: Vec<Shape>, attention_by_document: bool) -> Result<Self, EstimateError> {
        check(&executed)?;
        check(&documents)?;
        let workload = Self { executed, documents, attention_by_document };
        workload.real_tokens()?;
        workload.executed_tokens()?;
        Ok(workload)
    }

    /// So many tokens in rows of one length, without padding; the rest is one shorter row.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_tokens(tokens: u64, length: u64) -> Result<Self, EstimateError> {
        Self::new(rows_of(tokens, Shape::new(1, length))?, Filling::None, 1, None)
    }

    /// Tokens without pads.
    ///
    /// # Errors
    /// When they are more than a 64-bit integer holds.
    pub fn real_tokens(&self) -> Result<u64, EstimateError> {
        tokens(&self.documents)
    }

    /// Tokens with pads.
    ///
    /// # Errors
    /// When they are more than a 64-bit integer holds.
    pub fn executed_tokens(&self) -> Result<u64, EstimateError> {
        tokens(&self.executed)
    }
}

/// So many tokens in rows of one shape; the rest is one shorter row.
///
/// # Errors
/// When a row of an encoder and a decoder would have one token.
pub fn rows_of(tokens: u64, of: Shape) -> Result<Vec<Shape>, EstimateError> {
    let each = of.length.saturating_add(of.decoder_length).max(1);
    let (mut rows, mut rest) = (tokens / each, tokens % each);
    if rest == 1 && rows > 0 && of.decoder_length > 0 {
        // One token is no row: the last one is longer by it.
        (rows, rest) = (rows - 1, each + 1);
    }
    let mut shapes = vec![Shape { rows, ..of }];
    if rest > 0 && of.decoder_length == 0 {
        shapes.push(Shape { rows: 1, length: rest, decoder_length: 0 });
    } else if rest == 1 {
        return Err(EstimateError::Wrong {
            field: "tokens".to_owned(),
            value: "1".to_owned(),
            expected: "a token for the encoder and one for the decoder at least".to_owned(),
        });
    } else if rest > 0 {
        let share = u128::from(rest) * u128::from(of.length) / u128::from(each);
        let length = u64::try_from(share).unwrap_or(rest).clamp(1, rest - 1);
        shapes.push(Shape { rows: 1, length, decoder_length: rest - length });
    }
    shapes.retain(|s| s.rows > 0);
    Ok(shapes)
}

/// Documents seen so many times. Of a part of an epoch their tokens are rounded, all together, and each length has its share of them.
///
/// # Errors
/// When there are more rows than a 64-bit integer holds, or not one token.
pub fn epochs(documents: &[Shape], epochs: f64) -> Result<Vec<Shape>, EstimateError> {
    let too_many = || EstimateError::TooLarge { field: "epochs".to_owned(), why: "rows x length x epochs must stay below 2^63".to_owned() };
    if !epochs.is_finite() || epochs >= 9_223_372_036_854_775_808.0 {
        return Err(too_many());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^63, and negative ones are none")]
    let (whole, part) = (epochs.trunc() as u64, epochs.fract());
    let mut seen = Vec::new();
    let (mut all, mut given) = (0u128, 0u128);
    for (n, s) in documents.iter().enumerate() {
        seen.push(Shape { rows: s.rows.checked_mul(whole).ok_or_else(too_many)?, ..*s });
        let each = u128::from(s.length) + u128::from(s.decoder_length);
        all += u128::from(s.rows) * each;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a sum that is not negative")]
        let due = (all as f64 * part).round() as u128 - given;
        // What is left of a row goes to the next length; of the last one it is a shorter row.
        let now = if n + 1 == documents.len() { due } else { due - due % each.max(1) };
        seen.extend(rows_of(u64::try_from(now).map_err(|_| too_many())?, *s)?);
        given += now;
    }
    seen.retain(|s| s.rows > 0);
    if seen.is_empty() {
        return Err(EstimateError::Wrong {
            field: "epochs".to_owned(),
            value: epochs.to_string(),
            expected: "one token to train on at least".to_owned(),
        });
    }
    Ok(seen)
}

/// Reads a distribution of lengths: JSON (`[512, 300, ...]` or `{"512": 7, ...}`), or lines of a length and how often it occurs (`512 7`, `512,7`).
///
/// # Errors
/// When an entry is neither, with its place.
pub fn lengths(text: &str) -> Result<Vec<Shape>, EstimateError> {
    let wrong = |at: &str, value: &str| EstimateError::Wrong {
        field: format!("lengths, {at}"),
        value: value.chars().take(60).collect(),
        expected: "a positive length and how often it occurs".to_owned(),
    };
    let positive = |n: Option<u64>| n.filter(|n| *n > 0);
    let mut shapes = Vec::new();
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(serde_json::Value::Array(list)) => {
            for (i, entry) in list.iter().enumerate() {
                let length = positive(entry.as_u64()).ok_or_else(|| wrong(&format!("entry {i}"), &entry.to_string()))?;
                shapes.push(Shape::new(1, length));
            }
        }
        Ok(serde_json::Value::Object(map)) => {
            for (key, rows) in &map {
                let entry = positive(key.parse().ok()).zip(positive(rows.as_u64()));
                let (length, rows) = entry.ok_or_else(|| wrong(&format!("entry {key:?}"), &rows.to_string()))?;
                shapes.push(Shape::new(rows, length));
            }
        }
        _ => {
            for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
                let mut parts = line.split([',', ' ', '\t']).filter(|p| !p.is_empty()).map(|p| positive(p.parse().ok()));
                let entry = match (parts.next(), parts.next(), parts.next()) {
                    (Some(Some(length)), None, _) => Some(Shape::new(1, length)),
                    (Some(Some(length)), Some(Some(rows)), None) => Some(Shape::new(rows, length)),
                    _ => None,
                };
                shapes.push(entry.ok_or_else(|| wrong(&format!("line {}", i + 1), line))?);
            }
        }
    }
    if shapes.is_empty() {
        return Err(wrong("all of it", "empty"));
    }
    Ok(merged(shapes))
}

/// Refuses lengths that no row has.
fn check(shapes: &[Shape]) -> Result<(), EstimateError> {
    match shapes.iter().find(|s| s.length == 0 || s.length > LONGEST || s.decoder_length > LONGEST) {
        None => Ok(()),
        Some(shape) => Err(EstimateError::Wrong {
            field: "sequence length".to_owned(),
            value: shape.length.max(shape.decoder_length).to_string(),
            expected: format!("1 to {LONGEST}"),
        }),
    }
}

/// Tokens of all rows. Beyond 2^63 nothing that is called a training run is meant.
fn tokens(shapes: &[Shape]) -> Result<u64, EstimateError> {
    let each = |s: &Shape| s.rows.checked_mul(s.length + s.decoder_length);
    let sum = shapes.iter().try_fold(0u64, |sum, s| sum.checked_add(each(s)?));
    sum.filter(|n| *n < 1 << 63).ok_or_else(|| EstimateError::TooLarge {
        field: "tokens".to_owned(),
        why: "rows x length x epochs must stay below 2^63".to_owned(),
    })
}

fn most_decoder(shapes: &[Shape]) -> u64 {
    shapes.iter().map(|s| s.decoder_length).max().unwrap_or(0)
}

fn merged(shapes: Vec<Shape>) -> Vec<Shape> {
    let mut rows: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for s in shapes.into_iter().filter(|s| s.rows > 0) {
        let n = rows.entry((s.length, s.decoder_length)).or_default();
        *n = n.saturating_add(s.rows);
    }
    rows.into_iter().map(|((length, decoder_length), rows)| Shape { rows, length, decoder_length }).collect()
}

/// Rows drawn at random, filled up to the longest of their batch: the distribution of the largest of `batch` draws. Rows are whole; what rounding
/// leaves over goes to the longest length.
fn padded_to_longest(documents: &[Shape], batch: u64) -> Vec<Shape> {
    let total: u64 = documents.iter().map(|s| s.rows).sum();
    let decoder_length = most_decoder(documents);
    let (mut below, mut given, mut shapes) = (0u64, 0u64, Vec::new());
    for (i, s) in documents.iter().enumerate() {
        below += s.rows;
        let share = (below as f64 / total.max(1) as f64).powf(batch as f64);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a u64")]
        let upto = if i + 1 == documents.len() { total } else { ((share * total as f64).round() as u64).min(below) };
        shapes.push(Shape { rows: upto.saturating_sub(given), length: s.length, decoder_length });
        given = given.max(upto);
    }
    merged(shapes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn documents() -> impl Strategy<Value = Vec<Shape>> {
        prop::collection::vec((1u64..10_000, 1u64..5000).prop_map(|(rows, length)| Shape::new(rows, length)), 1..20)
    }

    proptest! {
        #[test]
        fn filling_adds_pads_and_loses_nothing(shapes in documents(), batch in 1u64..64) {
            for filling in [Filling::None, Filling::Longest, Filling::Max, Filling::Packed, Filling::PackedAcross] {
                let w = Workload::new(shapes.clone(), filling, batch, None).unwrap();
                let (real, executed) = (w.real_tokens().unwrap(), w.executed_tokens().unwrap());
                prop_assert_eq!(real, shapes.iter().map(|s| s.rows * s.length).sum::<u64>());
                prop_assert!(executed >= real || filling == Filling::Longest && batch == 1, "{:?}: {} of {}", filling, executed, real);
                if filling == Filling::None || (filling == Filling::Longest && batch == 1) {
                    prop_assert!(executed.abs_diff(real) <= 20 * 5000);
                }
                if matches!(filling, Filling::None | Filling::Longest | Filling::Max) {
                    let rows = |s: &[Shape]| s.iter().map(|s| s.rows).sum::<u64>();
                    prop_assert_eq!(rows(&w.executed), rows(&w.documents));
                }
            }
        }

        #[test]
        fn larger_batches_have_more_pads(shapes in documents()) {
            let tokens = |batch| Workload::new(shapes.clone(), Filling::Longest, batch, None).unwrap().executed_tokens().unwrap();
            prop_assert!(tokens(2) <= tokens(8) && tokens(8) <= tokens(64));
        }
    }

    #[test]
    fn distributions_are_read_as_people_write_them() {
        let two = vec![Shape::new(3, 100), Shape::new(1, 512)];
        for text in ["[100, 512, 100, 100]", r#"{"100": 3, "512": 1}"#, "100 3\n512 1\n", "512\n100,3", "100\t3\n\n512"] {
            assert_eq!(lengths(text).unwrap(), two, "{text}");
        }
        for (text, at) in [
            ("[1, -5]", "entry 1"),
            (r#"{"x": 1}"#, "entry"),
            ("100 3\nten", "line 2"),
            ("", "empty"),
            ("0 5", "line 1"),
            ("1 2 3", "line 1"),
        ] {
            let error = lengths(text).unwrap_err().to_string();
            assert!(error.contains(at), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_part_of_an_epoch_has_its_share_of_the_tokens(shapes in documents(), seen in 0.001f64..4.0, decoder_length in 0u64..50) {
            let shapes: Vec<_> = shapes.into_iter().map(|s| Shape { length: s.length + 1, decoder_length, ..s }).collect();
            let all = tokens(&shapes).unwrap();
            // Too few for a row of an encoder and a decoder is an error.
            prop_assume!(all as f64 * seen.fract() > 10.0);
            let part = epochs(&shapes, seen).unwrap();
            prop_assert_eq!(tokens(&part).unwrap(), all * seen.trunc() as u64 + (all as f64 * seen.fract()).round() as u64);
            let longest = |s: &[Shape]| s.iter().map(|s| s.length).max();
            prop_assert!(longest(&part) <= longest(&shapes).map(|l| l + 1), "no row is longer, but for one token that is none by itself");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert!(Workload::of_tokens(u64::MAX, 4096).unwrap_err().to_string().contains("2^63"));
        assert!(Workload::new(vec![Shape::new(1, 0)], Filling::None, 1, None).is_err());
        let error = Workload::new(vec![Shape::new(1, 100)], Filling::Max, 1, Some(50)).unwrap_err();
        assert!(error.to_string().contains("sequence length"), "{error}");
    }
}
