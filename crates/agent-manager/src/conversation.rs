//! What the agents of one request have in common: the time they may take together, and who is not asked again.

use crate::record::Record;
use smallvec::SmallVec;
use std::time::{Duration, Instant};

/// One request's dealings with agents, through all its phases.
#[derive(Debug, Default)]
pub struct Conversation {
    /// Every question and how it ended, in the order of their ends.
    pub records: Vec<Record>,
    /// All agents together, waiting included. Counted from the first question of the request to the last, agents' time
    /// alone: what the upstream or the client takes in between is not.
    budget: Option<Duration>,
    spent: Duration,
    /// Agents whose late answer could be taken for that of another event; by position.
    given_up: SmallVec<[usize; 2]>,
}

impl Conversation {
    /// A conversation whose agents together may take this long.
    pub fn with_budget(budget: Duration) -> Self {
        Self {
            budget: Some(budget),
            ..Self::default()
        }
    }

    /// When the budget ends if agents are at work from `now` on; `None` without a budget.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.budget
            .map(|budget| now + budget.saturating_sub(self.spent))
    }

    /// Whether no agent has taken any of the budget yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.spent.is_zero()
    }

    pub(crate) fn spend(&mut self, time: Duration) {
        self.spent += time;
    }

    pub(crate) fn has_given_up(&self, agent: usize) -> bool {
        self.given_up.contains(&agent)
    }

    pub(crate) fn give_up(&mut self, agent: usize) {
        if !self.has_given_up(agent) {
            self.given_up.push(agent);
        }
    }
}
