//! A piece of a body in JSON.

use serde::Deserialize;

use super::base64::{self, Base64};
use super::event::{self, Text};
use super::headers::{Headers, encode_headers};
use super::write;
use crate::BodyChunk;
use crate::codec::{BadMessage, DecodedBodyChunk, EventId};

/// What the count of bytes is called in the body of a request.
pub(super) const RECEIVED: &[u8] = b",\"bytes_received\":";
/// What the count of bytes is called in the body of a response.
pub(super) const SENT: &[u8] = b",\"bytes_sent\":";

const WHAT: &str = "body-chunk event";

pub(super) fn encode(
    out: &mut Vec<u8>,
    event_number: Option<u64>,
    event: &BodyChunk<'_>,
    transferred: &[u8],
) {
    event::begin(out, event_number, event.correlation_id, event.budget_left);
    out.extend_from_slice(b",\"data\":");
    base64::write(out, &event.data);
    out.extend_from_slice(b",\"is_last\":");
    write::boolean(out, event.is_last);
    out.extend_from_slice(b",\"total_size\":");
    match event.total_size {
        Some(bytes) => write::number(out, bytes),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"chunk_index\":");
    write::number(out, event.index.into());
    out.extend_from_slice(transferred);
    write::number(out, event.transferred);
    if event.truncated {
        out.extend_from_slice(b",\"truncated\":true");
    }
    if let (Some(_), Some(trailers)) = (event_number, event.trailers_to_send()) {
        out.extend_from_slice(b",\"trailers\":");
        encode_headers(out, trailers);
    }
    out.push(b'}');
}

pub(super) fn decode(
    payload: &[u8],
    by_number: bool,
) -> Result<(EventId, DecodedBodyChunk<'_>), BadMessage> {
    let wire: WireChunk<'_> = event::read(payload, by_number, WHAT)?;
    let correlation_id = wire.correlation_id.0;
    let id = event::id(wire.event_id, &correlation_id, by_number, WHAT)?;
    let event = DecodedBodyChunk {
        correlation_id,
        index: wire.chunk_index,
        data: wire.data.0,
        is_last: wire.is_last,
        total_size: wire.total_size,
        transferred: wire.transferred,
        truncated: wire.truncated,
        trailers: None,
        budget_left: event::budget_left(wire.budget_left_us, by_number),
    };
    let trailers = wire.trailers.filter(|_| by_number);
    Ok((id, event.with_trailers(trailers.map(|fields| fields.0))))
}

#[derive(Deserialize)]
struct WireChunk<'a> {
    #[serde(borrow)]
    correlation_id: Text<'a>,
    #[serde(default)]
    event_id: Option<u64>,
    #[serde(default)]
    budget_left_us: Option<u64>,
    data: Base64,
    is_last: bool,
    #[serde(default)]
    total_size: Option<u64>,
    #[serde(default)]
    chunk_index: u32,
    // A chunk has the one or the other.
    #[serde(default, rename = "bytes_received", alias = "bytes_sent")]
    transferred: u64,
    #[serde(default)]
    truncated: bool,
    #[serde(default)]
    trailers: Option<Headers>,
}
