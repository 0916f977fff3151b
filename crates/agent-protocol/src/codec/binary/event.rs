//! Events in the binary encoding: what all of them have, and which codec each
//! has.

use std::time::Duration;

use bytes::Bytes;

use super::read::{Malformed, Reader};
use super::{
    body_chunk, guardrail, request_complete, request_headers, response_headers, websocket_frame,
    write,
};
use crate::codec::{BadMessage, DecodedEvent, EventId, whole_microseconds};
use crate::{Event, EventKind, ProtocolError};

/// The section of every event that begins with the correlation id.
pub(super) const REQUEST: u8 = 1;
/// The section with header fields or trailer fields.
pub(super) const HEADERS: u8 = 3;
/// The section with the time left.
const BUDGET: u8 = 4;

/// The sections of an event: the request, what is told about it, its headers,
/// and the time left.
pub(super) type Sections<'a> = [Option<Reader<'a>>; 4];

/// Appends the payload of an event.
pub fn encode_event(out: &mut Vec<u8>, event_id: u64, event: &Event<'_>) {
    match event {
        Event::RequestHeaders(event) => {
            request_headers::encode_request_headers(out, event_id, event);
        }
        Event::RequestBodyChunk(event) | Event::ResponseBodyChunk(event) => {
            body_chunk::encode(out, event_id, event);
        }
        Event::ResponseHeaders(event) => response_headers::encode(out, event_id, event),
        Event::WebSocketFrame(event) => websocket_frame::encode(out, event_id, event),
        Event::GuardrailInspect(event) => guardrail::encode(out, event_id, event),
        Event::RequestComplete(event) => request_complete::encode(out, event_id, event),
    }
}

/// The same, but for the bytes of a large frame or piece of a body: they are
/// returned and belong behind everything else.
pub(crate) fn encode_event_head(
    out: &mut Vec<u8>,
    event_id: u64,
    event: &Event<'_>,
) -> Option<Bytes> {
    /// Smaller pieces are copied sooner than they are handled by themselves.
    const LARGE_BYTES: usize = 8 << 10;
    match event {
        Event::RequestBodyChunk(chunk) | Event::ResponseBodyChunk(chunk)
            if chunk.data.len() >= LARGE_BYTES =>
        {
            body_chunk::encode_before_data(out, event_id, chunk);
            Some(chunk.data.clone())
        }
        Event::WebSocketFrame(frame) if frame.data.len() >= LARGE_BYTES => {
            websocket_frame::encode_before_data(out, event_id, frame);
            Some(frame.data.clone())
        }
        event => {
            encode_event(out, event_id, event);
            None
        }
    }
}

/// Reads the payload of an event of this kind. Header values and the bytes of
/// bodies share the memory of the payload.
///
/// # Errors
/// What is wrong, with the id of the event when that can be read. Events of
/// kinds that [`Event`] does not have cannot be read.
pub fn decode_event(
    kind: EventKind,
    payload: &Bytes,
) -> Result<(EventId, DecodedEvent<'_>), BadMessage> {
    match kind {
        EventKind::RequestHeaders => {
            let (id, event) = request_headers::decode_request_headers(payload)?;
            Ok((id, DecodedEvent::RequestHeaders(event)))
        }
        EventKind::RequestBodyChunk => {
            let (id, event) = read(payload, "body-chunk event", body_chunk::decode)?;
            Ok((id, DecodedEvent::RequestBodyChunk(event)))
        }
        EventKind::ResponseHeaders => {
            let (id, event) = read(payload, "response-headers event", response_headers::decode)?;
            Ok((id, DecodedEvent::ResponseHeaders(event)))
        }
        EventKind::ResponseBodyChunk => {
            let (id, event) = read(payload, "body-chunk event", body_chunk::decode)?;
            Ok((id, DecodedEvent::ResponseBodyChunk(event)))
        }
        EventKind::RequestComplete => {
            let (id, event) = read(payload, "request-complete event", request_complete::decode)?;
            Ok((id, DecodedEvent::RequestComplete(event)))
        }
        EventKind::WebSocketFrame => {
            let (id, event) = read(payload, "websocket-frame event", websocket_frame::decode)?;
            Ok((id, DecodedEvent::WebSocketFrame(event)))
        }
        EventKind::GuardrailInspect => {
            let (id, event) = read(payload, "guardrail-inspect event", guardrail::decode)?;
            Ok((id, DecodedEvent::GuardrailInspect(event)))
        }
        EventKind::Configure => Err(bad(payload, kind.name(), "it is not read here")),
    }
}

/// Appends the number of an event and its first section.
pub(super) fn begin(out: &mut Vec<u8>, event_id: u64, correlation_id: &str) {
    out.extend_from_slice(&event_id.to_be_bytes());
    write::section(out, REQUEST, |out| write::string(out, correlation_id));
}

/// Appends the section with the time left when it is known.
pub(super) fn encode_budget(out: &mut Vec<u8>, budget_left: Option<Duration>) {
    if let Some(budget_left) = budget_left {
        write::section(out, BUDGET, |out| {
            out.extend_from_slice(&whole_microseconds(budget_left).to_be_bytes());
        });
    }
}

pub(super) fn decode_budget(section: Option<Reader<'_>>) -> Result<Option<Duration>, Malformed> {
    match section {
        Some(mut budget) => budget.u64().map(Duration::from_micros).map(Some),
        None => Ok(None),
    }
}

/// Reads the correlation id that the first section begins with.
pub(super) fn decode_request(section: Option<Reader<'_>>) -> Result<&str, Malformed> {
    section.ok_or("the request is missing")?.string()
}

/// Reads the number and the sections of an event, and with `decode` what is in
/// them.
pub(super) fn read<'a, T>(
    payload: &'a Bytes,
    what: &'static str,
    decode: impl FnOnce(&'a Bytes, Sections<'a>) -> Result<T, Malformed>,
) -> Result<(EventId, T), BadMessage> {
    let id = super::event_id(payload).ok_or_else(|| bad(payload, what, "it ends too early"))?;
    let mut reader = Reader::new(payload);
    let sections = reader.u64().and_then(|_| reader.sections());
    let decoded = sections.and_then(|sections| decode(payload, sections));
    let event = decoded.map_err(|detail| bad(payload, what, detail))?;
    Ok((id, event))
}

fn bad(payload: &[u8], what: &'static str, detail: Malformed) -> BadMessage {
    BadMessage {
        id: super::event_id(payload),
        error: ProtocolError::malformed(what, detail),
    }
}
