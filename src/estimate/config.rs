//! The fields of a `config.json`, read with care: what is missing, negative or of another kind is named.

use serde_json::Value;

use super::EstimateError;

/// No dimension of a model is larger; below it, products of two of them fit 64 bits and products of four fit 128, with room for sums.
const LARGEST: u64 = 1 << 24;
/// No model has more layers: each is built.
const MOST_LAYERS: u64 = 1 << 14;

/// A configuration.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    value: &'a Value,
    model_type: &'a str,
    experts_apart: bool,
    defaults: &'static [(&'static str, u64)],
}

impl<'a> Config<'a> {
    /// Takes a parsed `config.json`.
    ///
    /// # Errors
    /// When it is no object, or does not say its `model_type`.
    pub fn new(value: &'a Value) -> Result<Self, EstimateError> {
        if !value.is_object() {
            return Err(wrong("config.json", value, "an object"));
        }
        let model_type = match value.get("model_type") {
            Some(Value::String(name)) => name.as_str(),
            Some(other) => return Err(wrong("model_type", other, "a name")),
            None => return Err(EstimateError::NoModelType),
        };
        Ok(Self { value, model_type, experts_apart: false, defaults: &[] })
    }

    /// Experts are modules of their own, as transformers had them up to its version 4, and not stacked into one parameter. No configuration says so.
    #[must_use]
    pub fn with_experts_apart(self, experts_apart: bool) -> Self {
        Self { experts_apart, ..self }
    }

    /// Whether experts are modules of their own.
    #[must_use]
    pub fn experts_apart(&self) -> bool {
        self.experts_apart
    }

    /// Sizes that hold where the configuration leaves them out: see [`Self::left_out`].
    #[must_use]
    pub(super) fn with_defaults(self, defaults: &'static [(&'static str, u64)]) -> Self {
        Self { defaults, ..self }
    }

    /// Fields that are not here, and have a default. One that is null is here.
    pub fn left_out(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.defaults.iter().copied().filter(|(field, _)| self.value.get(field).is_none())
    }

    fn default(&self, field: &str) -> Option<u64> {
        self.left_out().find(|(name, _)| *name == field).map(|(_, n)| n)
    }

    /// `model_type`.
    #[must_use]
    pub fn model_type(&self) -> &'a str {
        self.model_type
    }

    /// The configuration of a part: `text_config` of a model that also sees.
    #[must_use]
    pub fn part(&self, field: &str) -> Option<Self> {
        let value = self.value.get(field).filter(|v| v.is_object())?;
        let model_type = value.get("model_type").and_then(Value::as_str).unwrap_or(self.model_type);
        Some(Self { value, model_type, ..*self })
    }

    /// The first of `architectures`.
    #[must_use]
    pub fn class(&self) -> &'a str {
        self.value.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or("")
    }

    /// A field that is there and not null.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.value.get(field).filter(|v| !v.is_null())
    }

    /// A size that must be there.
    ///
    /// # Errors
    /// When it is missing or no positive whole number.
    pub fn size(&self, field: &str) -> Result<u64, EstimateError> {
        self.optional(field)?.ok_or_else(|| EstimateError::Missing { field: field.to_owned(), model_type: self.model_type.to_owned() })
    }

    /// A number of layers that must be there.
    ///
    /// # Errors
    /// When it is missing, or no number of layers that a model has.
    pub fn layers(&self, field: &str) -> Result<u64, EstimateError> {
        match self.size(field)? {
            n if n <= MOST_LAYERS => Ok(n),
            n => Err(wrong(field, &n.into(), &format!("a whole number from 1 to {MOST_LAYERS}"))),
        }
    }

    /// A size, or what the architecture takes where it is not given.
    ///
    /// # Errors
    /// When it is no positive whole number.
    pub fn size_or(&self, field: &str, default: u64) -> Result<u64, EstimateError> {
        Ok(self.optional(field)?.unwrap_or(default))
    }

    /// A size that may be missing or null.
    ///
    /// # Errors
    /// When it is no positive whole number.
    pub fn optional(&self, field: &str) -> Result<Option<u64>, EstimateError> {
        match self.get(field) {
            None => Ok(self.default(field)),
            Some(value) => match value.as_u64() {
                Some(n) if (1..=LARGEST).contains(&n) => Ok(Some(n)),
                _ => Err(wrong(field, value, &format!("a whole number from 1 to {LARGEST}"))),
            },
        }
    }

    /// A whole number that may be 0.
    ///
    /// # Errors
    /// When it is none.
    pub fn count_or(&self, field: &str, default: u64) -> Result<u64, EstimateError> {
        match self.get(field) {
            None => Ok(self.default(field).unwrap_or(default)),
            Some(value) => {
                value.as_u64().filter(|n| *n <= LARGEST).ok_or_else(|| wrong(field, value, &format!("a whole number from 0 to {LARGEST}")))
            }
        }
    }

    /// A switch.
    ///
    /// # Errors
    /// When it is neither true nor false.
    pub fn flag_or(&self, field: &str, default: bool) -> Result<bool, EstimateError> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(value) => Err(wrong(field, value, "true or false")),
        }
    }

    /// A share, as of dropout.
    ///
    /// # Errors
    /// When it is none.
    pub fn share_or(&self, field: &str, default: f64) -> Result<f64, EstimateError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value.as_f64().filter(|x| (0.0..=1.0).contains(x)).ok_or_else(|| wrong(field, value, "a share from 0 to 1")),
        }
    }

    /// A word.
    ///
    /// # Errors
    /// When it is none.
    pub fn word_or(&self, field: &str, default: &'a str) -> Result<&'a str, EstimateError> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::String(s)) => Ok(s),
            Some(value) => Err(wrong(field, value, "a word")),
        }
    }

    /// A list of words.
    ///
    /// # Errors
    /// When it is none.
    pub fn words(&self, field: &str) -> Result<Option<Vec<&'a str>>, EstimateError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().and_then(|a| a.iter().map(Value::as_str).collect());
        list.map(Some).ok_or_else(|| wrong(field, value, "a list of words"))
    }

    /// A list of whole numbers; empty where it is missing.
    ///
    /// # Errors
    /// When it is none.
    pub fn counts(&self, field: &str) -> Result<Vec<u64>, EstimateError> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let list = value.as_array().and_then(|a| a.iter().map(Value::as_u64).collect());
        list.ok_or_else(|| wrong(field, value, "a list of whole numbers"))
    }

    /// Labels of a classifier: `num_labels`, or the size of `id2label`, or two, as transformers has it.
    ///
    /// # Errors
    /// When either is of another kind.
    pub fn labels(&self) -> Result<u64, EstimateError> {
        if let Some(n) = self.optional("num_labels")? {
            return Ok(n);
        }
        match self.get("id2label") {
            None => Ok(2),
            Some(Value::Object(map)) if !map.is_empty() => Ok(map.len() as u64),
            Some(value) => Err(wrong("id2label", value, "an object of labels")),
        }
    }

    /// Says that a field must divide by another.
    ///
    /// # Errors
    /// When it does not.
    pub fn divides(&self, field: &str, value: u64, other: &str, by: u64) -> Result<u64, EstimateError> {
        if value.is_multiple_of(by) {
            return Ok(value / by);
        }
        Err(contradiction((field, value), (other, by), "the first must be a multiple of the second"))
    }
}

/// Two sizes that cannot both be.
pub(super) fn contradiction(one: (&str, u64), other: (&str, u64), why: &str) -> EstimateError {
    EstimateError::Contradiction {
        field: one.0.to_owned(),
        value: one.1.to_string(),
        other: other.0.to_owned(),
        other_value: other.1.to_string(),
        why: why.to_owned(),
    }
}

fn wrong(field: &str, value: &Value, expected: &str) -> EstimateError {
    let mut value = value.to_string();
    if value.len() > 60 {
        let end = (0..=57).rev().find(|i| value.is_char_boundary(*i)).unwrap_or(0);
        value.truncate(end);
        value += "...";
    }
    EstimateError::Wrong { field: field.to_owned(), value, expected: expected.to_owned() }
}
