//! The head of a response in JSON.

use serde::Deserialize;

use super::event::{self, Text};
use super::headers::{Headers, encode_headers};
use super::write;
use crate::ResponseHeaders;
use crate::codec::{BadMessage, DecodedResponseHeaders, EventId};

const WHAT: &str = "response-headers event";

pub(super) fn encode(out: &mut Vec<u8>, event_number: Option<u64>, event: &ResponseHeaders<'_>) {
    event::begin(out, event_number, event.correlation_id, event.budget_left);
    out.extend_from_slice(b",\"status\":");
    write::number(out, event.status.into());
    out.extend_from_slice(b",\"headers\":");
    encode_headers(out, event.headers);
    out.push(b'}');
}

pub(super) fn decode(
    payload: &[u8],
    by_number: bool,
) -> Result<(EventId, DecodedResponseHeaders<'_>), BadMessage> {
    let wire: WireResponse<'_> = event::read(payload, by_number, WHAT)?;
    let correlation_id = wire.correlation_id.0;
    let id = event::id(wire.event_id, &correlation_id, by_number, WHAT)?;
    let event = DecodedResponseHeaders {
        correlation_id,
        status: wire.status,
        headers: wire.headers.0,
        budget_left: event::budget_left(wire.budget_left_us, by_number),
    };
    Ok((id, event))
}

#[derive(Deserialize)]
struct WireResponse<'a> {
    #[serde(borrow)]
    correlation_id: Text<'a>,
    #[serde(default)]
    event_id: Option<u64>,
    #[serde(default)]
    budget_left_us: Option<u64>,
    status: u16,
    headers: Headers,
}
