//! CUPTI's profiler host: what a chip can count, in how many passes, and what an image of counts says.
//!
//! It needs libcupti and libnvperf_host and the chip's name, no GPU: planning works on any machine. Its calls come from several threads, one after the other.

use std::{
    ffi::{CString, c_char},
    ptr,
    sync::OnceLock,
};

use cupti_sys::{
    Cupti, Error,
    raw::{self, METRIC_TYPE_COUNTER, PROFILER_TYPE_PM_SAMPLING, PROFILER_TYPE_RANGE, Params},
};

use super::alone::alone;

/// The host side of one chip, for the counts of one device: the object that evaluates keeps to the device whose counts it was given first, and reads
/// NaN from those of another, even of the same chip. (Two H200s in a process, CUPTI 13.0.85, 2026-11-26: whichever was evaluated first was read exactly,
/// the other not at all, whatever the order of Enable, Start and Stop and whatever the current context; by an object each, both were exact.)
#[derive(Debug)]
pub struct Host {
    cupti: Cupti,
    chip: CString,
    /// For which of CUPTI's profilers: ranges, or PM sampling.
    profiler: u32,
    /// The object that evaluates; configurations are built on objects of their own, because metrics can only be added to one.
    object: Object,
    /// The chip's counters, once they were asked for: thousands, and every group looks some up.
    base: OnceLock<Vec<String>>,
}

/// A configuration: what the hardware is told to count.
#[derive(Clone, Debug)]
pub struct Config {
    /// The image.
    pub image: Vec<u8>,
    /// Passes it needs.
    pub passes: usize,
}

impl Host {
    /// Opens the host side of a chip.
    ///
    /// # Errors
    /// CUPTI's answer, for an unknown chip or a libcupti without its companion.
    pub fn open(cupti: Cupti, chip: &str) -> Result<Self, Error> {
        Self::of(cupti, chip, PROFILER_TYPE_RANGE)
    }

    /// The same for PM sampling, which has metrics of its own.
    ///
    /// # Errors
    /// As [`Host::open`].
    pub fn sampling(cupti: Cupti, chip: &str) -> Result<Self, Error> {
        Self::of(cupti, chip, PROFILER_TYPE_PM_SAMPLING)
    }

    fn of(cupti: Cupti, chip: &str, profiler: u32) -> Result<Self, Error> {
        let chip = c_string(chip);
        let object = Object::new(cupti, &chip, profiler)?;
        Ok(Self { cupti, chip, profiler, object, base: OnceLock::new() })
    }

    /// The chips that this copy of CUPTI knows.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn chips(cupti: Cupti) -> Result<Vec<String>, Error> {
        let _alone = alone();
        let mut p = raw::HostGetSupportedChips::sized();
        // SAFETY: nothing goes in.
        unsafe { cupti.host_get_supported_chips(&mut p)? };
        // SAFETY: CUPTI's own list, which it keeps.
        Ok(unsafe { cupti_sys::strings(p.chip_names, p.num_chips) })
    }

    /// Every counter metric of the chip, by base name.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn base_metrics(&self) -> Result<&[String], Error> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let _alone = alone();
        let mut p = raw::HostGetBaseMetrics::sized();
        p.host_object = self.object.object;
        p.metric_type = METRIC_TYPE_COUNTER;
        // SAFETY: the object is live.
        unsafe { self.cupti.host_get_base_metrics(&mut p)? };
        // SAFETY: CUPTI's own list, which lives as long as the object.
        let base = unsafe { cupti_sys::strings(p.metric_names, p.num_metrics) };
        Ok(self.base.get_or_init(|| base))
    }

    /// Builds the configuration that counts these metrics (full names, `….sum`).
    ///
    /// # Errors
    /// CUPTI's answer, for a metric the chip does not have.
    pub fn config(&self, metrics: &[CString]) -> Result<Config, Error> {
        let object = Object::new(self.cupti, &self.chip, self.profiler)?;
        // Behind the object, so that it is dropped before it: the object's end has a turn of its own, as its beginning.
        let _alone = alone();
        let names = pointers(metrics);
        let mut p = raw::HostConfigAddMetrics::sized();
        p.host_object = object.object;
        p.metric_names = names.as_ptr();
        p.num_metrics = names.len();
        // SAFETY: the object is live, the names are NUL-terminated and outlive the call.
        unsafe { self.cupti.host_config_add_metrics(&mut p)? };

        let mut p = raw::HostGetConfigImageSize::sized();
        p.host_object = object.object;
        // SAFETY: the object is live.
        unsafe { self.cupti.host_get_config_image_size(&mut p)? };
        let mut image = vec![0; sensible("cuptiProfilerHostGetConfigImageSize", p.config_image_size, MOST_CONFIG)?];

        let mut p = raw::HostGetConfigImage::sized();
        p.host_object = object.object;
        p.config_image_size = image.len();
        p.config_image = image.as_mut_ptr();
        // SAFETY: the buffer is as long as said.
        unsafe { self.cupti.host_get_config_image(&mut p)? };

        let mut p = raw::HostGetNumOfPasses::sized();
        p.config_image_size = image.len();
        p.config_image = image.as_mut_ptr();
        // SAFETY: the buffer is as long as said.
        unsafe { self.cupti.host_get_num_of_passes(&mut p)? };
        Ok(Config { image, passes: p.num_of_passes })
    }

    /// Values of metrics (full names) in one range of a decoded counter data image. What the image does not hold is NaN.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn evaluate(&self, counter_data: &[u8], range: usize, metrics: &[CString]) -> Result<Vec<f64>, Error> {
        let names = pointers(metrics);
        let mut values = vec![f64::NAN; names.len()];
        let _alone = alone();
        let mut p = raw::HostEvaluateToGpuValues::sized();
        p.host_object = self.object.object;
        p.counter_data_image = counter_data.as_ptr();
        p.counter_data_image_size = counter_data.len();
        p.range_index = range;
        p.metric_names = names.as_ptr();
        p.num_metrics = names.len();
        p.metric_values = values.as_mut_ptr();
        // SAFETY: the object is live, the image is as long as said, names and values have the length said and outlive the call.
        unsafe { self.cupti.host_evaluate_to_gpu_values(&mut p)? };
        Ok(values)
    }
}

impl Host {
    /// How many ranges a decoded counter data image holds.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn ranges(&self, counter_data: &[u8]) -> Result<usize, Error> {
        let _alone = alone();
        let mut p = raw::RangeProfilerGetCounterDataInfo::sized();
        p.counter_data_image = counter_data.as_ptr();
        p.counter_data_image_size = counter_data.len();
        // SAFETY: the image is as long as said.
        unsafe { self.cupti.range_profiler_get_counter_data_info(&mut p)? };
        sensible("cuptiRangeProfilerGetCounterDataInfo", p.num_total_ranges.saturating_add(1), MOST_RANGES).map(|n| n - 1)
    }
}

/// CUPTI's name of a device's chip.
///
/// # Errors
/// CUPTI's answer.
pub fn chip_name(cupti: Cupti, device: u32) -> Result<String, Error> {
    let _alone = alone();
    let mut p = raw::DeviceGetChipName::sized();
    p.device_index = device as usize;
    // SAFETY: an index goes in.
    unsafe { cupti.device_get_chip_name(&mut p)? };
    // SAFETY: CUPTI's own string.
    Ok(unsafe { cupti_sys::strings(&raw const p.chip_name, 1) }.pop().unwrap_or_default())
}

/// The largest sizes that are believed: some thousand times what was seen.
const MOST_CONFIG: usize = 64 << 20;
pub(super) const MOST_IMAGE: usize = 1 << 30;
const MOST_RANGES: usize = 1 << 20;

/// A number that can be: not nothing, and no more than this.
///
/// # Errors
/// [`Error::Nonsense`].
pub(super) fn sensible(call: &'static str, size: usize, most: usize) -> Result<usize, Error> {
    if (1..=most).contains(&size) { Ok(size) } else { Err(Error::Nonsense { call }) }
}

/// A profiler host object.
#[derive(Debug)]
struct Object {
    cupti: Cupti,
    object: raw::HostObject,
}

// SAFETY: CUPTI does not tie the object to the thread that made it.
unsafe impl Send for Object {}
// SAFETY: every call of the host's, on this object or another, is made in a turn of its own ([`alone`]).
unsafe impl Sync for Object {}

impl Object {
    fn new(cupti: Cupti, chip: &CString, profiler: u32) -> Result<Self, Error> {
        let _alone = alone();
        let mut p = raw::HostInitialize::sized();
        p.profiler_type = profiler;
        p.chip_name = chip.as_ptr();
        p.counter_availability_image = ptr::null();
        // SAFETY: the name is NUL-terminated and outlives the call.
        unsafe { cupti.host_initialize(&mut p)? };
        Ok(Self { cupti, object: p.host_object })
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _alone = alone();
        let mut p = raw::HostDeinitialize::sized();
        p.host_object = self.object;
        // Nothing to do about a refusal here; the object is not used again.
        // SAFETY: the object is live and given back once.
        let _ = unsafe { self.cupti.host_deinitialize(&mut p) };
    }
}

/// Pointers to names, valid as long as the names are.
pub(super) fn pointers(names: &[CString]) -> Vec<*const c_char> {
    names.iter().map(|n| n.as_ptr()).collect()
}

/// A C string; one with a NUL inside (none of ours) ends before it.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}
