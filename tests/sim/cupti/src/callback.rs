//! Callbacks: one subscriber, launches and contexts.

use std::{
    ffi::{c_char, c_void},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cupti_sys::raw::{CallbackData, CallbackDomain, CallbackFunc, LAUNCH_CBIDS, ResourceData};

use crate::{INVALID_PARAMETER, MULTIPLE_SUBSCRIBERS, OK, R, fault, link::link, range};

/// The subscriber: its callback and user data.
static SUBSCRIBER: Mutex<Option<(CallbackFunc, usize)>> = Mutex::new(None);
/// Bit i: `LAUNCH_CBIDS[i]` is on. Bits 32 and 33: a context was made, is about to be destroyed.
static ENABLED: AtomicU64 = AtomicU64::new(0);

fn subscriber() -> Option<(CallbackFunc, usize)> {
    *SUBSCRIBER.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) extern "C" fn on_launch(
    ctx: *mut c_void,
    site: u32,
    cbid: u32,
    function: *const c_char,
    kernel: *const c_char,
    correlation: u32,
    params: *const c_void,
    result: *mut u32,
) {
    let Some(bit) = LAUNCH_CBIDS.iter().position(|c| *c == cbid) else { return };
    if ENABLED.load(Ordering::SeqCst) & (1 << bit) == 0 {
        return;
    }
    let Some((callback, user)) = subscriber() else { return };
    let mut data = 0u64;
    let data = CallbackData {
        callback_site: site,
        function_name: function,
        function_params: params,
        function_return_value: result.cast(),
        symbol_name: kernel,
        context: ctx,
        context_uid: 1,
        correlation_data: &raw mut data,
        correlation_id: correlation,
    };
    unsafe { callback(user as *mut c_void, CallbackDomain::DRIVER_API, cbid, (&raw const data).cast()) };
}

pub(crate) extern "C" fn on_context(ctx: *mut c_void, made: u32) {
    if made == 0 {
        range::context_ends(ctx as usize);
    }
    let cbid = if made != 0 { 1 } else { 2 };
    if ENABLED.load(Ordering::SeqCst) & (1 << (31 + cbid)) == 0 {
        return;
    }
    let Some((callback, user)) = subscriber() else { return };
    let data = ResourceData { context: ctx, resource_handle: std::ptr::null_mut(), resource_descriptor: std::ptr::null_mut() };
    unsafe { callback(user as *mut c_void, CallbackDomain::RESOURCE, cbid, (&raw const data).cast()) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiSubscribe(handle: *mut *mut c_void, callback: CallbackFunc, user: *mut c_void) -> R {
    if let Some(code) = fault::call("cuptiSubscribe") {
        return code;
    }
    let mut subscriber = SUBSCRIBER.lock().unwrap_or_else(PoisonError::into_inner);
    if subscriber.is_some() {
        return MULTIPLE_SUBSCRIBERS;
    }
    *subscriber = Some((callback, user as usize));
    ENABLED.store(0, Ordering::SeqCst);
    let _ = link();
    *handle = if fault::garbage().is_some() { std::ptr::null_mut() } else { 0x5b5 as *mut c_void };
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiUnsubscribe(_handle: *mut c_void) -> R {
    if let Some(code) = fault::call("cuptiUnsubscribe") {
        return code;
    }
    ENABLED.store(0, Ordering::SeqCst);
    *SUBSCRIBER.lock().unwrap_or_else(PoisonError::into_inner) = None;
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiEnableCallback(on: u32, _handle: *mut c_void, domain: CallbackDomain, cbid: u32) -> R {
    if let Some(code) = fault::call("cuptiEnableCallback") {
        return code;
    }
    let bit = match domain {
        CallbackDomain::DRIVER_API => LAUNCH_CBIDS.iter().position(|c| *c == cbid),
        CallbackDomain::RESOURCE if cbid == 1 || cbid == 2 => Some(31 + cbid as usize),
        _ => None,
    };
    let Some(bit) = bit else { return INVALID_PARAMETER };
    if on != 0 {
        ENABLED.fetch_or(1 << bit, Ordering::SeqCst)
    } else {
        ENABLED.fetch_and(!(1 << bit), Ordering::SeqCst)
    };
    OK
}
