//! The clocks.
//!
//! They are the kernel's own, asked by system call: a library that is preloaded to fake the program's time (libfaketime) must neither stretch a window nor let a
//! deadline pass late. Nothing here is on the way of a launch, unless it is held anyway.

use std::time::Duration;

/// Nanoseconds on a clock of the kernel's.
fn read(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is ours.
    if unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &raw mut t) } != 0 {
        // A sandbox that knows the C library's way alone. These clocks cannot fail.
        // SAFETY: the struct is ours.
        unsafe { libc::clock_gettime(clock, &raw mut t) };
    }
    u64::try_from(t.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0))
}

/// `CLOCK_MONOTONIC`: what windows are timed with.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// The same by the C library, without a system call: for measuring what a launch spends in us. What others may have put in its place spoils the measurement, and nothing
/// that waits.
#[must_use]
pub fn stopwatch_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
    u64::try_from(t.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0))
}

/// `CLOCK_REALTIME`: nanoseconds since 1970.
#[must_use]
pub fn unix_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// CPU time of the calling thread.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Sleeps, or returns early when a signal comes. It is no place at which a thread can be cancelled, and nobody's idea of sleep but the kernel's.
pub fn sleep(time: Duration) {
    let t = timespec(time);
    // SAFETY: the struct is ours.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const t, std::ptr::null_mut::<libc::timespec>()) };
}

/// A length of time, as the kernel takes it.
#[must_use]
pub fn timespec(time: Duration) -> libc::timespec {
    libc::timespec { tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX), tv_nsec: time.subsec_nanos().into() }
}
