//! A worker's connections: one link per agent, kept up for ever by a task on the worker's runtime.

use crate::{
    agent::Agent,
    failure::{Failure, FailureReason},
};
use portcullis_agent_protocol::Connection;
use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// The longest pause between two attempts to connect to a Unix socket.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The connections of one worker to all agents, in the order of the configuration.
pub struct Links {
    links: Vec<Arc<Link>>,
}

impl Links {
    /// Starts a task per agent on the current runtime, which connects at once and again whenever the connection is lost.
    pub(crate) fn start(agents: &[Arc<Agent>], stop: &watch::Receiver<bool>) -> Self {
        let links = agents
            .iter()
            .map(|agent| {
                let link = Arc::new(Link {
                    agent: agent.clone(),
                    state: Mutex::new(State::Connecting),
                    changed: Notify::new(),
                });
                tokio::spawn(keep_up(link.clone(), stop.clone()));
                link
            })
            .collect();
        Self { links }
    }

    pub(crate) fn get(&self, index: usize) -> &Arc<Link> {
        &self.links[index]
    }
}

/// One worker's way to one agent.
pub(crate) struct Link {
    pub(crate) agent: Arc<Agent>,
    state: Mutex<State>,
    changed: Notify,
}

enum State {
    /// An attempt is running; a caller may wait for its end.
    Connecting,
    Up(Connection),
    /// The last attempt failed, the next one has not begun.
    Down(String),
}

impl Link {
    /// The connection, after waiting for the attempt that is running, if any. The caller bounds the wait.
    pub(crate) async fn connection(&self) -> Result<Connection, Failure> {
        loop {
            // Registered before the look at the state, so that a change in between is not missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(result) = self.try_connection() {
                return result;
            }
            changed.await;
        }
    }

    /// The connection if it is clear whether there is one; `None` while an attempt is running.
    pub(crate) fn try_connection(&self) -> Option<Result<Connection, Failure>> {
        match &*self.lock() {
            State::Connecting => None,
            State::Up(connection) if connection.is_open() => Some(Ok(connection.clone())),
            State::Up(_) => Some(Err(Failure::new(
                FailureReason::Unreachable,
                "the connection is lost",
            ))),
            State::Down(error) => Some(Err(Failure::new(
                FailureReason::Unreachable,
                error.as_str(),
            ))),
        }
    }

    fn set(&self, state: State) {
        *self.lock() = state;
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is replaced whole, so a poisoned lock loses nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects, waits for the connection's end, and begins again, until the process stops.
async fn keep_up(link: Arc<Link>, mut stop: watch::Receiver<bool>) {
    let _wanted = link.agent.want();
    let mut pause = FIRST_PAUSE;
    while !*stop.borrow() {
        link.set(State::Connecting);
        let attempt = Connection::connect(&link.agent.settings.socket, &link.agent.connect);
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            _ = stop.changed() => break,
        };
        match outcome {
            Ok((connection, driver)) => {
                pause = FIRST_PAUSE;
                let _connected = link.agent.connected();
                let capabilities = connection.capabilities();
                tracing::info!(agent = %link.agent.id(), name = ?capabilities.name, version = ?capabilities.version, "agent connected");
                link.set(State::Up(connection.clone()));
                tokio::select! {
                    reason = driver => {
                        tracing::warn!(agent = %link.agent.id(), %reason, "agent connection lost");
                    }
                    _ = stop.changed() => {
                        connection.close();
                        break;
                    }
                }
            }
            Err(error) => {
                let error = error.to_string();
                if link.agent.record_error(&error) {
                    tracing::warn!(agent = %link.agent.id(), socket = %link.agent.settings.socket.display(), ?error, "agent cannot be connected, trying again");
                }
                link.set(State::Down(error));
                tokio::select! {
                    () = tokio::time::sleep(jittered(pause)) => {}
                    _ = stop.changed() => break,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    link.set(State::Down("the proxy is stopping".into()));
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
