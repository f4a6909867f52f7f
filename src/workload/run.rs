//! Runs the workload through the driver API, on the device's primary context.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
        sys::{self, CUdevice_attribute},
    },
    nvrtc::Ptx,
};
use thiserror::Error;

use super::{KERNELS, Kernel, ptx};
use crate::window::clock;

/// How long one launch is meant to take.
const LAUNCH: Duration = Duration::from_millis(2);
/// Iterations of the first launch, whose time sets those of the following.
const FIRST_ITERATIONS: u32 = 2000;
/// Launches between two synchronisations: the GPU stays busy, and a program that is told to stop does so within a fraction of a second.
const IN_FLIGHT: u32 = 64;
/// Blocks per multiprocessor: four, so that sixteen warps keep its tensor cores busy.
const BLOCKS_PER_SM: u32 = 4;

/// Why the workload cannot run.
#[derive(Debug, Error)]
pub enum WorkloadError {
    /// No driver on this machine.
    #[error("no NVIDIA driver: libcuda.so.1 cannot be loaded")]
    NoDriver,
    /// The driver refused.
    #[error("{what}: {cause}")]
    Driver {
        /// What was tried.
        what: String,
        /// The driver's answer.
        cause: DriverError,
    },
    /// No kernel of that name, or not on this device.
    #[error("the kernel {name} does not run on compute capability {}.{}: this device has {}", capability.0, capability.1, here.join(", "))]
    NoKernel {
        /// What was asked for.
        name: String,
        /// The device's compute capability.
        capability: (u32, u32),
        /// What there is.
        here: Vec<&'static str>,
    },
}

/// How long a kernel is repeated.
#[derive(Clone, Copy, Debug)]
pub enum For {
    /// At least so long.
    Time(Duration),
    /// So many launches.
    Launches(u64),
}

/// FLOP executed, by the metric that counts them: the truth.
pub type Truth = BTreeMap<String, u128>;

/// A device with the workload's kernels on it.
pub struct Workload {
    context: Arc<CudaContext>,
    streams: Vec<Arc<CudaStream>>,
    sink: CudaSlice<u64>,
    blocks: u32,
    capability: (u32, u32),
    loaded: BTreeMap<&'static str, CudaFunction>,
    iterations: BTreeMap<&'static str, u32>,
    truth: Truth,
    launches: u64,
    first_done_ns: Option<u64>,
}

fn named<T>(what: &str, result: Result<T, DriverError>) -> Result<T, WorkloadError> {
    result.map_err(|cause| WorkloadError::Driver { what: what.to_owned(), cause })
}

impl Workload {
    /// Opens a device by its ordinal, with so many streams.
    ///
    /// # Errors
    /// [`WorkloadError`]: no driver, no such device.
    pub fn open(device: usize, streams: usize) -> Result<Self, WorkloadError> {
        // SAFETY: only looks whether the library loads; the crate would panic where it does not.
        if !unsafe { sys::is_culib_present() } {
            return Err(WorkloadError::NoDriver);
        }
        let context = named(&format!("opening device {device}"), CudaContext::new(device))?;
        let attribute = |a| context.attribute(a).ok().and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
        let capability = (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        );
        let blocks = BLOCKS_PER_SM * attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        let first = context.default_stream();
        let sink = named("allocating 8 bytes", first.alloc_zeros(1))?;
        let mut all = vec![first];
        for _ in 1..streams {
            all.push(named("making a stream", context.new_stream())?);
        }
        Ok(Self {
            context,
            streams: all,
            sink,
            blocks,
            capability,
            loaded: BTreeMap::new(),
            iterations: BTreeMap::new(),
            truth: Truth::new(),
            launches: 0,
            first_done_ns: None,
        })
    }

    /// The device's name.
    #[must_use]
    pub fn device_name(&self) -> String {
        self.context.name().unwrap_or_default()
    }

    /// The kernels that this device has as instructions of their own.
    pub fn kernels(&self) -> impl Iterator<Item = &'static Kernel> + use<> {
        let capability = self.capability;
        KERNELS.iter().filter(move |k| k.on.holds(capability))
    }

    /// The kernel of that name.
    ///
    /// # Errors
    /// [`WorkloadError::NoKernel`], with what there is.
    pub fn kernel(&self, name: &str) -> Result<&'static Kernel, WorkloadError> {
        self.kernels().find(|k| k.name == name).ok_or_else(|| WorkloadError::NoKernel {
            name: name.to_owned(),
            capability: self.capability,
            here: self.kernels().map(|k| k.name).collect(),
        })
    }

    /// Runs kernels in turn, launch by launch, over all streams.
    ///
    /// # Errors
    /// [`WorkloadError::Driver`].
    pub fn run(&mut self, kernels: &[&'static Kernel], length: For) -> Result<(), WorkloadError> {
        for kernel in kernels {
            self.tune(kernel)?;
        }
        let start = Instant::now();
        let mut done = 0;
        loop {
            match length {
                For::Launches(n) if done >= n => break,
                For::Time(t) if start.elapsed() >= t => break,
                _ => {}
            }
            for kernel in kernels {
                self.launch(kernel, self.blocks, self.iterations[kernel.name])?;
                done += 1;
            }
            if self.launches.is_multiple_of(u64::from(IN_FLIGHT)) {
                self.synchronize()?;
            }
        }
        self.synchronize()
    }

    /// Launches one kernel so many times as fast as the host can, one iteration and one block each.
    ///
    /// # Errors
    /// [`WorkloadError::Driver`].
    pub fn burst(&mut self, kernel: &'static Kernel, launches: u64) -> Result<(), WorkloadError> {
        for _ in 0..launches {
            self.launch(kernel, 1, 1)?;
        }
        self.synchronize()
    }

    /// What was executed so far.
    #[must_use]
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    /// Launches so far.
    #[must_use]
    pub fn launches(&self) -> u64 {
        self.launches
    }

    /// When the first launches were seen to be done, on the monotonic clock (ns).
    #[must_use]
    pub fn first_done_ns(&self) -> Option<u64> {
        self.first_done_ns
    }

    /// Finds how many iterations make a launch of about [`LAUNCH`]. Its own launches count in the truth like all others.
    fn tune(&mut self, kernel: &'static Kernel) -> Result<(), WorkloadError> {
        if self.iterations.contains_key(kernel.name) {
            return Ok(());
        }
        // The first launch loads the kernel.
        self.launch(kernel, self.blocks, 1)?;
        self.synchronize()?;
        let start = Instant::now();
        self.launch(kernel, self.blocks, FIRST_ITERATIONS)?;
        self.synchronize()?;
        let ratio = LAUNCH.as_secs_f64() / start.elapsed().as_secs_f64().max(1e-6);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u32")]
        let iterations = (f64::from(FIRST_ITERATIONS) * ratio).clamp(1.0, 1e9) as u32;
        self.iterations.insert(kernel.name, iterations);
        Ok(())
    }

    fn launch(&mut self, kernel: &'static Kernel, blocks: u32, iterations: u32) -> Result<(), WorkloadError> {
        if !self.loaded.contains_key(kernel.name) {
            let module = named(&format!("loading {}", kernel.name), self.context.load_module(Ptx::from_src(ptx::module(kernel))))?;
            self.loaded.insert(kernel.name, named(&format!("finding {}", kernel.name), module.load_function(kernel.name))?);
        }
        let function = &self.loaded[kernel.name];
        let stream = &self.streams[usize::try_from(self.launches).unwrap_or(0) % self.streams.len()];
        let mut launch = stream.launch_builder(function);
        launch.arg(&iterations).arg(&self.sink);
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (kernel.threads(), 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments are those the entry declares; the sink is only written for 2^32 - 1 iterations, which tune never asks for.
        named(&format!("launching {}", kernel.name), unsafe { launch.launch(config) })?;
        *self.truth.entry(kernel.metric.to_owned()).or_default() += kernel.flop(blocks, iterations);
        self.launches += 1;
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), WorkloadError> {
        self.streams.iter().try_for_each(|s| named("waiting for the GPU", s.synchronize()))?;
        self.first_done_ns.get_or_insert_with(clock::monotonic_ns);
        Ok(())
    }
}
