//! Metrics of verdicts that are used again.

use super::AgentLabel;
use portcullis_agent_manager::CacheStatus;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::sync::atomic::Ordering::Relaxed;

/// What is in the caches of agents, and what has become of it. Verdicts that were used are counted with the questions.
#[derive(Clone, Default)]
pub(super) struct VerdictCaches {
    misses: Family<AgentLabel, Counter>,
    stored: Family<AgentLabel, Counter>,
    evictions: Family<AgentLabel, Counter>,
    purges: Family<AgentLabel, Counter>,
    entries: Family<AgentLabel, Gauge>,
    bytes: Family<AgentLabel, Gauge>,
}

impl VerdictCaches {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "verdict_cache_misses",
            "Questions to agents whose verdicts are kept, because none was known",
            self.misses.clone(),
        );
        registry.register(
            "verdict_cache_stored",
            "Verdicts that the agent has let be kept, and were",
            self.stored.clone(),
        );
        registry.register(
            "verdict_cache_evictions",
            "Verdicts that were dropped before their time because there was no room",
            self.evictions.clone(),
        );
        registry.register(
            "verdict_cache_purges",
            "How often all verdicts of an agent were dropped, because it wanted that or has become another",
            self.purges.clone(),
        );
        registry.register(
            "verdict_cache_entries",
            "Verdicts that are kept, those that have expired and are not yet dropped included",
            self.entries.clone(),
        );
        registry.register_with_unit(
            "verdict_cache_used",
            "What kept verdicts take up with their keys",
            Unit::Bytes,
            self.bytes.clone(),
        );
    }

    pub(super) fn show(&self, label: &AgentLabel, status: &CacheStatus) {
        for (counters, value) in [
            (&self.misses, status.misses),
            (&self.stored, status.stored),
            (&self.evictions, status.evicted),
            (&self.purges, status.purged),
        ] {
            counters.get_or_create(label).inner().store(value, Relaxed);
        }
        for (gauges, value) in [(&self.entries, status.entries), (&self.bytes, status.bytes)] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            gauges.get_or_create(label).set(value);
        }
    }

    /// The agent, or its cache, is no longer configured.
    pub(super) fn forget(&self, label: &AgentLabel) {
        for gauges in [&self.entries, &self.bytes] {
            gauges.remove(label);
        }
    }
}
