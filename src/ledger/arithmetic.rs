//! Sums of what evidence says.
//!
//! A file that was changed may say anything. A sum that does not fit stops at the largest number, which nobody takes for a measurement and the rule refuses; it does not begin
//! again at nothing, as integers do by themselves in a program that is built for speed.

/// A whole number that can be added up.
pub trait Amount: Copy + Default {
    /// The sum, or the largest number.
    #[must_use]
    fn plus(self, other: Self) -> Self;

    /// Adds another.
    fn grow(&mut self, other: Self) {
        *self = self.plus(other);
    }
}

impl Amount for u64 {
    fn plus(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl Amount for u128 {
    fn plus(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

/// All of them together.
pub fn add_up<T: Amount>(amounts: impl IntoIterator<Item = T>) -> T {
    amounts.into_iter().fold(T::default(), Amount::plus)
}
