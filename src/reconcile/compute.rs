//! From a run's ledger to what the rule asks for: what was executed, how sure that is, and what is missing.
//!
//! The interval is honest about what the counters do not see. What was counted is certain. What was interpolated has three standard errors. Operations outside the tensor
//! cores are not counted (reading them would instrument the program's code), so the upper end holds the most that the CUDA cores could have done in the metered
//! time. Everything that is missing becomes a [`Gap`], with the most that the hardware could have done in its time where that time is known, and without an
//! end where it is not: a missing rank, a lost line.

use crate::{
    ledger::{self, DeviceTotal, PathTotal, RunTotal, unexplained::Unexplained},
    rule::{Amount, Component, Gap, Input, Kind, Origin, Statement, split},
};

/// What a run executed, as the rule wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Executed {
    /// Operations, whatever they were for.
    pub amount: Amount,
    /// How they were come by.
    pub source: String,
    /// What is missing.
    pub gaps: Vec<Gap>,
    /// Why the evidence cannot be relied on.
    pub doubts: Vec<String>,
    /// The stand-in GPU was used.
    pub simulated: bool,
}

impl Executed {
    /// As one component: what it was for is the caller's to say.
    #[must_use]
    pub fn component(&self, kind: Kind, what: &str) -> Component {
        Component { kind, what: what.to_owned(), amount: self.amount, source: self.source.clone() }
    }

    /// A single run as the rule's input: its operations are training, less the parts that were something else, beside what was not executed in it.
    ///
    /// # Errors
    /// [`crate::rule::Error`] when the parts are more than the whole.
    pub fn input(&self, origin: Origin, parts: Vec<Component>, besides: Vec<Component>) -> Result<Input, crate::rule::Error> {
        let mut components = split(self.component(Kind::Training, "operations of this run"), parts)?;
        components.extend(besides);
        Ok(Input { origin, components, gaps: self.gaps.clone(), doubts: self.doubts.clone(), simulated: self.simulated })
    }
}

/// What the counters do not see, for the report's assumptions.
#[must_use]
pub fn assumption() -> Statement {
    Statement {
        text: "operations outside the tensor cores (optimizer, normalisation, activation functions) are not counted; the upper end of the interval holds the \
               most that the CUDA cores could have done in the metered time"
            .to_owned(),
        citation: None,
    }
}

/// What a run executed.
#[must_use]
pub fn executed(run: &RunTotal) -> Executed {
    let total = ledger::sum(&run.paths);
    let mut gaps = Vec::new();
    let (known, unknown): (Vec<_>, Vec<_>) = run.paths.values().partition(|p| p.variance.is_some());
    let variance: f64 = known.iter().filter_map(|p| p.variance).sum();
    let counted = total.counted;
    let mut amount = Amount::with_error(total.total(), counted, variance.sqrt());
    // Interpolated with no known error: it may have been nothing.
    amount.low = amount.low.saturating_sub(ledger::arithmetic::add_up(unknown.iter().map(|p| p.interpolated))).max(counted);
    match cores(run) {
        Some(flop) => amount.high = amount.high.saturating_add(flop),
        None => gaps.push(gap("operations outside the tensor cores, on a GPU whose size or clock is not known", None)),
    }
    without_error(run, &mut gaps);
    unexplained(run, &mut gaps);
    match run.unmeasured() {
        None => not_looked_at(run, &mut gaps),
        Some(why) if run.estimated.is_empty() => gaps.push(gap(format!("nothing was measured: {why}"), None)),
        Some(_) => {}
    }
    lost(run, &mut gaps);
    let source = format!(
        "GPU operation counters: {counted} FLOP counted, {} interpolated{}",
        total.interpolated,
        if run.simulated { " (simulated)" } else { "" }
    );
    Executed { amount, source, gaps, doubts: doubts(run), simulated: run.simulated }
}

fn gap(what: impl Into<String>, at_most: Option<f64>) -> Gap {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates, and is not negative")]
    Gap { what: what.into(), at_most: at_most.filter(|f| f.is_finite()).map(|f| f.max(0.0).ceil() as u128) }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The most that the CUDA cores did while metered; none where a device does not say how large it is.
fn cores(run: &RunTotal) -> Option<u128> {
    let each = run.devices.iter().map(|d| (d.core_peak > 0.0).then(|| d.core_peak * seconds(d.metered_ns)));
    gap("", each.sum::<Option<f64>>()).at_most
}

/// The most that any path of a device does in a second.
fn peak(device: &DeviceTotal) -> Option<f64> {
    device.peak.values().copied().reduce(f64::max)
}

/// Intervals in which a path was not looked at, and whose scatter is not known.
fn without_error(run: &RunTotal, gaps: &mut Vec<Gap>) {
    let doubtful = |path: &String, t: &PathTotal| run.unexplained.paths.contains(path) && t.total() == 0;
    for (path, _) in run.paths.iter().filter(|(path, t)| t.variance.is_none() && !doubtful(path, t)) {
        let most = |d: &DeviceTotal| match d.paths.get(path) {
            None => Some(0.0),
            Some(PathTotal { looked_ns: (on, all), .. }) => d.peak.get(path).map(|p| p * seconds(all.saturating_sub(*on))),
        };
        let at_most = run.devices.iter().map(most).sum::<Option<f64>>();
        gaps.push(gap(format!("{path} was looked at too rarely to know the error of what lies between"), at_most));
    }
}

/// Kernels that may have executed what nobody looked at: at most as much as the fastest of their paths does. At any moment a tensor core is on one path.
fn unexplained(run: &RunTotal, gaps: &mut Vec<Gap>) {
    let Unexplained { kernels, paths } = &run.unexplained;
    if kernels.is_empty() {
        return;
    }
    let most = |d: &DeviceTotal| {
        let peaks = paths.iter().map(|path| d.peak.get(path).copied()).collect::<Option<Vec<f64>>>()?;
        Some(peaks.into_iter().fold(0.0, f64::max) * seconds(d.metered_ns))
    };
    let what = format!(
        "{} kernel(s) that make products by their names executed nothing that a census saw, and what they did on paths that were hardly looked at is not known",
        kernels.len()
    );
    gaps.push(gap(what, run.devices.iter().map(most).sum::<Option<f64>>()));
}

/// Paths that the chip has and nobody looked at.
fn not_looked_at(run: &RunTotal, gaps: &mut Vec<Gap>) {
    let most = |path: &str| {
        let of = |d: &DeviceTotal| d.peak.get(path).map(|p| p * seconds(d.metered_ns));
        if run.devices.is_empty() { None } else { run.devices.iter().map(of).sum::<Option<f64>>() }
    };
    for path in &run.uncovered {
        gaps.push(gap(format!("{path} cannot be read in one pass on this chip"), most(path)));
    }
    for path in run.never_looked.iter().filter(|p| !run.paths.contains_key(*p)) {
        gaps.push(gap(format!("{path} was never looked at: the run was too short for its turn"), most(path)));
    }
}

/// Processes, ranks, lines and launches that are missing.
fn lost(run: &RunTotal, gaps: &mut Vec<Gap>) {
    for e in &run.estimated {
        let at_most = run.devices.iter().find(|d| d.name == e.device).and_then(peak).map(|p| p * e.seconds);
        gaps.push(gap(format!("{:.0} s on {} were not counted ({})", e.seconds, e.device, e.why), at_most));
    }
    for process in &run.processes {
        let who = format!("process {} on {}", process.pid, process.host);
        if !process.ended {
            let on_host = run.devices.iter().filter(|d| d.host == process.host).map(peak);
            let rate = if process.metered_ns == 0 { None } else { on_host.sum::<Option<f64>>() };
            gaps.push(gap(
                format!("{who} has no last record (killed, or still running): the window that is open is not in it"),
                rate.map(|r| r * seconds(process.missing_ns())),
            ));
        }
        if process.metered_ns == 0 && process.faults > 0 {
            gaps.push(gap(format!("{who} was not metered: see its faults"), None));
        }
    }
    for fault in run.beside() {
        gaps.push(gap(fault.what.clone(), None));
    }
    for job in run.runs.iter().filter(|r| r.missing() > 0) {
        gaps.push(gap(format!("{} of the job's {} ranks left no evidence here", job.missing(), job.world.unwrap_or(0)), None));
    }
    for file in &run.unreadable {
        gaps.push(gap(format!("a file of the run holds no evidence: {file}"), None));
    }
    if run.lines_lost > 0 {
        gaps.push(gap(format!("{} lines of evidence could not be written", run.lines_lost), None));
    }
    if run.slipped.0 > 0 {
        let rate = run.devices.iter().map(peak).sum::<Option<f64>>();
        gaps.push(gap(format!("{} launches went uncounted at a boundary", run.slipped.0), rate.map(|r| r * seconds(run.slipped.1))));
    }
    if run.processes.is_empty() {
        gaps.push(gap("there is no evidence", None));
    }
}

fn doubts(run: &RunTotal) -> Vec<String> {
    run.breaks.iter().map(|b| format!("evidence was changed after it was written: {b}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ledger::{ProcessTotal, job::Run};

    const PATH: &str = "sm__ops_path_tensor_src_bf16_dst_fp32";

    fn device(seconds: u64) -> DeviceTotal {
        DeviceTotal {
            uuid: "GPU-1".to_owned(),
            name: "H".to_owned(),
            host: "node".to_owned(),
            metered_ns: seconds * 1_000_000_000,
            peak: BTreeMap::from([(PATH.to_owned(), 1e15)]),
            core_peak: 1e14,
            ..DeviceTotal::default()
        }
    }

    fn process(ended: bool) -> ProcessTotal {
        ProcessTotal {
            file: "node-1-1.jsonl".to_owned(),
            host: "node".to_owned(),
            pid: 1,
            comm: "train".to_owned(),
            rank: Some("0".to_owned()),
            paths: BTreeMap::new(),
            estimated: Vec::new(),
            ended,
            meter_cpu_ns: 0,
            metered_ns: 100_000_000_000,
            held: (0, 0),
            open_window_ns: 60_000_000_000,
            faults: 0,
        }
    }

    fn run(ended: bool) -> RunTotal {
        let path = PathTotal { counted: 10u128.pow(16), variance: Some(0.0), looked_ns: (100, 100), ..PathTotal::default() };
        RunTotal {
            paths: BTreeMap::from([(PATH.to_owned(), path)]),
            devices: vec![device(100)],
            processes: vec![process(ended)],
            ..RunTotal::default()
        }
    }

    #[test]
    fn what_was_counted_is_certain_and_the_cuda_cores_stand_in_the_upper_end() {
        let e = executed(&run(true));
        assert_eq!((e.amount.flop, e.amount.low, e.amount.high), (10u128.pow(16), 10u128.pow(16), 2 * 10u128.pow(16)));
        assert!(e.gaps.is_empty() && e.doubts.is_empty());
    }

    #[test]
    fn a_killed_process_costs_at_most_a_window_at_the_hardware_s_peak() {
        let gaps = executed(&run(false)).gaps;
        assert_eq!(gaps.len(), 1);
        assert_eq!(gaps[0].at_most, Some(6 * 10u128.pow(16)));
    }

    #[test]
    fn nobody_can_say_what_a_missing_rank_or_a_lost_line_did() {
        let job = Run { processes: 1, ranks: [0].into(), world: Some(2), ..Run::default() };
        let gaps = executed(&RunTotal { runs: vec![job], lines_lost: 3, unreadable: vec!["x.jsonl".to_owned()], ..run(true) }).gaps;
        assert_eq!(gaps.len(), 3);
        assert!(gaps.iter().all(|g| g.at_most.is_none()));
    }

    #[test]
    fn a_gpu_of_unknown_size_has_no_upper_end() {
        let mut run = run(true);
        run.devices[0].core_peak = 0.0;
        assert_eq!(executed(&run).gaps[0].at_most, None);
    }

    #[test]
    fn an_interpolation_of_unknown_error_may_have_been_nothing_or_the_peak() {
        let mut run = run(true);
        let path = PathTotal { counted: 5, interpolated: 95, looked_ns: (10, 1_000_000_010), ..PathTotal::default() };
        run.paths.insert(PATH.to_owned(), path.clone());
        run.devices[0].paths.insert(PATH.to_owned(), path);
        let e = executed(&run);
        assert_eq!((e.amount.flop, e.amount.low), (100, 5));
        assert_eq!(e.gaps[0].at_most, Some(10u128.pow(15)));
    }

    /// Three paths may have been used, one at a time: no more than the fastest does in all of the time.
    #[test]
    fn what_kernels_did_where_nobody_looked_is_at_most_the_fastest_path_s_peak() {
        let mut run = run(true);
        let doubtful = PathTotal { variance: None, looked_ns: (1, 100), ..PathTotal::default() };
        for (path, peak) in [("a", 5e14), ("b", 2e15), ("c", 1e15)] {
            run.paths.insert(path.to_owned(), doubtful.clone());
            run.unexplained.paths.insert(path.to_owned());
            run.devices[0].peak.insert(path.to_owned(), peak);
        }
        run.unexplained.kernels.insert("gemm".to_owned(), Some(0.1));
        let gaps = executed(&run).gaps;
        assert_eq!((gaps.len(), gaps[0].at_most), (1, Some(2 * 10u128.pow(17))));
        // A path that was never on has no peak.
        run.devices[0].peak.remove("c");
        assert_eq!(executed(&run).gaps[0].at_most, None);
    }

    #[test]
    fn a_part_larger_than_the_whole_is_refused() {
        let e = executed(&run(true));
        let part = Component { amount: Amount::exact(10u128.pow(17)), ..e.component(Kind::Evaluation, "evaluation") };
        assert!(matches!(e.input(Origin::Scratch, vec![part], vec![]), Err(crate::rule::Error::PartExceedsWhole { .. })));
    }
}
