//! What a launch callback is told of a launch: kernel, grid, block, stream.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    path::Path,
    sync::OnceLock,
};

use cupti_sys::{
    launch::{Call, GraphLaunch, LaunchKernel, LaunchKernelEx},
    raw::CallbackData,
};
use libloading::os::unix::{Library, RTLD_LAZY};

use super::roster::Place;

/// glibc's `RTLD_NOLOAD`.
const RTLD_NOLOAD: c_int = 4;
/// `CU_STREAM_CAPTURE_STATUS_NONE`.
const NOT_CAPTURING: c_int = 0;

/// What is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A kernel, by its mangled name.
    Kernel(String),
    /// A CUDA graph: all its kernels at once.
    Graph,
    /// A kernel whose name neither the callback nor the driver says, or a launch of a kind not known here.
    Nameless,
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Launch {
    pub(super) what: What,
    pub(super) place: Place,
}

/// Functions that a driver may lack.
struct Optional {
    /// `cuFuncGetName`, CUDA 12.3.
    function_name: Option<unsafe extern "C" fn(*mut *const c_char, *mut c_void) -> c_int>,
    /// `cuStreamIsCapturing`.
    is_capturing: Option<unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int>,
}

static OPTIONAL: OnceLock<Optional> = OnceLock::new();

/// Looks the driver's functions up, so that no callback has to.
pub(super) fn prepare() {
    OPTIONAL.get_or_init(|| {
        // SAFETY: it is in the process already, so no initialiser runs.
        let Ok(library) = (unsafe { Library::open(Some(Path::new("libcuda.so.1")), RTLD_LAZY | RTLD_NOLOAD) }) else {
            return Optional { function_name: None, is_capturing: None };
        };
        // SAFETY: each symbol is the driver's function of the type that the field has, as cuda.h declares it.
        let found = unsafe {
            Optional {
                function_name: library.get(c"cuFuncGetName").ok().map(|s| *s),
                is_capturing: library.get(c"cuStreamIsCapturing").ok().map(|s| *s),
            }
        };
        // Kept for ever, as the meter's own functions are.
        std::mem::forget(library);
        found
    });
}

/// What is launched, and where: all that can be told without asking the driver.
///
/// # Safety
/// `data` must be what CUPTI hands to a callback of this id.
pub(super) unsafe fn place(cbid: u32, data: &CallbackData) -> Place {
    let mut place = Place { handle: 0, grid: [0; 3], block: [0; 3], stream: 0 };
    let params = data.function_params;
    if params.is_null() {
        return place;
    }
    // SAFETY: of this call's type, by the caller's promise; a launch's configuration lives through the call.
    unsafe {
        match Call::of(cbid) {
            Call::Kernel => {
                let p = &*params.cast::<LaunchKernel>();
                place = Place { handle: p.function as usize, grid: p.grid, block: p.block, stream: p.stream as usize };
            }
            Call::KernelEx => {
                let p = &*params.cast::<LaunchKernelEx>();
                place.handle = p.function as usize;
                if let Some(config) = p.config.as_ref() {
                    (place.grid, place.block, place.stream) = (config.grid, config.block, config.stream as usize);
                }
            }
            Call::Graph => {
                let p = &*params.cast::<GraphLaunch>();
                (place.handle, place.stream) = (p.graph as usize, p.stream as usize);
            }
            Call::Other => {}
        }
    }
    place
}

/// Reads a launch; none for one that only goes into a graph that the stream is capturing: nothing runs then.
///
/// # Safety
/// `data` must be what CUPTI hands to a callback of this id.
pub(super) unsafe fn read(cbid: u32, data: &CallbackData) -> Option<Launch> {
    // SAFETY: the caller's promise.
    let place = unsafe { place(cbid, data) };
    let what = if Call::of(cbid) == Call::Graph && place.handle != 0 { What::Graph } else { What::Nameless };
    let mut launch = Launch { what, place };
    if capturing(place.stream) {
        return None;
    }
    if launch.what == What::Nameless {
        // SAFETY: the symbol's name, where there is one, ends in NUL and lives through the call.
        let name = unsafe { text(data.symbol_name).or_else(|| asked(place.handle)) };
        if let Some(name) = name {
            launch.what = What::Kernel(name);
        }
    }
    Some(launch)
}

/// Whether a launch into this stream only goes into a graph that is captured.
pub(super) fn capturing(stream: usize) -> bool {
    let Some(ask) = OPTIONAL.get().and_then(|o| o.is_capturing) else { return false };
    let mut status = NOT_CAPTURING;
    // SAFETY: the program's own stream; the answer goes into an int of ours. Asking does not disturb a capture.
    let answer = unsafe { ask(stream as *mut c_void, &raw mut status) };
    answer == 0 && status != NOT_CAPTURING
}

/// The driver's own name of a function.
fn asked(function: usize) -> Option<String> {
    let ask = OPTIONAL.get().and_then(|o| o.function_name)?;
    let mut name = std::ptr::null();
    // SAFETY: the program's own function, which it is launching; the answer goes into a pointer of ours.
    let answer = unsafe { ask(&raw mut name, function as *mut c_void) };
    // SAFETY: the driver's own string.
    (answer == 0).then(|| unsafe { text(name) }).flatten()
}

/// # Safety
/// `name` must be null or end in NUL.
unsafe fn text(name: *const c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })?;
    (!name.is_empty()).then(|| name.to_string_lossy().into_owned())
}
