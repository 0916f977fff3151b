//! What became of a request and why, for the operator who asks afterwards: `portcullis why`. Values of headers are no part of
//! it.

use crate::{
    filter::{Filter, Own},
    request::{Begun, EndedBy, Request},
    snapshot::{Action, Route},
};
use chrono::{DateTime, SecondsFormat, Utc};
use portcullis_agent_manager::{HeaderChange, Phase, Record, RecordedVerdict};
use serde::Serialize;
use std::{borrow::Cow, net::IpAddr, time::Duration};

/// So much is kept of a path, which can be as long as the limits of its listener allow.
const MOST_PATH: usize = 2048;

/// A request that is over.
pub(crate) struct Explained<'a> {
    pub(crate) request: &'a Request,
    pub(crate) begun: &'a Begun,
    pub(crate) records: &'a [Record],
    /// What shadow agents had said by then.
    pub(crate) shadow: &'a [Record],
    pub(crate) ended_by: Option<&'a EndedBy>,
    pub(crate) reason: Option<&'a str>,
    /// What the client got; `None` when it left before.
    pub(crate) status: Option<u16>,
    pub(crate) duration: Duration,
    /// The client did not get all of it.
    pub(crate) aborted: bool,
}

impl Explained<'_> {
    /// Whether somebody may ask about it: an agent did not let it pass, or would not have in the shadow, or has failed, or it was refused or failed here, as a
    /// socket too, or whoever sent it may see verdicts.
    pub(crate) fn is_worth_keeping(&self) -> bool {
        let is_of_interest = |record: &Record| {
            !matches!(
                record.verdict,
                RecordedVerdict::Allow | RecordedVerdict::ClientGone
            )
        };
        // Where a shadow agent disagrees, it or the other did not let it pass; so what its report lists can be explained.
        let would_stop = |record: &Record| match record.verdict {
            RecordedVerdict::Block
            | RecordedVerdict::Redirect
            | RecordedVerdict::Challenge
            | RecordedVerdict::Detected
            | RecordedVerdict::Drop
            | RecordedVerdict::Close => true,
            RecordedVerdict::Allow
            | RecordedVerdict::Cancelled
            | RecordedVerdict::ClientGone
            | RecordedVerdict::Skipped
            | RecordedVerdict::Failed { .. }
            | RecordedVerdict::Refused(_) => false,
        };
        // A client that leaves has no page with an id to ask about, and a process that ends cannot be asked any more.
        let is_moot = matches!(self.reason, Some("client_gone" | "shutting_down"));
        let has_failed = !is_moot && (self.aborted || self.reason.is_some());
        // That a file does not exist is nobody's doing.
        let route = self.request.route.as_deref();
        let is_static = route.is_some_and(|route| matches!(route.action, Action::Static(_)));
        let least = if is_static { 500 } else { 400 };
        let is_our_error = self.request.upstream.status.is_none()
            && self.status.is_some_and(|status| status >= least);
        self.request.traced
            || self.ended_by.is_some()
            || is_our_error
            || has_failed
            || self.records.iter().any(is_of_interest)
            || self.shadow.iter().any(would_stop)
    }

    /// All that is known of it, as JSON.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let (begun, identity) = (self.begun, &self.begun.identity);
        let at = DateTime::<Utc>::from(begun.started_at);
        let explanation = Explanation {
            request_id: identity.request_id(),
            ts: at.to_rfc3339_opts(SecondsFormat::Millis, true),
            client_ip: identity.ip,
            listener: &begun.connection.listener.id,
            method: begun.method.as_str(),
            host: &identity.host,
            path: shortened(&begun.target),
            traced: self.request.traced,
            route: self.route(),
            agents: self.agents(),
            headers: self.headers(),
            upstream: self.upstream(),
            websocket: self.websocket(),
            answer: AnswerPart {
                status: self.status,
                blocked_by: self.ended_by.map(|by| by.name.as_str()),
                reason: self.reason,
                grpc_status: self.request.grpc_status,
                aborted: self.aborted,
                duration_ms: milliseconds(self.duration),
                agents_ms: milliseconds(self.request.agents.conversation.waited()),
            },
        };
        serde_json::to_vec(&explanation).unwrap_or_default()
    }

    /// What became of the socket, where agents saw its frames.
    fn websocket(&self) -> Option<SocketPart> {
        let socket = self.request.socket.get()?;
        Some(SocketPart {
            frames_in: socket.frames_in(),
            frames_out: socket.frames_out(),
            close_code: socket.close_code(),
        })
    }

    fn agents(&self) -> Vec<AgentPart<'_>> {
        let obeyed = self.records.iter().map(|of| record(of, false));
        let shadow = self.shadow.iter().map(|of| record(of, true));
        obeyed.chain(shadow).collect()
    }

    fn route(&self) -> Option<RoutePart<'_>> {
        let route = self.request.route.as_deref()?;
        let found = self.begun.snapshot().router.reason(self.request.rank);
        let why = found.map(|(reason, of)| WhyPart {
            matched: reason.to_string(),
            match_block: reason.block,
            match_blocks: reason.blocks,
            priority: reason.priority,
            precedence: self.request.rank + 1,
            precedence_of: of,
        });
        Some(RoutePart { id: &route.id, why })
    }

    /// Who changed which header, in the order of the changes: on the way in, and then, in reverse, on the way out.
    fn headers(&self) -> Vec<HeaderPart> {
        let by_agents = self.request.agents.conversation.take_changes();
        let mut all = Vec::new();
        for of_response in [false, true] {
            let of_side = |change: &&HeaderChange| change.of_response == of_response;
            let by_agents = by_agents.iter().filter(of_side);
            let mut changes: Vec<_> = by_agents.map(|change| self.by_agent(change)).collect();
            if !of_response || self.status.is_some() {
                self.by_filters(of_response, &mut changes);
            }
            changes.sort_by_key(|(when, _)| *when);
            all.extend(changes.into_iter().map(|(_, change)| change));
        }
        all
    }

    fn by_agent(&self, change: &HeaderChange) -> (When, HeaderPart) {
        let asks = |filter: &Filter| match filter {
            Filter::Agents(of_route) => of_route
                .iter()
                .any(|one| *self.begun.snapshot().agents.name(one.used.agent) == change.agent),
            Filter::Guardrail(_) | Filter::Own(_) => false,
        };
        let route = self.request.route.as_deref();
        let step = route.and_then(|route| route.filters.iter().position(asks));
        let is_of_body = match change.phase {
            Phase::RequestBody => !change.of_response,
            Phase::ResponseBody => true,
            _ => false,
        };
        let part = HeaderPart {
            of: side(change.of_response),
            done: change.done,
            name: change.name.to_ascii_lowercase(),
            agent: Some(change.agent.to_string()),
            phase: Some(change.phase.name()),
            filter: None,
            step: step.map(|step| step + 1),
        };
        let step = step.unwrap_or_default();
        (When::new(is_of_body, change.of_response, step), part)
    }

    /// What the route's own filters changed, as far as they ran.
    fn by_filters(&self, of_response: bool, changes: &mut Vec<(When, HeaderPart)>) {
        let Some(route) = self.request.route.as_deref() else {
            return;
        };
        let steps = route.filters.iter().take(self.request.steps_run);
        for (step, filter) in steps.enumerate() {
            let (edits, by) = match (filter, of_response) {
                (Filter::Own(Own::RequestHeaders(edits)), false) => (edits, "request-headers"),
                (Filter::Own(Own::ResponseHeaders { edits, .. }), true) => {
                    (edits, "response-headers")
                }
                _ => continue,
            };
            let done = edits.iter().filter_map(|edit| edit.done(self.request));
            changes.extend(done.map(|(done, name)| {
                let part = HeaderPart {
                    of: side(of_response),
                    done,
                    name: name.as_str().to_owned(),
                    agent: None,
                    phase: None,
                    filter: Some(by),
                    step: Some(step + 1),
                };
                (When::new(false, of_response, step), part)
            }));
        }
    }

    fn upstream(&self) -> Option<UpstreamPart<'_>> {
        let upstream = &self.request.upstream;
        if upstream.attempts == 0 {
            return None;
        }
        let route = self.request.route.as_deref();
        let id = route
            .and_then(Route::upstream)
            .map(|known| known.id.as_str());
        let rewritten = self.request.rewritten.as_deref();
        let answered = upstream.asked_after.zip(upstream.header_after);
        let took = answered.map(|(asked, answered)| answered.saturating_sub(asked));
        Some(UpstreamPart {
            id,
            address: upstream.target().map(|address| &**address),
            status: upstream.status,
            attempts: upstream.attempts,
            rewritten_path: rewritten.and_then(|to| to.target.as_deref()).map(shortened),
            rewritten_host: rewritten.and_then(|to| to.host.as_deref()),
            duration_ms: took.map(milliseconds),
        })
    }
}

// What follows is the form in which it is told. Refused requests are what a proxy under attack has most of, so it is written
// at once, without a tree of values in between.

#[derive(Serialize)]
struct Explanation<'a> {
    request_id: &'a str,
    ts: String,
    client_ip: IpAddr,
    listener: &'a str,
    method: &'a str,
    host: &'a str,
    path: Cow<'a, str>,
    traced: bool,
    route: Option<RoutePart<'a>>,
    agents: Vec<AgentPart<'a>>,
    headers: Vec<HeaderPart>,
    upstream: Option<UpstreamPart<'a>>,
    websocket: Option<SocketPart>,
    answer: AnswerPart<'a>,
}

#[derive(Serialize)]
struct AnswerPart<'a> {
    status: Option<u16>,
    blocked_by: Option<&'a str>,
    reason: Option<&'a str>,
    grpc_status: Option<u8>,
    aborted: bool,
    duration_ms: f64,
    agents_ms: f64,
}

#[derive(Serialize)]
struct SocketPart {
    frames_in: u64,
    frames_out: u64,
    close_code: u16,
}

#[derive(Serialize)]
struct RoutePart<'a> {
    id: &'a str,
    why: Option<WhyPart>,
}

#[derive(Serialize)]
struct WhyPart {
    #[serde(rename = "match")]
    matched: String,
    match_block: usize,
    match_blocks: usize,
    priority: i64,
    precedence: u32,
    precedence_of: usize,
}

#[derive(Serialize)]
struct AgentPart<'a> {
    name: &'a str,
    phase: &'static str,
    verdict: &'static str,
    failure: Option<&'static str>,
    failure_mode: Option<&'static str>,
    reason: Option<&'a str>,
    tags: &'a [String],
    calls: Option<u32>,
    cached: bool,
    shadow: bool,
    duration_ms: f64,
}

#[derive(Serialize)]
struct HeaderPart {
    of: &'static str,
    done: &'static str,
    name: String,
    /// Who, and when in the request's life; or which filter of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'static str>,
    step: Option<usize>,
}

#[derive(Serialize)]
struct UpstreamPart<'a> {
    id: Option<&'a str>,
    address: Option<&'a str>,
    status: Option<u16>,
    attempts: u32,
    rewritten_path: Option<Cow<'a, str>>,
    rewritten_host: Option<&'a str>,
    duration_ms: Option<f64>,
}

/// When in one direction a header was changed: what is said about a body comes when all filters have seen the head, and on the
/// way out the filters run in reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct When {
    is_of_body: bool,
    turn: usize,
}

impl When {
    const fn new(is_of_body: bool, of_response: bool, step: usize) -> Self {
        let turn = if of_response { usize::MAX - step } else { step };
        Self { is_of_body, turn }
    }
}

fn record(record: &Record, is_shadow: bool) -> AgentPart<'_> {
    let told = record.verdict.told();
    AgentPart {
        name: &record.agent,
        phase: record.phase.name(),
        verdict: told.verdict,
        failure: told.failure,
        failure_mode: told.failure_mode,
        reason: record.reason.as_deref(),
        tags: &record.tags,
        calls: (!record.cached).then_some(record.calls),
        cached: record.cached,
        shadow: is_shadow,
        duration_ms: milliseconds(record.duration),
    }
}

const fn side(of_response: bool) -> &'static str {
    if of_response { "response" } else { "request" }
}

fn milliseconds(duration: Duration) -> f64 {
    // Whole microseconds, as in the access log.
    duration.as_micros() as f64 / 1000.0
}

fn shortened(path: &str) -> Cow<'_, str> {
    if path.len() <= MOST_PATH {
        return path.into();
    }
    format!("{}…", &path[..path.floor_char_boundary(MOST_PATH)]).into()
}
