//! Everything that is compiled from one configuration. A request takes one snapshot at its start and sees nothing else.
//! What must outlive a configuration, the state of agents and upstreams that stay the same, goes over to the next one.

use crate::{
    discovery::Discovery,
    error_page::ErrorPages,
    exchange::{memory::BufferMemory, plan::Plan, sockets::Sockets},
    filter::{
        self, Compiler, Filter, Limits,
        shadow::{self, Place},
    },
    reply::Reply,
    router::Router,
    telemetry::metrics::{AgentMetrics, Metrics, RouteMetrics, SocketMetrics},
    template::Template,
    trace,
    upstream::{Places, Upstream, connect::Connect},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, header};
use portcullis_agent_manager::{AgentManager, Links};
use portcullis_config::{
    Action as ConfigAction, AgentId, Compress, Config, PathPolicy, RouteId, UpstreamId, WebSocket,
};
use std::{collections::HashMap, fmt, path::Path, sync::Arc, time::Duration};

/// What new requests of a worker take.
pub(crate) type Live = ArcSwap<Serving>;

/// A snapshot in the hands of a worker, with the worker's own connections to its agents.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) links: Links,
}

/// See the module.
pub(crate) struct Snapshot {
    pub(crate) router: Router<Arc<Route>>,
    /// Counts requests that no route takes.
    pub(crate) unrouted: RouteMetrics,
    pub(crate) agents: Arc<AgentManager>,
    /// By position in the manager.
    pub(crate) agent_metrics: Vec<(AgentId, AgentMetrics)>,
    pub(crate) path: PathPolicy,
    pub(crate) trace: trace::Settings,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    discovery: Discovery,
    /// Of the whole process, whatever the configuration.
    pub(crate) buffer_memory: Arc<BufferMemory>,
    /// The same.
    pub(crate) sockets: Arc<Sockets>,
    /// What holds where no route says it.
    pub(crate) error_pages: ErrorPages,
    /// What limits have counted.
    pub(crate) limits: Limits,
    /// The same for copies that shadow agents are shown.
    pub(crate) copies: Arc<BufferMemory>,
}

/// A route, ready to serve.
pub(crate) struct Route {
    pub(crate) id: RouteId,
    pub(crate) filters: Vec<Filter>,
    /// Whether any of the filters asks an agent that is waited for.
    pub(crate) asks_agents: bool,
    /// Whether a verdict of any of them is kept for later requests.
    pub(crate) keeps_verdicts: bool,
    /// Agents that are asked in the shadow of requests.
    pub(crate) shadows: Vec<Place>,
    /// What agents want to see beyond the heads of requests.
    pub(crate) plan: Plan,
    /// Bytes that a body may have here, beside what the listener says.
    pub(crate) body_limit: Option<u64>,
    /// How responses are compressed, if they are.
    pub(crate) compress: Option<Arc<Compress>>,
    pub(crate) action: Action,
    /// How a request may upgrade; `None`: it may not.
    pub(crate) websocket: Option<WebSocket>,
    pub(crate) timeouts: Timeouts,
    /// What all agents together may take of a request's time.
    pub(crate) agent_budget: Duration,
    /// What the proxy's own answers look like here, where that is not as for all.
    pub(crate) error_pages: Option<ErrorPages>,
    pub(crate) metrics: RouteMetrics,
    /// Where agents see frames.
    pub(crate) sockets: Option<SocketMetrics>,
}

/// What is done with a request that the filters let pass.
pub(crate) enum Action {
    Upstream(Arc<Upstream>),
    Redirect { location: Template, status: u16 },
    Respond(Reply),
}

/// The waits on the upstream that hold on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) response_header: Duration,
    pub(crate) idle: Duration,
    /// From the head of the request to the end of the response.
    pub(crate) total: Option<Duration>,
}

/// What a snapshot is compiled with beside the configuration.
pub(crate) struct Parts<'a> {
    pub(crate) agents: Arc<AgentManager>,
    pub(crate) metrics: &'a Metrics,
    pub(crate) buffer_memory: &'a Arc<BufferMemory>,
    pub(crate) sockets: &'a Arc<Sockets>,
    /// Where the echo origin inside the binary listens.
    pub(crate) echo_socket: &'a Path,
    /// What is in use now.
    pub(crate) previous: Option<&'a Snapshot>,
}

impl Snapshot {
    /// Compiles a configuration.
    ///
    /// # Errors
    /// A reference or pattern that the configuration's own checks should have refused; the text says which.
    pub(crate) fn compile(config: &Config, parts: &Parts<'_>) -> Result<Self, String> {
        let previous = parts.previous.map(|previous| &previous.discovery);
        let discovery = Discovery::new(
            &config.system.resolver,
            &config.upstreams,
            parts.metrics,
            previous,
        )?;
        let mut upstreams = HashMap::new();
        for upstream in &config.upstreams {
            let known = parts
                .previous
                .and_then(|previous| previous.upstream(&upstream.id));
            // Files may have other contents, whatever the configuration says of them.
            let connect = Connect::read(upstream)?;
            let places = Places::new(upstream, &discovery, parts.echo_socket)?;
            let compiled = match known {
                Some(known) if known.is_like(upstream, &connect, &places) => known.clone(),
                known => {
                    let known = known.map(Arc::as_ref);
                    let made = Arc::new(Upstream::new(upstream, connect, places, known));
                    Upstream::follow(&made);
                    made
                }
            };
            upstreams.insert(upstream.id.clone(), compiled);
        }
        let mut routes = Vec::with_capacity(config.routes.len());
        let mut compiler = Compiler::new(
            &parts.agents,
            &config.agents,
            &config.routes,
            parts.metrics,
            parts.previous,
        );
        for route in &config.routes {
            let mut compiled = compile_route(route, &mut compiler, &upstreams, parts)?;
            let shared = Some(&config.error_pages);
            let own = route.error_pages.as_ref();
            compiled.error_pages = own.map(|own| ErrorPages::new(own, shared));
            routes.push((Arc::new(compiled), route.priority, route.matches.as_slice()));
        }
        let router = Router::new(routes).map_err(|error| error.to_string())?;
        let agent_metrics = config
            .agents
            .iter()
            .map(|agent| (agent.id.clone(), parts.metrics.agent(&agent.id)))
            .collect();
        Ok(Self {
            router,
            unrouted: parts.metrics.route(""),
            agents: parts.agents.clone(),
            agent_metrics,
            path: config.system.path,
            trace: trace::Settings::new(&config.observability, config.admin.is_some()),
            upstreams: upstreams.into_values().collect(),
            discovery,
            buffer_memory: parts.buffer_memory.clone(),
            sockets: parts.sockets.clone(),
            limits: compiler.into_limits(),
            error_pages: ErrorPages::new(&config.error_pages, None),
            copies: match parts.previous {
                Some(previous) => previous.copies.clone(),
                None => Arc::new(BufferMemory::of_copies(parts.buffer_memory)),
            },
        })
    }

    /// Waits until names were asked for once and takes up what they stand for, but not for longer than this.
    pub(crate) async fn targets_are_found(&self, within: Duration) {
        self.discovery.settled(within).await;
        for upstream in &self.upstreams {
            upstream.refresh();
        }
    }

    /// The upstream of this name.
    fn upstream(&self, id: &UpstreamId) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| upstream.id == *id)
    }
}

fn compile_route(
    route: &portcullis_config::Route,
    compiler: &mut Compiler<'_>,
    upstreams: &HashMap<UpstreamId, Arc<Upstream>>,
    parts: &Parts<'_>,
) -> Result<Route, String> {
    let action = match &route.action {
        ConfigAction::Upstream(id) => {
            let upstream = upstreams
                .get(id)
                .ok_or_else(|| format!("route {}: no upstream {id}", route.id))?;
            Action::Upstream(upstream.clone())
        }
        ConfigAction::Redirect { location, status } => Action::Redirect {
            location: Template::new(location),
            status: *status,
        },
        ConfigAction::Respond { status, body } => Action::Respond(respond(*status, body)),
    };
    let defaults = match &action {
        Action::Upstream(upstream) => upstream.timeouts,
        Action::Redirect { .. } | Action::Respond(_) => Timeouts {
            response_header: Duration::ZERO,
            idle: Duration::ZERO,
            total: None,
        },
    };
    let filters = compiler.chain(&route.id, &route.filters)?;
    let plan = filter::plan(&filters, |step, member| filters[step].obeys(member));
    let sockets = (!plan.frames.is_empty()).then(|| parts.metrics.sockets(&route.id));
    Ok(Route {
        id: route.id.clone(),
        asks_agents: filters.iter().any(Filter::may_decide),
        shadows: shadow::places(&filters),
        keeps_verdicts: filter::keeps_verdicts(&filters, &parts.agents),
        plan,
        body_limit: filter::body_limit(&filters),
        compress: filter::compression(&filters),
        filters,
        action,
        websocket: route.websocket,
        timeouts: Timeouts {
            response_header: route
                .timeouts
                .response_header
                .unwrap_or(defaults.response_header),
            idle: route.timeouts.idle.unwrap_or(defaults.idle),
            total: route.timeouts.total.or(defaults.total),
        },
        agent_budget: route.agent_budget,
        error_pages: None,
        metrics: parts.metrics.route(&route.id),
        sockets,
    })
}

fn respond(status: u16, body: &str) -> Reply {
    let reply = Reply::status(status).with_body(Bytes::from(body.to_owned()));
    if body.is_empty() {
        return reply;
    }
    reply.with_header(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    )
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("routes", &self.router.routes().len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
