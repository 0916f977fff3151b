//! The target that has the fewest requests for its weight; among equals one at random.

use super::{Draw, Field};
use std::cmp::Ordering;

pub(super) fn pick(field: &Field<'_>, draw: Draw<'_>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    let mut equals = 0;
    for position in field.usable() {
        let target = &field.targets[position];
        let load = (f64::from(target.state.in_flight()) + 1.0) / field.weight(position);
        let order = best.map_or(Ordering::Less, |(_, least)| load.total_cmp(&least));
        match order {
            Ordering::Less => {
                best = Some((position, load));
                equals = 1;
            }
            Ordering::Equal => {
                equals += 1;
                // Each of them is left with the same chance.
                if draw(equals) == 0 {
                    best = Some((position, load));
                }
            }
            Ordering::Greater => {}
        }
    }
    best.map(|(position, _)| position)
}
