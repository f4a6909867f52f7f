//! The eBPF probes as an object for the kernel, and the layout that they share with their reader.
//!
//! The probes are C (`probe/`), because the process tree needs CO-RE, which Rust's eBPF has not. `build` makes the object with Debian's clang-19; it is
//! committed, so that building flopsprof needs no clang, and a test builds it again and compares.
#![no_std]

/// Bytes as the loader wants them aligned.
#[repr(C, align(8))]
struct Aligned<B: ?Sized>(B);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!("../flopsprof.bpf.o"));

/// The probes.
#[must_use]
pub fn object() -> &'static [u8] {
    &ALIGNED.0
}

/// Names of the maps and programs in the object.
pub mod name {
    /// Ring buffer of [`Event`](super::Event).
    pub const EVENTS: &str = "EVENTS";
    /// Calls by [`Caller`](super::Caller), a `u64` a CPU.
    pub const CALLS: &str = "CALLS";
    /// What could not be told, a `u64` a CPU: events, calls.
    pub const LOST: &str = "LOST";
    /// Whether launches are counted at the moment.
    pub const LAUNCHES_ON: &str = "LAUNCHES_ON";
    /// Programs for raw tracepoints, with their tracepoints.
    pub const LIFE: [(&str, &str); 3] =
        [("forked", "sched_process_fork"), ("executed", "sched_process_exec"), ("ended", "sched_process_exit")];
    /// The program for entry points.
    pub const CALLED: &str = "called";
}

/// Places in [`name::LOST`].
pub const LOST_EVENTS: u32 = 0;
/// Calls that were not counted, because too many processes had some that were not read yet.
pub const LOST_CALLS: u32 = 1;

/// A process began: `parent` forked it.
pub const FORKED: u32 = 1;
/// It became another program.
pub const EXECUTED: u32 = 2;
/// Its last thread ended.
pub const ENDED: u32 = 3;
/// It called an entry point for the first time.
pub const CALLED: u32 = 4;

/// One event of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`.
    pub ns: u64,
    /// The process's start, since boot: with its id it names the process for ever.
    pub started_ns: u64,
    /// Inode of its version 2 control group.
    pub cgroup: u64,
    /// Process id, in the first namespace.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// User id.
    pub uid: u32,
    /// [`FORKED`] to [`CALLED`].
    pub kind: u32,
    /// Of [`CALLED`]: which entry point.
    pub entry: u32,
    /// Of [`ENDED`]: status as `wait` has it.
    pub status: u32,
    /// Name of its first thread.
    pub comm: [u8; 16],
}

/// Who called what.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// As in [`Event`].
    pub started_ns: u64,
    /// As in [`Event`].
    pub pid: u32,
    /// The entry point's number, by the probe's cookie.
    pub entry: u32,
}

/// Bit of a probe's cookie: the entry point launches. The lower 32 bits are its number.
pub const COOKIE_LAUNCH: u64 = 1 << 32;

// The probes check the same when they are compiled.
const _: () = assert!(size_of::<Event>() == 64 && core::mem::offset_of!(Event, pid) == 24 && core::mem::offset_of!(Event, comm) == 48);
const _: () = assert!(size_of::<Caller>() == 16 && core::mem::offset_of!(Caller, pid) == 8);
