//! What must be ready before the first launch: libcupti, and each chip's plan.
//!
//! It takes some 0.1 to 0.5 s (libnvperf_host is large), while the program makes its context. So it runs on a thread of its own that ends when it is done, and
//! the meter's thread watches for the context meanwhile.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, mpsc},
};

use cupti_sys::{
    Cupti, Error,
    raw::{self, Params},
};

use crate::counter::{
    find::{self, FindError, Found},
    host::Host,
    plan::{self, Plan},
};

/// The plan of one chip, with the host side that evaluates.
pub(super) struct Planned {
    pub(super) chip: String,
    pub(super) host: Host,
    pub(super) plan: Plan,
}

/// What becomes ready, in this order.
pub(super) enum Ready {
    /// libcupti is in the process: launches can be held.
    Cupti(Box<Result<Found, FindError>>),
    /// A device's plan, by ordinal.
    Device(u32, Result<Arc<Planned>, Error>),
}

/// Finds libcupti and plans every device; what is ready is sent at once.
pub(super) fn prepare(named: Option<PathBuf>, devices: u32, ready: &mpsc::Sender<Ready>) {
    let found = find::find(named.as_deref());
    let cupti = found.as_ref().ok().map(|f| f.cupti);
    let _ = ready.send(Ready::Cupti(Box::new(found)));
    if let Some(cupti) = cupti {
        plan_devices(cupti, devices, ready);
    }
}

/// Plans every device with this copy of CUPTI; devices of one chip share a plan.
pub(super) fn plan_devices(cupti: Cupti, devices: u32, ready: &mpsc::Sender<Ready>) {
    // Its answer shows in what follows: the host functions work without it.
    // SAFETY: nothing goes in but the size.
    let _ = unsafe { cupti.profiler_initialize(&mut raw::ProfilerInitialize::sized()) };
    let mut chips: BTreeMap<String, Result<Arc<Planned>, Error>> = BTreeMap::new();
    for device in 0..devices {
        let planned = chip_name(cupti, device)
            .and_then(|chip| chips.entry(chip.clone()).or_insert_with(|| plan_chip(cupti, &chip).map(Arc::new)).clone());
        let _ = ready.send(Ready::Device(device, planned));
    }
}

fn chip_name(cupti: Cupti, device: u32) -> Result<String, Error> {
    let mut p = raw::DeviceGetChipName::sized();
    p.device_index = device as usize;
    // SAFETY: an index goes in.
    unsafe { cupti.device_get_chip_name(&mut p)? };
    // SAFETY: CUPTI's own string.
    Ok(unsafe { cupti_sys::strings(&raw const p.chip_name, 1) }.pop().unwrap_or_default())
}

/// Plans one chip.
pub(super) fn plan_chip(cupti: Cupti, chip: &str) -> Result<Planned, Error> {
    let host = Host::open(cupti, chip)?;
    let plan = plan::of_chip(&host)?;
    Ok(Planned { chip: chip.to_owned(), host, plan })
}
