//! Metrics of the steps of chains that ask nobody.

use portcullis_config::Enforcement;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    route: String,
    filter: &'static str,
    mode: &'static str,
}

/// Of all routes.
#[derive(Clone, Default)]
pub(super) struct FilterFamilies {
    refused: Family<RefusedLabels, Counter>,
}

impl FilterFamilies {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "filter_refused",
            "Requests that a filter of the proxy refused, or in the shadow would have, by route, filter and mode",
            self.refused.clone(),
        );
    }

    pub(super) fn refused(&self, route: &str, filter: &'static str, mode: Enforcement) -> Counter {
        self.refused.get_or_create_owned(&RefusedLabels {
            route: route.to_owned(),
            filter,
            mode: match mode {
                Enforcement::Enforce => "enforce",
                Enforcement::Shadow => "shadow",
            },
        })
    }
}
