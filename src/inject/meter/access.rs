//! Which contexts the meter gets, and when. What runs in one that it does not get, or sees late, is in no window, and that is said.

use std::time::Duration;

use super::{Meter, nanos};
use crate::{
    evidence::record::Fault,
    inject::{
        driver::{Context, DriverError},
        gate,
    },
    window::clock::monotonic_ns,
};

/// How long a context may be kept from the meter before that is said: it may be gone again, or not ready.
const DENIED: Duration = Duration::from_secs(1);
/// A context that may have been there for longer before the meter saw it is said to be late: files kept the meter, mostly. What keeps it otherwise is over sooner.
const LATE: Duration = Duration::from_secs(1);
/// The same of one that it sees at the program's end only. One that is younger has hardly begun.
const LATE_AT_END: Duration = Duration::from_millis(50);
/// What there is to be done where the meter sees a context late.
const KEPT: &str = "the meter was kept by a file system that did not answer, mostly: FLOPSPROF_OUT names a folder on another";

/// Whether the driver lets the meter have a device's context.
#[derive(Clone, Copy)]
pub(super) enum Access {
    /// As far as is known.
    Open,
    /// Not since this time, with this answer.
    Denied(u64, DriverError),
    /// It did not, and that was said; it is not said again.
    Told,
}

impl Meter {
    /// How long nobody has looked for contexts.
    pub(super) fn away(&self) -> Duration {
        Duration::from_nanos(self.looked_ns.map_or(0, |looked_ns| monotonic_ns().saturating_sub(looked_ns)))
    }

    /// What there is to be said of a context that is seen now, where nobody had looked for so long: none where nothing can have run in it.
    pub(super) fn seen_late(&self, ordinal: u32, ctx: Context, away: Duration) -> Option<Fault> {
        // Where the gate was closed for another device meanwhile, it saw who launched. A context may have the address of one that was reset.
        let others = self.devices.iter().any(Option::is_some) && self.resets[ordinal as usize].0 == 0;
        if away > LATE {
            Some(late(ordinal, &format!("in up to {:.1} s before the meter saw its context", away.as_secs_f64()), KEPT))
        } else if others && gate::other_context() == Some(ctx) {
            Some(late(ordinal, "while the meter began with another device", "use the devices one after the other at the start"))
        } else {
            None
        }
    }

    /// The driver lets the meter have a device's context, or there is none.
    pub(super) fn grant(&mut self, slot: usize) {
        if let Access::Denied(..) = self.access[slot] {
            self.access[slot] = Access::Open;
        }
    }

    /// The driver does not let the meter have a device's context, or does not say whether there is one.
    pub(super) fn deny(&mut self, ordinal: u32, error: DriverError) {
        if error.is_of_nothing() {
            return;
        }
        let now = monotonic_ns();
        self.drain_at_exit();
        match self.access[ordinal as usize] {
            Access::Open => self.access[ordinal as usize] = Access::Denied(now, error),
            Access::Denied(since_ns, _) if now - since_ns > nanos(DENIED) => self.tell_denied(ordinal),
            Access::Denied(..) | Access::Told => {}
        }
    }

    /// Says of a device that it is not metered, once.
    fn tell_denied(&mut self, ordinal: u32) {
        let Access::Denied(_, error) = self.access[ordinal as usize] else { return };
        self.access[ordinal as usize] = Access::Told;
        self.add_fault(Fault {
            kind: "no-context".to_owned(),
            device: Some(ordinal),
            what: format!("what runs on it is not metered: the driver does not give its context ({error})"),
            remedy: "report it with the output of `flopsprof doctor`".to_owned(),
        });
        self.journal.with(|journal| journal.flush());
    }

    /// Says at the end which devices were not metered: those of a program that was too short to try for long, and those whose context nobody has seen in time.
    pub(super) fn tell_unmetered(&mut self) {
        let late_at_end = self.away() > LATE_AT_END;
        for ordinal in 0..u32::try_from(self.devices.len()).unwrap_or(0) {
            let slot = ordinal as usize;
            self.tell_denied(ordinal);
            let unseen =
                late_at_end && self.devices[slot].is_none() && self.resets[slot].0 == 0 && matches!(self.access[slot], Access::Open);
            if unseen && self.driver.device(ordinal).is_ok_and(|d| self.driver.primary_active(d)) {
                self.add_fault(late(ordinal, "until the program's end, when the meter saw its context,", KEPT));
            }
        }
    }
}

/// What ran on a device before it was counted.
fn late(ordinal: u32, when: &str, remedy: &str) -> Fault {
    Fault {
        kind: "late-context".to_owned(),
        device: Some(ordinal),
        what: format!("what ran on it {when} is not counted"),
        remedy: remedy.to_owned(),
    }
}
