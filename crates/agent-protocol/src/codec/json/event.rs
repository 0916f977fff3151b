//! Events in JSON: what all of them have, and which codec each has.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;

use super::{
    body_chunk, find_event_id, guardrail, request_complete, request_headers, response_headers,
    websocket_frame, write,
};
use crate::codec::{BadMessage, DecodedEvent, EventId, whole_microseconds};
use crate::{Event, EventKind, ProtocolError};

/// Appends the payload of an event. The number of the event is given for
/// peers that know `event-id`; it, the time left and trailers are written for
/// them alone.
pub fn encode_event(out: &mut Vec<u8>, event_number: Option<u64>, event: &Event<'_>) {
    match event {
        Event::RequestHeaders(event) => {
            request_headers::encode_request_headers(out, event_number, event);
        }
        Event::RequestBodyChunk(event) => {
            body_chunk::encode(out, event_number, event, body_chunk::RECEIVED);
        }
        Event::ResponseHeaders(event) => response_headers::encode(out, event_number, event),
        Event::ResponseBodyChunk(event) => {
            body_chunk::encode(out, event_number, event, body_chunk::SENT);
        }
        Event::WebSocketFrame(event) => websocket_frame::encode(out, event_number, event),
        Event::GuardrailInspect(event) => guardrail::encode(out, event_number, event),
        Event::RequestComplete(event) => request_complete::encode(out, event_number, event),
    }
}

/// Reads the payload of an event of this kind.
///
/// # Errors
/// What is wrong, with the id of the event when that can be read. Events of
/// kinds that [`Event`] does not have cannot be read.
pub fn decode_event(
    kind: EventKind,
    payload: &[u8],
    by_number: bool,
) -> Result<(EventId, DecodedEvent<'_>), BadMessage> {
    match kind {
        EventKind::RequestHeaders => {
            let (id, event) = request_headers::decode_request_headers(payload, by_number)?;
            Ok((id, DecodedEvent::RequestHeaders(event)))
        }
        EventKind::RequestBodyChunk => {
            let (id, event) = body_chunk::decode(payload, by_number)?;
            Ok((id, DecodedEvent::RequestBodyChunk(event)))
        }
        EventKind::ResponseHeaders => {
            let (id, event) = response_headers::decode(payload, by_number)?;
            Ok((id, DecodedEvent::ResponseHeaders(event)))
        }
        EventKind::ResponseBodyChunk => {
            let (id, event) = body_chunk::decode(payload, by_number)?;
            Ok((id, DecodedEvent::ResponseBodyChunk(event)))
        }
        EventKind::RequestComplete => {
            let (id, event) = request_complete::decode(payload, by_number)?;
            Ok((id, DecodedEvent::RequestComplete(event)))
        }
        EventKind::WebSocketFrame => {
            let (id, event) = websocket_frame::decode(payload, by_number)?;
            Ok((id, DecodedEvent::WebSocketFrame(event)))
        }
        EventKind::GuardrailInspect => {
            let (id, event) = guardrail::decode(payload, by_number)?;
            Ok((id, DecodedEvent::GuardrailInspect(event)))
        }
        EventKind::Configure => Err(bad(payload, by_number, kind.name(), "it is not read here")),
    }
}

/// Appends the brace and the members that every event begins with.
pub(super) fn begin(
    out: &mut Vec<u8>,
    event_number: Option<u64>,
    correlation_id: &str,
    budget_left: Option<Duration>,
) {
    out.extend_from_slice(b"{\"correlation_id\":");
    write::string(out, correlation_id);
    if let Some(number) = event_number {
        out.extend_from_slice(b",\"event_id\":");
        write::number(out, number);
        if let Some(budget_left) = budget_left {
            out.extend_from_slice(b",\"budget_left_us\":");
            write::number(out, whole_microseconds(budget_left));
        }
    }
}

/// Reads the members of an event.
pub(super) fn read<'a, T: Deserialize<'a>>(
    payload: &'a [u8],
    by_number: bool,
    what: &'static str,
) -> Result<T, BadMessage> {
    serde_json::from_slice(payload).map_err(|error| bad(payload, by_number, what, error))
}

/// The id of an event with these members.
pub(super) fn id(
    event_number: Option<u64>,
    correlation_id: &str,
    by_number: bool,
    what: &'static str,
) -> Result<EventId, BadMessage> {
    match (by_number, event_number) {
        (true, Some(number)) => Ok(EventId::Number(number)),
        (true, None) => Err(BadMessage {
            id: None,
            error: ProtocolError::malformed(what, "event_id is missing"),
        }),
        (false, _) => Ok(EventId::Correlation(correlation_id.to_owned())),
    }
}

/// The time left, from a peer that may say it.
pub(super) fn budget_left(microseconds: Option<u64>, by_number: bool) -> Option<Duration> {
    microseconds
        .filter(|_| by_number)
        .map(Duration::from_micros)
}

pub(super) fn bad(
    payload: &[u8],
    by_number: bool,
    what: &'static str,
    detail: impl ToString,
) -> BadMessage {
    BadMessage {
        id: find_event_id(payload, by_number),
        error: ProtocolError::malformed(what, detail),
    }
}

// Serde borrows into a `Cow` only when it is a field by itself, not when it is
// in an `Option`; hence the wrapper.
#[derive(Deserialize, Default)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);
