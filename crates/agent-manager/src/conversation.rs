//! What the agents of one request have in common: the time they may take together, who is not asked again, and that each of
//! them is asked one thing at a time.

use crate::{
    changed::{HeaderChange, MOST_CHANGES},
    failure::FailureReason,
    pool::Member,
    record::{Phase, Record},
};
use smallvec::SmallVec;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One request's dealings with agents, through all its phases. Both directions of a request share it.
#[derive(Debug, Default)]
pub struct Conversation {
    state: Mutex<State>,
    /// Somebody will ask who changed which header.
    keeps_changes: bool,
    /// See [`aside`](Self::aside).
    is_aside: bool,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    changes: Vec<HeaderChange>,
    /// Those that were counted before the end of the request.
    settled: Vec<Record>,
    /// All agents together, waiting included. Counted from the first question of the request to the last, agents' time
    /// alone: what the upstream or the client takes in between is not.
    budget: Option<Duration>,
    spent: Duration,
    /// The same, pieces of streams included.
    waited: Duration,
    /// Agents whose late answer could be taken for that of another event; by position, each with why there was none.
    given_up: SmallVec<[(usize, FailureReason); 2]>,
    /// Of each agent that was asked, by position, whose turn it is.
    turns: SmallVec<[(usize, Arc<Semaphore>); 2]>,
    /// Of agents with replicas, by position, the one that knows the request.
    replicas: SmallVec<[(usize, usize); 2]>,
    bound: Vec<Bound>,
}

/// All events of the request to one agent go over one connection, which is told when the request is over.
#[derive(Debug)]
struct Bound {
    agent: usize,
    member: Arc<Member>,
    correlation_id: String,
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.member.line.forget(&self.correlation_id);
    }
}

impl Conversation {
    /// A conversation whose agents together may take this long.
    pub fn with_budget(budget: Duration) -> Self {
        Self {
            state: Mutex::new(State {
                budget: Some(budget),
                ..State::default()
            }),
            keeps_changes: false,
            is_aside: false,
        }
    }

    /// The same, and if so wanted its questions take nothing from others to the same agents: they are not put in a queue,
    /// leave at least half of an agent's permits free, and fail at once when that is not possible. No failure of theirs
    /// counts for a breaker.
    pub const fn aside(mut self, is_aside: bool) -> Self {
        self.is_aside = is_aside;
        self
    }

    pub(crate) const fn is_aside(&self) -> bool {
        self.is_aside
    }

    /// The same, and if so wanted it is written down which headers agents change.
    pub const fn keeping_changes(mut self, keeps: bool) -> Self {
        self.keeps_changes = keeps;
        self
    }

    /// Every question and how it ended, in the order of their ends; those about the pieces of one body are one. There are
    /// none afterwards.
    pub fn take_records(&self) -> Vec<Record> {
        std::mem::take(&mut self.state().records)
    }

    /// What has been written down about questions so far.
    pub fn records(&self) -> Vec<Record> {
        self.state().records.clone()
    }

    /// Which headers agents changed, in the order of their answers; at most 256, and none where they are not
    /// [kept](Self::keeping_changes). There are none afterwards.
    pub fn take_changes(&self) -> Vec<HeaderChange> {
        std::mem::take(&mut self.state().changes)
    }

    pub(crate) const fn keeps_changes(&self) -> bool {
        self.keeps_changes
    }

    pub(crate) fn note_changes(&self, changes: impl Iterator<Item = HeaderChange>) {
        let mut changes = changes.peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut state = self.state();
        let room = MOST_CHANGES.saturating_sub(state.changes.len());
        state.changes.extend(changes.take(room));
    }

    /// Hands out what was written down about this phase since the last time, to be counted now: a socket can live for
    /// days, and nobody should have to wait for its end to see that an agent fails.
    pub fn settle(&self, phase: Phase, mut count: impl FnMut(&Record)) {
        let mut state = self.state();
        let State {
            records, settled, ..
        } = &mut *state;
        for record in records.extract_if(.., |record| record.phase == phase) {
            count(&record);
            add(settled, record);
        }
    }

    /// The records with those that were settled before, which were counted then.
    pub fn with_settled(&self, mut records: Vec<Record>) -> Vec<Record> {
        for mut record in std::mem::take(&mut self.state().settled) {
            let known = records.iter_mut().find(|known| record.continues(known));
            match known {
                Some(known) => {
                    std::mem::swap(known, &mut record);
                    known.extend(record);
                }
                None => records.push(record),
            }
        }
        records
    }

    /// How long the request has waited for agents.
    pub fn waited(&self) -> Duration {
        self.state().waited
    }

    /// Writes down what became of a question, or of a body that an agent was not asked about. What is said about one body
    /// in several pieces becomes one record.
    pub fn note(&self, record: Record) {
        add(&mut self.state().records, record);
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

    /// Why the agent is asked nothing more about this request, if that is so.
    pub(crate) fn given_up(&self, agent: usize) -> Option<FailureReason> {
        let state = self.state();
        let given_up = state.given_up.iter().find(|(of, _)| *of == agent);
        given_up.map(|(_, why)| *why)
    }

    /// From now on the agent is asked nothing more about this request. The first reason stays.
    pub(crate) fn give_up(&self, agent: usize, why: FailureReason) {
        let mut state = self.state();
        if !state.given_up.iter().any(|(of, _)| *of == agent) {
            state.given_up.push((agent, why));
        }
    }

    /// Waits until the agent is asked nothing else about this request: a legacy agent could not tell the answers apart, and
    /// none would get the pieces of a message in order. Who waits longest is next, so that neither direction of a request
    /// keeps the other from being asked. The caller bounds the wait.
    pub(crate) async fn turn(&self, agent: usize) -> Option<Turn> {
        // An error means that the semaphore is closed, which it never is.
        self.turns_of(agent).acquire_owned().await.ok()
    }

    /// The same when nothing has to be waited for.
    pub(crate) fn try_turn(&self, agent: usize) -> Option<Turn> {
        self.turns_of(agent).try_acquire_owned().ok()
    }

    fn turns_of(&self, agent: usize) -> Arc<Semaphore> {
        let mut state = self.state();
        if let Some((_, turns)) = state.turns.iter().find(|(of, _)| *of == agent) {
            return turns.clone();
        }
        let turns = Arc::new(Semaphore::new(1));
        state.turns.push((agent, turns.clone()));
        turns
    }

    /// Which replica of an agent has seen the request.
    pub(crate) fn replica(&self, agent: usize) -> Option<usize> {
        let state = self.state();
        let bound = state.replicas.iter().find(|(of, _)| *of == agent);
        bound.map(|(_, replica)| *replica)
    }

    /// From now on all events of the request to this agent go to this replica.
    pub(crate) fn bind_replica(&self, agent: usize, replica: usize) {
        let replicas = &mut self.state().replicas;
        match replicas.iter_mut().find(|(of, _)| *of == agent) {
            Some((_, bound)) => *bound = replica,
            None => replicas.push((agent, replica)),
        }
    }

    /// The connection that the request is bound to at this agent.
    pub(crate) fn bound(&self, agent: usize) -> Option<Arc<Member>> {
        let state = self.state();
        let bound = state.bound.iter().find(|bound| bound.agent == agent)?;
        Some(bound.member.clone())
    }

    /// From now on until its end, all events of the request to this agent go over this connection.
    pub(crate) fn bind(&self, agent: usize, member: Arc<Member>, correlation_id: &str) {
        self.state().bound.push(Bound {
            agent,
            member,
            correlation_id: correlation_id.to_owned(),
        });
    }

    /// The connection is gone, and the request begins anew on another.
    pub(crate) fn unbind(&self, agent: usize) {
        // Dropped without the lock: what is gone is told so.
        let bound = self
            .state()
            .bound
            .extract_if(.., |bound| bound.agent == agent)
            .collect::<Vec<_>>();
        drop(bound);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What continues another record becomes one with it.
fn add(records: &mut Vec<Record>, record: Record) {
    let known = records.iter_mut().find(|known| known.continues(&record));
    match known {
        Some(known) => known.extend(record),
        None => records.push(record),
    }
}

/// The right to ask an agent something about the request, until it is dropped.
pub(crate) type Turn = OwnedSemaphorePermit;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordedVerdict;
    use futures::FutureExt;

    #[test]
    fn an_agent_is_asked_one_thing_at_a_time() {
        let conversation = Conversation::default();
        let first = conversation.turn(1).now_or_never().flatten();
        assert!(first.is_some());
        assert!(conversation.try_turn(2).is_some());
        let mut second = Box::pin(conversation.turn(1));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(conversation.try_turn(1).is_none(), "somebody waits for it");
        assert!(second.now_or_never().flatten().is_some());
    }

    #[test]
    fn why_an_agent_was_given_up_first_is_why_it_is_not_asked() {
        let conversation = Conversation::default();
        assert_eq!(conversation.given_up(1), None);
        conversation.give_up(1, FailureReason::ProtocolError);
        conversation.give_up(1, FailureReason::Timeout);
        assert_eq!(conversation.given_up(1), Some(FailureReason::ProtocolError));
        assert_eq!(conversation.given_up(2), None);
    }

    #[test]
    fn what_is_settled_is_counted_once_and_kept_for_the_end() {
        let record = |phase, verdict| Record {
            agent: "waf".into(),
            phase,
            verdict,
            reason: None,
            tags: Vec::new(),
            duration: Duration::from_millis(1),
            calls: 1,
            cached: false,
        };
        let conversation = Conversation::default();
        let frames = Phase::WebSocketFrames;
        conversation.note(record(Phase::RequestHeaders, RecordedVerdict::Allow));
        let mut counted = Vec::new();
        for verdict in [RecordedVerdict::Drop, RecordedVerdict::Allow] {
            conversation.note(record(frames, verdict));
            conversation.settle(frames, |record| counted.push(record.verdict));
        }
        assert_eq!(counted, [RecordedVerdict::Drop, RecordedVerdict::Allow]);
        conversation.note(record(frames, RecordedVerdict::ClientGone));
        let rest = conversation.take_records();
        assert_eq!(rest.len(), 2, "those that nobody has counted");
        let all = conversation.with_settled(rest);
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].verdict, all[1].calls), (RecordedVerdict::Drop, 3));
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
