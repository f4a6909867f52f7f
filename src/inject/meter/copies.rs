//! Which copy of libcupti counts, and what it planned for each device.

use std::{sync::mpsc, time::Duration};

use cupti_sys::Cupti;

use super::{LOOK, Meter, draining, life::BELL, nanos};
use crate::{
    counter::find::{self, Found},
    evidence::record::{Fault, Library, Record},
    inject::{
        apart,
        device::{Counters, NoCounters},
        guard, planner,
        say::say,
        thread,
    },
    window::clock::monotonic_ns,
};

/// How long to wait for a plan once a context is there.
const READY: Duration = Duration::from_secs(2);

impl Meter {
    pub(super) fn copy(&self) -> Option<Cupti> {
        Some(self.cupti.as_ref().ok()?.cupti)
    }

    pub(super) fn counters(&self, ordinal: u32) -> Result<Counters, NoCounters> {
        if self.search.is_some() {
            return Err(NoCounters::Said("libcupti is still being looked for".to_owned()));
        }
        let cupti = self.copy().ok_or_else(|| NoCounters::Said("no libcupti".to_owned()))?;
        match self.plans.get(&ordinal) {
            Some(Ok(planned)) => Ok(Counters { cupti, planned: planned.clone() }),
            Some(Err(e)) => Err(NoCounters::Refused(*e)),
            None => Err(NoCounters::Said("the chip's counters were not planned in time".to_owned())),
        }
    }

    /// Takes in what the search for libcupti came to, once it has answered: before there is a context, as is usual, or later.
    pub(super) fn arrive(&mut self) {
        let Some(search) = &self.search else { return };
        let found = match search.try_recv() {
            Err(mpsc::TryRecvError::Empty) => return,
            Err(mpsc::TryRecvError::Disconnected) => {
                Err("the search for libcupti broke off: report it with the output of `flopsprof doctor`".to_owned())
            }
            Ok(found) => found,
        };
        self.search = None;
        self.cupti = found;
        if self.devices.iter().all(Option::is_none) {
            return self.plan_soon();
        }
        // The program runs, uncounted so far.
        self.copies = apart::run(find::mapped).unwrap_or_default();
        self.introduce_cupti();
        if let Some(cupti) = self.copy() {
            self.plan_now(cupti);
        }
        for ordinal in 0..self.devices.len() {
            let counters = self.counters(u32::try_from(ordinal).unwrap_or(0));
            if let Some(metered) = &mut self.devices[ordinal] {
                metered.take_up(counters);
            }
        }
        self.collect();
    }

    /// Plans every device while the program makes its context.
    fn plan_soon(&mut self) {
        let Some(cupti) = self.copy() else { return };
        let (sender, ready) = mpsc::channel();
        self.ready = ready;
        let devices = u32::try_from(self.devices.len()).unwrap_or(0);
        let planning = thread::spawn("flopsprof-plan", thread::DEEP, move || {
            guard::shield(|| planner::plan_devices(cupti, devices, sender));
            BELL.ring();
        });
        if planning.is_err() {
            say("not counted: no thread can be started: raise the limit on processes (ulimit -u)");
        }
    }

    /// The same while the caller waits.
    fn plan_now(&mut self, cupti: Cupti) {
        let (sender, ready) = mpsc::channel();
        planner::plan_devices(cupti, u32::try_from(self.devices.len()).unwrap_or(0), sender);
        self.plans = ready.into_iter().collect();
    }

    /// Waits for a device's plan, until it has been long enough.
    pub(super) fn await_plan(&mut self, ordinal: u32) {
        let deadline = monotonic_ns() + nanos(READY);
        while self.cupti.is_ok() && !self.plans.contains_key(&ordinal) && !draining() {
            let seen = BELL.seen();
            match self.ready.try_recv() {
                Ok((planned, plan)) => {
                    self.plans.insert(planned, plan);
                }
                Err(mpsc::TryRecvError::Disconnected) => return,
                Err(mpsc::TryRecvError::Empty) => {
                    let now = monotonic_ns();
                    if now >= deadline {
                        return;
                    }
                    // The plans of several devices come one by one, and the bell rings with the last.
                    BELL.wait(seen, Duration::from_nanos(deadline - now).min(LOOK));
                }
            }
        }
    }

    /// Looks for a libcupti that was loaded after ours, and gives way to it: two copies in use silence the framework's profiler.
    pub(super) fn second_copy(&mut self) {
        let copies = apart::run(find::mapped).unwrap_or_default();
        let Some(other) = copies.iter().find(|c| !self.copies.contains(c)).cloned() else { return };
        let before = std::mem::replace(&mut self.copies, copies);
        if before.is_empty() {
            return;
        }
        let found = find::loaded(&other);
        self.add(Record::Fault(Fault {
            kind: "second-cupti".to_owned(),
            device: None,
            what: format!("the program loaded {} beside {}: counting moves to it", other.display(), before[0].display()),
            remedy: format!("set FLOPSPROF_CUPTI={} so that there is one copy from the start", other.display()),
        }));
        let Ok(found) = found else { return };
        self.plan_now(found.cupti);
        self.add(Record::Library(library(&found)));
        self.cupti = Ok(found);
        for ordinal in 0..self.devices.len() {
            let counters = self.counters(u32::try_from(ordinal).unwrap_or(0));
            if let Some(metered) = &mut self.devices[ordinal] {
                metered.change_copy(counters);
            }
        }
        self.collect();
    }
}

pub(super) fn library(found: &Found) -> Library {
    Library {
        name: "libcupti".to_owned(),
        path: found.path.display().to_string(),
        version: found.version.to_string(),
        found: found.how.to_owned(),
    }
}
