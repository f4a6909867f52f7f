//! When a census is taken.
//!
//! After a warm-up and the survey, when what is left of the budget pays for a whole step of the program (found by listening to some thousand launches
//! first, which holds nobody), and then whenever it pays again. Not while another tool has CUPTI's subscription; not in a process of several GPUs or a
//! job of several processes, because kernels run one after the other in a burst, and one that waits for a kernel launched later, or on another GPU
//! by the same thread, would wait for ever.

use std::time::Duration;

use cupti_sys::Cupti;

use super::{Metered, Mode, later, through::LOOK};
use crate::{
    counter::find,
    evidence::record::{Kernels, Record},
    inject::{
        apart, api, burst,
        config::{Asked, Config},
        gate, meter, subscribe,
    },
    window::{
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
pub(super) const STEP: Duration = Duration::from_secs(10);
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

    /// Whether the program marks its steps, as far as is known.
    pub(super) fn steps_are_marked(&self) -> bool {
        if self.asked.is_some() { api::progress().1 > 0 } else { self.marked }
    }

    /// One was taken. What comes again is known by then: the next is for what a roll call does not know, or for kernels that change with the data.
    pub(super) fn taken(&mut self) {
        let wait = self.asked.map_or(Some(SPACING), |a| a.every);
        if self.failures == 0 {
            self.next_ns = wait.map(|w| later(monotonic_ns(), w));
        }
    }

    /// One failed in a way that the next would too.
    pub(super) fn no_more(&mut self) {
        self.next_ns = None;
        self.failures += 1;
    }

    /// What stands in the way is told again, if it does again.
    pub(super) fn forget_told(&mut self) {
        self.told.clear();
    }
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

    /// There is no census now: says why, once for each reason, and looks again later.
    pub(super) fn skip(&mut self, why: String) {
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
    pub(super) fn failed(&mut self, why: String) {
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

    /// Whether a burst for the CUDA cores follows a census of so many launches: one in some, when the budget pays for it too.
    pub(super) fn wants_cores(&mut self, launches: usize) -> bool {
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
}
