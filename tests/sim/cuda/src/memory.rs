//! Memory (the host's), streams and events.

use std::{
    ffi::{c_int, c_uint, c_void},
    time::Instant,
};

use crate::{
    OK, cuda,
    state::{current, wait_for, with},
};

fn wait() {
    if let Some(device) = current().and_then(|ctx| with(|s| s.contexts.get(&ctx).map(|c| c.device))) {
        wait_for(device);
    }
}

cuda! {
    fn cuMemAlloc_v2(to: *mut u64, bytes: usize) { *to = libc::calloc(1, bytes) as u64; OK }
    fn cuMemAllocAsync(to: *mut u64, bytes: usize, _stream: *mut c_void) { *to = libc::calloc(1, bytes) as u64; OK }
    fn cuMemFree_v2(at: u64) { libc::free(at as *mut c_void); OK }
    fn cuMemFreeAsync(at: u64, _stream: *mut c_void) { libc::free(at as *mut c_void); OK }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) { *free = 1 << 35; *total = 1 << 36; OK }
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, n: usize) { std::ptr::copy(from.cast::<u8>(), to as *mut u8, n); OK }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, n: usize, _stream: *mut c_void) { std::ptr::copy(from.cast::<u8>(), to as *mut u8, n); OK }
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, n: usize) { wait(); std::ptr::copy(from as *const u8, to.cast(), n); OK }
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, n: usize, _stream: *mut c_void) { wait(); std::ptr::copy(from as *const u8, to.cast(), n); OK }
    fn cuMemsetD8_v2(at: u64, value: u8, n: usize) { std::ptr::write_bytes(at as *mut u8, value, n); OK }
    fn cuMemsetD8Async(at: u64, value: u8, n: usize, _stream: *mut c_void) { std::ptr::write_bytes(at as *mut u8, value, n); OK }
    fn cuStreamCreate(to: *mut *mut c_void, _flags: c_uint) { *to = with(|s| s.handle()) as *mut c_void; OK }
    fn cuStreamCreateWithPriority(to: *mut *mut c_void, _flags: c_uint, _priority: c_int) { *to = with(|s| s.handle()) as *mut c_void; OK }
    fn cuStreamDestroy_v2(_stream: *mut c_void) { OK }
    fn cuStreamSynchronize(_stream: *mut c_void) { wait(); OK }
    fn cuStreamQuery(_stream: *mut c_void) { OK }
    fn cuStreamWaitEvent(_stream: *mut c_void, _event: *mut c_void, _flags: c_uint) { OK }
    fn cuEventCreate(to: *mut *mut c_void, _flags: c_uint) { *to = Box::into_raw(Box::new(Instant::now())).cast(); OK }
    fn cuEventDestroy_v2(event: *mut c_void) { drop(Box::from_raw(event.cast::<Instant>())); OK }
    fn cuEventRecord(event: *mut c_void, _stream: *mut c_void) { *event.cast::<Instant>() = Instant::now(); OK }
    fn cuEventRecordWithFlags(event: *mut c_void, _stream: *mut c_void, _flags: c_uint) { *event.cast::<Instant>() = Instant::now(); OK }
    fn cuEventSynchronize(_event: *mut c_void) { wait(); OK }
    fn cuEventQuery(_event: *mut c_void) { OK }
    fn cuEventElapsedTime(ms: *mut f32, a: *mut c_void, b: *mut c_void) {
        *ms = (*b.cast::<Instant>()).saturating_duration_since(*a.cast::<Instant>()).as_secs_f32() * 1e3;
        OK
    }
}
