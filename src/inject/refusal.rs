//! What CUPTI's refusals mean for the program, and what to do about them.

use cupti_sys::{Error, raw::CuptiResult};

use crate::evidence::record::Fault;

/// Why nothing is counted while a program that knows nothing of turns has the counters.
pub(super) const HELD_ELSEWHERE: &str = "another tool holds the GPU's counters";

/// Why a window cannot be opened.
pub(super) enum Refused {
    /// Somebody has the counters: worth another try.
    Busy(String),
    /// Nobody here may have them.
    Never(Box<Fault>),
}

/// What a refusal of CUPTI's means. `reset`: the context follows one that was reset while it was metered.
pub(super) fn refusal(error: &Error, device: u32, reset: bool) -> Refused {
    let fault = |kind: &str, what: &str, remedy: &str| {
        Refused::Never(Box::new(Fault {
            kind: kind.to_owned(),
            device: Some(device),
            what: format!("{what} ({error})"),
            remedy: remedy.to_owned(),
        }))
    };
    match error {
        Error::Absent { .. } => {
            fault("missing-symbol", "this libcupti cannot count", "use libcupti of CUDA 12.6 or newer: set FLOPSPROF_CUPTI to its path")
        }
        Error::Nonsense { .. } => fault("internal", "CUPTI's answer makes no sense", "report it with the output of `flopsprof doctor`"),
        Error::Refused { result, .. } => match *result {
            CuptiResult::HARDWARE_BUSY => Refused::Busy(format!("{HELD_ELSEWHERE} ({error})")),
            CuptiResult::INSUFFICIENT_PRIVILEGES | CuptiResult::VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES => fault(
                "no-permission",
                "no permission to read the GPU's counters",
                "let the host's administrator set `options nvidia NVreg_RestrictProfilingToAdminUsers=0` in /etc/modprobe.d and reboot, or run the container with CAP_SYS_ADMIN",
            ),
            CuptiResult::CONFIDENTIAL_COMPUTING_NOT_SUPPORTED => {
                fault("no-permission", "the GPU's counters are off under confidential computing", "none: the two exclude each other")
            }
            CuptiResult::MIG_DEVICE_NOT_SUPPORTED => {
                fault("not-supported", "no counters on this MIG instance", "use a MIG instance with its own compute instance")
            }
            // Seen on an H200 with CUPTI 13.0.85, 2026-11-26: unless the profiler of a context is disabled before the reset, the device's next one is not started. Of a reset the
            // meter hears when it is over.
            CuptiResult::INVALID_PARAMETER if reset => fault(
                "context-lost",
                "CUPTI does not count what the device does after a reset",
                "do not reset the device (cudaDeviceReset) before the program's end",
            ),
            _ => fault("internal", "CUPTI refuses to count", "report it with the output of `flopsprof doctor`"),
        },
    }
}
