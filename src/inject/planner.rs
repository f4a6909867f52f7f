//! What must be ready before the first launch: libcupti, and each chip's plan.
//!
//! A plan takes some 0.1 to 0.5 s (libnvperf_host is large), while the program makes its context. So it is made on a thread of its own that ends when it is
//! done, and the meter's thread watches for the context meanwhile.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, mpsc},
};

use cupti_sys::{
    Cupti, Error,
    raw::{self, Params},
};

use super::{environment, gate};
use crate::counter::{
    find::{self, FindError, Found},
    host::{Host, chip_name},
    plan::{self, Plan},
};

/// The plan of a device's chip, with the host side that evaluates the device's counts, and no other's: see [`Host`].
pub(super) struct Planned {
    pub(super) chip: String,
    pub(super) host: Host,
    pub(super) plan: Plan,
}

/// A device's plan, by ordinal.
pub(super) type Ready = (u32, Result<Arc<Planned>, Error>);

/// Finds libcupti and makes it ready to hold launches, while `cuInit` is held: a context can appear as soon as that returns, and its first
/// launch must find the gate closed. Loading takes some 10 ms where the framework has it already; the first subscription of a process is slow,
/// later ones are not.
pub(super) fn find(named: Option<&Path>) -> Result<Found, FindError> {
    let found = find::find(named, &|name| environment::var_os(name))?;
    gate::warm_up(found.cupti);
    Ok(found)
}

/// Plans every device with this copy of CUPTI; devices of one chip have one plan, which is made once.
pub(super) fn plan_devices(cupti: Cupti, devices: u32, ready: mpsc::Sender<Ready>) {
    // Its answer shows in what follows: the host functions work without it.
    // SAFETY: nothing goes in but the size.
    let _ = unsafe { cupti.profiler_initialize(&mut raw::ProfilerInitialize::sized()) };
    let mut plans: BTreeMap<String, Result<Plan, Error>> = BTreeMap::new();
    for device in 0..devices {
        let planned = chip_name(cupti, device).and_then(|chip| match plans.get(&chip) {
            Some(plan) => Ok(Planned { host: Host::open(cupti, &chip)?, plan: plan.clone()?, chip }),
            None => {
                let planned = plan_chip(cupti, &chip);
                plans.insert(chip, planned.as_ref().map(|p| p.plan.clone()).map_err(|e| *e));
                planned
            }
        });
        let _ = ready.send((device, planned.map(Arc::new)));
    }
}

/// Plans one chip.
pub(super) fn plan_chip(cupti: Cupti, chip: &str) -> Result<Planned, Error> {
    let host = Host::open(cupti, chip)?;
    let plan = plan::of_chip(&host)?;
    Ok(Planned { chip: chip.to_owned(), host, plan })
}
