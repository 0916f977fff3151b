//! What the manager has to know about an agent.

use crate::{
    breaker::BreakerSettings, cache::CacheSettings, completions::CompletionSettings,
    headers::HeaderRules, pool::PoolSettings, quota::OverloadSettings, reports::ReportSettings,
};
use portcullis_agent_protocol::{EventKind, Target};
use portcullis_config::AgentId;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// What the manager has to know about an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSettings {
    /// The name in the configuration, logs and metrics.
    pub id: AgentId,
    /// Where its replicas are, and what is spoken there; at least one.
    pub targets: Vec<Target>,
    /// The replicas keep nothing between the events of a request: each may be asked about any of them.
    pub stateless: bool,
    /// Handed to the agent in the handshake and with Configure; it must accept it before it is asked anything.
    pub config: Option<Arc<Value>>,
    /// The events that the agent must take; one that does not is not ready.
    pub needs: Vec<EventKind>,
    /// Dialling, handshake and configuration together may take this long. An attempt that takes longer is given up.
    pub handshake_timeout: Duration,
    /// A connection that was silent for this long is pinged; after two pings without a sign of life it is replaced. Looked at
    /// with the pool's maintenance.
    pub ping_interval: Duration,
    /// Events that the agent may be working on, over all workers.
    pub max_concurrent_calls: usize,
    /// Calls that may wait beyond that; 0 for none.
    pub queue: usize,
    /// When the agent is given a rest.
    pub breaker: BreakerSettings,
    /// Connections of each worker to each replica.
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
            targets: vec![target],
            stateless: false,
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
