//! What is remembered about one request, from its first phase to its last. Each part belongs to the module that fills it.

use crate::{
    access,
    client::Identity,
    exchange::memory::BufferMemory,
    exchange::plan::Plan,
    exchange::tunnel::SocketRun,
    filter::shadow::Shadows,
    filter::{Changed, LimitRun, Remembered},
    mirror::Copying,
    reply::Reply,
    rewrite::Rewritten,
    server::connection::Connection,
    snapshot::{Route, Serving, Snapshot},
    upstream::{Ends, UpstreamRun},
};
use pingora::http::Method;
use portcullis_agent_manager::Conversation;
use portcullis_agent_protocol::HeaderOp;
use portcullis_config::AgentId;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// The state of a request.
#[derive(Default)]
pub(crate) struct Request {
    /// Set in the first phase; `None` only before it.
    pub(crate) begun: Option<Begun>,
    /// Set once, when the router has found a route; where that is split, the copy for one of the upstreams.
    pub(crate) route: Option<Arc<Route>>,
    /// The place of the match that led to the route in the order of precedence.
    pub(crate) rank: u32,
    /// Whoever sent it may see what agents say about it.
    pub(crate) traced: bool,
    /// Whether it asks to become a WebSocket.
    pub(crate) switches: bool,
    /// Whether a body comes behind the head; one without a byte counts when its head does not say so.
    pub(crate) has_body: bool,
    /// An answer that was decided on before the phase that may write it.
    pub(crate) pending: Option<Reply>,
    /// How far the filter chain came: the number of its steps that ran on the way in.
    pub(crate) steps_run: usize,
    /// Headers that filters have changed so far, where verdicts are kept.
    pub(crate) changed: Changed,
    pub(crate) limits: LimitRun,
    /// What changes of the response want of the request's head.
    pub(crate) remembered: Remembered,
    pub(crate) agents: AgentRun,
    /// Agents that are asked in its shadow, if the route has any.
    pub(crate) shadows: Option<Box<Shadows>>,
    /// What the upstream is asked for, where that is something else.
    pub(crate) rewritten: Option<Box<Rewritten>>,
    /// What passes to the upstream is copied; `None` when all of it is, or nothing.
    pub(crate) copying: Option<Box<Copying>>,
    /// Somebody else gets a copy.
    pub(crate) is_mirrored: bool,
    pub(crate) upstream: UpstreamRun,
    /// Bytes of the body that came from the client so far.
    pub(crate) body_received: u64,
    /// What became of the socket, where agents see its frames.
    pub(crate) socket: OnceLock<Box<SocketRun>>,
    /// The status that a gRPC client got from us.
    pub(crate) grpc_status: Option<u8>,
    /// It has come to its end in order: it was logged and counted.
    pub(crate) is_finished: bool,
    /// Why the proxy itself refused or failed the request, as a fixed name for the log.
    pub(crate) reason: Option<&'static str>,
}

impl Request {
    /// Whether the agent at this place of the route's chain decides about the request.
    pub(crate) fn obeys(&self, step: usize, member: usize) -> bool {
        let shadows = self.shadows.as_ref();
        shadows.is_none_or(|shadows| shadows.obeys(step, member))
    }

    /// A filter that asks nobody ends the request.
    pub(crate) fn refused_by(&mut self, filter: &str, reason: &'static str) {
        self.reason = Some(reason);
        self.agents.end_by(format!("filter:{filter}"), None);
    }

    /// Bytes that the body may have.
    pub(crate) fn body_limit(&self) -> u64 {
        let begun = self.begun.as_ref();
        let of_listener = begun.map(|begun| begun.connection.listener.limits.body_bytes.bytes());
        let of_route = self
            .route
            .as_ref()
            .and_then(|route| route.body_limit.as_ref());
        let of_route = of_route.map(|limit| limit.most);
        let limits = of_listener.into_iter().chain(of_route);
        limits.min().unwrap_or(u64::MAX)
    }

    /// The body has turned out to be larger. A filter has refused it if it is the filter's limit that holds.
    pub(crate) fn body_is_too_large(&mut self) {
        let most = self.body_limit();
        let of_route = self
            .route
            .as_ref()
            .and_then(|route| route.body_limit.clone());
        if let Some(limit) = of_route.filter(|limit| limit.most == most) {
            limit.is_exceeded(self);
        }
    }

    /// What its bodies have to pass on this route.
    pub(crate) fn plan<'a>(&'a self, route: &'a Route) -> &'a Plan {
        let shadows = self.shadows.as_ref();
        let own = shadows.and_then(|shadows| shadows.plan());
        own.unwrap_or(&route.plan)
    }
}

/// A request whose task panics or is taken away is over all the same, and its agents are told.
impl Drop for Request {
    fn drop(&mut self) {
        if let (false, Some(begun)) = (self.is_finished, &self.begun) {
            access::abandoned(self, begun);
        }
    }
}

/// What is known since the head of the request was read.
pub(crate) struct Begun {
    pub(crate) started: Instant,
    pub(crate) started_at: SystemTime,
    pub(crate) connection: Arc<Connection>,
    /// The configuration that this request sees, from start to end.
    pub(crate) serving: Arc<Serving>,
    pub(crate) identity: Identity,
    pub(crate) method: Method,
    /// Path and query in normal form, as router and agents see them.
    pub(crate) target: String,
    /// See [`buffer_memory`](Self::buffer_memory); few requests need it.
    pub(crate) memory: OnceLock<Arc<BufferMemory>>,
    pub(crate) _in_flight: InFlight,
}

/// What agents said. Both directions of a request write to it.
#[derive(Default)]
pub(crate) struct AgentRun {
    /// Every question of this request, and the time that is left for more.
    pub(crate) conversation: Conversation,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    /// Changes of the response's head, by the step of the chain that wanted them.
    response: Vec<(usize, Vec<HeaderOp>)>,
    ended_by: Option<EndedBy>,
}

/// Whose verdict, failure or limit ended the request.
#[derive(Debug, Clone)]
pub(crate) struct EndedBy {
    /// An agent, or `filter:` and the name of a filter, which no agent can have.
    pub(crate) name: String,
    /// In the words of the agent, or the name of the failure.
    pub(crate) reason: Option<String>,
}

impl AgentRun {
    /// All agents of the request together may take this long. If so wanted, it is written down which headers they change.
    pub(crate) fn limit(&mut self, budget: Duration, keeps_changes: bool) {
        self.conversation = Conversation::with_budget(budget).keeping_changes(keeps_changes);
    }

    /// The agents of this step want the head of the response changed, whoever it is from.
    pub(crate) fn change_response(&self, step: usize, operations: Vec<HeaderOp>) {
        /// Steps whose changes are kept; the pieces of a stream could want any number.
        const MOST: usize = 256;
        let mut said = self.said();
        if !operations.is_empty() && said.response.len() < MOST {
            said.response.push((step, operations));
        }
    }

    /// Hands over what the agents of this step want changed, a part at a time.
    ///
    /// # Errors
    /// Those of `change`.
    pub(crate) fn response_changes<E>(
        &self,
        step: usize,
        change: impl FnMut(&[HeaderOp]) -> Result<(), E>,
    ) -> Result<(), E> {
        let said = self.said();
        let of_step = said.response.iter().filter(|(of, _)| *of == step);
        of_step
            .map(|(_, operations)| operations.as_slice())
            .try_for_each(change)
    }

    /// An agent ends the request, by its verdict or by its failure.
    pub(crate) fn end(&self, agent: AgentId, reason: Option<String>) {
        self.end_by(agent.to_string(), reason);
    }

    fn end_by(&self, name: String, reason: Option<String>) {
        self.said().ended_by = Some(EndedBy { name, reason });
    }

    pub(crate) fn ended_by(&self) -> Option<EndedBy> {
        self.said().ended_by.clone()
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request as in flight until it is dropped, however the request ends.
pub(crate) struct InFlight(Gauge);

impl InFlight {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Begun {
    /// The client as it is known, and the address at which it was let in.
    pub(crate) fn ends(&self) -> Ends {
        Ends {
            client: SocketAddr::new(self.identity.ip, self.identity.port),
            local: self.connection.local,
        }
    }

    /// What it may take of the memory for bodies that are held.
    pub(crate) fn buffer_memory(&self) -> &Arc<BufferMemory> {
        self.memory.get_or_init(|| {
            BufferMemory::of_request(&self.snapshot().buffer_memory, self.identity.ip)
        })
    }

    /// What the configuration was compiled to.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.serving.snapshot
    }

    /// The path, without the query.
    pub(crate) fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(&*self.target, |(path, _)| path)
    }
}
