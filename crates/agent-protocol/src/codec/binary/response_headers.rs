//! The head of a response in the binary encoding.

use bytes::Bytes;

use super::event::{self, HEADERS, Sections};
use super::read::Malformed;
use super::write;
use crate::ResponseHeaders;
use crate::codec::DecodedResponseHeaders;

const STATUS: u8 = 2;

pub(super) fn encode(out: &mut Vec<u8>, event_id: u64, event: &ResponseHeaders<'_>) {
    event::begin(out, event_id, event.correlation_id);
    write::section(out, STATUS, |out| {
        out.extend_from_slice(&event.status.to_be_bytes());
    });
    write::section(out, HEADERS, |out| write::headers(out, event.headers));
    event::encode_budget(out, event.budget_left);
}

pub(super) fn decode<'a>(
    payload: &'a Bytes,
    [request, status, headers, budget]: Sections<'a>,
) -> Result<DecodedResponseHeaders<'a>, Malformed> {
    Ok(DecodedResponseHeaders {
        correlation_id: event::decode_request(request)?.into(),
        status: status.ok_or("the status is missing")?.u16()?,
        headers: headers.ok_or("the headers are missing")?.headers(payload)?,
        budget_left: event::decode_budget(budget)?,
    })
}
