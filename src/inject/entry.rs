//! What the outside calls: the loader, the driver, the exit paths, fork.
//!
//! `LD_PRELOAD` brings this file into every process of a job, shells and data loaders included. The constructor does nothing there but point
//! `CUDA_INJECTION64_PATH` at this file; the driver loads it by that at `cuInit` and calls `InitializeInjection`, in this process or in a child
//! that starts CUDA later. Where another tool has the variable, it is kept under another name, and the tool is injected from here, before the meter.

use std::{
    ffi::{CStr, CString, OsStr, c_int, c_void},
    mem,
    os::unix::ffi::OsStrExt,
    panic, ptr,
    sync::atomic::{AtomicBool, AtomicPtr, Ordering},
};

use super::{config, guard, memory, meter, say};

/// The driver's variable: a library it loads at `cuInit`.
const INJECTION: &CStr = c"CUDA_INJECTION64_PATH";
/// A function of the C interface: by it copies of this library know each other.
const VERSION: &CStr = c"flopsprof_version";
/// What another tool had in it.
const INJECTION_BEFORE: &CStr = c"FLOPSPROF_INJECTION_BEFORE";

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    guard::shield(|| {
        let place = own_name();
        if place == Some(None) {
            return;
        }
        memory::be_careful();
        Ends::find();
        say::know_stderr();
        BESIDE.store(another_is_first(), Ordering::Relaxed);
        if disabled() {
            return;
        }
        let Some(own) = own_path() else {
            say::say("not metered: the loader does not say where the library lies: preload it by an absolute path");
            return;
        };
        name_run();
        // SAFETY: constructors run before the program's threads.
        let taken = unsafe { libc::getenv(INJECTION.as_ptr()) };
        // SAFETY: getenv's answer ends in NUL.
        if !taken.is_null() && unsafe { CStr::from_ptr(taken) } == own.as_c_str() {
            return;
        }
        // SAFETY: as above; all strings end in NUL.
        unsafe {
            if taken.is_null() || *taken == 0 {
                libc::unsetenv(INJECTION_BEFORE.as_ptr());
            } else {
                if libc::setenv(INJECTION_BEFORE.as_ptr(), taken, 1) != 0 {
                    say::say(
                        "not metered: another tool has CUDA_INJECTION64_PATH, and it cannot be passed on: run the program without that tool",
                    );
                    return;
                }
            }
            if libc::setenv(INJECTION.as_ptr(), own.as_ptr(), 1) != 0 {
                say::say("not metered: CUDA_INJECTION64_PATH cannot be set: set it to the library's path");
            }
        }
    });
}

/// Another copy of this library meters the process: this one only passes on what it stands between.
static BESIDE: AtomicBool = AtomicBool::new(false);

/// Whether the program's calls of the C interface reach another copy: one was preloaded before this one, from elsewhere. The first is the meter; two would inject each other for ever.
fn another_is_first() -> bool {
    // SAFETY: all zeros is a Dl_info.
    let mut first: libc::Dl_info = unsafe { mem::zeroed() };
    // SAFETY: the name ends in NUL.
    let interface = unsafe { libc::dlsym(libc::RTLD_DEFAULT, VERSION.as_ptr()) };
    // SAFETY: an address of the loader's own; the answer goes into a struct of ours.
    let known = !interface.is_null() && unsafe { libc::dladdr(interface, &raw mut first) } != 0;
    known && own_place().is_some_and(|own| own.dli_fbase != first.dli_fbase)
}

/// Whether this copy is to do nothing.
fn disabled() -> bool {
    BESIDE.load(Ordering::Relaxed) || config::disabled()
}

#[used]
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destructor;

/// At the end of a process in which CUDA was, and the meter was not: the driver looks for the variable when CUDA starts, and the program, or something in it, had changed its environment.
extern "C" fn destructor() {
    guard::shield(|| {
        if STARTED.load(Ordering::Acquire) || disabled() {
            return;
        }
        let Some(own) = own_path() else { return };
        // SAFETY: the process ends; getenv's answer ends in NUL.
        let left = unsafe {
            let now = libc::getenv(INJECTION.as_ptr());
            !now.is_null() && CStr::from_ptr(now) == own.as_c_str()
        };
        if !left && meter::cuda_is_there() {
            say::say(
                "not metered: CUDA_INJECTION64_PATH was removed or changed before CUDA started: see that the program leaves it in its environment (os.environ, clearenv)",
            );
        }
    });
}

/// The meter was started, in this process or the one that it was forked from.
static STARTED: AtomicBool = AtomicBool::new(false);

/// The driver calls this at `cuInit`, on the program's thread. 1 is success; what it answers changes nothing for the program.
#[unsafe(no_mangle)]
pub(super) extern "C" fn InitializeInjection() -> c_int {
    if BESIDE.load(Ordering::Relaxed) {
        return 1;
    }
    let other = guard::shield(inject_other).flatten();
    guard::shield(start);
    other.unwrap_or(1)
}

/// Injects the tool that had the variable, as the driver would: before the meter, so that it gets what there is one of.
fn inject_other() -> Option<c_int> {
    // SAFETY: the program's thread, inside `cuInit`, which reads the environment too; the answer ends in NUL and is used at once.
    let library = unsafe {
        let path = libc::getenv(INJECTION_BEFORE.as_ptr());
        if path.is_null() {
            return None;
        }
        libc::dlopen(path, libc::RTLD_NOW)
    };
    if library.is_null() {
        return None;
    }
    // SAFETY: the library stays; the name ends in NUL.
    let entry = unsafe { libc::dlsym(library, c"InitializeInjection".as_ptr()) };
    // SAFETY: as above.
    let ours = unsafe { libc::dlsym(library, VERSION.as_ptr()) };
    // A copy of this library, of whatever version, is no other tool.
    if entry.is_null() || !ours.is_null() {
        return None;
    }
    // SAFETY: an injected library's function of this name has this type.
    let entry = unsafe { mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(entry) };
    Some(entry())
}

/// Starts the meter, once a process.
fn start() {
    // A child forked after CUDA was started inherits the flag: CUDA does not work there, and neither does the meter.
    if STARTED.swap(true, Ordering::AcqRel) || disabled() {
        return;
    }
    guard::own();
    // Of this library's own copy of the standard library alone: the program's panics are its own.
    panic::set_hook(Box::new(|trouble| {
        let place = trouble.location().map(ToString::to_string).unwrap_or_default();
        say::say(&format!("an error of its own at {place}: report it with the output of `flopsprof doctor`; the program is not concerned"));
    }));
    at_fork();
    // SAFETY: the handler is ours and this library is never unloaded.
    unsafe { libc::atexit(at_exit_unseen) };
    meter::start();
}

/// Has a forked child told that it has no meter. By whichever name the C library has for it: `pthread_atfork` is glibc's under another name, and the library must
/// load where it has neither.
fn at_fork() {
    type Handler = Option<extern "C" fn()>;
    // SAFETY: the names end in NUL; functions of these names have these types in every C library. The handler only stores to an atomic.
    unsafe {
        let glibc = libc::dlsym(libc::RTLD_DEFAULT, c"__register_atfork".as_ptr());
        let other = libc::dlsym(libc::RTLD_DEFAULT, c"pthread_atfork".as_ptr());
        if !glibc.is_null() {
            let register = mem::transmute::<*mut c_void, unsafe extern "C" fn(Handler, Handler, Handler, *mut c_void) -> c_int>(glibc);
            register(None, None, Some(guard::forked), ptr::null_mut());
        } else if !other.is_null() {
            let register = mem::transmute::<*mut c_void, unsafe extern "C" fn(Handler, Handler, Handler) -> c_int>(other);
            register(None, None, Some(guard::forked));
        }
    }
}

/// Registers the drain at exit. Called when the first context has been seen: handlers run in reverse order, so it runs before CUDA's own.
pub(super) fn drain_at_exit() {
    // SAFETY: the handlers are ours and this library is never unloaded. `at_quick_exit` itself is a function that every library has a copy of; what it calls is
    // not in every C library.
    unsafe {
        libc::atexit(at_exit);
        let quick = libc::dlsym(libc::RTLD_DEFAULT, c"__cxa_at_quick_exit".as_ptr());
        if !quick.is_null() {
            let quick = mem::transmute::<*mut c_void, unsafe extern "C" fn(extern "C" fn(), *mut c_void) -> c_int>(quick);
            quick(at_exit, ptr::null_mut());
        }
    }
}

/// Registered before anything was seen, and so the last to run: what waits for memory by now has never been able to register.
extern "C" fn at_exit_unseen() {
    guard::shield(meter::say_what_is_lacking);
}

extern "C" fn at_exit() {
    guard::shield(|| meter::drain("exit"));
}

type End = unsafe extern "C" fn(c_int) -> !;

/// The next function of a name: the C library's, or that of another preloaded library, which must have its turn.
struct Ends {
    name: &'static CStr,
    next: AtomicPtr<c_void>,
}

static EXIT: Ends = Ends { name: c"_exit", next: AtomicPtr::new(ptr::null_mut()) };
static EXIT_OF_C: Ends = Ends { name: c"_Exit", next: AtomicPtr::new(ptr::null_mut()) };

impl Ends {
    /// Looked for at the start: `_exit` may be called where the loader must not.
    fn find() {
        for end in [&EXIT, &EXIT_OF_C] {
            // SAFETY: the name ends in NUL.
            end.next.store(unsafe { libc::dlsym(libc::RTLD_NEXT, end.name.as_ptr()) }, Ordering::Relaxed);
        }
    }

    /// Drains, and ends the process.
    unsafe fn end(&self, status: c_int) -> ! {
        guard::shield(|| meter::drain("_exit"));
        let next = self.next.load(Ordering::Relaxed);
        if !next.is_null() {
            // SAFETY: functions of these names have this type.
            unsafe { mem::transmute::<*mut c_void, End>(next)(status) };
        }
        // SAFETY: what libc's own does: ends all threads of the process.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
        // Not reached; `exit_group` does not fail.
        loop {
            std::hint::spin_loop();
        }
    }
}

/// Python's multiprocessing ends its children by `_exit`, which runs no handlers: without this their last window would be lost.
///
/// # Safety
/// As libc's: it does not return.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn _exit(status: c_int) -> ! {
    // SAFETY: the same contract.
    unsafe { EXIT.end(status) }
}

/// The C standard's name for `_exit`.
///
/// # Safety
/// As libc's: it does not return.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn _Exit(status: c_int) -> ! {
    // SAFETY: the same contract.
    unsafe { EXIT_OF_C.end(status) }
}

/// The name under which this library was loaded, and in it none when this code is part of a program (the command, a test), which must not inject itself; none when the
/// loader does not say.
fn own_name() -> Option<Option<&'static CStr>> {
    let info = own_place()?;
    // SAFETY: no preconditions; the program headers lie behind the ELF header of the main program, 64 bytes into its first page.
    let program = unsafe { libc::getauxval(libc::AT_PHDR) } & !0xfff;
    // SAFETY: the loader's string ends in NUL, and stays: this library is never unloaded.
    Some((info.dli_fbase as u64 != program).then(|| unsafe { CStr::from_ptr(info.dli_fname) }))
}

/// Where the loader put this code, if it says.
fn own_place() -> Option<libc::Dl_info> {
    // SAFETY: all zeros is a Dl_info.
    let mut info: libc::Dl_info = unsafe { mem::zeroed() };
    // SAFETY: the address is of our own code; the answer goes into a struct of ours.
    let known = unsafe { libc::dladdr(constructor as *const c_void, &raw mut info) } != 0 && !info.dli_fname.is_null();
    known.then_some(info)
}

/// The path of this library, where it is one.
pub(super) fn own_path() -> Option<CString> {
    let path = std::path::Path::new(OsStr::from_bytes(own_name()??.to_bytes()));
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
        if unsafe { libc::setenv(RUN.as_ptr(), name.as_ptr().cast(), 0) } != 0 {
            say::say("the run cannot be named (FLOPSPROF_RUN): evidence of its processes may go to several folders: set FLOPSPROF_OUT");
        }
    }
}
