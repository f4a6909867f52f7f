//! Faults on demand, for all three stand-ins.
//!
//! `FLOPSPROF_SIM_FAULT` is a comma list of `<function>=<code>`, `<function>=hang:<ms>`, each with `@<n>` for the n-th call alone or `@<n>+` from the n-th
//! call on.

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

struct Fault {
    function: String,
    code: Option<u32>,
    hang: Duration,
    from: u64,
    to: u64,
}

fn faults() -> &'static Vec<Fault> {
    static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
    FAULTS.get_or_init(|| {
        let text = std::env::var("FLOPSPROF_SIM_FAULT").unwrap_or_default();
        text.split(',').filter(|t| !t.is_empty()).map(parse).collect()
    })
}

/// A fault that cannot be understood ends the process: a test that asks for nonsense must not pass.
fn parse(text: &str) -> Fault {
    let wrong = || -> ! { panic!("FLOPSPROF_SIM_FAULT: `{text}`") };
    let Some((function, what)) = text.split_once('=') else { wrong() };
    let (what, when) = what.split_once('@').unwrap_or((what, "1+"));
    let (n, on) = when.strip_suffix('+').map_or((when, false), |n| (n, true));
    let Ok(from) = n.parse() else { wrong() };
    let (code, hang) = match what.strip_prefix("hang:") {
        Some(ms) => (None, Duration::from_millis(ms.parse().unwrap_or_else(|_| wrong()))),
        None => (Some(what.parse().unwrap_or_else(|_| wrong())), Duration::ZERO),
    };
    Fault { function: function.to_owned(), code, hang, from, to: if on { u64::MAX } else { from } }
}

/// Counts a call of a function; says what it must answer, if it must fail.
pub(crate) fn call(function: &'static str) -> Option<u32> {
    static CALLS: Mutex<Option<HashMap<&'static str, u64>>> = Mutex::new(None);
    if faults().is_empty() {
        return None;
    }
    let n = {
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        let n = calls.get_or_insert_default().entry(function).or_insert(0);
        *n += 1;
        *n
    };
    let fault = faults().iter().find(|f| f.function == function && (f.from..=f.to).contains(&n))?;
    std::thread::sleep(fault.hang);
    fault.code
}
