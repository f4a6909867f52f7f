//! The boundary between two windows: one ends, the next begins, and what the first counted is written.

use std::time::Duration;

use cupti_sys::Error;

use super::{ASK, GATE, LENT, Metered, Mode, YIELD, later};
use crate::{
    counter::session::Counts,
    evidence::record::{Boundary, Fault, NvmlReading, Record, Tier, Window},
    inject::{apart, api, gate, refusal::Refused},
    window::{
        budget::Cost,
        clock::monotonic_ns,
        schedule::{self, Schedule},
    },
    witness::nvml,
};

impl Metered {
    /// Ends a window and begins the next. Between Pop and Push there is nothing but CUPTI's own calls.
    pub(super) fn boundary(&mut self) {
        self.pause_roll();
        let lend = self.turn.wanted();
        let before = if let Mode::Counting { group, .. } = &self.mode { Some(*group) } else { None };
        let age = self.age(monotonic_ns());
        if let Some(schedule) = &mut self.schedule {
            let shortest = if self.steady_set { Duration::ZERO } else { self.budget.shortest_window() };
            schedule.thrift(shortest, self.budget.pays_change(age), self.budget.pays_probe(age));
        }
        let next = if lend { Err(Refused::Busy(LENT.to_owned())) } else { self.next() };
        let gate = match self.cupti {
            Some(cupti) if self.use_gate => gate::close(cupti, self.ctx, GATE),
            _ => Err("switched off by FLOPSPROF_GATE=0".to_owned()),
        };
        let (end_ns, closed) = self.close();
        if lend {
            // A stopped profiler still keeps the counters from others; only without one are they free.
            self.disable();
        }
        let opened = next.and_then(|next| self.open_as(next));
        let start_ns = monotonic_ns();
        let inside_ns = self.profiler.as_ref().map_or(0, |(p, _)| p.inside_ns());
        let boundary = gate::boundary(gate, start_ns - end_ns, inside_ns);
        let same = opened.as_ref().is_ok_and(|(group, _)| Some(*group) == before);
        self.budget.spend(if same { Cost::Window } else { Cost::Rotation }, start_ns - end_ns);
        if opened.is_err() {
            self.turn.give();
        }
        let waited = self.schedule.as_ref().is_some_and(Schedule::waiting);
        self.write_counted(end_ns, closed, opened.as_ref().ok().map(|(_, length)| *length));
        match opened {
            Ok((group, mut length)) => {
                // The first thing that was counted: the survey begins with the window that is open.
                if waited && length > schedule::LOOK && !self.schedule.as_ref().is_some_and(Schedule::waiting) {
                    self.cut(u64::try_from((length - schedule::LOOK).as_nanos()).unwrap_or(0));
                    length = schedule::LOOK;
                    self.look = Some(api::progress().1);
                }
                self.mode = Mode::Counting { group, start_ns, until_ns: later(start_ns, length), opened: boundary };
            }
            Err(refused) => {
                self.uncounted(refused, end_ns, true);
                if let (true, Mode::Uncounted { retry_ns, .. }) = (lend, &mut self.mode) {
                    let now = monotonic_ns();
                    self.lent_until_ns = later(now, YIELD);
                    *retry_ns = Some(later(now, 2 * ASK));
                }
            }
        }
    }

    /// Closes the open range.
    pub(super) fn close(&mut self) -> (u64, Result<(), Error>) {
        match (&self.mode, &mut self.profiler) {
            (Mode::Counting { group, .. }, Some((profiler, _))) => profiler.close(&mut self.groups[*group]),
            _ => (monotonic_ns(), Ok(())),
        }
    }

    /// What the closed range counted, and what the schedule learns from it.
    fn counts(&mut self, group: usize, idle: bool, took_ns: u64) -> Result<Counts, Error> {
        let Some(planned) = &self.planned else { return Ok(Counts::default()) };
        let counts = self.groups[group].counts(&planned.host)?;
        if let Some(schedule) = &mut self.schedule {
            schedule.counted(group, &counts.paths, idle);
            schedule.worked(group, &counts.paths, Duration::from_nanos(took_ns));
        }
        self.learn_peaks(group);
        Ok(counts)
    }

    /// Writes the window that was open. `next`: how long the one is to be that is open now.
    pub(super) fn write_counted(&mut self, end_ns: u64, closed: Result<(), Error>, next: Option<Duration>) {
        let Mode::Counting { group, start_ns, opened, .. } = &self.mode else { return };
        let (group, start_ns, opened) = (*group, *start_ns, opened.clone());
        let nvml = self.read_nvml();
        let idle = nvml.as_ref().is_some_and(nvml::idle);
        let next_ns = next.map(|n| u64::try_from(n.as_nanos()).unwrap_or(u64::MAX));
        let (counts, unreadable) = match closed.and_then(|()| self.counts(group, idle, end_ns.saturating_sub(start_ns))) {
            Ok(counts) => {
                let why = format!("window {}: no valid count for {}", self.index, counts.invalid.join(", "));
                let unreadable = (!counts.invalid.is_empty()).then_some(("invalid-count", why));
                (Some(counts).filter(|c| c.invalid.is_empty() || !c.paths.is_empty()), unreadable)
            }
            Err(e) => (None, Some(("internal", format!("the window's counts could not be read: {e}")))),
        };
        let why = unreadable.as_ref().map(|(_, why)| why.clone()).unwrap_or_default();
        if let Some((kind, what)) = unreadable {
            self.out.push(Record::Fault(Fault {
                kind: kind.to_owned(),
                device: Some(self.ordinal),
                what,
                remedy: "report it with the output of `flopsprof doctor`".to_owned(),
            }));
        }
        let window = match counts {
            Some(counts) => Window {
                group: Some(group),
                counts: counts.paths,
                sparse: counts.sparse,
                cycles: counts.cycles,
                ..self.window(start_ns, end_ns, Tier::Counted, String::new(), opened, nvml)
            },
            // Nothing was counted, which is not the same as none: the witness says what there was.
            None => self.window(start_ns, end_ns, Tier::Utilization, why, opened, nvml),
        };
        self.out.push(Record::Window(Box::new(Window { next_ns, ..window })));
    }

    pub(super) fn window(
        &mut self,
        start_ns: u64,
        end_ns: u64,
        tier: Tier,
        why: String,
        opened: Boundary,
        nvml: Option<NvmlReading>,
    ) -> Window {
        let gpm = nvml.as_ref().is_some_and(|r| r.gpm_any_tensor_pct.is_some());
        let (tokens, steps) = api::progress();
        let index = self.index;
        self.index += 1;
        Window {
            device: self.ordinal,
            index,
            start_ns,
            end_ns,
            tier: if tier == Tier::Utilization && gpm { Tier::Gpm } else { tier },
            why,
            opened,
            nvml,
            tokens,
            steps,
            meter_cpu_ns: apart::meter_cpu_ns(),
            spent: Some(self.budget.spent()),
            ..Window::default()
        }
    }
}
