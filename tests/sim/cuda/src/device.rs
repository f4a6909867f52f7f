//! Devices.

use std::ffi::{c_char, c_int, c_uint};

use crate::{INVALID_DEVICE, OK, cuda, shared::uuid, state::devices};

/// Writes a C string into a buffer of so many bytes.
unsafe fn put(to: *mut c_char, len: c_int, text: &str) {
    let n = text.len().min(usize::try_from(len).unwrap_or(0).saturating_sub(1));
    // SAFETY: n + 1 bytes fit, by the caller's promise.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, n);
        *to.add(n) = 0;
    }
}

pub(crate) fn exists(device: c_int) -> bool {
    usize::try_from(device).is_ok_and(|d| d < devices())
}

cuda! {
    fn cuDriverGetVersion(version: *mut c_int) { *version = 13000; OK }
    fn cuDeviceGetCount(count: *mut c_int) { *count = devices() as c_int; OK }
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        if !exists(ordinal) { return INVALID_DEVICE; }
        *device = ordinal;
        OK
    }
    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) {
        if !exists(device) { return INVALID_DEVICE; }
        put(name, len, "Stand-in GPU (simulated)");
        OK
    }
    fn cuDeviceGetUuid(to: *mut [u8; 16], device: c_int) { *to = uuid(usize::try_from(device).unwrap_or(0)); OK }
    fn cuDeviceGetUuid_v2(to: *mut [u8; 16], device: c_int) { *to = uuid(usize::try_from(device).unwrap_or(0)); OK }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) { *bytes = 1 << 36; OK }
    fn cuDeviceGetPCIBusId(to: *mut c_char, len: c_int, device: c_int) { put(to, len, &format!("0000:{:02x}:00.0", device + 1)); OK }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) {
        *value = match attribute {
            1 | 39 => 1024,  // threads of a block; of an SM
            10 => 32,        // warp size
            16 => 132,       // multiprocessors
            75 => 9,         // compute capability, major
            76 => 0,         // and minor
            115 => 0,        // memory pools: none, so that plain allocation is used
            _ => 1,
        };
        OK
    }
    fn cuDeviceGetP2PAttribute(value: *mut c_int, _attribute: c_int, _a: c_int, _b: c_int) { *value = 0; OK }
    fn cuDeviceCanAccessPeer(can: *mut c_int, _a: c_int, _b: c_int) { *can = 0; OK }
}

/// Names of results.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: u32, name: *mut *const c_char) -> c_uint {
    // SAFETY: the pointer is the caller's.
    unsafe { *name = if code == 0 { c"CUDA_SUCCESS".as_ptr() } else { c"CUDA_ERROR_OF_THE_STAND_IN".as_ptr() } };
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: u32, text: *mut *const c_char) -> c_uint {
    // SAFETY: the pointer is the caller's.
    unsafe { *text = if code == 0 { c"no error".as_ptr() } else { c"an error of the stand-in GPU".as_ptr() } };
    OK
}
