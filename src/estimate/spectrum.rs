//! Spectrum's choice of what is trained: its YAML file, with patterns of parameters by name.

use serde_json::Value;

use super::EstimateError;

/// The field of its file.
const FIELD: &str = "unfrozen_parameters";

/// The patterns of a file.
///
/// # Errors
/// When it is not YAML, or holds no list of patterns.
pub fn patterns(text: &str) -> Result<Vec<String>, EstimateError> {
    let wrong =
        |value: &str, expected: String| EstimateError::Wrong { field: FIELD.to_owned(), value: value.chars().take(60).collect(), expected };
    let list = "a list of patterns of parameters' names";
    let read: Value = serde_saphyr::from_str(text).map_err(|e| {
        let why = e.to_string();
        wrong("not there", format!("YAML with {list} ({})", why.lines().next().unwrap_or_default()))
    })?;
    let Some(said) = read.get(FIELD) else { return Err(wrong("not there", list.to_owned())) };
    let patterns = said.as_array().and_then(|all| all.iter().map(|p| Some(p.as_str()?.to_owned())).collect::<Option<Vec<_>>>());
    patterns.filter(|all| !all.is_empty()).ok_or_else(|| wrong(&said.to_string(), list.to_owned()))
}
