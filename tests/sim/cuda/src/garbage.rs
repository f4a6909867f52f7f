//! Answers that are none, beside a success: what a call may hand out without breaking the ABI.

use std::ffi::{c_int, c_uint};

/// Spoils what a call has written through its arguments, which are numbers here.
///
/// # Safety
/// The arguments are those of the function.
pub(crate) unsafe fn spoil(function: &str, args: &[usize], kind: u32) {
    let number = [-1, c_int::MAX, c_int::MIN][kind as usize % 3];
    // SAFETY: each function's pointers are to what its header says.
    unsafe {
        match function {
            "cuDriverGetVersion" | "cuDeviceGetCount" | "cuDeviceGetAttribute" | "cuDeviceGet" | "cuThreadExchangeStreamCaptureMode" => {
                *(args[0] as *mut c_int) = number;
            }
            // Every byte, without an end.
            "cuDeviceGetName" | "cuDeviceGetPCIBusId" => std::ptr::write_bytes(args[0] as *mut u8, 0xff, args[1]),
            "cuDeviceGetUuid_v2" => std::ptr::write_bytes(args[0] as *mut u8, 0xff, 16),
            "cuDevicePrimaryCtxGetState" => {
                *(args[1] as *mut c_uint) = c_uint::MAX;
                *(args[2] as *mut c_int) = number;
            }
            "cuCtxGetId" => {
                // Another one every time.
                *(args[1] as *mut u64) = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.subsec_nanos().into());
            }
            "cuDevicePrimaryCtxRetain" => *(args[0] as *mut usize) = 0,
            other => panic!("{other} has nothing to spoil"),
        }
    }
}
