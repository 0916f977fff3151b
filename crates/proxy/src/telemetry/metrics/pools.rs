//! Metrics of the connections to agents, as they are when somebody asks for them.

use super::AgentLabel;
use portcullis_agent_manager::AgentStatus;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentUse {
    agent: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentResult {
    agent: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentReplica {
    agent: String,
    replica: String,
}

/// What is in the pools of agents, and what has become of it.
#[derive(Clone, Default)]
pub(super) struct Pools {
    connections: Family<AgentUse, Gauge>,
    created: Family<AgentLabel, Counter>,
    closed: Family<AgentLabel, Counter>,
    lookups: Family<AgentResult, Counter>,
    average: Family<AgentLabel, Gauge<f64, AtomicU64>>,
    failovers: Family<AgentLabel, Counter>,
    replicas: Family<AgentReplica, Gauge>,
    /// The replicas that are shown, by agent: those that a reload takes away have to go.
    shown: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

impl Pools {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "agent_pool_connections",
            "Connections to the agent that are up, by whether an event is unanswered on them",
            self.connections.clone(),
        );
        registry.register(
            "agent_pool_created",
            "Connections to the agent that were made",
            self.created.clone(),
        );
        registry.register(
            "agent_pool_closed",
            "Connections to the agent that take no events any longer",
            self.closed.clone(),
        );
        registry.register(
            "agent_pool_lookups",
            "Calls that looked for a connection, by what they found: one at once, none yet, none at all",
            self.lookups.clone(),
        );
        registry.register_with_unit(
            "agent_call_average",
            "How long calls to the agent take of late, by the connections that are up",
            Unit::Seconds,
            self.average.clone(),
        );
        registry.register(
            "agent_failovers",
            "Calls that were put to another replica because the first was lost",
            self.failovers.clone(),
        );
        registry.register(
            "agent_replica_connections",
            "Connections to each replica of the agent that are up, of all workers",
            self.replicas.clone(),
        );
    }

    pub(super) fn show(&self, label: &AgentLabel, status: &AgentStatus) {
        let pool = &status.pool;
        for (state, connections) in [("idle", pool.idle), ("busy", pool.busy)] {
            let agent = label.agent.clone();
            let gauge = self
                .connections
                .get_or_create_owned(&AgentUse { agent, state });
            gauge.set(signed(connections));
        }
        for (counters, value) in [
            (&self.created, pool.created),
            (&self.closed, pool.closed),
            (&self.failovers, status.failovers),
        ] {
            counters.get_or_create(label).inner().store(value, Relaxed);
        }
        for (result, calls) in [
            ("found", pool.found),
            ("waited", pool.waits),
            ("none", pool.none),
        ] {
            let agent = label.agent.clone();
            let counter = self
                .lookups
                .get_or_create_owned(&AgentResult { agent, result });
            counter.inner().store(calls, Relaxed);
        }
        if let Some(average) = pool.average_call {
            self.average.get_or_create(label).set(average.as_secs_f64());
        }
        self.show_replicas(label, status);
    }

    fn show_replicas(&self, label: &AgentLabel, status: &AgentStatus) {
        let targets = || status.replicas.iter().map(|replica| &replica.target);
        let mut shown = self.shown();
        let known = shown.get(&label.agent);
        if !known.is_some_and(|known| known.iter().eq(targets())) {
            self.remove_replicas(&label.agent, known);
            shown.insert(label.agent.clone(), targets().cloned().collect());
        }
        for replica in &status.replicas {
            let gauge = self.replicas.get_or_create_owned(&AgentReplica {
                agent: label.agent.clone(),
                replica: replica.target.clone(),
            });
            gauge.set(signed(replica.connections));
        }
    }

    /// The agent is no longer configured: what it is now is nothing.
    pub(super) fn forget(&self, label: &AgentLabel) {
        for state in ["idle", "busy"] {
            let agent = label.agent.clone();
            self.connections.remove(&AgentUse { agent, state });
        }
        self.average.remove(label);
        let known = self.shown().remove(&label.agent);
        self.remove_replicas(&label.agent, known.as_ref());
    }

    fn remove_replicas(&self, agent: &str, known: Option<&Vec<String>>) {
        for replica in known.into_iter().flatten() {
            self.replicas.remove(&AgentReplica {
                agent: agent.to_owned(),
                replica: replica.clone(),
            });
        }
    }

    fn shown(&self) -> MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        // An entry is put in whole, so a poisoned lock loses nothing.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
