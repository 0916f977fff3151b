//! The better one of two that are drawn at random (power of two choices). Better is who would have the request done first: the
//! time that its answers took of late, a decaying average that follows a slow answer at once, times the requests that it has.
//! What is known of a target that gets nothing decays too, so that one that was slow is tried again.

use super::{Draw, Field};
use std::time::Duration;

pub(super) fn pick(field: &Field<'_>, decay: Duration, draw: Draw<'_>) -> Option<usize> {
    let count = field.usable().count();
    let nth = |number: u64| field.usable().nth(usize::try_from(number).unwrap_or(0));
    let count = count as u64;
    if count < 2 {
        return nth(0);
    }
    let first = draw(count);
    let second = (first + 1 + draw(count - 1)) % count;
    let (first, second) = (nth(first)?, nth(second)?);
    Some(if is_better(field, second, first, decay) {
        second
    } else {
        first
    })
}

fn is_better(field: &Field<'_>, one: usize, other: usize, decay: Duration) -> bool {
    let queue = |position: usize| {
        let in_flight = field.targets[position].state.in_flight();
        (f64::from(in_flight) + 1.0) / field.weight(position)
    };
    let takes = |position: usize| field.targets[position].state.latency(decay, field.now);
    match (takes(one), takes(other)) {
        (Some(one_takes), Some(other_takes)) => {
            queue(one) * one_takes.as_secs_f64() < queue(other) * other_takes.as_secs_f64()
        }
        // Nobody knows how fast one of them is. Taking it for the fastest would bury it.
        _ => queue(one) < queue(other),
    }
}
