//! Faults on demand, for all three stand-ins.
//!
//! `FLOPSPROF_SIM_FAULT` is a comma list of `<function>=<code>`, `<function>=hang:<ms>`, `<function>=garbage:<kind>`, each with `@<n>` for the n-th call alone or
//! `@<n>+` from the n-th call on. A code of 0 is a lie: the call does nothing and says that it did. Garbage is what a call answers beside its success; each library has
//! its kinds. With `FLOPSPROF_SIM_FAULT_OURS` only calls from the meter's own threads are meant, by their name, where the
//! function is the driver's: those the program calls too.
//!
//! `FLOPSPROF_SIM_CALLS` names a file into which each function is written when it is called for the first time: `ours` or `theirs`, and its name.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    fs::OpenOptions,
    io::Write,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use crate::shared::setting;

struct Fault {
    function: String,
    what: What,
    from: u64,
    to: u64,
}

enum What {
    Code(u32),
    Hang(Duration),
    Garbage(u32),
}

thread_local! {
    /// The kind of garbage that the call under way must answer.
    static GARBAGE: Cell<Option<u32>> = const { Cell::new(None) };
}

fn faults() -> &'static Vec<Fault> {
    static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
    FAULTS.get_or_init(|| {
        let text = setting("FLOPSPROF_SIM_FAULT").unwrap_or_default();
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
    let number = |text: &str| text.parse::<u32>().unwrap_or_else(|_| wrong());
    let what = match what.split_once(':') {
        Some(("hang", ms)) => What::Hang(Duration::from_millis(number(ms).into())),
        Some(("garbage", kind)) => What::Garbage(number(kind)),
        Some(_) => wrong(),
        None => What::Code(number(what)),
    };
    Fault { function: function.to_owned(), what, from, to: if on { u64::MAX } else { from } }
}

/// Whether the calling thread is one of the meter's.
fn ours() -> bool {
    let mut name = [0u8; 16];
    // SAFETY: the kernel writes 16 bytes at the most.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"flopsprof")
}

fn note(function: &'static str) {
    static NOTED: Mutex<Option<HashSet<(bool, &str)>>> = Mutex::new(None);
    static FILE: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    let Some(path) = FILE.get_or_init(|| setting("FLOPSPROF_SIM_CALLS").map(Into::into)) else { return };
    let ours = ours();
    if NOTED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().insert((ours, function)) {
        let line = format!("{} {function}\n", if ours { "ours" } else { "theirs" });
        let _ = OpenOptions::new().append(true).create(true).open(path).and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Counts a call of a function; says what it must answer instead of doing its work, if it must.
pub(crate) fn call(function: &'static str) -> Option<u32> {
    static CALLS: Mutex<Option<HashMap<&'static str, u64>>> = Mutex::new(None);
    static ONLY_OURS: OnceLock<bool> = OnceLock::new();
    note(function);
    GARBAGE.set(None);
    let shared = function.starts_with("cu") && !function.starts_with("cupti");
    let only_ours = || *ONLY_OURS.get_or_init(|| setting("FLOPSPROF_SIM_FAULT_OURS").is_some());
    if faults().is_empty() || (shared && only_ours() && !ours()) {
        return None;
    }
    let n = {
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        let n = calls.get_or_insert_default().entry(function).or_insert(0);
        *n += 1;
        *n
    };
    match faults().iter().find(|f| f.function == function && (f.from..=f.to).contains(&n))?.what {
        What::Code(code) => return Some(code),
        What::Hang(time) => std::thread::sleep(time),
        What::Garbage(kind) => GARBAGE.set(Some(kind)),
    }
    None
}

/// The kind of garbage that the call under way must answer, once.
pub(crate) fn garbage() -> Option<u32> {
    GARBAGE.take()
}
