//! CUPTI's C types, as its headers of 12.6 to 13.x lay them out.
//!
//! Every parameter struct begins with `structSize`, which tells CUPTI how much of it the caller knows: the sizes here are those of 12.6, the
//! first version with the range profiler, and newer libraries accept them. `STRUCT_SIZE` is the end of the last field, as CUPTI's
//! macro computes it; it is not `size_of`, which pads. What comes from C is an integer newtype, never a Rust enum: a value that this
//! version does not know must not be undefined behaviour.

use std::{
    ffi::{c_char, c_int, c_void},
    fmt,
};

/// A `CUptiResult`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct CuptiResult(pub u32);

/// Names for the results that are told apart somewhere.
impl CuptiResult {
    /// It worked.
    pub const SUCCESS: Self = Self(0);
    /// A parameter is wrong.
    pub const INVALID_PARAMETER: Self = Self(1);
    /// The context is not valid.
    pub const INVALID_CONTEXT: Self = Self(3);
    /// The call does not fit the state.
    pub const INVALID_OPERATION: Self = Self(7);
    /// No memory, or, of PM sampling, no room left in the hardware's buffer.
    pub const OUT_OF_MEMORY: Self = Self(8);
    /// The struct is smaller than this version of the library takes.
    pub const PARAMETER_SIZE_NOT_SUFFICIENT: Self = Self(10);
    /// CUPTI or what it stands on did not initialise.
    pub const NOT_INITIALIZED: Self = Self(15);
    /// No metric of that name on this chip.
    pub const INVALID_METRIC_NAME: Self = Self(17);
    /// Somebody else owns the GPU's counters.
    pub const HARDWARE_BUSY: Self = Self(26);
    /// Not on this device or configuration.
    pub const NOT_SUPPORTED: Self = Self(27);
    /// The user may not read counters.
    pub const INSUFFICIENT_PRIVILEGES: Self = Self(35);
    /// Another tool has the one subscription.
    pub const MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED: Self = Self(39);
    /// The virtual GPU's host does not let the guest read counters.
    pub const VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES: Self = Self(40);
    /// Counters and confidential computing exclude each other.
    pub const CONFIDENTIAL_COMPUTING_NOT_SUPPORTED: Self = Self(41);
    /// Not on this MIG configuration.
    pub const MIG_DEVICE_NOT_SUPPORTED: Self = Self(43);
    /// Anything else.
    pub const UNKNOWN: Self = Self(999);

    /// CUPTI's own name for it, where this version knows one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "CUPTI_SUCCESS",
            1 => "CUPTI_ERROR_INVALID_PARAMETER",
            2 => "CUPTI_ERROR_INVALID_DEVICE",
            3 => "CUPTI_ERROR_INVALID_CONTEXT",
            7 => "CUPTI_ERROR_INVALID_OPERATION",
            8 => "CUPTI_ERROR_OUT_OF_MEMORY",
            9 => "CUPTI_ERROR_HARDWARE",
            10 => "CUPTI_ERROR_PARAMETER_SIZE_NOT_SUFFICIENT",
            11 => "CUPTI_ERROR_API_NOT_IMPLEMENTED",
            12 => "CUPTI_ERROR_MAX_LIMIT_REACHED",
            13 => "CUPTI_ERROR_NOT_READY",
            14 => "CUPTI_ERROR_NOT_COMPATIBLE",
            15 => "CUPTI_ERROR_NOT_INITIALIZED",
            16 => "CUPTI_ERROR_INVALID_METRIC_ID",
            17 => "CUPTI_ERROR_INVALID_METRIC_NAME",
            19 => "CUPTI_ERROR_INVALID_HANDLE",
            23 => "CUPTI_ERROR_DISABLED",
            26 => "CUPTI_ERROR_HARDWARE_BUSY",
            27 => "CUPTI_ERROR_NOT_SUPPORTED",
            33 => "CUPTI_ERROR_VIRTUALIZED_DEVICE_NOT_SUPPORTED",
            35 => "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES",
            36 => "CUPTI_ERROR_OLD_PROFILER_API_INITIALIZED",
            38 => "CUPTI_ERROR_LEGACY_PROFILER_NOT_SUPPORTED",
            39 => "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED",
            40 => "CUPTI_ERROR_VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES",
            41 => "CUPTI_ERROR_CONFIDENTIAL_COMPUTING_NOT_SUPPORTED",
            42 => "CUPTI_ERROR_CMP_DEVICE_NOT_SUPPORTED",
            43 => "CUPTI_ERROR_MIG_DEVICE_NOT_SUPPORTED",
            44 => "CUPTI_ERROR_SLI_DEVICE_NOT_SUPPORTED",
            45 => "CUPTI_ERROR_WSL_DEVICE_NOT_SUPPORTED",
            46 => "CUPTI_ERROR_INVALID_CHIP_NAME",
            999 => "CUPTI_ERROR_UNKNOWN",
            _ => return None,
        })
    }
}

impl fmt::Debug for CuptiResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "CUPTI result {}", self.0),
        }
    }
}

/// A `CUcontext`: the driver's, opaque here.
pub type CUcontext = *mut c_void;
/// A `CUdevice`: an ordinal.
pub type CUdevice = c_int;
/// A `CUpti_SubscriberHandle`.
pub type SubscriberHandle = *mut c_void;
/// A profiler host object.
pub type HostObject = *mut c_void;
/// A range profiler object.
pub type RangeProfilerObject = *mut c_void;
/// A PM sampling object.
pub type PmSamplingObject = *mut c_void;
/// `CUpti_CallbackFunc`: user data, domain, callback id, data of the domain.
pub type CallbackFunc = unsafe extern "C" fn(*mut c_void, CallbackDomain, u32, *const c_void);

/// A `CUpti_CallbackDomain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct CallbackDomain(pub u32);

impl CallbackDomain {
    /// Entry and exit of every driver function.
    pub const DRIVER_API: Self = Self(1);
    /// Contexts, modules, graphs.
    pub const RESOURCE: Self = Self(3);
}

/// `CUPTI_DRIVER_TRACE_CBID_*` of the calls that give work to a GPU, per-thread-stream variants included.
pub const LAUNCH_CBIDS: [u32; 9] = [
    307, // cuLaunchKernel
    442, // cuLaunchKernel_ptsz
    477, // cuLaunchCooperativeKernel
    478, // cuLaunchCooperativeKernel_ptsz
    480, // cuLaunchCooperativeKernelMultiDevice
    514, // cuGraphLaunch
    515, // cuGraphLaunch_ptsz
    652, // cuLaunchKernelEx
    653, // cuLaunchKernelEx_ptsz
];

/// `CUPTI_API_ENTER`.
pub const API_ENTER: u32 = 0;
/// `CUPTI_API_EXIT`.
pub const API_EXIT: u32 = 1;

/// `CUPTI_PROFILER_TYPE_RANGE_PROFILER`.
pub const PROFILER_TYPE_RANGE: u32 = 0;
/// `CUPTI_PROFILER_TYPE_PM_SAMPLING`.
pub const PROFILER_TYPE_PM_SAMPLING: u32 = 1;
/// `CUPTI_PM_SAMPLING_TRIGGER_MODE_GPU_SYSCLK_INTERVAL`: an interval in cycles of the system clock, which Turing and GA100 have alone.
pub const TRIGGER_SYSCLK: u32 = 0;
/// `CUPTI_PM_SAMPLING_TRIGGER_MODE_GPU_TIME_INTERVAL`: an interval in nanoseconds.
pub const TRIGGER_TIME: u32 = 1;
/// `CUPTI_PM_SAMPLING_DECODE_STOP_REASON_COUNTER_DATA_FULL`: the image is full, and there is more.
pub const DECODE_IMAGE_FULL: u32 = 1;
/// `CUPTI_PM_SAMPLING_DECODE_STOP_REASON_END_OF_RECORDS`: there was no more.
pub const DECODE_END: u32 = 2;
/// `CUPTI_METRIC_TYPE_COUNTER`.
pub const METRIC_TYPE_COUNTER: u32 = 0;
/// `CUPTI_AutoRange`: one range a launch.
pub const AUTO_RANGE: u32 = 1;
/// `CUPTI_UserRange`: ranges between Push and Pop.
pub const USER_RANGE: u32 = 2;
/// `CUPTI_UserReplay`: nothing is run twice behind the program's back.
pub const USER_REPLAY: u32 = 3;

/// `CUPTI_API_VERSION` of 12.6, the first with the range profiler.
pub const API_VERSION_12_6: u32 = 24;

/// What every parameter struct can say of itself.
///
/// # Safety
/// `STRUCT_SIZE` must be the end of the last field, and the type must begin with `structSize`.
pub unsafe trait Params {
    /// `CUPTI_PROFILER_STRUCT_SIZE` of it.
    const STRUCT_SIZE: usize;
    /// Its C name.
    const C_NAME: &'static str;
    /// Name and offset of each field.
    const FIELDS: &'static [(&'static str, usize)];
    /// A struct of zeros that knows its size.
    fn sized() -> Self;
}

macro_rules! params {
    ($(#[$doc:meta])* $name:ident = $c:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty = $cf:literal,)* } last $last:ident: $lty:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        #[allow(missing_docs, reason = "the fields are CUPTI's, documented in its headers")]
        pub struct $name { pub struct_size: usize, pub private: *mut c_void, $(pub $field: $ty,)* }
        // SAFETY: the size is computed from the last field, and `struct_size` comes first; a test compares both with NVIDIA's headers.
        unsafe impl Params for $name {
            const STRUCT_SIZE: usize = std::mem::offset_of!($name, $last) + size_of::<$lty>();
            const C_NAME: &'static str = $c;
            const FIELDS: &'static [(&'static str, usize)] = &[
                ("structSize", std::mem::offset_of!($name, struct_size)),
                ("pPriv", std::mem::offset_of!($name, private)),
                $(($cf, std::mem::offset_of!($name, $field)),)*
            ];
            fn sized() -> Self {
                // SAFETY: integers and raw pointers: zeros are values of them all.
                let mut p: Self = unsafe { std::mem::zeroed() };
                p.struct_size = Self::STRUCT_SIZE;
                p
            }
        }
    };
}

params!(/// `cuptiProfilerInitialize`.
ProfilerInitialize = "CUpti_Profiler_Initialize_Params" {} last private: *mut c_void);
params!(/// `cuptiProfilerDeInitialize`.
ProfilerDeInitialize = "CUpti_Profiler_DeInitialize_Params" {} last private: *mut c_void);
params!(/// `cuptiDeviceGetChipName`.
DeviceGetChipName = "CUpti_Device_GetChipName_Params" {
    device_index: usize = "deviceIndex",
    chip_name: *const c_char = "pChipName",
} last chip_name: *const c_char);
params!(/// `cuptiProfilerDeviceSupported`.
ProfilerDeviceSupported = "CUpti_Profiler_DeviceSupported_Params" {
    device: CUdevice = "cuDevice",
    is_supported: u32 = "isSupported",
    architecture: u32 = "architecture",
    sli: u32 = "sli",
    v_gpu: u32 = "vGpu",
    confidential_compute: u32 = "confidentialCompute",
    cmp: u32 = "cmp",
    wsl: u32 = "wsl",
    api: u32 = "api",
} last api: u32);
params!(/// `cuptiProfilerGetCounterAvailability`.
GetCounterAvailability = "CUpti_Profiler_GetCounterAvailability_Params" {
    ctx: CUcontext = "ctx",
    image_size: usize = "counterAvailabilityImageSize",
    image: *mut u8 = "pCounterAvailabilityImage",
} last image: *mut u8);
params!(/// `cuptiProfilerHostInitialize`.
HostInitialize = "CUpti_Profiler_Host_Initialize_Params" {
    profiler_type: u32 = "profilerType",
    chip_name: *const c_char = "pChipName",
    counter_availability_image: *const u8 = "pCounterAvailabilityImage",
    host_object: HostObject = "pHostObject",
} last host_object: HostObject);
params!(/// `cuptiProfilerHostDeinitialize`.
HostDeinitialize = "CUpti_Profiler_Host_Deinitialize_Params" {
    host_object: HostObject = "pHostObject",
} last host_object: HostObject);
params!(/// `cuptiProfilerHostGetSupportedChips`.
HostGetSupportedChips = "CUpti_Profiler_Host_GetSupportedChips_Params" {
    num_chips: usize = "numChips",
    chip_names: *const *const c_char = "ppChipNames",
} last chip_names: *const *const c_char);
params!(/// `cuptiProfilerHostGetBaseMetrics`.
HostGetBaseMetrics = "CUpti_Profiler_Host_GetBaseMetrics_Params" {
    host_object: HostObject = "pHostObject",
    metric_type: u32 = "metricType",
    metric_names: *const *const c_char = "ppMetricNames",
    num_metrics: usize = "numMetrics",
} last num_metrics: usize);
params!(/// `cuptiProfilerHostEvaluateToGpuValues`.
HostEvaluateToGpuValues = "CUpti_Profiler_Host_EvaluateToGpuValues_Params" {
    host_object: HostObject = "pHostObject",
    counter_data_image: *const u8 = "pCounterDataImage",
    counter_data_image_size: usize = "counterDataImageSize",
    range_index: usize = "rangeIndex",
    metric_names: *const *const c_char = "ppMetricNames",
    num_metrics: usize = "numMetrics",
    metric_values: *mut f64 = "pMetricValues",
} last metric_values: *mut f64);
params!(/// `cuptiProfilerHostConfigAddMetrics`.
HostConfigAddMetrics = "CUpti_Profiler_Host_ConfigAddMetrics_Params" {
    host_object: HostObject = "pHostObject",
    metric_names: *const *const c_char = "ppMetricNames",
    num_metrics: usize = "numMetrics",
} last num_metrics: usize);
params!(/// `cuptiProfilerHostGetConfigImageSize`.
HostGetConfigImageSize = "CUpti_Profiler_Host_GetConfigImageSize_Params" {
    host_object: HostObject = "pHostObject",
    config_image_size: usize = "configImageSize",
} last config_image_size: usize);
params!(/// `cuptiProfilerHostGetConfigImage`.
HostGetConfigImage = "CUpti_Profiler_Host_GetConfigImage_Params" {
    host_object: HostObject = "pHostObject",
    config_image_size: usize = "configImageSize",
    config_image: *mut u8 = "pConfigImage",
} last config_image: *mut u8);
params!(/// `cuptiProfilerHostGetNumOfPasses`.
HostGetNumOfPasses = "CUpti_Profiler_Host_GetNumOfPasses_Params" {
    config_image_size: usize = "configImageSize",
    config_image: *mut u8 = "pConfigImage",
    num_of_passes: usize = "numOfPasses",
} last num_of_passes: usize);
params!(/// `cuptiRangeProfilerSetConfig`.
RangeProfilerSetConfig = "CUpti_RangeProfiler_SetConfig_Params" {
    object: RangeProfilerObject = "pRangeProfilerObject",
    config_size: usize = "configSize",
    config: *const u8 = "pConfig",
    counter_data_image_size: usize = "counterDataImageSize",
    counter_data_image: *mut u8 = "pCounterDataImage",
    range: u32 = "range",
    replay_mode: u32 = "replayMode",
    max_ranges_per_pass: usize = "maxRangesPerPass",
    num_nesting_levels: u16 = "numNestingLevels",
    min_nesting_level: u16 = "minNestingLevel",
    pass_index: usize = "passIndex",
    target_nesting_level: u16 = "targetNestingLevel",
} last target_nesting_level: u16);
params!(/// `cuptiRangeProfilerEnable`.
RangeProfilerEnable = "CUpti_RangeProfiler_Enable_Params" {
    ctx: CUcontext = "ctx",
    object: RangeProfilerObject = "pRangeProfilerObject",
} last object: RangeProfilerObject);
params!(/// `cuptiRangeProfilerDisable`.
RangeProfilerDisable = "CUpti_RangeProfiler_Disable_Params" {
    object: RangeProfilerObject = "pRangeProfilerObject",
} last object: RangeProfilerObject);
params!(/// `cuptiRangeProfilerStart`.
RangeProfilerStart = "CUpti_RangeProfiler_Start_Params" {
    object: RangeProfilerObject = "pRangeProfilerObject",
} last object: RangeProfilerObject);
params!(/// `cuptiRangeProfilerStop`.
RangeProfilerStop = "CUpti_RangeProfiler_Stop_Params" {
    object: RangeProfilerObject = "pRangeProfilerObject",
    pass_index: usize = "passIndex",
    target_nesting_level: usize = "targetNestingLevel",
    is_all_pass_submitted: u8 = "isAllPassSubmitted",
} last is_all_pass_submitted: u8);
params!(/// `cuptiRangeProfilerPushRange`.
RangeProfilerPushRange = "CUpti_RangeProfiler_PushRange_Params" {
    object: RangeProfilerObject = "pRangeProfilerObject",
    range_name: *const c_char = "pRangeName",
} last range_name: *const c_char);
params!(/// `cuptiRangeProfilerPopRange`.
RangeProfilerPopRange = "CUpti_RangeProfiler_PopRange_Params" {
    object: RangeProfilerObject = "pRangeProfilerObject",
} last object: RangeProfilerObject);
params!(/// `cuptiRangeProfilerDecodeData`.
RangeProfilerDecodeData = "CUpti_RangeProfiler_DecodeData_Params" {
    object: RangeProfilerObject = "pRangeProfilerObject",
    num_of_range_dropped: usize = "numOfRangeDropped",
} last num_of_range_dropped: usize);
params!(/// `cuptiRangeProfilerGetCounterDataSize`.
RangeProfilerGetCounterDataSize = "CUpti_RangeProfiler_GetCounterDataSize_Params" {
    object: RangeProfilerObject = "pRangeProfilerObject",
    metric_names: *const *const c_char = "pMetricNames",
    num_metrics: usize = "numMetrics",
    max_num_of_ranges: usize = "maxNumOfRanges",
    max_num_range_tree_nodes: u32 = "maxNumRangeTreeNodes",
    counter_data_size: usize = "counterDataSize",
} last counter_data_size: usize);
params!(/// `cuptiRangeProfilerCounterDataImageInitialize`.
RangeProfilerCounterDataImageInitialize = "CUpti_RangeProfiler_CounterDataImage_Initialize_Params" {
    object: RangeProfilerObject = "pRangeProfilerObject",
    counter_data_size: usize = "counterDataSize",
    counter_data: *mut u8 = "pCounterData",
} last counter_data: *mut u8);
params!(/// `cuptiRangeProfilerGetCounterDataInfo`.
RangeProfilerGetCounterDataInfo = "CUpti_RangeProfiler_GetCounterDataInfo_Params" {
    counter_data_image: *const u8 = "pCounterDataImage",
    counter_data_image_size: usize = "counterDataImageSize",
    num_total_ranges: usize = "numTotalRanges",
} last num_total_ranges: usize);

params!(/// `cuptiPmSamplingEnable`.
PmSamplingEnable = "CUpti_PmSampling_Enable_Params" {
    device_index: usize = "deviceIndex",
    object: PmSamplingObject = "pPmSamplingObject",
} last object: PmSamplingObject);
params!(/// `cuptiPmSamplingDisable`.
PmSamplingDisable = "CUpti_PmSampling_Disable_Params" {
    object: PmSamplingObject = "pPmSamplingObject",
} last object: PmSamplingObject);
params!(/// `cuptiPmSamplingSetConfig`. Since 12.8 it has another field, `hwBufferAppendMode`, in what is padding here: zero, as in 12.6, keeps the oldest records.
PmSamplingSetConfig = "CUpti_PmSampling_SetConfig_Params" {
    object: PmSamplingObject = "pPmSamplingObject",
    config_size: usize = "configSize",
    config: *const u8 = "pConfig",
    hardware_buffer_size: usize = "hardwareBufferSize",
    sampling_interval: u64 = "samplingInterval",
    trigger_mode: u32 = "triggerMode",
} last trigger_mode: u32);

impl PmSamplingSetConfig {
    /// `STRUCT_SIZE` since 12.8.
    pub const STRUCT_SIZE_12_8: usize = size_of::<Self>();
}

params!(/// `cuptiPmSamplingStart`.
PmSamplingStart = "CUpti_PmSampling_Start_Params" {
    object: PmSamplingObject = "pPmSamplingObject",
} last object: PmSamplingObject);
params!(/// `cuptiPmSamplingStop`.
PmSamplingStop = "CUpti_PmSampling_Stop_Params" {
    object: PmSamplingObject = "pPmSamplingObject",
} last object: PmSamplingObject);
params!(/// `cuptiPmSamplingGetCounterDataSize`.
PmSamplingGetCounterDataSize = "CUpti_PmSampling_GetCounterDataSize_Params" {
    object: PmSamplingObject = "pPmSamplingObject",
    metric_names: *const *const c_char = "pMetricNames",
    num_metrics: usize = "numMetrics",
    max_samples: u32 = "maxSamples",
    counter_data_size: usize = "counterDataSize",
} last counter_data_size: usize);
params!(/// `cuptiPmSamplingCounterDataImageInitialize`.
PmSamplingCounterDataImageInitialize = "CUpti_PmSampling_CounterDataImage_Initialize_Params" {
    object: PmSamplingObject = "pPmSamplingObject",
    counter_data_size: usize = "counterDataSize",
    counter_data: *mut u8 = "pCounterData",
} last counter_data: *mut u8);
params!(/// `cuptiPmSamplingDecodeData`.
PmSamplingDecodeData = "CUpti_PmSampling_DecodeData_Params" {
    object: PmSamplingObject = "pPmSamplingObject",
    counter_data_image: *mut u8 = "pCounterDataImage",
    counter_data_image_size: usize = "counterDataImageSize",
    decode_stop_reason: u32 = "decodeStopReason",
    overflow: u8 = "overflow",
} last overflow: u8);
params!(/// `cuptiPmSamplingGetCounterDataInfo`.
PmSamplingGetCounterDataInfo = "CUpti_PmSampling_GetCounterDataInfo_Params" {
    counter_data_image: *const u8 = "pCounterDataImage",
    counter_data_image_size: usize = "counterDataImageSize",
    num_total_samples: usize = "numTotalSamples",
    num_populated_samples: usize = "numPopulatedSamples",
    num_completed_samples: usize = "numCompletedSamples",
} last num_completed_samples: usize);
params!(/// `cuptiPmSamplingCounterDataGetSampleInfo`.
PmSamplingGetSampleInfo = "CUpti_PmSampling_CounterData_GetSampleInfo_Params" {
    object: PmSamplingObject = "pPmSamplingObject",
    counter_data_image: *const u8 = "pCounterDataImage",
    counter_data_image_size: usize = "counterDataImageSize",
    sample_index: usize = "sampleIndex",
    start_timestamp: u64 = "startTimestamp",
    end_timestamp: u64 = "endTimestamp",
} last end_timestamp: u64);

/// `CUpti_CallbackData` of the driver API's domain.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are CUPTI's, documented in its headers")]
pub struct CallbackData {
    pub callback_site: u32,
    pub function_name: *const c_char,
    pub function_params: *const c_void,
    pub function_return_value: *mut c_void,
    pub symbol_name: *const c_char,
    pub context: CUcontext,
    pub context_uid: u32,
    pub correlation_data: *mut u64,
    pub correlation_id: u32,
}

/// `CUpti_ResourceData`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are CUPTI's, documented in its headers")]
pub struct ResourceData {
    pub context: CUcontext,
    pub resource_handle: *mut c_void,
    pub resource_descriptor: *mut c_void,
}
