//! Answers that are none, beside a success: what a call may hand out without breaking the ABI.

use std::ffi::{c_char, c_void};

use cupti_sys::raw;

/// A list whose entries are null, nothing, no UTF-8, and endless.
fn strange_names() -> (*const *const c_char, usize) {
    let endless: &'static [u8] = vec![b'x'; 1 << 20].leak();
    let endless: &'static [u8] = [endless, b"\0"].concat().leak();
    let names: &'static [*const c_char] =
        vec![std::ptr::null(), c"".as_ptr(), c"\xff\xfe sm__ops_path_tensor_".as_ptr(), endless.as_ptr().cast()].leak();
    (names.as_ptr(), names.len())
}

/// Spoils what a call has put into its parameters.
///
/// # Safety
/// `params` is the struct of the function.
pub(crate) unsafe fn spoil(function: &str, params: *mut c_void, kind: u32) {
    let sizes = [0, usize::MAX, 1 << 44, 1];
    let size = sizes[kind as usize % sizes.len()];
    match function {
        "cuptiDeviceGetChipName" => {
            (*params.cast::<raw::DeviceGetChipName>()).chip_name =
                [std::ptr::null(), c"".as_ptr(), c"\xff\xff\xff".as_ptr(), *strange_names().0.add(3)][kind as usize % 4];
        }
        "cuptiProfilerHostGetBaseMetrics" => {
            let p = &mut *params.cast::<raw::HostGetBaseMetrics>();
            (p.metric_names, p.num_metrics) = match kind % 4 {
                0 => (std::ptr::null(), 1000),
                1 => (p.metric_names, 0),
                2 => strange_names(),
                _ => (p.metric_names, 3),
            };
        }
        "cuptiProfilerHostInitialize" => (*params.cast::<raw::HostInitialize>()).host_object = std::ptr::null_mut(),
        "cuptiProfilerHostGetConfigImageSize" => (*params.cast::<raw::HostGetConfigImageSize>()).config_image_size = size,
        "cuptiProfilerHostGetNumOfPasses" => (*params.cast::<raw::HostGetNumOfPasses>()).num_of_passes = size,
        "cuptiProfilerHostEvaluateToGpuValues" => {
            let p = &mut *params.cast::<raw::HostEvaluateToGpuValues>();
            let value = [f64::NAN, f64::INFINITY, -1.0, 1e300, 1e36, f64::MIN_POSITIVE][kind as usize % 6];
            (0..p.num_metrics).for_each(|i| *p.metric_values.add(i) = value);
        }
        "cuptiRangeProfilerEnable" => (*params.cast::<raw::RangeProfilerEnable>()).object = std::ptr::null_mut(),
        "cuptiRangeProfilerGetCounterDataSize" => (*params.cast::<raw::RangeProfilerGetCounterDataSize>()).counter_data_size = size,
        "cuptiRangeProfilerDecodeData" => (*params.cast::<raw::RangeProfilerDecodeData>()).num_of_range_dropped = size,
        "cuptiRangeProfilerGetCounterDataInfo" => (*params.cast::<raw::RangeProfilerGetCounterDataInfo>()).num_total_ranges = size,
        "cuptiPmSamplingEnable" => (*params.cast::<raw::PmSamplingEnable>()).object = std::ptr::null_mut(),
        "cuptiPmSamplingGetCounterDataSize" => (*params.cast::<raw::PmSamplingGetCounterDataSize>()).counter_data_size = size,
        "cuptiPmSamplingGetCounterDataInfo" => {
            let p = &mut *params.cast::<raw::PmSamplingGetCounterDataInfo>();
            (p.num_populated_samples, p.num_completed_samples) = [(size, size), (0, 1), (usize::MAX, 0), (1, 1)][kind as usize % 4];
        }
        "cuptiPmSamplingCounterDataGetSampleInfo" => {
            let p = &mut *params.cast::<raw::PmSamplingGetSampleInfo>();
            (p.start_timestamp, p.end_timestamp) = [(1, 0), (0, u64::MAX)][kind as usize % 2];
        }
        "cuptiPmSamplingDecodeData" => (*params.cast::<raw::PmSamplingDecodeData>()).decode_stop_reason = raw::DECODE_IMAGE_FULL,
        "cuptiProfilerHostGetConfigImage" => {
            let p = &mut *params.cast::<raw::HostGetConfigImage>();
            std::ptr::write_bytes(p.config_image, 0xff, p.config_image_size);
        }
        "cuptiRangeProfilerCounterDataImageInitialize" => {
            let p = &mut *params.cast::<raw::RangeProfilerCounterDataImageInitialize>();
            std::ptr::write_bytes(p.counter_data, 0xff, p.counter_data_size);
        }
        "cuptiRangeProfilerStop" => (*params.cast::<raw::RangeProfilerStop>()).is_all_pass_submitted = 0xff,
        other => panic!("{other} has nothing to spoil"),
    }
}
