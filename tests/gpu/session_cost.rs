//! A counter session that a Python program opens and closes around its own work: for session_cost.py, which says what an open one costs the GPU.
//!
//! ```text
//! cargo build --release --example session_cost      # makes libsession_cost.so
//! ```
//! All functions are called by one thread, whose current context is the one that is counted. They answer 0, or 1 and a line on stderr.

use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_int, c_void},
    path::Path,
};

use cupti_sys::{
    Cupti,
    raw::{self, Params},
};
use flopsprof::counter::{
    host::{Host, chip_name},
    plan,
    session::{Group, RangeProfiler, Ranges},
};

struct Session {
    cupti: Cupti,
    host: Host,
    groups: Vec<Vec<String>>,
    profiler: Option<RangeProfiler>,
    open: Option<Group>,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
}

fn load(path: &Path) -> Result<Session> {
    let cupti = Cupti::open(path).map_err(|e| e.to_string())?;
    // SAFETY: nothing goes in but the size.
    unsafe { cupti.profiler_initialize(&mut raw::ProfilerInitialize::sized()) }?;
    let chip = chip_name(cupti, 0)?;
    let host = Host::open(cupti, &chip)?;
    let groups = plan::of_chip(&host)?.groups;
    Ok(Session { cupti, host, groups, profiler: None, open: None })
}

impl Session {
    fn enable(&mut self, ctx: *mut c_void) -> Result<()> {
        // SAFETY: the caller's current context, which outlives the session.
        self.profiler = Some(unsafe { RangeProfiler::enable(self.cupti, ctx.cast(), Ranges::One) }?);
        Ok(())
    }

    fn open(&mut self, group: usize, paths: usize) -> Result<()> {
        let all = self.groups.get(group).ok_or("no such group")?;
        let mut counters = Group::new(&self.host, &all[..paths.min(all.len())])?;
        self.profiler.as_mut().ok_or("not enabled")?.open(&mut counters)?;
        self.open = Some(counters);
        Ok(())
    }

    fn close(&mut self) -> Result<f64> {
        let mut counters = self.open.take().ok_or("not open")?;
        self.profiler.as_mut().ok_or("not enabled")?.close(&mut counters).1?;
        #[expect(clippy::cast_precision_loss, reason = "compared in the eighth digit at most")]
        Ok(counters.counts(&self.host)?.paths.values().map(|n| *n as f64).sum())
    }

    fn disable(&mut self) -> Result<()> {
        Ok(self.profiler.take().ok_or("not enabled")?.disable()?)
    }
}

fn with<T>(act: impl FnOnce(&mut Session) -> Result<T>) -> Option<T> {
    SESSION.with_borrow_mut(|session| match session.as_mut().ok_or_else(|| "not loaded".into()).and_then(act) {
        Ok(value) => Some(value),
        Err(e) => {
            eprintln!("session_cost: {e}");
            None
        }
    })
}

/// Loads libcupti.
///
/// # Safety
/// A string that ends in zero goes in.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn session_load(path: *const c_char) -> c_int {
    // SAFETY: by the contract above.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned();
    let loaded = load(Path::new(&path)).inspect_err(|e| eprintln!("session_cost: {e}"));
    SESSION.set(loaded.ok());
    c_int::from(SESSION.with_borrow(Option::is_none))
}

/// Enables range profiling of a context.
#[unsafe(no_mangle)]
pub extern "C" fn session_enable(ctx: *mut c_void) -> c_int {
    c_int::from(with(|s| s.enable(ctx)).is_none())
}

/// Counts the first `paths` paths of a group from here on.
#[unsafe(no_mangle)]
pub extern "C" fn session_open(group: usize, paths: usize) -> c_int {
    c_int::from(with(|s| s.open(group, paths)).is_none())
}

/// What was counted since it was opened, FLOP; -1 for an error.
#[unsafe(no_mangle)]
pub extern "C" fn session_close() -> f64 {
    with(Session::close).unwrap_or(-1.0)
}

/// Disables range profiling.
#[unsafe(no_mangle)]
pub extern "C" fn session_disable() -> c_int {
    c_int::from(with(Session::disable).is_none())
}
