//! The filters of a route: in the order of the configuration on the way in, in reverse on the way out. A filter changes the
//! request or says what to answer; it never writes to the client.

mod addresses;
mod agents;
mod bodies;
mod changed;
pub(crate) mod compress;
mod frames;
mod guardrail;
mod head;
mod headers;
mod limit;
mod own;
mod refusal;
pub(crate) mod shadow;

use crate::{reply::Reply, request::Request, snapshot::Snapshot, telemetry::metrics::Metrics};
pub(crate) use agents::apply;
pub(crate) use bodies::{Direction, Inspectors, completed, plan};
pub(crate) use changed::Changed;
pub(crate) use frames::{FrameAgents, FrameDirection, Judged};
use guardrail::Guardrail;
pub(crate) use head::Head;
pub(crate) use headers::Remembered;
pub(crate) use limit::{LimitRun, Limits};
pub(crate) use own::{BodyLimit, Own};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use portcullis_agent_manager::{AgentManager, AgentUse};
use portcullis_config::{AgentId, Compress, Inspect};
use shadow::Shadow;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::Semaphore;

/// A step of a route's chain.
#[derive(Debug)]
pub(crate) enum Filter {
    /// One agent, which sees what earlier steps changed, or several at once, all with the same view.
    Agents(Vec<AgentOfRoute>),
    /// An agent that is shown texts within bodies.
    Guardrail(Box<Guardrail>),
    /// Nobody is asked.
    Own(Own),
}

/// An agent in a route's chain.
#[derive(Debug)]
pub(crate) struct AgentOfRoute {
    pub(crate) used: AgentUse,
    pub(crate) inspect: Inspect,
    /// It is not obeyed, or for some clients alone.
    pub(crate) shadow: Option<Arc<Shadow>>,
}

impl Filter {
    /// Whether a request may have to wait for an agent here.
    pub(crate) fn may_decide(&self) -> bool {
        match self {
            Self::Agents(agents) => agents.iter().any(|agent| {
                let shadow = agent.shadow.as_ref();
                shadow.is_none_or(|shadow| shadow.may_decide())
            }),
            Self::Guardrail(_) => true,
            Self::Own(_) => false,
        }
    }

    /// Whether the agent at this place decides about every request.
    pub(crate) fn obeys(&self, member: usize) -> bool {
        match self {
            Self::Agents(agents) => agents
                .get(member)
                .is_some_and(|agent| agent.shadow.is_none()),
            Self::Guardrail(_) => true,
            Self::Own(_) => false,
        }
    }
}

/// Whether a request goes on.
#[derive(Debug)]
pub(crate) enum Flow {
    Continue,
    Reply(Reply),
}

/// What filters are compiled with.
pub(crate) struct Compiler<'a> {
    manager: &'a AgentManager,
    agents: HashMap<&'a AgentId, Known<'a>>,
    metrics: &'a Metrics,
    previous: Option<&'a Snapshot>,
    limits: Limits,
}

/// An agent of the configuration.
struct Known<'a> {
    agent: &'a portcullis_config::Agent,
    /// What may wait for it in the shadow of requests.
    slots: Arc<Semaphore>,
    /// Some request may wait for it.
    is_enforced: bool,
}

impl<'a> Compiler<'a> {
    /// What shadow agents were counted for in `previous` goes on from there.
    pub(crate) fn new(
        manager: &'a AgentManager,
        agents: &'a [portcullis_config::Agent],
        routes: &[portcullis_config::Route],
        metrics: &'a Metrics,
        previous: Option<&'a Snapshot>,
    ) -> Self {
        let filters = routes.iter().flat_map(|route| &route.filters);
        let uses = filters.flat_map(portcullis_config::Filter::agents);
        let enforced: HashSet<&AgentId> = uses
            .filter(|used| used.decides_for_some())
            .map(|used| &used.agent)
            .collect();
        let known = |agent: &'a portcullis_config::Agent| {
            let most = agent.max_concurrent_calls.saturating_add(agent.queue);
            let slots = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
            let is_enforced = enforced.contains(&agent.id);
            let known = Known {
                agent,
                slots,
                is_enforced,
            };
            (&agent.id, known)
        };
        Self {
            manager,
            agents: agents.iter().map(known).collect(),
            metrics,
            previous,
            limits: Limits::default(),
        }
    }

    /// What limits of all routes that were compiled have counted.
    pub(crate) fn into_limits(self) -> Limits {
        self.limits
    }

    /// The chain of a route.
    ///
    /// # Errors
    /// An agent that the manager does not know.
    pub(crate) fn chain(
        &mut self,
        route: &str,
        filters: &[portcullis_config::Filter],
    ) -> Result<Vec<Filter>, String> {
        let filters = filters.iter().map(|filter| self.compile(route, filter));
        let mut filters: Vec<Filter> = filters.collect::<Result<_, _>>()?;
        let rates = filters.iter_mut().filter_map(|filter| match filter {
            Filter::Own(Own::RateLimit(limit)) => Some(limit),
            _ => None,
        });
        for (number, limit) in rates.enumerate() {
            limit.numbered(number + 1);
        }
        Ok(filters)
    }

    fn compile(
        &mut self,
        route: &str,
        filter: &portcullis_config::Filter,
    ) -> Result<Filter, String> {
        use portcullis_config::Filter as Config;
        Ok(match filter {
            Config::Agent(used) => Filter::Agents(vec![self.agent(route, used)?]),
            Config::Parallel(uses) => Filter::Agents(
                uses.iter()
                    .map(|used| self.agent(route, used))
                    .collect::<Result<_, _>>()?,
            ),
            Config::Guardrail(guardrail) => {
                let used = self.agent(route, &guardrail.used)?.used;
                Filter::Guardrail(Box::new(Guardrail::new(used, guardrail, route)))
            }
            Config::Own(own) => Filter::Own(Own::compile(self, route, own)?),
        })
    }

    fn agent(
        &self,
        route: &str,
        used: &portcullis_config::AgentUse,
    ) -> Result<AgentOfRoute, String> {
        let unknown = || format!("no agent {}", used.agent);
        let known = self.agents.get(&used.agent).ok_or_else(unknown)?;
        let settings = used.shadow.as_ref();
        let used = AgentUse {
            agent: self.manager.position(&used.agent).ok_or_else(unknown)?,
            timeout: used.timeout,
            failure_mode: used.failure_mode,
        };
        let shadow = settings.map(|settings| {
            Arc::new(Shadow::new(shadow::Parts {
                used: used.clone(),
                agent: known.agent,
                settings,
                slots: known.slots.clone(),
                yields: known.is_enforced,
                route,
                metrics: self.metrics,
                previous: self.previous,
            }))
        });
        Ok(AgentOfRoute {
            used,
            inspect: known.agent.inspect,
            shadow,
        })
    }
}

/// What bodies may have on their way through the chain, where it says so.
pub(crate) fn body_limit(filters: &[Filter]) -> Option<BodyLimit> {
    own::body_limit(filters)
}

/// How responses are compressed behind the chain, if they are.
pub(crate) fn compression(filters: &[Filter]) -> Option<Arc<Compress>> {
    own::compression(filters)
}

/// Whether a verdict of any agent of the chain is kept for later requests.
pub(crate) fn keeps_verdicts(filters: &[Filter], manager: &AgentManager) -> bool {
    filters.iter().any(|filter| match filter {
        Filter::Agents(of_route) => {
            let mut positions = of_route.iter().map(|agent| agent.used.agent);
            positions.any(|agent| manager.keeps_verdicts(agent))
        }
        // Verdicts about heads alone are kept.
        Filter::Guardrail(_) | Filter::Own(_) => false,
    })
}

/// Runs the chain on the way in, until a filter answers or all are through.
///
/// # Errors
/// A change that the request's head does not take.
pub(crate) async fn on_request(head: &mut RequestHeader, request: &mut Request) -> Result<Flow> {
    let Some(route) = request.route.clone() else {
        return Ok(Flow::Continue);
    };
    for (position, filter) in route.filters.iter().enumerate() {
        request.steps_run = position + 1;
        match filter {
            Filter::Agents(agents) => {
                // Only requests that need it have room for it.
                let asked = Box::pin(agents::on_request(agents, position, head, request));
                let flow = asked.await?;
                if matches!(flow, Flow::Reply(_)) {
                    return Ok(flow);
                }
            }
            Filter::Own(own) => {
                let flow = own.on_request(position, head, request)?;
                if matches!(flow, Flow::Reply(_)) {
                    return Ok(flow);
                }
            }
            Filter::Guardrail(_) => {}
        }
    }
    Ok(Flow::Continue)
}

/// Runs the chain on the way out, over the head of our own answer or of a response that no agent sees. Only the steps that
/// ran on the way in take part.
///
/// # Errors
/// A change that the response's head does not take.
pub(crate) fn on_response(request: &Request, head: &mut ResponseHeader) -> Result<()> {
    name_request(request, head)?;
    let Some(route) = request.route.as_deref() else {
        return Ok(());
    };
    for (position, filter) in route.filters[..request.steps_run].iter().enumerate().rev() {
        match filter {
            Filter::Own(own) => own.on_response(position, head, request)?,
            Filter::Agents(_) => agents::change_response(position, head, request)?,
            Filter::Guardrail(_) => {}
        }
    }
    Ok(())
}

/// Runs the chain on the way out, over the head of the upstream's response, and asks the agents that want to see it.
///
/// # Errors
/// A change that the response's head does not take.
pub(crate) async fn on_upstream_response(
    request: &Request,
    head: &mut ResponseHeader,
    has_body: bool,
) -> Result<Flow> {
    name_request(request, head)?;
    let Some(route) = request.route.as_deref() else {
        return Ok(Flow::Continue);
    };
    for (position, filter) in route.filters[..request.steps_run].iter().enumerate().rev() {
        match filter {
            Filter::Own(own) => own.on_response(position, head, request)?,
            Filter::Agents(of_route) => {
                agents::change_response(position, head, request)?;
                let flow = agents::on_response(of_route, position, head, has_body, request).await?;
                if matches!(flow, Flow::Reply(_)) {
                    return Ok(flow);
                }
            }
            Filter::Guardrail(_) => {}
        }
    }
    Ok(Flow::Continue)
}

fn name_request(request: &Request, head: &mut ResponseHeader) -> Result<()> {
    let Some(begun) = &request.begun else {
        return Ok(());
    };
    head.insert_header(
        crate::client::X_REQUEST_ID,
        begun.identity.request_id_value(),
    )
}
