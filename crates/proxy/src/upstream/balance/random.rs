//! One at random, by weight.

use super::{Draw, Field};

/// See the module.
#[derive(Debug)]
pub(crate) struct Random {
    /// The sum of the weights up to each target, its own included.
    sums: Box<[u64]>,
}

impl Random {
    pub(super) fn new(weights: &[u32]) -> Self {
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        Self {
            sums: sums.collect(),
        }
    }

    pub(super) fn pick(&self, field: &Field<'_>, draw: Draw<'_>) -> Option<usize> {
        let number = draw(*self.sums.last()?);
        let position = self.sums.partition_point(|sum| *sum <= number);
        if field.is_usable(position) && field.takes_turn(position, draw) {
            return Some(position);
        }
        among(field, draw)
    }
}

/// One of those that may be taken.
fn among(field: &Field<'_>, draw: Draw<'_>) -> Option<usize> {
    /// A weight in whole numbers, also when it is a part of itself.
    const PARTS: f64 = 1024.0;
    let mut taken = None;
    let mut sum = 0;
    for position in field.usable() {
        let weight = (field.weight(position) * PARTS).max(1.0) as u64;
        sum += weight;
        if draw(sum) < weight {
            taken = Some(position);
        }
    }
    taken
}
