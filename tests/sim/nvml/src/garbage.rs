//! Answers that are none, beside a success: what a call may hand out without breaking the ABI.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlConfComputeSystemState_t, nvmlGpmMetricsGet_t, nvmlGpmSupport_t, nvmlProcessInfo_t, nvmlProcessUtilizationSample_t,
    nvmlUtilization_t,
};

/// Spoils what a call has written through its arguments, which are numbers here.
///
/// # Safety
/// The arguments are those of the function.
pub(crate) unsafe fn spoil(function: &str, args: &[usize], kind: u32) {
    let number = [0, u32::MAX, 1 << 31][kind as usize % 3];
    match function {
        "nvmlSystemGetDriverVersion" => std::ptr::write_bytes(args[0] as *mut u8, 0xff, args[1]),
        "nvmlDeviceGetName" | "nvmlDeviceGetUUID" => std::ptr::write_bytes(args[1] as *mut u8, [0, 0xff, b'x'][kind as usize % 3], args[2]),
        "nvmlDeviceGetCount_v2" => *(args[0] as *mut c_uint) = number,
        "nvmlSystemGetConfComputeGpusReadyState" => *(args[0] as *mut c_uint) = number,
        // What is listed; how many were written must be true.
        "nvmlDeviceGetComputeRunningProcesses_v3" => {
            for i in 0..*(args[1] as *mut c_uint) as usize {
                let info = &mut *(args[2] as *mut nvmlProcessInfo_t).add(i);
                (info.pid, info.usedGpuMemory) = (number, u64::MAX - u64::from(number));
            }
        }
        "nvmlDeviceGetProcessUtilization" => {
            for i in 0..*(args[2] as *mut c_uint) as usize {
                let sample = &mut *(args[1] as *mut nvmlProcessUtilizationSample_t).add(i);
                (sample.pid, sample.timeStamp, sample.smUtil) = (number, u64::MAX - u64::from(number), number);
            }
        }
        "nvmlDeviceGetMigMode" => {
            *(args[1] as *mut c_uint) = number;
            *(args[2] as *mut c_uint) = number;
        }
        "nvmlSystemGetConfComputeState" => (*(args[0] as *mut nvmlConfComputeSystemState_t)).ccFeature = number,
        // Forwards, backwards, and as far as it goes.
        "nvmlDeviceGetTotalEnergyConsumption" => {
            *(args[1] as *mut u64) =
                [0, u64::MAX, std::time::UNIX_EPOCH.elapsed().map_or(0, |t| u64::MAX / 2 - t.as_secs())][kind as usize % 3];
        }
        "nvmlDeviceGetPowerUsage" => *(args[1] as *mut c_uint) = number,
        "nvmlDeviceGetClockInfo" | "nvmlDeviceGetMaxClockInfo" => *(args[2] as *mut c_uint) = number,
        "nvmlDeviceGetCurrentClocksThrottleReasons" => *(args[1] as *mut u64) = u64::MAX,
        "nvmlDeviceGetUtilizationRates" => *(args[1] as *mut nvmlUtilization_t) = nvmlUtilization_t { gpu: number, memory: number },
        "nvmlGpmQueryDeviceSupport" => (*(args[1] as *mut nvmlGpmSupport_t)).isSupportedDevice = number,
        "nvmlGpmMetricsGet" => {
            let get = &mut *(args[0] as *mut nvmlGpmMetricsGet_t);
            for metric in get.metrics.iter_mut().take(get.numMetrics as usize) {
                metric.value = [f64::NAN, f64::INFINITY, -5.0, 1e300][kind as usize % 4];
            }
        }
        "nvmlDeviceGetHandleByUUID" | "nvmlGpmSampleAlloc" => *(args[usize::from(function.ends_with("UUID"))] as *mut usize) = 0,
        other => panic!("{other} has nothing to spoil"),
    }
}
