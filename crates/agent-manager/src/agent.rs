//! One agent as the process sees it: what is configured, how it is doing, and what is counted. Connections are the workers'
//! own, see [`crate::pool`].

use crate::{
    breaker::{BreakerSettings, SharedBreaker},
    cache::{CacheSettings, VerdictCache},
    completions::CompletionSettings,
    headers::HeaderRules,
    observer::AgentObserver,
    operations::Dropped,
    permits::Permits,
    quota::{OverloadSettings, Quota},
    reports::{ReportSettings, Reports},
    status::{AgentState, AgentStatus},
};
use http::HeaderMap;
use portcullis_agent_protocol::{
    AnyConnection, Condition, ConnectOptions, EventKind, Extensions, HealthState, Metric, Target,
};
use portcullis_config::AgentId;
use serde_json::Value;
use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// What the manager has to know about an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSettings {
    /// The name in the configuration, logs and metrics.
    pub id: AgentId,
    /// Where the agent is, and what is spoken there.
    pub target: Target,
    /// Handed to the agent in the handshake and with Configure; it must accept it before it is asked anything.
    pub config: Option<Arc<Value>>,
    /// The events that the agent must take; one that does not is not ready.
    pub needs: Vec<EventKind>,
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
    /// What is done when the agent says "not now".
    pub overload: OverloadSettings,
    /// Which headers only this agent may set, and which it is told.
    pub headers: HeaderRules,
    /// A change of a header that agents may not make is left out of its answer and counted. `false`, as in the native
    /// protocol: its whole answer is a failure.
    pub ignores_bad_operations: bool,
    /// Events whose bodies it reads and may not change.
    pub reads_only: Vec<EventKind>,
    /// A header of the request that it sets has to be its own: a client could send one that is not, where the agent says
    /// nothing. `false`: it may also set what nobody owns.
    pub owns_what_it_sets: bool,
    /// How it is told that requests are over; `None`: it is not.
    pub completions: Option<CompletionSettings>,
    /// How its verdicts about the heads of requests are kept; `None`: they are not.
    pub verdict_cache: Option<CacheSettings>,
    /// What it may say of itself, and have done.
    pub reports: ReportSettings,
}

impl AgentSettings {
    /// Settings with the defaults of the configuration.
    pub fn new(id: AgentId, target: Target) -> Self {
        Self {
            id,
            target,
            config: None,
            needs: vec![EventKind::RequestHeaders],
            handshake_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(1),
            max_concurrent_calls: 100,
            queue: 200,
            breaker: BreakerSettings::default(),
            pool: PoolSettings::default(),
            overload: OverloadSettings::default(),
            headers: HeaderRules::default(),
            ignores_bad_operations: false,
            reads_only: Vec::new(),
            owns_what_it_sets: false,
            completions: None,
            verdict_cache: None,
            reports: ReportSettings::default(),
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

/// Shared by all workers.
pub(crate) struct Agent {
    pub(crate) settings: AgentSettings,
    pub(crate) connect: ConnectOptions,
    pub(crate) breaker: SharedBreaker,
    pub(crate) permits: Permits,
    pub(crate) reconnects: AtomicU64,
    pub(crate) quota: Arc<Quota>,
    /// What it has said and may be used again.
    pub(crate) verdicts: Option<Arc<VerdictCache>>,
    pub(crate) reports: Arc<Reports>,
    wanted: AtomicUsize,
    connected: AtomicUsize,
    connections: AtomicUsize,
    /// Connections on which the agent has said so.
    degraded: AtomicUsize,
    draining: AtomicUsize,
    unhealthy: AtomicUsize,
    paused: AtomicUsize,
    was_ready: AtomicBool,
    rejected: AtomicU64,
    trouble: Mutex<Trouble>,
    /// What the agent was heard to say last, for the log.
    heard: Mutex<String>,
    /// Told of every change of the counts of connections, and of trouble.
    changed: Notify,
    /// What the agent says suits it, in bytes.
    preferred_chunk: AtomicUsize,
    stop: watch::Sender<bool>,
    /// Nothing is ever sent: its end is that of the agent.
    end: watch::Sender<()>,
    pub(crate) observer: Option<Arc<dyn AgentObserver>>,
}

/// Why there is no connection.
#[derive(Debug, Default)]
struct Trouble {
    error: Option<String>,
    /// The agent does not want it to be otherwise: it refused what it is configured with or for.
    refused: bool,
}

/// See [`AgentManager::end_of`](crate::AgentManager::end_of).
#[derive(Debug)]
pub struct AgentEnd(watch::Receiver<()>);

impl AgentEnd {
    /// Waits until nobody uses the agent any more. The caller bounds the wait.
    pub async fn reached(mut self) {
        // Nothing is sent, so this is the error that the sender is gone.
        while self.0.changed().await.is_ok() {}
    }
}

/// The size of a piece of a body before the agent has said what suits it, and the bounds of what is obeyed. The largest fits a
/// frame also when it is written as text.
const FIRST_CHUNK: usize = 64 << 10;
const SMALLEST_CHUNK: u64 = 1 << 10;
const LARGEST_CHUNK: u64 = 8 << 20;

impl Agent {
    pub(crate) fn new(
        settings: AgentSettings,
        proxy_id: &str,
        quota: Arc<Quota>,
        observer: Option<Arc<dyn AgentObserver>>,
    ) -> Self {
        let cache = settings.verdict_cache.as_ref();
        let verdicts = cache.map(|cache| Arc::new(VerdictCache::new(cache)));
        let reports = Reports::new(settings.id.clone(), settings.reports, observer.clone());
        let reports = Arc::new(reports);
        let cache_hears = verdicts.as_ref().map(|it| it.on_control(&settings.id));
        let connect = ConnectOptions {
            extensions: Extensions {
                // Nobody would make use of it.
                verdict_ttl: verdicts.is_some(),
                ..Extensions::ALL
            },
            on_control: Some(reports.hearing(cache_hears)),
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
            quota,
            verdicts,
            reports,
            degraded: AtomicUsize::new(0),
            draining: AtomicUsize::new(0),
            unhealthy: AtomicUsize::new(0),
            paused: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            connected: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            was_ready: AtomicBool::new(false),
            rejected: AtomicU64::new(0),
            trouble: Mutex::default(),
            heard: Mutex::default(),
            changed: Notify::new(),
            stop: watch::Sender::new(false),
            end: watch::Sender::new(()),
            preferred_chunk: AtomicUsize::new(FIRST_CHUNK),
            observer,
            settings,
        }
    }

    pub(crate) fn id(&self) -> &AgentId {
        &self.settings.id
    }

    pub(crate) fn status(&self) -> AgentStatus {
        let (reported, config_update) = self.reports.status();
        let mut status = AgentStatus {
            id: self.id().clone(),
            state: AgentState::Starting,
            wanted: self.wanted.load(Relaxed),
            connected: self.connected.load(Relaxed),
            connections: self.connections.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            in_flight: self.permits.in_use(),
            waiting: self.permits.waiting(),
            most_calls: self.permits.limit(),
            paused: self.paused.load(Relaxed),
            breaker: self.breaker.state(),
            rejected: self.rejected.load(Relaxed) + self.connect.streams.refused.load(Relaxed),
            streams: self.connect.streams.open.load(Relaxed),
            last_error: self.trouble().error.clone(),
            verdict_cache: self.verdicts.as_ref().map(|verdicts| verdicts.status()),
            reported,
            config_update,
        };
        status.state = self.state(&status);
        status
    }

    fn state(&self, status: &AgentStatus) -> AgentState {
        if self.is_stopping() {
            return match status.connections {
                0 => AgentState::Stopped,
                _ => AgentState::Draining,
            };
        }
        let some = |count: &AtomicUsize| count.load(Relaxed) > 0;
        // The worst that it says of any connection is how it is.
        if some(&self.unhealthy) {
            return AgentState::Unhealthy;
        }
        if some(&self.draining) {
            return AgentState::Draining;
        }
        if status.is_connected() {
            return match some(&self.degraded) || some(&self.paused) {
                true => AgentState::Degraded,
                false => AgentState::Ready,
            };
        }
        match (status.connected, self.was_ready.load(Relaxed)) {
            (0, false) => AgentState::Starting,
            (0, true) => AgentState::Unhealthy,
            _ => AgentState::Degraded,
        }
    }

    /// Waits until every worker is connected.
    ///
    /// # Errors
    /// In the agent's words, why it will not be.
    pub(crate) async fn ready_or_refused(&self) -> Result<(), String> {
        self.reached(|| {
            let status = self.status();
            let trouble = self.trouble();
            match &trouble.error {
                Some(reason) if trouble.refused => Some(Err(reason.clone())),
                _ => status.is_connected().then_some(Ok(())),
            }
        })
        .await
    }

    /// Waits until there are no connections.
    pub(crate) async fn disconnected(&self) {
        self.reached(|| (self.connections.load(Relaxed) == 0).then_some(()))
            .await;
    }

    async fn reached<T>(&self, is_it: impl Fn() -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registers before it looks, so that nothing is missed in between.
            changed.as_mut().enable();
            if let Some(it) = is_it() {
                return it;
            }
            changed.await;
        }
    }

    /// No new connections from now on, and the end of those that there are.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(crate) fn end(&self) -> AgentEnd {
        AgentEnd(self.end.subscribe())
    }

    /// Counts a connection that shall always be there.
    pub(crate) fn want(self: &Arc<Self>) -> CountGuard {
        CountGuard::new(self.clone(), |agent| &agent.wanted)
    }

    /// Counts a connection that is up; `wanted` says whether it is one of those that shall always be there.
    pub(crate) fn connected(self: &Arc<Self>, wanted: bool) -> Connected {
        *self.trouble() = Trouble::default();
        let connected = Connected {
            _up: self.up(),
            _wanted: wanted.then(|| CountGuard::new(self.clone(), |agent| &agent.connected)),
        };
        if self.status().is_connected() {
            self.was_ready.store(true, Relaxed);
        }
        connected
    }

    /// Counts a connection. Behind the first, there may be another process than the one that was there before.
    fn up(self: &Arc<Self>) -> CountGuard {
        if self.connections.load(Relaxed) == 0 {
            self.reports.forget_metrics();
        }
        CountGuard::new(self.clone(), |agent| &agent.connections)
    }

    /// The metrics that the agent has reported, while it is there.
    pub(crate) fn reported(&self) -> Vec<Metric> {
        match self.connections.load(Relaxed) {
            0 => Vec::new(),
            _ => self.reports.reported(),
        }
    }

    /// Counts what the agent says of a connection, for as long as it is so.
    pub(crate) fn says(self: &Arc<Self>, condition: Condition) -> Said {
        let counter: Option<fn(&Self) -> &AtomicUsize> = match condition.health {
            HealthState::Degraded => Some(|agent| &agent.degraded),
            HealthState::Draining => Some(|agent| &agent.draining),
            HealthState::Unhealthy => Some(|agent| &agent.unhealthy),
            HealthState::Healthy | HealthState::Unknown => None,
        };
        let health = counter.map(|counter| CountGuard::new(self.clone(), counter));
        let paused = condition
            .paused
            .then(|| CountGuard::new(self.clone(), |agent| &agent.paused));
        Said {
            _health: health,
            _paused: paused,
        }
    }

    /// The most bytes of a body that the agent is shown at a time with this kind of event.
    pub(crate) fn preferred_chunk(&self, kind: EventKind) -> usize {
        match self.settings.target.takes_whole(kind) {
            true => usize::MAX,
            false => self.preferred_chunk.load(Relaxed),
        }
    }

    /// Obeys what the agent announces: it has no more calls at once than it says it bears, and no larger pieces of bodies than
    /// it likes.
    pub(crate) fn obey_limits(&self, connection: &AnyConnection) {
        let preferred = connection.capabilities().limits.preferred_chunk_size;
        let preferred = preferred.clamp(SMALLEST_CHUNK, LARGEST_CHUNK);
        if let Ok(preferred) = usize::try_from(preferred) {
            self.preferred_chunk.store(preferred, Relaxed);
        }
        let configured = self.settings.max_concurrent_calls;
        let announced = connection
            .max_concurrency()
            .and_then(|most| usize::try_from(most.get()).ok());
        let limit = announced.map_or(configured, |most| most.min(configured));
        if self.permits.set_limit(limit) && limit < configured {
            tracing::info!(agent = %self.id(), limit, configured, "agent announces that it takes fewer calls at once than it might get, so it gets no more");
        }
    }

    /// Counts a connection to an agent that does not take events that it is needed for. It does not make the agent ready.
    pub(crate) fn connected_in_vain(self: &Arc<Self>, why: String) -> Connected {
        let up = self.up();
        self.record_error(&why, true);
        Connected {
            _up: up,
            _wanted: None,
        }
    }

    /// The headers that the agent is told; `None` when it is told all of them.
    pub(crate) fn told(&self, headers: &HeaderMap) -> Option<HeaderMap> {
        self.settings.headers.send.filter(headers)
    }

    pub(crate) fn count_rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    /// Operations of an answer that was obeyed without them. The first is news, those that follow most likely are the same.
    pub(crate) fn count_ignored(&self, dropped: &Dropped, correlation_id: &str) {
        let Dropped { count, first } = dropped;
        if self.rejected.fetch_add(*count, Relaxed) == 0 {
            tracing::warn!(agent = %self.id(), correlation_id, count, first, "agent changes headers that it may not change, which is ignored; further ones are counted");
        } else {
            tracing::debug!(agent = %self.id(), correlation_id, count, first, "changes of headers are ignored");
        }
    }

    pub(crate) fn observe_wait(&self, waited: Duration) {
        if let Some(observer) = &self.observer {
            observer.waited(waited);
        }
    }

    /// Remembers why there is no connection, and whether the agent refused it. Returns whether this is news, so that the same
    /// error is logged once and not at every attempt of every worker.
    pub(crate) fn record_error(&self, error: &str, refused: bool) -> bool {
        let mut trouble = self.trouble();
        let news = trouble.error.as_deref() != Some(error);
        if news {
            trouble.error = Some(error.to_owned());
        }
        trouble.refused = refused;
        drop(trouble);
        self.changed.notify_waiters();
        news
    }

    /// Whether the agent has said something else before, on whatever connection.
    pub(crate) fn is_news(&self, said: &str) -> bool {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *heard != said;
        if news {
            said.clone_into(&mut heard);
        }
        news
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        // What is in there is whole at every moment, so a poisoned lock loses nothing.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("id", self.id())
            .finish_non_exhaustive()
    }
}

/// A connection that is counted as long as this lives.
pub(crate) struct Connected {
    _up: CountGuard,
    _wanted: Option<CountGuard>,
}

/// What an agent says of a connection, counted as long as this lives.
pub(crate) struct Said {
    _health: Option<CountGuard>,
    _paused: Option<CountGuard>,
}

/// Adds one to a counter of an agent for as long as it lives.
pub(crate) struct CountGuard {
    agent: Arc<Agent>,
    counter: fn(&Agent) -> &AtomicUsize,
}

impl CountGuard {
    fn new(agent: Arc<Agent>, counter: fn(&Agent) -> &AtomicUsize) -> Self {
        counter(&agent).fetch_add(1, Relaxed);
        agent.changed.notify_waiters();
        Self { agent, counter }
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        (self.counter)(&self.agent).fetch_sub(1, Relaxed);
        self.agent.changed.notify_waiters();
    }
}
