//! What a GPU's libraries in several processes share: how much it has executed. A small file per GPU, mapped by all.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

/// Devices that a stand-in can have.
pub(crate) const DEVICES: usize = 8;

/// A device's UUID: `flopsim`, the machine's serial number (`FLOPSPROF_SIM_SERIAL`, 0 by default), the ordinal. Jobs on one GPU meet by it, so tests
/// that run at the same time take serial numbers of their own.
pub(crate) fn uuid(device: usize) -> [u8; 16] {
    let serial: u64 = setting("FLOPSPROF_SIM_SERIAL").and_then(|v| v.parse().ok()).unwrap_or(0);
    let mut bytes = [0; 16];
    bytes[..7].copy_from_slice(b"flopsim");
    bytes[7..15].copy_from_slice(&serial.to_be_bytes());
    bytes[15] = u8::try_from(device).unwrap_or(0);
    bytes
}

/// One device.
#[repr(C)]
pub(crate) struct Activity {
    /// FLOP executed, in units of 2^20, by all processes.
    pub(crate) mflop: AtomicU64,
    /// Nanoseconds busy.
    pub(crate) busy_ns: AtomicU64,
    /// The process that owns its counters; 0: none does.
    pub(crate) owner: AtomicI32,
}

/// The folder of the stand-in's state.
pub(crate) fn folder() -> PathBuf {
    // SAFETY: no preconditions.
    let uid = unsafe { libc::getuid() };
    let folder = setting("FLOPSPROF_SIM_DIR").map_or_else(|| std::env::temp_dir().join(format!("flopsprof-sim-{uid}")), PathBuf::from);
    let _ = fs::create_dir_all(&folder);
    folder
}

/// Processes that can be on the devices at once; more are not listed. (The file stays small: tests limit how large files may be.)
const PROCESSES: usize = 48;

/// One process.
#[repr(C)]
pub(crate) struct Process {
    /// Its id, as it sees it; 0: the place is free.
    pub(crate) pid: AtomicU32,
    /// Devices on which it has a context: a bit each.
    pub(crate) contexts: AtomicU32,
    /// Nanoseconds busy, by device.
    pub(crate) busy_ns: [AtomicU64; DEVICES],
}

/// What is shared.
#[repr(C)]
struct All {
    devices: [Activity; DEVICES],
    processes: [Process; PROCESSES],
}

/// The devices' activity.
pub(crate) fn activity() -> &'static [Activity; DEVICES] {
    &all().devices
}

/// The processes, those that are gone included.
#[allow(dead_code, reason = "NVML lists them")]
pub(crate) fn processes() -> &'static [Process; PROCESSES] {
    &all().processes
}

pub(crate) fn alive(pid: u32) -> bool {
    // SAFETY: signal 0 only asks.
    unsafe { libc::kill(pid.cast_signed(), 0) == 0 || *libc::__errno_location() == libc::EPERM }
}

/// This process's place; none where too many others live.
#[allow(dead_code, reason = "libcuda fills it")]
pub(crate) fn own() -> Option<&'static Process> {
    // Where it was the last time, unless this is a child by now.
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let pid = std::process::id();
    let places = &all().processes;
    let last = &places[LAST.load(Ordering::Relaxed)];
    if last.pid.load(Ordering::Relaxed) == pid {
        return Some(last);
    }
    let claimed = places.iter().position(|place| {
        if place.pid.load(Ordering::Relaxed) == pid {
            return true;
        }
        let before = place.pid.load(Ordering::Relaxed);
        let free = before == 0 || !alive(before);
        if !free || place.pid.compare_exchange(before, pid, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        place.contexts.store(0, Ordering::Relaxed);
        place.busy_ns.iter().for_each(|b| b.store(0, Ordering::Relaxed));
        true
    })?;
    LAST.store(claimed, Ordering::Relaxed);
    Some(&places[claimed])
}

fn all() -> &'static All {
    static MAP: OnceLock<&'static All> = OnceLock::new();
    MAP.get_or_init(|| {
        let size = size_of::<All>();
        let open = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder().join("activity")).ok()?;
            // A file of the right length is not touched: the process may be forbidden to write so far.
            if file.metadata().ok()?.len() < size as u64 {
                file.set_len(size as u64).ok()?;
            }
            Some(file)
        };
        let (file, prot) = (open(), libc::PROT_READ | libc::PROT_WRITE);
        // A process that may have no such file has a GPU of its own.
        let (flags, fd) = file.as_ref().map_or((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1), |f| (libc::MAP_SHARED, f.as_raw_fd()));
        // SAFETY: a mapping of zeros, or of a file that is long enough and never shrinks; atomics are valid for any bytes.
        unsafe {
            let map = libc::mmap(std::ptr::null_mut(), size, prot, flags, fd, 0);
            assert_ne!(map, libc::MAP_FAILED, "mapping the stand-in's activity");
            &*map.cast()
        }
    })
}

/// A setting of the stand-in's: a variable as it was when the process began. A program may change its environment while any of its threads asks for one.
pub(crate) fn setting(name: &str) -> Option<String> {
    static BEGUN: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    let begun = BEGUN.get_or_init(|| {
        let Ok(block) = fs::read("/proc/self/environ") else { return std::env::vars().collect() };
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let pair = |v: &[u8]| v.iter().position(|b| *b == b'=').map(|at| (text(&v[..at]), text(&v[at + 1..])));
        block.split(|b| *b == 0).filter_map(pair).collect()
    });
    begun.get(name).cloned()
}
