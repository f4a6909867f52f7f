//! PM sampling: counters of a whole device, read by the hardware itself at an interval.
//!
//! A table of its own, looked up when it is asked for: who counts in a process of its own has no use for it, and carries none of it.

use super::{Cupti, Error, check, load, raw};
use raw::{CuptiResult, Params};

/// The functions of PM sampling: `name / "C symbol" / its struct`.
macro_rules! sampling_functions {
    ($($(#[$doc:meta])* $name:ident / $symbol:literal / $params:ident;)*) => {
        /// PM sampling of one libcupti; what it lacks is an error when it is called.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Sampling {
            $($name: Option<unsafe extern "C" fn(*mut raw::$params) -> CuptiResult>,)*
        }

        impl Sampling {
            fn resolve(library: &libloading::Library) -> Self {
                // SAFETY: each symbol is a CUPTI function of the type written beside it, as NVIDIA's headers declare it.
                unsafe { Self { $($name: library.get($symbol).ok().map(|s| *s),)* } }
            }

            $($(#[$doc])*
            ///
            /// # Errors
            /// [`Error`]: CUPTI's answer, or that this copy lacks the function.
            ///
            /// # Safety
            /// The pointers in `params` must be what CUPTI's header asks for.
            pub unsafe fn $name(&self, params: &mut raw::$params) -> Result<(), Error> {
                let f = self.$name.ok_or(Error::Absent { call: $symbol })?;
                // SAFETY: the struct carries its size; what its pointers must be is the caller's promise.
                check($symbol, unsafe { f(params) })
            })*

            /// The symbols of this table and whether this copy has them.
            #[must_use]
            pub fn symbols(&self) -> Vec<(&'static str, bool)> {
                vec![$(($symbol, self.$name.is_some()),)*]
            }
        }

        /// As [`crate::layouts`], of PM sampling.
        #[must_use]
        #[allow(clippy::type_complexity, reason = "one row a struct, read by one test")]
        pub fn layouts() -> Vec<(&'static str, usize, &'static [(&'static str, usize)])> {
            vec![$((raw::$params::C_NAME, raw::$params::STRUCT_SIZE, raw::$params::FIELDS),)*]
        }
    };
}

sampling_functions! {
    /// Makes a sampler for a device. It needs `cuInit` and no context.
    enable / "cuptiPmSamplingEnable" / PmSamplingEnable;
    /// Frees it, and the device's counters with it.
    disable / "cuptiPmSamplingDisable" / PmSamplingDisable;
    /// Sets what to count, how often, and how much room there is for it. CUPTI keeps the pointer to the configuration image.
    set_config / "cuptiPmSamplingSetConfig" / PmSamplingSetConfig;
    /// Takes the device's counters and begins.
    start / "cuptiPmSamplingStart" / PmSamplingStart;
    /// Ends; what is in the hardware's buffer can still be decoded.
    stop / "cuptiPmSamplingStop" / PmSamplingStop;
    /// Size of a counter data image.
    get_counter_data_size / "cuptiPmSamplingGetCounterDataSize" / PmSamplingGetCounterDataSize;
    /// Prepares a counter data image.
    counter_data_image_initialize / "cuptiPmSamplingCounterDataImageInitialize" / PmSamplingCounterDataImageInitialize;
    /// Moves what was sampled into the image.
    decode_data / "cuptiPmSamplingDecodeData" / PmSamplingDecodeData;
    /// How many samples an image holds.
    get_counter_data_info / "cuptiPmSamplingGetCounterDataInfo" / PmSamplingGetCounterDataInfo;
    /// From when to when a sample is, on the device's clock.
    get_sample_info / "cuptiPmSamplingCounterDataGetSampleInfo" / PmSamplingGetSampleInfo;
}

impl Cupti {
    /// PM sampling of this copy.
    #[must_use]
    pub fn sampling(&self) -> Sampling {
        self.file().and_then(|file| load::loaded(&file)).map(|library| Sampling::resolve(&library)).unwrap_or_default()
    }
}
