//! A frame of a WebSocket in JSON.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, de};

use super::base64::{self, Base64};
use super::event::{self, Text};
use super::write;
use crate::codec::{BadMessage, DecodedWebSocketFrame, EventId};
use crate::{FrameOpcode, WebSocketFrame};

const WHAT: &str = "websocket-frame event";

pub(super) fn encode(out: &mut Vec<u8>, event_number: Option<u64>, event: &WebSocketFrame<'_>) {
    event::begin(out, event_number, event.correlation_id, event.budget_left);
    out.extend_from_slice(b",\"opcode\":");
    write::string(out, event.opcode.name());
    out.extend_from_slice(b",\"data\":");
    base64::write(out, &event.data);
    out.extend_from_slice(b",\"client_to_server\":");
    write::boolean(out, event.client_to_server);
    out.extend_from_slice(b",\"frame_index\":");
    write::number(out, event.index);
    out.extend_from_slice(b",\"fin\":");
    write::boolean(out, event.fin);
    out.extend_from_slice(b",\"route_id\":");
    write::optional_string(out, event.route_id);
    out.extend_from_slice(b",\"client_ip\":");
    write::address(out, event.client_ip);
    out.push(b'}');
}

pub(super) fn decode(
    payload: &[u8],
    by_number: bool,
) -> Result<(EventId, DecodedWebSocketFrame<'_>), BadMessage> {
    let wire: WireFrame<'_> = event::read(payload, by_number, WHAT)?;
    let correlation_id = wire.correlation_id.0;
    let id = event::id(wire.event_id, &correlation_id, by_number, WHAT)?;
    let event = DecodedWebSocketFrame {
        correlation_id,
        opcode: wire.opcode,
        data: wire.data.0,
        client_to_server: wire.client_to_server,
        index: wire.frame_index,
        fin: wire.fin,
        route_id: wire.route_id.map(|text| text.0),
        client_ip: wire.client_ip,
        budget_left: event::budget_left(wire.budget_left_us, by_number),
    };
    Ok((id, event))
}

#[derive(Deserialize)]
struct WireFrame<'a> {
    #[serde(borrow)]
    correlation_id: Text<'a>,
    #[serde(default)]
    event_id: Option<u64>,
    #[serde(default)]
    budget_left_us: Option<u64>,
    #[serde(deserialize_with = "opcode")]
    opcode: FrameOpcode,
    data: Base64,
    client_to_server: bool,
    #[serde(default)]
    frame_index: u64,
    fin: bool,
    #[serde(default)]
    route_id: Option<Text<'a>>,
    client_ip: IpAddr,
}

fn opcode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FrameOpcode, D::Error> {
    let name = Text::deserialize(deserializer)?.0;
    FrameOpcode::from_name(&name).ok_or_else(|| de::Error::custom("the opcode is not known"))
}
