//! One agent as the process sees it: what is configured and what is counted. Connections are the workers' own, see
//! [`crate::link`].

use crate::{
    breaker::{BreakerSettings, BreakerState, SharedBreaker},
    headers::{HeaderRules, OwnedHeaders},
    permits::Permits,
};
use http::HeaderMap;
use portcullis_agent_protocol::ConnectOptions;
use portcullis_config::AgentId;
use serde_json::Value;
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
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
    /// A connection that was silent for this long is pinged; after two pings without a sign of life it is replaced.
    pub ping_interval: Duration,
    /// Events that the agent may be working on, over all workers.
    pub max_concurrent_calls: usize,
    /// Calls that may wait beyond that; 0 for none.
    pub queue: usize,
    /// When the agent is given a rest.
    pub breaker: BreakerSettings,
    /// Connections of each worker.
    pub pool: PoolSettings,
    /// Which headers only this agent may set, and which it is told.
    pub headers: HeaderRules,
}

impl AgentSettings {
    /// Settings with the defaults of the configuration.
    pub fn new(id: AgentId, socket: PathBuf) -> Self {
        Self {
            id,
            socket,
            config: None,
            handshake_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(1),
            max_concurrent_calls: 100,
            queue: 200,
            breaker: BreakerSettings::default(),
            pool: PoolSettings::default(),
            headers: HeaderRules::default(),
        }
    }
}

/// How many connections each worker has to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSettings {
    /// Kept up always; at least 1.
    pub min: usize,
    /// Made when the others are crowded; at least `min`.
    pub max: usize,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { min: 1, max: 4 }
    }
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
    /// Connections of all workers that are up, those beyond the wanted ones included.
    pub connections: usize,
    /// How often a connection had to be made again.
    pub reconnects: u64,
    /// Events that the agent has not answered.
    pub in_flight: usize,
    /// Calls that wait for one of these to end.
    pub waiting: usize,
    /// The state of its circuit breaker.
    pub breaker: BreakerState,
    /// Answers that were thrown away because of a change that agents may not make.
    pub rejected: u64,
    /// Why the last attempt to connect failed; `None` while connected.
    pub last_error: Option<String>,
}

/// Shared by all workers.
pub(crate) struct Agent {
    pub(crate) settings: AgentSettings,
    pub(crate) connect: ConnectOptions,
    pub(crate) breaker: SharedBreaker,
    pub(crate) permits: Permits,
    pub(crate) reconnects: AtomicU64,
    /// What other agents own, filled in once all are known.
    pub(crate) foreign: OnceLock<OwnedHeaders>,
    wanted: AtomicUsize,
    connected: AtomicUsize,
    connections: AtomicUsize,
    rejected: AtomicU64,
    last_error: Mutex<Option<String>>,
    on_wait: Option<WaitObserver>,
}

/// Is told how long a call waited for its permit.
pub type WaitObserver = Arc<dyn Fn(Duration) + Send + Sync>;

impl Agent {
    pub(crate) fn new(
        settings: AgentSettings,
        proxy_id: &str,
        on_wait: Option<WaitObserver>,
    ) -> Self {
        let connect = ConnectOptions {
            proxy_id: proxy_id.to_owned(),
            config: settings.config.clone(),
            handshake_timeout: settings.handshake_timeout,
            ..ConnectOptions::new(settings.id.as_str())
        };
        Self {
            connect,
            breaker: SharedBreaker::new(settings.breaker),
            permits: Permits::new(settings.max_concurrent_calls, settings.queue),
            reconnects: AtomicU64::new(0),
            foreign: OnceLock::new(),
            wanted: AtomicUsize::new(0),
            connected: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            rejected: AtomicU64::new(0),
            last_error: Mutex::new(None),
            on_wait,
            settings,
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
            connections: self.connections.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            in_flight: self.permits.in_use(),
            waiting: self.permits.waiting(),
            breaker: self.breaker.state(),
            rejected: self.rejected.load(Relaxed),
            last_error: self.lock_error().clone(),
        }
    }

    /// Counts a connection that shall always be there.
    pub(crate) fn want(self: &Arc<Self>) -> CountGuard {
        CountGuard::new(self.clone(), |agent| &agent.wanted)
    }

    /// Counts a connection that is up; `wanted` says whether it is one of those that shall always be there.
    pub(crate) fn connected(self: &Arc<Self>, wanted: bool) -> (CountGuard, Option<CountGuard>) {
        *self.lock_error() = None;
        let up = CountGuard::new(self.clone(), |agent| &agent.connections);
        let wanted = wanted.then(|| CountGuard::new(self.clone(), |agent| &agent.connected));
        (up, wanted)
    }

    /// The headers that the agent is told; `None` when it is told all of them.
    pub(crate) fn told(&self, headers: &HeaderMap) -> Option<HeaderMap> {
        self.settings.headers.send.filter(headers)
    }

    pub(crate) fn count_rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    pub(crate) fn observe_wait(&self, waited: Duration) {
        if let Some(observer) = &self.on_wait {
            observer(waited);
        }
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

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("id", self.id())
            .finish_non_exhaustive()
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
