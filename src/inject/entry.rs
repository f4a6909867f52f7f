//! What the outside calls: the loader, the driver, the exit paths, fork.
//!
//! `LD_PRELOAD` brings this file into every process of a job, shells and data loaders included. The constructor does nothing there but point
//! `CUDA_INJECTION64_PATH` at this file; the driver loads it by that at `cuInit` and calls `InitializeInjection`, in this process or in a child
//! that starts CUDA later. Where another tool has taken the variable, a thread looks for libcuda now and then instead.

use std::{
    ffi::{CStr, CString, OsStr, c_int, c_void},
    os::unix::ffi::OsStrExt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{config, guard, meter};

/// The driver's variable: a library it loads at `cuInit`.
const INJECTION: &CStr = c"CUDA_INJECTION64_PATH";

/// How often a process whose injection variable is taken looks for libcuda.
const POLL: Duration = Duration::from_millis(100);

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    guard::shield(|| {
        let Some(own) = own_path() else { return };
        if config::disabled() {
            return;
        }
        name_run();
        // SAFETY: constructors run before the program's threads.
        let taken = unsafe { libc::getenv(INJECTION.as_ptr()) };
        if taken.is_null() {
            // SAFETY: as above; both strings end in NUL.
            unsafe { libc::setenv(INJECTION.as_ptr(), own.as_ptr(), 0) };
            return;
        }
        // SAFETY: getenv's answer ends in NUL.
        if unsafe { CStr::from_ptr(taken) } != own.as_c_str() {
            let _ = std::thread::Builder::new().name("flopsprof".to_owned()).spawn(|| {
                guard::shield(|| {
                    meter::block_signals();
                    while !meter::libcuda_is_here() {
                        std::thread::sleep(POLL);
                    }
                    start();
                })
            });
        }
    });
}

/// The driver calls this at `cuInit`, on the program's thread. 1 is success; what it answers changes nothing for the program.
#[unsafe(no_mangle)]
pub(super) extern "C" fn InitializeInjection() -> c_int {
    guard::shield(|| {
        if !config::disabled() {
            start();
        }
    });
    1
}

/// Starts the meter, once a process.
fn start() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    // A child forked after CUDA was started inherits the flag: CUDA does not work there, and neither does the meter.
    if STARTED.swap(true, Ordering::AcqRel) {
        return;
    }
    guard::own();
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::pthread_atfork(None, None, Some(atfork_child)) };
    meter::start();
}

extern "C" fn atfork_child() {
    guard::forked();
}

/// Registers the drain at exit. Called when the first context has been seen: handlers run in reverse order, so it runs before CUDA's own.
pub(super) fn drain_at_exit() {
    // SAFETY: the handler is ours and this library is never unloaded.
    unsafe { libc::atexit(at_exit) };
}

extern "C" fn at_exit() {
    guard::shield(|| meter::drain("exit"));
}

/// Python's multiprocessing ends its children by `_exit`, which runs no handlers: without this their last window would be lost.
///
/// # Safety
/// As libc's: it does not return.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn _exit(status: c_int) -> ! {
    guard::shield(|| meter::drain("_exit"));
    // SAFETY: what libc's own does: ends all threads of the process.
    unsafe { libc::syscall(libc::SYS_exit_group, status) };
    // Not reached; `exit_group` does not fail.
    loop {
        std::hint::spin_loop();
    }
}

/// The C standard's name for `_exit`.
///
/// # Safety
/// As libc's: it does not return.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn _Exit(status: c_int) -> ! {
    // SAFETY: the same contract.
    unsafe { _exit(status) }
}

/// The path of this library; none when this code is part of a program (the command, a test), which must not inject itself.
pub(super) fn own_path() -> Option<CString> {
    // SAFETY: all zeros is a Dl_info.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address is of our own code; the answer goes into a struct of ours.
    if unsafe { libc::dladdr(constructor as *const c_void, &raw mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: no preconditions; the program headers lie behind the ELF header of the main program, 64 bytes into its first page.
    let program = unsafe { libc::getauxval(libc::AT_PHDR) } & !0xfff;
    if info.dli_fbase as u64 == program {
        return None;
    }
    // SAFETY: the loader's string ends in NUL.
    let path = std::path::Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(info.dli_fname) }.to_bytes()));
    // A relative LD_PRELOAD must still be found after the program changes its directory.
    let absolute = std::path::absolute(path).ok()?;
    CString::new(absolute.as_os_str().as_bytes()).ok()
}

/// Names the run after the first process of the job, so that its children write into the same folder.
fn name_run() {
    const RUN: &CStr = c"FLOPSPROF_RUN";
    // SAFETY: constructors run before the program's threads.
    if unsafe { libc::getenv(RUN.as_ptr()) }.is_null() {
        let name = format!("{}-{}\0", crate::window::clock::unix_ns() / 1_000_000_000, std::process::id());
        // SAFETY: as above; both strings end in NUL.
        unsafe { libc::setenv(RUN.as_ptr(), name.as_ptr().cast(), 0) };
    }
}
