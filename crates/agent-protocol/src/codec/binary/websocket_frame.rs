//! A frame of a WebSocket in the binary encoding.

use std::borrow::Cow;

use bytes::Bytes;

use super::event::{self, Sections};
use super::read::{Malformed, Reader};
use super::write;
use crate::codec::DecodedWebSocketFrame;
use crate::{FrameOpcode, WebSocketFrame};

const FRAME: u8 = 2;

const CLIENT_TO_SERVER: u8 = 1;
const FIN: u8 = 2;

pub(super) fn encode(out: &mut Vec<u8>, event_id: u64, event: &WebSocketFrame<'_>) {
    encode_before_data(out, event_id, event);
    out.extend_from_slice(&event.data);
}

/// The same without the bytes of the frame, which are left to the caller and
/// belong at the very end.
pub(super) fn encode_before_data(out: &mut Vec<u8>, event_id: u64, event: &WebSocketFrame<'_>) {
    event::begin(out, event_id, event.correlation_id);
    event::encode_budget(out, event.budget_left);
    write::section_before(out, FRAME, event.data.len(), |out| {
        out.push(event.opcode as u8);
        let direction = if event.client_to_server {
            CLIENT_TO_SERVER
        } else {
            0
        };
        out.push(direction | if event.fin { FIN } else { 0 });
        out.extend_from_slice(&event.index.to_be_bytes());
        write::address(out, event.client_ip);
        write::optional(out, event.route_id);
        write::length(out, event.data.len());
    });
}

pub(super) fn decode<'a>(
    payload: &'a Bytes,
    [request, frame, _, budget]: Sections<'a>,
) -> Result<DecodedWebSocketFrame<'a>, Malformed> {
    let correlation_id = event::decode_request(request)?.into();
    let mut frame = frame.ok_or("the frame is missing")?;
    let opcode = decode_opcode(&mut frame)?;
    let flags = frame.u8()?;
    // The fields are read in the order of the layout.
    Ok(DecodedWebSocketFrame {
        correlation_id,
        opcode,
        client_to_server: flags & CLIENT_TO_SERVER != 0,
        fin: flags & FIN != 0,
        index: frame.u64()?,
        client_ip: frame.address()?,
        route_id: frame.optional()?.map(Cow::Borrowed),
        data: payload.slice_ref(frame.bytes()?),
        budget_left: event::decode_budget(budget)?,
    })
}

fn decode_opcode(reader: &mut Reader<'_>) -> Result<FrameOpcode, Malformed> {
    FrameOpcode::from_number(reader.u8()?).ok_or("the opcode is not known")
}
