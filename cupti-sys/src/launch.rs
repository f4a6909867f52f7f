//! The parameters of the driver's launches, as a callback finds them in `functionParams` (CUPTI's `generated_cuda_meta.h`).
//!
//! The variants of one call (`…_ptsz`) have the same layout. Fields behind the last one that is read are left out: a callback only looks.

use std::ffi::c_void;

/// `cuLaunchKernel_params`; also the beginning of `cuLaunchCooperativeKernel_params`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the driver's, documented in cuda.h")]
pub struct LaunchKernel {
    pub function: *mut c_void,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub stream: *mut c_void,
}

/// `cuLaunchKernelEx_params`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the driver's, documented in cuda.h")]
pub struct LaunchKernelEx {
    pub config: *const LaunchConfig,
    pub function: *mut c_void,
}

/// `CUlaunchConfig`, without its attributes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the driver's, documented in cuda.h")]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub stream: *mut c_void,
}

/// `cuGraphLaunch_params`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the driver's, documented in cuda.h")]
pub struct GraphLaunch {
    pub graph: *mut c_void,
    pub stream: *mut c_void,
}

/// What a launch call is given, by its callback id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`LaunchKernel`].
    Kernel,
    /// [`LaunchKernelEx`].
    KernelEx,
    /// [`GraphLaunch`].
    Graph,
    /// Launches on several devices at once, or a call that is not known here.
    Other,
}

impl Call {
    /// The call of a `CUPTI_DRIVER_TRACE_CBID_*`.
    #[must_use]
    pub const fn of(cbid: u32) -> Self {
        match cbid {
            307 | 442 | 477 | 478 => Self::Kernel,
            652 | 653 => Self::KernelEx,
            514 | 515 => Self::Graph,
            _ => Self::Other,
        }
    }
}
