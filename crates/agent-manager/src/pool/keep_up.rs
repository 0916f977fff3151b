//! The task behind each place of a pool: connects, offers the connection, finds out when the agent hangs, and begins again.

use super::{Slot, State};
use crate::{agent::Agent, breaker::BreakerState};
use portcullis_agent_protocol::{AnyConnection, AnyDriver, Condition, ConnectError};
use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The longest pause between two attempts to connect to a Unix socket.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// A connection on which this many pings went unanswered takes no more events.
const MISSED_PINGS: u32 = 2;
/// Events that nobody waits for any longer hold their permits until they are answered. A connection that has had such events
/// for this long is replaced, because their answers do not seem to come.
const GIVEN_UP_FOR: Duration = Duration::from_secs(30);

/// Tells the tasks of a pool that they are no longer wanted: the agent is stopped, or the worker does without it.
pub(super) struct Ending {
    pub(super) agent: watch::Receiver<bool>,
    pub(super) pool: watch::Receiver<()>,
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
    /// A question was given up, and the connection with it.
    GivenUp,
    Stopping,
}

/// Connects, watches over the connection, and begins again, until it is no longer wanted.
pub(super) async fn keep_up(agent: Arc<Agent>, slot: Arc<Slot>, always: bool, mut ending: Ending) {
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
        let attempt = AnyConnection::connect(&agent.settings.target, &agent.connect);
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            () = ending.reached() => break,
        };
        match outcome {
            Ok((connection, driver)) => {
                let since = Instant::now();
                let ended =
                    use_connection(&agent, &slot, always, connection, driver, &mut ending).await;
                if let Ended::Stopping = ended {
                    break;
                }
                agent.reconnects.fetch_add(1, Relaxed);
                // A connection that lasted is replaced at once, and so is one that we ended. An agent that only shakes hands
                // is not worth that.
                if matches!(ended, Ended::GivenUp) || since.elapsed() >= LONGEST_PAUSE {
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
                    tracing::warn!(agent = %agent.id(), target = %agent.settings.target, ?error, "agent cannot be connected, trying again");
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
    connection: AnyConnection,
    driver: AnyDriver,
    ending: &mut Ending,
) -> Ended {
    let connected = match lacking(agent, &connection) {
        None => agent.connected(always),
        Some(why) => agent.connected_in_vain(why),
    };
    agent.obey_limits(&connection);
    if let Some(verdicts) = &agent.verdicts
        && verdicts.connected(connection.capabilities())
    {
        tracing::info!(agent = %agent.id(), "agent has become another, its verdicts are not used any longer");
    }
    log_connected(agent, &connection);
    tokio::spawn(drive(agent.clone(), driver));
    slot.set(State::Up(connection.clone()));
    let ended = watch_over(agent, slot, &connection, ending).await;
    if let Ended::Stopping = ended {
        slot.set(State::Down("the proxy does without this agent".into()));
        connection.leave();
        connection.closed().await;
    }
    drop(connected);
    ended
}

/// What the agent should be asked about and does not take.
fn lacking(agent: &Agent, connection: &AnyConnection) -> Option<String> {
    let needs = agent.settings.needs.iter();
    let lacking: Vec<&str> = needs
        .filter(|kind| !connection.supports(**kind))
        .map(|kind| kind.name())
        .collect();
    (!lacking.is_empty()).then(|| format!("the agent does not take {}", lacking.join(", ")))
}

async fn drive(agent: Arc<Agent>, driver: AnyDriver) {
    let reason = driver.await;
    tracing::info!(agent = %agent.id(), %reason, "agent connection ended");
}

/// The first connection is news, those of the other workers are not.
fn log_connected(agent: &Agent, connection: &AnyConnection) {
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
    connection: &AnyConnection,
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
                () = connection.no_longer_open() => {
                    return match connection.was_given_up() {
                        true => Ended::GivenUp,
                        false => Ended::Lost,
                    };
                }
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
    fn too_long(&mut self, connection: &AnyConnection, now: Instant) -> bool {
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
async fn check(connection: &AnyConnection, limit: Duration, ending: &mut Ending) -> Option<bool> {
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
