//! What becomes of an event: it is decoded, the agent is asked, and what it
//! says or fails with is the answer.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use super::{Agent, AgentError};
use crate::codec::frame::MessageType;
use crate::codec::{Answer, BadMessage, EventId, NoDecision, binary, handshake, json};
use crate::{Decision, Extensions, ProtocolError};

pub(super) fn event_id(payload: &[u8], extensions: Extensions) -> Option<EventId> {
    match extensions.binary {
        true => binary::event_id(payload),
        false => json::find_event_id(payload, extensions.event_id),
    }
}

// A phase that the agent does not have is never allowed without a look.
pub(super) fn unsupported(
    kind: MessageType,
    payload: &[u8],
    extensions: Extensions,
) -> Result<(EventId, Answer), ProtocolError> {
    let id = event_id(payload, extensions);
    let id = id.ok_or_else(|| ProtocolError::malformed("event", "it has no id"))?;
    Ok((id, failure(format!("the agent does not support {kind:?}"))))
}

pub(super) async fn request_headers<A: Agent + ?Sized>(
    agent: Arc<A>,
    payload: Bytes,
    extensions: Extensions,
) -> Result<(EventId, Answer), ProtocolError> {
    let decoded = match extensions.binary {
        true => binary::decode_request_headers(&payload),
        false => json::decode_request_headers(&payload, extensions.event_id),
    };
    let (id, event) = match decoded {
        Ok(decoded) => decoded,
        Err(BadMessage {
            id: Some(id),
            error,
        }) => return Ok((id, failure(error.to_string()))),
        Err(BadMessage { id: None, error }) => return Err(error),
    };
    let view = event.view();
    let answer = guarded(async { agent.request_headers(&view).await }).await;
    Ok((id, answer))
}

pub(super) async fn configure<A: Agent + ?Sized>(
    agent: Arc<A>,
    payload: Bytes,
    extensions: Extensions,
) -> Result<(EventId, Answer), ProtocolError> {
    let message = handshake::decode_configure(&payload)?;
    let id = match (extensions.event_id, message.event_id) {
        (true, Some(number)) => EventId::Number(number),
        (true, None) => return Err(ProtocolError::malformed("configure", "event_id is missing")),
        (false, _) => EventId::Correlation(message.correlation_id.into_owned()),
    };
    let configured = async {
        agent
            .configure(&message.config)
            .await
            .map_err(AgentError::new)?;
        Ok(Decision::allow())
    };
    let answer = guarded(configured).await;
    Ok((id, answer))
}

// A panic of the agent is the failure of one event.
async fn guarded(decide: impl Future<Output = Result<Decision, AgentError>>) -> Answer {
    match AssertUnwindSafe(decide).catch_unwind().await {
        Ok(Ok(decision)) => Ok(decision),
        Ok(Err(error)) => Err(error.into_reason()),
        Err(_) => failure("the agent panicked"),
    }
}

pub(super) fn failure(message: impl Into<String>) -> Answer {
    Err(NoDecision::Failed(message.into()))
}
