//! What the stand-in's libcupti needs of its libcuda: launches as they happen, contexts as they come and go, ranges.

use std::{
    ffi::{CStr, c_char, c_void},
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

use crate::{
    capture,
    state::{wait_for, with},
};

/// Called around each launch, on its thread: context, 0 enter or 1 exit, callback id, function, kernel, correlation id, the call's parameters, its result.
pub type OnLaunch = extern "C" fn(*mut c_void, u32, u32, *const c_char, *const c_char, u32, *const c_void, *mut u32);
/// Called when a context was made (1) or is about to be destroyed (0).
pub type OnContext = extern "C" fn(*mut c_void, u32);

static ON_LAUNCH: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static ON_CONTEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static CORRELATION: AtomicU32 = AtomicU32::new(0);

#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_sim_on_launch(hook: Option<OnLaunch>) {
    ON_LAUNCH.store(hook.map_or(std::ptr::null_mut(), |h| h as *mut c_void), Ordering::SeqCst);
}

#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_sim_on_context(hook: Option<OnContext>) {
    ON_CONTEXT.store(hook.map_or(std::ptr::null_mut(), |h| h as *mut c_void), Ordering::SeqCst);
}

/// A launch, as its callbacks are told of it.
pub(crate) struct Told<'a> {
    pub(crate) ctx: usize,
    pub(crate) cbid: u32,
    pub(crate) function: &'a CStr,
    /// None: a graph, or a kernel that has lost its name.
    pub(crate) kernel: Option<&'a CStr>,
    pub(crate) params: *const c_void,
}

/// Calls the hook around a launch.
pub(crate) fn around(told: &Told, launch: impl FnOnce() -> u32) -> u32 {
    let correlation = CORRELATION.fetch_add(1, Ordering::Relaxed);
    let call = |site: u32, result: *mut u32| {
        let hook = ON_LAUNCH.load(Ordering::SeqCst);
        if !hook.is_null() {
            // SAFETY: only ever set to a function of this type.
            let hook: OnLaunch = unsafe { std::mem::transmute(hook) };
            let kernel = told.kernel.map_or(std::ptr::null(), CStr::as_ptr);
            hook(told.ctx as *mut c_void, site, told.cbid, told.function.as_ptr(), kernel, correlation, told.params, result);
        }
    };
    call(0, std::ptr::null_mut());
    let mut result = launch();
    call(1, &raw mut result);
    result
}

pub(crate) fn context(ctx: usize, made: bool) {
    let hook = ON_CONTEXT.load(Ordering::SeqCst);
    if !hook.is_null() {
        // SAFETY: only ever set to a function of this type.
        let hook: OnContext = unsafe { std::mem::transmute(hook) };
        hook(ctx as *mut c_void, u32::from(made));
    }
}

/// The device of a context; -1 for one that is not there.
#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_sim_device_of(ctx: *mut c_void) -> i32 {
    with(|s| s.contexts.get(&(ctx as usize)).map_or(-1, |c| i32::try_from(c.device).unwrap_or(-1)))
}

/// Opens a range: what the context launches from now on counts. `each`: launch by launch.
#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_sim_range_open(ctx: *mut c_void, each: u32) {
    capture::disturb();
    with(|s| {
        if let Some(context) = s.contexts.get_mut(&(ctx as usize)) {
            context.range = Some(Default::default());
            context.launches = (each != 0).then(Vec::new);
        }
    });
}

/// Closes it, once the device has done what was launched, and hands out what was counted: range, metric, FLOP.
#[unsafe(no_mangle)]
pub extern "C" fn flopsprof_sim_range_close(
    ctx: *mut c_void,
    user: *mut c_void,
    take: extern "C" fn(*mut c_void, usize, *const c_char, u64),
) {
    capture::disturb();
    let (range, launches) = with(|s| match s.contexts.get_mut(&(ctx as usize)) {
        Some(context) => (context.range.take(), context.launches.take()),
        None => (None, None),
    });
    wait_for(usize::try_from(flopsprof_sim_device_of(ctx)).unwrap_or(0));
    let give = |index: usize, metric: &str, flop: u64| {
        let metric = std::ffi::CString::new(metric).unwrap_or_default();
        take(user, index, metric.as_ptr(), flop);
    };
    match launches {
        Some(launches) => launches.iter().enumerate().for_each(|(i, work)| {
            // A range is there also where nothing that is counted was executed.
            give(i, "", 0);
            work.iter().for_each(|(metric, flop)| give(i, metric, *flop));
        }),
        None => range.unwrap_or_default().iter().for_each(|(metric, flop)| give(0, metric, *flop)),
    }
}
