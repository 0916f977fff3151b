//! How an agent is doing, for probes, metrics and the admin listener.

use crate::{
    breaker::BreakerState,
    cache::CacheStatus,
    reports::{ConfigUpdateStatus, ReportedStatus},
};
use portcullis_config::AgentId;
use std::time::Duration;

/// Where an agent is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AgentState {
    /// No worker has ever been connected to it.
    Starting,
    /// Every worker is connected to it.
    Ready,
    /// It is asked, and not all is well: it says so or has paused, or some workers have lost it.
    Degraded,
    /// It is taking its leave, or the proxy is: calls under way finish, and there are no new ones.
    Draining,
    /// It was connected, and no worker is any longer; or it says that it does not work.
    Unhealthy,
    /// All its connections were closed in order.
    Stopped,
}

impl AgentState {
    /// Every state, for tables in metrics and documents.
    pub const ALL: [Self; 6] = [
        Self::Starting,
        Self::Ready,
        Self::Degraded,
        Self::Draining,
        Self::Unhealthy,
        Self::Stopped,
    ];

    /// The name in the status and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
            Self::Stopped => "stopped",
        }
    }
}

/// How an agent is doing, for probes and the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentStatus {
    /// The agent's name.
    pub id: AgentId,
    /// Where it is in its life.
    pub state: AgentState,
    /// How many workers want to be connected to it.
    pub wanted: usize,
    /// How many workers have the connections to one of its replicas that are waited for.
    pub connected: usize,
    /// Connections of all workers that are up, to all of its replicas.
    pub connections: usize,
    /// How often a connection had to be made again.
    pub reconnects: u64,
    /// Events that the agent has not answered.
    pub in_flight: usize,
    /// Calls that wait for one of these to end.
    pub waiting: usize,
    /// How many calls it may have at once: as configured, or fewer because it says that it bears no more.
    pub most_calls: usize,
    /// Connections on which it wants no events for now.
    pub paused: usize,
    /// The state of its circuit breaker.
    pub breaker: BreakerState,
    /// Answers that were thrown away because of a change that agents may not make; where single changes and wishes are ignored, these.
    pub rejected: u64,
    /// Requests that it has a stream for, in dialects with streams, until both have ended.
    pub streams: usize,
    /// Calls that were put to another replica because the first was lost.
    pub failovers: u64,
    /// What is counted of its connections.
    pub pool: PoolStatus,
    /// Each of its replicas, in the order of the configuration; one if it is alone.
    pub replicas: Vec<ReplicaStatus>,
    /// Why the last attempt to connect to one of its replicas failed; `None` while all are connected.
    pub last_error: Option<String>,
    /// Its verdicts that are kept; `None` when none are.
    pub verdict_cache: Option<CacheStatus>,
    /// What became of the metrics that it has reported.
    pub reported: ReportedStatus,
    /// What it wanted last to happen to the configuration; `None`: nothing yet.
    pub config_update: Option<ConfigUpdateStatus>,
}

/// What is counted of an agent's connections, over all workers and replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStatus {
    /// Connections that were made.
    pub created: u64,
    /// Those of them that take no events any longer.
    pub closed: u64,
    /// Connections that are up and on which nothing is unanswered.
    pub idle: usize,
    /// Connections that are up and on which something is.
    pub busy: usize,
    /// Calls that found a connection at once.
    pub found: u64,
    /// Calls that had to wait for one.
    pub waits: u64,
    /// Calls that found none, and nothing to wait for.
    pub none: u64,
    /// How long calls take of late, by the connections that are up; `None` before the first.
    pub average_call: Option<Duration>,
}

impl PoolStatus {
    /// The share of calls that found a connection at once; `None` before the first.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.found + self.waits + self.none;
        (all > 0).then(|| self.found as f64 / all as f64)
    }
}

/// How one of an agent's replicas is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Where it is.
    pub target: String,
    /// Connections of all workers that are up.
    pub connections: usize,
    /// Not closed: others are preferred, because calls to it failed.
    pub breaker: BreakerState,
    /// Why the last attempt to connect failed; `None` while connected.
    pub last_error: Option<String>,
}

impl AgentStatus {
    /// Whether every worker is connected to the agent.
    pub const fn is_connected(&self) -> bool {
        self.wanted > 0 && self.connected >= self.wanted
    }

    /// Why it is not connected, in few words.
    pub fn problem(&self) -> String {
        let error = self.last_error.as_deref();
        error.unwrap_or("connecting").to_owned()
    }
}
