//! Which group is on next, and for how long.
//!
//! Most of what a modern chip's libraries execute stands in every group, and is counted whichever is on. The rest takes turns. What a turn costs was
//! measured on an H200 (CUPTI 13.0): ending a window and beginning the next one of the same group 27 ms, another group's 190 ms, because a range
//! profiler keeps its first configuration for life and a new one's first Start takes 160 ms. Launches wait meanwhile. So:
//!
//! 1. **Wait.** Until something is counted for the first time (a program may load its model for minutes), the groups alternate in growing windows. One is
//!    cut short when NVML sees the tensor cores begin to work.
//! 2. **Survey.** From then on, one short window for each other group, to see which turn-taking paths the program uses. Where the program marks its steps, each goes on until
//!    one has passed in it, for two seconds at most; so does a probe.
//! 3. **Main.** If none is in use, the group that is on stays on, as long as it counts anything, also after a survey or a probe: that saves the change back. If those of one
//!    group are, it stays on. If those of several are, they share the time, round robin. Windows grow with the age of the run, from half a second to the steady length: a short program
//!    is counted in pieces too, a kill costs at most half of a young run. Where one group stays on they grow on when the run is ten minutes old, to the steady length of an old
//!    run: a kill costs at most a tenth of the run, and boundaries take 0.01 % of the time.
//! 4. **Probe.** While some groups are kept off, each gets a short turn now and then, at growing intervals. A probe that finds something makes its
//!    group a main one and brings the next probe forward; a main group that finds nothing three times in a row goes back to being probed.
//! 5. **Look.** A census may see a kernel whose path the survey missed ([`super::look`]). Then each group that is kept off is looked at once, for so long that it must have
//!    met what the census saw. It belongs to the survey, and is paid for as that is.
//!
//! What a window counted is told when the next one is open already, so that nothing but CUPTI's own calls lies between the two: decisions are one window late.

use std::{collections::BTreeMap, time::Duration};

use super::look::{Looks, Need};
use crate::counter::plan::Plan;

/// Length of a survey window and of a probe. Long enough that a training step's kernels show (steps are 10 to 1000 ms: what a survey misses, a
/// probe finds), short because every other group's turn-taking paths are off meanwhile.
pub const LOOK: Duration = Duration::from_millis(250);
/// The same where the program marks its steps and none has passed as a whole: a look goes on for it, but no longer than this.
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// The shortest main window.
const SHORTEST: Duration = Duration::from_millis(500);
/// The longest window while nothing has been counted yet.
const WAITING: Duration = Duration::from_secs(10);
/// Main time before the first probe, and after one that found something new.
const FIRST_PROBE: Duration = Duration::from_secs(60);
/// The longest time between probes: with two changes of group for each (one, where no turn-taking path is in use), 0.02 % of the time.
const RARE_PROBE: Duration = Duration::from_secs(1800);
/// Main windows in a row without a turn-taking operation after which a group is only probed.
const IDLE_WINDOWS: u32 = 3;
/// The part of a run that a window of an old one may be.
const PART_OF_AN_OLD_RUN: u32 = 10;

/// How long windows become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steady {
    /// In a run of some minutes, and where groups take turns.
    pub young: Duration,
    /// In an old one.
    pub old: Duration,
}

impl Steady {
    /// One length, however old the run.
    #[must_use]
    pub fn always(length: Duration) -> Self {
        Self { young: length, old: length }
    }
}

/// What is on next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Index of the group.
    pub group: usize,
    /// How long.
    pub length: Duration,
    /// It is to see what a group's paths do, and should see a step of the program as a whole.
    pub look: bool,
}

/// The schedule of one device.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Turn-taking paths of each group.
    turns: Vec<Vec<String>>,
    steady: Steady,
    /// Groups that were on while the program was at work.
    looked: Vec<bool>,
    /// Something has been counted.
    active: bool,
    /// The last main window counted nothing at all, and nobody says that the tensor cores stood still.
    blind: bool,
    /// Scheduled time so far.
    age: Duration,
    /// Main windows in a row in which the group's turn-taking paths stood still; none while the group is not in use.
    in_use: Vec<Option<u32>>,
    /// The last main group.
    main: usize,
    /// The last probed group.
    probed: usize,
    since_probe: Duration,
    probe_after: Duration,
    shortest: Duration,
    change: bool,
    probe: bool,
    looks: Looks,
    /// How much of what stands in every group was executed in windows since something was counted first, and how long they were.
    pace: (u128, Duration),
}

impl Schedule {
    /// The schedule for a plan, with windows of `steady` length once it runs.
    #[must_use]
    pub fn new(plan: &Plan, steady: Steady) -> Self {
        let turns: Vec<Vec<String>> = plan.turns().into_iter().map(|g| g.into_iter().map(str::to_owned).collect()).collect();
        Self {
            looked: vec![false; turns.len()],
            active: false,
            blind: false,
            in_use: vec![None; turns.len()],
            main: turns.len().saturating_sub(1),
            probed: 0,
            turns,
            steady,
            age: Duration::ZERO,
            since_probe: Duration::ZERO,
            probe_after: FIRST_PROBE,
            shortest: Duration::ZERO,
            change: true,
            probe: true,
            looks: Looks::default(),
            pace: (0, Duration::ZERO),
        }
    }

    /// What is on next. None without groups.
    pub fn turn(&mut self) -> Option<Turn> {
        let turn = self.decide()?;
        self.age += turn.length;
        Some(turn)
    }

    /// Whether nothing has been counted so far.
    #[must_use]
    pub fn waiting(&self) -> bool {
        !self.active
    }

    /// A window that ends, or will end, earlier than it was given out: by so much.
    pub fn cut(&mut self, by: Duration) {
        self.age = self.age.saturating_sub(by);
    }

    /// A window goes on longer than it was given out: by so much.
    pub fn stretch(&mut self, by: Duration) {
        self.age += by;
    }

    /// The longest that a look may become for a step.
    #[must_use]
    pub fn longest_look(&self) -> Duration {
        LONGEST_LOOK.min(self.steady.young)
    }

    /// Whether a window of this group is one in which the program does what it always does, after the survey: a time for a census.
    #[must_use]
    pub fn settled(&self, group: usize) -> bool {
        self.active && !self.blind && group == self.main && self.looked.iter().all(|l| *l)
    }

    /// How dear boundaries are at the moment: no window of a run that is a minute old is shorter than this, and none is for another group unless `change` is true, nor for
    /// one that is not in use unless `probe` is. The survey goes before: what is not looked at once is not known at all.
    pub fn thrift(&mut self, shortest: Duration, change: bool, probe: bool) {
        (self.shortest, self.change, self.probe) = (shortest, change, probe);
    }

    /// A census of this group saw kernels whose path may have been off: each group that has a path of its own and is kept off is looked at. False where there is none.
    pub fn seek(&mut self, census: usize, need: Need) -> bool {
        let on = self.turns.get(census).map_or(&[][..], Vec::as_slice);
        for (group, turns) in self.turns.iter().enumerate().filter(|(g, _)| self.in_use[*g].is_none()) {
            if turns.iter().any(|path| !on.contains(path)) {
                self.looks.add(group, need);
            }
        }
        !self.looks.is_empty()
    }

    fn decide(&mut self) -> Option<Turn> {
        if self.turns.is_empty() {
            return None;
        }
        let all: Vec<usize> = (0..self.turns.len()).collect();
        if !self.active {
            self.main = after(&all, self.main);
            let length = if self.age.is_zero() && all.len() > 1 { LOOK } else { self.age.clamp(SHORTEST, WAITING) };
            return Some(Turn { group: self.main, length: length.min(self.steady.young), look: false });
        }
        if let Some(group) = self.looked.iter().position(|l| !l) {
            // Taken as looked at when it is on: what it counts is told one window late.
            self.looked[group] = true;
            self.main = group;
            return Some(Turn { group, length: LOOK.min(self.steady.young), look: true });
        }
        if self.change
            && let Some((group, length)) = self.looks.window(LOOK, self.steady.young, self.pace)
        {
            if self.in_use.iter().all(Option::is_none) {
                self.main = group;
            }
            return Some(Turn { group, length, look: true });
        }
        let mut used: Vec<usize> = all.into_iter().filter(|g| self.in_use[*g].is_some()).collect();
        if used.is_empty() {
            if self.blind {
                self.main = (self.main + 1) % self.turns.len();
            }
            used.push(self.main);
        }
        let others: Vec<usize> = (0..self.turns.len()).filter(|g| !used.contains(g)).collect();
        if self.probe && !others.is_empty() && self.since_probe >= self.probe_after {
            self.since_probe = Duration::ZERO;
            self.probe_after = (self.probe_after * 2).min(RARE_PROBE);
            self.probed = after(&others, self.probed);
            if self.in_use.iter().all(Option::is_none) {
                self.main = self.probed;
            }
            return Some(Turn { group: self.probed, length: LOOK.min(self.steady.young), look: true });
        }
        if self.change || !used.contains(&self.main) {
            self.main = after(&used, self.main);
        }
        // Groups that alternate get shorter windows, so that their shares of a short run come out alike.
        let share = if used.len() == 1 { 1 } else { 2 * u32::try_from(used.len()).unwrap_or(1) };
        let steady =
            if share == 1 { (self.age / PART_OF_AN_OLD_RUN).min(self.steady.old).max(self.steady.young) } else { self.steady.young };
        let length = (self.age / share).max(SHORTEST).min(steady);
        let length = if self.age > FIRST_PROBE { length.max(self.shortest) } else { length };
        self.since_probe += length;
        Some(Turn { group: self.main, length, look: false })
    }

    /// Tells how long a window was that counted this, and in which launches came as they do: how fast the program works.
    pub fn worked(&mut self, group: usize, counts: &BTreeMap<String, u128>, took: Duration) {
        if let (true, Some(turns)) = (self.active, self.turns.get(group)) {
            self.pace = (self.pace.0.saturating_add(always(turns, counts)), self.pace.1 + took);
        }
    }

    /// Tells what a window counted. `idle`: NVML saw the tensor cores stand still, so that a window that counted nothing missed nothing. A program that
    /// pauses (a checkpoint, a profile being written) keeps its group; without this word each pause cost two changes.
    pub fn counted(&mut self, group: usize, counts: &BTreeMap<String, u128>, idle: bool) {
        let (Some(turns), Some(state)) = (self.turns.get(group), self.in_use.get_mut(group)) else { return };
        let anything = counts.values().any(|n| *n > 0);
        self.active |= anything;
        self.looked[group] |= anything;
        if group == self.main {
            self.blind = !anything && !idle;
        }
        self.looks.saw(group, always(turns, counts));
        if turns.iter().any(|path| counts.get(path).is_some_and(|n| *n > 0)) {
            if state.is_none() {
                self.probe_after = FIRST_PROBE;
            }
            *state = Some(0);
        } else if let Some(idle) = state {
            *idle += 1;
            if *idle >= IDLE_WINDOWS {
                *state = None;
            }
        }
    }
}

/// What was counted of the paths that stand in every group, by a group that has these besides.
fn always(turns: &[String], counts: &BTreeMap<String, u128>) -> u128 {
    counts.iter().filter(|(path, _)| !turns.contains(path)).fold(0, |sum, (_, n)| sum.saturating_add(*n))
}

/// The one in a sorted list that follows `last`, round robin.
fn after(list: &[usize], last: usize) -> usize {
    list.iter().copied().find(|g| *g > last).unwrap_or(list[0])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const STEADY: Steady = Steady { young: Duration::from_secs(60), old: Duration::from_secs(300) };

    fn plan() -> Plan {
        let group = |turn: &str| vec!["always".to_owned(), turn.to_owned()];
        Plan { groups: vec![group("a"), group("b"), group("c")], uncovered: vec![] }
    }

    /// Plays `seconds` of a program that uses these turn-taking paths; returns seconds per group, windows, and changes of group.
    fn play(schedule: &mut Schedule, uses: &[&str], seconds: f64) -> (Vec<f64>, u32, u32) {
        play_from(schedule, uses, 0.0, seconds)
    }

    /// The same for a program that does nothing before `begins`.
    fn play_from(schedule: &mut Schedule, uses: &[&str], begins: f64, seconds: f64) -> (Vec<f64>, u32, u32) {
        let (mut spent, mut windows, mut changes, mut last) = (vec![0.0; 3], 0, 0, None);
        let names = ["a", "b", "c"];
        while spent.iter().sum::<f64>() < seconds {
            let turn = schedule.turn().unwrap();
            spent[turn.group] += turn.length.as_secs_f64();
            windows += 1;
            changes += u32::from(last.is_some_and(|l| l != turn.group));
            last = Some(turn.group);
            let path = names[turn.group];
            let works = u128::from(spent.iter().sum::<f64>() > begins);
            let counts = BTreeMap::from([("always".to_owned(), 7 * works), (path.to_owned(), works * u128::from(uses.contains(&path)))]);
            schedule.counted(turn.group, &counts, false);
        }
        (spent, windows, changes)
    }

    #[test]
    fn the_group_in_use_gets_nearly_all_the_time() {
        let (spent, ..) = play(&mut Schedule::new(&plan(), STEADY), &["b"], 5000.0);
        assert!(spent[1] / spent.iter().sum::<f64>() > 0.995, "{spent:?}");
        assert!(spent[0] > 0.5 && spent[2] > 0.5, "the others were probed: {spent:?}");
    }

    #[test]
    fn groups_in_use_share_the_time() {
        for seconds in [60.0, 3000.0] {
            let (spent, ..) = play(&mut Schedule::new(&plan(), STEADY), &["a", "c"], seconds);
            assert!((0.7..1.4).contains(&(spent[0] / spent[2])), "{spent:?}");
        }
    }

    #[test]
    fn a_path_that_appears_later_is_found_by_a_probe_and_one_that_ends_is_let_go() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        play(&mut schedule, &["a"], 300.0);
        let (spent, ..) = play(&mut schedule, &["a", "b"], 5000.0);
        assert!(spent[1] > 1500.0, "{spent:?}");
        let (spent, ..) = play(&mut schedule, &["b"], 5000.0);
        assert!(spent[0] < 400.0, "{spent:?}");
    }

    #[test]
    fn a_program_that_begins_late_is_surveyed_when_it_begins() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        let (spent, ..) = play_from(&mut schedule, &["a"], 300.0, 600.0);
        assert!(spent[0] > 300.0, "{spent:?}");
    }

    #[test]
    fn a_program_of_one_turn_taking_path_alone_is_found_soon() {
        let mut schedule = Schedule::new(
            &Plan { groups: vec![vec!["a".to_owned()], vec!["b".to_owned()], vec!["c".to_owned()]], uncovered: vec![] },
            STEADY,
        );
        let (spent, ..) = play(&mut schedule, &["c"], 30.0);
        assert!(spent[2] > 25.0, "{spent:?}");
    }

    #[test]
    fn a_program_that_pauses_keeps_its_group_where_nvml_says_that_it_does() {
        for (idle, changes) in [(true, false), (false, true)] {
            let mut schedule = Schedule::new(&plan(), STEADY);
            play(&mut schedule, &[], 5.0);
            let mut on = BTreeSet::new();
            for _ in 0..3 {
                let turn = schedule.turn().unwrap();
                on.insert(turn.group);
                schedule.counted(turn.group, &BTreeMap::from([("always".to_owned(), 0)]), idle);
            }
            assert_eq!(on.len() > 1, changes, "idle {idle}: {on:?}");
        }
    }

    /// What a census asks for: each other group until it has met as much as was in the census twice, and then peace; a path that is found gets its group into use.
    #[test]
    fn what_a_census_could_not_see_is_looked_at_once() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        play(&mut schedule, &[], 5.0);
        let on = schedule.turn().unwrap().group;
        // A window's `always` is 7: six windows of each group.
        assert!(schedule.seek(on, Need::of(21, &[])));
        schedule.thrift(Duration::ZERO, false, false);
        assert_eq!(play(&mut schedule, &[], 5.0).2, 0, "not paid for");
        schedule.thrift(Duration::ZERO, true, false);
        let (spent, _, changes) = play(&mut schedule, &[], 100.0);
        assert_eq!(changes, 1, "beside the first: {spent:?}");
        assert!((0..3).filter(|g| *g != on).all(|g| spent[g] >= 8.0), "six windows that double: {spent:?}");
        assert_eq!(play(&mut schedule, &[], 600.0).2, 0);
    }

    /// By how fast the program has worked so far, a look is one window. What it counted is told late; if it was too little, another follows.
    #[test]
    fn a_look_is_one_window_where_the_pace_is_known() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        play(&mut schedule, &["c"], 5.0);
        let work = |n: u128| BTreeMap::from([("always".to_owned(), n)]);
        schedule.worked(2, &work(50), Duration::from_secs(5));
        assert!(schedule.seek(2, Need::of(20, &[])));
        // Twice the census's work at ten a second, and a quarter.
        let looks = [schedule.turn().unwrap(), schedule.turn().unwrap()];
        assert_eq!(looks.map(|t| (t.group, t.length.as_secs(), t.look)), [(0, 5, true), (1, 5, true)]);
        assert_eq!(schedule.turn().unwrap().group, 2);
        schedule.counted(0, &work(40), false);
        schedule.counted(1, &work(30), false);
        assert_eq!((schedule.turn().unwrap().group, schedule.turn().unwrap().group), (1, 2));
        schedule.counted(1, &work(10), false);
        assert_eq!(schedule.turn().unwrap().group, 2);
    }

    #[test]
    fn a_path_that_a_look_finds_is_in_use_from_then_on() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        play(&mut schedule, &["c"], 5.0);
        assert!(schedule.seek(2, Need::of(21, &[])));
        schedule.thrift(Duration::ZERO, true, false);
        let (spent, ..) = play(&mut schedule, &["b"], 600.0);
        assert!(spent[1] > 400.0, "{spent:?}");
        // Groups in use have turns anyway.
        assert!(schedule.seek(1, Need::of(21, &[])));
        let (spent, ..) = play(&mut schedule, &["b"], 600.0);
        assert!(spent[0] > 5.0 && spent[1] > 500.0, "{spent:?}");
    }

    /// Where nothing takes turns a survey is one change for each other group, and a probe one.
    #[test]
    fn nobody_goes_back_to_a_group_that_is_not_needed() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        let (_, _, changes) = play(&mut schedule, &[], 30.0);
        assert_eq!(changes, 2, "of three groups");
        let (spent, _, changes) = play(&mut schedule, &[], 300.0);
        assert_eq!(changes, 2, "after one and after three minutes: {spent:?}");
    }

    #[test]
    fn boundaries_stay_cheap_in_an_hour() {
        for uses in [&[][..], &["b"][..]] {
            let (_, windows, changes) = play(&mut Schedule::new(&plan(), STEADY), uses, 3600.0);
            let seconds = f64::from(windows - changes) * 0.027 + f64::from(changes) * 0.19;
            assert!(seconds / 3600.0 < 0.001, "{uses:?}: {windows} windows, {changes} changes, {seconds} s");
        }
    }

    #[test]
    fn a_young_run_has_the_windows_that_were_asked_for_whatever_they_cost() {
        let mut schedule = Schedule::new(&plan(), Steady::always(Duration::from_millis(100)));
        schedule.thrift(Duration::from_secs(300), true, true);
        let (_, windows, _) = play(&mut schedule, &["a"], 10.0);
        assert!(windows >= 100, "{windows}");
    }

    /// A kill costs the open window: half of a young run, a tenth of one of ten minutes, five minutes of an old one.
    #[test]
    fn a_window_is_a_small_part_of_an_old_run() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        let (mut age, mut longest) = (0.0, 0.0_f64);
        while age < 6.0 * 3600.0 {
            let turn = schedule.turn().unwrap();
            let length = turn.length.as_secs_f64();
            assert!(length <= f64::max(f64::max(0.5, age).min(60.0), age / 10.0) + 1e-6 && length <= 300.0, "{length} s at {age} s");
            (age, longest) = (age + length, longest.max(length));
            schedule.counted(turn.group, &BTreeMap::from([("always".to_owned(), 7)]), false);
        }
        assert!(longest > 299.0, "{longest}");
    }

    #[test]
    fn groups_that_take_turns_have_short_windows_however_old_the_run() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        play(&mut schedule, &["a", "c"], 6.0 * 3600.0);
        assert!(schedule.turn().unwrap().length <= STEADY.young);
    }

    /// A budget that pays for little: one group stays on, in long windows.
    #[test]
    fn thrift_makes_windows_long_and_keeps_the_group() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        play(&mut schedule, &["a", "b"], 300.0);
        schedule.thrift(Duration::from_secs(300), false, false);
        let (_, windows, changes) = play(&mut schedule, &["a", "b"], 3600.0);
        assert!(windows <= 13 && changes == 0, "{windows} windows, {changes} changes");
        schedule.thrift(Duration::ZERO, true, true);
        let (spent, ..) = play(&mut schedule, &["a", "b"], 3600.0);
        assert!(spent[0] > 1000.0 && spent[1] > 1000.0, "{spent:?}");
    }

    /// A young run pays for turns, and not yet for probes.
    #[test]
    fn probes_wait_until_they_are_paid_for() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        schedule.thrift(Duration::ZERO, true, false);
        let (_, _, changes) = play(&mut schedule, &["a"], 600.0);
        assert!(changes <= 4, "{changes}");
        schedule.thrift(Duration::ZERO, true, true);
        let (_, _, more) = play(&mut schedule, &["a"], 100.0);
        assert!(more >= 1, "there and back: {more}");
    }

    #[test]
    fn a_short_program_is_counted_in_pieces() {
        let mut schedule = Schedule::new(&plan(), STEADY);
        let lengths: Vec<Duration> = (0..3).map(|_| schedule.turn().unwrap().length).collect();
        assert!(lengths.iter().sum::<Duration>() < Duration::from_secs(2));
        assert!(Schedule::new(&Plan::default(), STEADY).turn().is_none());
    }

    #[test]
    fn one_group_needs_no_survey() {
        let one = Plan { groups: vec![vec!["always".to_owned()]], uncovered: vec![] };
        assert_eq!(Schedule::new(&one, STEADY).turn().unwrap().length, SHORTEST);
    }
}
