//! One agent as the process sees it: what is configured and what is counted. Connections are the workers' own, see
//! [`crate::link`].

use portcullis_agent_protocol::ConnectOptions;
use portcullis_config::AgentId;
use serde_json::Value;
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// What the manager has to know about an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSettings {
    /// The name in the configuration, logs and metrics.
    pub id: AgentId,
    /// The Unix socket on which the agent listens.
    pub socket: PathBuf,
    /// Handed to the agent in the handshake and with Configure; it must accept it before it is asked anything.
    pub config: Option<Arc<Value>>,
    /// Dialling, handshake and configuration together may take this long. An attempt that takes longer is given up.
    pub handshake_timeout: Duration,
}

/// How an agent is doing, for probes and the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentStatus {
    /// The agent's name.
    pub id: AgentId,
    /// How many workers want a connection to it.
    pub wanted: usize,
    /// How many workers have one that is ready for questions.
    pub connected: usize,
    /// Questions that have no answer yet.
    pub in_flight: usize,
    /// Why the last attempt to connect failed; `None` while connected.
    pub last_error: Option<String>,
}

/// Shared by all workers.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) settings: AgentSettings,
    pub(crate) connect: ConnectOptions,
    wanted: AtomicUsize,
    connected: AtomicUsize,
    in_flight: AtomicUsize,
    last_error: Mutex<Option<String>>,
}

impl Agent {
    pub(crate) fn new(settings: AgentSettings, proxy_id: &str) -> Self {
        let connect = ConnectOptions {
            proxy_id: proxy_id.to_owned(),
            config: settings.config.clone(),
            handshake_timeout: settings.handshake_timeout,
            ..ConnectOptions::new(settings.id.as_str())
        };
        Self {
            settings,
            connect,
            wanted: AtomicUsize::new(0),
            connected: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            last_error: Mutex::new(None),
        }
    }

    pub(crate) fn id(&self) -> &AgentId {
        &self.settings.id
    }

    pub(crate) fn status(&self) -> AgentStatus {
        AgentStatus {
            id: self.id().clone(),
            wanted: self.wanted.load(Relaxed),
            connected: self.connected.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            last_error: self.lock_error().clone(),
        }
    }

    pub(crate) fn want(self: &Arc<Self>) -> CountGuard {
        CountGuard::new(self.clone(), |agent| &agent.wanted)
    }

    pub(crate) fn connected(self: &Arc<Self>) -> CountGuard {
        *self.lock_error() = None;
        CountGuard::new(self.clone(), |agent| &agent.connected)
    }

    /// Counts a question until the guard is dropped, however the question ends.
    pub(crate) fn asked(self: &Arc<Self>) -> CountGuard {
        CountGuard::new(self.clone(), |agent| &agent.in_flight)
    }

    /// Remembers why there is no connection. Returns whether this is news, so that the same error is logged once and not
    /// at every attempt of every worker.
    pub(crate) fn record_error(&self, error: &str) -> bool {
        let mut last = self.lock_error();
        let news = last.as_deref() != Some(error);
        if news {
            *last = Some(error.to_owned());
        }
        news
    }

    fn lock_error(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // A text is whole at every moment, so a poisoned lock loses nothing.
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds one to a counter of an agent for as long as it lives.
pub(crate) struct CountGuard {
    agent: Arc<Agent>,
    counter: fn(&Agent) -> &AtomicUsize,
}

impl CountGuard {
    fn new(agent: Arc<Agent>, counter: fn(&Agent) -> &AtomicUsize) -> Self {
        counter(&agent).fetch_add(1, Relaxed);
        Self { agent, counter }
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        (self.counter)(&self.agent).fetch_sub(1, Relaxed);
    }
}
