//! Asks agents about the head of a request or of a response and does what they decide.

use super::{AgentOfRoute, Flow, head::Head};
use crate::{
    reply::Reply,
    request::{AgentRun, Begun, Request},
    snapshot::{Route, Serving},
};
use http::{HeaderName, HeaderValue, Version, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use portcullis_agent_manager::{Answer, Ask, Changes, Conversation, KeyContext, Phase, Refusal};
use portcullis_agent_protocol::{
    Event, HeaderOp, RequestHeaders, RequestMetadata, ResponseHeaders, Verdict,
};
use portcullis_config::AgentId;
use smallvec::SmallVec;

type Asks<'a> = SmallVec<[Ask<'a>; 2]>;

/// Asks the agents of a step about the head of the request. `position` is the step's place in the chain.
pub(super) async fn on_request(
    agents: &[AgentOfRoute],
    position: usize,
    head: &mut RequestHeader,
    request: &mut Request,
) -> Result<Flow> {
    let Some(begun) = &request.begun else {
        return Ok(Flow::Continue);
    };
    let event = request_event(head, request.route.as_deref(), begun);
    if let Some(shadows) = &request.shadows {
        shadows.request_head(position, &event, request.has_body, begun);
    }
    let event = Event::RequestHeaders(event);
    // Nobody reads the body of a request that is answered here, so that no agent will see it.
    let is_passed_on = request
        .route
        .as_deref()
        .is_some_and(|route| route.upstream().is_some());
    let shows_body = request.has_body && is_passed_on;
    let asks: Asks<'_> = agents
        .iter()
        .enumerate()
        .filter(|(member, agent)| agent.inspect.request_headers && request.obeys(position, *member))
        .map(|(_, agent)| Ask {
            used: &agent.used,
            event: &event,
            more: shows_body && agent.inspect.request_body.is_some(),
            streamed: false,
        })
        .collect();
    if asks.is_empty() {
        return Ok(Flow::Continue);
    }
    let keeps_verdicts = request
        .route
        .as_ref()
        .is_some_and(|route| route.keeps_verdicts);
    let context = keeps_verdicts.then(|| key_context(request, begun));
    let phase = Phase::RequestHeaders;
    let asked = ask_about(&asks, context.as_ref(), phase, position, request, begun).await;
    let changes = match asked {
        Ok(changes) => changes,
        Err(reply) => {
            if let (Some(shadows), Event::RequestHeaders(event)) = (&request.shadows, &event) {
                let names = &begun.snapshot().agents;
                let is_here = |agent: &AgentId| {
                    let mut here = agents.iter();
                    here.any(|used| names.name(used.used.agent) == agent)
                };
                shadows.request_head_behind(position, is_here, event, begun);
            }
            return Ok(Flow::Reply(reply));
        }
    };
    drop(asks);
    apply(head, &changes.request)?;
    if keeps_verdicts {
        request.changed.operated(&changes.request);
    }
    request.agents.change_response(position, changes.response);
    Ok(Flow::Continue)
}

/// Asks the agents of a step about the head of the response.
pub(super) async fn on_response(
    agents: &[AgentOfRoute],
    position: usize,
    head: &mut ResponseHeader,
    has_body: bool,
    request: &Request,
) -> Result<Flow> {
    let Some(begun) = &request.begun else {
        return Ok(Flow::Continue);
    };
    let event = ResponseHeaders {
        correlation_id: begun.identity.correlation_id(),
        status: head.status.as_u16(),
        headers: &head.headers,
        budget_left: None,
    };
    if let Some(shadows) = &request.shadows {
        shadows.response_head(position, &event, has_body, begun);
    }
    let event = Event::ResponseHeaders(event);
    let asks: Asks<'_> = agents
        .iter()
        .enumerate()
        .filter(|(member, agent)| {
            agent.inspect.response_headers && request.obeys(position, *member)
        })
        .map(|(_, agent)| Ask {
            used: &agent.used,
            event: &event,
            more: has_body && agent.inspect.response_body.is_some(),
            streamed: false,
        })
        .collect();
    if asks.is_empty() {
        return Ok(Flow::Continue);
    }
    let changes = match ask(&asks, Phase::ResponseHeaders, position, request, begun).await {
        Ok(changes) => changes,
        Err(reply) => return Ok(Flow::Reply(reply)),
    };
    drop(asks);
    apply(head, &changes.response)?;
    Ok(Flow::Continue)
}

/// Asks agents at the same time. An answer that ends the request is remembered and becomes the reply to the client.
pub(super) async fn ask(
    asks: &[Ask<'_>],
    phase: Phase,
    position: usize,
    request: &Request,
    begun: &Begun,
) -> Result<Changes, Reply> {
    ask_about(asks, None, phase, position, request, begun).await
}

/// The same; with a context verdicts may be known from earlier requests.
async fn ask_about(
    asks: &[Ask<'_>],
    context: Option<&KeyContext<'_>>,
    phase: Phase,
    position: usize,
    request: &Request,
    begun: &Begun,
) -> Result<Changes, Reply> {
    let Serving { snapshot, links } = &*begun.serving;
    let run = &request.agents;
    let (agents, conversation) = (&snapshot.agents, &run.conversation);
    match agents.ask_about(links, asks, context, conversation).await {
        Answer::Continue(changes) => Ok(changes),
        Answer::Final {
            agent,
            verdict,
            response,
            reason,
        } => {
            let own_code = grpc_status(&verdict);
            let mut reply = reply(verdict, &response);
            let code = own_code.unwrap_or(if reply.status == 401 { 16 } else { 7 });
            let message = reason.clone().unwrap_or_else(|| "refused".to_owned());
            reply = reply.with_grpc(code, message);
            run.change_response(position, response);
            run.end(agent, reason);
            Err(reply)
        }
        Answer::Refused(refusal) => Err(refused(refusal, phase, run, begun)),
        // Nobody closes what is no socket; the manager refuses such an answer.
        Answer::Close { agent, reason, .. } => {
            run.end(agent, reason);
            Err(Reply::status(502))
        }
    }
}

/// What verdicts about a request are kept under, beside what agents see of it.
fn key_context<'a>(request: &'a Request, begun: &'a Begun) -> KeyContext<'a> {
    KeyContext {
        listener: &begun.connection.listener.id,
        scheme: begun.identity.scheme,
        host: &begun.identity.host,
        client_certificate: begun
            .connection
            .tls
            .as_ref()
            .and_then(|tls| Some(tls.client.as_ref()?.fingerprint.as_bytes())),
        changed: request.changed.names(),
    }
}

/// Asks about a copy, for nothing but the records: what comes back is what an enforced agent's answer would mean.
pub(super) async fn ask_aside(
    serving: &Serving,
    asks: &[Ask<'_>],
    conversation: &Conversation,
) -> Answer {
    let Serving { snapshot, links } = serving;
    snapshot.agents.ask(links, asks, conversation).await
}

/// The answer to a request that a failure ends.
pub(super) fn refused(refusal: Refusal, phase: Phase, run: &AgentRun, begun: &Begun) -> Reply {
    let Refusal {
        agent,
        reason,
        detail,
        retry_after,
    } = refusal;
    tracing::debug!(%agent, %reason, detail, phase = phase.name(), request_id = begun.identity.request_id(), "request refused: no verdict");
    run.end(agent, Some(reason.name().to_owned()));
    Reply::status(reason.status(phase))
        .with_retry_after(retry_after)
        .with_grpc(reason.grpc_status(), reason.name())
}

/// What the agents of this step wanted changed in the head of the response before there was one.
pub(super) fn change_response(
    position: usize,
    head: &mut ResponseHeader,
    request: &Request,
) -> Result<()> {
    let wanted = &request.agents;
    wanted.response_changes(position, |operations| apply(head, operations))
}

/// Makes changes that the manager has checked.
///
/// # Errors
/// A change that the head does not take.
pub(crate) fn apply(head: &mut impl Head, operations: &[HeaderOp]) -> Result<()> {
    operations
        .iter()
        .try_for_each(|operation| change(head, operation))
}

fn request_event<'a>(
    head: &'a RequestHeader,
    route: Option<&'a Route>,
    begun: &'a Begun,
) -> RequestHeaders<'a> {
    let identity = &begun.identity;
    let tls = begun.connection.tls.as_ref();
    RequestHeaders {
        metadata: RequestMetadata {
            correlation_id: identity.correlation_id(),
            request_id: identity.request_id(),
            client_ip: identity.ip,
            client_port: identity.port,
            server_name: tls.and_then(|tls| tls.server_name.as_deref()),
            protocol: match head.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            tls_version: tls.map(|tls| tls.version),
            tls_cipher: tls.map(|tls| tls.cipher.as_str()),
            client_certificate: tls.and_then(|tls| Some(tls.client.as_ref()?.told())),
            route_id: route.map(|route| route.id.as_str()),
            upstream_id: route
                .and_then(Route::upstream)
                .map(|upstream| upstream.id.as_str()),
            timestamp: begun.started_at,
            traceparent: head
                .headers
                .get("traceparent")
                .and_then(|value| value.to_str().ok()),
        },
        method: begun.method.as_str(),
        uri: &begun.target,
        headers: &head.headers,
        budget_left: None,
    }
}

/// Makes a change that the manager has checked; one whose name or value is none after all changes nothing.
fn change(head: &mut impl Head, operation: &HeaderOp) -> Result<()> {
    match operation {
        HeaderOp::Set { name, value } => match header_line(name, value) {
            Some((name, value)) => head.set(name, value),
            None => Ok(()),
        },
        HeaderOp::Add { name, value } => match header_line(name, value) {
            Some((name, value)) => head.add(name, value),
            None => Ok(()),
        },
        HeaderOp::Remove { name } => {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                head.remove(&name);
            }
            Ok(())
        }
    }
}

/// The answer that a verdict other than allow stands for. `response` are the changes that go with it: a challenge that sets
/// `www-authenticate` through them asks for credentials, which is 401.
fn reply(verdict: Verdict, response: &[HeaderOp]) -> Reply {
    match verdict {
        Verdict::Allow => Reply::status(500),
        Verdict::Block {
            status,
            body,
            headers,
        } => {
            let mut reply = Reply::status(status);
            reply.headers = headers
                .iter()
                .filter(|(name, _)| !name.eq_ignore_ascii_case(GRPC_STATUS))
                .filter_map(|(name, value)| header_line(name, value))
                .collect();
            reply.is_agents_body = body.is_some();
            reply.body = body;
            reply
        }
        Verdict::Redirect { url, status } => {
            let reply = Reply::status(status).with_body("");
            match header_line(header::LOCATION.as_str(), &url) {
                Some((name, value)) => reply.with_header(name, value),
                // The manager has checked the URL.
                None => Reply::status(502),
            }
        }
        Verdict::Challenge { params, .. } => challenge(&params, response),
    }
}

/// Among the headers of a block: with which status a gRPC call ends. Nobody else gets it.
const GRPC_STATUS: &str = "grpc-status";

/// That status, if the agent has chosen one of those that refuse (<https://grpc.io/docs/guides/status-codes/>).
fn grpc_status(verdict: &Verdict) -> Option<u8> {
    let Verdict::Block { headers, .. } = verdict else {
        return None;
    };
    let mut headers = headers.iter();
    let (_, code) = headers.find(|(name, _)| name.eq_ignore_ascii_case(GRPC_STATUS))?;
    code.parse().ok().filter(|code| (1..=16).contains(code))
}

fn challenge(params: &[(String, String)], response: &[HeaderOp]) -> Reply {
    let param = |wanted: &str| {
        params
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str())
    };
    let authenticate = header::WWW_AUTHENTICATE.as_str();
    let set_by_operation = response.iter().any(|operation| match operation {
        HeaderOp::Set { name, .. } | HeaderOp::Add { name, .. } => {
            name.eq_ignore_ascii_case(authenticate)
        }
        HeaderOp::Remove { .. } => false,
    });
    let asks = set_by_operation || param(authenticate).is_some();
    let mut reply = Reply::status(if asks { 401 } else { 403 });
    for name in [authenticate, header::CONTENT_TYPE.as_str()] {
        reply
            .headers
            .extend(param(name).and_then(|value| header_line(name, value)));
    }
    if let Some(body) = param("body") {
        reply = reply.with_body(body.to_owned());
        reply.is_agents_body = true;
    }
    reply
}

fn header_line(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((
        HeaderName::from_bytes(name.as_bytes()).ok()?,
        HeaderValue::from_bytes(value.as_bytes()).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge_with(params: &[(&str, &str)], response: &[HeaderOp]) -> Reply {
        let params = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        reply(
            Verdict::Challenge {
                challenge_type: "captcha".into(),
                params,
            },
            response,
        )
    }

    #[test]
    fn a_block_can_choose_how_a_grpc_call_ends() {
        for (written, read) in [("9", Some(9)), ("0", None), ("17", None), ("x", None)] {
            let headers = vec![("Grpc-Status".to_owned(), written.to_owned())];
            let verdict = Verdict::Block {
                status: 403,
                body: None,
                headers,
            };
            assert_eq!(grpc_status(&verdict), read, "{written}");
            assert!(reply(verdict, &[]).headers.is_empty());
        }
        assert_eq!(grpc_status(&Verdict::Allow), None);
    }

    #[test]
    fn a_challenge_asks_for_credentials_or_forbids() {
        assert_eq!(challenge_with(&[], &[]).status, 403);
        let asked = challenge_with(&[("www-authenticate", "Basic realm=x")], &[]);
        assert_eq!(asked.status, 401);
        assert_eq!(asked.headers[0].1, "Basic realm=x");
        let operation = HeaderOp::Set {
            name: "WWW-Authenticate".into(),
            value: "Bearer".into(),
        };
        assert_eq!(challenge_with(&[], &[operation]).status, 401);
        let page = challenge_with(&[("body", "<p>"), ("content-type", "text/html")], &[]);
        assert_eq!((page.status, page.body), (403, Some("<p>".into())));
        assert_eq!(page.headers[0].1, "text/html");
    }
}
