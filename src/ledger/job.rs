//! Which evidence files are of one run.
//!
//! Ranks of one job meet in one folder, and so do the processes of a restart. A second training that was sent to the same folder by mistake does too, and
//! its operations would be added to the first one's silently. What tells them apart: the launcher's name of the job; without one, the run's name that the
//! first process chose and its children inherited. Where ranks were started without a launcher that names the job, each has a name of its own: then those
//! that ran at the same time are one run.

use std::collections::{BTreeMap, BTreeSet};

use crate::evidence::read::ProcessEvidence;

/// Variables that name a job. Not all that the evidence holds: the index of a Kubernetes job's pod differs from rank to rank.
const JOB_NAMES: [&str; 4] = ["TRAINING_JOB_NAME", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "JOB_NAME"];
/// The run's name where nothing names the job.
const RUN_NAME: &str = "FLOPSPROF_RUN";

/// A run among the files of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// How it is named: `SLURM_JOB_ID=17`, `FLOPSPROF_RUN=4711`.
    pub names: BTreeSet<String>,
    /// Its files, as places in the list that was given.
    pub files: Vec<usize>,
    /// From its first record to its last, Unix time, ns.
    span: (u64, u64),
}

/// Tells the runs among evidence files apart; in the order of time.
#[must_use]
pub fn runs(files: &[ProcessEvidence]) -> Vec<Run> {
    let mut named: BTreeMap<String, Run> = BTreeMap::new();
    for (i, file) in files.iter().enumerate() {
        let run = named.entry(name(file)).or_insert_with_key(|n| Run {
            names: BTreeSet::from([n.clone()]),
            files: Vec::new(),
            span: (u64::MAX, 0),
        });
        let begin = file.start.unix_ns;
        let end = begin + file.lines.last().map_or(0, |l| l.at_ns.saturating_sub(file.start_ns));
        run.span = (run.span.0.min(begin), run.span.1.max(end));
        run.files.push(i);
    }
    let mut named: Vec<Run> = named.into_values().collect();
    named.sort_by_key(|r| r.span);
    let mut runs: Vec<Run> = Vec::new();
    for run in named {
        let launched = |r: &Run| !r.names.iter().all(|n| n.starts_with(RUN_NAME));
        match runs.last_mut() {
            Some(last) if !launched(last) && !launched(&run) && run.span.0 <= last.span.1 => {
                last.names.extend(run.names);
                last.files.extend(run.files);
                last.span.1 = last.span.1.max(run.span.1);
            }
            _ => runs.push(run),
        }
    }
    runs
}

fn name(file: &ProcessEvidence) -> String {
    let of = |name: &str, value: Option<&String>| value.filter(|v| !v.is_empty() && *v != "none").map(|v| format!("{name}={v}"));
    let job = JOB_NAMES.iter().find_map(|n| of(n, file.start.job.get(*n)));
    job.or_else(|| of(RUN_NAME, file.start.configuration.get(RUN_NAME))).unwrap_or_else(|| format!("{RUN_NAME} not set"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::record::Start;

    fn file(job: Option<&str>, run: &str, begin_s: u64) -> ProcessEvidence {
        let mut start = Start { unix_ns: begin_s * 1_000_000_000, ..Start::default() };
        start.job.extend(job.map(|j| ("SLURM_JOB_ID".to_owned(), j.to_owned())));
        start.configuration.insert(RUN_NAME.to_owned(), run.to_owned());
        ProcessEvidence {
            path: "x.jsonl".into(),
            start,
            start_ns: 0,
            lines: vec![crate::evidence::record::Line {
                prev: String::new(),
                seq: 0,
                at_ns: 10_000_000_000,
                record: crate::evidence::record::Record::End(crate::evidence::record::End::default()),
            }],
            breaks: vec![],
            torn_tail: false,
            hashes: vec![],
            ended: true,
        }
    }

    #[test]
    fn ranks_and_restarts_of_a_job_are_one_run() {
        assert_eq!(runs(&[file(Some("7"), "1", 0), file(Some("7"), "2", 500)]).len(), 1);
        assert_eq!(runs(&[file(None, "1", 0), file(None, "1", 500)]).len(), 1);
    }

    #[test]
    fn another_job_or_a_later_start_is_another_run() {
        assert_eq!(runs(&[file(Some("7"), "1", 0), file(Some("8"), "1", 0)]).len(), 2);
        assert_eq!(runs(&[file(None, "1", 0), file(None, "2", 500)]).len(), 2);
    }

    #[test]
    fn what_ran_at_the_same_time_without_a_job_s_name_is_one_run() {
        assert_eq!(runs(&[file(None, "1", 0), file(None, "2", 5), file(None, "3", 14)]).len(), 1);
    }
}
