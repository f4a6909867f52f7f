//! The range profiler on one context.
//!
//! ```text
//! enable ─> prepare(group) ─> ┌ image, SetConfig, Start, Push ┐ open
//!                             └ Pop, Stop, Decode             ┘ close ─> counts (Evaluate) … ─> disable
//! ```
//! `UserRange` + `UserReplay` with one pass: everything the context runs between Push and Pop is counted, kernels stay concurrent, nothing is run
//! twice. Values are readable only after Stop and Decode, and image and configuration must be renewed before the next Start.
//!
//! [`Ranges::Each`] is the census's way: `AutoRange` + `UserReplay`, every launch between Start and Stop a range of its own, in the order of the launches, with
//! no Push and no Pop. Kernels run one after the other then, at some 1.1 ms a launch, and a Start costs 0.3 s + 1.1 ms for each range that there
//! is room for. Launches beyond that room are not counted: [`Launches::dropped`] says how many.
//!
//! A profiler that was never asked for its image's size crashes when an image is initialised for it. It keeps the configuration of its first Start for life: with another group's, that group's own paths read NaN. So another group takes
//! another profiler, and only one may be enabled: a second one's Start answers INVALID_PARAMETER, and a Push after that kills the
//! program's context.
//!
//! The GPU's counters are this process's from the first Start to Disable: Stop does not give them back.
//!
//! Measured on one H200 (CUPTI 13.0.85, driver 580.159): Enable 0.02 ms, first Start of a profiler 160 ms (680 ms once, on a machine that had
//! just started), later ones 20 ms, Push 0.4 ms, Pop 0.5 ms once the GPU is idle (it waits for what was launched), Stop 6.5 ms, Decode
//! under 0.1 ms, Disable 11 ms.

use std::{collections::BTreeMap, ffi::CString};

use cupti_sys::{
    Cupti, Error,
    raw::{self, AUTO_RANGE, CUcontext, Params, USER_RANGE, USER_REPLAY},
};

use super::{
    host::{Config, Host, MOST_IMAGE, c_string, pointers, sensible},
    plan::{CORES, CYCLES, DURATION, SPARSE},
};
use crate::{evidence::sense::PEAK, window::clock::monotonic_ns};

/// The ranges of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// One, between Push and Pop.
    One,
    /// One for each launch; this many at most between Start and Stop.
    Each(usize),
}

impl Ranges {
    /// What there must be room for.
    fn most(self) -> usize {
        match self {
            Self::One => 1,
            Self::Each(most) => most.max(1),
        }
    }
}

/// A group of counters, ready to be switched on.
#[derive(Debug)]
pub struct Group {
    /// Path metrics, base names.
    paths: Vec<String>,
    /// What is evaluated: each path's `.sum`; then cycles and duration, if they fit; then the sparse part of paths that have one, if they fit.
    metrics: Vec<CString>,
    /// How many of them are cycles and duration.
    others: usize,
    /// The paths whose sparse part is evaluated.
    sparse: Vec<String>,
    config: Config,
    /// The counter data image of the open range.
    image: Vec<u8>,
    /// That of the range that was collected last.
    done: Vec<u8>,
    /// One that is free for the next range: the collected one is evaluated when the next range is open already.
    free: Vec<u8>,
}

impl Group {
    /// Builds the configuration of a group of paths (base names), with the cycle counter beside them where it fits.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn new(host: &Host, paths: &[String]) -> Result<Self, Error> {
        Self::beside(host, paths, &[CYCLES])
    }

    /// As [`Group::new`], with the duration beside it too where it fits: for ranges of single launches.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn timed(host: &Host, paths: &[String]) -> Result<Self, Error> {
        Self::beside(host, paths, &[CYCLES, DURATION])
    }

    /// The counters of the CUDA cores, [`CORES`], as far as the chip has them, for ranges of single launches.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn cores(host: &Host) -> Result<Self, Error> {
        let has = host.base_metrics()?;
        let metrics: Vec<String> = CORES.iter().map(|(m, _)| (*m).to_owned()).filter(|m| has.contains(m)).collect();
        Self::beside(host, &metrics, &[DURATION])
    }

    /// A group with as many of the `others` beside it, from the first on, as one pass can read, and then of its paths' sparse parts.
    fn beside(host: &Host, paths: &[String], others: &[&str]) -> Result<Self, Error> {
        let has = host.base_metrics().unwrap_or_default();
        let mut sparse: Vec<String> = paths.iter().filter(|p| has.contains(&format!("{p}{SPARSE}"))).cloned().collect();
        let mut metrics: Vec<CString> = paths.iter().map(|p| c_string(&format!("{p}.sum"))).collect();
        metrics.extend(others.iter().map(|m| c_string(m)));
        metrics.extend(sparse.iter().map(|p| c_string(&format!("{p}{SPARSE}.sum"))));
        let config = loop {
            match host.config(&metrics) {
                Ok(config) if config.passes == 1 => break config,
                _ if metrics.len() > paths.len() => {
                    metrics.pop();
                }
                other => break other?,
            }
        };
        let others = others.len().min(metrics.len() - paths.len());
        sparse.truncate(metrics.len() - paths.len() - others);
        Ok(Self { paths: paths.to_vec(), metrics, others, sparse, config, image: Vec::new(), done: Vec::new(), free: Vec::new() })
    }

    /// The paths of the group.
    #[must_use]
    pub fn paths(&self) -> &[String] {
        &self.paths
    }
}

/// What one range counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// FLOP per path metric.
    pub paths: BTreeMap<String, u128>,
    /// Paths whose value was no number: not counted, although their group was on.
    pub invalid: Vec<String>,
    /// SM cycles that passed.
    pub cycles: Option<u64>,
    /// Time that passed, where the group counts it.
    pub ns: Option<u64>,
    /// FLOP of `paths` that were 2:4 sparse, where the chip tells them apart.
    pub sparse: BTreeMap<String, u128>,
}

/// What a session of [`Ranges::Each`] brought.
#[derive(Debug)]
pub struct Launches {
    image: Vec<u8>,
    /// Ranges for which there was no room.
    pub dropped: usize,
}

/// The range profiler of one context.
#[derive(Debug)]
pub struct RangeProfiler {
    cupti: Cupti,
    object: raw::RangeProfilerObject,
    ranges: Ranges,
    /// Size of an image; 0 before it was asked.
    image_size: usize,
    /// Time inside the calls in which the driver lets nobody launch.
    inside_ns: u64,
}

// SAFETY: used by the meter's one thread; CUPTI does not tie the object to the thread that made it.
unsafe impl Send for RangeProfiler {}

impl RangeProfiler {
    /// Makes one.
    ///
    /// # Errors
    /// CUPTI's answer.
    ///
    /// # Safety
    /// `ctx` must be a live context, and stay so until [`RangeProfiler::disable`] or for ever.
    pub unsafe fn enable(cupti: Cupti, ctx: CUcontext, ranges: Ranges) -> Result<Self, Error> {
        let mut p = raw::RangeProfilerEnable::sized();
        p.ctx = ctx;
        // SAFETY: the context is live, by the caller's promise.
        unsafe { cupti.range_profiler_enable(&mut p)? };
        Ok(Self { cupti, object: p.object, ranges, image_size: 0, inside_ns: 0 })
    }

    /// Frees it. Not done on drop: a context that the program destroyed must not be touched again.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn disable(self) -> Result<(), Error> {
        let mut p = raw::RangeProfilerDisable::sized();
        p.object = self.object;
        // SAFETY: the object is live and not used again.
        unsafe { self.cupti.range_profiler_disable(&mut p) }
    }

    /// Switches a group on and opens the range: from the return on, what is launched is counted.
    ///
    /// # Errors
    /// CUPTI's answer; `HARDWARE_BUSY` when another process owns the counters. The session is then closed again.
    pub fn open(&mut self, group: &mut Group) -> Result<(), Error> {
        self.start(group)?;
        self.push()
    }

    /// Switches a group on. Nothing is counted before [`RangeProfiler::push`].
    ///
    /// # Errors
    /// CUPTI's answer; `HARDWARE_BUSY` when another process owns the counters.
    pub fn start(&mut self, group: &mut Group) -> Result<(), Error> {
        self.prepare(group)?;
        let start = monotonic_ns();
        let mut p = raw::RangeProfilerStart::sized();
        p.object = self.object;
        // SAFETY: the object is live and configured.
        unsafe { self.cupti.range_profiler_start(&mut p)? };
        self.inside_ns += monotonic_ns() - start;
        Ok(())
    }

    /// Opens the range. Only after a [`RangeProfiler::start`] that worked: a Push without kills the program's context.
    ///
    /// # Errors
    /// CUPTI's answer. The session is then closed again.
    pub fn push(&mut self) -> Result<(), Error> {
        let start = monotonic_ns();
        let mut p = raw::RangeProfilerPushRange::sized();
        p.object = self.object;
        p.range_name = c"window".as_ptr();
        // SAFETY: the object is live and started, the name is a constant.
        let pushed = unsafe { self.cupti.range_profiler_push_range(&mut p) };
        self.inside_ns += monotonic_ns() - start;
        pushed.inspect_err(|_| {
            let _ = self.stop();
        })
    }

    /// Ends the range and the session and brings what was counted into the group's image. Returns when the range ended: from then on, what is
    /// launched is not counted.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn close(&mut self, group: &mut Group) -> (u64, Result<(), Error>) {
        let mut p = raw::RangeProfilerPopRange::sized();
        p.object = self.object;
        // SAFETY: the object is live.
        let popped = unsafe { self.cupti.range_profiler_pop_range(&mut p) };
        let ended = monotonic_ns();
        // Stop even if Pop failed: the counters must not stay taken.
        let stopped = self.stop();
        self.inside_ns = monotonic_ns() - ended;
        let decoded = stopped.and_then(|()| self.decode());
        group.done = std::mem::take(&mut group.image);
        (ended, popped.and(decoded).map(|_| ()))
    }

    /// Ends a session of [`Ranges::Each`].
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn collect(&mut self, group: &mut Group) -> Result<Launches, Error> {
        let dropped = self.stop().and_then(|()| self.decode())?;
        Ok(Launches { image: std::mem::take(&mut group.image), dropped })
    }

    /// Brings what was counted into the image; ranges for which there was no room.
    fn decode(&self) -> Result<usize, Error> {
        let mut p = raw::RangeProfilerDecodeData::sized();
        p.object = self.object;
        // SAFETY: the object is live; its image is the group's, which outlives the session.
        unsafe { self.cupti.range_profiler_decode_data(&mut p)? };
        Ok(p.num_of_range_dropped)
    }

    /// Time spent, since the range was closed, inside calls in which nobody can launch.
    #[must_use]
    pub fn inside_ns(&self) -> u64 {
        self.inside_ns
    }

    /// Ends the session, as [`RangeProfiler::close`] does, when nothing was pushed.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn stop(&self) -> Result<(), Error> {
        let mut p = raw::RangeProfilerStop::sized();
        p.object = self.object;
        // SAFETY: the object is live.
        unsafe { self.cupti.range_profiler_stop(&mut p) }
    }

    /// Renews a group's image and hands both to the profiler.
    fn prepare(&mut self, group: &mut Group) -> Result<(), Error> {
        if self.image_size == 0 {
            let names = pointers(&group.metrics);
            let mut p = raw::RangeProfilerGetCounterDataSize::sized();
            p.object = self.object;
            p.metric_names = names.as_ptr();
            p.num_metrics = names.len();
            p.max_num_of_ranges = self.ranges.most();
            p.max_num_range_tree_nodes = u32::try_from(self.ranges.most()).unwrap_or(u32::MAX);
            // SAFETY: the object is live, the names outlive the call.
            unsafe { self.cupti.range_profiler_get_counter_data_size(&mut p)? };
            self.image_size = sensible("cuptiRangeProfilerGetCounterDataSize", p.counter_data_size, MOST_IMAGE)?;
        }
        group.image = std::mem::take(&mut group.free);
        group.image.resize(self.image_size, 0);
        let mut p = raw::RangeProfilerCounterDataImageInitialize::sized();
        p.object = self.object;
        p.counter_data_size = group.image.len();
        p.counter_data = group.image.as_mut_ptr();
        // SAFETY: the buffer is as long as said.
        unsafe { self.cupti.range_profiler_counter_data_image_initialize(&mut p)? };

        let mut p = raw::RangeProfilerSetConfig::sized();
        p.object = self.object;
        p.config_size = group.config.image.len();
        p.config = group.config.image.as_ptr();
        p.counter_data_image_size = group.image.len();
        p.counter_data_image = group.image.as_mut_ptr();
        p.range = if self.ranges == Ranges::One { USER_RANGE } else { AUTO_RANGE };
        p.replay_mode = USER_REPLAY;
        p.max_ranges_per_pass = self.ranges.most();
        p.num_nesting_levels = 1;
        p.min_nesting_level = 1;
        p.pass_index = 0;
        p.target_nesting_level = 0;
        // SAFETY: both images are as long as said and outlive the session: the group is owned by the meter and its vectors do not move.
        unsafe { self.cupti.range_profiler_set_config(&mut p) }
    }
}

impl Group {
    /// What the last collected range counted. Call it once for each.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn counts(&mut self, host: &Host) -> Result<Counts, Error> {
        self.free = std::mem::take(&mut self.done);
        self.range(host, &self.free, 0)
    }

    /// What each launch of a session counted, in their order.
    ///
    /// # Errors
    /// CUPTI's answer.
    pub fn each(&self, host: &Host, launches: &Launches) -> Result<Vec<Counts>, Error> {
        (0..host.ranges(&launches.image)?).map(|range| self.range(host, &launches.image, range)).collect()
    }

    /// What one range of a decoded image counted.
    fn range(&self, host: &Host, image: &[u8], range: usize) -> Result<Counts, Error> {
        let values = host.evaluate(image, range, &self.metrics)?;
        let mut counts = Counts::default();
        for (path, value) in self.paths.iter().zip(&values) {
            match whole(*value) {
                Some(n) => {
                    counts.paths.insert(path.clone(), n);
                }
                None => counts.invalid.push(path.clone()),
            }
        }
        let (others, sparse) = values[self.paths.len()..].split_at(self.others);
        let other = |n: usize| others.get(n).and_then(|v| whole(*v)).and_then(|n| u64::try_from(n).ok());
        (counts.cycles, counts.ns) = (other(0), other(1));
        counts.sparse = self.sparse.iter().zip(sparse).filter_map(|(path, value)| Some((path.clone(), whole(*value)?))).collect();
        Ok(counts)
    }

    /// FLOP per SM cycle of each path at the chip's dense peak, whole device, as CUPTI's model of the chip has it. CUPTI gives a path that sparse
    /// operations count in the sparse peak, twice the dense one: GH100's wgmma bf16 has 8192 FLOP per multiprocessor and cycle there, and 4096 in
    /// NVIDIA's data sheet and at the most on an H200. Known after [`Group::counts`].
    #[must_use]
    pub fn peaks(&self, host: &Host) -> BTreeMap<String, f64> {
        let names: Vec<CString> = self.paths.iter().map(|p| c_string(&format!("{p}.sum.peak_sustained"))).collect();
        let values = host.evaluate(&self.free, 0, &names).unwrap_or_default();
        let metrics = host.base_metrics().unwrap_or_default();
        let dense =
            |path: &str, peak: f64| if metrics.iter().any(|m| m.strip_prefix(path) == Some("_sparsity_on")) { peak / 2.0 } else { peak };
        let peaks = self.paths.iter().zip(values).filter(|(_, v)| *v > 0.0 && *v <= PEAK);
        peaks.map(|(path, peak)| (path.clone(), dense(path, peak))).collect()
    }
}

/// What no GPU executes in the longest window, a day: ten times the largest of today's in their fastest format. More is no count.
const MOST: f64 = 1e23;

/// A counter's value as an integer. CUPTI hands out doubles: exact up to 2^53, and beyond that still the nearest double to the true count.
/// What is too small to be one and not nothing is no count.
fn whole(value: f64) -> Option<u128> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: a number, not negative, and far below 2^128")]
    (value == 0.0 || (0.5..MOST).contains(&value)).then(|| value.round() as u128)
}
