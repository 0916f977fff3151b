//! A worker's connections to one agent, and which of them an event takes. Each has a task on the worker's runtime that makes it,
//! finds out when the agent hangs, and makes another as soon as it takes no new events.
//!
//! An agent may have replicas, each at a place of its own: then each replica has connections of its own, from `min` to `max`,
//! and an event takes any of them, unless the request is bound to a replica already.

mod balance;
mod counts;
#[cfg(test)]
mod fake;
mod keep_up;
mod line;
mod member;
mod pace;
mod places;
#[cfg(test)]
mod properties;
mod settings;
mod shared;
#[cfg(test)]
mod tests;

use crate::{
    agent::{Agent, CountGuard},
    completions,
    failure::{Failure, FailureReason},
    headers::HeaderNames,
    permits::Permit,
};
use balance::{Candidate, choose};
pub(crate) use counts::Pools;
use line::{Connect, Dial, Line};
pub(crate) use member::Member;
use member::{Asked, Offer};
use places::{Place, Places};
use portcullis_agent_protocol::CallGuard;
pub use settings::PoolSettings;
use shared::{Board, Shared, Waiting};
use smallvec::SmallVec;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};
use tokio::sync::watch;

/// The connections of one worker to the agents of one configuration, in its order.
pub struct Links(Vec<Link>);

/// A worker's way to an agent, and what holds between that agent and the others of the configuration.
pub(crate) struct Link {
    pub(crate) pool: Arc<Pool>,
    /// Headers that others own.
    pub(crate) foreign: Arc<HeaderNames>,
}

impl Links {
    /// Starts the tasks on the current runtime; they connect at once. Agents that the previous links have keep theirs.
    pub(crate) fn start(
        agents: &[Arc<Agent>],
        foreign: &[Arc<HeaderNames>],
        previous: Option<&Self>,
    ) -> Self {
        let kept = |agent: &Arc<Agent>| {
            let links = &previous?.0;
            links
                .iter()
                .map(|link| &link.pool)
                .find(|pool| Arc::ptr_eq(&pool.agent, agent))
                .cloned()
        };
        let links = agents.iter().zip(foreign).map(|(agent, foreign)| Link {
            pool: kept(agent).unwrap_or_else(|| Pool::start(agent)),
            foreign: foreign.clone(),
        });
        Self(links.collect())
    }

    pub(crate) fn link(&self, index: usize) -> &Link {
        &self.0[index]
    }

    pub(crate) fn pool(&self, index: usize) -> &Pool {
        &self.0[index].pool
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links")
            .field("agents", &self.0.len())
            .finish()
    }
}

/// One worker's way to one agent.
pub(crate) struct Pool<C: Connect = Dial> {
    pub(crate) agent: Arc<Agent>,
    shared: Arc<Shared<C>>,
    /// Where it is told that requests are over, if it wants to be.
    pub(crate) completions: Option<completions::Queue>,
    /// Nothing is ever sent: the tasks end when the pool is dropped.
    _alive: watch::Sender<()>,
    _wanted: CountGuard,
}

/// Which replicas may take an event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The one that knows the request.
    pub(crate) bound: Option<usize>,
    /// Those that could not be reached.
    pub(crate) tried: SmallVec<[usize; 2]>,
}

impl Wanted {
    fn admits(&self, replica: usize) -> bool {
        self.bound.is_none_or(|bound| bound == replica) && !self.tried.contains(&replica)
    }
}

impl Pool {
    fn start(agent: &Arc<Agent>) -> Arc<Self> {
        let completions = agent.settings.completions;
        Arc::new_cyclic(|pool| Self {
            completions: completions.map(|it| completions::start(pool.clone(), it.queue)),
            ..Self::connecting(agent, Dial)
        })
    }

    /// What is held for an event as long as the agent may be working on it: its permit. Where the bound of a connection can
    /// be reached, those who wait for room hear of its end.
    pub(crate) fn guard(&self, line: &impl Line, permit: Permit) -> CallGuard {
        let settings = &self.agent.settings;
        let most = settings.pool.max_outstanding.min(line.most_in_flight());
        if most >= settings.max_concurrent_calls {
            return CallGuard::new(permit);
        }
        CallGuard::new((permit, Room(self.shared.clone())))
    }
}

impl<C: Connect> Pool<C> {
    /// The tasks are started on the current runtime.
    fn connecting(agent: &Arc<Agent>, connect: C) -> Self {
        let alive = watch::Sender::new(());
        let shared = Shared::start(agent, connect, alive.subscribe());
        Self {
            agent: agent.clone(),
            shared,
            completions: None,
            _alive: alive,
            _wanted: agent.want(),
        }
    }

    /// A connection for a new event, after waiting for an attempt that is running, for an agent that has paused, or for room,
    /// if there is none. The caller bounds the wait and is told what is waited for.
    pub(crate) async fn connection(
        &self,
        wanted: &Wanted,
        waits: impl Fn(Waits),
    ) -> Result<Arc<Member<C::Line>>, Failure> {
        self.shared.waits.fetch_add(1, Relaxed);
        let _waiting = Waiting::new(&self.shared);
        loop {
            // Registered before the look at the places, so that a change in between is not missed.
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.find(wanted, Instant::now()) {
                Look::Ready(member) => {
                    member.after_wait.fetch_add(1, Relaxed);
                    return Ok(member);
                }
                Look::Failed(failure) => return Err(failure),
                Look::Wait(why) => waits(why),
            }
            changed.await;
        }
    }

    /// What there is now.
    pub(crate) fn look(&self, wanted: &Wanted, now: Instant) -> Look<C> {
        let look = self.find(wanted, now);
        match &look {
            Look::Ready(member) => {
                member.at_once.fetch_add(1, Relaxed);
            }
            Look::Wait(_) => {}
            Look::Failed(_) => {
                self.shared.none.fetch_add(1, Relaxed);
            }
        }
        look
    }

    /// Whether there are several of the agent.
    pub(crate) fn has_replicas(&self) -> bool {
        self.agent.replicas.len() > 1
    }

    /// Whether all events of a request go to the same replica.
    pub(crate) fn keeps_together(&self) -> bool {
        self.has_replicas() && !self.agent.settings.stateless
    }

    /// Whether a replica has an open connection that could take an event now.
    pub(crate) fn has_open(&self, wanted: &Wanted, now: Instant) -> bool {
        if !self.has_replicas() {
            return false;
        }
        let board = self.shared.lock();
        !self.gather(&board, wanted, now).members.is_empty()
    }

    fn find(&self, wanted: &Wanted, now: Instant) -> Look<C> {
        let mut board = self.shared.lock();
        let (look, crowded) = self.decide(self.gather(&board, wanted, now));
        match crowded {
            Crowded::Nobody => {}
            Crowded::Replica(replica) => self.shared.grow(&mut board, replica),
            Crowded::All => {
                let admitted = |replica: &usize| wanted.admits(*replica);
                for replica in (0..board.replicas.len()).filter(admitted) {
                    self.shared.grow(&mut board, replica);
                }
            }
        }
        look
    }

    fn gather<'a>(&self, board: &'a Board<C>, wanted: &Wanted, now: Instant) -> Found<'a, C> {
        let mut found = Found::default();
        for (index, places) in board.replicas.iter().enumerate() {
            if wanted.admits(index) {
                self.add(&mut found, index, places, wanted, now);
            }
        }
        found
    }

    fn decide(&self, found: Found<'_, C>) -> (Look<C>, Crowded) {
        let balance = self.agent.settings.pool.balance;
        let turn = || self.shared.turn.fetch_add(1, Relaxed);
        if let Some(chosen) = choose(balance, &found.candidates, turn) {
            let member = found.members[chosen].clone();
            let crowded = match found.is_crowded(chosen) {
                true => Crowded::Replica(member.replica),
                false => Crowded::Nobody,
            };
            return (Look::Ready(member), crowded);
        }
        match found.waits {
            Some(Waits::Room) => (Look::Wait(Waits::Room), Crowded::All),
            Some(waits) => (Look::Wait(waits), Crowded::Nobody),
            None => {
                let reason = found.error.unwrap_or_else(|| "no connection".into());
                let failure = Failure::new(FailureReason::Unreachable, reason);
                (Look::Failed(failure), Crowded::Nobody)
            }
        }
    }

    /// Adds what the places of one replica have for an event.
    fn add<'a>(
        &self,
        found: &mut Found<'a, C>,
        index: usize,
        places: &'a Places<C::Line>,
        wanted: &Wanted,
        now: Instant,
    ) {
        let settings = &self.agent.settings;
        let asked = Asked {
            is_bound: wanted.bound.is_some(),
            is_failing: self.has_replicas() && self.agent.replicas[index].is_failing(now),
            most: settings.pool.max_outstanding,
            now: settings.pool.balance.needs_pace().then_some(now),
        };
        for place in places.iter() {
            match place {
                Place::Up(member) if member.line.is_open() => found.add_open(member, &asked),
                Place::Up(_) | Place::Connecting | Place::Leaving => {
                    found.waits_for(Waits::Connecting);
                }
                Place::Asleep => {}
                Place::Down(reason) => found.error = Some(reason.clone()),
            }
        }
    }
}

/// What a call finds that wants a connection.
pub(crate) enum Look<C: Connect = Dial> {
    /// The one that is to take the event.
    Ready(Arc<Member<C::Line>>),
    /// There is none yet.
    Wait(Waits),
    /// There is none, and nothing to wait for.
    Failed(Failure),
}

/// To whom it would be good to have more connections.
enum Crowded {
    Nobody,
    Replica(usize),
    All,
}

/// What is waited for; of several things the greatest, because it says the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Waits {
    /// An attempt to connect is running.
    Connecting,
    /// The agent wants no events for now.
    Paused,
    /// On every connection there are as many unanswered events as there may be.
    Room,
}

/// What the places of a pool have.
struct Found<'a, C: Connect> {
    candidates: SmallVec<[Candidate; 4]>,
    /// Those of the candidates, in the same order.
    members: SmallVec<[&'a Arc<Member<C::Line>>; 4]>,
    waits: Option<Waits>,
    error: Option<String>,
}

impl<C: Connect> Default for Found<'_, C> {
    fn default() -> Self {
        Self {
            candidates: SmallVec::new(),
            members: SmallVec::new(),
            waits: None,
            error: None,
        }
    }
}

impl<'a, C: Connect> Found<'a, C> {
    fn add_open(&mut self, member: &'a Arc<Member<C::Line>>, asked: &Asked) {
        match member.offer(asked) {
            Offer::Candidate(candidate) => {
                self.candidates.push(candidate);
                self.members.push(member);
            }
            Offer::Full => self.waits_for(Waits::Room),
            Offer::Paused => self.waits_for(Waits::Paused),
            Offer::Refused(health) => {
                self.error = Some(format!("the agent says that it is {}", health.name()));
            }
        }
    }

    /// Whether it would be good to have another connection to the replica of the chosen one.
    fn is_crowded(&self, chosen: usize) -> bool {
        let replica = self.candidates[chosen].replica;
        let mut all = self.candidates.iter().zip(&self.members);
        all.all(|(candidate, member)| {
            candidate.replica != replica || member.is_crowded(candidate.unanswered)
        })
    }

    fn waits_for(&mut self, what: Waits) {
        self.waits = self.waits.max(Some(what));
    }
}

/// Tells those who wait for room when an event is answered.
struct Room<C: Connect>(Arc<Shared<C>>);

impl<C: Connect> Drop for Room<C> {
    fn drop(&mut self) {
        self.0.note_room();
    }
}
