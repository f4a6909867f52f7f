//! How many launches one step of a program takes.
//!
//! A training step launches the same functions in the same order, step after step. So many launches in a row hold every launch of a step exactly once, wherever
//! they begin: a census of that length is that of a whole step, and needs no luck.

use std::collections::HashMap;

/// The part of the launches that must repeat: now and then a program logs, evaluates or saves.
const ALIKE: f64 = 0.98;
/// Distances that are tried; the true one is among the first, unless the program has no steps.
const TRIES: usize = 64;

/// The length of the sequence's period; none if it does not repeat at least twice. What launches rarest (the loss, the optimizer) marks the steps: layers
/// repeat too, but within a step.
#[must_use]
pub fn period(launches: &[usize]) -> Option<usize> {
    let mut places: HashMap<usize, Vec<usize>> = HashMap::new();
    for (i, function) in launches.iter().enumerate() {
        places.entry(*function).or_default().push(i);
    }
    let rarest = places.values().filter(|p| p.len() >= 2).min_by_key(|p| (p.len(), p[0]))?;
    let mut distances: Vec<usize> = rarest.windows(2).map(|w| w[1] - w[0]).collect();
    // One that launches several times a step: its distances add up to a step.
    let sums: Vec<usize> = (2..8).flat_map(|n| rarest.windows(n + 1).map(move |w| w[n] - w[0]).take(TRIES)).collect();
    distances.extend(sums);
    distances.retain(|d| 2 * d <= launches.len());
    distances.sort_unstable();
    distances.dedup();
    distances.into_iter().take(TRIES).find(|d| {
        let pairs = launches.len() - d;
        let alike = (0..pairs).filter(|i| launches[*i] == launches[i + d]).count();
        alike as f64 >= ALIKE * pairs as f64
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Twelve layers of the same kernels, then a head, a loss and an optimizer.
    fn step() -> Vec<usize> {
        let mut step: Vec<usize> = (0..12).flat_map(|_| [1, 2, 3, 2, 4]).collect();
        step.extend([5, 6, 7, 7, 7]);
        step
    }

    #[test]
    fn a_step_of_repeating_layers_is_found_wherever_it_begins() {
        let step = step();
        let launches: Vec<usize> = step.iter().copied().cycle().skip(17).take(step.len() * 7 / 2).collect();
        assert_eq!(period(&launches), Some(step.len()));
    }

    #[test]
    fn a_step_that_logs_does_not_hide_the_period() {
        let mut launches: Vec<usize> = step().into_iter().cycle().take(65 * 20).collect();
        launches[400] = 99;
        launches[401] = 98;
        assert_eq!(period(&launches), Some(65));
    }

    #[test]
    fn without_repetition_there_is_none() {
        assert_eq!(period(&[]), None);
        assert_eq!(period(&[1, 2, 3, 4]), None);
        assert_eq!(period(&(0..1000).map(|i| i * i % 977).collect::<Vec<_>>()), None);
        assert_eq!(period(&[7; 100]), Some(1));
    }

    proptest! {
        #[test]
        fn what_repeats_is_found(step in prop::collection::vec(0usize..50, 1..100), skip in 0usize..100) {
            let launches: Vec<usize> = step.iter().copied().cycle().skip(skip).take(step.len() * 4).collect();
            // A shorter period, if the step has one itself, is one too.
            if let Some(p) = period(&launches) {
                prop_assert!(p <= step.len());
                prop_assert!(launches.windows(p + 1).filter(|w| w[0] != w[p]).count() as f64 <= 0.02 * launches.len() as f64);
            } else {
                prop_assert!(step.len() > 1);
            }
        }
    }
}
