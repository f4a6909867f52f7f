//! PM sampling: what all processes executed on a GPU, cut into samples when it is decoded.
//!
//! The hardware's buffer has room for so many samples as its size says, at [`SAMPLE_BYTES`] each, or for `FLOPSPROF_SIM_PM_SAMPLES`. What is not decoded before
//! it is full is lost, and nothing is sampled any more until the sampler is made anew.
//! An image is a text, as the range profiler's is: a line a sample, with its times among its metrics.

use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Mutex, PoisonError, atomic::Ordering},
};

use cupti_sys::raw;

use crate::{
    HARDWARE_BUSY, INVALID_OPERATION, INVALID_PARAMETER, OK, cupti, host,
    metric::{self, FLOP_PER_TENSOR_CYCLE, PIPE},
    range::{self, MAGIC, disown, own},
    shared, takes_ms,
};

const SAMPLE_BYTES: usize = 8 << 10;
/// Room for a sample in an image.
const LINE_BYTES: usize = 256;
const CYCLES_PER_NS: f64 = 1.98;

#[derive(Default)]
struct Sampler {
    device: usize,
    interval_ns: Option<u64>,
    /// Samples that the hardware's buffer holds.
    room: u64,
    started: bool,
    stopped_ns: Option<u64>,
    /// Until when, and until how many FLOP (in units of 2^20), samples were decoded.
    decoded: (u64, u64),
    overflow: bool,
}

static SAMPLERS: Mutex<Option<HashMap<usize, Sampler>>> = Mutex::new(None);

fn with(object: *mut c_void, f: impl FnOnce(&mut Sampler) -> u32) -> u32 {
    let mut samplers = SAMPLERS.lock().unwrap_or_else(PoisonError::into_inner);
    samplers.get_or_insert_default().get_mut(&(object as usize)).map_or(INVALID_PARAMETER, f)
}

fn now_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
    t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs()
}

fn mflop(device: usize) -> u64 {
    shared::activity()[device].mflop.load(Ordering::Relaxed)
}

cupti! {
    fn cuptiPmSamplingEnable(p: raw::PmSamplingEnable) {
        if p.device_index >= shared::DEVICES { return raw::CuptiResult(2).0; }
        let mut samplers = SAMPLERS.lock().unwrap_or_else(PoisonError::into_inner);
        let samplers = samplers.get_or_insert_default();
        if samplers.values().any(|s| s.device == p.device_index) { return INVALID_OPERATION; }
        let handle = samplers.keys().max().copied().unwrap_or(0x10) + 16;
        samplers.insert(handle, Sampler { device: p.device_index, ..Sampler::default() });
        p.object = handle as _;
        OK
    }
    fn cuptiPmSamplingDisable(p: raw::PmSamplingDisable) {
        takes_ms(10);
        let gone = SAMPLERS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().remove(&(p.object as usize));
        gone.map_or(INVALID_PARAMETER, |gone| { disown(gone.device); OK })
    }
    fn cuptiPmSamplingSetConfig(p: raw::PmSamplingSetConfig) {
        if !host::is_for_sampling(p.config, p.config_size) || p.sampling_interval == 0 { return INVALID_PARAMETER; }
        if metric::passes(&host::metrics_of(p.config, p.config_size)) != 1 { return raw::CuptiResult::NOT_SUPPORTED.0; }
        let room = shared::setting("FLOPSPROF_SIM_PM_SAMPLES").and_then(|v| v.parse().ok());
        with(p.object, |s| {
            s.interval_ns = Some(p.sampling_interval);
            s.room = room.unwrap_or((p.hardware_buffer_size / SAMPLE_BYTES) as u64);
            OK
        })
    }
    fn cuptiPmSamplingGetCounterDataSize(p: raw::PmSamplingGetCounterDataSize) {
        p.counter_data_size = MAGIC.len() + (p.max_samples as usize + 1) * LINE_BYTES;
        with(p.object, |_| OK)
    }
    fn cuptiPmSamplingCounterDataImageInitialize(p: raw::PmSamplingCounterDataImageInitialize) {
        if p.counter_data_size < MAGIC.len() + 1 { return INVALID_PARAMETER; }
        std::ptr::write_bytes(p.counter_data, 0, p.counter_data_size);
        std::ptr::copy_nonoverlapping(MAGIC.as_ptr(), p.counter_data, MAGIC.len());
        OK
    }
    fn cuptiPmSamplingStart(p: raw::PmSamplingStart) {
        takes_ms(50);
        with(p.object, |s| {
            if s.started || s.interval_ns.is_none() { return INVALID_OPERATION; }
            if !own(s.device) { return HARDWARE_BUSY; }
            s.started = true;
            s.decoded = (now_ns(), mflop(s.device));
            OK
        })
    }
    fn cuptiPmSamplingStop(p: raw::PmSamplingStop) {
        with(p.object, |s| {
            if !s.started { return INVALID_OPERATION; }
            s.started = false;
            s.stopped_ns = Some(now_ns());
            OK
        })
    }
    fn cuptiPmSamplingDecodeData(p: raw::PmSamplingDecodeData) {
        let (image, size) = (p.counter_data_image, p.counter_data_image_size);
        let Some(mut text) = range::text(image, size).map(str::to_owned) else { return INVALID_PARAMETER };
        with(p.object, |s| {
            let Some(interval) = s.interval_ns else { return INVALID_OPERATION };
            let (began, before) = s.decoded;
            let ready = (s.stopped_ns.unwrap_or_else(now_ns) - began) / interval;
            let fits = ((size - MAGIC.len()) / LINE_BYTES).saturating_sub(1 + text.lines().count()) as u64;
            p.overflow = u8::from(s.overflow);
            let ready = if s.overflow { 0 } else { ready };
            if ready > s.room {
                (s.overflow, p.overflow) = (true, 1);
            }
            let n = ready.min(s.room).min(fits);
            p.decode_stop_reason = if n < ready.min(s.room) { raw::DECODE_IMAGE_FULL } else { raw::DECODE_END };
            if n == 0 { return OK; }
            // Of what was executed meanwhile, the part of these samples: all of it, unless there are more that did not fit.
            let executed = mflop(s.device) - before;
            let executed = if n == ready { executed } else { executed * n / ready };
            let cycles = (executed << 20) / FLOP_PER_TENSOR_CYCLE;
            let elapsed = interval as f64 * CYCLES_PER_NS;
            for i in 0..n {
                let tensor = cycles / n + if i == 0 { cycles % n } else { 0 };
                let (from, to) = (began + i * interval, began + (i + 1) * interval);
                text += &format!("{PIPE}={tensor}.0 sm__cycles_elapsed={elapsed:?} from={from} to={to}\n");
            }
            s.decoded = (began + n * interval, before + executed);
            let text = format!("{MAGIC}{text}");
            if text.len() < size { unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), image, text.len()) }; }
            OK
        })
    }
    fn cuptiPmSamplingGetCounterDataInfo(p: raw::PmSamplingGetCounterDataInfo) {
        let n = range::text(p.counter_data_image, p.counter_data_image_size).map_or(0, |t| t.lines().count());
        (p.num_total_samples, p.num_populated_samples, p.num_completed_samples) = (p.counter_data_image_size / LINE_BYTES, n, n);
        OK
    }
    fn cuptiPmSamplingCounterDataGetSampleInfo(p: raw::PmSamplingGetSampleInfo) {
        let Some(line) = range::text(p.counter_data_image, p.counter_data_image_size).and_then(|t| t.lines().nth(p.sample_index)) else { return INVALID_PARAMETER };
        let time = |name: &str| line.split(' ').find_map(|w| w.strip_prefix(name)?.parse().ok()).unwrap_or(0);
        (p.start_timestamp, p.end_timestamp) = (time("from="), time("to="));
        OK
    }
}
