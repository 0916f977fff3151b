//! One agent as the process sees it: what is configured, how it is doing, and what is counted. Connections are the workers'
//! own, see [`crate::pool`].

use crate::{
    breaker::SharedBreaker,
    cache::VerdictCache,
    observer::AgentObserver,
    operations::Dropped,
    permits::Permits,
    pool::Pools,
    quota::Quota,
    replica::Replica,
    reports::Reports,
    settings::AgentSettings,
    status::{AgentState, AgentStatus, ReplicaStatus},
};
use http::HeaderMap;
use portcullis_agent_protocol::{
    Capabilities, Condition, ConnectOptions, EventKind, Extensions, HealthState, Metric, Target,
};
use portcullis_config::AgentId;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// Shared by all workers.
pub(crate) struct Agent {
    pub(crate) settings: AgentSettings,
    pub(crate) connect: ConnectOptions,
    pub(crate) breaker: SharedBreaker,
    pub(crate) permits: Permits,
    pub(crate) reconnects: AtomicU64,
    pub(crate) failovers: AtomicU64,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) pools: Pools,
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
    /// Told of every change of the counts of connections, and of trouble.
    changed: Notify,
    /// What the agent says suits it, in bytes.
    preferred_chunk: AtomicUsize,
    stop: watch::Sender<bool>,
    /// Nothing is ever sent: its end is that of the agent.
    end: watch::Sender<()>,
    pub(crate) observer: Option<Arc<dyn AgentObserver>>,
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

/// The size of a piece of a body before the agent has said what suits it, and the bounds of what is obeyed. The largest has room
/// in what may be queued for a connection (8 MiB), also in JSON, where text makes it a third longer and a head stands beside it.
const FIRST_CHUNK: usize = 64 << 10;
const SMALLEST_CHUNK: u64 = 1 << 10;
const LARGEST_CHUNK: u64 = 4 << 20;

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
        let targets = settings.targets.iter();
        let replica = |target: &Target| Replica::new(target.to_string(), settings.breaker);
        Self {
            replicas: targets.map(replica).collect(),
            pools: Pools::default(),
            failovers: AtomicU64::new(0),
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
            failovers: self.failovers.load(Relaxed),
            pool: self.pools.counts().status(),
            replicas: self.replica_status(),
            last_error: self.replicas.iter().find_map(Replica::error),
            verdict_cache: self.verdicts.as_ref().map(|verdicts| verdicts.status()),
            reported,
            config_update,
        };
        status.state = self.state(&status);
        status
    }

    fn replica_status(&self) -> Vec<ReplicaStatus> {
        let mut replicas: Vec<_> = self.replicas.iter().map(Replica::status).collect();
        // Calls to one that is alone are counted by the agent's own breaker.
        if let [alone] = &mut *replicas {
            alone.breaker = self.breaker.state();
        }
        replicas
    }

    fn state(&self, status: &AgentStatus) -> AgentState {
        if self.is_stopping() {
            return match status.connections {
                0 => AgentState::Stopped,
                _ => AgentState::Draining,
            };
        }
        let some = |count: &AtomicUsize| count.load(Relaxed) > 0;
        let leaving = self.unhealthy.load(Relaxed) + self.draining.load(Relaxed);
        let others = self.replicas.len() > 1 && leaving < status.connections;
        // The worst that it says of any connection is how it is; unless there are replicas of which others are well.
        if some(&self.unhealthy) && !others {
            return AgentState::Unhealthy;
        }
        if some(&self.draining) && !others {
            return AgentState::Draining;
        }
        if status.is_connected() {
            return match some(&self.degraded) || some(&self.paused) || leaving > 0 {
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
            if self.is_connected() {
                return Some(Ok(()));
            }
            self.replicas.iter().find_map(Replica::refusal).map(Err)
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

    /// Counts a worker that wants to be connected.
    pub(crate) fn want(self: &Arc<Self>) -> CountGuard {
        CountGuard::new(self.clone(), |agent| &agent.wanted)
    }

    /// Counts a worker that is.
    pub(crate) fn ready(self: &Arc<Self>) -> CountGuard {
        let ready = CountGuard::new(self.clone(), |agent| &agent.connected);
        if self.is_connected() {
            self.was_ready.store(true, Relaxed);
        }
        ready
    }

    /// Whether every worker is connected.
    fn is_connected(&self) -> bool {
        let wanted = self.wanted.load(Relaxed);
        wanted > 0 && self.connected.load(Relaxed) >= wanted
    }

    /// Counts a connection that is up, and obeys what the agent announces on it. `lacking` says what it does not take of that
    /// which it is needed for: then the connection does not make the agent ready.
    pub(crate) fn connected(
        self: &Arc<Self>,
        replica: usize,
        capabilities: &Capabilities,
        lacking: Option<&str>,
    ) -> Connected {
        match lacking {
            None => self.replicas[replica].connected(),
            Some(why) => {
                self.record_error(replica, why, true);
            }
        }
        let announced = capabilities.limits.max_concurrency;
        let bears = usize::try_from(announced).unwrap_or(usize::MAX);
        self.replicas[replica].bears.store(bears, Relaxed);
        self.replicas[replica].connections.fetch_add(1, Relaxed);
        self.obey_limits();
        self.obey_preference(capabilities);
        Connected {
            up: self.up(),
            replica,
        }
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
        match self.settings.targets.iter().any(|it| it.takes_whole(kind)) {
            true => usize::MAX,
            false => self.preferred_chunk.load(Relaxed),
        }
    }

    /// The agent gets no larger pieces of bodies than it likes.
    fn obey_preference(&self, capabilities: &Capabilities) {
        let preferred = capabilities.limits.preferred_chunk_size;
        let preferred = preferred.clamp(SMALLEST_CHUNK, LARGEST_CHUNK);
        if let Ok(preferred) = usize::try_from(preferred) {
            self.preferred_chunk.store(preferred, Relaxed);
        }
    }

    /// The agent has no more calls at once than it says it bears: those of its replicas that are connected together. While none
    /// is, what was said last holds.
    fn obey_limits(&self) {
        let connected = |replica: &&Replica| replica.connections.load(Relaxed) > 0;
        let mut announced = Some(0_usize);
        for replica in self.replicas.iter().filter(connected) {
            let bears = replica.bears.load(Relaxed);
            announced = announced
                .filter(|_| bears > 0)
                .map(|sum| sum.saturating_add(bears));
        }
        if announced == Some(0) {
            return;
        }
        let configured = self.settings.max_concurrent_calls;
        let limit = announced.map_or(configured, |most| most.min(configured));
        if self.permits.set_limit(limit) && limit < configured {
            tracing::info!(agent = %self.id(), limit, configured, "agent announces that it takes fewer calls at once than it might get, so it gets no more");
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

    /// Remembers why there is no connection to a replica, and whether that refused it. Returns whether this is news.
    pub(crate) fn record_error(&self, replica: usize, error: &str, refused: bool) -> bool {
        let news = self.replicas[replica].record_error(error, refused);
        self.changed.notify_waiters();
        news
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
    up: CountGuard,
    replica: usize,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let agent = &self.up.agent;
        agent.replicas[self.replica]
            .connections
            .fetch_sub(1, Relaxed);
        agent.obey_limits();
    }
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
