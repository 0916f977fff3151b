//! Metrics of questions to agents.

use super::{AGENT_SECONDS, CounterCache, Durations, reported::Reported};
use portcullis_agent_manager::{AgentObserver, Granted, Record, RecordedVerdict};
use portcullis_agent_protocol::ConfigChange;
use portcullis_config::AgentId;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    agent: String,
    phase: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentPhase {
    agent: String,
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentPolicy {
    agent: String,
    policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentOutcome {
    agent: String,
    outcome: &'static str,
}

/// Questions and how they ended, of all agents.
#[derive(Clone)]
pub(super) struct AgentCalls {
    calls: Family<CallLabels, Counter>,
    seconds: Durations<AgentPhase>,
    failures: Family<AgentPolicy, Counter>,
    known: Family<AgentOutcome, Counter>,
}

impl Default for AgentCalls {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(AGENT_SECONDS)),
            failures: Family::default(),
            known: Family::default(),
        }
    }
}

impl AgentCalls {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "agent_calls",
            "Questions to agents, by agent, phase and outcome (a verdict or the name of a failure), several for a body",
            self.calls.clone(),
        );
        registry.register_with_unit(
            "agent_call_duration",
            "From a question to its answer, by agent and phase, for a body the time of all its pieces",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "agent_failures_applied",
            "Failed questions, by agent and the failure mode that was applied",
            self.failures.clone(),
        );
        registry.register(
            "verdict_cache_hits",
            "Verdicts that were used again, by agent and outcome; these are no questions",
            self.known.clone(),
        );
    }
}

/// What is counted for one agent.
pub(crate) struct AgentMetrics {
    agent: String,
    families: AgentCalls,
    calls: CounterCache,
    /// By the name of the phase; those that were needed so far.
    seconds: Mutex<Vec<(&'static str, Histogram)>>,
}

impl AgentMetrics {
    pub(super) fn new(agent: &AgentId, families: AgentCalls) -> Self {
        Self {
            agent: agent.to_string(),
            families,
            calls: CounterCache::default(),
            seconds: Mutex::default(),
        }
    }

    /// Counts what became of a question, or of those about one body.
    pub(crate) fn asked(&self, record: &Record) {
        if record.cached {
            self.known(record.verdict.name());
            return;
        }
        self.asked_in_shadow(record);
        if let RecordedVerdict::Failed { mode, .. } = record.verdict {
            let label = AgentPolicy {
                agent: self.agent.clone(),
                policy: mode.name(),
            };
            self.families.failures.get_or_create(&label).inc();
        }
    }

    /// The same where nothing was done about it.
    pub(crate) fn asked_in_shadow(&self, record: &Record) {
        let given_up = [RecordedVerdict::Cancelled, RecordedVerdict::ClientGone];
        let phase = record.phase.name();
        if record.calls > 0 && !given_up.contains(&record.verdict) {
            self.observe(phase, record.duration);
        }
        let outcome = record.verdict.name();
        let key = (outcome.as_ptr() as usize, phase.as_ptr() as usize, 0);
        self.calls.increase(key, record.calls.max(1).into(), || {
            self.families.calls.get_or_create_owned(&CallLabels {
                agent: self.agent.clone(),
                phase,
                outcome,
            })
        });
    }

    /// Counts a verdict that was used again. The number is one that no phase has.
    fn known(&self, outcome: &'static str) {
        let key = (outcome.as_ptr() as usize, 0, 1);
        self.calls.increase(key, 1, || {
            self.families.known.get_or_create_owned(&AgentOutcome {
                agent: self.agent.clone(),
                outcome,
            })
        });
    }

    fn observe(&self, phase: &'static str, duration: Duration) {
        // An entry is pushed whole, so a poisoned lock loses nothing.
        let mut known = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let position = known.iter().position(|(known, _)| *known == phase);
        let position = position.unwrap_or_else(|| {
            let label = AgentPhase {
                agent: self.agent.clone(),
                phase,
            };
            known.push((phase, self.families.seconds.get_or_create_owned(&label)));
            known.len() - 1
        });
        known[position].1.observe(duration.as_secs_f64());
    }
}

/// Counts what no request sees of an agent.
pub(super) struct Observer {
    pub(super) agent: AgentMetrics,
    pub(super) waited: Histogram,
    pub(super) dropped: Counter,
    pub(super) reported: Reported,
    /// Told when the configuration is to be read again.
    pub(super) reload: Arc<Notify>,
}

impl AgentObserver for Observer {
    fn waited(&self, time: Duration) {
        self.waited.observe(time.as_secs_f64());
    }

    fn completed(&self, record: &Record) {
        self.agent.asked(record);
    }

    fn completion_dropped(&self) {
        self.dropped.inc();
    }

    fn config_update(&self, wanted: &ConfigChange, granted: Granted) {
        self.reported
            .count_update(&self.agent.agent, wanted, granted);
        if granted == Granted::Yes {
            self.reload.notify_one();
        }
    }
}
