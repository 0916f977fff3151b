//! Metrics of agents that are asked in the shadow of requests.

use portcullis_config::AgentId;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    route: String,
    agent: String,
    shadow: &'static str,
    enforced: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedLabels {
    route: String,
    agent: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteAgent {
    route: String,
    agent: String,
}

/// What is counted of all shadow agents.
#[derive(Clone, Default)]
pub(super) struct ShadowFamilies {
    verdicts: Family<VerdictLabels, Counter>,
    dropped: Family<DroppedLabels, Counter>,
    fallbacks: Family<RouteAgent, Counter>,
}

impl ShadowFamilies {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "shadow_verdicts",
            "What shadow agents would have decided, by route and agent, beside what was enforced",
            self.verdicts.clone(),
        );
        registry.register(
            "shadow_dropped",
            "Requests that a shadow agent was not shown to their end, by route, agent and what there was too little of",
            self.dropped.clone(),
        );
        registry.register(
            "shadow_fallbacks",
            "How often an agent failed too often to be enforced for a share of clients, by route and agent",
            self.fallbacks.clone(),
        );
    }
}

/// What is counted of one shadow agent on one route.
pub(crate) struct ShadowMetrics {
    route: String,
    agent: String,
    families: ShadowFamilies,
}

impl ShadowMetrics {
    pub(super) fn new(route: &str, agent: &AgentId, families: ShadowFamilies) -> Self {
        Self {
            route: route.to_owned(),
            agent: agent.to_string(),
            families,
        }
    }

    pub(crate) fn verdict(&self, shadow: &'static str, enforced: &'static str) {
        let labels = VerdictLabels {
            route: self.route.clone(),
            agent: self.agent.clone(),
            shadow,
            enforced,
        };
        self.families.verdicts.get_or_create(&labels).inc();
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        let labels = DroppedLabels {
            route: self.route.clone(),
            agent: self.agent.clone(),
            reason,
        };
        self.families.dropped.get_or_create(&labels).inc();
    }

    pub(crate) fn fell_back(&self) {
        let labels = RouteAgent {
            route: self.route.clone(),
            agent: self.agent.clone(),
        };
        self.families.fallbacks.get_or_create(&labels).inc();
    }
}
