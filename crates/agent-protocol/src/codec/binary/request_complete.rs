//! The end of a request in the binary encoding.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use super::event::{self, Sections};
use super::read::Malformed;
use super::write;
use crate::RequestComplete;
use crate::codec::{DecodedRequestComplete, whole_microseconds};

const OUTCOME: u8 = 2;

pub(super) fn encode(out: &mut Vec<u8>, event_id: u64, event: &RequestComplete<'_>) {
    event::begin(out, event_id, event.correlation_id);
    write::section(out, OUTCOME, |out| {
        out.extend_from_slice(&event.status.to_be_bytes());
        out.extend_from_slice(&whole_microseconds(event.duration).to_be_bytes());
        out.extend_from_slice(&event.request_body_size.to_be_bytes());
        out.extend_from_slice(&event.response_body_size.to_be_bytes());
        out.extend_from_slice(&event.upstream_attempts.to_be_bytes());
        write::optional(out, event.error);
    });
}

pub(super) fn decode<'a>(
    _payload: &'a Bytes,
    [request, outcome, ..]: Sections<'a>,
) -> Result<DecodedRequestComplete<'a>, Malformed> {
    let correlation_id = event::decode_request(request)?.into();
    let mut outcome = outcome.ok_or("the outcome is missing")?;
    // The fields are read in the order of the layout.
    Ok(DecodedRequestComplete {
        correlation_id,
        status: outcome.u16()?,
        duration: Duration::from_micros(outcome.u64()?),
        request_body_size: outcome.u64()?,
        response_body_size: outcome.u64()?,
        upstream_attempts: outcome.u32()?,
        error: outcome.optional()?.map(Cow::Borrowed),
    })
}
