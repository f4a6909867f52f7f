//! Sets what witnesses of a machine saw beside what its metered processes counted.
//!
//! Tensor time of a device is its activity by GPM times the time, or its tensor cycles where these were sampled; that of the metered processes is their operations at the
//! peak, at the clock of that time.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    span::Spans,
    tensor::Slice,
    witness::{DeviceWitnessed, FileWitness, ProcessWitnessed, SourceWitnessed, WindowWitnessed, Witnessed},
};
use crate::evidence::witness::{Cpu, Id, Interval, OnDevice, PmReading, Seen};

/// Windows of a device that a report shows at most: neighbours are brought together.
const WINDOWS: usize = 60;
/// An interval that is shorter is part of the one before, s.
const SHORT_S: f64 = 1.0;
/// A context that was alone for part of a stretch only saw fewer cycles pass than there were.
const PLAUSIBLE: f64 = 0.9;

/// What metered processes counted on a machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Metered {
    /// Their ids, as they know themselves, and start ticks.
    pub(super) processes: BTreeSet<(u32, u64)>,
    /// By device: name, its metered time, and each process's slices.
    pub(super) devices: BTreeMap<String, MeteredDevice>,
}

/// What metered processes counted on a device.
#[derive(Clone, Debug, Default)]
pub(super) struct MeteredDevice {
    pub(super) name: String,
    pub(super) spans: Spans,
    pub(super) slices: Vec<Vec<Slice>>,
    pub(super) no_peak: bool,
}

/// Joins a machine's witnesses with its metered processes. `offset_ns`: Unix time less the machine's own.
pub(super) fn join(into: &mut Witnessed, host: &str, offset_ns: i64, witnesses: &[FileWitness], metered: &Metered) {
    let unix_s = |ns: u64| ns.saturating_add_signed(offset_ns) as f64 / 1e9;
    for witness in witnesses {
        into.files += 1;
        for source in [&witness.sources.ebpf, &witness.sources.nvml].into_iter().filter(|s| !s.on) {
            into.missing.insert((source.why.clone(), source.remedy.clone()));
        }
        into.no_pmu.clone_from(&witness.sources.pmu.why);
        into.not_probed.extend(witness.probed.iter().filter(|p| !p.why.is_empty()).map(|p| format!("{}: {}", p.path, p.why)));
        if let Some(cpu) = witness.intervals.iter().rev().find_map(|i| i.cpu.as_ref()) {
            add_cpu(into.cpu.get_or_insert_default(), cpu);
        }
        for interval in &witness.intervals {
            into.lost = (into.lost.0 + interval.lost.0, into.lost.1 + interval.lost.1);
        }
    }
    // Several witnesses of one machine saw the same: the one that saw for longest speaks for devices.
    let Some(main) = witnesses.iter().max_by_key(|w| w.spans().length()) else {
        for (uuid, device) in &metered.devices {
            into.devices.push(DeviceWitnessed { metered_ns: device.spans.length(), ..bare(uuid, &device.name, host) });
        }
        return;
    };
    let names = main.intervals.iter().flat_map(|i| &i.devices).map(|d| (d.uuid.clone(), d.name.clone()));
    let mut uuids: BTreeMap<String, String> = names.collect();
    uuids.extend(metered.devices.iter().map(|(uuid, d)| (uuid.clone(), d.name.clone())));
    let own: BTreeMap<Id, bool> =
        main.seen.values().map(|(_, s)| (s.id, metered.processes.contains(&(s.own_pid, s.id.start_ticks)))).collect();
    let is_metered = |id: Id| own.get(&known(main, id)).copied().unwrap_or_else(|| metered.processes.contains(&(id.pid, id.start_ticks)));
    let none = MeteredDevice::default();
    for (uuid, name) in uuids {
        let device = metered.devices.get(&uuid).unwrap_or(&none);
        let mut joined = device_joined(main, &uuid, device, &is_metered, &unix_s);
        // A device that the run did not touch, and on which nothing happened, is none of its business.
        if metered.devices.contains_key(&uuid) || joined.tensor_s().0 > 0.0 {
            joined.windows = coarse(joined.windows);
            // Of two neighbours what one lacks the other has.
            joined.sources.iter_mut().for_each(|s| s.lost_s = s.lost_s.max(0.0));
            into.devices.push(DeviceWitnessed { uuid, name, host: host.to_owned(), ..joined });
        }
    }
    into.processes.extend(processes(main, host, &is_metered, &unix_s));
}

fn bare(uuid: &str, name: &str, host: &str) -> DeviceWitnessed {
    DeviceWitnessed { uuid: uuid.to_owned(), name: name.to_owned(), host: host.to_owned(), ..DeviceWitnessed::default() }
}

fn device_joined(
    witness: &FileWitness,
    uuid: &str,
    metered: &MeteredDevice,
    is_metered: &impl Fn(Id) -> bool,
    unix_s: &impl Fn(u64) -> f64,
) -> DeviceWitnessed {
    let mut joined =
        DeviceWitnessed { listed: true, probed: witness.sources.ebpf.on, no_peak: metered.no_peak, ..DeviceWitnessed::default() };
    joined.metered_ns = metered.spans.length();
    let witnessed = witness.spans().merged();
    joined.covered_ns = metered.spans.merged().iter().flat_map(|m| witnessed.iter().map(move |w| overlap(*m, *w))).sum();
    let clocks = clocks(witness, uuid, metered, is_metered);
    // GPM counts from one moment over several intervals: each has what it adds to the one before.
    let mut before = (0, 0.0);
    for interval in &witness.intervals {
        let Some(on) = interval.devices.iter().find(|d| d.uuid == uuid) else { continue };
        joined.listed &= on.processes.is_some();
        if witness.sources.pm_sampling {
            add_source(&mut joined.sources, interval, on, unix_s);
        }
        if let Some(pm) = on.pm.as_ref().filter(|p| p.end_ns > p.start_ns) {
            if let Some(window) = joined_samples(&mut joined, pm, metered, unix_s) {
                joined.windows.push(window);
            }
            continue;
        }
        let Some(percent) = on.nvml.gpm_any_tensor_pct else { continue };
        let ns = interval.end_ns - interval.start_ns;
        joined.witnessed_ns += ns;
        let since = on.gpm_since_ns;
        let so_far = percent / 100.0 * interval.end_ns.saturating_sub(since) as f64 / 1e9;
        let device_tensor_s = so_far - if before.0 == since { before.1 } else { 0.0 };
        before = (since, so_far);
        if let Some(source) = joined.sources.last_mut() {
            source.tensor_s += device_tensor_s;
        }
        let length_s = ns as f64 / 1e9;
        let mut window = WindowWitnessed { unix_s: unix_s(interval.start_ns), length_s, device_tensor_s, metered_tensor_s: 0.0 };
        if let Some(hertz) = clocks.get(&since) {
            for slice in metered.slices.iter().flatten() {
                let part = part(slice, (interval.start_ns, interval.end_ns));
                window.metered_tensor_s += part * slice.cycles / hertz;
                joined.loose_s += part * f64::from(slice.loose) / hertz;
            }
        }
        match joined.windows.last_mut() {
            // An interval that was cut short tells little by itself.
            Some(last) if length_s < SHORT_S => *last = last.and(&window),
            _ => joined.windows.push(window),
        }
    }
    joined.listed &= !witness.intervals.is_empty();
    joined
}

/// What was sampled in an interval. Cycles are set beside cycles, at the clock of the samples themselves. Where samples were lost, only what is known of is taken
/// for witnessed, and as large a part of what was metered: when exactly nothing was sampled is not known.
fn joined_samples(
    joined: &mut DeviceWitnessed,
    pm: &PmReading,
    metered: &MeteredDevice,
    unix_s: &impl Fn(u64) -> f64,
) -> Option<WindowWitnessed> {
    let (device_tensor_s, hertz) = pm.tensor_s().zip(pm.hertz())?;
    let held_ns = pm.end_ns - pm.start_ns;
    let covered = (pm.sampled_ns as f64 / held_ns as f64).min(1.0);
    let mut window =
        WindowWitnessed { unix_s: unix_s(pm.start_ns), length_s: pm.sampled_ns as f64 / 1e9, device_tensor_s, metered_tensor_s: 0.0 };
    for slice in metered.slices.iter().flatten() {
        let part = covered * part(slice, (pm.start_ns, pm.end_ns));
        window.metered_tensor_s += part * slice.cycles / hertz;
        joined.loose_s += part * f64::from(slice.loose) / hertz;
    }
    joined.witnessed_ns = joined.witnessed_ns.saturating_add(pm.sampled_ns);
    joined.pm_ns = (joined.pm_ns.0.saturating_add(held_ns), joined.pm_ns.1.saturating_add(pm.sampled_ns));
    joined.pm_tensor_s = (joined.pm_tensor_s.0 + device_tensor_s, joined.pm_tensor_s.1 + window.metered_tensor_s);
    Some(window)
}

/// Says what told a device's activity in an interval; neighbours of one source are one stretch.
fn add_source(sources: &mut Vec<SourceWitnessed>, interval: &Interval, on: &OnDevice, unix_s: &impl Fn(u64) -> f64) {
    let held = on.pm.as_ref().filter(|p| p.end_ns > p.start_ns);
    let (source, (from, to)) = match held {
        Some(pm) => ("pm", (pm.start_ns, pm.end_ns)),
        None if on.nvml.gpm_any_tensor_pct.is_some() => ("gpm", (interval.start_ns, interval.end_ns)),
        None => ("none", (interval.start_ns, interval.end_ns)),
    };
    if let (None, Some(refused)) = (held, &on.pm) {
        let at = unix_s(refused.start_ns);
        let refused =
            SourceWitnessed { source: "pm", from_unix_s: at, to_unix_s: at, ended: refused.ended.clone(), ..SourceWitnessed::default() };
        sources.push(refused);
    }
    match sources.last_mut() {
        Some(last) if last.source == source && last.ended.is_empty() => last.to_unix_s = unix_s(to),
        _ => sources.push(SourceWitnessed { source, from_unix_s: unix_s(from), to_unix_s: unix_s(to), ..SourceWitnessed::default() }),
    }
    if let (Some(last), Some(pm)) = (sources.last_mut(), held) {
        last.tensor_s += pm.tensor_s().unwrap_or(0.0);
        for (sum, more) in [(&mut last.samples, pm.samples), (&mut last.dropped, pm.dropped), (&mut last.overflows, pm.overflows)] {
            *sum = sum.saturating_add(more);
        }
        last.lost_s += (pm.end_ns - pm.start_ns) as f64 / 1e9 - pm.sampled_ns as f64 / 1e9;
        last.ended.clone_from(&pm.ended);
    }
}

/// The mean SM clock, Hz, of each stretch that GPM counts over as one: GPM's share is one of cycles, those of pauses included.
fn clocks(witness: &FileWitness, uuid: &str, metered: &MeteredDevice, is_metered: &impl Fn(Id) -> bool) -> BTreeMap<u64, f64> {
    let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for interval in &witness.intervals {
        let Some(on) = interval.devices.iter().find(|d| d.uuid == uuid) else { continue };
        let ns = (interval.end_ns - interval.start_ns) as f64;
        let others = on.processes.iter().flatten().filter(|p| !is_metered(p.id)).count();
        let here: Vec<&Vec<Slice>> =
            metered.slices.iter().filter(|s| s.iter().any(|s| part(s, (interval.start_ns, interval.end_ns)) > 0.0)).collect();
        // The cycles that a context sees pass are the device's as long as nobody shares it; else, and in pauses, the clock is NVML's.
        let (mut seen_ns, mut cycles) = (0.0, 0.0);
        if let ([alone], 0) = (&here[..], others) {
            for slice in *alone {
                let both = overlap((slice.start_ns, slice.end_ns), (interval.start_ns, interval.end_ns)) as f64;
                let mhz = f64::from(slice.clock_mhz);
                if mhz > 0.0 && on.clock_mhz.is_none_or(|nvml| mhz > PLAUSIBLE * nvml) {
                    (seen_ns, cycles) = (seen_ns + both, cycles + both * mhz);
                }
            }
        }
        let sum = sums.entry(on.gpm_since_ns).or_default();
        match on.clock_mhz {
            Some(mhz) => *sum = (sum.0 + ns, sum.1 + cycles + (ns - seen_ns).max(0.0) * mhz),
            None => *sum = (sum.0 + seen_ns, sum.1 + cycles),
        }
    }
    sums.into_iter().filter(|(_, (ns, _))| *ns > 0.0).map(|(since, (ns, cycles))| (since, cycles / ns * 1e6)).collect()
}

fn overlap(a: (u64, u64), b: (u64, u64)) -> u64 {
    a.1.min(b.1).saturating_sub(a.0.max(b.0))
}

/// The share of a slice that lies in a stretch.
fn part(slice: &Slice, stretch: (u64, u64)) -> f64 {
    let both = overlap((slice.start_ns, slice.end_ns), stretch);
    if both == 0 { 0.0 } else { both as f64 / (slice.end_ns - slice.start_ns) as f64 }
}

/// Brings neighbours together until there are few enough.
fn coarse(mut windows: Vec<WindowWitnessed>) -> Vec<WindowWitnessed> {
    let each = windows.len().div_ceil(WINDOWS).max(1);
    if each == 1 {
        return windows;
    }
    windows.sort_by(|a, b| a.unix_s.total_cmp(&b.unix_s));
    windows.chunks(each).map(|group| group[1..].iter().fold(group[0], |sum, w| sum.and(w))).collect()
}

/// A process that was gone before it was asked who it was: the newest that the witness knows by this id.
fn known(witness: &FileWitness, id: Id) -> Id {
    let newest = || witness.seen.keys().filter(|k| k.pid == id.pid).max_by_key(|k| k.start_ticks).copied();
    if id.start_ticks == 0 { newest().unwrap_or(id) } else { id }
}

fn processes(witness: &FileWitness, host: &str, is_metered: &impl Fn(Id) -> bool, unix_s: &impl Fn(u64) -> f64) -> Vec<ProcessWitnessed> {
    let mut found: BTreeMap<Id, (ProcessWitnessed, u64, u64)> = BTreeMap::new();
    for (id, (at, seen)) in &witness.seen {
        let process =
            ProcessWitnessed { host: host.to_owned(), seen: seen.clone(), metered: is_metered(*id), ..ProcessWitnessed::default() };
        found.insert(*id, (process, *at, *at));
    }
    for interval in &witness.intervals {
        let seconds = (interval.end_ns - interval.start_ns) as f64 / 1e9;
        for device in &interval.devices {
            for on in device.processes.iter().flatten() {
                let (process, _, last) = found.entry(known(witness, on.id)).or_insert_with(|| {
                    let seen = Seen { id: on.id, own_pid: on.id.pid, how: "nvml".to_owned(), gone: true, ..Seen::default() };
                    let process =
                        ProcessWitnessed { host: host.to_owned(), seen, metered: is_metered(on.id), ..ProcessWitnessed::default() };
                    (process, interval.start_ns, interval.end_ns)
                });
                *last = (*last).max(interval.end_ns);
                let busy = process.devices.entry(device.uuid.clone()).or_default();
                if let Some(percent) = on.sm_pct {
                    *busy.get_or_insert(0.0) += percent / 100.0 * seconds;
                }
            }
        }
        for calls in &interval.callers {
            let Some((process, _, last)) = found.get_mut(&calls.id) else { continue };
            *last = (*last).max(interval.end_ns);
            calls.calls.iter().for_each(|(name, n)| *process.calls.entry(name.clone()).or_default() += n);
        }
    }
    for ended in witness.intervals.iter().flat_map(|i| &i.ended) {
        if let Some((process, _, last)) = found.get_mut(&ended.id) {
            (process.ended, *last) = (true, ended.at_ns);
        }
    }
    let end = witness.intervals.last().map_or(0, |i| i.end_ns);
    for (process, first, last) in found.values_mut() {
        // One that lives to the end, and was not listed by NVML, is there still.
        if !process.ended && process.seen.how != "nvml" && !process.seen.gone {
            *last = (*last).max(end);
        }
        let lived = witness.intervals.iter().filter(|i| i.launches_on_ns > 0 && overlap((*first, *last), (i.start_ns, i.end_ns)) > 0);
        process.launches_counted_s = lived.map(|i| i.launches_on_ns as f64 / 1e9).sum();
        (process.first_unix_s, process.last_unix_s) = (unix_s(*first), unix_s(*last));
    }
    found.into_values().map(|(process, _, _)| process).collect()
}

fn add_cpu(into: &mut Cpu, from: &Cpu) {
    for (a, b) in [(&mut into.job, &from.job), (&mut into.meter, &from.meter), (&mut into.witness, &from.witness)] {
        a.opened += b.opened;
        a.task_clock_ns += b.task_clock_ns;
        a.context_switches += b.context_switches;
        for (to, from) in [(&mut a.cycles, b.cycles), (&mut a.flop, b.flop)] {
            if let Some(n) = from {
                *to.get_or_insert(0) += n;
            }
        }
        b.floating_point.iter().for_each(|(name, n)| *a.floating_point.entry(name.clone()).or_default() += n);
    }
}
