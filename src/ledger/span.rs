//! Stretches of time, which may overlap.

/// A set of stretches, ns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<(u64, u64)>);

impl Spans {
    /// Adds one; an empty one is none.
    pub fn add(&mut self, start: u64, end: u64) {
        if end > start {
            self.0.push((start, end));
        }
    }

    /// Adds another's, shifted in time.
    pub fn add_shifted(&mut self, other: &Self, shift_ns: i64) {
        self.0.extend(other.0.iter().map(|(a, b)| (a.saturating_add_signed(shift_ns), b.saturating_add_signed(shift_ns))));
    }

    /// The same with stretches that touch made one.
    #[must_use]
    pub fn compact(&self) -> Self {
        Self(self.merged())
    }

    /// The stretches without overlaps, in order. Stretches that lie within a second of each other are one: what lies between two windows is a
    /// boundary, not an absence.
    #[must_use]
    pub fn merged(&self) -> Vec<(u64, u64)> {
        const TOUCHING: u64 = 1_000_000_000;
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (start, end) in sorted {
            match merged.last_mut() {
                Some(last) if start <= last.1.saturating_add(TOUCHING) => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        merged
    }

    /// Time covered, ns.
    #[must_use]
    pub fn length(&self) -> u64 {
        super::arithmetic::add_up(self.merged().iter().map(|(a, b)| b - a))
    }

    /// From the first to the last moment.
    #[must_use]
    pub fn range(&self) -> Option<(u64, u64)> {
        Some((self.0.iter().map(|s| s.0).min()?, self.0.iter().map(|s| s.1).max()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_count_once() {
        let mut spans = Spans::default();
        for (a, b) in [(10, 20), (15, 30), (5_000_000_000, 5_000_000_010), (40, 40)] {
            spans.add(a, b);
        }
        assert_eq!(spans.merged(), vec![(10, 30), (5_000_000_000, 5_000_000_010)]);
        assert_eq!(spans.length(), 30);
        assert_eq!(spans.range(), Some((10, 5_000_000_010)));
    }
}
