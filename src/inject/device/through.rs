//! Launches let through for a census, a chunk at a time: each chunk has as many as its session has ranges.

use std::time::Duration;

use cupti_sys::{Cupti, Error};

use super::{GATE, Metered, later};
use crate::{
    counter::session::{Group, Launches, RangeProfiler, Ranges},
    inject::{burst, launch::Launch, meter, subscribe},
    window::clock::monotonic_ns,
};

/// How often the meter looks up while it waits for launches.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// How long a launch that is under way is waited for when the program ends.
const LAST: Duration = Duration::from_millis(200);
/// A program that hardly launches is not waited for: so long, and this for each launch.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(5));

/// What came of a burst.
pub(super) struct Through {
    pub(super) chunks: Vec<Chunk>,
    /// None when the context is gone.
    pub(super) profiler: Option<RangeProfiler>,
    /// Why it ended early, if it did.
    pub(super) why: String,
    /// Launches went through that nobody counted.
    pub(super) lost: bool,
}

/// What came of the launches of one chunk.
pub(super) struct Chunk {
    pub(super) ranges: Launches,
    pub(super) launches: Vec<Launch>,
}

impl Metered {
    /// Switches the counters on, with a range for each launch and room for so many.
    pub(super) fn start_each(&self, cupti: Cupti, counters: &mut Group, room: usize) -> Result<RangeProfiler, Error> {
        // SAFETY: the context is retained by us and alive: it was looked at just now.
        let mut profiler = unsafe { RangeProfiler::enable(cupti, self.ctx, Ranges::Each(room)) }?;
        match profiler.start(counters) {
            Ok(()) => Ok(profiler),
            Err(e) => {
                let _ = profiler.disable();
                Err(e)
            }
        }
    }

    /// Lets launches through, chunk by chunk; the first has begun. No launch goes through when it returns.
    pub(super) fn chunks(&mut self, mut profiler: RangeProfiler, counters: &mut Group, launches: usize, chunk: usize) -> Through {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut left = launches;
        let patience = PATIENCE.0 + PATIENCE.1 * u32::try_from(launches).unwrap_or(u32::MAX);
        let limit_ns = later(monotonic_ns(), patience);
        loop {
            let mut why = self.await_chunk(limit_ns);
            // A program that is on its way out may be so inside a launch: from a signal's handler.
            if !burst::pause(if meter::draining() { LAST } else { GATE }) {
                why = "a launch did not return".to_owned();
            }
            if !self.alive() {
                return Through { chunks, profiler: None, why, lost: true };
            }
            // What was launched is counted when it has run.
            let _ = self.driver.synchronize();
            let collected = profiler.collect(counters);
            let taken = burst::take();
            left = if burst::ended_with_step().is_some() { 0 } else { left.saturating_sub(taken.len()) };
            match collected {
                Ok(ranges) => chunks.push(Chunk { ranges, launches: taken }),
                Err(e) => {
                    self.failed(e.to_string());
                    return Through { chunks, profiler: Some(profiler), why: format!("a part of the census was lost: {e}"), lost: true };
                }
            }
            if left == 0 || !why.is_empty() || chunks.iter().any(|c| c.ranges.dropped > 0) {
                return Through { chunks, profiler: Some(profiler), why, lost: false };
            }
            if let Err(e) = profiler.start(counters) {
                return Through { chunks, profiler: Some(profiler), why: e.to_string(), lost: false };
            }
            burst::allow(chunk.min(left));
        }
    }

    /// Waits until a chunk's launches are through: empty, or why it is waited for no longer.
    fn await_chunk(&self, limit_ns: u64) -> String {
        loop {
            let why = if burst::used_up(LOOK) {
                ""
            } else if meter::draining() {
                "the program ended in it"
            } else if subscribe::wanted() {
                "another tool asked for CUPTI's subscription"
            } else if monotonic_ns() > limit_ns {
                "the program launches too rarely"
            } else if !self.alive() {
                "the program reset its device"
            } else {
                continue;
            };
            return why.to_owned();
        }
    }
}
