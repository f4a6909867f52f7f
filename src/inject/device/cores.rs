//! A census of what the CUDA cores execute.
//!
//! Their counters are patched into the program's code and fit no pass beside a tensor path, so they have a burst of their own: it follows a census while launches
//! still wait, and is of as many launches. What these execute on the tensor cores is not counted then. It is known from the census, launch by launch: if they are the same
//! launches in the same order (whole steps), or by kernel, grid, block and what came before. If one of them is not known, the burst's window says so and has no operations.

use cupti_sys::{Cupti, Error};

use super::{
    Metered,
    through::{Chunk, Through},
    told::Told,
};
use crate::{
    counter::session::{Group, RangeProfiler},
    evidence::record::{Boundary, Kernels, Record, Tier, Window},
    inject::{
        burst,
        planner::Planned,
        roster::{Known, Trail},
    },
    window::clock::monotonic_ns,
};

/// Why a window has operations that were not counted in it.
const INSTEAD: &str = "the CUDA cores were counted: tensor operations are those of the same launches in a census";

/// A burst, before its counts are read.
pub(super) struct CoreBurst {
    counters: Group,
    chunks: Vec<Chunk>,
    start_ns: u64,
    pub(super) end_ns: u64,
    took_before_ns: u64,
    why: String,
    /// Launches went through that nobody counted.
    lost: bool,
}

impl Metered {
    /// Counts so many launches again, or as many steps, while all wait: none if the counters cannot be had, and says why. The profiler is gone when the context is: then it is an error.
    pub(super) fn count_cores(&mut self, cupti: Cupti, planned: &Planned, launches: usize, chunk: usize) -> Result<Option<CoreBurst>, ()> {
        let before_ns = monotonic_ns();
        let started = Group::cores(&planned.host).and_then(|mut counters| Ok((self.start_each(cupti, &mut counters, chunk)?, counters)));
        let (profiler, mut counters): (RangeProfiler, Group) = match started {
            Ok(started) => started,
            Err(e) => {
                self.tell_no_cores(format!("CUDA cores not counted: {e}"));
                return Ok(None);
            }
        };
        let start_ns = monotonic_ns();
        burst::allow(chunk.min(launches));
        let Through { chunks, profiler, why, lost } = self.chunks(profiler, &mut counters, launches, chunk);
        let Some(profiler) = profiler else { return Err(()) };
        let _ = profiler.disable();
        let end_ns = monotonic_ns();
        let through: usize = chunks.iter().map(|c| c.launches.len()).sum();
        if through > 0 && why.is_empty() {
            self.budget.learn_cores(through, end_ns - before_ns);
        }
        Ok(Some(CoreBurst { counters, chunks, start_ns, end_ns, took_before_ns: start_ns - before_ns, why, lost }))
    }

    fn tell_no_cores(&mut self, why: String) {
        self.censuses.no_cores = true;
        self.out.push(Record::Kernels(Box::new(Kernels { device: self.ordinal, cores: true, why, ..Kernels::default() })));
    }

    /// Puts a burst into the evidence. `census`: the launches of the census before it, key and row, its window, and its SM cycles.
    pub(super) fn tell_cores(
        &mut self,
        planned: &Planned,
        burst: CoreBurst,
        step: Option<usize>,
        census: (&[(u64, u32)], u64, Option<u64>),
    ) {
        let CoreBurst { counters, chunks, start_ns, end_ns, took_before_ns, why, lost } = burst;
        let dropped: usize = chunks.iter().map(|c| c.ranges.dropped).sum();
        let keys: Vec<u64> = chunks.iter().flat_map(|c| &c.launches).map(|l| l.place.key()).collect();
        let counted = chunks.into_iter().map(|c| counters.each(&planned.host, &c.ranges).map(|counts| (c, counts)));
        let told = counted.collect::<Result<Vec<_>, Error>>().map(|chunks| Told::of(chunks, &mut self.censuses.graphs));
        // Launches waited for its Start, and nothing ran.
        let opened = Boundary { gated: true, took_ns: took_before_ns, ..Boundary::default() };
        let tensor = if lost { Err(keys.len()) } else { self.known_operations(&keys, census.0, census.1) };
        let nvml = self.read_nvml();
        let mut window = match tensor {
            Ok(counts) => {
                let cycles = census.2.filter(|_| !census.0.is_empty()).map(|c| c / census.0.len() as u64 * keys.len() as u64);
                Window { counts, cycles, ..self.window(start_ns, end_ns, Tier::Sampled, INSTEAD.to_owned(), opened, nvml) }
            }
            Err(unknown) => {
                let why = format!("the CUDA cores were counted, and {unknown} of {} launches are in no census", keys.len());
                self.window(start_ns, end_ns, Tier::Utilization, why, opened, nvml)
            }
        };
        window.spent = Some(self.budget.spent());
        let mut kernels = Kernels { device: self.ordinal, cores: true, window: Some(window.index), why, ..Kernels::default() };
        match told {
            Ok(told) if dropped == 0 && !lost => {
                kernels.step = step.filter(|_| kernels.why.is_empty()).map(|s| s as u64);
                (kernels.launches, kernels.ranges) = (told.launches, told.ranges);
                if kernels.why.is_empty() {
                    kernels.why = told.why;
                }
                kernels.kernels = told.kernels;
            }
            Ok(_) if lost => {}
            Ok(_) => kernels.why = format!("CUDA cores not counted: {dropped} launches found no room"),
            Err(e) => kernels.why = format!("CUDA cores not counted: {e}"),
        }
        self.censuses.no_cores = kernels.kernels.is_empty();
        self.out.push(Record::Window(Box::new(window)));
        self.out.push(Record::Kernels(Box::new(kernels)));
    }

    /// What launches of these keys execute on the tensor cores, or how many of them are not known.
    fn known_operations(
        &self,
        keys: &[u64],
        census: &[(u64, u32)],
        window: u64,
    ) -> Result<std::collections::BTreeMap<String, u128>, usize> {
        let roster = self.rolls.roster();
        let same = keys.len() == census.len() && keys.iter().zip(census).all(|(key, (other, _))| key == other);
        let mut trail = Trail::default();
        census.iter().for_each(|(key, _)| _ = trail.step(*key));
        let (mut sum, mut unknown) = (std::collections::BTreeMap::new(), 0);
        for (i, key) in keys.iter().enumerate() {
            let context = trail.step(*key);
            let row = match roster.find(*key, context) {
                _ if same => Some((window, census[i].1)),
                Known::Row(row) => Some(row),
                Known::OneOf(_) | Known::No => None,
            };
            match row.and_then(|row| roster.executed(*key, row)) {
                Some(executed) => executed.iter().for_each(|(path, n)| *sum.entry(path.clone()).or_insert(0) += n),
                None => unknown += 1,
            }
        }
        if unknown == 0 { Ok(sum) } else { Err(unknown) }
    }
}
