//! `routes { route "ID" { … } }`: which requests go where, through which filters.

use super::{
    AgentUse, ErrorPages, Filter, Match, Mirror, Place, Retry, Rewrite, RouteId, Split,
    StaticFiles, Template, UpstreamId, WebSocket,
};
use std::{sync::Arc, time::Duration};

/// What happens to the requests that it matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name in logs and metrics.
    pub id: RouteId,
    /// A request belongs to the route if any of these holds. Empty: every request does.
    pub matches: Arc<[Match]>,
    /// Higher is looked at first. Default 0.
    pub priority: i64,
    /// In the order of the way in; chains are expanded in place.
    pub filters: Vec<Filter>,
    /// For all agents of a request together, in every phase, waiting included. Default: the timeouts of all
    /// [`agents`](Self::agents), each as many times as it inspects [phases](super::Inspect::phases), or as a guardrail may
    /// show it [texts](super::GuardedBody::max_texts), added up, at most 10 s; zero when that is nothing. Written: 1 ms to 60 s. Pieces of streams and frames of sockets are bounded by
    /// what is left of it, and take nothing off it.
    pub agent_budget: Duration,
    /// What answers.
    pub action: Action,
    /// What is asked for instead. Default None. Only with an action that passes requests on.
    pub rewrite: Option<Box<Rewrite>>,
    /// Who else gets requests. Default None. Only with [`Action::Upstream`] and [`Action::Split`].
    pub mirror: Option<Mirror>,
    /// How a request may upgrade to WebSocket. Default None: it may not. Only with [`Action::Upstream`] and [`Action::Split`].
    pub websocket: Option<WebSocket>,
    /// Whether upgrades are meant although agents inspect the bodies of this route and none its frames: they see nothing
    /// of an upgraded connection. Default false; only with [`websocket`](Self::websocket) and such agents.
    pub uninspected_upgrade: bool,
    /// Overrides of the upstream's timeouts.
    pub timeouts: RouteTimeouts,
    /// What the proxy's own answers look like here when something is wrong, before what holds for all. None: as for all.
    pub error_pages: Option<ErrorPages>,
    /// When a request is sent to another target. Default None: only when there was no connection, and to each target once. Only with
    /// [`Action::Upstream`].
    pub retry: Option<Retry>,
    /// Where it is written.
    pub place: Place,
}

impl Route {
    /// Everybody that a request is asked about, in the order written, those of a `parallel` too. An agent that is asked
    /// twice is there twice.
    pub fn agents(&self) -> impl Iterator<Item = &AgentUse> {
        self.filters.iter().flat_map(Filter::agents)
    }
}

/// What answers the requests of a route.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A server behind us.
    Upstream(UpstreamId),
    /// One of several servers.
    Split(Split),
    /// Files.
    Static(Box<StaticFiles>),
    /// A redirection.
    Redirect {
        /// The `location` header. May hold request variables.
        location: Template,
        /// 301, 302, 303, 307 or 308. Default 302.
        status: u16,
    },
    /// A fixed answer.
    Respond {
        /// 200 to 599.
        status: u16,
        /// Empty for 204 and 304. At most 1 MiB when it comes from a file.
        body: String,
        /// What the body is. Default None: `text/plain; charset=utf-8`. None without a body.
        content_type: Option<String>,
    },
}

/// Overrides of the upstream's timeouts for one route. None: as the upstream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteTimeouts {
    /// From the end of the request to the head of the response.
    pub response_header: Option<Duration>,
    /// Between two pieces of a response body.
    pub idle: Option<Duration>,
    /// From the head of the request to the end of the response. None is without end, unless the upstream says otherwise.
    pub total: Option<Duration>,
}
