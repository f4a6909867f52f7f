//! The process's view of the GPU.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    ffi::{CString, c_int},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{R, fault};

/// A kernel.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) name: CString,
    /// Metric, FLOP of a warp's iteration, index of the parameter that holds the iterations.
    pub(crate) work: Option<(String, u64, usize)>,
}

/// A context.
pub(crate) struct Context {
    pub(crate) device: usize,
    pub(crate) id: u64,
    /// FLOP by metric in the open range.
    pub(crate) range: Option<Work>,
    /// FLOP by metric of each launch, in order, while an automatic range is open.
    pub(crate) launches: Option<Vec<Work>>,
}

/// FLOP by metric.
pub(crate) type Work = BTreeMap<String, u64>;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) contexts: HashMap<usize, Context>,
    /// Primary contexts: references and handle, by device.
    pub(crate) primary: HashMap<usize, (u32, usize)>,
    pub(crate) functions: HashMap<usize, Function>,
    /// Streams that are capturing, and what was launched into them; graphs that came of that.
    pub(crate) captures: HashMap<usize, Vec<Work>>,
    /// Of these, those begun in global mode; and those that a call of another thread invalidated.
    pub(crate) global: HashSet<usize>,
    pub(crate) invalidated: HashSet<usize>,
    pub(crate) graphs: HashMap<usize, Vec<Work>>,
    /// Entries of a module's PTX.
    pub(crate) modules: HashMap<usize, Vec<Function>>,
    pub(crate) next: usize,
    pub(crate) busy_until: HashMap<usize, Instant>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static INITIALISED: AtomicBool = AtomicBool::new(false);
static INITIALISED_BY: AtomicI32 = AtomicI32::new(0);

thread_local! {
    /// The thread's stack of current contexts.
    pub(crate) static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Takes the state.
pub(crate) fn with<T>(f: impl FnOnce(&mut State) -> T) -> T {
    let mut state: MutexGuard<'_, Option<State>> = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    f(state.get_or_insert_default())
}

impl State {
    /// A new handle, never one that was used.
    pub(crate) fn handle(&mut self) -> usize {
        self.next += 1;
        0x1000 + self.next * 16
    }
}

pub(crate) fn initialised() -> bool {
    INITIALISED.load(Ordering::Acquire)
}

/// Devices of this machine.
pub(crate) fn devices() -> usize {
    crate::shared::setting("FLOPSPROF_SIM_DEVICES").and_then(|v| v.parse().ok()).unwrap_or(1).min(crate::shared::DEVICES)
}

/// The context that is current on this thread.
pub(crate) fn current() -> Option<usize> {
    CURRENT.with_borrow(|c| c.last().copied()).filter(|c| *c != 0)
}

/// The device's speed, FLOP/s.
pub(crate) fn flops() -> f64 {
    crate::shared::setting("FLOPSPROF_SIM_FLOPS").and_then(|v| v.parse().ok()).unwrap_or(1e15)
}

/// Sleeps until a device has done what was launched.
pub(crate) fn wait_for(device: usize) {
    if let Some(until) = with(|s| s.busy_until.get(&device).copied()) {
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// How long a launch of so many operations takes.
pub(crate) fn duration(flop: u64) -> Duration {
    Duration::from_micros(2) + Duration::from_secs_f64(flop as f64 / flops())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: u32) -> R {
    if let Some(code) = fault::call("cuInit") {
        return code;
    }
    if flags != 0 {
        return crate::INVALID_VALUE;
    }
    // SAFETY: no preconditions.
    let pid = unsafe { libc::getpid() };
    let before = INITIALISED_BY.swap(pid, Ordering::AcqRel);
    if before == pid {
        return crate::OK;
    }
    if before != 0 {
        // A child forked after CUDA was started: the driver refuses to start again.
        INITIALISED_BY.store(before, Ordering::Release);
        return crate::NOT_INITIALIZED;
    }
    if let Some(path) = environment_variable("CUDA_INJECTION64_PATH") {
        inject(&path);
    }
    INITIALISED.store(true, Ordering::Release);
    crate::OK
}

/// Loads the injected library and calls its entry, as the driver does; what it answers changes nothing.
fn inject(path: &[u8]) {
    let Ok(path) = CString::new(path) else { return };
    // SAFETY: the path ends in NUL; the symbol is the entry that the driver calls.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        if library.is_null() {
            return;
        }
        let entry = libc::dlsym(library, c"InitializeInjection".as_ptr());
        if !entry.is_null() {
            let entry: extern "C" fn() -> c_int = std::mem::transmute(entry);
            entry();
        }
    }
}

/// A variable as it is now. It is read as a file, where a read of what is no memory fails: a program may be changing its environment, and `getenv` ends in a SIGSEGV then.
fn environment_variable(name: &str) -> Option<Vec<u8>> {
    use std::os::unix::{ffi::OsStringExt, fs::FileExt};
    unsafe extern "C" {
        static mut environ: *const *const libc::c_char;
    }
    let Ok(memory) = std::fs::File::open("/proc/self/mem") else { return std::env::var_os(name).map(OsStringExt::into_vec) };
    // SAFETY: a word of the C library's, which is read as it is at this moment.
    let table = || unsafe { std::ptr::read_volatile(&raw const environ) } as u64;
    let text = |at: u64| {
        let mut bytes = vec![0; 8192];
        let n = memory.read_at(&mut bytes, at).ok()?;
        bytes.truncate(bytes[..n].iter().position(|b| *b == 0)?);
        Some(bytes)
    };
    let look = || -> Option<Option<Vec<u8>>> {
        let begun = table();
        for i in 0u64.. {
            let mut word = [0; 8];
            memory.read_exact_at(&mut word, begun + 8 * i).ok()?;
            match u64::from_ne_bytes(word) {
                0 => break,
                at => {
                    let pair = text(at)?;
                    if let Some(value) = pair.strip_prefix(name.as_bytes()).and_then(|v| v.strip_prefix(b"=")) {
                        return Some(Some(value.to_vec()));
                    }
                }
            }
        }
        (table() == begun).then_some(None)
    };
    // Once more where the table was moved meanwhile.
    (0..1000).find_map(|_| look()).flatten()
}
