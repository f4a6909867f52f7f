//! Brings processes together: by device, node and run, on one clock.
//!
//! Files of one machine share its `CLOCK_MONOTONIC`, whatever was done to its calendar clock meanwhile. Machines meet on their calendar clocks, which
//! may differ: ranks of one job begin and end together, so a machine whose first and last window are both off by the same amount has a clock
//! that is off, and is moved. What was done stands in [`RunTotal::clocks`]. Operations, device hours and energy are sums that no clock touches.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    DeviceTotal, RunTotal, add_paths,
    arithmetic::{Amount, add_up},
    file::{FileTotal, edges},
    job::{Key, Runs, only_model},
    join::{Metered, join},
    span::Spans,
    timeline::Timeline,
    witness::FileWitness,
};

/// Clocks of a job's machines may differ by this much unsaid: ranks do not begin at the same instant either.
const CLOCKS_AGREE_NS: u64 = 2_000_000_000;

/// A run being added up, file by file.
#[derive(Debug, Default)]
pub struct Ledger {
    run: RunTotal,
    seen: BTreeMap<String, String>,
    runs: Runs,
    devices: BTreeMap<String, Device>,
    machines: BTreeMap<String, Machine>,
    /// Runs in which a model was declared.
    models: BTreeMap<(u64, u64), BTreeSet<Key>>,
    /// Tokens of processes that declared none, by run.
    undeclared: BTreeMap<Key, u64>,
}

/// A device as several processes saw it.
#[derive(Debug, Default)]
struct Device {
    total: DeviceTotal,
    metered: Spans,
    energy: Vec<(u64, u64)>,
}

/// A machine since it was started.
#[derive(Debug, Default)]
struct Machine {
    host: String,
    /// Unix time less its own, by its files: the newest, the least and the most.
    offset_ns: (u64, i64),
    offsets: Option<(i64, i64)>,
    timeline: Timeline,
    witnesses: Vec<FileWitness>,
    metered: Metered,
}

impl Ledger {
    /// Adds a file; says whether it is another one than those before. The order in which files are added decides nothing but the order in which they are named.
    pub fn add(&mut self, file: FileTotal) -> bool {
        if let Some(first) = self.seen.get(&file.identity) {
            self.run.duplicates.push(format!("{} is the same evidence as {first}", file.process.file));
            return false;
        }
        self.seen.insert(file.identity, file.process.file.clone());
        let run = &mut self.run;
        run.simulated |= file.simulated;
        if let Some(witness) = file.witness {
            run.breaks.extend(file.breaks);
            let machine = self.machines.entry(file.boot).or_default();
            if machine.host.is_empty() {
                machine.host = file.process.host;
            }
            // Only where no metered process says it.
            machine.offset_ns = machine.offset_ns.max((0, file.offset_ns));
            machine.witnesses.push(*witness);
            return true;
        }
        let began = file.wall.range().map_or(0, |(start, _)| start);
        self.runs.add(&file.place, &file.boot, file.wall);
        run.breaks.extend(file.breaks);
        run.lines_lost.grow(file.lines_lost);
        run.slipped = (run.slipped.0.plus(file.slipped.0), run.slipped.1.plus(file.slipped.1));
        run.tokens.grow(file.tokens);
        run.steps = run.steps.max(file.steps);
        if file.models.is_empty() {
            self.undeclared.entry(file.place.key()).or_default().grow(file.tokens);
        }
        for (model, tokens) in file.models {
            run.models.entry(model).or_default().grow(tokens);
            self.models.entry(model).or_default().insert(file.place.key());
        }
        for fault in file.faults {
            if !run.faults.contains(&fault) {
                run.faults.push(fault);
            }
        }
        file.uncounted.into_iter().for_each(|(why, s)| *run.uncounted.entry(why).or_default() += s);
        run.uncovered.extend(file.uncovered);
        run.never_looked.extend(file.never_looked);
        run.unexplained.add(file.unexplained);
        file.libraries.into_iter().for_each(|(name, versions)| run.libraries.entry(name).or_default().extend(versions));
        run.kernels.add(&file.kernels);
        run.cores.add(&file.cores);
        if let Some(overhead) = &file.overhead {
            run.overhead.get_or_insert_default().add(overhead);
        }
        add_paths(&mut run.paths, &file.process.paths);
        add_paths(run.nodes.entry(file.process.host.clone()).or_default(), &file.process.paths);
        run.estimated.extend(file.process.estimated.iter().cloned());

        for seen in file.devices {
            let device = self.devices.entry(seen.uuid.clone()).or_default();
            let total = &mut device.total;
            (total.uuid, total.name) = (seen.uuid, seen.name);
            total.host.clone_from(&file.process.host);
            total.processes.insert(file.process.pid);
            add_paths(&mut total.paths, &seen.paths);
            total.peak.extend(seen.peak);
            total.core_peak = total.core_peak.max(seen.core_peak);
            // A device moves with its machine's clock: on one machine there is nothing to shift.
            device.metered.add_shifted(&seen.metered, 0);
            let metered = &mut self.machines.entry(file.boot.clone()).or_default().metered;
            let on = metered.devices.entry(total.uuid.clone()).or_default();
            on.name.clone_from(&total.name);
            on.spans.add_shifted(&seen.metered, 0);
            on.no_peak |= seen.no_peak;
            on.slices.push(seen.slices);
            device.energy.extend(seen.energy);
        }
        let machine = self.machines.entry(file.boot).or_default();
        machine.metered.processes.insert(file.own);
        if machine.host.is_empty() {
            machine.host.clone_from(&file.process.host);
        }
        machine.offset_ns = machine.offset_ns.max((began, file.offset_ns));
        machine.offsets =
            Some(machine.offsets.map_or((file.offset_ns, file.offset_ns), |(a, b)| (a.min(file.offset_ns), b.max(file.offset_ns))));
        machine.timeline.add(&file.timeline, 0);
        run.processes.push(file.process);
        true
    }

    /// The run.
    #[must_use]
    pub fn total(mut self) -> RunTotal {
        for (run, tokens) in std::mem::take(&mut self.undeclared) {
            match only_model(&run, self.models.iter().map(|(model, runs)| (*model, runs))) {
                Some(model) => self.run.models.entry(model).or_default().grow(tokens),
                None => self.run.undeclared.grow(tokens),
            }
        }
        let runs = self.runs.runs();
        let mut offsets: BTreeMap<&String, i64> = self.machines.iter().map(|(boot, m)| (boot, m.offset_ns.1)).collect();
        for machine in self.machines.values() {
            let apart = machine.offsets.map_or(0, |(a, b)| a.abs_diff(b));
            if apart > CLOCKS_AGREE_NS {
                self.run.clocks.push(format!(
                    "the clock of {} was set by {:.0} s during the run: what its newest evidence says is used for all of it",
                    machine.host,
                    apart as f64 / 1e9
                ));
            }
        }
        for run in runs.iter().filter(|r| r.metered.len() > 1) {
            align(&run.metered, &self.machines, &mut offsets, &mut self.run.clocks);
        }
        let mut wall = Spans::default();
        for run in &runs {
            let mut machines = Spans::default();
            for (boot, metered) in &run.metered {
                machines.add_shifted(metered, offsets[boot]);
            }
            // Pauses inside a run are part of it; what lies between two runs is not.
            if let Some((start, end)) = machines.range() {
                wall.add(start, end);
            }
        }
        for (boot, machine) in &self.machines {
            self.run.timeline.add(&machine.timeline, offsets[boot]);
            join(&mut self.run.witnessed, &machine.host, offsets[boot], &machine.witnesses, &machine.metered);
        }
        self.run.wall_ns = wall.length();
        (self.run.began_unix_ns, self.run.ended_unix_ns) = wall.range().unwrap_or_default();
        self.run.runs = runs;
        self.run.devices = self.devices.into_values().map(Device::total).collect();
        self.run
    }
}

/// Moves the clocks of machines that are off, and says so.
fn align<'a>(
    metered: &BTreeMap<String, Spans>,
    machines: &'a BTreeMap<String, Machine>,
    offsets: &mut BTreeMap<&'a String, i64>,
    said: &mut Vec<String>,
) {
    let mut ranges: Vec<(&String, (u64, u64))> = Vec::new();
    for (boot, spans) in metered {
        if let (Some((boot, _)), Some((start, end))) = (machines.get_key_value(boot), spans.range()) {
            let unix = |ns: u64| ns.saturating_add_signed(offsets[boot]);
            ranges.push((boot, (unix(start), unix(end))));
        }
    }
    ranges.sort_by_key(|(boot, (start, _))| (*start, *boot));
    let Some((_, (start, end))) = ranges.get(ranges.len() / 2).copied() else { return };
    for (boot, (its_start, its_end)) in ranges {
        let off = its_start.cast_signed().saturating_sub(start.cast_signed());
        let at_its_end = its_end.cast_signed().saturating_sub(end.cast_signed());
        let host = &machines[boot].host;
        if off.unsigned_abs() <= CLOCKS_AGREE_NS {
            continue;
        }
        if off.abs_diff(at_its_end) <= CLOCKS_AGREE_NS {
            let offset = offsets.entry(boot).or_default();
            *offset = offset.saturating_sub(off);
            let (seconds, way) = (off.unsigned_abs() as f64 / 1e9, if off > 0 { "ahead of" } else { "behind" });
            said.push(format!("the clock of {host} is {seconds:.0} s {way} the other nodes': its times were moved"));
        } else if its_end < start || end < its_start {
            said.push(format!(
                "{host} was metered at another time than the job's other nodes, or its clock is off: the wall clock time may be wrong (set the nodes' clocks by NTP)"
            ));
        }
    }
}

impl Device {
    fn total(mut self) -> DeviceTotal {
        self.total.metered_ns = self.metered.length();
        let energy = edges(&self.energy, &self.metered);
        let used = energy.chunks_exact(2).map(|pair| pair[1].1.saturating_sub(pair[0].1));
        self.total.energy_mj = (!energy.is_empty()).then(|| add_up(used));
        self.total
    }
}
