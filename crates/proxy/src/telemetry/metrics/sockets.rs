//! Metrics of sockets whose frames go through agents.

use crate::filter::{FrameDirection, Judged};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FrameLabels {
    route: String,
    direction: &'static str,
    outcome: &'static str,
}

/// Of all routes.
#[derive(Clone, Default)]
pub(super) struct SocketFamilies {
    pub(super) open: Gauge,
    frames: Family<FrameLabels, Counter>,
}

impl SocketFamilies {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "websocket_open",
            "WebSockets that are open and whose frames go through agents",
            self.open.clone(),
        );
        registry.register(
            "websocket_frames",
            "Frames of WebSockets that went through agents, by route, direction and what became of them",
            self.frames.clone(),
        );
    }

    pub(super) fn of(&self, route: &str) -> SocketMetrics {
        let counter = |direction, outcome| {
            self.frames.get_or_create_owned(&FrameLabels {
                route: route.to_owned(),
                direction,
                outcome,
            })
        };
        let outcomes = |direction| Outcomes {
            allow: counter(direction, "allow"),
            replace: counter(direction, "replace"),
            drop: counter(direction, "drop"),
            close: counter(direction, "close"),
        };
        SocketMetrics {
            client_to_server: outcomes("client_to_server"),
            server_to_client: outcomes("server_to_client"),
        }
    }
}

/// What is counted for the sockets of one route.
pub(crate) struct SocketMetrics {
    client_to_server: Outcomes,
    server_to_client: Outcomes,
}

struct Outcomes {
    allow: Counter,
    replace: Counter,
    drop: Counter,
    close: Counter,
}

impl SocketMetrics {
    /// Counts a frame by what has become of it.
    pub(crate) fn count(&self, direction: FrameDirection, judged: &Judged) {
        let outcomes = match direction {
            FrameDirection::ClientToServer => &self.client_to_server,
            FrameDirection::ServerToClient => &self.server_to_client,
        };
        let counter = match judged {
            Judged::Pass => &outcomes.allow,
            Judged::Replace(_) => &outcomes.replace,
            Judged::Drop => &outcomes.drop,
            Judged::Close { .. } => &outcomes.close,
        };
        counter.inc();
    }
}
