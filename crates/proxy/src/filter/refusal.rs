//! How steps refuse that ask nobody: they say so in the log, and are counted; in the shadow they are counted alone.

use crate::{request::Request, telemetry::metrics::Metrics};
use portcullis_config::{Enforcement, OwnFilter};
use prometheus_client::metrics::counter::Counter;

/// Of a step of a route.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    filter: &'static str,
    mode: Enforcement,
    count: Counter,
}

impl Refusal {
    pub(super) fn of(
        filter: &OwnFilter,
        mode: Enforcement,
        route: &str,
        metrics: &Metrics,
    ) -> Self {
        let filter = filter.name();
        Self {
            filter,
            mode,
            count: metrics.filter_refused(route, filter, mode),
        }
    }

    /// The step does not like the request. Returns whether it ends here.
    pub(super) fn refuse(&self, request: &mut Request, reason: &'static str) -> bool {
        self.count.inc();
        if self.mode == Enforcement::Shadow {
            return false;
        }
        request.refused_by(self.filter, reason);
        true
    }
}
