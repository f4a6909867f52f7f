//! Mutations that keep an input's form, so that they come past the parser.

use serde_json::Value;

use super::targets::Form;

/// Random numbers, the same for the same seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap_or(0)
    }

    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

/// Numbers at which arithmetic ends.
const NUMBERS: [&str; 21] = [
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "-0.0",
    "1e308",
    "-1e308",
    "1e-320",
    "100",
    "4096",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "60000000000",
    "1795606000000000000",
];
/// Texts that mean something somewhere.
const TEXTS: [&str; 18] = [
    "",
    "0",
    "1",
    "-1",
    "7",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211455",
    "340282366920938463463374607431768211456",
    "1e30",
    "NaN",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\u{202e}\u{0}\n\t\"\\",
    "_Z8productsiPf",
    "_ZN2at6native12_GLOBAL__N_120multi_tensor_apply_kernelINS1_28TensorListMetadataE",
    "sm__ops_path_tensor_src_fp64",
    "counted",
];

/// One mutation or some more of an input of this form.
pub(crate) fn mutate(input: &[u8], form: Form, random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        bytes = match form {
            Form::Lines if random.below(4) > 0 => lines(&bytes, random),
            Form::Json if random.below(4) > 0 => json(&bytes, random),
            _ => flip(bytes, random),
        };
    }
    bytes
}

/// Changes a few bytes.
fn flip(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    if bytes.is_empty() {
        return vec![random.next() as u8];
    }
    let at = random.below(bytes.len());
    let end = (at + 1 + random.below(16)).min(bytes.len());
    match random.below(5) {
        0 => bytes[at] = random.next() as u8,
        1 => bytes[at] ^= 1 << random.below(8),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let piece = bytes[at..end].to_vec();
            let into = random.below(bytes.len());
            bytes.splice(into..into, piece);
        }
        _ => {
            let piece = if random.below(2) == 0 { random.of(&NUMBERS) } else { random.of(&TEXTS) };
            bytes.splice(at..at, piece.bytes());
        }
    }
    bytes
}

/// Changes a value in a line, or the lines.
fn lines(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let (one, other) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(12) {
        0 => drop(lines.remove(one)),
        1 => {
            let line = lines[one].clone();
            lines.insert(other, line);
        }
        2 => lines.swap(one, other),
        3 => {
            let cut = lines[one].len() / 2;
            lines[one].truncate(cut);
        }
        _ => lines[one] = json(&lines[one], random),
    }
    lines.join(&b'\n')
}

/// Changes a value somewhere in a JSON value.
fn json(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return flip(bytes.to_vec(), random) };
    let which = random.below(count(&value));
    change(&mut value, which, random);
    serde_json::to_vec(&value).unwrap_or_default()
}

/// Values in a value, itself included.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn change(value: &mut Value, mut which: usize, random: &mut Random) {
    if which == 0 {
        return replace(value, random);
    }
    which -= 1;
    let inner: Vec<&mut Value> = match value {
        Value::Array(list) => list.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => return,
    };
    for inner in inner {
        let n = count(inner);
        if which < n {
            return change(inner, which, random);
        }
        which -= n;
    }
}

fn replace(value: &mut Value, random: &mut Random) {
    let number = |random: &mut Random| serde_json::from_str(random.of(&NUMBERS)).unwrap_or(Value::Null);
    let kind = random.below(8);
    match value {
        Value::Number(n) if kind < 3 => {
            // Near to what it was.
            let near = n.as_u64().unwrap_or(0).wrapping_add(random.next() % 5).wrapping_sub(2);
            *value = near.into();
        }
        Value::Number(_) if kind < 7 => *value = number(random),
        Value::String(_) if kind < 7 => *value = random.of(&TEXTS).into(),
        Value::Array(list) if kind < 7 && !list.is_empty() => {
            let at = random.below(list.len());
            match kind {
                0..=2 => drop(list.remove(at)),
                3..=5 => list.insert(at, list[at].clone()),
                _ => list.truncate(at),
            }
        }
        Value::Object(map) if kind < 7 && !map.is_empty() => {
            let names: Vec<String> = map.keys().cloned().collect();
            let (one, other) = (random.of(&names), random.of(&names));
            match kind {
                0..=2 => drop(map.remove(&one)),
                3..=5 => drop(map.insert(other, map[&one].clone())),
                _ => drop(map.insert(random.of(&TEXTS).to_owned(), map[&one].clone())),
            }
        }
        _ => {
            *value = match random.below(5) {
                0 => Value::Null,
                1 => Value::Bool(true),
                2 => random.of(&TEXTS).into(),
                3 => Value::Array(Vec::new()),
                _ => number(random),
            }
        }
    }
}
