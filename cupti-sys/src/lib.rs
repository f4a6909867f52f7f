//! CUPTI, loaded at run time.
//!
//! Range profiler, PM sampling, profiler host, device and callback functions of CUPTI 12.6 to 13.x, through tables of functions that may be absent: no
//! CUDA toolkit at build time, no version chosen at build time, no panic when a library or a symbol is missing. It holds no policy and
//! starts no thread; which copy of libcupti to take is the caller's business ([`Cupti::open`] takes a path, [`Cupti::loaded`] a
//! name that must be in the process already).
//!
//! [`raw`] has the C types, [`launch`] what launch callbacks are given; the functions of [`Cupti`] and [`sampling::Sampling`] are one call each, with the result
//! as a [`Result`].

pub mod launch;
mod load;
pub mod raw;
pub mod sampling;

use std::ffi::c_char;

pub use load::{Cupti, LoadError};
use raw::{CallbackDomain, CallbackFunc, CuptiResult, Params, SubscriberHandle};

/// A call that CUPTI refused, or that this copy of it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// CUPTI's answer was not success.
    Refused {
        /// The function.
        call: &'static str,
        /// Its answer.
        result: CuptiResult,
    },
    /// The library has no such symbol.
    Absent {
        /// The function.
        call: &'static str,
    },
    /// It answered success, and beside it what cannot be: a size of nothing, or of more than there is memory. For the caller to say.
    Nonsense {
        /// The function.
        call: &'static str,
    },
}

impl Error {
    /// CUPTI's answer; none for an absent symbol.
    #[must_use]
    pub const fn result(self) -> Option<CuptiResult> {
        match self {
            Self::Refused { result, .. } => Some(result),
            Self::Absent { .. } | Self::Nonsense { .. } => None,
        }
    }

    /// Whether CUPTI answered exactly this.
    #[must_use]
    pub fn is(self, result: CuptiResult) -> bool {
        self.result() == Some(result)
    }

    /// The function that failed.
    #[must_use]
    pub const fn call(self) -> &'static str {
        match self {
            Self::Refused { call, .. } | Self::Absent { call } | Self::Nonsense { call } => call,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { call, result } => write!(f, "{call}: {result:?}"),
            Self::Absent { call } => write!(f, "this libcupti has no {call}"),
            Self::Nonsense { call } => write!(f, "{call}: its answer cannot be"),
        }
    }
}

impl std::error::Error for Error {}

/// The functions that take one parameter struct: `name / "C symbol" / its struct`.
macro_rules! params_functions {
    ($($(#[$doc:meta])* $name:ident / $symbol:literal / $params:ident;)*) => {
        /// The functions of one libcupti; what it lacks is `None`.
        #[derive(Clone, Copy, Debug, Default)]
        struct Functions {
            $($name: Option<unsafe extern "C" fn(*mut raw::$params) -> CuptiResult>,)*
            get_version: Option<unsafe extern "C" fn(*mut u32) -> CuptiResult>,
            subscribe: Option<unsafe extern "C" fn(*mut SubscriberHandle, CallbackFunc, *mut std::ffi::c_void) -> CuptiResult>,
            unsubscribe: Option<unsafe extern "C" fn(SubscriberHandle) -> CuptiResult>,
            enable_callback: Option<unsafe extern "C" fn(u32, SubscriberHandle, CallbackDomain, u32) -> CuptiResult>,
            stand_in: bool,
        }

        impl Functions {
            fn resolve(library: &libloading::Library) -> Self {
                // SAFETY: each symbol is a CUPTI function of the type written beside it, as NVIDIA's headers declare it.
                unsafe {
                    Self {
                        $($name: library.get($symbol).ok().map(|s| *s),)*
                        get_version: library.get("cuptiGetVersion").ok().map(|s| *s),
                        subscribe: library.get("cuptiSubscribe").ok().map(|s| *s),
                        unsubscribe: library.get("cuptiUnsubscribe").ok().map(|s| *s),
                        enable_callback: library.get("cuptiEnableCallback").ok().map(|s| *s),
                        stand_in: library.get::<*const u32>("flopsprof_stand_in").is_ok(),
                    }
                }
            }
        }

        impl Cupti {
            $($(#[$doc])*
            ///
            /// # Errors
            /// [`Error`]: CUPTI's answer, or that this copy lacks the function.
            ///
            /// # Safety
            /// The pointers in `params` must be what CUPTI's header asks for.
            pub unsafe fn $name(&self, params: &mut raw::$params) -> Result<(), Error> {
                let f = self.functions.$name.ok_or(Error::Absent { call: $symbol })?;
                // SAFETY: the struct carries its size; what its pointers must be is the caller's promise.
                check($symbol, unsafe { f(params) })
            })*

            /// The symbols of `functions` and whether this copy has them.
            #[must_use]
            pub fn symbols(&self) -> Vec<(&'static str, bool)> {
                vec![
                    $(($symbol, self.functions.$name.is_some()),)*
                    ("cuptiGetVersion", self.functions.get_version.is_some()),
                    ("cuptiSubscribe", self.functions.subscribe.is_some()),
                    ("cuptiUnsubscribe", self.functions.unsubscribe.is_some()),
                    ("cuptiEnableCallback", self.functions.enable_callback.is_some()),
                ]
            }
        }

        /// Every parameter struct: C name, `STRUCT_SIZE`, fields with offsets. For the test that compares them with NVIDIA's headers.
        #[must_use]
        #[allow(clippy::type_complexity, reason = "one row a struct, read by one test")]
        pub fn layouts() -> Vec<(&'static str, usize, &'static [(&'static str, usize)])> {
            vec![$((raw::$params::C_NAME, raw::$params::STRUCT_SIZE, raw::$params::FIELDS),)*]
        }
    };
}

params_functions! {
    /// Loads what the profiler needs and hooks it into the driver. 999 without a GPU, and the host functions work all the same.
    profiler_initialize / "cuptiProfilerInitialize" / ProfilerInitialize;
    /// Undoes it.
    profiler_deinitialize / "cuptiProfilerDeInitialize" / ProfilerDeInitialize;
    /// Chip name of a device.
    device_get_chip_name / "cuptiDeviceGetChipName" / DeviceGetChipName;
    /// Whether profiling is supported on a device, and what is in the way.
    profiler_device_supported / "cuptiProfilerDeviceSupported" / ProfilerDeviceSupported;
    /// Which counters are there, as an image for the host object.
    profiler_get_counter_availability / "cuptiProfilerGetCounterAvailability" / GetCounterAvailability;
    /// Makes a host object for a chip.
    host_initialize / "cuptiProfilerHostInitialize" / HostInitialize;
    /// Frees it.
    host_deinitialize / "cuptiProfilerHostDeinitialize" / HostDeinitialize;
    /// The chips this copy knows.
    host_get_supported_chips / "cuptiProfilerHostGetSupportedChips" / HostGetSupportedChips;
    /// The chip's base metrics.
    host_get_base_metrics / "cuptiProfilerHostGetBaseMetrics" / HostGetBaseMetrics;
    /// Values of metrics in a decoded image.
    host_evaluate_to_gpu_values / "cuptiProfilerHostEvaluateToGpuValues" / HostEvaluateToGpuValues;
    /// Adds metrics to the object's configuration.
    host_config_add_metrics / "cuptiProfilerHostConfigAddMetrics" / HostConfigAddMetrics;
    /// Size of the configuration image.
    host_get_config_image_size / "cuptiProfilerHostGetConfigImageSize" / HostGetConfigImageSize;
    /// The configuration image.
    host_get_config_image / "cuptiProfilerHostGetConfigImage" / HostGetConfigImage;
    /// Passes a configuration needs.
    host_get_num_of_passes / "cuptiProfilerHostGetNumOfPasses" / HostGetNumOfPasses;
    /// Sets what to count, where to put it, and how ranges are made.
    range_profiler_set_config / "cuptiRangeProfilerSetConfig" / RangeProfilerSetConfig;
    /// Makes a range profiler for a context.
    range_profiler_enable / "cuptiRangeProfilerEnable" / RangeProfilerEnable;
    /// Frees it.
    range_profiler_disable / "cuptiRangeProfilerDisable" / RangeProfilerDisable;
    /// Takes the GPU's counters.
    range_profiler_start / "cuptiRangeProfilerStart" / RangeProfilerStart;
    /// Gives them back.
    range_profiler_stop / "cuptiRangeProfilerStop" / RangeProfilerStop;
    /// Opens a range.
    range_profiler_push_range / "cuptiRangeProfilerPushRange" / RangeProfilerPushRange;
    /// Closes it.
    range_profiler_pop_range / "cuptiRangeProfilerPopRange" / RangeProfilerPopRange;
    /// Moves what was counted into the image.
    range_profiler_decode_data / "cuptiRangeProfilerDecodeData" / RangeProfilerDecodeData;
    /// Size of a counter data image.
    range_profiler_get_counter_data_size / "cuptiRangeProfilerGetCounterDataSize" / RangeProfilerGetCounterDataSize;
    /// Prepares a counter data image.
    range_profiler_counter_data_image_initialize / "cuptiRangeProfilerCounterDataImageInitialize" / RangeProfilerCounterDataImageInitialize;
    /// How many ranges an image holds.
    range_profiler_get_counter_data_info / "cuptiRangeProfilerGetCounterDataInfo" / RangeProfilerGetCounterDataInfo;
}

impl Cupti {
    /// `CUPTI_API_VERSION` of this copy: 24 is CUDA 12.6, 130001 is CUDA 13.0.
    ///
    /// # Errors
    /// [`Error`]: CUPTI's answer, or that this copy lacks the function.
    pub fn version(&self) -> Result<u32, Error> {
        let call = "cuptiGetVersion";
        let f = self.functions.get_version.ok_or(Error::Absent { call })?;
        let mut version = 0;
        // SAFETY: the pointer is to a u32 of ours.
        check(call, unsafe { f(&raw mut version) })?;
        Ok(version)
    }

    /// Takes the process's one subscription.
    ///
    /// # Errors
    /// [`Error`]: among others [`CuptiResult::MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED`] when another tool has it.
    ///
    /// # Safety
    /// `callback` must be able to run on any thread until after [`Cupti::unsubscribe`], and must not unwind.
    pub unsafe fn subscribe(&self, callback: CallbackFunc) -> Result<SubscriberHandle, Error> {
        let call = "cuptiSubscribe";
        let f = self.functions.subscribe.ok_or(Error::Absent { call })?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is to a handle of ours; the callback is the caller's promise.
        check(call, unsafe { f(&raw mut handle, callback, std::ptr::null_mut()) })?;
        Ok(handle)
    }

    /// Gives the subscription back.
    ///
    /// # Errors
    /// [`Error`]: CUPTI's answer, or that this copy lacks the function.
    ///
    /// # Safety
    /// `handle` must come from [`Cupti::subscribe`] and not have been given back.
    pub unsafe fn unsubscribe(&self, handle: SubscriberHandle) -> Result<(), Error> {
        let call = "cuptiUnsubscribe";
        let f = self.functions.unsubscribe.ok_or(Error::Absent { call })?;
        // SAFETY: the handle is live, by the caller's promise.
        check(call, unsafe { f(handle) })
    }

    /// Switches one callback on or off.
    ///
    /// # Errors
    /// [`Error`]: CUPTI's answer, or that this copy lacks the function.
    ///
    /// # Safety
    /// `handle` must be a live subscription.
    pub unsafe fn enable_callback(&self, on: bool, handle: SubscriberHandle, domain: CallbackDomain, cbid: u32) -> Result<(), Error> {
        let call = "cuptiEnableCallback";
        let f = self.functions.enable_callback.ok_or(Error::Absent { call })?;
        // SAFETY: the handle is live, by the caller's promise.
        check(call, unsafe { f(u32::from(on), handle, domain, cbid) })
    }
}

fn check(call: &'static str, result: CuptiResult) -> Result<(), Error> {
    if result == CuptiResult::SUCCESS { Ok(()) } else { Err(Error::Refused { call, result }) }
}

/// A list of C strings as CUPTI hands it out: `count` pointers, owned by CUPTI.
///
/// # Safety
/// `list` must point to `count` pointers to NUL-terminated strings that live through the call; NULL entries are skipped.
#[must_use]
pub unsafe fn strings(list: *const *const c_char, count: usize) -> Vec<String> {
    if list.is_null() {
        return Vec::new();
    }
    (0..count)
        // SAFETY: inside the list, by the caller's promise.
        .map(|i| unsafe { *list.add(i) })
        .filter(|p| !p.is_null())
        // SAFETY: a NUL-terminated string, by the caller's promise.
        .map(|p| unsafe { std::ffi::CStr::from_ptr(p) }.to_string_lossy().into_owned())
        .collect()
}
