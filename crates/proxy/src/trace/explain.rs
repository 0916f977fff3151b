//! What became of a request and why, for the operator who asks afterwards: `portcullis why`. Values of headers are no part of
//! it.

use crate::{
    filter::Filter,
    request::{Begun, EndedBy, Request},
    snapshot::Action,
};
use chrono::{DateTime, SecondsFormat, Utc};
use portcullis_agent_manager::{HeaderChange, Phase, Record, RecordedVerdict};
use serde_json::{Value, json};
use std::time::Duration;

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
        let is_our_error = self.request.upstream.status.is_none()
            && self.status.is_some_and(|status| status >= 400);
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
        let value = json!({
            "request_id": identity.request_id(),
            "ts": at.to_rfc3339_opts(SecondsFormat::Millis, true),
            "client_ip": identity.ip.to_string(),
            "listener": begun.connection.listener.id.as_str(),
            "method": begun.method.as_str(),
            "host": identity.host,
            "path": shortened(&begun.target),
            "traced": self.request.traced,
            "route": self.route(),
            "agents": self.agents(),
            "headers": self.headers(),
            "upstream": self.upstream(),
            "websocket": self.websocket(),
            "answer": {
                "status": self.status,
                "blocked_by": self.ended_by.map(|by| by.agent.as_str()),
                "reason": self.reason,
                "grpc_status": self.request.grpc_status,
                "aborted": self.aborted,
                "duration_ms": milliseconds(self.duration),
                "agents_ms": milliseconds(self.request.agents.conversation.waited()),
            },
        });
        serde_json::to_vec(&value).unwrap_or_default()
    }

    /// What became of the socket, where agents saw its frames.
    fn websocket(&self) -> Option<Value> {
        let socket = self.request.socket.get()?;
        Some(json!({
            "frames_in": socket.frames_in(),
            "frames_out": socket.frames_out(),
            "close_code": socket.close_code(),
        }))
    }

    fn agents(&self) -> Vec<Value> {
        let obeyed = self.records.iter().map(|of| record(of, false));
        let shadow = self.shadow.iter().map(|of| record(of, true));
        obeyed.chain(shadow).collect()
    }

    fn route(&self) -> Option<Value> {
        let route = self.request.route.as_deref()?;
        let found = self.begun.snapshot().router.reason(self.request.rank);
        let why = found.map(|(reason, of)| {
            json!({
                "match": reason.to_string(),
                "match_block": reason.block,
                "match_blocks": reason.blocks,
                "priority": reason.priority,
                "precedence": self.request.rank + 1,
                "precedence_of": of,
            })
        });
        Some(json!({"id": route.id.as_str(), "why": why}))
    }

    /// Who changed which header, in the order of the changes: on the way in, and then, in reverse, on the way out.
    fn headers(&self) -> Vec<Value> {
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

    fn by_agent(&self, change: &HeaderChange) -> (When, Value) {
        let asks = |filter: &Filter| match filter {
            Filter::Agents(of_route) => of_route
                .iter()
                .any(|one| *self.begun.snapshot().agents.name(one.used.agent) == change.agent),
            Filter::Guardrail(_) | Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) => false,
        };
        let route = self.request.route.as_deref();
        let step = route.and_then(|route| route.filters.iter().position(asks));
        let is_of_body = match change.phase {
            Phase::RequestBody => !change.of_response,
            Phase::ResponseBody => true,
            _ => false,
        };
        let value = json!({
            "of": side(change.of_response),
            "done": change.done,
            "name": change.name.to_ascii_lowercase(),
            "agent": change.agent.as_str(),
            "phase": change.phase.name(),
            "step": step.map(|step| step + 1),
        });
        let step = step.unwrap_or_default();
        (When::new(is_of_body, change.of_response, step), value)
    }

    /// What the route's own filters changed, as far as they ran.
    fn by_filters(&self, of_response: bool, changes: &mut Vec<(When, Value)>) {
        let Some(route) = self.request.route.as_deref() else {
            return;
        };
        let steps = route.filters.iter().take(self.request.steps_run);
        for (step, filter) in steps.enumerate() {
            let (edits, by) = match (filter, of_response) {
                (Filter::RequestHeaders(edits), false) => (edits, "request-headers"),
                (Filter::ResponseHeaders(edits), true) => (edits, "response-headers"),
                _ => continue,
            };
            let done = edits.iter().filter_map(|edit| edit.done(self.request));
            changes.extend(done.map(|(done, name)| {
                let value = json!({
                    "of": side(of_response),
                    "done": done,
                    "name": name.as_str(),
                    "filter": by,
                    "step": step + 1,
                });
                (When::new(false, of_response, step), value)
            }));
        }
    }

    fn upstream(&self) -> Option<Value> {
        let upstream = &self.request.upstream;
        if upstream.attempts == 0 {
            return None;
        }
        let id = match self.request.route.as_deref().map(|route| &route.action) {
            Some(Action::Upstream(known)) => Some(known.id.as_str()),
            _ => None,
        };
        let answered = upstream.asked_after.zip(upstream.header_after);
        let took = answered.map(|(asked, answered)| answered.saturating_sub(asked));
        Some(json!({
            "id": id,
            "address": upstream.target.as_deref(),
            "status": upstream.status,
            "attempts": upstream.attempts,
            "duration_ms": took.map(milliseconds),
        }))
    }
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

fn record(record: &Record, is_shadow: bool) -> Value {
    let told = record.verdict.told();
    json!({
        "name": record.agent.as_str(),
        "phase": record.phase.name(),
        "verdict": told.verdict,
        "failure": told.failure,
        "failure_mode": told.failure_mode,
        "reason": record.reason,
        "tags": record.tags,
        "calls": (!record.cached).then_some(record.calls),
        "cached": record.cached,
        "shadow": is_shadow,
        "duration_ms": milliseconds(record.duration),
    })
}

const fn side(of_response: bool) -> &'static str {
    if of_response { "response" } else { "request" }
}

fn milliseconds(duration: Duration) -> f64 {
    // Whole microseconds, as in the access log.
    duration.as_micros() as f64 / 1000.0
}

fn shortened(path: &str) -> String {
    if path.len() <= MOST_PATH {
        return path.to_owned();
    }
    format!("{}…", &path[..path.floor_char_boundary(MOST_PATH)])
}
