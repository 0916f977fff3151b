//! The filters of a route: in the order of the configuration on the way in, in reverse on the way out. A filter changes the
//! request or says what to answer; it never writes to the client.

mod agents;
mod head;
mod headers;

use crate::{reply::Reply, request::Request};
use headers::Edit;
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use portcullis_agent_manager::{AgentManager, AgentUse, Step};

/// A step of a route's chain.
#[derive(Debug)]
pub(crate) enum Filter {
    Agents(Step),
    RequestHeaders(Vec<Edit>),
    ResponseHeaders(Vec<Edit>),
}

/// Whether a request goes on.
#[derive(Debug)]
pub(crate) enum Flow {
    Continue,
    Reply(Reply),
}

impl Filter {
    /// # Errors
    /// An agent that the manager does not know.
    pub(crate) fn compile(
        filter: &portcullis_config::Filter,
        manager: &AgentManager,
    ) -> Result<Self, String> {
        use portcullis_config::Filter as Config;
        Ok(match filter {
            Config::Agent(used) => Self::Agents(Step::One(compile_use(used, manager)?)),
            Config::Parallel(uses) => Self::Agents(Step::Parallel(
                uses.iter()
                    .map(|used| compile_use(used, manager))
                    .collect::<Result<_, _>>()?,
            )),
            Config::RequestHeaders(edits) => Self::RequestHeaders(headers::compile(edits)?),
            Config::ResponseHeaders(edits) => Self::ResponseHeaders(headers::compile(edits)?),
        })
    }
}

fn compile_use(
    used: &portcullis_config::AgentUse,
    manager: &AgentManager,
) -> Result<AgentUse, String> {
    Ok(AgentUse {
        agent: manager
            .position(&used.agent)
            .ok_or_else(|| format!("no agent {}", used.agent))?,
        timeout: used.timeout,
        failure_mode: used.failure_mode,
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
            Filter::Agents(step) => {
                let flow = agents::ask(step, position, head, request).await?;
                if matches!(flow, Flow::Reply(_)) {
                    return Ok(flow);
                }
            }
            Filter::RequestHeaders(edits) => headers::edit(edits, head, request)?,
            Filter::ResponseHeaders(_) => {}
        }
    }
    Ok(Flow::Continue)
}

/// Runs the chain on the way out, over the head of the upstream's response or of our own answer. Only the steps that ran on
/// the way in take part.
///
/// # Errors
/// A change that the response's head does not take.
pub(crate) fn on_response(request: &mut Request, head: &mut ResponseHeader) -> Result<()> {
    if let Some(begun) = &request.begun {
        head.insert_header(
            crate::client::X_REQUEST_ID,
            begun.identity.request_id_value(),
        )?;
    }
    let Some(route) = request.route.clone() else {
        return Ok(());
    };
    for (position, filter) in route.filters[..request.steps_run].iter().enumerate().rev() {
        match filter {
            Filter::ResponseHeaders(edits) => headers::edit(edits, head, request)?,
            Filter::Agents(_) => agents::on_response(position, head, request)?,
            Filter::RequestHeaders(_) => {}
        }
    }
    Ok(())
}
