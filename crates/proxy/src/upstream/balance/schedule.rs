//! Weighted round robin, smooth: a target of weight 2 among two of weight 1 comes every second time, not twice in a row.

use super::scaled;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Weights are scaled down so that one round has at most about this many turns.
const LONGEST_ROUND: u64 = 1024;

/// The order in which targets take turns, computed once.
#[derive(Debug)]
pub(super) struct Schedule {
    turns: Box<[usize]>,
    next: AtomicUsize,
}

impl Schedule {
    /// A schedule for targets of these weights. There is at least one target and each has at least weight 1.
    pub(super) fn new(weights: &[u32]) -> Self {
        Self {
            turns: turns(weights),
            next: AtomicUsize::new(0),
        }
    }

    /// The number of turns of a round.
    pub(super) const fn round(&self) -> usize {
        self.turns.len()
    }

    /// The position of the target whose turn it is.
    pub(super) fn next(&self) -> usize {
        self.turns[self.next.fetch_add(1, Relaxed) % self.turns.len()]
    }
}

/// One round. In each turn every target gains its weight, the one that has most takes the turn and pays the sum of all.
fn turns(weights: &[u32]) -> Box<[usize]> {
    let weights = scaled(weights, LONGEST_ROUND).into_iter();
    let weights: Vec<i64> = weights.map(u64::cast_signed).collect();
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0i64; weights.len()];
    (0..total)
        .map(|_| {
            for (credit, weight) in credit.iter_mut().zip(&weights) {
                *credit += weight;
            }
            let richest = (0..credit.len())
                .rev()
                .max_by_key(|&at| credit[at])
                .unwrap_or(0);
            credit[richest] -= total;
            richest
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::greatest_common_divisor, *};
    use proptest::prelude::*;

    #[test]
    fn turns_are_spread_evenly() {
        for (weights, expected) in [
            (&[1][..], &[0][..]),
            (&[1, 1], &[0, 1]),
            (&[5, 5, 5], &[0, 1, 2]),
            (&[2, 1], &[0, 1, 0]),
            (&[2, 1, 1], &[0, 1, 2, 0]),
            (&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]),
        ] {
            assert_eq!(&*turns(weights), expected, "{weights:?}");
        }
    }

    proptest! {
        #[test]
        fn each_target_gets_its_share(weights in proptest::collection::vec(1u32..20, 1..8)) {
            let round = turns(&weights);
            let divisor = weights.iter().fold(0, |divisor, &weight| greatest_common_divisor(divisor, weight));
            for (at, weight) in weights.iter().enumerate() {
                let count = round.iter().filter(|turn| **turn == at).count();
                prop_assert_eq!(count as u32, weight / divisor);
            }
        }

        #[test]
        fn rounds_stay_short_and_nobody_is_left_out(weights in proptest::collection::vec(any::<u32>(), 1..8)) {
            let round = turns(&weights);
            prop_assert!(round.len() as u64 <= LONGEST_ROUND + weights.len() as u64);
            for at in 0..weights.len() {
                prop_assert!(round.contains(&at));
            }
        }
    }
}
