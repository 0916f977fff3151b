//! Metrics of upstreams and their targets, as they are when somebody asks for them.

use crate::upstream::UpstreamStatus;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::atomic::Ordering::Relaxed;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabel {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabel {
    upstream: String,
    target: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabel {
    upstream: String,
    target: String,
    result: &'static str,
}

/// What is known of upstreams. All of it is written anew each time, so that what is gone is not shown.
#[derive(Clone, Default)]
pub(super) struct Upstreams {
    in_flight_of_all: Family<UpstreamLabel, Gauge>,
    pending: Family<UpstreamLabel, Gauge>,
    saturated: Family<UpstreamLabel, Counter>,
    retries: Family<UpstreamLabel, Counter>,
    over_budget: Family<UpstreamLabel, Counter>,
    panics: Family<UpstreamLabel, Counter>,
    up: Family<TargetLabel, Gauge>,
    in_flight: Family<TargetLabel, Gauge>,
    ejections: Family<TargetLabel, Counter>,
    checks: Family<CheckLabel, Counter>,
}

impl Upstreams {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "upstream_requests_in_flight",
            "Requests that the upstream has, those on their second try once",
            self.in_flight_of_all.clone(),
        );
        registry.register(
            "upstream_requests_pending",
            "Requests that wait because the upstream has as many as it may have",
            self.pending.clone(),
        );
        registry.register(
            "upstream_saturated",
            "Requests that were refused because the upstream had as many as it may have",
            self.saturated.clone(),
        );
        registry.register(
            "upstream_retries",
            "How often a request was sent once more, as its route says",
            self.retries.clone(),
        );
        registry.register(
            "upstream_retries_over_budget",
            "How often a request was not sent once more because too many were",
            self.over_budget.clone(),
        );
        registry.register(
            "upstream_panic_requests",
            "Requests that went to any target because too few were in order",
            self.panics.clone(),
        );
        registry.register(
            "upstream_target_up",
            "Whether the target is in order: 1, or 0 when it is unhealthy or ejected",
            self.up.clone(),
        );
        registry.register(
            "upstream_target_requests_in_flight",
            "Requests that the target was given and that are not over",
            self.in_flight.clone(),
        );
        registry.register(
            "upstream_target_ejections",
            "How often the target was ejected because of its answers",
            self.ejections.clone(),
        );
        registry.register(
            "upstream_health_checks",
            "Health checks of the target, by result",
            self.checks.clone(),
        );
    }

    pub(super) fn show(&self, upstreams: &[UpstreamStatus]) {
        self.in_flight_of_all.clear();
        self.pending.clear();
        self.saturated.clear();
        self.retries.clear();
        self.over_budget.clear();
        self.panics.clear();
        self.up.clear();
        self.in_flight.clear();
        self.ejections.clear();
        self.checks.clear();
        for status in upstreams {
            self.show_one(status);
        }
    }

    fn show_one(&self, status: &UpstreamStatus) {
        let upstream = status.id.to_string();
        let label = UpstreamLabel {
            upstream: upstream.clone(),
        };
        let gate = status.gate;
        for (gauges, value) in [
            (&self.in_flight_of_all, gate.in_flight),
            (&self.pending, gate.pending),
        ] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            gauges.get_or_create(&label).set(value);
        }
        for (counters, value) in [
            (&self.saturated, gate.saturated),
            (&self.retries, gate.retries),
            (&self.over_budget, gate.over_budget),
            (&self.panics, status.panics),
        ] {
            store(counters, &label, value);
        }
        for target in &status.targets {
            // The origin inside the binary is always there.
            let Some(address) = target.address.as_deref() else {
                continue;
            };
            let label = TargetLabel {
                upstream: upstream.clone(),
                target: address.to_owned(),
            };
            self.up.get_or_create(&label).set(target.is_in_order.into());
            self.in_flight
                .get_or_create(&label)
                .set(target.in_flight.into());
            store(&self.ejections, &label, target.ejections);
            for (result, count) in [("success", target.checks.0), ("failure", target.checks.1)] {
                let label = CheckLabel {
                    upstream: upstream.clone(),
                    target: address.to_owned(),
                    result,
                };
                store(&self.checks, &label, count);
            }
        }
    }
}

fn store<L>(family: &Family<L, Counter>, label: &L, value: u64)
where
    L: Clone + std::hash::Hash + Eq,
{
    family.get_or_create(label).inner().store(value, Relaxed);
}
