//! The roll call: how often each launch comes that a census has counted by itself.
//!
//! A census costs a millisecond a launch, so it can be of a few steps only; where steps differ (their lengths do, in most trainings) a few are a poor sample of
//! all. To hear which launches come costs under a microsecond each and holds nobody: so that is done for as much of the time as half of the budget pays, and
//! the operations of a kernel are those of its launches in the census times how often they came. A launch that no census knows ends the roll call, if the budget
//! pays for a census, and a census begins with it.
//!
//! The subscription that it needs is given back for each boundary, and to any tool that asks for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Metered, Mode, due::SPACING, later};
use crate::{
    counter::find,
    evidence::record::{Called, Record, RollCall},
    inject::{
        apart,
        burst::{self, Roll},
        gate,
        roster::{Known, Roster, Row, Trail},
        subscribe,
    },
    window::{budget::Cost, clock::monotonic_ns},
};

/// What CUPTI's callbacks cost a launch beside the time in ours: 0.1 to 0.4 us on an H100 (tests/gpu/launch_cost.txt, `subcb` against `enabled`).
const CALLBACK_NS: u64 = 300;
/// How long a roll call is, at the least and at the most, and the part of the run so far that it lasts: each is some kilobytes of evidence.
const LEAST: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(300);
const PART: u32 = 20;
/// The same where roll calls are asked for.
const ASKED: Duration = Duration::from_millis(500);
/// The part of the budget that it may take.
const SHARE: f64 = 0.5;

/// Roll calls of a device.
#[derive(Default)]
pub(super) struct RollCalls {
    /// What censuses counted so far.
    roster: Arc<Roster>,
    /// When the next one begins; the one that is interrupted goes on at once.
    next_ns: u64,
    /// The subscription of the one that is on, and since when.
    on: Option<(gate::Closed, u64)>,
    /// What came so far.
    so_far: Option<SoFar>,
}

/// What came in a roll call that is interrupted.
struct SoFar {
    roll: Roll,
    start_ns: u64,
    heard_ns: u64,
}

impl RollCalls {
    /// What censuses counted so far.
    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }
}

impl Metered {
    /// Learns the launches of a census: their keys and rows, in order.
    pub(super) fn learn_launches(&mut self, window: u64, order: &[(u64, u32)], executed: &[BTreeMap<String, u128>]) {
        let roster = Arc::make_mut(&mut self.rolls.roster);
        let mut trail = Trail::default();
        for (key, row) in order {
            if let Some(executed) = executed.get(*row as usize) {
                roster.learn(*key, trail.step(*key), (window, *row), executed);
            }
        }
    }

    /// Whether a launch waits for a census to begin with it.
    pub(super) fn stranger_waits(&self) -> bool {
        self.rolls.on.is_some() && burst::stranger()
    }

    /// Begins, goes on with or ends a roll call.
    pub(super) fn roll_if_due(&mut self) {
        let now = monotonic_ns();
        if let Some((_, since_ns)) = &self.rolls.on {
            let heard_ns = self.rolls.so_far.as_ref().map_or(0, |s| s.heard_ns) + (now - since_ns);
            if subscribe::wanted() {
                self.pause_roll();
                self.rolls.next_ns = later(now, Duration::from_secs(1));
            } else if Duration::from_nanos(heard_ns) >= self.length_of_roll(now) {
                self.pause_roll();
                self.tell_roll();
            } else {
                burst::arm(self.pays_census(now));
            }
            return;
        }
        let (Mode::Counting { .. }, Some(cupti)) = (&self.mode, self.cupti) else { return };
        if now < self.rolls.next_ns || self.rolls.roster.is_empty() || !self.censuses.rolls() || subscribe::wanted() {
            return;
        }
        if apart::run(find::torch_is_mapped).unwrap_or(true) && !subscribe::stands_between() {
            // Its profiler could not be let in. Asked seldom: it reads the whole map of the process.
            self.rolls.next_ns = later(now, SPACING);
            return;
        }
        match gate::watch(cupti, self.ctx) {
            Ok(watched) => {
                let (roll, start_ns, heard_ns) = match self.rolls.so_far.take() {
                    Some(so_far) => (Some(so_far.roll), so_far.start_ns, so_far.heard_ns),
                    None => (None, now, 0),
                };
                burst::call(self.rolls.roster.clone(), self.pays_census(now), roll);
                // The roll itself is in the burst until it is paused.
                self.rolls.so_far = Some(SoFar { roll: Roll::default(), start_ns, heard_ns });
                self.rolls.on = Some((watched, now));
            }
            Err(_) => self.rolls.next_ns = later(now, SPACING),
        }
    }

    fn length_of_roll(&self, now: u64) -> Duration {
        if self.censuses.asked.is_some() {
            return ASKED;
        }
        (self.age(now) / PART).clamp(LEAST, MOST)
    }

    /// Gives the subscription back; what came is kept.
    pub(super) fn pause_roll(&mut self) {
        let Some((watched, since_ns)) = self.rolls.on.take() else { return };
        self.end_hearing(since_ns);
        drop(watched);
    }

    /// Ends the roll call at a launch that no census knows, which waits: the subscription that holds it. What came stays if it is most of a roll call: steps that
    /// no census knows would be missing in it.
    pub(super) fn end_roll_at_stranger(&mut self) -> Option<gate::Closed> {
        let (watched, since_ns) = self.rolls.on.take()?;
        watched.hold(super::GATE);
        self.end_hearing(since_ns);
        let now = monotonic_ns();
        if self.rolls.so_far.as_ref().is_some_and(|s| Duration::from_nanos(2 * s.heard_ns) >= self.length_of_roll(now)) {
            self.tell_roll();
        }
        self.rolls.so_far = None;
        Some(watched)
    }

    fn end_hearing(&mut self, since_ns: u64) {
        let now = monotonic_ns();
        let (Some(so_far), Some(roll)) = (&mut self.rolls.so_far, burst::hang_up()) else { return };
        so_far.heard_ns += now - since_ns;
        so_far.roll = roll;
    }

    /// Puts what came into the evidence.
    pub(super) fn tell_roll(&mut self) {
        let Some(SoFar { roll, start_ns, heard_ns }) = self.rolls.so_far.take() else { return };
        let cost_ns = roll.inside_ns + CALLBACK_NS * roll.launches;
        self.budget.spend(Cost::Census, cost_ns);
        let now = monotonic_ns();
        let pays = cost_ns as f64 / (self.budget.spent().share * SHARE);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and `as` stops at the largest")]
        let wait_ns = if self.censuses.asked.is_some() { 0 } else { (pays as u64).saturating_sub(heard_ns) };
        self.rolls.next_ns = now.saturating_add(wait_ns);
        if roll.launches == 0 {
            return;
        }
        let mut rows: BTreeMap<(Row, bool), u64> = BTreeMap::new();
        let mut unknown = roll.lost;
        for ((key, context), times) in &roll.came {
            match self.rolls.roster.find(*key, *context) {
                Known::Row(row) => *rows.entry((row, false)).or_default() += times,
                Known::OneOf(row) => *rows.entry((row, true)).or_default() += times,
                Known::No => unknown += times,
            }
        }
        let rows = rows.into_iter().map(|(((window, row), unsure), launches)| Called { window, row, launches, unsure }).collect();
        let call = RollCall { device: self.ordinal, start_ns, end_ns: now, heard_ns, launches: roll.launches, unknown, rows };
        self.out.push(Record::RollCall(Box::new(call)));
    }
}
