//! Time in which the counters cannot be had: it is a window too, with the reason, until they are taken up again.

use std::time::Duration;

use super::{ASK, BUSY_RETRY_MOST, Counters, GATE, LENT, Metered, Mode, NOT_OUR_TURN, NoCounters, READ, later};
use crate::{
    evidence::record::{Boundary, Fault, Record, Tier},
    inject::{
        gate, meter,
        refusal::{HELD_ELSEWHERE, Refused},
    },
    window::{budget::Cost, clock::monotonic_ns},
};

impl Metered {
    /// Stands uncounted from `start_ns` on.
    pub(super) fn uncounted(&mut self, refused: Refused, start_ns: u64, retry: bool) {
        let now = monotonic_ns();
        let (why, retry_ns) = match refused {
            Refused::Busy(why) => {
                let wait = if why == NOT_OUR_TURN { ASK } else { self.busy_wait };
                (why, retry.then(|| later(now, wait)))
            }
            Refused::Never(fault) => {
                let why = fault.what.clone();
                self.out.push(Record::Fault(*fault));
                (why, None)
            }
        };
        if why.starts_with(HELD_ELSEWHERE) && !self.told_busy {
            self.told_busy = true;
            self.out.push(Record::Fault(Fault {
                kind: "busy".to_owned(),
                device: Some(self.ordinal),
                what: why.clone(),
                remedy: "end it (flopsprof doctor names candidates; with DCGM: dcgmi profile --pause); it is tried again, and estimated by NVML meanwhile".to_owned(),
            }));
        }
        // The interval has no boundary of its own: it begins where the window before it ended.
        let opened = Boundary { gated: true, ..Boundary::default() };
        self.mode = Mode::Uncounted { start_ns, until_ns: later(now, self.steady.young.min(READ)), retry_ns, why, opened };
    }

    /// Takes up counters that the device did not have so far, at its next turn; or learns that it will have none.
    pub(in crate::inject) fn take_up(&mut self, counters: Result<Counters, NoCounters>) {
        let prepared = match counters {
            Ok(counters) => self.prepare(counters),
            Err(NoCounters::Said(why)) => Err(Refused::Busy(why)),
            Err(NoCounters::Refused(e)) => Err(self.refusal(&e)),
        };
        let now = monotonic_ns();
        match prepared {
            Ok(()) => {
                self.say_chip();
                if let Mode::Uncounted { retry_ns, .. } = &mut self.mode {
                    *retry_ns = Some(now);
                }
            }
            Err(refused) => {
                self.cut_uncounted(now);
                self.uncounted(refused, now, false);
            }
        }
    }

    /// Writes the uncounted interval so far and goes on with the next.
    pub(super) fn cut_uncounted(&mut self, now: u64) {
        let Mode::Uncounted { start_ns, until_ns, why, opened, .. } = &mut self.mode else { return };
        let (start, reason, opened) = (*start_ns, why.clone(), std::mem::take(opened));
        *start_ns = now;
        *until_ns = later(now, self.steady.young.min(READ));
        let Mode::Uncounted { opened: next, .. } = &mut self.mode else { return };
        *next = Boundary { gated: true, ..Boundary::default() };
        let nvml = self.read_nvml();
        let window = self.window(start, now, Tier::Utilization, reason, opened, nvml);
        self.out.push(Record::Window(Box::new(window)));
    }

    /// Tries to count again.
    ///
    /// A first Start takes 0.2 s, and the program runs on meanwhile: where two processes share a GPU, the other would get all of it while this one is
    /// held, and its counts say nothing of that. Then launches are held and the GPU is let run empty, for a window that began with a full queue
    /// would last longer than what it counts.
    pub(super) fn retry(&mut self) {
        if !self.turn.take() {
            // Whoever was waiting has them.
            self.lent_until_ns = 0;
            self.again(Refused::Busy(NOT_OUR_TURN.to_owned()), ASK);
            return;
        }
        if monotonic_ns() < self.lent_until_ns && self.turn.wanted() {
            self.turn.give();
            self.again(Refused::Busy(LENT.to_owned()), 2 * ASK);
            return;
        }
        if meter::draining() {
            // The program is on its way out.
            self.turn.give();
            return;
        }
        match self.reopen() {
            Ok((end_ns, counting)) => {
                self.cut_uncounted(end_ns);
                self.mode = counting;
            }
            Err(refused) => {
                self.turn.give();
                self.again(refused, self.busy_wait);
                self.busy_wait = (self.busy_wait * 2).min(BUSY_RETRY_MOST);
            }
        }
    }

    /// Starts counting in the midst of work: when the uncounted time ended, and what is open since.
    fn reopen(&mut self) -> Result<(u64, Mode), Refused> {
        let next = self.next()?;
        let length = next.length;
        let group = self.start_as(next)?;
        let gate = match self.cupti {
            Some(cupti) if self.use_gate => gate::close(cupti, self.ctx, GATE),
            _ => Err("switched off by FLOPSPROF_GATE=0".to_owned()),
        };
        let _ = self.driver.synchronize();
        let end_ns = monotonic_ns();
        self.push()?;
        let start_ns = monotonic_ns();
        let opened = gate::boundary(gate, start_ns - end_ns, 0);
        self.budget.spend(Cost::Rotation, start_ns - end_ns);
        Ok((end_ns, Mode::Counting { group, start_ns, until_ns: later(start_ns, length), opened }))
    }

    /// Stays uncounted after a refusal; tries again after `wait` if that can help.
    fn again(&mut self, refused: Refused, wait: Duration) {
        let Mode::Uncounted { retry_ns, why, .. } = &mut self.mode else { return };
        match refused {
            Refused::Busy(reason) => {
                *retry_ns = Some(later(monotonic_ns(), wait));
                *why = reason;
            }
            Refused::Never(fault) => {
                *retry_ns = None;
                why.clone_from(&fault.what);
                self.out.push(Record::Fault(*fault));
            }
        }
    }
}
