//! Which group is on next, and for how long.
//!
//! Most of what a modern chip's libraries execute stands in every group, and is counted whichever is on. The rest takes turns:
//!
//! 1. **Survey.** One short window for each group, to see which turn-taking paths the program uses.
//! 2. **Main.** The groups whose turn-taking paths are in use share the time, round robin; when none is, all groups do, which costs nothing, because a
//!    window's end renews the session anyway. Windows grow from short to the steady length, so that a short program is counted in pieces too.
//! 3. **Probe.** While some groups are kept off, each gets a short turn now and then. A probe that finds something makes its group a main one; a main
//!    group that finds nothing three times in a row goes back to being probed.

use std::{collections::BTreeMap, time::Duration};

use crate::counter::plan::Plan;

/// Length of a survey window. Long enough that a training step's kernels show (steps are 10 to 1000 ms: one that a survey misses, a probe finds).
const SURVEY: Duration = Duration::from_millis(100);
/// Lengths before the steady one is reached.
const RAMP: [Duration; 4] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5)];
/// Length of a probe.
const PROBE: Duration = Duration::from_millis(250);
/// Main time between probes: with two boundaries of some 30 ms for each probe, 0.1 % of the time at most.
const BETWEEN_PROBES: Duration = Duration::from_secs(60);
/// Main windows without a turn-taking operation after which a group is only probed.
const IDLE_WINDOWS: u32 = 3;

/// What is on next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Index of the group.
    pub group: usize,
    /// How long.
    pub length: Duration,
}

/// The schedule of one device.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Turn-taking paths of each group.
    turns: Vec<Vec<String>>,
    steady: Duration,
    surveyed: usize,
    ramped: usize,
    /// Main windows in a row in which the group's turn-taking paths stood still; none while the group is not a main one.
    in_use: Vec<Option<u32>>,
    last_main: Option<usize>,
    last_probe: Option<usize>,
    since_probe: Duration,
}

impl Schedule {
    /// The schedule for a plan, with windows of `steady` length once it runs.
    #[must_use]
    pub fn new(plan: &Plan, steady: Duration) -> Self {
        let turns: Vec<Vec<String>> = plan.turns().into_iter().map(|g| g.into_iter().map(str::to_owned).collect()).collect();
        Self {
            // With one group there is nothing to look for.
            surveyed: if turns.len() <= 1 { turns.len() } else { 0 },
            in_use: vec![None; turns.len()],
            turns,
            steady,
            ramped: 0,
            last_main: None,
            last_probe: None,
            since_probe: Duration::ZERO,
        }
    }

    /// What is on next. None without groups.
    pub fn turn(&mut self) -> Option<Turn> {
        if self.turns.is_empty() {
            return None;
        }
        if self.surveyed < self.turns.len() {
            self.surveyed += 1;
            return Some(Turn { group: self.surveyed - 1, length: SURVEY.min(self.steady) });
        }
        let used: Vec<usize> = (0..self.turns.len()).filter(|g| self.in_use[*g].is_some()).collect();
        let unused: Vec<usize> = (0..self.turns.len()).filter(|g| self.in_use[*g].is_none()).collect();
        if !used.is_empty() && !unused.is_empty() && self.since_probe >= BETWEEN_PROBES {
            self.since_probe = Duration::ZERO;
            let group = after(&unused, self.last_probe);
            self.last_probe = Some(group);
            return Some(Turn { group, length: PROBE.min(self.steady) });
        }
        let main = if used.is_empty() { unused } else { used };
        let group = after(&main, self.last_main);
        self.last_main = Some(group);
        // Each step of the ramp goes once round the main groups, so that none of them is favoured.
        let length = RAMP.get(self.ramped / main.len()).copied().unwrap_or(self.steady).min(self.steady);
        self.ramped += 1;
        self.since_probe += length;
        Some(Turn { group, length })
    }

    /// Tells what a window counted.
    pub fn counted(&mut self, group: usize, counts: &BTreeMap<String, u128>) {
        let (Some(turns), Some(state)) = (self.turns.get(group), self.in_use.get_mut(group)) else { return };
        if turns.iter().any(|path| counts.get(path).is_some_and(|n| *n > 0)) {
            *state = Some(0);
        } else if let Some(idle) = state {
            *idle += 1;
            if *idle >= IDLE_WINDOWS {
                *state = None;
            }
        }
    }
}

/// The one in a sorted list that follows `last`, round robin.
fn after(list: &[usize], last: Option<usize>) -> usize {
    list.iter().copied().find(|g| last.is_some_and(|l| *g > l)).unwrap_or(list[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: Duration = Duration::from_secs(10);

    fn plan() -> Plan {
        let group = |turn: &str| vec!["always".to_owned(), turn.to_owned()];
        Plan { groups: vec![group("a"), group("b"), group("c")], uncovered: vec![] }
    }

    /// Plays `seconds` of a program that uses these turn-taking paths; returns seconds per group.
    fn play(schedule: &mut Schedule, uses: &[&str], seconds: f64) -> Vec<f64> {
        let mut spent = vec![0.0; 3];
        let names = ["a", "b", "c"];
        let mut total = 0.0;
        while total < seconds {
            let turn = schedule.turn().unwrap();
            spent[turn.group] += turn.length.as_secs_f64();
            total += turn.length.as_secs_f64();
            let path = names[turn.group];
            let counts = BTreeMap::from([("always".to_owned(), 7), (path.to_owned(), u128::from(uses.contains(&path)))]);
            schedule.counted(turn.group, &counts);
        }
        spent
    }

    #[test]
    fn the_group_in_use_gets_nearly_all_the_time() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        let spent = play(&mut schedule, &["b"], 1000.0);
        assert!(spent[1] / spent.iter().sum::<f64>() > 0.99, "{spent:?}");
        assert!(spent[0] > 0.5 && spent[2] > 0.5, "the others were probed: {spent:?}");
    }

    #[test]
    fn groups_in_use_share_the_time() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        let spent = play(&mut schedule, &["a", "c"], 1000.0);
        assert!((spent[0] / spent[2] - 1.0).abs() < 0.05, "{spent:?}");
    }

    #[test]
    fn a_path_that_appears_later_is_found_by_a_probe_and_one_that_ends_is_let_go() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        play(&mut schedule, &["a"], 300.0);
        let spent = play(&mut schedule, &["a", "b"], 2000.0);
        assert!(spent[1] > 800.0, "{spent:?}");
        let spent = play(&mut schedule, &["b"], 2000.0);
        assert!(spent[0] < 100.0, "{spent:?}");
    }

    #[test]
    fn nothing_in_use_rotates_through_all() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        let spent = play(&mut schedule, &[], 3000.0);
        assert!(spent.iter().all(|s| *s > 900.0), "{spent:?}");
    }

    #[test]
    fn a_short_program_is_counted_in_pieces() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        let lengths: Vec<Duration> = (0..4).map(|_| schedule.turn().unwrap().length).collect();
        assert!(lengths.iter().sum::<Duration>() < Duration::from_secs(1));
        assert!(Schedule::new(&Plan::default(), STEADY).turn().is_none());
    }

    #[test]
    fn one_group_needs_no_survey() {
        let one = Plan { groups: vec![vec!["always".to_owned()]], uncovered: vec![] };
        assert_eq!(Schedule::new(&one, STEADY).turn().unwrap().length, RAMP[0]);
    }
}
