//! Modules and launches.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    sync::{OnceLock, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    INVALID_CONTEXT, INVALID_VALUE, NOT_FOUND, OK, R, capture, cuda, hooks, shared,
    state::{Function, Work, current, duration, with},
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
    shared: c_uint,
    stream: *mut c_void,
}

/// The parameters of a launch of one kernel, as callbacks are handed them.
#[repr(C)]
struct KernelParams {
    function: *mut c_void,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: *mut c_void,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
}

/// Whether kernels have lost their names (`FLOPSPROF_SIM_NAMELESS`).
fn nameless() -> bool {
    static NAMELESS: OnceLock<bool> = OnceLock::new();
    *NAMELESS.get_or_init(|| shared::setting("FLOPSPROF_SIM_NAMELESS").is_some())
}

/// Ranges that a launch makes while each is counted by itself (`FLOPSPROF_SIM_RANGES_PER_LAUNCH`): one on the real GPU.
fn ranges_per_launch() -> usize {
    static RANGES: OnceLock<usize> = OnceLock::new();
    *RANGES.get_or_init(|| shared::setting("FLOPSPROF_SIM_RANGES_PER_LAUNCH").and_then(|v| v.parse().ok()).unwrap_or(1))
}

unsafe fn launch(call: &CStr, cbid: u32, p: &KernelParams, told: *const c_void) -> R {
    let Some(ctx) = current() else { return INVALID_CONTEXT };
    let Some(f) = with(|s| s.functions.get(&(p.function as usize)).cloned()) else { return INVALID_VALUE };
    let product = |d: [c_uint; 3]| d.iter().map(|n| u64::from(*n)).product::<u64>();
    let mut work = Work::new();
    if let Some((metric, flop, index)) = &f.work {
        // SAFETY: the directive says that this parameter is a u32, and the caller passes the parameters that the entry declares.
        let iterations = unsafe { *(*p.params.add(*index)).cast::<u32>() };
        work.insert(metric.clone(), product(p.grid) * product(p.block).div_ceil(32) * u64::from(iterations) * flop);
    }
    let kernel = (!nameless()).then_some(f.name.as_c_str());
    hooks::around(&hooks::Told { ctx, cbid, function: call, kernel, params: told }, || {
        // A stream that captures runs nothing.
        let captured = with(|s| s.captures.get_mut(&(p.stream as usize)).map(|c| c.push(work.clone())).is_some());
        if captured { OK } else { execute(ctx, vec![work]) }
    })
}

unsafe fn launch_kernel(call: &CStr, cbid: u32, p: KernelParams) -> R {
    // SAFETY: the caller's promise.
    unsafe { launch(call, cbid, &p, (&raw const p).cast()) }
}

/// Executes the kernels of one launch.
fn execute(ctx: usize, kernels: Vec<Work>) -> R {
    let flop: u64 = kernels.iter().flat_map(Work::values).sum();
    let took: Duration = kernels.iter().map(|w| duration(w.values().sum())).sum();
    let found = with(|s| {
        let context = s.contexts.get_mut(&ctx)?;
        let mut sum = Work::new();
        for (metric, flop) in kernels.iter().flatten() {
            *sum.entry(metric.clone()).or_insert(0) += flop;
        }
        if let Some(range) = &mut context.range {
            for (metric, flop) in &sum {
                *range.entry(metric.clone()).or_insert(0) += flop;
            }
        }
        let each = context.launches.is_some();
        if let Some(launches) = &mut context.launches {
            launches.push(sum);
            launches.extend((1..ranges_per_launch()).map(|_| Work::new()));
        }
        let device = context.device;
        let now = Instant::now();
        let until = s.busy_until.entry(device).or_insert(now);
        *until = (*until).max(now) + took;
        Some((device, *until - now, each))
    });
    let Some((device, queued, each)) = found else { return INVALID_CONTEXT };
    let activity = &shared::activity()[device];
    activity.mflop.fetch_add(flop >> 20, Ordering::Relaxed);
    let busy = u64::try_from(took.as_nanos()).unwrap_or(0);
    activity.busy_ns.fetch_add(busy, Ordering::Relaxed);
    if let Some(own) = shared::own() {
        own.contexts.fetch_or(1 << device, Ordering::Relaxed);
        own.busy_ns[device].fetch_add(busy, Ordering::Relaxed);
    }
    if each {
        // Kernels run one after the other, and each costs 1.1 ms.
        let fast = shared::setting("FLOPSPROF_SIM_FAST").is_some();
        std::thread::sleep(queued + if fast { Duration::ZERO } else { Duration::from_micros(1100) });
    }
    // A full queue blocks the launch, as the driver's does.
    std::thread::sleep(queued.saturating_sub(took * QUEUE));
    OK
}

/// The parameters of a graph's launch.
#[repr(C)]
struct GraphParams {
    graph: *mut c_void,
    stream: *mut c_void,
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
        function: *mut c_void, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: *mut c_void, params: *mut *mut c_void, extra: *mut *mut c_void,
    ) {
        launch_kernel(c"cuLaunchKernel", 307, KernelParams { function, grid: [gx, gy, gz], block: [bx, by, bz], shared, stream, params, extra })
    }
    fn cuLaunchCooperativeKernel(
        function: *mut c_void, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: *mut c_void, params: *mut *mut c_void,
    ) {
        launch_kernel(c"cuLaunchCooperativeKernel", 477, KernelParams { function, grid: [gx, gy, gz], block: [bx, by, bz], shared, stream, params, extra: std::ptr::null_mut() })
    }
    fn cuLaunchKernelEx(config: *const LaunchConfig, function: *mut c_void, params: *mut *mut c_void, extra: *mut *mut c_void) {
        let c = &*config;
        let p = KernelParams { function, grid: c.grid, block: c.block, shared: c.shared, stream: c.stream, params, extra };
        let told = (config, function, params, extra);
        let told: [*const c_void; 4] = [told.0.cast(), told.1, told.2.cast(), told.3.cast()];
        launch(c"cuLaunchKernelEx", 652, &p, told.as_ptr().cast())
    }
    fn cuStreamBeginCapture_v2(stream: *mut c_void, mode: c_uint) {
        with(|s| {
            s.captures.insert(stream as usize, Vec::new());
            if mode == capture::GLOBAL { s.global.insert(stream as usize); }
        });
        OK
    }
    fn cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) { *mode = capture::exchange(*mode); OK }
    fn cuStreamIsCapturing(stream: *mut c_void, status: *mut c_int) { *status = c_int::from(with(|s| s.captures.contains_key(&(stream as usize)))); OK }
    fn cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) {
        let Some(handle) = with(|s| {
            let kernels = s.captures.remove(&(stream as usize))?;
            s.global.remove(&(stream as usize));
            if s.invalidated.remove(&(stream as usize)) { return Some(None); }
            let handle = s.handle();
            s.graphs.insert(handle, kernels);
            Some(Some(handle))
        }) else { return INVALID_VALUE };
        let Some(handle) = handle else { return capture::INVALIDATED };
        *graph = handle as *mut c_void;
        OK
    }
    fn cuGraphInstantiateWithFlags(exec: *mut *mut c_void, graph: *mut c_void, _flags: u64) { *exec = graph; OK }
    fn cuGraphLaunch(graph: *mut c_void, stream: *mut c_void) {
        let Some(ctx) = current() else { return INVALID_CONTEXT };
        let Some(kernels) = with(|s| s.graphs.get(&(graph as usize)).cloned()) else { return INVALID_VALUE };
        let p = GraphParams { graph, stream };
        let told = hooks::Told { ctx, cbid: 514, function: c"cuGraphLaunch", kernel: None, params: (&raw const p).cast() };
        hooks::around(&told, || execute(ctx, kernels))
    }
}
