//! The stand-in GPU's `libnvidia-ml.so.1`: identity, energy, clocks and GPM activity that follow what the stand-in's libcuda executed, in any process.
#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    unsafe_op_in_unsafe_fn,
    missing_docs,
    unreachable_pub,
    reason = "the names and contracts are NVML's"
)]

#[path = "../../cuda/src/fault.rs"]
mod fault;
mod garbage;
#[path = "../../cuda/src/shared.rs"]
mod shared;

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char, c_uint},
    sync::{Mutex, atomic::Ordering},
};

use nvml_wrapper_sys::bindings::{
    nvmlConfComputeSystemState_t, nvmlDevice_t, nvmlGpmMetricsGet_t, nvmlGpmSample_t, nvmlGpmSupport_t, nvmlProcessInfo_t,
    nvmlProcessUtilizationSample_t, nvmlUtilization_t,
};

/// Marks the stand-in.
#[unsafe(no_mangle)]
pub static flopsprof_stand_in: u32 = 1;

type R = u32;
const OK: R = 0;
const INVALID_ARGUMENT: R = 2;
const NOT_FOUND: R = 6;
const INSUFFICIENT_SIZE: R = 7;
/// Power, mW, idle and busy; a busy device's energy is reckoned with the latter.
const IDLE_MW: u64 = 75_000;
const BUSY_MW: u64 = 700_000;

/// An exported function: answers with the fault that was asked for, else runs.
macro_rules! nvml {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> R {
            if let Some(code) = fault::call(stringify!($name)) {
                return code;
            }
            let garbage = fault::garbage();
            let work = || $body;
            let answer = work();
            if let (Some(kind), OK) = (garbage, answer) {
                garbage::spoil(stringify!($name), &[$($arg as usize),*], kind);
            }
            answer
        })*
    };
}

unsafe fn put(to: *mut c_char, len: c_uint, text: &str) {
    let n = text.len().min((len as usize).saturating_sub(1));
    std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, n);
    *to.add(n) = 0;
}

fn devices() -> usize {
    shared::setting("FLOPSPROF_SIM_DEVICES").and_then(|v| v.parse().ok()).unwrap_or(1).min(shared::DEVICES)
}

/// A device's handle is its ordinal and one.
fn ordinal(device: nvmlDevice_t) -> usize {
    (device as usize).saturating_sub(1).min(shared::DEVICES - 1)
}

/// As the stand-in's libcuda has it, in NVML's words.
fn uuid(device: usize) -> String {
    let hex: String = shared::uuid(device).iter().map(|b| format!("{b:02x}")).collect();
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// By device and process: when its busy time was asked for, and what it was.
static BEFORE: Mutex<BTreeMap<(usize, u32), (u64, u64)>> = Mutex::new(BTreeMap::new());

/// The processes on a device that live: id and busy time.
fn on(device: usize) -> Vec<(u32, u64)> {
    let all = shared::processes().iter().map(|p| (p.pid.load(Ordering::Relaxed), p));
    let here = all.filter(|(pid, p)| *pid != 0 && p.contexts.load(Ordering::Relaxed) & (1 << device) != 0 && shared::alive(*pid));
    here.map(|(pid, p)| (pid, p.busy_ns[device].load(Ordering::Relaxed))).collect()
}

fn busy_ns(device: usize) -> u64 {
    shared::activity()[device].busy_ns.load(Ordering::Relaxed)
}

fn now_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
    t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs()
}

/// A GPM sample: when, and how much was executed by then.
#[derive(Clone, Copy, Default)]
struct Sample {
    ns: u64,
    mflop: u64,
}

nvml! {
    fn nvmlInit_v2() { OK }
    fn nvmlInitWithFlags(_flags: c_uint) { OK }
    fn nvmlShutdown() { OK }
    fn nvmlSystemGetDriverVersion(to: *mut c_char, len: c_uint) { put(to, len, "0.0-stand-in"); OK }
    fn nvmlSystemGetNVMLVersion(to: *mut c_char, len: c_uint) { put(to, len, "0.0-stand-in"); OK }
    fn nvmlDeviceGetCount_v2(count: *mut c_uint) { *count = c_uint::try_from(devices()).unwrap_or(0); OK }
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) {
        if index as usize >= devices() { return INVALID_ARGUMENT; }
        *device = (index as usize + 1) as nvmlDevice_t;
        OK
    }
    fn nvmlDeviceGetHandleByUUID(text: *const c_char, device: *mut nvmlDevice_t) {
        let wanted = CStr::from_ptr(text).to_string_lossy();
        let Some(found) = (0..devices()).find(|d| uuid(*d) == wanted) else { return NOT_FOUND };
        *device = (found + 1) as nvmlDevice_t;
        OK
    }
    fn nvmlDeviceGetUUID(device: nvmlDevice_t, to: *mut c_char, len: c_uint) { put(to, len, &uuid(ordinal(device))); OK }
    fn nvmlDeviceGetName(_device: nvmlDevice_t, to: *mut c_char, len: c_uint) { put(to, len, "Stand-in GPU (simulated)"); OK }
    fn nvmlDeviceGetMigMode(_device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) { *current = 0; *pending = 0; OK }
    fn nvmlSystemGetConfComputeState(state: *mut nvmlConfComputeSystemState_t) { (*state).ccFeature = 0; OK }
    fn nvmlSystemGetConfComputeGpusReadyState(ready: *mut c_uint) { *ready = 0; OK }
    fn nvmlDeviceGetTotalEnergyConsumption(device: nvmlDevice_t, mj: *mut u64) {
        // mW x ns / 10^9 = mJ / 1000 x 1000.
        let busy = u128::from(busy_ns(ordinal(device))) * u128::from(BUSY_MW) / 1_000_000_000;
        let idle = u128::from(now_ns()) * u128::from(IDLE_MW) / 1_000_000_000;
        *mj = u64::try_from(busy + idle).unwrap_or(u64::MAX);
        OK
    }
    fn nvmlDeviceGetPowerUsage(_device: nvmlDevice_t, mw: *mut c_uint) { *mw = 350_000; OK }
    fn nvmlDeviceGetClockInfo(_device: nvmlDevice_t, _clock: c_uint, mhz: *mut c_uint) { *mhz = 1980; OK }
    fn nvmlDeviceGetMaxClockInfo(_device: nvmlDevice_t, _clock: c_uint, mhz: *mut c_uint) { *mhz = 1980; OK }
    fn nvmlDeviceGetCurrentClocksThrottleReasons(_device: nvmlDevice_t, reasons: *mut u64) { *reasons = 0; OK }
    fn nvmlDeviceGetUtilizationRates(_device: nvmlDevice_t, rates: *mut nvmlUtilization_t) { *rates = nvmlUtilization_t { gpu: 80, memory: 10 }; OK }
    fn nvmlDeviceGetComputeRunningProcesses_v3(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_t) {
        let on = on(ordinal(device));
        let room = std::mem::replace(&mut *count, on.len() as c_uint) as usize;
        if infos.is_null() || room < on.len() { return if on.is_empty() { OK } else { INSUFFICIENT_SIZE }; }
        for (i, process) in on.iter().enumerate() {
            *infos.add(i) = nvmlProcessInfo_t { pid: process.0, usedGpuMemory: 1 << 30, gpuInstanceId: u32::MAX, computeInstanceId: u32::MAX };
        }
        OK
    }
    fn nvmlDeviceGetProcessUtilization(device: nvmlDevice_t, samples: *mut nvmlProcessUtilizationSample_t, count: *mut c_uint, _since: u64) {
        let on = on(ordinal(device));
        let room = std::mem::replace(&mut *count, on.len() as c_uint) as usize;
        if on.is_empty() { return NOT_FOUND; }
        if samples.is_null() || room < on.len() { return INSUFFICIENT_SIZE; }
        let mut before = BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = now_ns();
        let unix_us = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
        for (i, (pid, busy)) in on.iter().enumerate() {
            // Since it was asked for last; at first, since a second before.
            let (then, was) = before.insert((ordinal(device), *pid), (now, *busy)).unwrap_or((now - 1_000_000_000, 0));
            let percent = (busy.saturating_sub(was) as f64 / (now - then).max(1) as f64 * 100.0).ceil().min(100.0);
            let mut sample: nvmlProcessUtilizationSample_t = std::mem::zeroed();
            (sample.pid, sample.timeStamp, sample.smUtil) = (*pid, unix_us, percent as c_uint);
            *samples.add(i) = sample;
        }
        OK
    }
    fn nvmlGpmQueryDeviceSupport(_device: nvmlDevice_t, support: *mut nvmlGpmSupport_t) { (*support).isSupportedDevice = 1; OK }
    fn nvmlGpmSampleAlloc(sample: *mut nvmlGpmSample_t) { *sample = Box::into_raw(Box::new(Sample::default())).cast(); OK }
    fn nvmlGpmSampleFree(sample: nvmlGpmSample_t) {
        if !sample.is_null() { drop(Box::from_raw(sample.cast::<Sample>())); }
        OK
    }
    fn nvmlGpmSampleGet(device: nvmlDevice_t, sample: nvmlGpmSample_t) {
        if sample.is_null() { return INVALID_ARGUMENT; }
        *sample.cast::<Sample>() = Sample { ns: now_ns(), mflop: shared::activity()[ordinal(device)].mflop.load(Ordering::Relaxed) };
        OK
    }
    fn nvmlGpmMetricsGet(get: *mut nvmlGpmMetricsGet_t) {
        let (a, b) = (*(*get).sample1.cast::<Sample>(), *(*get).sample2.cast::<Sample>());
        let flop = b.mflop.saturating_sub(a.mflop) as f64 * f64::from(1 << 20);
        let seconds = b.ns.saturating_sub(a.ns).max(1) as f64 / 1e9;
        // The stand-in's 132 multiprocessors at 4096 dense FLOP a cycle and 1980 MHz.
        let percent = 100.0 * flop / seconds / (132.0 * 4096.0 * 1.98e9);
        for i in 0..(*get).numMetrics as usize {
            let metric = &mut (*get).metrics[i];
            metric.nvmlReturn = OK;
            metric.value = if metric.metricId == 6 { 0.0 } else { percent };
            for text in [&mut metric.metricInfo.shortName, &mut metric.metricInfo.longName, &mut metric.metricInfo.unit] {
                *text = c"stand-in".as_ptr().cast_mut();
            }
        }
        OK
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlErrorString(_code: R) -> *const c_char {
    c"an error of the stand-in NVML".as_ptr()
}
