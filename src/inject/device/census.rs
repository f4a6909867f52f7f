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
//! A chunk has as many launches as its session has ranges; the next waits for the next Start. Names, grids, blocks and streams are what the launch callbacks
//! told, in the order of the ranges, because only one launch is under way at a time. If launches and ranges do not meet, the chunk's names are dropped and its
//! counts stay. A tool that asks for CUPTI's subscription meanwhile ends the burst and gets it ([`subscribe`]). A graph launch that made several ranges is one row of their sum.
//!
//! When: after a warm-up and the survey, when what is left of the budget pays for a whole step of the program (found by listening to some thousand launches
//! first, which holds nobody), and then whenever it pays again. Where the program marks its steps, it begins at a mark and ends at one ([`marks`]). Not while another tool has CUPTI's subscription; not in a process of several GPUs or a
//! job of several processes, because kernels run one after the other in a burst, and one that waits for a kernel launched later, or on another GPU
//! by the same thread, would wait for ever. Whatever goes wrong ends in plain windows, and the evidence says why.

use std::time::Duration;

use cupti_sys::{Cupti, Error};

use super::{GATE, Metered, Mode, later, told::Told};
use crate::{
    counter::{
        find,
        session::{Counts, Group, Launches, RangeProfiler, Ranges},
    },
    evidence::record::{Boundary, Kernels, Record, Tier, Window},
    inject::{
        apart, api, burst,
        config::{Asked, Config},
        gate,
        launch::Launch,
        marks, meter, subscribe,
    },
    window::{
        budget::{self, Cost},
        clock::{self, monotonic_ns},
        period,
    },
};

/// No census before a program is so old: it is still loading, compiling and finding its step.
const WARM_UP: Duration = Duration::from_secs(60);
/// From one census to the next, at the least; and from one that could not be taken.
pub(super) const SPACING: Duration = Duration::from_secs(30);
/// How many launches are listened to, and for how long, to find a step: a callback takes under a microsecond.
const LISTEN: (usize, Duration) = (8192, Duration::from_secs(3));
/// How long a program that marks its steps is listened to for a whole one, and how long a census waits to begin with one.
const STEP: Duration = Duration::from_secs(10);
/// Steps that are marked differ: the last one of a census may end so many launches earlier or later than what was heard says, a part of them all.
const LONGER: usize = 4;
/// How often the meter looks up while it waits for launches.
const LOOK: Duration = Duration::from_millis(10);
/// How long a launch that is under way is waited for when the program ends.
const LAST: Duration = Duration::from_millis(200);
/// A program that hardly launches is not waited for: so long, and this for each launch.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(5));
/// Censuses after which the CUDA cores are counted too: the first ones make the tensor operations known.
const CORES_AFTER: u32 = 2;
/// Censuses that failed after which no more are tried.
const FAILURES: u32 = 2;

/// When censuses are taken, and what became of those so far.
pub(super) struct Censuses {
    pub(super) asked: Option<Asked>,
    /// When the next is looked at; none: never.
    next_ns: Option<u64>,
    /// Why there will be none, still to be told.
    never: Option<String>,
    /// Launches of the program's step.
    step: Option<usize>,
    /// The program marks its steps, and the last one heard was one of these.
    marked: bool,
    failures: u32,
    /// The CUDA cores could not be counted.
    pub(super) no_cores: bool,
    /// Censuses since the CUDA cores were counted.
    since_cores: u32,
    /// Graphs that censuses saw, in the order of their numbers.
    pub(super) graphs: Vec<usize>,
    /// The last reason that was told.
    told: String,
    /// Kernels that make products and ask for no look: they executed something, or their look was begun.
    pub(super) settled: Vec<String>,
}

impl Censuses {
    pub(super) fn new(config: &Config, now: u64) -> Self {
        let processes = config.processes;
        let never = (processes > 1 && config.census.is_none()).then(|| {
            format!("no census in a job of {processes} processes: a kernel that waits for another process could wait for ever while kernels run one by one")
        });
        let next_ns = match config.census {
            Some(asked) => Some(later(now, asked.after)),
            None => (config.overhead > 0.0).then(|| later(now, WARM_UP)),
        };
        Self {
            asked: config.census,
            next_ns,
            never,
            step: None,
            marked: false,
            failures: 0,
            no_cores: false,
            since_cores: 0,
            graphs: Vec::new(),
            told: String::new(),
            settled: Vec::new(),
        }
    }

    /// Whether roll calls follow.
    pub(super) fn rolls(&self) -> bool {
        self.asked.is_none_or(|a| a.rolls) && self.failures < FAILURES
    }
}

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
    /// Takes a census if it is time for one. `alone`: this is the process's only GPU.
    pub(super) fn census_if_due(&mut self, alone: bool, keep: &mut dyn FnMut(Vec<Record>)) {
        let now = monotonic_ns();
        let (Mode::Counting { group, .. }, Some(cupti)) = (&self.mode, self.cupti) else { return };
        if self.stranger_waits() {
            let launches = self.censuses.asked.map_or_else(|| self.budget.burst(self.censuses.step).0, |a| a.launches);
            if let Some(held) = self.end_roll_at_stranger() {
                self.census(cupti, launches, None, Some(held), keep);
            }
            return;
        }
        if self.censuses.next_ns.is_none_or(|next| now < next) {
            return;
        }
        if let Some(why) = self.censuses.never.take() {
            self.censuses.next_ns = None;
            self.tell(why);
            return;
        }
        let wait = |by| Some(later(now, by));
        if let Some(asked) = self.censuses.asked {
            self.censuses.next_ns = wait(Duration::from_millis(200));
            self.pause_roll();
            self.census(cupti, asked.launches, None, None, keep);
            return;
        }
        let settled = self.schedule.as_ref().is_some_and(|s| s.settled(*group));
        if !settled || self.turn.wanted() {
            self.censuses.next_ns = wait(Duration::from_secs(1));
            return;
        }
        if !alone {
            self.skip("no census in a process that uses several GPUs: kernels that wait for each other could wait for ever".to_owned());
            return;
        }
        if apart::run(find::torch_is_mapped).unwrap_or(true) && !subscribe::stands_between() {
            self.skip("no census: torch.profiler could not be let in while it lasts; load the library by LD_PRELOAD".to_owned());
            return;
        }
        let least = self.censuses.step.map_or_else(|| self.budget.cheapest(), |step| self.budget.burst(Some(step)));
        if !self.paid(now, least) {
            return;
        }
        self.pause_roll();
        match self.listen(cupti) {
            Ok((step, marked)) => (self.censuses.step, self.censuses.marked) = (step, marked),
            Err(why) => return self.skip(format!("no census: {why}")),
        }
        let (launches, cost) = self.budget.burst(self.censuses.step);
        if self.paid(now, (launches, cost)) {
            let step = self.censuses.step.filter(|s| launches % s == 0);
            self.census(cupti, launches, step, None, keep);
        }
    }

    /// Whether the budget pays for a census of so many launches and so much; if not, it is looked at again when it will.
    fn paid(&mut self, now: u64, (launches, mut cost): (usize, Duration)) -> bool {
        let age = self.age(now);
        if self.cores_due() {
            cost += self.budget.cores_cost(launches);
        }
        let wait = self.budget.until_paid(age, cost);
        if !wait.is_zero() {
            self.censuses.next_ns = Some(later(now, wait.max(Duration::from_secs(1))));
        }
        wait.is_zero()
    }

    /// Listens to the program's launches and finds its step: the launches between two marks of the program's, and true; else those that repeat.
    fn listen(&self, cupti: Cupti) -> Result<(Option<usize>, bool), String> {
        let watched = gate::watch(cupti, self.ctx)?;
        burst::listen(LISTEN.0);
        let until = later(monotonic_ns(), if api::progress().1 > 0 { STEP } else { LISTEN.1 });
        while monotonic_ns() < until && !burst::heard_all() && !meter::draining() && !subscribe::wanted() {
            clock::sleep(LOOK);
        }
        drop(watched);
        let (heard, marks) = burst::listened();
        let marked = marks.array_windows().map(|[before, after]| after - before).max().filter(|launches| *launches > 0);
        Ok((marked.or_else(|| period::period(&heard)), marked.is_some()))
    }

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

    /// There is no census now: says why, once for each reason, and looks again later.
    fn skip(&mut self, why: String) {
        let wait = if self.censuses.asked.is_some() { Duration::from_millis(200) } else { SPACING };
        self.censuses.next_ns = Some(later(monotonic_ns(), wait));
        self.tell(why);
    }

    fn tell(&mut self, why: String) {
        if self.censuses.told != why {
            self.censuses.told.clone_from(&why);
            self.out.push(Record::Kernels(Box::new(Kernels { device: self.ordinal, why, ..Kernels::default() })));
        }
    }

    /// A census that did not work: says why, and after some of them tries no more.
    fn failed(&mut self, why: String) {
        self.skip(format!("the census failed: {why}"));
        self.censuses.failures += 1;
        if self.censuses.failures >= FAILURES {
            self.censuses.next_ns = None;
        }
    }

    /// Whether a census may be taken right now.
    pub(super) fn pays_census(&mut self, now: u64) -> bool {
        if self.censuses.asked.is_some() {
            return true;
        }
        let age = self.age(now);
        let (_, cost) = self.budget.burst(self.censuses.step);
        self.budget.until_paid(age, cost).is_zero() && !self.turn.wanted()
    }

    /// Takes a census of so many launches. `held`: the gate, where it is closed already.
    fn census(
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
        let marking = if self.censuses.asked.is_some() { api::progress().1 > 0 } else { self.censuses.marked };
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
        // What comes again is known by then: the next is for what a roll call does not know, or for kernels that change with the data.
        let wait = self.censuses.asked.map_or(Some(SPACING), |a| a.every);
        if self.censuses.failures == 0 {
            self.censuses.next_ns = wait.map(|w| later(monotonic_ns(), w));
        }
    }

    /// Whether a burst for the CUDA cores follows a census of so many launches: one in some, when the budget pays for it too.
    fn wants_cores(&mut self, launches: usize) -> bool {
        self.censuses.since_cores += 1;
        let wanted = match self.censuses.asked {
            Some(asked) => asked.cores,
            None => {
                let age = self.age(monotonic_ns());
                self.cores_due() && self.budget.left(age) >= self.budget.cost(launches) + self.budget.cores_cost(launches)
            }
        };
        let wanted = wanted && !self.censuses.no_cores;
        if wanted {
            self.censuses.since_cores = 0;
        }
        wanted
    }

    /// Whether the next census waits until the budget pays for a burst for the CUDA cores too.
    fn cores_due(&self) -> bool {
        !self.censuses.no_cores && self.censuses.since_cores >= CORES_AFTER
    }

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

    /// Lets launches through, chunk by chunk; the first has begun. No launch goes through when it
    /// returns.
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
            self.censuses.next_ns = None;
            self.censuses.failures += 1;
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
        self.censuses.told.clear();
        let index = window.index;
        self.out.push(Record::Window(Box::new(window)));
        self.out.push(Record::Kernels(Box::new(kernels)));
        if lost || dropped > 0 { (Vec::new(), index, None) } else { (told.order, index, told.cycles) }
    }
}
