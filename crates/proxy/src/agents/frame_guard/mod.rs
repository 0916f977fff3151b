//! The agent `frame-guard`: it closes WebSockets whose messages hold what they
//! must not, are too large, or are JSON that is nested too deep, in both
//! directions.
//!
//! A rule is about a message, however it is cut into frames. Its frames are
//! searched as they come, and no text of them is kept: what is denied is found
//! across their borders, in the frame that has its last byte. Where that
//! depends on what follows (`\b`) it is the frame after it; of a message that
//! is denied the last frame never passes. Control frames belong to no message,
//! and pass.

mod rules;

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use portcullis_agent_protocol::server::{Agent, AgentError, PerRequest};
use portcullis_agent_protocol::{
    Capabilities, Decision, EventKind, FrameOpcode, RequestComplete, WebSocketFrame,
};
use serde_json::Value;

use self::rules::{MessageRules, Rules};
use super::content::{Depth, Search, Seen};

/// Messages of several frames that are under way at once, of each direction:
/// more than a dozen clients can have open with all the connections and streams
/// that a listener lets each of them have. What is kept of one goes with its
/// socket, and is bounded by the tables of the denied expressions.
const MOST_MESSAGES: usize = 262_144;

/// Policy violation (RFC 6455, section 7.4.1).
const POLICY: u16 = 1008;
/// Message too big.
const TOO_BIG: u16 = 1009;

/// The agent. Without a configuration it lets everything pass; a proxy's
/// configuration takes the place of the one before, for messages that begin
/// after it.
pub(super) struct FrameGuard {
    rules: RwLock<Arc<Rules>>,
    from_clients: PerRequest<Message>,
    from_servers: PerRequest<Message>,
}

impl Default for FrameGuard {
    fn default() -> Self {
        Self {
            rules: RwLock::default(),
            from_clients: PerRequest::new(MOST_MESSAGES),
            from_servers: PerRequest::new(MOST_MESSAGES),
        }
    }
}

#[async_trait]
impl Agent for FrameGuard {
    fn name(&self) -> &str {
        "frame-guard"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.name(), self.version())
            .with_events(&[EventKind::WebSocketFrame, EventKind::RequestComplete])
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

    async fn websocket_frame(&self, event: &WebSocketFrame<'_>) -> Result<Decision, AgentError> {
        let refusal = self.frame(event);
        Ok(refusal.map_or_else(Decision::allow, Refusal::decision))
    }

    async fn request_complete(&self, event: &RequestComplete<'_>) {
        self.from_clients.remove(event.correlation_id);
        self.from_servers.remove(event.correlation_id);
    }
}

impl FrameGuard {
    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn frame(&self, frame: &WebSocketFrame<'_>) -> Option<Refusal> {
        let messages = match frame.client_to_server {
            true => &self.from_clients,
            false => &self.from_servers,
        };
        let id = frame.correlation_id;
        let look = |message: &mut Message| message.look(frame);
        let refusal = match frame.opcode {
            opcode if opcode.is_control() => return None,
            // The beginning was seen by another, or there was no room for what was kept of it. That is a verdict and no
            // error: errors add up to an agent that is not asked at all for a while.
            FrameOpcode::Continuation => messages
                .with_existing(id, look)
                .unwrap_or_else(|| Some(Refusal::policy("frame:unknown-beginning".to_owned()))),
            _ if frame.fin => Message::new(self.rules()).look(frame),
            _ => {
                messages.remove(id);
                messages.with(id, || Message::new(self.rules()), look)
            }
        };
        if frame.fin || refusal.is_some() {
            messages.remove(id);
        }
        refusal
    }
}

/// A message on its way.
struct Message {
    rules: Arc<Rules>,
    is_text: Option<bool>,
    bytes: u64,
    depth: Depth,
    search: Search,
}

/// Why a WebSocket is closed.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: u16,
    /// For the two ends, which learn no rule from it.
    text: &'static str,
    /// For the log.
    reason: String,
}

impl Refusal {
    fn policy(reason: String) -> Self {
        Self {
            code: POLICY,
            text: "message refused",
            reason,
        }
    }

    fn too_big() -> Self {
        Self {
            code: TOO_BIG,
            text: "message too big",
            reason: "frame:max-message-bytes".to_owned(),
        }
    }

    fn decision(self) -> Decision {
        Decision::allow()
            .close_websocket(self.code, self.text)
            .tag("frame-guard")
            .reason(self.reason)
    }
}

impl Message {
    fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            is_text: None,
            bytes: 0,
            depth: Depth::default(),
            search: Search::default(),
        }
    }

    fn look(&mut self, frame: &WebSocketFrame<'_>) -> Option<Refusal> {
        let rules = match frame.client_to_server {
            true => &self.rules.from_client,
            false => &self.rules.from_server,
        };
        let is_text = *self
            .is_text
            .get_or_insert(frame.opcode == FrameOpcode::Text);
        self.bytes = self.bytes.saturating_add(frame.data.len() as u64);
        if rules
            .max_message_bytes
            .is_some_and(|most| self.bytes > most)
        {
            return Some(Refusal::too_big());
        }
        if is_too_deep(&mut self.depth, rules, is_text, &frame.data) {
            return Some(Refusal::policy("frame:json-depth".to_owned()));
        }
        match self.search.look(&rules.denied, &frame.data, frame.fin) {
            Seen::Denied(found) => Some(Refusal::policy(format!("frame:deny:{found}"))),
            // It is known with the frame that follows, and nobody acts on a message before its last frame.
            Seen::Nothing | Seen::Depends => None,
        }
    }
}

fn is_too_deep(depth: &mut Depth, rules: &MessageRules, is_text: bool, data: &[u8]) -> bool {
    rules
        .max_depth
        .filter(|_| is_text || !rules.depth_of_text_only)
        .is_some_and(|most| depth.exceeds(most, data))
}

#[cfg(test)]
mod tests;
