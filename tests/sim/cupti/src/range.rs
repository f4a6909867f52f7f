//! The range profiler.
//!
//! A counter data image is a text: a magic line, then a line a range, `metric=value` words. What it does not hold is NaN.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CStr, c_char, c_void},
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::Instant,
};

use cupti_sys::raw::{self, AUTO_RANGE};

use crate::{HARDWARE_BUSY, INVALID_OPERATION, INVALID_PARAMETER, OK, cupti, host, link::link, metric, shared, takes_ms};

pub(crate) const MAGIC: &str = "stand-in counter data\n";
/// The word of a range's line that says whose counts these are.
pub(crate) const DEVICE: &str = "device";
/// Room for a range in an image.
const RANGE_BYTES: usize = 4096;

#[derive(Default)]
struct Profiler {
    ctx: usize,
    device: usize,
    /// The configuration of the first Start: it stays for life.
    first: Option<Vec<String>>,
    config: Option<(Vec<String>, usize, usize, bool, usize)>,
    sized: bool,
    image_ready: bool,
    started: bool,
    stopped: bool,
    pushed: Option<Instant>,
    /// Ranges that were closed: seconds and FLOP by path.
    ranges: Vec<(f64, BTreeMap<String, u64>)>,
}

static PROFILERS: Mutex<Option<HashMap<usize, Profiler>>> = Mutex::new(None);

fn with<T>(object: *mut c_void, f: impl FnOnce(&mut Profiler) -> Result<T, u32>) -> Result<T, u32> {
    let mut profilers = PROFILERS.lock().unwrap_or_else(PoisonError::into_inner);
    f(profilers.get_or_insert_default().get_mut(&(object as usize)).ok_or(INVALID_PARAMETER)?)
}

fn answer(result: Result<(), u32>) -> u32 {
    result.err().unwrap_or(OK)
}

fn pid() -> i32 {
    // SAFETY: no preconditions.
    unsafe { libc::getpid() }
}

/// Whether a process is there and has not ended, waited for or not.
fn runs(pid: i32) -> bool {
    // SAFETY: signal 0 only asks.
    let there = unsafe { libc::kill(pid, 0) } == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    there && !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Takes a GPU's counters, from a process that has ended too. There is no descriptor to it, as the kernel's own lock has none.
pub(crate) fn own(device: usize) -> bool {
    let owner = &shared::activity()[device].owner;
    match owner.compare_exchange(0, pid(), Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => true,
        Err(other) if other == pid() => true,
        Err(other) => !runs(other) && owner.compare_exchange(other, pid(), Ordering::SeqCst, Ordering::SeqCst).is_ok(),
    }
}

/// What a context's end does: the GPU's counters are free for others, and its profilers go with it. One that had started stays in the way of the device's next (seen on an H200).
pub(crate) fn context_ends(ctx: usize) {
    let mut profilers = PROFILERS.lock().unwrap_or_else(PoisonError::into_inner);
    profilers.get_or_insert_default().retain(|_, profiler| {
        if profiler.ctx != ctx {
            return true;
        }
        if profiler.started {
            disown(profiler.device);
        }
        (profiler.ctx, profiler.started) = (0, false);
        profiler.first.is_some()
    });
}

pub(crate) fn disown(device: usize) {
    let _ = shared::activity()[device].owner.compare_exchange(pid(), 0, Ordering::SeqCst, Ordering::SeqCst);
}

extern "C" fn take(user: *mut c_void, range: usize, path: *const c_char, flop: u64) {
    // SAFETY: the user data is the vector that was handed over with this function; the path ends in NUL.
    let (ranges, path) = unsafe { (&mut *user.cast::<Vec<BTreeMap<String, u64>>>(), CStr::from_ptr(path).to_string_lossy().into_owned()) };
    if ranges.len() <= range {
        ranges.resize(range + 1, BTreeMap::new());
    }
    if !path.is_empty() {
        *ranges[range].entry(path).or_insert(0) += flop;
    }
}

cupti! {
    fn cuptiRangeProfilerEnable(p: raw::RangeProfilerEnable) {
        let Some(link) = link() else { return INVALID_OPERATION };
        let device = (link.device_of)(p.ctx);
        let Ok(device) = usize::try_from(device) else { return raw::CuptiResult::INVALID_CONTEXT.0 };
        let mut profilers = PROFILERS.lock().unwrap_or_else(PoisonError::into_inner);
        let profilers = profilers.get_or_insert_default();
        let handle = profilers.keys().max().copied().unwrap_or(0x10) + 16;
        profilers.insert(handle, Profiler { ctx: p.ctx as usize, device, ..Profiler::default() });
        p.object = handle as _;
        OK
    }
    fn cuptiRangeProfilerDisable(p: raw::RangeProfilerDisable) {
        takes_ms(11);
        let gone = PROFILERS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().remove(&(p.object as usize));
        if let Some(gone) = gone && gone.first.is_some() { disown(gone.device); }
        OK
    }
    fn cuptiRangeProfilerGetCounterDataSize(p: raw::RangeProfilerGetCounterDataSize) {
        p.counter_data_size = MAGIC.len() + (p.max_num_of_ranges + 1) * RANGE_BYTES;
        answer(with(p.object, |o| { o.sized = true; Ok(()) }))
    }
    fn cuptiRangeProfilerCounterDataImageInitialize(p: raw::RangeProfilerCounterDataImageInitialize) {
        if p.counter_data_size < MAGIC.len() + 1 { return INVALID_PARAMETER; }
        std::ptr::write_bytes(p.counter_data, 0, p.counter_data_size);
        std::ptr::copy_nonoverlapping(MAGIC.as_ptr(), p.counter_data, MAGIC.len());
        answer(with(p.object, |o| {
            if !o.sized {
                eprintln!("stand-in libcupti: an image for a profiler that was not asked for its size crashes the real library");
                std::process::abort();
            }
            o.image_ready = true;
            Ok(())
        }))
    }
    fn cuptiRangeProfilerSetConfig(p: raw::RangeProfilerSetConfig) {
        let metrics = host::metrics_of(p.config, p.config_size);
        if host::is_for_sampling(p.config, p.config_size) { return INVALID_PARAMETER; }
        answer(with(p.object, |o| {
            if o.started || !o.image_ready { return Err(INVALID_OPERATION); }
            o.config = Some((metrics, p.counter_data_image as usize, p.counter_data_image_size, p.range == AUTO_RANGE, p.max_ranges_per_pass));
            Ok(())
        }))
    }
    fn cuptiRangeProfilerStart(p: raw::RangeProfilerStart) {
        let first = match with(p.object, |o| {
            if o.started || o.config.is_none() { return Err(INVALID_OPERATION); }
            // Two profilers at once: the real one refuses the second.
            Ok((o.first.is_none(), o.device, o.ctx))
        }) { Ok(f) => f, Err(code) => return code };
        let others = PROFILERS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().iter().any(|(h, o)| *h != p.object as usize && o.device == first.1 && o.first.is_some());
        if others { return INVALID_PARAMETER; }
        // Of several GPUs' contexts some copies of CUPTI start only the current one.
        let current = shared::setting("FLOPSPROF_SIM_CURRENT").is_none() || link().is_none_or(|l| l.current() as usize == first.2);
        if !current { return INVALID_PARAMETER; }
        if !own(first.1) { return HARDWARE_BUSY; }
        let each = with(p.object, |o| Ok(o.config.as_ref().filter(|c| c.3).map(|c| c.4))).ok().flatten();
        takes_ms(match each {
            // 0.3 s and 1.1 ms for each range there is room for.
            Some(room) => 300 + room as u64 * 11 / 10,
            None if first.0 => 160,
            None => 20,
        });
        answer(with(p.object, |o| {
            let config = o.config.as_ref().map(|c| c.0.clone()).unwrap_or_default();
            o.first.get_or_insert(config);
            (o.started, o.stopped) = (true, false);
            o.ranges.clear();
            if o.config.as_ref().is_some_and(|c| c.3) {
                if let Some(link) = link() { (link.range_open)(o.ctx as _, 1); }
                o.pushed = Some(Instant::now());
            }
            Ok(())
        }))
    }
    fn cuptiRangeProfilerPushRange(p: raw::RangeProfilerPushRange) {
        takes_ms(1);
        answer(with(p.object, |o| {
            if !o.started {
                eprintln!("stand-in libcupti: PushRange without a Start that worked kills the context on a real GPU");
                std::process::abort();
            }
            if o.pushed.is_some() { return Err(INVALID_OPERATION); }
            if let Some(link) = link() { (link.range_open)(o.ctx as _, 0); }
            o.pushed = Some(Instant::now());
            Ok(())
        }))
    }
    fn cuptiRangeProfilerPopRange(p: raw::RangeProfilerPopRange) {
        takes_ms(1);
        answer(with(p.object, close))
    }
    fn cuptiRangeProfilerStop(p: raw::RangeProfilerStop) {
        takes_ms(7);
        p.is_all_pass_submitted = 1;
        answer(with(p.object, |o| {
            if !o.started { return Err(INVALID_OPERATION); }
            if o.pushed.is_some() { close(o)?; }
            // The counters stay this process's until Disable.
            (o.started, o.stopped) = (false, true);
            Ok(())
        }))
    }
    fn cuptiRangeProfilerDecodeData(p: raw::RangeProfilerDecodeData) {
        answer(with(p.object, |o| {
            // Before Stop there is nothing to decode, and that is no error.
            if !o.stopped { return Ok(()); }
            let Some((_, image, size, each, most)) = o.config.take() else { return Err(INVALID_OPERATION) };
            o.image_ready = false;
            p.num_of_range_dropped = o.ranges.len().saturating_sub(most);
            let metrics = o.first.clone().unwrap_or_default();
            let one_pass = metric::passes(&metrics) == 1;
            let mut text = MAGIC.to_owned();
            for (seconds, flop) in o.ranges.iter().take(most) {
                let words: Vec<String> = metrics.iter().map(|m| {
                    // A launch's own time is 2 us and what its operations take, as the stand-in's libcuda has it.
                    let seconds = if each { 2e-6 + flop.values().sum::<u64>() as f64 / flops() } else { *seconds };
                    let value = if m.starts_with("sm__cycles_elapsed") { seconds * 1.98e9 }
                        else if m.starts_with("gpu__time_duration") { seconds * 1e9 }
                        else if one_pass { flop.iter().filter(|(path, _)| metric::counts(m, path)).map(|(_, n)| *n).sum::<u64>() as f64 }
                        else { f64::NAN };
                    format!("{}={value:?}", metric::base_of(m))
                }).collect();
                text += &format!("{} {DEVICE}={}\n", words.join(" "), o.device);
            }
            if text.len() < size { unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), image as *mut u8, text.len()) }; }
            Ok(())
        }))
    }
    fn cuptiRangeProfilerGetCounterDataInfo(p: raw::RangeProfilerGetCounterDataInfo) {
        p.num_total_ranges = text(p.counter_data_image, p.counter_data_image_size).map_or(0, |t| t.lines().count());
        OK
    }
}

/// The device's speed, as the stand-in's libcuda has it.
fn flops() -> f64 {
    shared::setting("FLOPSPROF_SIM_FLOPS").and_then(|v| v.parse().ok()).unwrap_or(1e15)
}

/// Closes the open ranges. Between launches that are counted one by one there is none.
fn close(o: &mut Profiler) -> Result<(), u32> {
    let Some(opened) = o.pushed.take() else { return Err(INVALID_OPERATION) };
    let mut ranges: Vec<BTreeMap<String, u64>> = Vec::new();
    if let Some(link) = link() {
        (link.range_close)(o.ctx as _, (&raw mut ranges).cast(), take);
    }
    let seconds = opened.elapsed().as_secs_f64();
    let each = o.config.as_ref().is_some_and(|c| c.3);
    if ranges.is_empty() && !each {
        ranges.push(BTreeMap::new());
    }
    o.ranges.extend(ranges.into_iter().map(|r| (seconds, r)));
    Ok(())
}

/// What stands in an image, as long as it is there.
pub(crate) unsafe fn text<'a>(image: *const u8, size: usize) -> Option<&'a str> {
    let length = libc::strnlen(image.cast(), size);
    std::str::from_utf8(std::slice::from_raw_parts(image, length)).ok()?.strip_prefix(MAGIC)
}

/// The value of a metric in a range of a decoded image; NaN for one it does not hold; none for what is no image.
pub(crate) unsafe fn value(image: *const u8, size: usize, range: usize, name: &str) -> Option<f64> {
    let text = text(image, size)?;
    let line = text.lines().nth(range)?;
    let base = metric::base_of(name);
    let word = line.split(' ').find_map(|w| w.strip_prefix(base)?.strip_prefix('='));
    Some(word.and_then(|v| v.parse().ok()).unwrap_or(f64::NAN))
}
