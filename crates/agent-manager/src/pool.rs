//! A worker's connections to one agent. Each has a task on the worker's runtime that keeps it up for ever, finds out when the
//! agent hangs, and dials another as soon as it takes no new events.

mod keep_up;

use crate::{
    agent::Agent,
    completions,
    failure::{Failure, FailureReason},
    headers::OwnedHeaders,
};
use keep_up::{Ending, keep_up};
use portcullis_agent_protocol::{AnyConnection, HealthState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// With this many unanswered events on every connection another one is made, if the pool may grow. A legacy agent handles one
/// message at a time, so for it every event counts.
const CROWDED: usize = 64;
const CROWDED_LEGACY: usize = 1;

/// The connections of one worker to the agents of one configuration, in its order.
pub struct Links(Vec<Link>);

/// A worker's way to an agent, and what holds between that agent and the others of the configuration.
pub(crate) struct Link {
    pub(crate) pool: Arc<Pool>,
    /// Headers that others own.
    pub(crate) foreign: Arc<OwnedHeaders>,
}

impl Links {
    /// Starts the tasks on the current runtime; they connect at once. Agents that the previous links have keep theirs.
    pub(crate) fn start(
        agents: &[Arc<Agent>],
        foreign: &[Arc<OwnedHeaders>],
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
pub(crate) struct Pool {
    pub(crate) agent: Arc<Agent>,
    slots: Vec<Arc<Slot>>,
    /// Something has changed in a slot.
    changed: Arc<Notify>,
    /// Where it is told that requests are over, if it wants to be.
    pub(crate) completions: Option<completions::Queue>,
    /// Nothing is ever sent: the tasks end when the pool is dropped.
    _alive: watch::Sender<()>,
}

/// The place of one connection.
struct Slot {
    state: Mutex<State>,
    /// Wakes a slot that sleeps.
    wanted: Notify,
    changed: Arc<Notify>,
}

enum State {
    /// Nobody needs this connection yet.
    Asleep,
    /// An attempt is running; a caller may wait for its end.
    Connecting,
    Up(AnyConnection),
    /// The last attempt failed, the next one has not begun.
    Down(String),
}

impl Pool {
    fn start(agent: &Arc<Agent>) -> Arc<Self> {
        let changed = Arc::new(Notify::new());
        let alive = watch::Sender::new(());
        let bounds = agent.settings.pool;
        let slots = (0..bounds.max.max(1))
            .map(|number| {
                let awake = number < bounds.min.max(1);
                let slot = Arc::new(Slot {
                    state: Mutex::new(if awake {
                        State::Connecting
                    } else {
                        State::Asleep
                    }),
                    wanted: Notify::new(),
                    changed: changed.clone(),
                });
                let ending = Ending {
                    agent: agent.stopping(),
                    pool: alive.subscribe(),
                };
                tokio::spawn(keep_up(agent.clone(), slot.clone(), awake, ending));
                slot
            })
            .collect();
        let completions = agent.settings.completions;
        Arc::new_cyclic(|pool| Self {
            agent: agent.clone(),
            slots,
            changed,
            completions: completions.map(|it| completions::start(pool.clone(), it.queue)),
            _alive: alive,
        })
    }

    /// A connection for a new event, after waiting for an attempt that is running or for an agent that has paused, if there
    /// is none. The caller bounds the wait and is told what is waited for.
    pub(crate) async fn connection(&self, waits: impl Fn(Waits)) -> Result<AnyConnection, Failure> {
        loop {
            // Registered before the look at the slots, so that a change in between is not missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.look() {
                Look::Ready(connection) => return Ok(connection),
                Look::Failed(failure) => return Err(failure),
                Look::Wait(why) => waits(why),
            }
            changed.await;
        }
    }

    /// A connection that takes so many events and no more has had an answer.
    pub(crate) fn answered(&self) {
        self.changed.notify_waiters();
    }

    /// What there is now.
    pub(crate) fn look(&self) -> Look {
        let mut found = Found::default();
        for slot in &self.slots {
            found.add(slot);
        }
        let is_crowded = match &found.best {
            Some((load, connection)) => load.unanswered >= crowded(connection),
            None => found.busy,
        };
        if is_crowded
            && !found.connecting
            && let Some(slot) = found.asleep
        {
            slot.wanted.notify_one();
        }
        if let Some((_, connection)) = found.best {
            return Look::Ready(connection);
        }
        if found.busy {
            return Look::Wait(Waits::Busy);
        }
        if found.paused {
            return Look::Wait(Waits::Paused);
        }
        if found.connecting {
            return Look::Wait(Waits::Connecting);
        }
        let reason = found.error.unwrap_or_else(|| "no connection".into());
        Look::Failed(Failure::new(FailureReason::Unreachable, reason))
    }
}

/// What a call finds that wants a connection.
pub(crate) enum Look {
    /// The one with the least to do, of an agent that is well rather than of one that is not.
    Ready(AnyConnection),
    /// There is none yet.
    Wait(Waits),
    /// There is none, and nothing to wait for.
    Failed(Failure),
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// An attempt to connect is running.
    Connecting,
    /// The agent wants no events for now.
    Paused,
    /// Every connection has as many events as it takes at once.
    Busy,
}

/// How much a connection is to be preferred: less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    degraded: bool,
    unanswered: usize,
}

/// What the slots of a pool have.
#[derive(Default)]
struct Found<'a> {
    best: Option<(Load, AnyConnection)>,
    paused: bool,
    busy: bool,
    connecting: bool,
    asleep: Option<&'a Arc<Slot>>,
    error: Option<String>,
}

impl<'a> Found<'a> {
    fn add(&mut self, slot: &'a Arc<Slot>) {
        match &*slot.lock() {
            State::Up(connection) if connection.is_open() => self.add_open(connection),
            State::Up(_) | State::Connecting => self.connecting = true,
            State::Asleep => self.asleep = Some(slot),
            State::Down(reason) => self.error = Some(reason.clone()),
        }
    }

    fn add_open(&mut self, connection: &AnyConnection) {
        let condition = connection.condition();
        match condition.health {
            HealthState::Draining | HealthState::Unhealthy => {
                self.error = Some(format!(
                    "the agent says that it is {}",
                    condition.health.name()
                ));
            }
            _ if condition.paused => self.paused = true,
            _ if connection.in_flight() >= connection.most_in_flight() => self.busy = true,
            health => {
                let load = Load {
                    degraded: health == HealthState::Degraded,
                    unanswered: connection.unanswered(),
                };
                if self.best.as_ref().is_none_or(|(least, _)| load < *least) {
                    self.best = Some((load, connection.clone()));
                }
            }
        }
    }
}

/// With this many unanswered events on a connection it would be good to have another.
fn crowded(connection: &AnyConnection) -> usize {
    match connection.tells_answers_apart() {
        true => CROWDED.min(connection.most_in_flight()),
        false => CROWDED_LEGACY,
    }
}

impl Slot {
    fn set(&self, state: State) {
        *self.lock() = state;
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is replaced whole, so a poisoned lock loses nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
