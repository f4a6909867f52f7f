//! The stand-in GPU's `libcupti.so.13`: CUPTI's real ABI over the stand-in's libcuda, with the behaviour that was measured on an H200.
//!
//! Order is enforced, one process owns a GPU's counters at a time (which `kill -9` frees), a config of more passes than one reads NaN, a range
//! profiler keeps its first configuration for life, launches outside an open range are not counted, values are readable after Stop and Decode,
//! there is one subscriber, the profiler host is for one thread at a time. PM sampling sees all processes of a GPU and takes its counters from all others. A Push without a Start that worked kills the context on the real GPU; here it aborts the process.
#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    unsafe_op_in_unsafe_fn,
    missing_docs,
    unreachable_pub,
    reason = "the names and contracts are CUPTI's"
)]

mod callback;
#[path = "../../cuda/src/fault.rs"]
mod fault;
mod garbage;
mod host;
mod link;
mod metric;
mod range;
mod sampling;
#[path = "../../cuda/src/shared.rs"]
#[allow(dead_code, reason = "shared with the other stand-ins")]
mod shared;

/// Marks the stand-in.
#[unsafe(no_mangle)]
pub static flopsprof_stand_in: u32 = 1;

/// `CUptiResult`.
pub(crate) type R = u32;
pub(crate) const OK: R = 0;
pub(crate) const INVALID_PARAMETER: R = 1;
pub(crate) const INVALID_OPERATION: R = 7;
pub(crate) const TOO_SMALL: R = 10;
pub(crate) const INVALID_METRIC_NAME: R = 17;
pub(crate) const HARDWARE_BUSY: R = 26;
pub(crate) const MULTIPLE_SUBSCRIBERS: R = 39;
pub(crate) const INVALID_CHIP_NAME: R = 46;

/// Exported functions of one parameter struct: answers with the fault that was asked for, checks the struct's size, runs.
#[macro_export]
macro_rules! cupti {
    ($(fn $name:ident($p:ident: $params:ty) $body:block)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(params: *mut $params) -> $crate::R {
            let _inside = $crate::host::enter(stringify!($name));
            if let Some(code) = $crate::fault::call(stringify!($name)) {
                return code;
            }
            if (*params).struct_size < <$params as cupti_sys::raw::Params>::STRUCT_SIZE {
                return $crate::TOO_SMALL;
            }
            let garbage = $crate::fault::garbage();
            let work = || {
                let $p = &mut *params;
                $body
            };
            let answer = work();
            if let (Some(kind), $crate::OK) = (garbage, answer) {
                $crate::garbage::spoil(stringify!($name), params.cast(), kind);
            }
            answer
        })*
    };
}

/// Sleeps as long as the real call was measured to take, unless `FLOPSPROF_SIM_FAST` is set.
pub(crate) fn takes_ms(ms: u64) {
    if shared::setting("FLOPSPROF_SIM_FAST").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }
}

/// `FLOPSPROF_SIM_CUPTI_VERSION` pretends to be another version: 22 is CUDA 12.4, 24 is 12.6.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuptiGetVersion(version: *mut u32) -> R {
    if let Some(code) = fault::call("cuptiGetVersion") {
        return code;
    }
    if let Some(kind) = fault::garbage() {
        *version = [0, u32::MAX, 23][kind as usize % 3];
        return OK;
    }
    *version = shared::setting("FLOPSPROF_SIM_CUPTI_VERSION").and_then(|v| v.parse().ok()).unwrap_or(130_001);
    OK
}
