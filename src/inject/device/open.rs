//! Taking the counters up: which group is on, and the range that counts.

use std::time::Duration;

use cupti_sys::{Cupti, Error};

use super::{Counters, Metered, NOT_OUR_TURN};
use crate::{
    counter::session::{Group, RangeProfiler, Ranges},
    evidence::record::Fault,
    inject::{api, refusal::Refused},
    window::schedule::{self, Schedule},
};

impl Metered {
    /// Makes this copy of CUPTI the one that counts here.
    pub(super) fn prepare(&mut self, counters: Counters) -> Result<(), Refused> {
        self.driver.set_current(self.ctx).map_err(|e| Refused::Busy(e.to_string()))?;
        let Counters { cupti, planned } = counters;
        self.groups =
            planned.plan.groups.iter().map(|g| Group::new(&planned.host, g)).collect::<Result<_, _>>().map_err(|e| self.refusal(&e))?;
        self.schedule = Some(Schedule::new(&planned.plan, self.steady));
        // The looks that were due are the old schedule's.
        self.censuses.settled.clear();
        self.cupti = Some(cupti);
        self.planned = Some(planned);
        Ok(())
    }

    /// Takes the turn at the counters and opens the first window of the schedule.
    pub(super) fn open(&mut self) -> Result<(usize, Duration), Refused> {
        if !self.turn.take() {
            return Err(Refused::Busy(NOT_OUR_TURN.to_owned()));
        }
        let opened = self.next().and_then(|next| self.open_as(next));
        if opened.is_err() {
            self.turn.give();
        }
        opened
    }

    /// What the schedule wants next.
    pub(super) fn next(&mut self) -> Result<schedule::Turn, Refused> {
        let schedule = self.schedule.as_mut().ok_or_else(|| Refused::Busy("no counters on this device".to_owned()))?;
        schedule.turn().ok_or_else(|| {
            Refused::Never(Box::new(Fault {
                kind: "no-counters".to_owned(),
                device: Some(self.ordinal),
                what: "this chip has no tensor operation counters that CUPTI knows".to_owned(),
                remedy: "a newer libcupti may know the chip".to_owned(),
            }))
        })
    }

    pub(super) fn open_as(&mut self, next: schedule::Turn) -> Result<(usize, Duration), Refused> {
        let length = next.length;
        let group = self.start_as(next)?;
        self.push()?;
        Ok((group, length))
    }

    /// Switches on what the schedule wants next; nothing is counted before [`Metered::push`].
    pub(super) fn start_as(&mut self, next: schedule::Turn) -> Result<usize, Refused> {
        let cupti = self.cupti.ok_or_else(|| Refused::Busy("no counters on this device".to_owned()))?;
        self.switch_on(cupti, next.group).map_err(|e| self.refusal(&e))?;
        self.look = next.look.then(|| api::progress().1);
        Ok(next.group)
    }

    /// Opens the range.
    pub(super) fn push(&mut self) -> Result<(), Refused> {
        self.profiler.as_mut().map_or(Ok(()), |(p, _)| p.push()).map_err(|e| self.refusal(&e))
    }

    /// Switches this group on, in a profiler of its own if another group's is there.
    fn switch_on(&mut self, cupti: Cupti, group: usize) -> Result<(), Error> {
        if self.profiler.as_ref().is_some_and(|(_, of)| *of != group) {
            self.disable();
        }
        let mut profiler = match self.profiler.take() {
            Some((profiler, _)) => profiler,
            // SAFETY: the context is retained by us; after a reset by the program the profiler is dropped without being used again.
            None => unsafe { RangeProfiler::enable(cupti, self.ctx, Ranges::One) }?,
        };
        let started = profiler.start(&mut self.groups[group]);
        self.profiler = Some((profiler, group));
        started
    }

    pub(super) fn disable(&mut self) {
        if let Some((profiler, _)) = self.profiler.take() {
            let _ = profiler.disable();
        }
    }
}
