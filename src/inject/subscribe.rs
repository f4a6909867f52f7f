//! Lets other tools have CUPTI's subscription.
//!
//! A process has one, and the meter borrows it: for the moment of a boundary, and for the seconds of a census. A tool that subscribes just then would be
//! refused, and torch.profiler would record nothing of the GPU without saying so. So the library exports `cuptiSubscribe`: preloaded, it stands before
//! libcupti's in the search order, a tool's call comes here, the meter gives the subscription back (a census ends at once), and the call goes on to the
//! libcupti that the caller is linked with. A tool that finds the function by itself (`dlsym` on its libcupti) passes this by; so does everything where
//! the library was injected and not preloaded: there [`stands_between`] is false.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use super::guard;
use crate::{
    counter::find,
    window::clock::{self, monotonic_ns},
};

/// How long a tool waits for the subscription: as long as launches do at a gate. The meter needs 0.2 s, and 1.4 s when a census is just beginning.
const WAIT: Duration = guard::PATIENCE;
/// `CUPTI_ERROR_NOT_INITIALIZED`: what a caller hears where there is no libcupti.
const NOT_INITIALIZED: u32 = 15;
const NAME: &CStr = c"cuptiSubscribe";

/// Tools that ask at the moment.
static WANTED: AtomicU32 = AtomicU32::new(0);
/// The meter has the subscription.
static HELD: AtomicBool = AtomicBool::new(false);

/// Whether a tool asks for the subscription.
pub(super) fn wanted() -> bool {
    WANTED.load(Ordering::SeqCst) > 0
}

/// Marks the subscription as the meter's, unless a tool asks for it.
pub(super) fn take() -> bool {
    HELD.store(true, Ordering::SeqCst);
    if wanted() {
        give();
        return false;
    }
    true
}

/// The meter has it no longer.
pub(super) fn give() {
    HELD.store(false, Ordering::SeqCst);
}

/// Whether a tool that is linked with libcupti would call us.
pub(super) fn stands_between() -> bool {
    // SAFETY: the name ends in NUL.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, NAME.as_ptr()) };
    found == cuptiSubscribe as *mut c_void
}

type Subscribe = unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *mut c_void) -> u32;

/// CUPTI's function of this name, for tools that are linked with it.
///
/// It only adds the caller's address to the arguments: which libcupti is meant depends on who calls.
///
/// # Safety
/// As CUPTI's.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(super) unsafe extern "C" fn cuptiSubscribe(_handle: *mut *mut c_void, _callback: *mut c_void, _user: *mut c_void) -> u32 {
    std::arch::naked_asm!("mov rcx, [rsp]", "jmp {inner}", inner = sym subscribe)
}

/// CUPTI's function of this name, for tools that are linked with it.
///
/// It only adds the caller's address to the arguments: which libcupti is meant depends on who calls.
///
/// # Safety
/// As CUPTI's.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(super) unsafe extern "C" fn cuptiSubscribe(_handle: *mut *mut c_void, _callback: *mut c_void, _user: *mut c_void) -> u32 {
    std::arch::naked_asm!("mov x3, x30", "b {inner}", inner = sym subscribe)
}

/// # Safety
/// As CUPTI's; `caller` is an address in the code that calls.
unsafe extern "C" fn subscribe(handle: *mut *mut c_void, callback: *mut c_void, user: *mut c_void, caller: *const c_void) -> u32 {
    let asks = guard::owned() && !guard::on_ours();
    if asks {
        guard::shield(|| {
            WANTED.fetch_add(1, Ordering::SeqCst);
            let until = monotonic_ns() + WAIT.as_nanos() as u64;
            while HELD.load(Ordering::SeqCst) && monotonic_ns() < until {
                clock::sleep(Duration::from_micros(200));
            }
        });
    }
    let answer = match guard::shield(|| meant(caller)).flatten() {
        // SAFETY: the real function, with what the caller handed over.
        Some(real) => unsafe { real(handle, callback, user) },
        None => NOT_INITIALIZED,
    };
    if asks {
        WANTED.fetch_sub(1, Ordering::SeqCst);
    }
    answer
}

/// The function that the caller is linked with, as the loader would have found it without us.
fn meant(caller: *const c_void) -> Option<Subscribe> {
    let ours = cuptiSubscribe as *mut c_void;
    let of = |handle: *mut c_void| {
        // SAFETY: a handle of the loader's, or one of its constants; the name ends in NUL.
        let found = unsafe { libc::dlsym(handle, NAME.as_ptr()) };
        (!found.is_null() && found != ours).then_some(found)
    };
    // The caller's own dependencies first: frameworks are loaded with theirs out of everybody else's sight.
    // SAFETY: all zeros is a Dl_info.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked for; the answer goes into a struct of ours.
    let known = unsafe { libc::dladdr(caller, &raw mut info) } != 0 && !info.dli_fname.is_null();
    let library = |path: *const c_char| {
        // SAFETY: a path that ends in NUL; nothing is loaded that is not there already.
        let handle = unsafe { libc::dlopen(path, libc::RTLD_LAZY | libc::RTLD_NOLOAD as c_int) };
        (!handle.is_null()).then_some(handle)
    };
    let found = known.then(|| library(info.dli_fname)).flatten().and_then(of);
    let found = found.or_else(|| of(libc::RTLD_NEXT)).or_else(|| {
        let path = find::mapped().into_iter().next()?;
        let path = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).ok()?;
        library(path.as_ptr()).and_then(of)
    });
    // SAFETY: CUPTI's function of this name has this type.
    found.map(|f| unsafe { std::mem::transmute::<*mut c_void, Subscribe>(f) })
}
