//! Which processes belong to one run, and which of its ranks left no evidence.
//!
//! A launcher names the job and says how many processes it has. Processes of one name are one run, however many folders and nodes their evidence is
//! from; without a name, those that one process started are (`FLOPSPROF_RUN`), and such groups are one when their ranks complete each other.

use std::collections::{BTreeMap, BTreeSet};

use super::span::Spans;
use crate::evidence::record::Start;

/// What launchers call a job.
const NAMES: [&str; 4] = ["TRAINING_JOB_NAME", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "JOB_NAME"];
/// Rank and number of ranks, by launcher. The innermost first: under `srun torchrun` Slurm counts launchers, torchrun the processes.
const PLACES: [(&str, &str); 3] =
    [("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")];

/// A process's place in its job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// What its run is called.
    pub name: String,
    /// Whether the launcher named it, or it is named after the process that started it.
    pub named: bool,
    /// Its rank.
    pub rank: Option<u64>,
    /// Ranks of the job.
    pub world: Option<u64>,
}

/// What processes of one run have in common: whether a launcher named it, and its name.
pub type Key = (bool, String);

impl Place {
    /// What the processes of its run have in common.
    #[must_use]
    pub fn key(&self) -> Key {
        (self.named, self.name.clone())
    }

    /// As the first record says.
    #[must_use]
    pub fn of(start: &Start) -> Self {
        let name = NAMES.iter().filter_map(|n| start.job.get(*n)).find(|v| !v.is_empty() && *v != "none");
        let number = |name: &str| start.job.get(name).and_then(|v| v.parse::<u64>().ok());
        let (rank, world) =
            PLACES.iter().map(|(r, w)| (number(r), number(w))).find(|(r, w)| r.is_some() || w.is_some()).unwrap_or_default();
        let own = || start.configuration.get(crate::inject::config::RUN).cloned().unwrap_or_default();
        Self { named: name.is_some(), name: name.cloned().unwrap_or_else(own), rank, world }
    }
}

/// Whose the rows and tokens are of a process that declared no model: of the only model that others of its run declared, or of the only one there is. Of several nobody
/// says which, and there is none.
pub fn only_model<'a, M>(of: &Key, models: impl Iterator<Item = (M, &'a BTreeSet<Key>)>) -> Option<M> {
    let (mut all, mut own) = (Vec::new(), Vec::new());
    for (model, runs) in models {
        if runs.contains(of) { own.push(model) } else { all.push(model) }
    }
    let few = if own.is_empty() { &mut all } else { &mut own };
    if few.len() == 1 { few.pop() } else { None }
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The job's name, or that of the process that started it.
    pub name: String,
    /// The launcher named it.
    pub named: bool,
    /// Metered processes.
    pub processes: u64,
    /// Ranks that left evidence.
    pub ranks: BTreeSet<u64>,
    /// Ranks that the launcher says there are; none where it does not say.
    pub world: Option<u64>,
    /// Metered time by machine (its boot), on the machine's own clock.
    pub metered: BTreeMap<String, Spans>,
}

impl Run {
    /// Ranks without evidence: each that is known to be missing, or as many as there are too few processes.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let present = if self.ranks.is_empty() { self.processes } else { self.ranks.len() as u64 };
        self.world.map_or(0, |w| w.saturating_sub(present))
    }

    /// The missing ranks by number, first and last of each stretch; empty where none has a number.
    #[must_use]
    pub fn missing_ranks(&self) -> Vec<(u64, u64)> {
        let (mut missing, mut next) = (Vec::new(), 0);
        let world = self.world.filter(|_| !self.ranks.is_empty()).unwrap_or(0);
        for rank in self.ranks.iter().copied().filter(|r| *r < world).chain([world]) {
            if rank > next {
                missing.push((next, rank - 1));
            }
            next = rank.saturating_add(1);
        }
        missing
    }

    fn add(&mut self, other: Self) {
        self.processes += other.processes;
        self.ranks.extend(other.ranks);
        self.world = self.world.max(other.world);
        for (boot, spans) in other.metered {
            let ours = self.metered.entry(boot).or_default();
            ours.add_shifted(&spans, 0);
            *ours = ours.compact();
        }
    }

    /// Whether two runs without a job's name are parts of one: a launcher that is not metered itself starts ranks that have no name in common.
    fn completes(&self, other: &Self) -> bool {
        self.world == other.world && self.world > Some(1) && !self.ranks.is_empty() && self.ranks.is_disjoint(&other.ranks)
    }
}

/// Runs being told apart.
#[derive(Clone, Debug, Default)]
pub struct Runs(BTreeMap<Key, Run>);

impl Runs {
    /// Adds a process.
    pub fn add(&mut self, place: &Place, boot: &str, metered: Spans) {
        let run = Run {
            name: place.name.clone(),
            named: place.named,
            processes: 1,
            ranks: place.rank.into_iter().collect(),
            world: place.world,
            metered: BTreeMap::from([(boot.to_owned(), metered)]),
        };
        self.0.entry(place.key()).or_insert_with(|| Run { name: place.name.clone(), named: place.named, ..Run::default() }).add(run);
    }

    /// The runs.
    #[must_use]
    pub fn runs(self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for ((named, _), run) in self.0 {
            match runs.iter_mut().find(|r| !named && r.completes(&run)) {
                Some(whole) => whole.add(run),
                None => runs.push(run),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(job: &[(&str, &str)], run: &str) -> Place {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Place::of(&Start { job: owned(job), configuration: owned(&[("FLOPSPROF_RUN", run)]), ..Start::default() })
    }

    fn runs(places: &[(Place, &str)]) -> Vec<Run> {
        let mut runs = Runs::default();
        places.iter().for_each(|(p, boot)| runs.add(p, boot, Spans::default()));
        runs.runs()
    }

    #[test]
    fn ranks_of_one_job_meet_and_the_missing_are_named() {
        let rank = |r, node| (place(&[("SLURM_JOB_ID", "7"), ("RANK", r), ("WORLD_SIZE", "4")], "any"), node);
        let found = runs(&[rank("0", "a"), rank("3", "b"), rank("3", "b")]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].processes, found[0].missing(), found[0].missing_ranks()), (3, 2, vec![(1, 2)]));
    }

    #[test]
    fn processes_without_a_jobs_name_are_one_run_when_their_ranks_complete_each_other() {
        let rank = |r, run, node| (place(&[("RANK", r), ("WORLD_SIZE", "2"), ("TORCHELASTIC_RUN_ID", "none")], run), node);
        assert_eq!(runs(&[rank("0", "1-1", "a"), rank("1", "2-2", "b")]).len(), 1);
        // The same rank twice: two runs, each of which lacks one.
        let two = runs(&[rank("0", "1-1", "a"), rank("0", "2-2", "b")]);
        assert_eq!(two.iter().map(Run::missing).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn what_nobody_declared_is_of_the_only_model_of_its_run() {
        let run = |name: &str| (true, name.to_owned());
        let models = |of: &[(char, &[&str])]| -> Vec<(char, BTreeSet<Key>)> {
            of.iter().map(|(m, runs)| (*m, runs.iter().map(|r| run(r)).collect())).collect()
        };
        let whose = |of: &str, models: &[(char, BTreeSet<Key>)]| only_model(&run(of), models.iter().map(|(m, runs)| (*m, runs)));
        assert_eq!(whose("7", &models(&[])), None);
        assert_eq!(whose("7", &models(&[('a', &["8"])])), Some('a'), "there is no other");
        let two = models(&[('a', &["7", "8"]), ('b', &["8"])]);
        assert_eq!([whose("7", &two), whose("8", &two), whose("9", &two)], [Some('a'), None, None]);
    }

    #[test]
    fn under_srun_torchrun_says_the_ranks() {
        let place = place(&[("RANK", "5"), ("WORLD_SIZE", "16"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2")], "");
        assert_eq!((place.rank, place.world), (Some(5), Some(16)));
    }

    #[test]
    fn two_programs_one_after_the_other_are_two_runs() {
        assert_eq!(runs(&[(place(&[], "1-1"), "a"), (place(&[], "2-2"), "a")]).len(), 2);
    }
}
