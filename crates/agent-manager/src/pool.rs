//! A worker's connections to one agent. Each has a task on the worker's runtime that keeps it up for ever, finds out when the
//! agent hangs, and dials another as soon as it takes no new events.

use crate::{
    agent::Agent,
    breaker::BreakerState,
    failure::{Failure, FailureReason},
    headers::OwnedHeaders,
};
use portcullis_agent_protocol::{
    Condition, ConnectError, Connection, ConnectionDriver, HealthState,
};
use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};

/// The longest pause between two attempts to connect to a Unix socket.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// A connection on which this many pings went unanswered takes no more events.
const MISSED_PINGS: u32 = 2;
/// Events that nobody waits for any longer hold their permits until they are answered. A connection that has had such events
/// for this long is replaced, because their answers do not seem to come.
const GIVEN_UP_FOR: Duration = Duration::from_secs(30);
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
            pool: kept(agent).unwrap_or_else(|| Arc::new(Pool::start(agent))),
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
    Up(Connection),
    /// The last attempt failed, the next one has not begun.
    Down(String),
}

impl Pool {
    fn start(agent: &Arc<Agent>) -> Self {
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
        Self {
            agent: agent.clone(),
            slots,
            changed,
            _alive: alive,
        }
    }

    /// A connection for a new event, after waiting for an attempt that is running or for an agent that has paused, if there
    /// is none. The caller bounds the wait and is told what is waited for.
    pub(crate) async fn connection(&self, waits: impl Fn(Waits)) -> Result<Connection, Failure> {
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

    /// What there is now.
    pub(crate) fn look(&self) -> Look {
        let mut found = Found::default();
        for slot in &self.slots {
            found.add(slot);
        }
        if let Some((load, connection)) = found.best {
            if load.unanswered >= crowded(&connection)
                && !found.connecting
                && let Some(slot) = found.asleep
            {
                slot.wanted.notify_one();
            }
            return Look::Ready(connection);
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
    Ready(Connection),
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
    best: Option<(Load, Connection)>,
    paused: bool,
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

    fn add_open(&mut self, connection: &Connection) {
        let condition = connection.condition();
        match condition.health {
            HealthState::Draining | HealthState::Unhealthy => {
                self.error = Some(format!(
                    "the agent says that it is {}",
                    condition.health.name()
                ));
            }
            _ if condition.paused => self.paused = true,
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
fn crowded(connection: &Connection) -> usize {
    match connection.extensions().event_id {
        true => CROWDED,
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

/// Tells the tasks of a pool that they are no longer wanted: the agent is stopped, or the worker does without it.
struct Ending {
    agent: watch::Receiver<bool>,
    pool: watch::Receiver<()>,
}

impl Ending {
    fn is_here(&self) -> bool {
        *self.agent.borrow() || self.pool.has_changed().is_err()
    }

    async fn reached(&mut self) {
        // An error means that whoever would say it is gone, which is an end as well.
        tokio::select! {
            _ = self.agent.wait_for(|stop| *stop) => {}
            _ = self.pool.changed() => {}
        }
    }
}

/// Why a connection is no longer used.
enum Ended {
    Lost,
    Stopping,
}

/// Connects, watches over the connection, and begins again, until it is no longer wanted.
async fn keep_up(agent: Arc<Agent>, slot: Arc<Slot>, always: bool, mut ending: Ending) {
    let _wanted = always.then(|| agent.want());
    let mut pause = FIRST_PAUSE;
    while !ending.is_here() {
        if !always {
            slot.set(State::Asleep);
            tokio::select! {
                () = slot.wanted.notified() => {}
                () = ending.reached() => break,
            }
        }
        slot.set(State::Connecting);
        let attempt = Connection::connect(&agent.settings.socket, &agent.connect);
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            () = ending.reached() => break,
        };
        match outcome {
            Ok((connection, driver)) => {
                let since = Instant::now();
                if let Ended::Stopping =
                    use_connection(&agent, &slot, always, connection, driver, &mut ending).await
                {
                    break;
                }
                agent
                    .reconnects
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                // A connection that lasted is replaced at once. An agent that only shakes hands is not worth that.
                if since.elapsed() >= LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                    continue;
                }
            }
            Err(error) => {
                let refused = matches!(
                    error,
                    ConnectError::Refused { .. } | ConnectError::ConfigurationRefused { .. }
                );
                let error = error.to_string();
                if agent.record_error(&error, refused) {
                    tracing::warn!(agent = %agent.id(), socket = %agent.settings.socket.display(), ?error, "agent cannot be connected, trying again");
                }
                slot.set(State::Down(error));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = ending.reached() => break,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    slot.set(State::Down("the proxy does without this agent".into()));
}

/// Offers a connection to callers until it takes no new events or is no longer wanted. Then calls that are under way get
/// their answers, and it closes.
async fn use_connection(
    agent: &Arc<Agent>,
    slot: &Slot,
    always: bool,
    connection: Connection,
    driver: ConnectionDriver,
    ending: &mut Ending,
) -> Ended {
    let connected = match lacking(agent, &connection) {
        None => agent.connected(always),
        Some(why) => agent.connected_in_vain(why),
    };
    agent.obey_limits(&connection);
    log_connected(agent, &connection);
    tokio::spawn(drive(agent.clone(), driver));
    slot.set(State::Up(connection.clone()));
    let ended = watch_over(agent, slot, &connection, ending).await;
    if let Ended::Stopping = ended {
        slot.set(State::Down("the proxy does without this agent".into()));
        connection.retire();
        connection.closed().await;
    }
    drop(connected);
    ended
}

/// What the agent should be asked about and does not take.
fn lacking(agent: &Agent, connection: &Connection) -> Option<String> {
    let needs = agent.settings.needs.iter();
    let lacking: Vec<&str> = needs
        .filter(|kind| !connection.supports(**kind))
        .map(|kind| kind.name())
        .collect();
    (!lacking.is_empty()).then(|| format!("the agent does not take {}", lacking.join(", ")))
}

async fn drive(agent: Arc<Agent>, driver: ConnectionDriver) {
    let reason = driver.await;
    tracing::info!(agent = %agent.id(), %reason, "agent connection ended");
}

/// The first connection is news, those of the other workers are not.
fn log_connected(agent: &Agent, connection: &Connection) {
    let capabilities = connection.capabilities();
    let (name, version) = (&capabilities.name, &capabilities.version);
    if agent.status().connected <= 1 {
        tracing::info!(agent = %agent.id(), ?name, ?version, "agent connected");
    } else {
        tracing::debug!(agent = %agent.id(), ?name, ?version, "agent connected once more");
    }
}

/// Returns when the connection takes no new events. A connection whose agent is silent is asked for a sign of life; when
/// none comes, it retires. What the agent says of itself is counted, and told to those who wait.
async fn watch_over(
    agent: &Arc<Agent>,
    slot: &Slot,
    connection: &Connection,
    ending: &mut Ending,
) -> Ended {
    let interval = agent.settings.ping_interval;
    let mut condition = Condition::default();
    let mut said = None;
    let mut given_up = GivenUp::default();
    // The breaker wants to know whether the agent is well, not only whether its socket is.
    let mut missed = match check(connection, interval, ending).await {
        Some(true) => {
            agent.breaker.reachable();
            0
        }
        Some(false) => 1,
        None => return Ended::Stopping,
    };
    loop {
        let tick = tokio::time::sleep(interval);
        tokio::pin!(tick);
        loop {
            tokio::select! {
                () = connection.no_longer_open() => return Ended::Lost,
                () = &mut tick => break,
                () = ending.reached() => return Ended::Stopping,
                Some(now) = connection.condition_changed(condition) => {
                    condition = now;
                    said = Some(agent.says(condition));
                    log_condition(agent, condition);
                    slot.changed.notify_waiters();
                }
            }
        }
        if given_up.too_long(connection, Instant::now()) {
            tracing::warn!(agent = %agent.id(), "agent leaves events unanswered, its connection retires");
            connection.retire();
            return Ended::Lost;
        }
        // A breaker that is not closed wants to know for certain.
        if connection.last_heard().elapsed() < interval
            && agent.breaker.state() == BreakerState::Closed
        {
            missed = 0;
            continue;
        }
        match check(connection, interval, ending).await {
            Some(true) => {
                missed = 0;
                agent.breaker.reachable();
            }
            Some(false) => missed += 1,
            None => return Ended::Stopping,
        }
        if missed >= MISSED_PINGS {
            tracing::warn!(agent = %agent.id(), missed, "agent does not answer pings, its connection retires");
            connection.retire();
            drop(said);
            return Ended::Lost;
        }
    }
}

/// Since when there have been events that nobody waits for any longer.
#[derive(Default)]
struct GivenUp(Option<Instant>);

impl GivenUp {
    fn too_long(&mut self, connection: &Connection, now: Instant) -> bool {
        if connection.unanswered() <= connection.in_flight() {
            self.0 = None;
            return false;
        }
        now.duration_since(*self.0.get_or_insert(now)) >= GIVEN_UP_FOR
    }
}

/// Each worker hears it on each of its connections; the first is news.
fn log_condition(agent: &Agent, condition: Condition) {
    let (health, paused) = (condition.health.name(), condition.paused);
    let news = format!("{health}, paused: {paused}");
    if agent.is_news(&news) {
        tracing::info!(agent = %agent.id(), health, paused, "agent says how it is");
    }
}

/// Whether the agent answers a ping, or anything else, in time, or takes no more events, which is seen to elsewhere; `None`
/// when the process stops.
async fn check(connection: &Connection, limit: Duration, ending: &mut Ending) -> Option<bool> {
    let before = connection.last_heard();
    tokio::select! {
        answered = tokio::time::timeout(limit, connection.ping()) => {
            let answered = matches!(answered, Ok(Ok(_)));
            Some(answered || connection.last_heard() > before)
        }
        () = connection.no_longer_open() => Some(false),
        () = ending.reached() => None,
    }
}

/// Between half of `pause` and all of it, so that workers and proxies do not dial in step.
fn jittered(pause: Duration) -> Duration {
    // RandomState is seeded by the system; this needs no quality beyond not being the same everywhere.
    let random = RandomState::new().hash_one(0u8) % 1000;
    pause / 2 + pause.mul_f64(random as f64 / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_half_and_whole() {
        for _ in 0..1000 {
            let pause = jittered(LONGEST_PAUSE);
            assert!(pause >= LONGEST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }
    }
}
