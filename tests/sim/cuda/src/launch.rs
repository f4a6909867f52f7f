//! Modules and launches.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::{
    INVALID_CONTEXT, INVALID_VALUE, NOT_FOUND, OK, R, cuda, hooks, shared,
    state::{Function, current, duration, with},
};

/// Launches that may be outstanding.
const QUEUE: u32 = 1024;

/// The entries of a PTX text, with the work that its `//@sim` lines declare.
fn entries(ptx: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for line in ptx.lines() {
        if let Some(rest) = line.trim().strip_prefix("//@sim ") {
            let field = |name: &str| rest.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
            let work =
                || Some((field("metric")?, field("flop_per_warp_iteration")?.parse().ok()?, field("iterations_param")?.parse().ok()?));
            if let Some(name) = field("kernel").and_then(|n| CString::new(n).ok()) {
                found.push(Function { name, work: work() });
            }
        } else if let Some(rest) = line.split(".entry ").nth(1) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if let Ok(name) = CString::new(name)
                && !found.iter().any(|f| f.name == name)
            {
                found.push(Function { name, work: None });
            }
        }
    }
    found
}

/// `CUlaunchConfig`, as far as it is needed.
#[repr(C)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
}

unsafe fn launch(call: &CStr, cbid: u32, function: *mut c_void, grid: [c_uint; 3], block: [c_uint; 3], params: *mut *mut c_void) -> R {
    let Some(ctx) = current() else { return INVALID_CONTEXT };
    let Some(f) = with(|s| s.functions.get(&(function as usize)).cloned()) else { return INVALID_VALUE };
    let product = |d: [c_uint; 3]| d.iter().map(|n| u64::from(*n)).product::<u64>();
    let work = f.work.as_ref().map(|(metric, flop, index)| {
        // SAFETY: the directive says that this parameter is a u32, and the caller passes the parameters that the entry declares.
        let iterations = unsafe { *(*params.add(*index)).cast::<u32>() };
        (metric.clone(), product(grid) * product(block).div_ceil(32) * u64::from(iterations) * flop)
    });
    let correlation = hooks::enter(ctx, cbid, call, &f.name);
    let flop = work.as_ref().map_or(0, |(_, flop)| *flop);
    let took = duration(flop);
    let (device, queued) = with(|s| {
        let Some(context) = s.contexts.get_mut(&ctx) else { return (None, Duration::ZERO) };
        if let Some((metric, flop)) = &work
            && let Some(range) = &mut context.range
        {
            *range.entry(metric.clone()).or_insert(0) += flop;
        }
        if let Some(launches) = &mut context.launches {
            launches.push(work.clone().unwrap_or_default());
        }
        let device = context.device;
        let now = Instant::now();
        let until = s.busy_until.entry(device).or_insert(now);
        *until = (*until).max(now) + took;
        (Some(device), *until - now)
    });
    let Some(device) = device else { return INVALID_CONTEXT };
    let activity = &shared::activity()[device];
    activity.mflop.fetch_add(flop >> 20, Ordering::Relaxed);
    activity.busy_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(0), Ordering::Relaxed);
    // A full queue blocks the launch, as the driver's does.
    std::thread::sleep(queued.saturating_sub(took * QUEUE));
    hooks::exit(ctx, cbid, call, &f.name, correlation);
    OK
}

cuda! {
    fn cuModuleLoadData(to: *mut *mut c_void, image: *const c_void) {
        let text = CStr::from_ptr(image.cast()).to_string_lossy();
        *to = with(|s| { let handle = s.handle(); s.modules.insert(handle, entries(&text)); handle }) as *mut c_void;
        OK
    }
    fn cuModuleLoadDataEx(to: *mut *mut c_void, image: *const c_void, _n: c_uint, _options: *mut c_int, _values: *mut *mut c_void) {
        cuModuleLoadData(to, image)
    }
    fn cuModuleGetFunction(to: *mut *mut c_void, module: *mut c_void, name: *const c_char) {
        let name = CStr::from_ptr(name);
        let found = with(|s| {
            let function = s.modules.get(&(module as usize))?.iter().find(|f| f.name.as_c_str() == name)?.clone();
            let handle = s.handle();
            s.functions.insert(handle, function);
            Some(handle)
        });
        let Some(handle) = found else { return NOT_FOUND };
        *to = handle as *mut c_void;
        OK
    }
    fn cuModuleUnload(module: *mut c_void) { with(|s| s.modules.remove(&(module as usize))); OK }
    fn cuFuncGetAttribute(value: *mut c_int, _attribute: c_int, _f: *mut c_void) { *value = 1024; OK }
    fn cuFuncSetAttribute(_f: *mut c_void, _attribute: c_int, _value: c_int) { OK }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, _f: *mut c_void, _size: c_int, _shared: usize) { *blocks = 4; OK }
    fn cuLaunchKernel(
        f: *mut c_void, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, _shared: c_uint, _stream: *mut c_void, params: *mut *mut c_void, _extra: *mut *mut c_void,
    ) {
        launch(c"cuLaunchKernel", 307, f, [gx, gy, gz], [bx, by, bz], params)
    }
    fn cuLaunchCooperativeKernel(
        f: *mut c_void, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, _shared: c_uint, _stream: *mut c_void, params: *mut *mut c_void,
    ) {
        launch(c"cuLaunchCooperativeKernel", 477, f, [gx, gy, gz], [bx, by, bz], params)
    }
    fn cuLaunchKernelEx(config: *const LaunchConfig, f: *mut c_void, params: *mut *mut c_void, _extra: *mut *mut c_void) {
        launch(c"cuLaunchKernelEx", 652, f, (*config).grid, (*config).block, params)
    }
}
