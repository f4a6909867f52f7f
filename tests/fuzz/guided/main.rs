//! The targets of the fuzz tests under libFuzzer, which is guided by coverage. `run` beside this file builds and starts it.

#![no_main]

#[path = "../mutate.rs"]
mod mutate;
#[path = "../targets.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use mutate::Random;
use targets::{TARGETS, Target};

/// The target that is fuzzed.
fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("TARGET").expect("TARGET names what is fuzzed");
        TARGETS.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("there is no target {name}"))
    })
}

fuzz_target!(|input: &[u8]| (target().run)(input));

// Every second mutation is libFuzzer's own, which knows what was compared with what; the others keep the input's form.
fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
    if seed.is_multiple_of(2) {
        return fuzzer_mutate(data, size, most);
    }
    let new = mutate::mutate(&data[..size], target().form, &mut Random(u64::from(seed)));
    let size = new.len().min(most);
    data[..size].copy_from_slice(&new[..size]);
    size
});
