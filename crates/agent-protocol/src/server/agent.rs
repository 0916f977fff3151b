//! What an agent is: one method per phase.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::codec::NoDecision;
use crate::{
    BodyChunk, Capabilities, Decision, GuardrailInspect, RequestComplete, RequestHeaders,
    ResponseHeaders, WebSocketFrame,
};

/// An agent: it is asked about requests and decides.
///
/// Every phase has a method, and every method allows unless it is
/// implemented. Only the phases in [`capabilities`](Self::capabilities) are
/// asked about. Methods are called concurrently, from several connections.
///
/// When the proxy no longer wants the answer to an event, the future of its
/// method is dropped at the next place where it waits, and nothing is
/// answered. A method that must not stop halfway spawns a task.
///
/// A method that panics or returns an error makes the proxy treat the call as
/// failed, which is not the same as a block: what happens then is the proxy's
/// policy.
#[async_trait]
pub trait Agent: Send + Sync + 'static {
    /// The name of the agent, as in `denylist`.
    fn name(&self) -> &str;

    /// The version of the agent; default that of this library.
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    /// What the agent wants to be asked about, and what it can do; default
    /// request headers, [`Capabilities::with_events`] says others. How many events of a connection it works on at once
    /// and what this library does by itself is filled in from
    /// [`ServeOptions`](super::ServeOptions); so is how many of all
    /// connections, unless `limits.max_concurrency` says it.
    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.name(), self.version())
    }

    /// Takes over the configuration that a proxy has for the agent.
    ///
    /// Each connection configures anew: a proxy has several, with the same
    /// configuration, and reconnects. It may also hand over another one at
    /// any time, while events are worked on. The default accepts anything.
    ///
    /// # Errors
    /// What is wrong with it, for the proxy's log. When it is the first of a
    /// connection, the proxy does not use the connection; else the agent has
    /// to go on with the one that it had.
    async fn configure(&self, config: &Value) -> Result<(), String> {
        let _ = config;
        Ok(())
    }

    /// Decides about the head of a request.
    ///
    /// # Errors
    /// When the agent cannot decide.
    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        let _ = event;
        Ok(Decision::allow())
    }

    /// Decides about a piece of a request's body, and may
    /// [replace](Decision::replace_request_body) it. The pieces of a body come
    /// in order, each when the one before has been answered. What an agent
    /// keeps between them fits into [`PerRequest`](super::PerRequest).
    ///
    /// # Errors
    /// When the agent cannot decide.
    async fn request_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        let _ = event;
        Ok(Decision::allow())
    }

    /// Decides about the head of a response.
    ///
    /// # Errors
    /// When the agent cannot decide.
    async fn response_headers(&self, event: &ResponseHeaders<'_>) -> Result<Decision, AgentError> {
        let _ = event;
        Ok(Decision::allow())
    }

    /// Decides about a piece of a response's body, as
    /// [`request_body_chunk`](Self::request_body_chunk) does about one of a
    /// request's, and may [replace](Decision::replace_response_body) it.
    ///
    /// # Errors
    /// When the agent cannot decide.
    async fn response_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        let _ = event;
        Ok(Decision::allow())
    }

    /// Decides about a frame of a WebSocket, in either direction: lets it
    /// pass, [drops](Decision::drop_frame) it, [replaces](Decision::replace_frame)
    /// its payload, or [closes](Decision::close_websocket) the WebSocket. The
    /// frames of a direction come in order, each when the one before has been
    /// answered; [`PerRequest`](super::PerRequest) keeps what belongs to a
    /// WebSocket until its request [is over](Self::request_complete).
    ///
    /// # Errors
    /// When the agent cannot decide.
    async fn websocket_frame(&self, event: &WebSocketFrame<'_>) -> Result<Decision, AgentError> {
        let _ = event;
        Ok(Decision::allow())
    }

    /// Looks into a text out of a body and says [what is in
    /// it](Decision::with_guardrail). What becomes of the message then, whether
    /// it is refused, goes on without what was found or goes on as it is, is
    /// decided by the proxy. A decision that says nothing about it means that
    /// something was found unless it is an allow.
    ///
    /// # Errors
    /// When the agent cannot decide.
    async fn guardrail_inspect(
        &self,
        event: &GuardrailInspect<'_>,
    ) -> Result<Decision, AgentError> {
        let _ = event;
        Ok(Decision::allow())
    }

    /// Is told that a request has ended. There is nothing to decide: the
    /// answer is an allow. It may be missing, when the connection was lost, so
    /// nothing may rely on it alone.
    async fn request_complete(&self, event: &RequestComplete<'_>) {
        let _ = event;
    }
}

/// Why an agent cannot decide. Any error converts into it, so `?` works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentError {
    reason: NoDecision,
}

impl AgentError {
    /// An error with this message, which goes to the proxy's log.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            reason: NoDecision::Failed(message.into()),
        }
    }

    /// "Not now": the agent has too much to do to look at the event, and may
    /// say when to ask again; a proxy takes more than an hour for an hour.
    /// A proxy that does not know the extension `overloaded` is told that the
    /// agent failed.
    #[must_use]
    pub fn overloaded(retry_after: Option<Duration>) -> Self {
        Self {
            reason: NoDecision::Overloaded { retry_after },
        }
    }

    /// Why there is no decision.
    #[must_use]
    pub fn reason(&self) -> &NoDecision {
        &self.reason
    }

    pub(super) fn into_reason(self) -> NoDecision {
        self.reason
    }
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

// `AgentError` is not itself an `Error`, or this would overlap with
// `From<T> for T`.
impl<E: std::error::Error> From<E> for AgentError {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}
