//! Consistent hashing on a ring: every target has points on a circle, and a key belongs to the target whose point comes next. Where
//! the points are depends on the target's name alone, and how many there are on its weight against those of the others. So replicas of
//! the proxy agree, and one that comes or goes moves no key between two others as long as these keep their numbers of points: where it
//! changes what all weights have in common, or so many targets that there would be too many points, some keys move. A key whose target
//! must not be taken goes to the next one on the circle, and comes back.

use super::{Field, mix, scaled};

/// Points of a target of the smallest weight: shares are even to some per cent.
const POINTS: u64 = 160;
/// Points of all targets together.
const MOST_POINTS: u64 = 1 << 17;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Places on the circle in order, and the positions of their targets.
    points: Box<[(u64, u32)]>,
}

impl Ring {
    /// `names` are hashes of the targets' names.
    pub(super) fn new(names: &[u64], weights: &[u32]) -> Self {
        let mut points = Vec::new();
        let weights = scaled(weights, MOST_POINTS / POINTS);
        for ((name, weight), position) in names.iter().zip(weights).zip(0_u32..) {
            let of_target = 0..weight * POINTS;
            points.extend(of_target.map(|number| (mix(name ^ mix(number + 1)), position)));
        }
        points.sort_unstable();
        Self {
            points: points.into(),
        }
    }

    pub(super) fn pick(&self, field: &Field<'_>, key: u64) -> Option<usize> {
        let next = self.points.partition_point(|(place, _)| *place < key);
        let (before, after) = self.points.split_at(next);
        let mut onward = after
            .iter()
            .chain(before)
            .map(|(_, target)| *target as usize);
        onward.find(|position| field.is_usable(*position))
    }
}
