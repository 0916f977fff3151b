//! A worker's connections to one agent. Each has a task on the worker's runtime that keeps it up for ever, finds out when the
//! agent hangs, and dials another as soon as it takes no new events.

use crate::{
    agent::Agent,
    breaker::BreakerState,
    failure::{Failure, FailureReason},
};
use portcullis_agent_protocol::Connection;
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
/// With this many unanswered events on every connection another one is made, if the pool may grow. A legacy agent handles one
/// message at a time, so for it every event counts.
const CROWDED: usize = 64;
const CROWDED_LEGACY: usize = 1;

/// The connections of one worker to all agents, in the order of the configuration.
pub struct Links {
    pools: Vec<Pool>,
}

impl Links {
    /// Starts the tasks on the current runtime; they connect at once.
    pub(crate) fn start(agents: &[Arc<Agent>], stop: &watch::Receiver<bool>) -> Self {
        Self {
            pools: agents
                .iter()
                .map(|agent| Pool::start(agent, stop))
                .collect(),
        }
    }

    pub(crate) fn pool(&self, index: usize) -> &Pool {
        &self.pools[index]
    }
}

/// One worker's way to one agent.
pub(crate) struct Pool {
    pub(crate) agent: Arc<Agent>,
    slots: Vec<Arc<Slot>>,
    /// Something has changed in a slot.
    changed: Arc<Notify>,
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
    fn start(agent: &Arc<Agent>, stop: &watch::Receiver<bool>) -> Self {
        let changed = Arc::new(Notify::new());
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
                tokio::spawn(keep_up(agent.clone(), slot.clone(), awake, stop.clone()));
                slot
            })
            .collect();
        Self {
            agent: agent.clone(),
            slots,
            changed,
        }
    }

    /// A connection, after waiting for an attempt that is running, if there is none. The caller bounds the wait.
    pub(crate) async fn connection(&self) -> Result<Connection, Failure> {
        loop {
            // Registered before the look at the slots, so that a change in between is not missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(result) = self.try_connection() {
                return result;
            }
            changed.await;
        }
    }

    /// The connection that has the least to do; `None` while there is none but an attempt is running.
    pub(crate) fn try_connection(&self) -> Option<Result<Connection, Failure>> {
        let mut best: Option<(usize, Connection)> = None;
        let mut asleep = None;
        let mut connecting = false;
        let mut error = None;
        for slot in &self.slots {
            match &*slot.lock() {
                State::Up(connection) if connection.is_open() => {
                    let unanswered = connection.unanswered();
                    if best.as_ref().is_none_or(|(least, _)| unanswered < *least) {
                        best = Some((unanswered, connection.clone()));
                    }
                }
                State::Up(_) | State::Connecting => connecting = true,
                State::Asleep => asleep = Some(slot),
                State::Down(reason) => error = Some(reason.clone()),
            }
        }
        if let Some((unanswered, connection)) = best {
            let crowded = if connection.extensions().event_id {
                CROWDED
            } else {
                CROWDED_LEGACY
            };
            if unanswered >= crowded
                && !connecting
                && let Some(slot) = asleep
            {
                slot.wanted.notify_one();
            }
            return Some(Ok(connection));
        }
        if connecting {
            return None;
        }
        let reason = error.unwrap_or_else(|| "no connection".into());
        Some(Err(Failure::new(FailureReason::Unreachable, reason)))
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

/// Why a connection is no longer used.
enum Ended {
    Lost,
    Stopping,
}

/// Connects, watches over the connection, and begins again, until the process stops.
async fn keep_up(
    agent: Arc<Agent>,
    slot: Arc<Slot>,
    always: bool,
    mut stop: watch::Receiver<bool>,
) {
    let _wanted = always.then(|| agent.want());
    let mut pause = FIRST_PAUSE;
    while !*stop.borrow() {
        if !always {
            slot.set(State::Asleep);
            tokio::select! {
                () = slot.wanted.notified() => {}
                _ = stop.changed() => break,
            }
        }
        slot.set(State::Connecting);
        let attempt = Connection::connect(&agent.settings.socket, &agent.connect);
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            _ = stop.changed() => break,
        };
        match outcome {
            Ok((connection, driver)) => {
                let since = Instant::now();
                tokio::spawn(drive(agent.clone(), driver));
                let connected = agent.connected(always);
                log_connected(&agent, &connection);
                slot.set(State::Up(connection.clone()));
                if let Ended::Stopping = watch_over(&agent, &connection, &mut stop).await {
                    connection.close();
                    break;
                }
                drop(connected);
                agent
                    .reconnects
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                // A connection that lasted is replaced at once. An agent that only shakes hands is not worth that.
                if since.elapsed() >= LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                    continue;
                }
                tokio::select! {
                    () = tokio::time::sleep(jittered(pause)) => {}
                    _ = stop.changed() => break,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => {
                let error = error.to_string();
                if agent.record_error(&error) {
                    tracing::warn!(agent = %agent.id(), socket = %agent.settings.socket.display(), ?error, "agent cannot be connected, trying again");
                }
                slot.set(State::Down(error));
                tokio::select! {
                    () = tokio::time::sleep(jittered(pause)) => {}
                    _ = stop.changed() => break,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    slot.set(State::Down("the proxy is stopping".into()));
}

async fn drive(agent: Arc<Agent>, driver: portcullis_agent_protocol::ConnectionDriver) {
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
/// none comes, it retires.
async fn watch_over(
    agent: &Agent,
    connection: &Connection,
    stop: &mut watch::Receiver<bool>,
) -> Ended {
    let interval = agent.settings.ping_interval;
    // The breaker wants to know whether the agent is well, not only whether its socket is.
    let mut missed = match check(connection, interval, stop).await {
        Some(true) => {
            agent.breaker.reachable();
            0
        }
        Some(false) => 1,
        None => return Ended::Stopping,
    };
    loop {
        tokio::select! {
            () = connection.no_longer_open() => return Ended::Lost,
            () = tokio::time::sleep(interval) => {}
            _ = stop.changed() => return Ended::Stopping,
        }
        // A breaker that is not closed wants to know for certain.
        if connection.last_heard().elapsed() < interval
            && agent.breaker.state() == BreakerState::Closed
        {
            missed = 0;
            continue;
        }
        match check(connection, interval, stop).await {
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
            return Ended::Lost;
        }
    }
}

/// Whether the agent answers a ping, or anything else, in time, or takes no more events, which is seen to elsewhere; `None`
/// when the process stops.
async fn check(
    connection: &Connection,
    limit: Duration,
    stop: &mut watch::Receiver<bool>,
) -> Option<bool> {
    let before = connection.last_heard();
    tokio::select! {
        answered = tokio::time::timeout(limit, connection.ping()) => {
            let answered = matches!(answered, Ok(Ok(_)));
            Some(answered || connection.last_heard() > before)
        }
        () = connection.no_longer_open() => Some(false),
        _ = stop.changed() => None,
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
