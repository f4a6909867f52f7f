//! The few functions of libcuda that the meter calls, found in the copy that the program loaded.

use std::{
    ffi::{c_char, c_int, c_uint, c_void},
    path::Path,
};

use libloading::os::unix::{Library, RTLD_LAZY};

/// glibc's `RTLD_NOLOAD`.
const RTLD_NOLOAD: c_int = 4;
/// `CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT`.
const SM_COUNT: c_int = 16;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`.
const MAJOR: c_int = 75;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR`.
const MINOR: c_int = 76;

/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
const CAPTURE_RELAXED: c_uint = 2;

/// `CUDA_ERROR_NOT_INITIALIZED`.
const NOT_INITIALIZED: c_int = 3;
/// `CUDA_ERROR_DEINITIALIZED`.
const DEINITIALIZED: c_int = 4;
/// `CUDA_ERROR_INVALID_DEVICE`.
const INVALID_DEVICE: c_int = 101;

/// A context handle.
pub(super) type Context = *mut c_void;

/// A driver call that failed: its name and the `CUresult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DriverError(pub(super) &'static str, pub(super) c_int);

impl DriverError {
    /// Whether it says no more than that there is nothing: CUDA is not started yet, or has ended; or no such device.
    pub(super) fn is_of_nothing(self) -> bool {
        matches!(self, Self(_, NOT_INITIALIZED | DEINITIALIZED) | Self("cuDeviceGet", INVALID_DEVICE))
    }
}

impl std::fmt::Display for DriverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} answered CUresult {}", self.0, self.1)
    }
}

/// The most devices that are looked at, whatever the driver says.
const MOST_DEVICES: u32 = 256;

macro_rules! driver {
    ($($name:ident = $symbol:literal($($arg:ty),*);)*) => {
        /// libcuda, as the program has it.
        #[derive(Clone, Copy)]
        pub(super) struct Driver {
            $($name: unsafe extern "C" fn($($arg),*) -> c_int,)*
            /// `cuCtxGetId`, CUDA 12.0.
            context_id: Option<unsafe extern "C" fn(Context, *mut u64) -> c_int>,
            stand_in: bool,
        }

        impl Driver {
            /// Finds the copy that is in the process. None when there is none, or it lacks a function (older than CUDA 11.4).
            pub(super) fn find() -> Option<Self> {
                // SAFETY: it is in the process already, so no initialiser runs.
                let library = unsafe { Library::open(Some(Path::new("libcuda.so.1")), RTLD_LAZY | RTLD_NOLOAD) }.ok()?;
                // SAFETY: each symbol is the driver's function of the type written beside it, as cuda.h declares it.
                let driver = unsafe {
                    Self {
                        $($name: *library.get($symbol).ok()?,)*
                        context_id: library.get(c"cuCtxGetId").ok().map(|s| *s),
                        stand_in: library.get::<*const c_void>(c"flopsprof_stand_in").is_ok(),
                    }
                };
                // Kept for ever: a program that closes libcuda must not take the meter's functions away.
                std::mem::forget(library);
                Some(driver)
            }
        }
    };
}

driver! {
    version = c"cuDriverGetVersion"(*mut c_int);
    device_count = c"cuDeviceGetCount"(*mut c_int);
    device_get = c"cuDeviceGet"(*mut c_int, c_int);
    device_name = c"cuDeviceGetName"(*mut c_char, c_int, c_int);
    device_uuid = c"cuDeviceGetUuid_v2"(*mut [u8; 16], c_int);
    device_pci = c"cuDeviceGetPCIBusId"(*mut c_char, c_int, c_int);
    device_attribute = c"cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    primary_state = c"cuDevicePrimaryCtxGetState"(c_int, *mut c_uint, *mut c_int);
    primary_retain = c"cuDevicePrimaryCtxRetain"(*mut Context, c_int);
    primary_release = c"cuDevicePrimaryCtxRelease_v2"(c_int);
    set_current = c"cuCtxSetCurrent"(Context);
    synchronize = c"cuCtxSynchronize"();
    exchange_capture_mode = c"cuThreadExchangeStreamCaptureMode"(*mut c_uint);
}

fn check(call: &'static str, result: c_int) -> Result<(), DriverError> {
    if result == 0 { Ok(()) } else { Err(DriverError(call, result)) }
}

impl Driver {
    /// Whether this is the stand-in GPU of the tests: nothing counted there is a measurement.
    pub(super) fn simulated(&self) -> bool {
        self.stand_in
    }

    /// `cuDriverGetVersion`: 13000 is CUDA 13.0.
    pub(super) fn version(&self) -> c_int {
        let mut version = 0;
        // SAFETY: the pointer is to an int of ours.
        let _ = unsafe { (self.version)(&raw mut version) };
        version
    }

    /// Devices; an error until `cuInit` is through.
    pub(super) fn devices(&self) -> Result<u32, DriverError> {
        let mut count = 0;
        // SAFETY: the pointer is to an int of ours.
        check("cuDeviceGetCount", unsafe { (self.device_count)(&raw mut count) })?;
        Ok(u32::try_from(count).unwrap_or(0).min(MOST_DEVICES))
    }

    /// Whether the primary context of a device is active, if the driver says. Does not make one.
    pub(super) fn primary_state(&self, device: c_int) -> Result<bool, DriverError> {
        let (mut flags, mut active) = (0, 0);
        // SAFETY: the pointers are to integers of ours.
        check("cuDevicePrimaryCtxGetState", unsafe { (self.primary_state)(device, &raw mut flags, &raw mut active) })?;
        Ok(active != 0)
    }

    /// Whether it is active for certain.
    pub(super) fn primary_active(&self, device: c_int) -> bool {
        self.primary_state(device) == Ok(true)
    }

    /// Takes a reference to the primary context, which must be active: else this would make one.
    pub(super) fn primary_retain(&self, device: c_int) -> Result<Context, DriverError> {
        let mut ctx = std::ptr::null_mut();
        // SAFETY: the pointer is to a handle of ours.
        check("cuDevicePrimaryCtxRetain", unsafe { (self.primary_retain)(&raw mut ctx, device) })?;
        if ctx.is_null() { Err(DriverError("cuDevicePrimaryCtxRetain", 0)) } else { Ok(ctx) }
    }

    /// What the primary context of a device is at the moment: its handle, and its number where the driver gives each context one. None when there is none.
    pub(super) fn primary(&self, device: c_int) -> Option<(Context, u64)> {
        if !self.primary_active(device) {
            return None;
        }
        let ctx = self.primary_retain(device).ok()?;
        let mut id = 0;
        if let Some(context_id) = self.context_id {
            // SAFETY: the context is retained; the number goes into an integer of ours.
            let _ = unsafe { context_id(ctx, &raw mut id) };
        }
        // SAFETY: the reference that was taken just now.
        let _ = unsafe { (self.primary_release)(device) };
        Some((ctx, id))
    }

    /// Makes a context current on this thread.
    pub(super) fn set_current(&self, ctx: Context) -> Result<(), DriverError> {
        // SAFETY: the context is retained.
        check("cuCtxSetCurrent", unsafe { (self.set_current)(ctx) })
    }

    /// Keeps what the calling thread does apart from streams that other threads capture: by default, a call that waits would be refused while somebody captures
    /// in global mode, as PyTorch does, and would invalidate the capture.
    pub(super) fn leave_captures_alone(&self) {
        let mut mode = CAPTURE_RELAXED;
        // SAFETY: the pointer is to an integer of ours.
        let _ = unsafe { (self.exchange_capture_mode)(&raw mut mode) };
    }

    /// Waits until the context that is current on this thread has done what was launched.
    pub(super) fn synchronize(&self) -> Result<(), DriverError> {
        // SAFETY: no arguments.
        check("cuCtxSynchronize", unsafe { (self.synchronize)() })
    }

    /// The handle of an ordinal.
    pub(super) fn device(&self, ordinal: u32) -> Result<c_int, DriverError> {
        let mut device = 0;
        // SAFETY: the pointer is to an int of ours.
        check("cuDeviceGet", unsafe { (self.device_get)(&raw mut device, ordinal.cast_signed()) })?;
        Ok(device)
    }

    /// Product name.
    pub(super) fn name(&self, device: c_int) -> String {
        // SAFETY: buffer and length belong together.
        self.text(|buffer, len| unsafe { (self.device_name)(buffer, len, device) })
    }

    /// PCI address.
    pub(super) fn pci(&self, device: c_int) -> String {
        // SAFETY: buffer and length belong together.
        self.text(|buffer, len| unsafe { (self.device_pci)(buffer, len, device) })
    }

    /// `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
    pub(super) fn uuid(&self, device: c_int) -> String {
        let mut bytes = [0; 16];
        // SAFETY: 16 bytes of ours.
        if unsafe { (self.device_uuid)(&raw mut bytes, device) } != 0 {
            return String::new();
        }
        crate::evidence::gpu_uuid(&bytes)
    }

    /// Streaming multiprocessors.
    pub(super) fn sm_count(&self, device: c_int) -> u32 {
        self.attribute(device, SM_COUNT)
    }

    /// Compute capability.
    pub(super) fn compute_capability(&self, device: c_int) -> (u32, u32) {
        (self.attribute(device, MAJOR), self.attribute(device, MINOR))
    }

    fn attribute(&self, device: c_int, attribute: c_int) -> u32 {
        let mut value = 0;
        // SAFETY: the pointer is to an int of ours.
        let result = unsafe { (self.device_attribute)(&raw mut value, attribute, device) };
        if result == 0 { u32::try_from(value).unwrap_or(0) } else { 0 }
    }

    fn text(&self, get: impl Fn(*mut c_char, c_int) -> c_int) -> String {
        let mut buffer = [0u8; 256];
        if get(buffer.as_mut_ptr().cast(), 256) != 0 {
            return String::new();
        }
        String::from_utf8_lossy(buffer.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
    }
}
