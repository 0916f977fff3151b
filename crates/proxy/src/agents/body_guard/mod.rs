//! The agent `body-guard`: it refuses bodies that hold what they must not, and
//! takes out of them what nobody shall see, in both directions.
//!
//! It works on pieces as they come, so that it can be used on streams: what
//! it looks for is found across the borders of pieces. What has passed
//! before a forbidden text came is gone, though; a route that must not let
//! anything of such a body pass holds it (`buffer`).

mod redact;
mod rules;

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use portcullis_agent_protocol::server::{Agent, AgentError, PerRequest};
use portcullis_agent_protocol::{
    BodyChunk, Capabilities, Decision, EventKind, RequestComplete, ResponseHeaders,
};
use serde_json::Value;

use super::content::{Depth, Search, Seen};

use self::redact::Redactor;
use self::rules::{BodyRules, Rules};

/// Bodies that are under way at once, of each direction: more than a dozen
/// clients can have open with all the connections and streams that a listener
/// lets each of them have. What is kept of one goes when its request ends, and
/// is bounded by `max-match` (a few times as much, see `redact`) and by the
/// tables of the denied expressions, not by the pieces.
const MOST_BODIES: usize = 262_144;

/// The agent. Without a configuration it allows everything; a proxy's
/// configuration takes the place of the one before.
pub(super) struct BodyGuard {
    rules: RwLock<Arc<Rules>>,
    requests: PerRequest<Body>,
    responses: PerRequest<Body>,
}

impl Default for BodyGuard {
    fn default() -> Self {
        Self {
            rules: RwLock::default(),
            requests: PerRequest::new(MOST_BODIES),
            responses: PerRequest::new(MOST_BODIES),
        }
    }
}

/// Whose body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

#[async_trait]
impl Agent for BodyGuard {
    fn name(&self) -> &str {
        "body-guard"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.name(), self.version()).with_events(&[
            EventKind::RequestBodyChunk,
            EventKind::ResponseHeaders,
            EventKind::ResponseBodyChunk,
            EventKind::RequestComplete,
        ])
    }

    async fn configure(&self, config: &Value) -> Result<(), String> {
        // Each connection brings it, and the tables take a while to make.
        if self.rules().source == *config {
            return Ok(());
        }
        let rules = Arc::new(Rules::parse(config)?);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        Ok(())
    }

    async fn request_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        Ok(self.chunk(Direction::Request, event))
    }

    async fn response_headers(&self, event: &ResponseHeaders<'_>) -> Result<Decision, AgentError> {
        let rules = self.rules();
        let lines = event.headers.get_all(CONTENT_TYPE);
        let blocked = lines
            .iter()
            .find_map(|value| rules.blocked_content_type(value.as_bytes()));
        Ok(match blocked {
            Some(kind) => block(&rules, format!("body:content-type:{kind}")),
            None => Decision::allow(),
        })
    }

    async fn response_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        Ok(self.chunk(Direction::Response, event))
    }

    async fn request_complete(&self, event: &RequestComplete<'_>) {
        self.requests.remove(event.correlation_id);
        self.responses.remove(event.correlation_id);
    }
}

impl BodyGuard {
    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn chunk(&self, direction: Direction, event: &BodyChunk<'_>) -> Decision {
        let bodies = match direction {
            Direction::Request => &self.requests,
            Direction::Response => &self.responses,
        };
        let id = event.correlation_id;
        let look = |body: &mut Body| body.look(&event.data, event.is_last);
        let seen = match event.index {
            0 => {
                bodies.remove(id);
                Some(bodies.with(id, || Body::new(self.rules(), direction), look))
            }
            _ => bodies.with_existing(id, look),
        };
        // The beginning was seen by another, or there was no room for what was kept of it. That is a verdict and no error:
        // errors add up to an agent that is not asked at all for a while.
        let outcome = seen
            .unwrap_or_else(|| Outcome::Refused(self.rules(), "body:unknown-beginning".to_owned()));
        if event.is_last || matches!(outcome, Outcome::Refused(..)) {
            bodies.remove(id);
        }
        match outcome {
            Outcome::Clean => Decision::allow(),
            Outcome::Refused(rules, reason) => block(&rules, reason),
            Outcome::Other(data) => match direction {
                Direction::Request => Decision::allow().replace_request_body(data),
                Direction::Response => Decision::allow().replace_response_body(data),
            },
        }
    }
}

fn block(rules: &Rules, reason: String) -> Decision {
    Decision::block(rules.status)
        .tag("body-guard")
        .reason(reason)
}

/// A body on its way.
struct Body {
    rules: Arc<Rules>,
    direction: Direction,
    bytes: u64,
    depth: Depth,
    search: Search,
    /// The last byte so far: with it a denied text may have ended.
    held: Option<u8>,
    redactor: Redactor,
}

/// What becomes of a piece.
enum Outcome {
    Clean,
    /// This goes on in its place.
    Other(Bytes),
    Refused(Arc<Rules>, String),
}

impl Body {
    fn new(rules: Arc<Rules>, direction: Direction) -> Self {
        Self {
            rules,
            direction,
            bytes: 0,
            depth: Depth::default(),
            search: Search::default(),
            held: None,
            redactor: Redactor::default(),
        }
    }

    fn look(&mut self, data: &Bytes, is_last: bool) -> Outcome {
        let rules = Arc::clone(&self.rules);
        let of_body = match self.direction {
            Direction::Request => &rules.request,
            Direction::Response => &rules.response,
        };
        if let Some(reason) = self.reason_against_size(of_body, data) {
            return Outcome::Refused(Arc::clone(&rules), reason.to_owned());
        }
        let is_open = match self.search.look(&of_body.denied, data, is_last) {
            Seen::Denied(found) => {
                return Outcome::Refused(Arc::clone(&rules), format!("body:deny:{found}"));
            }
            Seen::Depends => true,
            Seen::Nothing => false,
        };
        let mut passes = self.hold_back(data, is_open);
        if !of_body.redactions.is_empty() {
            let redacted = self.redactor.pass(&of_body.redactions, &passes, is_last);
            if redacted != *passes {
                passes = redacted.into();
            }
        }
        match passes == *data {
            true => Outcome::Clean,
            false => Outcome::Other(passes),
        }
    }

    fn reason_against_size(&mut self, rules: &BodyRules, data: &[u8]) -> Option<&'static str> {
        self.bytes += data.len() as u64;
        if rules.max_bytes.is_some_and(|most| self.bytes > most) {
            return Some("body:max-bytes");
        }
        let is_too_deep = |most| self.depth.exceeds(most, data);
        rules
            .max_depth
            .is_some_and(is_too_deep)
            .then_some("body:json-depth")
    }

    /// What was held back and this piece, without the last byte if that is to be held now.
    fn hold_back(&mut self, data: &Bytes, holds: bool) -> Bytes {
        if self.held.is_none() && !holds {
            return data.clone();
        }
        let mut all: Vec<u8> = self.held.take().into_iter().collect();
        all.extend_from_slice(data);
        if holds {
            self.held = all.pop();
        }
        all.into()
    }
}

#[cfg(test)]
mod tests;
