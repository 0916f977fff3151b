//! What the agents of one request have in common: the time they may take together, who is not asked again, and that each of
//! them is asked one thing at a time.

use crate::record::Record;
use smallvec::SmallVec;
use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// One request's dealings with agents, through all its phases. Both directions of a request share it.
#[derive(Debug, Default)]
pub struct Conversation {
    state: Mutex<State>,
    /// A turn has ended.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    /// All agents together, waiting included. Counted from the first question of the request to the last, agents' time
    /// alone: what the upstream or the client takes in between is not.
    budget: Option<Duration>,
    spent: Duration,
    /// The same, pieces of streams included.
    waited: Duration,
    /// Agents whose late answer could be taken for that of another event; by position.
    given_up: SmallVec<[usize; 2]>,
    /// Agents that are being asked; by position.
    busy: SmallVec<[usize; 4]>,
}

impl Conversation {
    /// A conversation whose agents together may take this long.
    pub fn with_budget(budget: Duration) -> Self {
        Self {
            state: Mutex::new(State {
                budget: Some(budget),
                ..State::default()
            }),
            freed: Notify::new(),
        }
    }

    /// Every question and how it ended, in the order of their ends; those about the pieces of one body are one. There are
    /// none afterwards.
    pub fn take_records(&self) -> Vec<Record> {
        std::mem::take(&mut self.state().records)
    }

    /// How long the request has waited for agents.
    pub fn waited(&self) -> Duration {
        self.state().waited
    }

    /// Writes down what became of a question, or of a body that an agent was not asked about. What is said about one body
    /// in several pieces becomes one record.
    pub fn note(&self, record: Record) {
        let mut state = self.state();
        let known = state
            .records
            .iter_mut()
            .find(|known| known.continues(&record));
        match known {
            Some(known) => known.extend(record),
            None => state.records.push(record),
        }
    }

    /// When the budget ends if agents are at work from `now` on; `None` without a budget.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let state = self.state();
        let left = state.budget?.saturating_sub(state.spent);
        Some(now + left)
    }

    /// Whether no agent has taken any of the budget yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.state().spent.is_zero()
    }

    /// Agents have taken some time. A stream has any number of pieces, so their time is not taken off the budget: it holds
    /// for each of them.
    pub(crate) fn spend(&self, time: Duration, streamed: bool) {
        let mut state = self.state();
        state.waited += time;
        if !streamed {
            state.spent += time;
        }
    }

    pub(crate) fn has_given_up(&self, agent: usize) -> bool {
        self.state().given_up.contains(&agent)
    }

    pub(crate) fn give_up(&self, agent: usize) {
        let mut state = self.state();
        if !state.given_up.contains(&agent) {
            state.given_up.push(agent);
        }
    }

    /// Waits until the agent is asked nothing else about this request: a legacy agent could not tell the answers apart, and
    /// none would get the pieces of a message in order. The caller bounds the wait.
    pub(crate) async fn turn(&self, agent: usize) -> Turn<'_> {
        loop {
            if let Some(turn) = self.try_turn(agent) {
                return turn;
            }
            // Registered before the second look, so that an end in between is not missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(turn) = self.try_turn(agent) {
                return turn;
            }
            freed.await;
        }
    }

    /// The same when nothing has to be waited for.
    pub(crate) fn try_turn(&self, agent: usize) -> Option<Turn<'_>> {
        let mut state = self.state();
        if state.busy.contains(&agent) {
            return None;
        }
        state.busy.push(agent);
        Some(Turn {
            conversation: self,
            agent,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to ask an agent something about the request, until it is dropped.
pub(crate) struct Turn<'a> {
    conversation: &'a Conversation,
    agent: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let agent = self.agent;
        self.conversation.state().busy.retain(|busy| *busy != agent);
        self.conversation.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn an_agent_is_asked_one_thing_at_a_time() {
        let conversation = Conversation::default();
        let first = conversation.turn(1).now_or_never().unwrap();
        assert!(conversation.turn(2).now_or_never().is_some());
        let mut second = Box::pin(conversation.turn(1));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second.now_or_never().is_some());
    }

    #[test]
    fn pieces_of_a_stream_leave_the_budget_as_it_is() {
        let conversation = Conversation::with_budget(Duration::from_secs(3));
        let now = Instant::now();
        let left = || conversation.deadline(now).unwrap() - now;
        conversation.spend(Duration::from_secs(1), false);
        conversation.spend(Duration::from_secs(9), true);
        assert_eq!(left(), Duration::from_secs(2));
        assert_eq!(conversation.waited(), Duration::from_secs(10));
        conversation.spend(Duration::from_secs(9), false);
        assert_eq!(left(), Duration::ZERO);
    }
}
