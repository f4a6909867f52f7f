//! PM sampling of one device: the cycles in which its tensor cores were active, of all processes.
//!
//! ```text
//! Enable ─> SetConfig ─> image ─> Start ─> ┌ Decode, evaluate what is complete ┐ … ─> Stop, Decode ─> Disable
//!                                          └──────── every now and then ───────┘
//! ```
//! The hardware reads the counters itself, at an interval, into a buffer; Decode moves what is there into an image. It needs `cuInit` and no context, and sees whoever
//! uses the device. There are no operations to be had that way, only cycles: on an H200 wgmma bf16 and fp16 executed 1024 operations in each of them, to the last unit.
//!
//! The counters are this process's from Start to Disable. CUPTI keeps the pointer to the configuration image. `cuptiProfilerDeInitialize` is never called: it
//! counts no references, and a second one crashed the process in PyTorch's profiler.
//!
//! What did not fit the hardware's buffer is lost from there on: the sampler must be made anew. CUPTI says so by a flag, or by OUT_OF_MEMORY.

use std::ffi::CString;

use cupti_sys::{
    Cupti, Error,
    raw::{self, CuptiResult, DECODE_IMAGE_FULL, Params, PmSamplingSetConfig, TRIGGER_SYSCLK, TRIGGER_TIME},
    sampling::Sampling,
};
use thiserror::Error;

use super::{
    host::{Config, Host, MOST_IMAGE, c_string, chip_name, pointers, sensible},
    plan::CYCLES,
};
use crate::evidence::sense::PEAK;

/// Cycles in which tensor cores were active, summed over all of them.
pub const TENSOR: &str = "sm__pipe_tensor_cycles_active.sum";
/// What all of them count in a cycle at the most.
const TENSOR_PEAK: &str = "sm__pipe_tensor_cycles_active.sum.peak_sustained";

/// From one sample to the next: 1 ms ran without overflow on an H200, as did a fiftieth of it.
pub const EVERY_NS: u64 = 1_000_000;
/// The same where the chip only has cycles of its system clock.
const EVERY_CYCLES: u64 = 1_000_000;
/// The hardware's buffer, bytes: an eighth of what NVIDIA's tools take for samples a hundred times as often.
const BUFFER: usize = 64 << 20;
/// Samples that an image has room for. They are read ten times a second.
const ROOM: usize = 512;
/// Images that are filled in one reading at the most: more than the hardware's buffer holds.
const IMAGES: usize = 256;
/// A sample that says more is none: a minute, and the cycles of all tensor cores in it.
const LONGEST_NS: u64 = 60_000_000_000;
const MOST_CYCLES: f64 = 1e15;

/// Why a device cannot be sampled.
#[derive(Debug, Error)]
pub enum SamplingError {
    /// CUPTI's answer.
    #[error(transparent)]
    Cupti(#[from] Error),
    /// The chip needs several passes for it.
    #[error("{chip} needs {passes} passes for its tensor cycles")]
    Passes {
        /// CUPTI's name of the chip.
        chip: String,
        /// By CUPTI's word.
        passes: usize,
    },
}

/// What some samples say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Cycles in which tensor cores were active, summed over all of them.
    pub tensor_cycles: u64,
    /// SM cycles that passed.
    pub elapsed_cycles: u64,
    /// Time that passed, on the device's clock.
    pub ns: u64,
    /// Samples that are in the sums.
    pub samples: u64,
    /// Samples that are not: they found no room in the image, or say what cannot be.
    pub dropped: u64,
    /// The hardware's buffer ran over: what came after is lost, and nothing more comes.
    pub overflow: bool,
}

/// PM sampling of one device, at work.
#[derive(Debug)]
pub struct Sampler {
    calls: Sampling,
    object: raw::PmSamplingObject,
    host: Host,
    /// CUPTI reads it as long as the object lives.
    config: Config,
    metrics: [CString; 2],
    image: Vec<u8>,
    /// Samples of the image that were read.
    seen: usize,
    started: bool,
    peak: Option<f64>,
}

impl Sampler {
    /// Takes the counters of a device and begins. `cuInit` must have been called.
    ///
    /// # Errors
    /// CUPTI's answer: among others HARDWARE_BUSY when another process owns the counters, INSUFFICIENT_PRIVILEGES; a chip that needs several passes.
    pub fn begin(cupti: Cupti, device: u32) -> Result<Self, SamplingError> {
        // SAFETY: nothing goes in but the size.
        unsafe { cupti.profiler_initialize(&mut raw::ProfilerInitialize::sized())? };
        let chip = chip_name(cupti, device)?;
        let host = Host::sampling(cupti, &chip)?;
        let metrics = [TENSOR, CYCLES].map(c_string);
        let config = host.config(&metrics)?;
        if config.passes != 1 {
            return Err(SamplingError::Passes { chip, passes: config.passes });
        }
        let calls = cupti.sampling();
        let mut p = raw::PmSamplingEnable::sized();
        p.device_index = device as usize;
        // SAFETY: an index goes in.
        unsafe { calls.enable(&mut p)? };
        // From here on it is given back whatever fails.
        let mut sampler = Self { calls, object: p.object, host, config, metrics, image: Vec::new(), seen: 0, started: false, peak: None };
        sampler.configure()?;
        sampler.make_image()?;
        let mut p = raw::PmSamplingStart::sized();
        p.object = sampler.object;
        // SAFETY: the object is live and configured.
        unsafe { calls.start(&mut p)? };
        sampler.started = true;
        Ok(sampler)
    }

    /// Sets what is sampled, in the way that this chip and this copy of CUPTI take: a time, or cycles where there is no other trigger; a struct of 12.6, or of 12.8.
    fn configure(&self) -> Result<(), Error> {
        let mut answer = Ok(());
        for (trigger, interval) in [(TRIGGER_TIME, EVERY_NS), (TRIGGER_SYSCLK, EVERY_CYCLES)] {
            for size in [PmSamplingSetConfig::STRUCT_SIZE, PmSamplingSetConfig::STRUCT_SIZE_12_8] {
                let mut p = PmSamplingSetConfig::sized();
                p.struct_size = size;
                p.object = self.object;
                p.config_size = self.config.image.len();
                p.config = self.config.image.as_ptr();
                p.hardware_buffer_size = BUFFER;
                p.sampling_interval = interval;
                p.trigger_mode = trigger;
                // SAFETY: the image is as long as said, and lives as long as the object.
                answer = unsafe { self.calls.set_config(&mut p) };
                let other_way = [CuptiResult::INVALID_PARAMETER, CuptiResult::PARAMETER_SIZE_NOT_SUFFICIENT, CuptiResult::NOT_SUPPORTED];
                if !other_way.iter().any(|r| answer.is_err_and(|e| e.is(*r))) {
                    return answer;
                }
            }
        }
        answer
    }

    fn make_image(&mut self) -> Result<(), Error> {
        let names = pointers(&self.metrics);
        let mut p = raw::PmSamplingGetCounterDataSize::sized();
        p.object = self.object;
        p.metric_names = names.as_ptr();
        p.num_metrics = names.len();
        p.max_samples = u32::try_from(ROOM).unwrap_or(u32::MAX);
        // SAFETY: the object is live, the names outlive the call.
        unsafe { self.calls.get_counter_data_size(&mut p)? };
        self.image = vec![0; sensible("cuptiPmSamplingGetCounterDataSize", p.counter_data_size, MOST_IMAGE)?];
        self.clear()
    }

    /// Makes room in the image.
    fn clear(&mut self) -> Result<(), Error> {
        self.seen = 0;
        let mut p = raw::PmSamplingCounterDataImageInitialize::sized();
        p.object = self.object;
        p.counter_data_size = self.image.len();
        p.counter_data = self.image.as_mut_ptr();
        // SAFETY: the buffer is as long as said.
        unsafe { self.calls.counter_data_image_initialize(&mut p) }
    }

    /// Reads the samples that have come since it was read last.
    ///
    /// # Errors
    /// CUPTI's answer. An overflow is none: see [`Sampled::overflow`].
    pub fn read(&mut self) -> Result<Sampled, Error> {
        let mut sum = Sampled::default();
        for _ in 0..IMAGES {
            let full = self.decode(&mut sum)?;
            let before = sum;
            self.take(&mut sum, full)?;
            if !full || sum == before {
                break;
            }
        }
        Ok(sum)
    }

    /// Brings samples into the image; whether it is full now, and there may be more.
    fn decode(&mut self, sum: &mut Sampled) -> Result<bool, Error> {
        let mut p = raw::PmSamplingDecodeData::sized();
        p.object = self.object;
        p.counter_data_image = self.image.as_mut_ptr();
        p.counter_data_image_size = self.image.len();
        // SAFETY: the object is live, the image is as long as said.
        match unsafe { self.calls.decode_data(&mut p) } {
            Ok(()) => {
                sum.overflow |= p.overflow != 0;
                Ok(p.decode_stop_reason == DECODE_IMAGE_FULL)
            }
            Err(e) if e.is(CuptiResult::OUT_OF_MEMORY) => {
                sum.overflow = true;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Adds what is complete in the image.
    fn take(&mut self, sum: &mut Sampled, full: bool) -> Result<(), Error> {
        let mut p = raw::PmSamplingGetCounterDataInfo::sized();
        p.counter_data_image = self.image.as_ptr();
        p.counter_data_image_size = self.image.len();
        // SAFETY: the image is as long as said.
        unsafe { self.calls.get_counter_data_info(&mut p)? };
        let (populated, complete) = (p.num_populated_samples, p.num_completed_samples);
        if populated > ROOM || complete > populated {
            return Err(Error::Nonsense { call: "cuptiPmSamplingGetCounterDataInfo" });
        }
        for index in self.seen..complete {
            match self.sample(index)? {
                Some((tensor_cycles, elapsed_cycles, ns)) => {
                    sum.tensor_cycles += tensor_cycles;
                    sum.elapsed_cycles += elapsed_cycles;
                    sum.ns += ns;
                    sum.samples += 1;
                }
                None => sum.dropped += 1,
            }
        }
        if self.peak.is_none() && complete > 0 {
            let peak = self.host.evaluate(&self.image, 0, &[c_string(TENSOR_PEAK)])?;
            self.peak = peak.first().copied().filter(|p| *p > 0.0 && *p <= PEAK);
        }
        self.seen = self.seen.max(complete);
        // One that is half there is left where it is, as long as there is room.
        if populated > 0 && (complete == populated || full) {
            sum.dropped += (populated - complete) as u64;
            self.clear()?;
        }
        Ok(())
    }

    /// One sample: tensor cycles, SM cycles, nanoseconds; none for one that says what cannot be.
    fn sample(&self, index: usize) -> Result<Option<(u64, u64, u64)>, Error> {
        let values = self.host.evaluate(&self.image, index, &self.metrics)?;
        let mut p = raw::PmSamplingGetSampleInfo::sized();
        p.object = self.object;
        p.counter_data_image = self.image.as_ptr();
        p.counter_data_image_size = self.image.len();
        p.sample_index = index;
        // SAFETY: the object is live, the image is as long as said.
        unsafe { self.calls.get_sample_info(&mut p)? };
        let ns = p.end_timestamp.checked_sub(p.start_timestamp).filter(|ns| *ns <= LONGEST_NS);
        Ok(cycles(values[0]).zip(cycles(values[1])).zip(ns).map(|((tensor, elapsed), ns)| (tensor, elapsed, ns)))
    }

    /// Tensor cycles that are counted in one SM cycle in which all tensor cores are active, by CUPTI's model of the chip; none before the first sample, or where
    /// it does not say. On a GH100 there are four tensor cores in each of 132 multiprocessors, and wgmma bf16 executes 4096 operations there at its peak.
    #[must_use]
    pub fn peak(&self) -> Option<f64> {
        self.peak
    }

    /// Ends, and reads what is left. The counters are free when it returns.
    ///
    /// # Errors
    /// CUPTI's answer; the counters are free all the same.
    pub fn end(mut self) -> Result<Sampled, Error> {
        self.stop()?;
        self.read()
    }

    fn stop(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.started) {
            return Ok(());
        }
        let mut p = raw::PmSamplingStop::sized();
        p.object = self.object;
        // SAFETY: the object is live and started.
        unsafe { self.calls.stop(&mut p) }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // Nothing to do about a refusal here; the object is not used again.
        let _ = self.stop();
        let mut p = raw::PmSamplingDisable::sized();
        p.object = self.object;
        // SAFETY: the object is live and given back once.
        let _ = unsafe { self.calls.disable(&mut p) };
    }
}

/// A counter's value as an integer.
fn cycles(value: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: finite, not negative, and far below 2^64")]
    (value.is_finite() && (0.0..MOST_CYCLES).contains(&value)).then(|| value.round() as u64)
}
