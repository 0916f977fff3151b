//! Targets take turns, by weight.

use super::{Draw, Field, schedule::Schedule};

/// See the module.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    /// Without a target there are no turns.
    schedule: Option<Schedule>,
}

impl RoundRobin {
    pub(super) fn new(weights: &[u32]) -> Self {
        Self {
            schedule: (!weights.is_empty()).then(|| Schedule::new(weights)),
        }
    }

    pub(super) fn pick(&self, field: &Field<'_>, draw: Draw<'_>) -> Option<usize> {
        let schedule = self.schedule.as_ref()?;
        for _ in 0..schedule.round() {
            let position = schedule.next();
            if field.is_usable(position) && field.takes_turn(position, draw) {
                return Some(position);
            }
        }
        // Others took their turns meanwhile, or those that have just come let all of theirs pass.
        field.usable().next()
    }
}
