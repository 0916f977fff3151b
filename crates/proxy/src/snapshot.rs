//! Everything that is compiled from one configuration. A request takes one snapshot at its start and sees nothing else.
//! What must outlive a configuration, the state of agents and upstreams that stay the same, goes over to the next one.

use crate::{
    discovery::Discovery,
    error_page::ErrorPages,
    exchange::{memory::BufferMemory, plan::Plan, sockets::Sockets},
    files::{Files, pool::FilePool},
    filter::{
        self, BodyLimit, Compiler, Filter, Limits,
        shadow::{self, Place},
    },
    mirror::{Mirror, sender::Sender},
    reply::Reply,
    rewrite::Rewrite,
    router::Router,
    split::{self, Split},
    telemetry::metrics::{AgentMetrics, Metrics, RouteMetrics, SocketMetrics},
    template::Template,
    trace,
    upstream::{CheckConnectors, Places, Upstream, connect::Connect},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, header};
use portcullis_agent_manager::{AgentManager, Links};
use portcullis_config::{
    Action as ConfigAction, AgentId, Compress, Config, PathPolicy, Retry, RetryOn, RouteId,
    UpstreamId, WebSocket,
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
    /// Memory for copies of what requests hold, of the whole process as well.
    pub(crate) copies: Arc<BufferMemory>,
}

/// A route, ready to serve. What is large in it is shared by its copies: a route that is split has one for each upstream.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) id: RouteId,
    pub(crate) filters: Arc<[Filter]>,
    /// Whether any of the filters asks an agent that is waited for.
    pub(crate) asks_agents: bool,
    /// Whether a verdict of any of them is kept for later requests.
    pub(crate) keeps_verdicts: bool,
    /// Agents that are asked in the shadow of requests.
    pub(crate) shadows: Arc<[Place]>,
    /// What agents want to see beyond the heads of requests.
    pub(crate) plan: Arc<Plan>,
    /// What a body may have here, beside what the listener says.
    pub(crate) body_limit: Option<BodyLimit>,
    /// How responses are compressed, if they are.
    pub(crate) compress: Option<Arc<Compress>>,
    pub(crate) action: Action,
    /// What is asked for instead.
    pub(crate) rewrite: Option<Arc<Rewrite>>,
    /// Who gets copies of requests.
    pub(crate) mirror: Option<Arc<Mirror>>,
    /// How a request may upgrade; `None`: it may not.
    pub(crate) websocket: Option<WebSocket>,
    pub(crate) timeouts: Timeouts,
    /// When a request is sent to another target.
    pub(crate) retry: Option<Retry>,
    /// What all agents together may take of a request's time.
    pub(crate) agent_budget: Duration,
    /// What the proxy's own answers look like here, where that is not as for all.
    pub(crate) error_pages: Option<Arc<ErrorPages>>,
    pub(crate) metrics: Arc<RouteMetrics>,
    /// Where agents see frames.
    pub(crate) sockets: Option<Arc<SocketMetrics>>,
}

impl Route {
    /// Who answers, if it is a server behind us.
    pub(crate) fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.action {
            Action::Upstream(upstream) => Some(upstream),
            Action::Split(_) | Action::Static(_) | Action::Redirect { .. } | Action::Respond(_) => {
                None
            }
        }
    }
}

impl Route {
    /// Whether another target is tried when one does not answer in time. The client's stream, which bounds that wait otherwise, has
    /// no way back.
    pub(crate) fn gives_up_early(&self) -> bool {
        let retry = self.retry.as_ref();
        retry.is_some_and(|retry| retry.on.contains(&RetryOn::Timeout))
    }

    /// For the head of a response, in one attempt.
    pub(crate) fn answer_within(&self) -> Duration {
        let of_all = self.timeouts.response_header;
        let retry = self.retry.as_ref();
        let of_one = retry.and_then(|retry| retry.per_try_timeout);
        of_one.map_or(of_all, |of_one| of_one.min(of_all))
    }
}

/// What is done with a request that the filters let pass.
#[derive(Clone)]
pub(crate) enum Action {
    Upstream(Arc<Upstream>),
    /// Each request takes one of several copies of the route instead, before anything else.
    Split(Arc<Split<Arc<Route>>>),
    Static(Arc<Files>),
    Redirect {
        location: Template,
        status: u16,
    },
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
    pub(crate) beside: &'a Beside,
    /// Where the echo origin inside the binary listens.
    pub(crate) echo_socket: &'a Path,
    /// What is in use now.
    pub(crate) previous: Option<&'a Snapshot>,
}

/// What works beside the requests, of the whole process.
#[derive(Clone)]
pub(crate) struct Beside {
    /// Reads files that are served.
    file_pool: Arc<FilePool>,
    /// Sends copies of requests.
    copies: Sender,
    /// Asks targets how they are.
    checks: Arc<CheckConnectors>,
}

impl Beside {
    /// Copies are sent in the runtime that calls this. The file has the authorities of the system.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(crate) fn start(authorities: &str) -> std::io::Result<Self> {
        Ok(Self {
            file_pool: Arc::new(FilePool::new()?),
            copies: Sender::start(authorities),
            checks: Arc::new(CheckConnectors::new(authorities.to_owned())),
        })
    }
}

impl Snapshot {
    /// Compiles a configuration. Reads files, which may be slow, and has to be called where there is a runtime, which gets the tasks
    /// of what is new.
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
        let upstreams = compile_upstreams(&config.upstreams, &discovery, parts)?;
        let mut routes = Vec::with_capacity(config.routes.len());
        let mut compiler = Compiler::new(
            &parts.agents,
            &config.agents,
            &config.routes,
            parts.metrics,
            parts.previous,
        );
        let shared = SharedByRoutes {
            plan: Arc::new(Plan::default()),
            error_pages: &config.error_pages,
        };
        for route in &config.routes {
            let compiled = compile_route(route, (&mut compiler, &shared), &upstreams, parts)?;
            routes.push((Arc::new(compiled), route.priority, &route.matches));
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

    /// Nobody but requests that have begun needs `old` any longer.
    pub(crate) fn takes_over_from(&self, old: &Self) {
        let stays = |of_old: &Arc<Upstream>| {
            let mut own = self.upstreams.iter();
            own.any(|upstream| Arc::ptr_eq(upstream, of_old))
        };
        let gone = old.upstreams.iter().filter(|upstream| !stays(upstream));
        gone.for_each(|upstream| upstream.retire(self.upstream(&upstream.id).map(Arc::as_ref)));
        // After that, so that nobody asks beside them.
        self.upstreams.iter().for_each(|upstream| upstream.begin());
    }

    /// The upstream of this name.
    fn upstream(&self, id: &UpstreamId) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| upstream.id == *id)
    }
}

/// By name, with those of the snapshot before that would be the same.
fn compile_upstreams(
    configs: &[portcullis_config::Upstream],
    discovery: &Discovery,
    parts: &Parts<'_>,
) -> Result<HashMap<UpstreamId, Arc<Upstream>>, String> {
    let mut upstreams = HashMap::new();
    for upstream in configs {
        let known = parts
            .previous
            .and_then(|previous| previous.upstream(&upstream.id));
        // Files may have other contents, whatever the configuration says of them.
        let connect = Connect::read(upstream)?;
        let places = Places::new(upstream, discovery, parts.echo_socket)?;
        let compiled = match known {
            Some(known) if known.is_like(upstream, &connect, &places) => known.clone(),
            known => {
                let known = known.map(Arc::as_ref);
                let made = Arc::new(Upstream::new(
                    upstream,
                    connect,
                    places,
                    &parts.beside.checks,
                    known,
                ));
                Upstream::follow(&made);
                made
            }
        };
        upstreams.insert(upstream.id.clone(), compiled);
    }
    Ok(upstreams)
}

/// What routes have in common.
struct SharedByRoutes<'a> {
    /// Where nobody sees more than heads: most routes of many.
    plan: Arc<Plan>,
    error_pages: &'a portcullis_config::ErrorPages,
}

fn compile_route(
    route: &portcullis_config::Route,
    (compiler, shared): (&mut Compiler<'_>, &SharedByRoutes<'_>),
    upstreams: &HashMap<UpstreamId, Arc<Upstream>>,
    parts: &Parts<'_>,
) -> Result<Route, String> {
    let filters = compiler.chain(&route.id, &route.filters)?;
    let plan = filter::plan(&filters, |step, member| filters[step].obeys(member));
    let sockets = (!plan.frames.is_empty()).then(|| parts.metrics.sockets(&route.id));
    let compiled = Route {
        id: route.id.clone(),
        asks_agents: filters.iter().any(Filter::may_decide),
        shadows: shadow::places(&filters).into(),
        keeps_verdicts: filter::keeps_verdicts(&filters, &parts.agents),
        plan: match plan == *shared.plan {
            true => shared.plan.clone(),
            false => Arc::new(plan),
        },
        body_limit: filter::body_limit(&filters),
        compress: filter::compression(&filters),
        filters: filters.into(),
        // Until it is known. No upstream keeps it waiting; agents may see files on their way.
        action: Action::Respond(Reply::status(404)),
        rewrite: match &route.rewrite {
            Some(rewrite) => Some(Arc::new(Rewrite::new(rewrite)?)),
            None => None,
        },
        mirror: match &route.mirror {
            Some(config) => Some(Arc::new(mirror(config, route, upstreams, parts)?)),
            None => None,
        },
        websocket: route.websocket,
        timeouts: Timeouts {
            response_header: FILE_TIMEOUT,
            idle: FILE_TIMEOUT,
            total: None,
        },
        retry: route.retry.clone(),
        agent_budget: route.agent_budget,
        error_pages: route
            .error_pages
            .as_ref()
            .map(|own| Arc::new(ErrorPages::new(own, Some(shared.error_pages)))),
        metrics: Arc::new(parts.metrics.route(&route.id)),
        sockets: sockets.map(Arc::new),
    };
    acting(compiled, route, upstreams, &parts.beside.file_pool)
}

fn mirror(
    config: &portcullis_config::Mirror,
    route: &portcullis_config::Route,
    upstreams: &HashMap<UpstreamId, Arc<Upstream>>,
    parts: &Parts<'_>,
) -> Result<Mirror, String> {
    let unknown = || format!("route {}: no upstream {}", route.id, config.upstream);
    let upstream = upstreams.get(&config.upstream).ok_or_else(unknown)?;
    let metrics = parts.metrics.mirror(&route.id);
    Mirror::new(
        config,
        &route.id,
        upstream.clone(),
        metrics,
        parts.beside.copies.clone(),
    )
}

/// For what comes from inside the program.
const FILE_TIMEOUT: Duration = Duration::from_secs(30);

/// The route with what it does.
fn acting(
    compiled: Route,
    route: &portcullis_config::Route,
    upstreams: &HashMap<UpstreamId, Arc<Upstream>>,
    file_pool: &Arc<FilePool>,
) -> Result<Route, String> {
    let to = |id: &UpstreamId| -> Result<Route, String> {
        let upstream = upstreams
            .get(id)
            .ok_or_else(|| format!("route {}: no upstream {id}", route.id))?;
        let (own, defaults) = (route.timeouts, upstream.timeouts);
        Ok(Route {
            action: Action::Upstream(upstream.clone()),
            timeouts: Timeouts {
                response_header: own.response_header.unwrap_or(defaults.response_header),
                idle: own.idle.unwrap_or(defaults.idle),
                total: own.total.or(defaults.total),
            },
            ..compiled.clone()
        })
    };
    let action = match &route.action {
        ConfigAction::Upstream(id) => return to(id),
        ConfigAction::Split(split) => {
            let members = split.members.iter().map(|member| {
                let share = split::Share::new(&member.upstream, member.weight);
                Ok((share, Arc::new(to(&member.upstream)?)))
            });
            let members = members.collect::<Result<Vec<_>, String>>()?;
            Action::Split(Arc::new(Split::new(members, split.sticky.as_ref())?))
        }
        ConfigAction::Static(files) => Action::Static(Arc::new(Files::new(files, file_pool))),
        ConfigAction::Redirect { location, status } => Action::Redirect {
            location: Template::new(location),
            status: *status,
        },
        ConfigAction::Respond {
            status,
            body,
            content_type,
        } => Action::Respond(respond(*status, body, content_type.as_deref())?),
    };
    Ok(Route { action, ..compiled })
}

fn respond(status: u16, body: &str, content_type: Option<&str>) -> Result<Reply, String> {
    let reply = Reply::status(status).with_body(Bytes::from(body.to_owned()));
    if body.is_empty() {
        return Ok(reply);
    }
    let kind = content_type.unwrap_or("text/plain; charset=utf-8");
    let kind = HeaderValue::from_str(kind).map_err(|_| format!("content type {kind}"))?;
    Ok(reply.with_header(header::CONTENT_TYPE, kind))
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
