//! A piece of a body in the binary encoding.

use bytes::Bytes;

use super::event::{self, HEADERS, Sections};
use super::read::Malformed;
use super::write;
use crate::BodyChunk;
use crate::codec::DecodedBodyChunk;

const PIECE: u8 = 2;

const IS_LAST: u8 = 1;
const TRUNCATED: u8 = 2;

pub(super) fn encode(out: &mut Vec<u8>, event_id: u64, event: &BodyChunk<'_>) {
    event::begin(out, event_id, event.correlation_id);
    write::section(out, PIECE, |out| {
        describe(out, event);
        write::bytes(out, &event.data);
    });
    encode_rest(out, event);
}

/// The same with the bytes of the body at the very end, where they are left to
/// the caller. Their section is the last one; readers take any order.
pub(crate) fn encode_before_data(out: &mut Vec<u8>, event_id: u64, event: &BodyChunk<'_>) {
    event::begin(out, event_id, event.correlation_id);
    encode_rest(out, event);
    write::section_before(out, PIECE, event.data.len(), |out| {
        describe(out, event);
        write::length(out, event.data.len());
    });
}

fn describe(out: &mut Vec<u8>, event: &BodyChunk<'_>) {
    out.extend_from_slice(&event.index.to_be_bytes());
    let is_last = if event.is_last { IS_LAST } else { 0 };
    let truncated = if event.truncated { TRUNCATED } else { 0 };
    out.push(is_last | truncated);
    out.extend_from_slice(&event.transferred.to_be_bytes());
    write::present_u64(out, event.total_size);
}

fn encode_rest(out: &mut Vec<u8>, event: &BodyChunk<'_>) {
    if let Some(trailers) = event.trailers_to_send() {
        write::section(out, HEADERS, |out| write::headers(out, trailers));
    }
    event::encode_budget(out, event.budget_left);
}

pub(super) fn decode<'a>(
    payload: &'a Bytes,
    [request, piece, trailers, budget]: Sections<'a>,
) -> Result<DecodedBodyChunk<'a>, Malformed> {
    let correlation_id = event::decode_request(request)?.into();
    let mut piece = piece.ok_or("the piece is missing")?;
    let index = piece.u32()?;
    let flags = piece.u8()?;
    let event = DecodedBodyChunk {
        correlation_id,
        index,
        is_last: flags & IS_LAST != 0,
        truncated: flags & TRUNCATED != 0,
        transferred: piece.u64()?,
        total_size: piece.present_u64()?,
        data: payload.slice_ref(piece.bytes()?),
        trailers: None,
        budget_left: event::decode_budget(budget)?,
    };
    let trailers = trailers.map(|mut fields| fields.headers(payload));
    Ok(event.with_trailers(trailers.transpose()?))
}
