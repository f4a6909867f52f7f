//! The profiler host.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_char},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cupti_sys::raw;

use crate::{INVALID_CHIP_NAME, INVALID_METRIC_NAME, INVALID_OPERATION, INVALID_PARAMETER, OK, cupti, metric, range, shared::setting};

/// Metrics configured on each host object. Those of one for PM sampling begin with [`SAMPLING`]: a configuration for one profiler is none for the other.
static OBJECTS: Mutex<Option<HashMap<usize, Vec<String>>>> = Mutex::new(None);

/// The device whose counts each host object evaluated first: those of other devices it takes for none (seen on two H200s, 2026-11-26).
static EVALUATES: Mutex<Option<HashMap<usize, u64>>> = Mutex::new(None);

/// Whether a host object evaluates counts of this device.
fn evaluates(object: usize, device: u64) -> bool {
    let mut devices = EVALUATES.lock().unwrap_or_else(PoisonError::into_inner);
    *devices.get_or_insert_default().entry(object).or_insert(device) == device
}

const SAMPLING: &str = "PM sampling";

fn objects<T>(f: impl FnOnce(&mut HashMap<usize, Vec<String>>) -> T) -> T {
    f(OBJECTS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

static BUSY: AtomicBool = AtomicBool::new(false);

/// A call of the profiler host that is under way.
pub(crate) struct Inside;

impl Drop for Inside {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::SeqCst);
    }
}

/// NVIDIA does not say what becomes of two threads that call the profiler host at once; here it ends the process.
pub(crate) fn enter(function: &str) -> Option<Inside> {
    if !function.starts_with("cuptiProfilerHost") {
        return None;
    }
    if BUSY.swap(true, Ordering::SeqCst) {
        eprintln!("{function}: another thread is in the profiler host");
        std::process::abort();
    }
    Some(Inside)
}

/// The chip of a device: with `FLOPSPROF_SIM_CHIPS` the odd ones have another than the even ones.
fn chip(device: usize) -> &'static CStr {
    if device % 2 == 1 && setting("FLOPSPROF_SIM_CHIPS").is_some() { CHIPS[1] } else { CHIPS[0] }
}

/// The second counts as the first does.
const CHIPS: [&CStr; 2] = [c"GH100", c"GH100-other"];

/// A list of C strings that lives for ever, as CUPTI's do.
fn list(strings: Vec<CString>) -> (*const *const c_char, usize) {
    let strings: &'static [CString] = strings.leak();
    let pointers: &'static [*const c_char] = strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>().leak();
    (pointers.as_ptr(), pointers.len())
}

struct Pointers((*const *const c_char, usize));
// SAFETY: constants.
unsafe impl Send for Pointers {}
// SAFETY: constants.
unsafe impl Sync for Pointers {}

pub(crate) unsafe fn names(list: *const *const c_char, n: usize) -> Vec<String> {
    (0..n).map(|i| CStr::from_ptr(*list.add(i)).to_string_lossy().into_owned()).collect()
}

cupti! {
    fn cuptiProfilerInitialize(p: raw::ProfilerInitialize) { let _ = p; OK }
    fn cuptiProfilerDeInitialize(p: raw::ProfilerDeInitialize) { let _ = p; OK }
    fn cuptiDeviceGetChipName(p: raw::DeviceGetChipName) { p.chip_name = chip(p.device_index).as_ptr(); OK }
    fn cuptiProfilerDeviceSupported(p: raw::ProfilerDeviceSupported) { p.is_supported = 2; OK }
    fn cuptiProfilerHostInitialize(p: raw::HostInitialize) {
        if p.chip_name.is_null() || !CHIPS.contains(&CStr::from_ptr(p.chip_name)) { return INVALID_CHIP_NAME; }
        let begun = if p.profiler_type == raw::PROFILER_TYPE_PM_SAMPLING { vec![SAMPLING.to_owned()] } else { Vec::new() };
        p.host_object = objects(|o| { let handle = 0x100 + o.len() * 16 + o.keys().max().copied().unwrap_or(0); o.insert(handle, begun); handle }) as _;
        OK
    }
    fn cuptiProfilerHostDeinitialize(p: raw::HostDeinitialize) {
        EVALUATES.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().remove(&(p.host_object as usize));
        objects(|o| o.remove(&(p.host_object as usize)));
        OK
    }
    fn cuptiProfilerHostGetSupportedChips(p: raw::HostGetSupportedChips) { (p.chip_names, p.num_chips) = list(vec![c"GH100".to_owned()]); OK }
    fn cuptiProfilerHostGetBaseMetrics(p: raw::HostGetBaseMetrics) {
        static LIST: OnceLock<Pointers> = OnceLock::new();
        (p.metric_names, p.num_metrics) = LIST.get_or_init(|| Pointers(list(metric::base()))).0;
        OK
    }
    fn cuptiProfilerHostConfigAddMetrics(p: raw::HostConfigAddMetrics) {
        let names = names(p.metric_names, p.num_metrics);
        if !names.iter().all(|n| metric::exists(n)) { return INVALID_METRIC_NAME; }
        objects(|o| o.get_mut(&(p.host_object as usize)).map(|m| m.extend(names))).map_or(INVALID_PARAMETER, |()| OK)
    }
    fn cuptiProfilerHostGetConfigImageSize(p: raw::HostGetConfigImageSize) {
        let Some(n) = objects(|o| o.get(&(p.host_object as usize)).map(|m| m.join("\n").len() + 1)) else { return INVALID_PARAMETER };
        p.config_image_size = n;
        OK
    }
    fn cuptiProfilerHostGetConfigImage(p: raw::HostGetConfigImage) {
        let Some(text) = objects(|o| o.get(&(p.host_object as usize)).map(|m| m.join("\n"))) else { return INVALID_PARAMETER };
        if p.config_image_size < text.len() + 1 { return INVALID_PARAMETER; }
        std::ptr::copy_nonoverlapping(text.as_ptr(), p.config_image, text.len());
        *p.config_image.add(text.len()) = 0;
        OK
    }
    fn cuptiProfilerHostGetNumOfPasses(p: raw::HostGetNumOfPasses) {
        p.num_of_passes = metric::passes(&metrics_of(p.config_image, p.config_image_size));
        OK
    }
    fn cuptiProfilerHostEvaluateToGpuValues(p: raw::HostEvaluateToGpuValues) {
        let device = range::value(p.counter_data_image, p.counter_data_image_size, p.range_index, range::DEVICE).filter(|d| d.is_finite());
        let ours = device.is_none_or(|device| evaluates(p.host_object as usize, device as u64));
        for (i, name) in names(p.metric_names, p.num_metrics).iter().enumerate() {
            let value = if name.ends_with(".peak_sustained") {
                // What CUPTI says of GH100's wgmma bf16.
                if metric::base_of(name) == metric::PIPE { metric::TENSOR_CORES } else { 1_081_344.0 }
            } else {
                match range::value(p.counter_data_image, p.counter_data_image_size, p.range_index, name) {
                    Some(value) => if ours { value } else { f64::NAN },
                    None => return INVALID_OPERATION,
                }
            };
            *p.metric_values.add(i) = value;
        }
        OK
    }
    fn cuptiProfilerGetCounterAvailability(p: raw::GetCounterAvailability) { p.image_size = 8; OK }
}

/// The metrics of a configuration image.
pub(crate) unsafe fn metrics_of(image: *const u8, size: usize) -> Vec<String> {
    lines(image, size).into_iter().filter(|m| !m.is_empty() && m != SAMPLING).collect()
}

/// Whether it is one for PM sampling.
pub(crate) unsafe fn is_for_sampling(image: *const u8, size: usize) -> bool {
    lines(image, size).first().is_some_and(|m| m == SAMPLING)
}

unsafe fn lines(image: *const u8, size: usize) -> Vec<String> {
    let bytes = std::slice::from_raw_parts(image, size);
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).split('\n').map(str::to_owned).collect()
}
