//! PM sampling as a witness: a device's tensor cycles, counted by the hardware, in the place of GPM's percentage.
//!
//! A GPU's counters have one owner at a time, so this is for when nobody else needs them: it does not begin while a metered process is there, takes a metered process's
//! turn at the counters ([`Turn`]) so that one that comes is seen waiting, and gives way as soon as one is seen, by whomever. It does not come back: a job that
//! ends is often followed by the next. Why it is not, or no longer, to be had stands in the evidence, and is said in a line.

use cudarc::driver::{result, sys};
use cupti_sys::{Cupti, Error, raw::CuptiResult};

use crate::{
    counter::{
        find::{self, Found},
        sampling::{Sampled, Sampler, SamplingError},
        turn::Turn,
    },
    evidence::{gpu_uuid, witness::PmReading},
    inject::config,
    window::clock::monotonic_ns,
};

/// No sample in so long a time: there will be none.
const SILENCE_NS: u64 = 5_000_000_000;
/// Readings one after the other that found an overflow, after which it is given up.
const OVERFLOWS: u32 = 8;

/// PM sampling on the devices of a node.
#[derive(Default)]
pub struct Pm {
    devices: Vec<Device>,
    simulated: bool,
    /// What is to be said.
    lines: Vec<String>,
}

/// A device that is to be sampled.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// UUID.
    pub uuid: String,
    /// What tells its tensor activity otherwise, in words.
    pub otherwise: &'static str,
}

struct Device {
    wanted: Wanted,
    state: Option<Sampling>,
    /// Of the interval so far; none once it has been told why there is nothing.
    reading: Option<PmReading>,
}

/// A device that is being sampled.
struct Sampling {
    cupti: Cupti,
    ordinal: u32,
    sampler: Sampler,
    turn: Turn,
    /// When samples came last.
    heard_ns: u64,
    told_overflow: bool,
    overflows: u32,
}

/// Why it is not to be had, and what to do about it.
struct Why {
    why: String,
    remedy: String,
}

fn why(why: impl Into<String>, remedy: &str) -> Why {
    Why { why: why.into(), remedy: remedy.to_owned() }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.remedy.is_empty() { write!(f, "{}", self.why) } else { write!(f, "{} ({})", self.why, self.remedy) }
    }
}

impl Pm {
    /// Begins on these devices. `in_the_way` names a metered process on a device.
    #[must_use]
    pub fn begin(wanted: Vec<Wanted>, in_the_way: &impl Fn(&str) -> Option<String>) -> Self {
        let mut pm = Self::default();
        if wanted.is_empty() {
            pm.lines.push("no PM sampling: NVML shows no device".to_owned());
            return pm;
        }
        let cuda = cuda();
        pm.simulated = cuda.as_ref().is_ok_and(|(found, _)| find::is_stand_in(found));
        for wanted in wanted {
            let begun = match (&cuda, in_the_way(&wanted.uuid)) {
                (_, Some(who)) => Err(metered(&who)),
                (Ok((found, uuids)), None) => begin(found.cupti, uuids, &wanted.uuid),
                (Err(e), None) => Err(why(e.why.clone(), &e.remedy)),
            };
            // It took some time to begin.
            let now = monotonic_ns();
            let mut reading = PmReading { start_ns: now, end_ns: now, ..PmReading::default() };
            let state = match begun {
                Ok(state) => Some(state),
                Err(e) => {
                    pm.lines.push(format!("no PM sampling on {}: {e}; its tensor activity is {}", wanted.uuid, wanted.otherwise));
                    reading.ended = e.to_string();
                    None
                }
            };
            pm.devices.push(Device { wanted, state, reading: Some(reading) });
        }
        pm
    }

    /// Whether any device is being sampled.
    #[must_use]
    pub fn samples(&self) -> bool {
        self.devices.iter().any(|d| d.state.is_some())
    }

    /// The counters are the stand-in's.
    #[must_use]
    pub fn simulated(&self) -> bool {
        self.simulated
    }

    /// What is to be said, once.
    pub fn lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// Reads what was sampled, and gives way where somebody needs the counters. Whether it ended on a device: an interval has one source.
    pub fn tend(&mut self, now: u64, in_the_way: &impl Fn(&str) -> Option<String>) -> bool {
        let mut ended = false;
        for device in &mut self.devices {
            let Some(state) = &device.state else { continue };
            let trouble = if let Some(who) = in_the_way(&device.wanted.uuid) {
                Some(metered(&who))
            } else if state.turn.wanted() {
                Some(metered("it waits for its turn at them"))
            } else {
                device.read(now, &mut self.lines).err()
            };
            if let Some(trouble) = trouble {
                device.end(now);
                let (uuid, otherwise) = (&device.wanted.uuid, device.wanted.otherwise);
                self.lines.push(format!("PM sampling on {uuid} ends: {trouble}; its tensor activity is {otherwise} from here on"));
                if let Some(reading) = &mut device.reading {
                    reading.ended = trouble.to_string();
                }
                ended = true;
            }
        }
        ended
    }

    /// What was sampled of a device in the interval that ends; none where it does not hold any more.
    pub fn take(&mut self, uuid: &str, now: u64) -> Option<PmReading> {
        let device = self.devices.iter_mut().find(|d| d.wanted.uuid == uuid)?;
        let next = device.state.is_some().then(|| PmReading { start_ns: now, end_ns: now, ..PmReading::default() });
        let mut reading = std::mem::replace(&mut device.reading, next)?;
        if device.state.is_some() {
            reading.end_ns = now;
        }
        Some(reading)
    }

    /// Ends on all devices; what is left is in the last interval.
    pub fn finish(&mut self, now: u64) {
        for device in &mut self.devices {
            device.end(now);
        }
    }
}

impl Device {
    /// Adds what has come.
    fn read(&mut self, now: u64, lines: &mut Vec<String>) -> Result<(), Why> {
        let Some(state) = &mut self.state else { return Ok(()) };
        let sampled = state.sampler.read().map_err(|e| refused(&e.into()))?;
        let reading = self.reading.get_or_insert_with(PmReading::default);
        add(reading, sampled, state.sampler.peak());
        if sampled.samples > 0 {
            state.heard_ns = now;
            if state.sampler.peak().is_none() {
                return Err(why("CUPTI does not say how many cycles its tensor cores count at their peak", ""));
            }
        }
        if sampled.overflow {
            if !std::mem::replace(&mut state.told_overflow, true) {
                lines.push(format!(
                    "PM sampling on {}: the hardware's buffer ran over: samples are lost, and counted as such",
                    self.wanted.uuid
                ));
            }
            state.overflows += 1;
            if state.overflows >= OVERFLOWS {
                return Err(why("the hardware's buffer runs over all the time", ""));
            }
            return self.renew(now);
        }
        state.overflows = 0;
        if now > state.heard_ns + SILENCE_NS {
            return Err(why(format!("no sample came in {} s", SILENCE_NS / 1_000_000_000), ""));
        }
        Ok(())
    }

    /// Begins anew: nothing comes after an overflow. The old sampler must be gone before there is another.
    fn renew(&mut self, now: u64) -> Result<(), Why> {
        let Some(Sampling { cupti, ordinal, sampler, turn, told_overflow, overflows, .. }) = self.state.take() else { return Ok(()) };
        drop(sampler);
        let sampler = Sampler::begin(cupti, ordinal).map_err(|e| refused(&e))?;
        self.state = Some(Sampling { cupti, ordinal, sampler, turn, heard_ns: now, told_overflow, overflows });
        Ok(())
    }

    /// Gives the counters back, with what was still to be read.
    fn end(&mut self, now: u64) {
        let Some(state) = self.state.take() else { return };
        let reading = self.reading.get_or_insert_with(PmReading::default);
        reading.end_ns = now;
        let peak = state.sampler.peak();
        if let Ok(sampled) = state.sampler.end() {
            add(reading, sampled, peak);
        }
        // Only now: whoever waits for it takes the counters at once.
        state.turn.give();
    }
}

fn add(to: &mut PmReading, from: Sampled, peak: Option<f64>) {
    to.tensor_cycles += from.tensor_cycles;
    to.elapsed_cycles += from.elapsed_cycles;
    to.sampled_ns += from.ns;
    to.samples += from.samples;
    to.dropped += from.dropped;
    to.overflows += u64::from(from.overflow);
    to.peak = peak.unwrap_or(to.peak);
}

fn begin(cupti: Cupti, uuids: &[String], uuid: &str) -> Result<Sampling, Why> {
    let position = uuids.iter().position(|u| u == uuid).and_then(|at| u32::try_from(at).ok());
    let ordinal = position.ok_or_else(|| why("CUDA does not show this device here", "unset CUDA_VISIBLE_DEVICES"))?;
    let turn = Turn::of(uuid);
    if !turn.take() {
        return Err(metered("it, or another witness, has its turn at them"));
    }
    let sampler = Sampler::begin(cupti, ordinal).map_err(|e| refused(&e))?;
    Ok(Sampling { cupti, ordinal, sampler, turn, heard_ns: monotonic_ns(), told_overflow: false, overflows: 0 })
}

/// Libcupti, and the devices' UUIDs in CUDA's order. CUDA is initialised, which makes no context.
fn cuda() -> Result<(Found, Vec<String>), Why> {
    let named = std::env::var_os(config::CUPTI).map(std::path::PathBuf::from);
    let found = find::find(named.as_deref(), &|name| std::env::var_os(name)).map_err(|e| why(e.to_string(), ""))?;
    // SAFETY: only looks whether the library loads; the functions below would panic without it.
    if !unsafe { sys::is_culib_present() } {
        let remedy = "it comes with the driver; in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility";
        return Err(why("libcuda.so.1 cannot be loaded", remedy));
    }
    let uuid = |ordinal| {
        let uuid = result::device::get_uuid(result::device::get(ordinal)?)?;
        Ok(gpu_uuid(&uuid.bytes.map(|b| b.cast_unsigned())))
    };
    let uuids = result::init().and_then(|()| result::device::get_count()).and_then(|count| (0..count).map(uuid).collect());
    Ok((found, uuids.map_err(|e: result::DriverError| why(format!("CUDA does not start: {e}"), ""))?))
}

fn metered(who: &str) -> Why {
    why(format!("a metered process needs the counters: {who}"), "")
}

/// What CUPTI's refusal means, and what to do about it.
fn refused(error: &SamplingError) -> Why {
    let SamplingError::Cupti(Error::Refused { result, .. }) = error else {
        return why(error.to_string(), "");
    };
    match *result {
        CuptiResult::HARDWARE_BUSY => {
            why(format!("somebody else holds the GPU's counters: {error}"), "end it, or on hosts with DCGM: dcgmi profile --pause")
        }
        CuptiResult::INSUFFICIENT_PRIVILEGES | CuptiResult::VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES => {
            why(format!("no permission to read the GPU's counters: {error}"), COUNTERS_FOR_ALL)
        }
        CuptiResult::CONFIDENTIAL_COMPUTING_NOT_SUPPORTED => {
            why(format!("the GPU's counters are off under confidential computing: {error}"), "")
        }
        _ => why(format!("CUPTI refuses: {error}"), ""),
    }
}

/// How users get permission to read counters.
pub const COUNTERS_FOR_ALL: &str = "echo 'options nvidia NVreg_RestrictProfilingToAdminUsers=0' > /etc/modprobe.d/flopsprof.conf, rebuild the initramfs and reboot the host; or give the container CAP_SYS_ADMIN";
