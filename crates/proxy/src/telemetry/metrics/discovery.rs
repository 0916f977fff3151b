//! Metrics of targets that are found while the process runs.

use super::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    upstream: String,
    result: &'static str,
}

/// Of all upstreams.
#[derive(Clone, Default)]
pub(super) struct Discoveries(Family<Labels, Counter>);

impl Discoveries {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "upstream_discoveries",
            "How often targets were asked for by name or looked for in a file, by upstream and result",
            self.0.clone(),
        );
    }
}

/// What is counted for the sources of one upstream.
pub(crate) struct DiscoveryMetrics {
    pub(crate) found: Counter,
    pub(crate) failed: Counter,
}

impl DiscoveryMetrics {
    pub(crate) fn of(metrics: &Metrics, upstream: &str) -> Self {
        let counter = |result| {
            metrics.discoveries.0.get_or_create_owned(&Labels {
                upstream: upstream.to_owned(),
                result,
            })
        };
        Self {
            found: counter("found"),
            failed: counter("failed"),
        }
    }
}
