//! The stand-in's libcuda, as the program has it.

use std::{
    ffi::{CStr, c_char, c_void},
    sync::OnceLock,
};

use crate::callback;

pub(crate) type Take = extern "C" fn(*mut c_void, usize, *const c_char, u64);
pub(crate) type OnLaunch = extern "C" fn(*mut c_void, u32, u32, *const c_char, *const c_char, u32, *const c_void, *mut u32);
pub(crate) type OnContext = extern "C" fn(*mut c_void, u32);

/// Its private functions.
pub(crate) struct Link {
    pub(crate) device_of: extern "C" fn(*mut c_void) -> i32,
    pub(crate) range_open: extern "C" fn(*mut c_void, u32),
    pub(crate) range_close: extern "C" fn(*mut c_void, *mut c_void, Take),
    pub(crate) on_launch: extern "C" fn(Option<OnLaunch>),
    pub(crate) on_context: extern "C" fn(Option<OnContext>),
    current: extern "C" fn(*mut *mut c_void) -> u32,
}

impl Link {
    /// The context that is current on the calling thread.
    pub(crate) fn current(&self) -> *mut c_void {
        let mut ctx = std::ptr::null_mut();
        (self.current)(&raw mut ctx);
        ctx
    }
}

/// None when there is no libcuda, or it is a real one. Loads it, as the real library does: a tool may subscribe before the program starts CUDA.
pub(crate) fn link() -> Option<&'static Link> {
    static LINK: OnceLock<Option<Link>> = OnceLock::new();
    LINK.get_or_init(|| {
        let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY) };
        let find = |name: &CStr| {
            let symbol = if library.is_null() { library } else { unsafe { libc::dlsym(library, name.as_ptr()) } };
            (!symbol.is_null()).then_some(symbol)
        };
        let link = unsafe {
            Link {
                device_of: std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void) -> i32>(find(c"flopsprof_sim_device_of")?),
                range_open: std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void, u32)>(find(c"flopsprof_sim_range_open")?),
                range_close: std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void, *mut c_void, Take)>(find(
                    c"flopsprof_sim_range_close",
                )?),
                on_launch: std::mem::transmute::<*mut c_void, extern "C" fn(Option<OnLaunch>)>(find(c"flopsprof_sim_on_launch")?),
                on_context: std::mem::transmute::<*mut c_void, extern "C" fn(Option<OnContext>)>(find(c"flopsprof_sim_on_context")?),
                current: std::mem::transmute::<*mut c_void, extern "C" fn(*mut *mut c_void) -> u32>(find(c"cuCtxGetCurrent")?),
            }
        };
        (link.on_launch)(Some(callback::on_launch));
        (link.on_context)(Some(callback::on_context));
        Some(link)
    })
    .as_ref()
}
