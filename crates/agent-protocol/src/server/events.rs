//! What becomes of an event: it is decoded, the agent is asked, and what it
//! says or fails with is the answer.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use super::wire::Payload;
use super::{Agent, AgentError};
use crate::codec::{Answer, BadMessage, EventId, NoDecision, binary, handshake, json, protobuf};
use crate::{Decision, Event, EventKind, Extensions, ProtocolError};

/// What an event ends with.
pub(super) struct Answered {
    pub(super) id: EventId,
    /// Which piece of a body it was about; 0 when it was about something else.
    pub(super) chunk_index: u32,
    pub(super) is_configuration: bool,
    pub(super) answer: Answer,
}

impl Answered {
    fn new(id: EventId, answer: Answer) -> Self {
        Self {
            id,
            chunk_index: 0,
            is_configuration: false,
            answer,
        }
    }
}

/// An event whose id cannot be read has no answer, and ends the session.
pub(super) type Done = Result<Answered, ProtocolError>;

pub(super) fn event_id(
    kind: EventKind,
    payload: &Payload,
    extensions: Extensions,
) -> Option<EventId> {
    let payload = match payload {
        Payload::Encoded(payload) => payload,
        Payload::Message(message, _) => return protobuf::event_id(message, extensions.event_id),
    };
    let is_json = match kind {
        EventKind::RequestHeaders
        | EventKind::RequestBodyChunk
        | EventKind::ResponseHeaders
        | EventKind::ResponseBodyChunk
        | EventKind::WebSocketFrame
        | EventKind::GuardrailInspect
        | EventKind::RequestComplete => !extensions.binary,
        EventKind::Configure => true,
    };
    match is_json {
        true => json::find_event_id(payload, extensions.event_id),
        false => binary::event_id(payload),
    }
}

// A phase that the agent does not have is never allowed without a look.
pub(super) fn unsupported(kind: EventKind, payload: &Payload, extensions: Extensions) -> Done {
    let id = event_id(kind, payload, extensions);
    let id = id.ok_or_else(|| ProtocolError::malformed("event", "it has no id"))?;
    let answer = failure(format!("the agent does not support {kind:?}"));
    Ok(Answered::new(id, answer))
}

/// An event of one of the kinds that the agent has announced.
pub(super) async fn event<A: Agent + ?Sized>(
    agent: Arc<A>,
    kind: EventKind,
    payload: Payload,
    extensions: Extensions,
) -> Done {
    let decoded = match &payload {
        Payload::Message(message, _) => protobuf::decode_event(message, extensions.event_id),
        Payload::Encoded(payload) if extensions.binary => binary::decode_event(kind, payload),
        Payload::Encoded(payload) => json::decode_event(kind, payload, extensions.event_id),
    };
    let (id, event) = match decoded {
        Ok(decoded) => decoded,
        Err(BadMessage {
            id: Some(id),
            error,
        }) => return Ok(Answered::new(id, failure(error.to_string()))),
        Err(BadMessage { id: None, error }) => return Err(error),
    };
    let view = event.view();
    let answer = guarded(decide(&*agent, &view)).await;
    Ok(Answered {
        id,
        chunk_index: match view {
            Event::RequestBodyChunk(chunk) | Event::ResponseBodyChunk(chunk) => chunk.index,
            Event::RequestHeaders(_)
            | Event::ResponseHeaders(_)
            | Event::WebSocketFrame(_)
            | Event::GuardrailInspect(_)
            | Event::RequestComplete(_) => 0,
        },
        is_configuration: false,
        answer,
    })
}

async fn decide<A: Agent + ?Sized>(agent: &A, event: &Event<'_>) -> Result<Decision, AgentError> {
    match event {
        Event::RequestHeaders(event) => agent.request_headers(event).await,
        Event::RequestBodyChunk(event) => agent.request_body_chunk(event).await,
        Event::ResponseHeaders(event) => agent.response_headers(event).await,
        Event::ResponseBodyChunk(event) => agent.response_body_chunk(event).await,
        Event::WebSocketFrame(event) => agent.websocket_frame(event).await,
        Event::GuardrailInspect(event) => agent.guardrail_inspect(event).await,
        Event::RequestComplete(event) => {
            agent.request_complete(event).await;
            Ok(Decision::allow())
        }
    }
}

pub(super) async fn configure<A: Agent + ?Sized>(
    agent: Arc<A>,
    payload: Payload,
    extensions: Extensions,
) -> Done {
    let message = handshake::decode_configure(payload.json())?;
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
    Ok(Answered {
        is_configuration: true,
        ..Answered::new(id, answer)
    })
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
