//! The end of a request in JSON.

use std::time::Duration;

use serde::Deserialize;

use super::event::{self, Text};
use super::write;
use crate::RequestComplete;
use crate::codec::{BadMessage, DecodedRequestComplete, EventId};

const WHAT: &str = "request-complete event";

pub(super) fn encode(out: &mut Vec<u8>, event_number: Option<u64>, event: &RequestComplete<'_>) {
    event::begin(out, event_number, event.correlation_id, None);
    let duration_ms = u64::try_from(event.duration.as_millis()).unwrap_or(u64::MAX);
    for (key, value) in [
        (&b",\"status\":"[..], event.status.into()),
        (b",\"duration_ms\":", duration_ms),
        (b",\"request_body_size\":", event.request_body_size),
        (b",\"response_body_size\":", event.response_body_size),
        (b",\"upstream_attempts\":", event.upstream_attempts.into()),
    ] {
        out.extend_from_slice(key);
        write::number(out, value);
    }
    out.extend_from_slice(b",\"error\":");
    write::optional_string(out, event.error);
    out.push(b'}');
}

pub(super) fn decode(
    payload: &[u8],
    by_number: bool,
) -> Result<(EventId, DecodedRequestComplete<'_>), BadMessage> {
    let wire: WireComplete<'_> = event::read(payload, by_number, WHAT)?;
    let correlation_id = wire.correlation_id.0;
    let id = event::id(wire.event_id, &correlation_id, by_number, WHAT)?;
    let event = DecodedRequestComplete {
        correlation_id,
        status: wire.status,
        duration: Duration::from_millis(wire.duration_ms),
        request_body_size: wire.request_body_size,
        response_body_size: wire.response_body_size,
        upstream_attempts: wire.upstream_attempts,
        error: wire.error.map(|text| text.0),
    };
    Ok((id, event))
}

#[derive(Deserialize)]
struct WireComplete<'a> {
    #[serde(borrow)]
    correlation_id: Text<'a>,
    #[serde(default)]
    event_id: Option<u64>,
    status: u16,
    #[serde(default)]
    duration_ms: u64,
    #[serde(default)]
    request_body_size: u64,
    #[serde(default)]
    response_body_size: u64,
    #[serde(default)]
    upstream_attempts: u32,
    #[serde(default)]
    error: Option<Text<'a>>,
}
