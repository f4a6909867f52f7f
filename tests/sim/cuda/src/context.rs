//! Contexts, primary and other.

use std::ffi::{c_int, c_uint, c_void};

use crate::{
    INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, OK, capture, cuda,
    device::exists,
    hooks,
    state::{CURRENT, Context, State, current, wait_for, with},
};

type Ctx = *mut c_void;

fn make(state: &mut State, device: usize) -> usize {
    let handle = state.handle();
    let id = handle as u64;
    state.contexts.insert(handle, Context { device, id, range: None, launches: None });
    if let Some(own) = crate::shared::own() {
        own.contexts.fetch_or(1 << device, std::sync::atomic::Ordering::Relaxed);
    }
    handle
}

fn destroy(handle: usize) {
    hooks::context(handle, false);
    with(|s| s.contexts.remove(&handle));
    CURRENT.with_borrow_mut(|c| c.iter_mut().filter(|h| **h == handle).for_each(|h| *h = 0));
}

fn create(device: c_int) -> usize {
    let handle = with(|s| make(s, usize::try_from(device).unwrap_or(0)));
    CURRENT.with_borrow_mut(|c| c.push(handle));
    hooks::context(handle, true);
    handle
}

cuda! {
    fn cuDevicePrimaryCtxRetain(ctx: *mut Ctx, device: c_int) {
        let device = usize::try_from(device).unwrap_or(0);
        let (handle, new) = with(|s| match s.primary.get_mut(&device) {
            Some((references, handle)) => { *references += 1; (*handle, false) }
            None => {
                let handle = make(s, device);
                s.primary.insert(device, (1, handle));
                (handle, true)
            }
        });
        if new {
            // A real one takes 0.1 to 0.3 s to make.
            std::thread::sleep(std::time::Duration::from_millis(if crate::shared::setting("FLOPSPROF_SIM_FAST").is_some() { 5 } else { 100 }));
            hooks::context(handle, true);
        }
        *ctx = handle as Ctx;
        OK
    }
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        let device = usize::try_from(device).unwrap_or(0);
        let gone = with(|s| {
            let (references, handle) = s.primary.get_mut(&device)?;
            *references -= 1;
            let handle = *handle;
            (*references == 0).then(|| { s.primary.remove(&device); handle })
        });
        if let Some(handle) = gone { destroy(handle); }
        OK
    }
    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        let gone = with(|s| s.primary.remove(&usize::try_from(device).unwrap_or(0)));
        if let Some((_, handle)) = gone { destroy(handle); }
        OK
    }
    fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) {
        if !exists(device) { return INVALID_DEVICE; }
        *flags = 0;
        *active = c_int::from(with(|s| s.primary.contains_key(&usize::try_from(device).unwrap_or(0))));
        OK
    }
    fn cuDevicePrimaryCtxSetFlags_v2(_device: c_int, _flags: c_uint) { OK }
    fn cuCtxCreate_v2(ctx: *mut Ctx, _flags: c_uint, device: c_int) { *ctx = create(device) as Ctx; OK }
    fn cuCtxCreate_v4(ctx: *mut Ctx, _params: *const c_void, _flags: c_uint, device: c_int) { *ctx = create(device) as Ctx; OK }
    fn cuCtxDestroy_v2(ctx: Ctx) { destroy(ctx as usize); OK }
    fn cuCtxGetCurrent(ctx: *mut Ctx) { *ctx = current().unwrap_or(0) as Ctx; OK }
    fn cuCtxSetCurrent(ctx: Ctx) {
        CURRENT.with_borrow_mut(|c| { c.pop(); c.push(ctx as usize); });
        OK
    }
    fn cuCtxPushCurrent_v2(ctx: Ctx) { CURRENT.with_borrow_mut(|c| c.push(ctx as usize)); OK }
    fn cuCtxPopCurrent_v2(ctx: *mut Ctx) {
        let popped = CURRENT.with_borrow_mut(Vec::pop).unwrap_or(0);
        if !ctx.is_null() { *ctx = popped as Ctx; }
        OK
    }
    fn cuCtxGetDevice(device: *mut c_int) {
        let Some(ctx) = current() else { return INVALID_CONTEXT };
        let Some(found) = with(|s| s.contexts.get(&ctx).map(|c| c.device)) else { return INVALID_CONTEXT };
        *device = found as c_int;
        OK
    }
    fn cuCtxGetId(ctx: Ctx, id: *mut u64) {
        let ctx = if ctx.is_null() { current().unwrap_or(0) } else { ctx as usize };
        let Some(found) = with(|s| s.contexts.get(&ctx).map(|c| c.id)) else { return INVALID_CONTEXT };
        *id = found;
        OK
    }
    fn cuCtxGetFlags(flags: *mut c_uint) { *flags = 0; OK }
    fn cuCtxGetApiVersion(_ctx: Ctx, version: *mut c_uint) { *version = 3020; OK }
    fn cuCtxSynchronize() {
        capture::disturb();
        let Some(device) = current().and_then(|ctx| with(|s| s.contexts.get(&ctx).map(|c| c.device))) else { return INVALID_CONTEXT };
        wait_for(device);
        OK
    }
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) { *least = 0; *greatest = 0; OK }
    fn cuCtxSetLimit(_limit: c_uint, _value: usize) { OK }
    fn cuCtxGetLimit(value: *mut usize, _limit: c_uint) { if value.is_null() { return INVALID_VALUE; } *value = 1024; OK }
}
