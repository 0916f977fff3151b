//! How long a call may take, and whose time that is.

use crate::conversation::Conversation;
use std::time::{Duration, Instant};

/// What a call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// When the question was put.
    started: Instant,
    /// When the agent is asked. Later than `started` when others were waited for first.
    pub(super) now: Instant,
    /// For one answer, all waiting included.
    pub(crate) timeout: Duration,
    /// When the timeout ends.
    pub(crate) own: Instant,
    /// When the request's budget ends.
    pub(crate) budget: Option<Instant>,
    /// No agent has taken any of the budget before.
    pub(crate) whole_budget: bool,
    /// The agent has less than its time, because others were waited for first.
    pub(super) is_short: bool,
}

impl Limits {
    pub(crate) fn new(timeout: Duration, conversation: &Conversation, now: Instant) -> Self {
        Self {
            started: now,
            now,
            timeout,
            own: now + timeout,
            budget: conversation.deadline(now),
            whole_budget: conversation.is_fresh(),
            is_short: false,
        }
    }

    /// The same limits for a call before which others are waited for: that there is no answer in what time is left says
    /// nothing about the agent.
    pub(crate) fn shortened(self) -> Self {
        Self {
            is_short: true,
            ..self
        }
    }

    /// The same limits for a call that is made now.
    pub(crate) fn beginning_now(self) -> Self {
        Self {
            now: Instant::now(),
            ..self
        }
    }

    /// When the agent's time began.
    pub(crate) fn began(&self) -> Instant {
        self.started
    }

    /// Whether an agent that has the event and does not answer in time is to blame: it had all of its timeout, or all of the
    /// budget.
    pub(super) fn is_fair(&self) -> bool {
        let has_its_own = self.budget.is_none_or(|budget| budget >= self.own);
        !self.is_short && (has_its_own || self.whole_budget)
    }

    /// When it ends.
    pub(crate) fn deadline(&self) -> Instant {
        self.budget.map_or(self.own, |budget| budget.min(self.own))
    }
}
