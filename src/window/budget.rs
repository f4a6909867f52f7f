//! What the meter may cost, and what it has cost so far.
//!
//! All that makes the program wait is measured and entered here, by its reason: boundaries between windows of one group, changes of group, censuses. Each is
//! taken as the whole time in which launches could not go on as ever, although the GPU may have been idle for part of it anyway: an upper bound. Windows
//! are never given up for the budget, because without them nothing is counted; but when it is small they grow longer and changes of group rarer, and a
//! census is taken only when what is left pays for it.

use std::time::Duration;

use crate::evidence::record::Spent;

/// The share of the wall time that is not exceeded, where nobody says.
pub const DEFAULT: f64 = 0.005;
/// The launches of a burst that has no step to go by.
const USUAL: usize = 512;
/// The fewest launches of a burst: for fewer, half of its time would be Start and the changes of profiler around it, whatever the step.
const LEAST: usize = 128;
/// The longest step that is counted whole.
const LONGEST_STEP: usize = 4096;
/// Launches between two Starts, at the most: 1.4 s of Start, in which launches wait.
const CHUNK: usize = 1024;

/// On an H200: a Start costs 0.3 s and 1.1 ms for each range there is room for, a launch 1.1 ms, and around it two changes of profiler (190 ms).
const START: Duration = Duration::from_millis(300);
const ROOM: Duration = Duration::from_micros(1100);
const LAUNCH: Duration = Duration::from_micros(1100);
const AROUND: Duration = Duration::from_millis(250);

/// A launch whose code is patched, before there is a measurement of our own: its kernel takes many times as long.
const CORE_LAUNCH: Duration = Duration::from_millis(10);

/// The part of the budget that is never spent: for what CUPTI takes of the program between kernels, which cannot be measured from here. 0.3 us a launch on an H100
/// (tests/gpu/launch_cost.txt), so a thousandth of the time where kernels take 0.3 ms.
const KEPT: f64 = 0.2;

/// From then on the budget holds at every moment.
const HOUR: Duration = Duration::from_secs(3600);

/// What time was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// A boundary between windows of one group.
    Window,
    /// One that changed the group, or took the counters up again.
    Rotation,
    /// A census.
    Census,
}

/// The budget of one device.
#[derive(Clone, Debug)]
pub struct Budget {
    share: f64,
    spent: Spent,
    /// What bursts cost, by what was thought they would.
    price: f64,
    /// What a launch costs in a burst for the CUDA cores.
    core_launch: Duration,
    /// The last boundary of each kind.
    last: [Duration; 2],
}

impl Budget {
    /// A budget of this share of the wall time.
    #[must_use]
    pub fn new(share: f64) -> Self {
        // The costs of an H200, until there are some of our own.
        let last = [Duration::from_millis(27), Duration::from_millis(190)];
        Self { share, spent: Spent { share, ..Spent::default() }, price: 1.0, core_launch: CORE_LAUNCH, last }
    }

    /// What was spent so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.spent.clone()
    }

    /// Enters time that was spent.
    pub fn spend(&mut self, on: Cost, ns: u64) {
        let (of, last) = match on {
            Cost::Window => (&mut self.spent.windows_ns, Some(0)),
            Cost::Rotation => (&mut self.spent.rotation_ns, Some(1)),
            Cost::Census => (&mut self.spent.census_ns, None),
        };
        *of += ns;
        if let Some(last) = last {
            // Smoothed: one boundary of many may meet a busy machine.
            self.last[last] = (self.last[last] * 3 + Duration::from_nanos(ns)) / 4;
        }
    }

    /// What is left when the run is so old. Changes of group are paid for over the first hour: the survey's come at once, and a run would be a quarter of an hour old
    /// before it had earned anything else. What that hour earns is never exceeded.
    #[must_use]
    pub fn left(&self, age: Duration) -> Duration {
        let earned = |age: Duration| age.as_secs_f64() * self.share * (1.0 - KEPT);
        let seconds = |ns: u64| ns as f64 / 1e9;
        let rotation = seconds(self.spent.rotation_ns) * (age.as_secs_f64() / HOUR.as_secs_f64()).min(1.0);
        let now = earned(age) - rotation - seconds(self.spent.windows_ns + self.spent.census_ns);
        let in_all = earned(age.max(HOUR)) - seconds(self.spent.total_ns());
        Duration::from_secs_f64(now.min(in_all).max(0.0))
    }

    /// The shortest window that half of the budget pays the boundary of. Not more than an hour: a kill must not cost a day.
    #[must_use]
    pub fn shortest_window(&self) -> Duration {
        if self.share <= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64((2.0 * self.last[0].as_secs_f64() / self.share).min(3600.0))
    }

    /// Whether a run of this age can pay for going to another group and back. A young run may spend what an hour earns: its survey and first turns come at
    /// once, or are of no use.
    #[must_use]
    pub fn pays_change(&self, age: Duration) -> bool {
        self.share <= 0.0 || self.left(age.max(HOUR)) >= 2 * self.last[1]
    }

    /// The same for a probe, which can wait: what a run of this age has earned.
    #[must_use]
    pub fn pays_probe(&self, age: Duration) -> bool {
        self.share <= 0.0 || self.left(age) >= 2 * self.last[1]
    }

    /// How many launches the next burst has, if the program's step has so many, and what it is thought to cost.
    #[must_use]
    pub fn burst(&self, step: Option<usize>) -> (usize, Duration) {
        let launches = match step.filter(|s| (1..=LONGEST_STEP).contains(s)) {
            Some(step) => step * LEAST.div_ceil(step),
            None => USUAL,
        };
        (launches, self.cost(launches))
    }

    /// What a burst is thought to cost at the least, while nobody has listened for a step: less than this is not worth listening for.
    #[must_use]
    pub fn cheapest(&self) -> (usize, Duration) {
        (LEAST, self.cost(LEAST))
    }

    /// What one for the CUDA cores is thought to cost beside it.
    #[must_use]
    pub fn cores_cost(&self, launches: usize) -> Duration {
        self.core_launch * u32::try_from(launches).unwrap_or(u32::MAX)
    }

    /// Learns from a burst for the CUDA cores.
    pub fn learn_cores(&mut self, launches: usize, took_ns: u64) {
        self.core_launch = Duration::from_nanos(took_ns / launches.max(1) as u64);
    }

    /// The time after which what is missing for a burst has been earned.
    #[must_use]
    pub fn until_paid(&self, age: Duration, cost: Duration) -> Duration {
        let missing = cost.saturating_sub(self.left(age)).as_secs_f64();
        if self.share <= 0.0 { Duration::MAX } else { Duration::from_secs_f64((missing / self.share / (1.0 - KEPT)).min(1e9)) }
    }

    /// What a burst of so many launches is thought to cost.
    #[must_use]
    pub fn cost(&self, launches: usize) -> Duration {
        cost(launches).mul_f64(self.price)
    }

    /// Learns from a burst what bursts cost here.
    pub fn learn(&mut self, launches: usize, took: Duration) {
        self.price = (took.as_secs_f64() / cost(launches).as_secs_f64()).clamp(0.01, 100.0);
    }
}

/// The launches of a chunk, for a burst of so many: chunks are alike, so that each has just the room it needs.
#[must_use]
pub fn chunk(launches: usize) -> usize {
    launches.div_ceil(launches.div_ceil(CHUNK).max(1)).max(1)
}

fn cost(launches: usize) -> Duration {
    let times = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let chunks = times(launches.div_ceil(CHUNK));
    AROUND + (START + ROOM * times(chunk(launches))) * chunks + LAUNCH * times(launches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_must_be_earned() {
        let budget = Budget::new(DEFAULT);
        let (launches, cost) = budget.burst(None);
        assert_eq!(launches, USUAL);
        assert!(budget.left(Duration::from_secs(60)) < cost);
        assert!(budget.left(HOUR) > cost);
        assert!(budget.until_paid(Duration::from_secs(60), cost) > Duration::from_secs(60));
        assert_eq!(budget.until_paid(HOUR, cost), Duration::ZERO);
        assert_eq!(Budget::new(0.0).left(HOUR), Duration::ZERO);
    }

    /// A survey of ten changes, as on an H200: the first burst comes within minutes, probes before it or not, and the hour stays within the budget.
    #[test]
    fn a_survey_is_paid_for_over_an_hour() {
        let mut budget = Budget::new(DEFAULT);
        (0..10).for_each(|_| budget.spend(Cost::Rotation, 190_000_000));
        let (launches, cost) = budget.burst(Some(240));
        assert_eq!(launches, 240);
        assert!(budget.left(HOUR / 20) < cost && budget.left(HOUR / 9) >= cost);
        for (minute, ns) in [(3, 380_000_000), (5, 380_000_000)] {
            assert!(budget.pays_probe(HOUR / 60 * minute), "{minute}");
            budget.spend(Cost::Rotation, ns);
        }
        assert!(budget.left(HOUR / 9) >= cost);
        // No more than the hour earns, at any age.
        budget.spend(Cost::Rotation, 12_000_000_000);
        assert_eq!(budget.left(HOUR / 9), Duration::ZERO);
        assert!(!budget.pays_change(Duration::ZERO) && budget.left(HOUR).is_zero() && !budget.left(2 * HOUR).is_zero());
    }

    #[test]
    fn a_step_is_counted_whole_and_a_short_one_often_enough() {
        let budget = Budget::new(DEFAULT);
        assert_eq!(budget.burst(Some(1476)).0, 1476);
        assert_eq!(budget.burst(Some(100)).0, 200);
        assert_eq!(budget.burst(Some(1)).0, LEAST);
        assert_eq!(budget.burst(Some(1_000_000)).0, USUAL);
    }

    /// An hour in which everything is taken as soon as it is paid for stays within the budget, whatever bursts really cost.
    #[test]
    fn an_hour_stays_within_the_budget() {
        for (share, real) in [(0.005, 0.3), (0.005, 3.0), (0.02, 1.0), (0.001, 1.0)] {
            let mut budget = Budget::new(share);
            let (mut bursts, mut next) = (0, 60);
            for second in 0..3600 {
                let age = Duration::from_secs(second);
                if second % 60 == 0 {
                    budget.spend(Cost::Window, 27_000_000);
                }
                let (launches, expected) = budget.burst(Some(1476));
                if second >= next && budget.left(age) >= expected {
                    let took = cost(launches).mul_f64(real);
                    budget.spend(Cost::Census, u64::try_from(took.as_nanos()).unwrap());
                    budget.learn(launches, took);
                    (bursts, next) = (bursts + 1, second + 30);
                }
            }
            let spent = budget.spent().total_ns() as f64 / 3.6e12;
            // The first burst's price was not known.
            assert!(spent <= share * if real > 1.0 { 1.0 } else { 1.0 - KEPT }, "{share} {real}: {spent} after {bursts}");
            assert!(bursts > 0 || share < 0.005, "{share} {real}: no burst");
        }
    }

    #[test]
    fn a_small_budget_makes_windows_long_and_changes_rare() {
        assert!(Budget::new(DEFAULT).shortest_window() < Duration::from_secs(60));
        assert!(Budget::new(0.0001).shortest_window() > Duration::from_secs(500));
        let mut poor = Budget::new(0.0002);
        assert!(poor.pays_change(HOUR / 60), "the survey's changes");
        poor.spend(Cost::Rotation, 300_000_000);
        assert!(!poor.pays_change(HOUR / 60) && !poor.pays_change(HOUR));
        assert!(Budget::new(DEFAULT).pays_change(HOUR / 2));
        assert!(
            !Budget::new(DEFAULT).pays_probe(HOUR / 60)
                && Budget::new(DEFAULT).pays_probe(HOUR / 10)
                && Budget::new(0.0).pays_probe(HOUR / 60)
        );
    }
}
