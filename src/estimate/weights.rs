//! Parameters of a model by its files of weights: the heads of safetensors files say how large each tensor is, and nothing else of them is read.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde_json::Value;

/// No head is longer.
const LONGEST: u64 = 100 << 20;

/// Counts the parameters of the weights in a folder: of the files that their index names, or of the one there is.
///
/// None where they are not all here, or hold whole numbers: weights that are packed are more than their tensors say.
#[must_use]
pub fn count(folder: &Path) -> Option<u64> {
    let index = File::open(folder.join("model.safetensors.index.json")).ok().and_then(|f| serde_json::from_reader::<_, Value>(f).ok());
    let files: BTreeSet<String> = match &index {
        Some(index) => index.get("weight_map")?.as_object()?.values().map(|v| Some(v.as_str()?.to_owned())).collect::<Option<_>>()?,
        None => BTreeSet::from(["model.safetensors".to_owned()]),
    };
    let mut all = 0u64;
    for name in files {
        all = all.checked_add(of(&folder.join(name)).ok()??)?;
    }
    Some(all).filter(|n| *n > 0)
}

/// One file's; none if it is of another form, or packed.
fn of(path: &Path) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST {
        return Ok(None);
    }
    let mut head = Vec::new();
    file.take(length).read_to_end(&mut head)?;
    Ok(serde_json::from_slice::<Value>(&head).ok().as_ref().and_then(tensors))
}

fn tensors(head: &Value) -> Option<u64> {
    let (mut real, mut whole) = (0u64, 0u64);
    for (_, tensor) in head.as_object()?.iter().filter(|(name, _)| *name != "__metadata__") {
        let sides = tensor.get("shape")?.as_array()?.iter().map(Value::as_u64);
        let size = sides.reduce(|a, b| a?.checked_mul(b?)).unwrap_or(Some(1))?;
        let dtype = tensor.get("dtype")?.as_str()?;
        let sum = if dtype.starts_with('F') || dtype.starts_with("BF") { &mut real } else { &mut whole };
        *sum = sum.checked_add(size)?;
    }
    // Positions and counters may be whole numbers.
    (whole.checked_mul(100)? <= real).then_some(real)
}
