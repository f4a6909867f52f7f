//! The census: for a bounded burst, every launch is counted by itself.
//!
//! It takes the place of a window. At a gated boundary the window that is open ends, the same group of counters is switched on again with a range a
//! launch ([`Ranges::Each`]), launches are let through one by one ([`burst`]), and then a window of the usual kind begins. The sum over the launches is
//! the census window's count, so nothing is lost and nothing is counted twice: what stands in every group stays counted all the time.
//!
//! ```text
//! window │ gate: Pop Stop Disable │ Start │ launches … │ Stop Decode Start │ launches … │ Stop Disable, Start Push │ window
//!        └ launches wait ─────────────────┘            └ wait ─────────────┘            └ wait ────────────────────┘
//! ```
//! A chunk has as many launches as its session has ranges ([`super::through`]); the next waits for the next Start. Names, grids, blocks and streams are what the launch callbacks
//! told, in the order of the ranges, because only one launch is under way at a time. If launches and ranges do not meet, the chunk's names are dropped and its
//! counts stay. A tool that asks for CUPTI's subscription meanwhile ends the burst and gets it ([`subscribe`]). A graph launch that made several ranges is one row of their sum.
//!
//! Where the program marks its steps, it begins at a mark and ends at one ([`marks`]). When it is taken is decided in [`super::due`]. Whatever goes wrong ends in plain
//! windows, and the evidence says why.

use std::time::Duration;

use cupti_sys::{Cupti, Error};

use super::{
    GATE, Metered, Mode,
    due::STEP,
    later,
    through::{Chunk, Through},
    told::Told,
};
use crate::{
    counter::session::{Counts, Group},
    evidence::record::{Boundary, Kernels, Record, Tier, Window},
    inject::{burst, gate, marks, meter, subscribe},
    window::{
        budget::{self, Cost},
        clock::monotonic_ns,
    },
};

/// Steps that are marked differ: the last one of a census may end so many launches earlier or later than what was heard says, a part of them all.
const LONGER: usize = 4;

impl Metered {
    /// Waits until the program marks the end of a step; none if it does not in time. Its thread waits until what is returned is dropped.
    fn next_mark(&mut self) -> Option<marks::Mark> {
        let until = later(monotonic_ns(), STEP);
        let mark = marks::next(|| monotonic_ns() < until && !meter::draining() && !subscribe::wanted());
        let now = monotonic_ns();
        if matches!(self.mode, Mode::Counting { until_ns, .. } if now > until_ns) {
            self.stretch(now);
        }
        mark
    }

    /// Takes a census of so many launches. `held`: the gate, where it is closed already.
    pub(super) fn census(
        &mut self,
        cupti: Cupti,
        launches: usize,
        step: Option<usize>,
        held: Option<gate::Closed>,
        keep: &mut dyn FnMut(Vec<Record>),
    ) {
        if !self.use_gate {
            return self.skip("no census without a gate (FLOPSPROF_GATE=0)".to_owned());
        }
        let (Mode::Counting { group, .. }, Some(planned)) = (&self.mode, self.planned.clone()) else { return };
        let group = *group;
        let mut counters = match Group::timed(&planned.host, &planned.plan.groups[group]) {
            Ok(counters) => counters,
            Err(e) => return self.failed(e.to_string()),
        };
        let marking = self.censuses.steps_are_marked();
        let mark = if marking && held.is_none() { self.next_mark() } else { None };
        let Mode::Counting { until_ns, .. } = self.mode else { return };
        if !self.alive() {
            // The program reset its device meanwhile: the meter sees that next.
            return;
        }
        // It ends with a step too, where nearly so many launches are through; also one that begins with a launch that no census knows.
        let least = (mark.is_some() || (marking && held.is_some())).then(|| launches - launches / LONGER);
        let launches = if least.is_some() { launches + launches / LONGER } else { launches };
        let chunk = budget::chunk(launches);
        let closed = match held.map_or_else(|| gate::close(cupti, self.ctx, GATE), Ok) {
            Ok(closed) => closed,
            Err(why) => return self.skip(format!("no census: {why}")),
        };
        burst::hold(GATE);
        least.into_iter().for_each(burst::end_with_step);
        // A mark that waited too long let launches go by.
        let whole = mark.as_ref().is_some_and(marks::Mark::waits);
        drop(mark);
        let (before_ns, collected) = self.close();
        self.cut(until_ns.saturating_sub(before_ns));
        self.disable();
        let profiler = match self.start_each(cupti, &mut counters, chunk) {
            Ok(profiler) => profiler,
            Err(e) => {
                burst::end();
                self.write_counted(before_ns, collected, None);
                self.resume(closed, before_ns);
                self.budget.spend(Cost::Census, monotonic_ns() - before_ns);
                return self.failed(e.to_string());
            }
        };
        let start_ns = monotonic_ns();
        burst::allow(chunk.min(launches));
        let opened = Boundary { took_ns: start_ns - before_ns, exposed_ns: start_ns - before_ns, ..closed.let_through() };
        // The program goes on: there is time for what the window before counted. If it is killed in the census, that is not lost.
        self.write_counted(before_ns, collected, None);
        keep(self.take_records());
        let Through { chunks, profiler, mut why, lost } = self.chunks(profiler, &mut counters, launches, chunk);
        let end_ns = monotonic_ns();
        let Some(profiler) = profiler else {
            // The context is gone: the meter sees that next, and lets go of it.
            burst::end();
            return;
        };
        let _ = profiler.disable();
        let took_ns = monotonic_ns() - before_ns;
        let through: usize = chunks.iter().map(|c| c.launches.len()).sum();
        let (step, batches) = match burst::ended_with_step() {
            Some(steps) if whole => (Some(if through.is_multiple_of(steps) { through / steps } else { through }), burst::batches()),
            // Of parts of steps nobody could say which batches they are of.
            _ => (step.filter(|_| least.is_none()), Vec::new()),
        };
        least.into_iter().for_each(burst::end_with_step);
        let cores =
            if why.is_empty() && self.wants_cores(launches) { self.count_cores(cupti, &planned, launches, chunk) } else { Ok(None) };
        closed.hold(GATE);
        let slipped = burst::end();
        let Ok(cores) = cores else { return };
        if slipped > 0 {
            why = format!("{slipped} launches waited until their deadline");
        }
        if meter::draining() {
            drop(closed);
            self.turn.give();
            self.mode = Mode::Ended;
        } else {
            self.resume(closed, cores.as_ref().map_or(end_ns, |c| c.end_ns));
        }
        self.budget.spend(Cost::Census, monotonic_ns() - before_ns);
        if through > 0 && why.is_empty() {
            self.budget.learn(through, Duration::from_nanos(took_ns));
        }
        let counted = chunks.into_iter().map(|c| counters.each(&planned.host, &c.ranges).map(|counts| (c, counts)));
        match counted.collect::<Result<Vec<_>, Error>>() {
            Ok(chunks) => {
                let slips = slipped > 0;
                let why_ungated = if slips { why.clone() } else { opened.why_ungated.clone() };
                let opened = Boundary { slipped: opened.slipped + slipped, gated: opened.gated && !slips, why_ungated, ..opened };
                let (order, window, cycles) = self.tell_census(group, chunks, (why, lost), (step, batches), (start_ns, end_ns), opened);
                if let Some(cores) = cores {
                    self.tell_cores(&planned, cores, step, (&order, window, cycles));
                }
            }
            Err(e) => {
                let why = format!("the census's counts could not be read: {e}");
                let nvml = self.read_nvml();
                let window = self.window(start_ns, end_ns, Tier::Utilization, why.clone(), opened, nvml);
                self.out.push(Record::Window(Box::new(window)));
                if let Some(cores) = cores {
                    self.tell_cores(&planned, cores, step, (&[], 0, None));
                }
                self.failed(why);
            }
        }
        self.censuses.taken();
    }

    /// Begins a window of the usual kind, and opens the gate. Nothing was counted since `end_ns`.
    fn resume(&mut self, closed: gate::Closed, end_ns: u64) {
        let opened = self.next().and_then(|next| self.open_as(next));
        let start_ns = monotonic_ns();
        let boundary = gate::boundary(Ok(closed), start_ns - end_ns, 0);
        match opened {
            Ok((group, length)) => {
                self.mode = Mode::Counting { group, start_ns, until_ns: later(start_ns, length), opened: boundary };
            }
            Err(refused) => {
                self.turn.give();
                self.uncounted(refused, end_ns, true);
            }
        }
    }

    /// Puts what a census counted into the evidence.
    fn tell_census(
        &mut self,
        group: usize,
        chunks: Vec<(Chunk, Vec<Counts>)>,
        (why, lost): (String, bool),
        (step, batches): (Option<usize>, Vec<[u64; 3]>),
        (start_ns, end_ns): (u64, u64),
        opened: Boundary,
    ) -> (Vec<(u64, u32)>, u64, Option<u64>) {
        let dropped: usize = chunks.iter().map(|(c, _)| c.ranges.dropped).sum();
        let told = Told::of(chunks, &mut self.censuses.graphs);
        let nvml = self.read_nvml();
        let mut window = self.window(start_ns, end_ns, Tier::Counted, String::new(), opened, nvml);
        let mut kernels = Kernels {
            device: self.ordinal,
            cores: false,
            window: Some(window.index),
            launches: told.launches,
            ranges: told.ranges,
            step: step.filter(|_| why.is_empty()).map(|s| s as u64),
            batches,
            why: if why.is_empty() { told.why.clone() } else { why },
            kernels: Vec::new(),
        };
        if lost {
            window = Window { tier: Tier::Utilization, why: kernels.why.clone(), ..window };
        } else if dropped > 0 {
            kernels.why = format!("{dropped} launches of the census found no room and were not counted");
            window = Window { tier: Tier::Utilization, why: kernels.why.clone(), ..window };
            self.censuses.no_more();
        } else {
            window = Window { group: Some(group), cycles: told.cycles, counts: told.counts.clone(), sparse: told.sparse.clone(), ..window };
            kernels.kernels = told.kernels;
            self.learn_launches(window.index, &told.order, &told.executed);
            if let Some(schedule) = &mut self.schedule {
                // Not idle: a census ends when launches came.
                schedule.counted(group, &told.counts, told.launches == 0);
            }
            self.seek(group, &kernels.kernels, &told.counts);
        }
        self.censuses.forget_told();
        let index = window.index;
        self.out.push(Record::Window(Box::new(window)));
        self.out.push(Record::Kernels(Box::new(kernels)));
        if lost || dropped > 0 { (Vec::new(), index, None) } else { (told.order, index, told.cycles) }
    }
}
