//! What the meter cost the program.

use super::{
    arithmetic::{Amount, add_up},
    track::Track,
};

/// What the meter made the program wait for, over all devices and processes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overhead {
    /// The budget: the largest that a process had, a share of the wall time.
    pub allowed: f64,
    /// At boundaries between windows of one group, ns.
    pub windows_ns: u64,
    /// At boundaries that changed the group, or took the counters up again, ns.
    pub rotation_ns: u64,
    /// In censuses, ns.
    pub census_ns: u64,
    /// The time in which it was spent: contexts' lives, ns.
    pub life_ns: u64,
    /// The largest share of a single process and device.
    pub most: f64,
}

impl Overhead {
    /// Of one device in one process. None in evidence of versions that did not say.
    #[must_use]
    pub fn of(track: &Track) -> Option<Self> {
        let (first, last) = (track.windows.first()?, track.windows.last()?);
        let spent = track.windows.iter().rev().find_map(|w| w.spent.as_ref())?;
        let life_ns = last.end_ns.saturating_sub(first.start_ns).plus(first.opened.took_ns);
        Some(Self {
            allowed: spent.share,
            windows_ns: spent.windows_ns,
            rotation_ns: spent.rotation_ns,
            census_ns: spent.census_ns,
            life_ns,
            most: if life_ns == 0 { 0.0 } else { spent.total_ns() as f64 / life_ns as f64 },
        })
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.allowed = self.allowed.max(other.allowed);
        self.most = self.most.max(other.most);
        self.windows_ns.grow(other.windows_ns);
        self.rotation_ns.grow(other.rotation_ns);
        self.census_ns.grow(other.census_ns);
        self.life_ns.grow(other.life_ns);
    }

    /// All of it, ns.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        add_up([self.windows_ns, self.rotation_ns, self.census_ns])
    }
}
