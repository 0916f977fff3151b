//! Metrics of requests that are copied.

use crate::mirror::Outcome;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: String,
    outcome: &'static str,
}

/// Of all routes.
#[derive(Clone, Default)]
pub(super) struct MirrorFamily(Family<Labels, Counter>);

impl MirrorFamily {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "mirrored_requests",
            "Requests that were to be copied, by route and what became of the copy",
            self.0.clone(),
        );
    }

    pub(super) fn of(&self, route: &str) -> MirrorMetrics {
        MirrorMetrics(Outcome::ALL.map(|outcome| {
            self.0.get_or_create_owned(&Labels {
                route: route.to_owned(),
                outcome: outcome.name(),
            })
        }))
    }
}

/// What is counted for the copies of one route, in the order of [`Outcome::ALL`].
pub(crate) struct MirrorMetrics([Counter; Outcome::ALL.len()]);

impl MirrorMetrics {
    pub(crate) fn count(&self, outcome: Outcome) {
        let all = Outcome::ALL.iter().zip(&self.0);
        for (_, counter) in all.filter(|(of, _)| **of == outcome) {
            counter.inc();
        }
    }
}
