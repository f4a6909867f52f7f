//! NVML: who the device is, its energy and clocks, and GPM's tensor activity.
//!
//! Read from the meter's thread at window edges only, never on a thread of the host: a read of the energy counter took 5.9 ms on an H200.
//! What NVML cannot say is absent, never guessed.

use std::sync::OnceLock;

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::Clock,
    enums::{device::UsedGpuMemory, gpm::GpmMetricId},
    error::NvmlError,
    gpm::{GpmSample, gpm_metrics_get},
};

use crate::evidence::{record::NvmlReading, sense::PERCENT};

/// NVML in this process. Loaded once and kept for ever: its handles are used until the process ends.
#[derive(Clone, Copy)]
pub struct Witness {
    nvml: &'static Nvml,
}

/// What NVML knows of a device's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// MIG mode: `on`, `off`, `unsupported`, `unknown`.
    pub mig: String,
    /// Confidential computing: `on`, `off`, `unknown`.
    pub confidential_computing: String,
    /// Whether GPM answers.
    pub gpm: bool,
    /// Highest SM clock, MHz; 0 where unknown.
    pub max_sm_clock_mhz: u32,
}

impl Witness {
    /// Loads `libnvidia-ml.so.1`, which comes with the driver. It stays for the life of the process.
    ///
    /// # Errors
    /// NVML's or the loader's words.
    pub fn load() -> Result<Self, NvmlError> {
        static NVML: OnceLock<Nvml> = OnceLock::new();
        if let Some(nvml) = NVML.get() {
            return Ok(Self { nvml });
        }
        let nvml = Nvml::init()?;
        Ok(Self { nvml: NVML.get_or_init(|| nvml) })
    }

    /// Whether it is the stand-in's.
    #[must_use]
    pub fn simulated(self) -> bool {
        self.driver().ends_with("stand-in")
    }

    /// Driver release (`580.159.04`), empty where NVML does not say.
    #[must_use]
    pub fn driver(self) -> String {
        self.nvml.sys_driver_version().unwrap_or_default()
    }

    /// The device with this UUID.
    ///
    /// # Errors
    /// NVML's words.
    pub fn device(self, uuid: &str) -> Result<DeviceWitness, NvmlError> {
        let device = self.nvml.device_by_uuid(uuid)?;
        let gpm = device.gpm_support().unwrap_or(false);
        Ok(DeviceWitness { witness: self, device, gpm, last: None, glanced: None })
    }
}

/// A device, for display.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Product name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// What NVML knows of it.
    pub identity: Identity,
    /// Compute processes on it.
    pub processes: Option<usize>,
}

impl Witness {
    /// Every device that NVML shows.
    #[must_use]
    pub fn devices(self) -> Vec<Seen> {
        let count = self.nvml.device_count().unwrap_or(0).min(MOST_DEVICES);
        let devices = (0..count).filter_map(|i| self.nvml.device_by_index(i).ok());
        devices
            .filter_map(|d| {
                let uuid = d.uuid().ok()?;
                let witness = self.device(&uuid).ok()?;
                Some(Seen { name: d.name().unwrap_or_default(), identity: witness.identity(), processes: witness.processes(), uuid })
            })
            .collect()
    }
}

/// More are not believed: an NVML that says 2^32 would be asked for each of them, for minutes.
const MOST_DEVICES: u32 = 1024;

/// One device, with the GPM sample its next reading counts from.
pub struct DeviceWitness {
    witness: Witness,
    device: Device<'static>,
    gpm: bool,
    last: Option<GpmSample<'static>>,
    /// The sample of the last [`DeviceWitness::at_work`].
    glanced: Option<GpmSample<'static>>,
}

/// A process on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDevice {
    /// Process id, on the host.
    pub pid: u32,
    /// Device memory, bytes.
    pub memory: Option<u64>,
}

/// What a process used of a device for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Process id, on the host.
    pub pid: u32,
    /// When, Unix time in microseconds.
    pub unix_us: u64,
    /// Per cent of the time in which a kernel of it ran.
    pub sm_pct: u32,
}

/// Tensor activity, percent, above which a device is at work. A model that is being loaded showed 0.004 on an H200, a training step 44.
const AT_WORK_TENSOR: f64 = 0.1;
/// Busy time, percent, where there is no GPM: loading a model showed 2 on an H200.
const AT_WORK_BUSY: u32 = 10;

/// Whether the tensor cores stood still since the reading before. False where GPM does not say.
#[must_use]
pub fn idle(reading: &NvmlReading) -> bool {
    reading.gpm_any_tensor_pct.is_some_and(|percent| percent <= AT_WORK_TENSOR)
}

impl DeviceWitness {
    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let mig = match self.device.mig_mode() {
            Ok(mode) => {
                if mode.current == 0 {
                    "off"
                } else {
                    "on"
                }
            }
            Err(NvmlError::NotSupported) => "unsupported",
            Err(_) => "unknown",
        };
        let confidential = match self.device.check_confidential_compute_status() {
            Ok(on) => {
                if on {
                    "on"
                } else {
                    "off"
                }
            }
            Err(_) => "unknown",
        };
        Identity {
            mig: mig.to_owned(),
            confidential_computing: confidential.to_owned(),
            gpm: self.gpm,
            max_sm_clock_mhz: self.device.max_clock_info(Clock::SM).unwrap_or(0),
        }
    }

    /// Compute processes on the device, as NVML counts them: those of other containers too.
    #[must_use]
    pub fn processes(&self) -> Option<usize> {
        self.device.running_compute_processes().ok().map(|p| p.len())
    }

    /// The compute processes on the device; none where NVML does not say.
    #[must_use]
    pub fn list(&self) -> Option<Vec<OnDevice>> {
        let listed = self.device.running_compute_processes().ok()?;
        let memory = |used| if let UsedGpuMemory::Used(bytes) = used { Some(bytes) } else { None };
        Some(listed.into_iter().map(|p| OnDevice { pid: p.pid, memory: memory(p.used_gpu_memory) }).collect())
    }

    /// What each process used since a moment (Unix time in microseconds). NVML samples a few times a second, and keeps some of it.
    #[must_use]
    pub fn used(&self, since_unix_us: u64) -> Vec<Used> {
        // "Not found": nobody used anything.
        let samples = self.device.process_utilization_stats(since_unix_us).unwrap_or_default();
        let used = samples.into_iter().filter(|s| s.timestamp > since_unix_us);
        used.map(|s| Used { pid: s.pid, unix_us: s.timestamp, sm_pct: s.sm_util.min(100) }).collect()
    }

    /// The SM clock at the moment, MHz.
    #[must_use]
    pub fn clock(&self) -> Option<u32> {
        self.device.clock_info(Clock::SM).ok()
    }

    /// Whether the device, whoever uses it, has been at work since this was asked last. None the first time, and where NVML does not say. A sample takes 33 us.
    pub fn at_work(&mut self) -> Option<bool> {
        if !self.gpm {
            return self.device.utilization_rates().ok().map(|u| u.gpu > AT_WORK_BUSY);
        }
        let now = self.device.gpm_sample().ok()?;
        let before = self.glanced.replace(now)?;
        let values = gpm_metrics_get(self.witness.nvml, &before, self.glanced.as_ref()?, &[GpmMetricId::AnyTensorUtil]).ok()?;
        values.into_iter().next()?.ok().map(|m| m.value > AT_WORK_TENSOR)
    }

    /// Reads everything. GPM's part is since the reading before; the first has none.
    pub fn read(&mut self) -> NvmlReading {
        self.read_and(true)
    }

    /// The same, but GPM's part of the next reading is since the same moment as this one's, unless it is to go `on` from here. The driver brings GPM's
    /// counters up to date a few times a second: many short stretches, each with its own ends, would add up to something else than one long one.
    pub fn read_and(&mut self, on: bool) -> NvmlReading {
        let mut reading = NvmlReading {
            energy_mj: self.device.total_energy_consumption().ok(),
            power_mw: self.device.power_usage().ok(),
            sm_clock_mhz: self.device.clock_info(Clock::SM).ok(),
            throttle_reasons: self.device.current_throttle_reasons().ok().map(|r| r.bits()),
            gpu_utilization_pct: self.device.utilization_rates().ok().map(|u| u.gpu),
            ..NvmlReading::default()
        };
        if !self.gpm {
            return reading;
        }
        let Ok(now) = self.device.gpm_sample() else { return reading };
        if let Some(last) = &self.last {
            let ids = [GpmMetricId::HmmaTensorUtil, GpmMetricId::DfmaTensorUtil, GpmMetricId::AnyTensorUtil];
            let values = gpm_metrics_get(self.witness.nvml, last, &now, &ids).unwrap_or_default();
            let mut values = values.into_iter().map(|m| m.ok().map(|m| m.value).filter(|v| v.abs() <= PERCENT));
            reading.gpm_hmma_pct = values.next().flatten();
            reading.gpm_dmma_pct = values.next().flatten();
            reading.gpm_any_tensor_pct = values.next().flatten();
        }
        if on || self.last.is_none() {
            self.last = Some(now);
        }
        reading
    }
}
