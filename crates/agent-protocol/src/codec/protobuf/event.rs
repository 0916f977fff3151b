//! Events in protobuf.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, UNIX_EPOCH};

use super::messages::{
    BodyChunkEvent, FromProxy, ProxyToAgent, RequestCompleteEvent, RequestHeadersEvent,
    RequestMetadata, ResponseHeadersEvent, WebSocketFrameEvent,
};
use super::{guardrail, header_map, headers};
use crate::codec::{
    BadMessage, DecodedBodyChunk, DecodedEvent, DecodedRequestComplete, DecodedRequestHeaders,
    DecodedResponseHeaders, DecodedWebSocketFrame, EventId, whole_microseconds,
};
use crate::{
    BodyChunk, Event, EventKind, FrameOpcode, ProtocolError, RequestComplete, RequestHeaders,
    ResponseHeaders, WebSocketFrame,
};

/// The numbers that kinds of frames have here. That of a continuation is ours.
const FRAME_TYPES: [(FrameOpcode, i32); 6] = [
    (FrameOpcode::Text, 1),
    (FrameOpcode::Binary, 2),
    (FrameOpcode::Ping, 3),
    (FrameOpcode::Pong, 4),
    (FrameOpcode::Close, 5),
    (FrameOpcode::Continuation, 100),
];

/// An event as a message; with its number, and with what else is ours, for
/// peers that know `event-id`.
#[must_use]
pub fn encode_event(event_number: Option<u64>, event: &Event<'_>) -> ProxyToAgent {
    let extended = event_number.is_some();
    let (message, budget_left) = match event {
        Event::RequestHeaders(event) => (
            FromProxy::RequestHeaders(request_headers(event)),
            event.budget_left,
        ),
        Event::RequestBodyChunk(event) => (
            FromProxy::RequestBodyChunk(body_chunk(event, extended)),
            event.budget_left,
        ),
        Event::ResponseHeaders(event) => (
            FromProxy::ResponseHeaders(response_headers(event)),
            event.budget_left,
        ),
        Event::ResponseBodyChunk(event) => (
            FromProxy::ResponseBodyChunk(body_chunk(event, extended)),
            event.budget_left,
        ),
        Event::WebSocketFrame(event) => (
            FromProxy::WebSocketFrame(websocket_frame(event)),
            event.budget_left,
        ),
        Event::GuardrailInspect(event) => (
            FromProxy::Guardrail(guardrail::encode(event)),
            event.budget_left,
        ),
        Event::RequestComplete(event) => (FromProxy::RequestComplete(complete(event)), None),
    };
    ProxyToAgent {
        message: Some(message),
        event_id: event_number,
        budget_left_us: budget_left.filter(|_| extended).map(whole_microseconds),
    }
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

fn request_headers(event: &RequestHeaders<'_>) -> RequestHeadersEvent {
    let metadata = &event.metadata;
    let since_epoch = metadata.timestamp.duration_since(UNIX_EPOCH);
    let milliseconds = since_epoch.unwrap_or_default().as_millis();
    RequestHeadersEvent {
        metadata: Some(RequestMetadata {
            correlation_id: metadata.correlation_id.to_owned(),
            request_id: metadata.request_id.to_owned(),
            client_ip: metadata.client_ip.to_string(),
            client_port: metadata.client_port.into(),
            server_name: owned(metadata.server_name),
            protocol: metadata.protocol.to_owned(),
            tls_version: owned(metadata.tls_version),
            route_id: owned(metadata.route_id),
            upstream_id: owned(metadata.upstream_id),
            timestamp_ms: u64::try_from(milliseconds).unwrap_or(u64::MAX),
            traceparent: owned(metadata.traceparent),
            tls_cipher: owned(metadata.tls_cipher),
        }),
        method: event.method.to_owned(),
        uri: event.uri.to_owned(),
        http_version: metadata.protocol.to_owned(),
        headers: headers(event.headers),
    }
}

fn response_headers(event: &ResponseHeaders<'_>) -> ResponseHeadersEvent {
    ResponseHeadersEvent {
        correlation_id: event.correlation_id.to_owned(),
        status_code: event.status.into(),
        headers: headers(event.headers),
    }
}

fn body_chunk(event: &BodyChunk<'_>, extended: bool) -> BodyChunkEvent {
    let trailers = event.trailers_to_send().filter(|_| extended);
    BodyChunkEvent {
        correlation_id: event.correlation_id.to_owned(),
        chunk_index: event.index,
        data: event.data.clone(),
        is_last: event.is_last,
        total_size: event.total_size,
        bytes_transferred: event.transferred,
        // Published proxies say 0 here too.
        proxy_buffer_available: 0,
        timestamp_ms: 0,
        truncated: event.truncated,
        trailers: trailers.map(headers).unwrap_or_default(),
    }
}

fn websocket_frame(event: &WebSocketFrame<'_>) -> WebSocketFrameEvent {
    let number = FRAME_TYPES.iter().find(|(it, _)| *it == event.opcode);
    WebSocketFrameEvent {
        correlation_id: event.correlation_id.to_owned(),
        client_to_server: event.client_to_server,
        frame_type: number.map_or(0, |(_, number)| *number),
        payload: event.data.clone(),
        fin: Some(event.fin),
        frame_index: event.index,
        route_id: owned(event.route_id),
        client_ip: Some(event.client_ip.to_string()),
    }
}

fn complete(event: &RequestComplete<'_>) -> RequestCompleteEvent {
    RequestCompleteEvent {
        correlation_id: event.correlation_id.to_owned(),
        status_code: event.status.into(),
        duration_ms: u64::try_from(event.duration.as_millis()).unwrap_or(u64::MAX),
        bytes_received: event.request_body_size,
        bytes_sent: event.response_body_size,
        upstream: None,
        from_cache: false,
        error: owned(event.error),
        upstream_attempts: event.upstream_attempts,
    }
}

/// The kind of the event that a message is; `None` when it is none.
#[must_use]
pub fn kind(message: &ProxyToAgent) -> Option<EventKind> {
    match message.message.as_ref()? {
        FromProxy::RequestHeaders(_) => Some(EventKind::RequestHeaders),
        FromProxy::RequestBodyChunk(_) => Some(EventKind::RequestBodyChunk),
        FromProxy::ResponseHeaders(_) => Some(EventKind::ResponseHeaders),
        FromProxy::ResponseBodyChunk(_) => Some(EventKind::ResponseBodyChunk),
        FromProxy::WebSocketFrame(_) => Some(EventKind::WebSocketFrame),
        FromProxy::RequestComplete(_) => Some(EventKind::RequestComplete),
        FromProxy::Guardrail(_) => Some(EventKind::GuardrailInspect),
        FromProxy::Configure(_) => Some(EventKind::Configure),
        FromProxy::Handshake(_) | FromProxy::Cancel(_) | FromProxy::Ping(_) => None,
    }
}

/// The id of an event: its number with peers that know `event-id`, else the
/// correlation id.
#[must_use]
pub fn event_id(message: &ProxyToAgent, by_number: bool) -> Option<EventId> {
    if by_number {
        return message.event_id.map(EventId::Number);
    }
    let id = match message.message.as_ref()? {
        FromProxy::RequestHeaders(event) => &event.metadata.as_ref()?.correlation_id,
        FromProxy::RequestBodyChunk(event) | FromProxy::ResponseBodyChunk(event) => {
            &event.correlation_id
        }
        FromProxy::ResponseHeaders(event) => &event.correlation_id,
        FromProxy::WebSocketFrame(event) => &event.correlation_id,
        FromProxy::RequestComplete(event) => &event.correlation_id,
        FromProxy::Guardrail(event) => &event.correlation_id,
        FromProxy::Cancel(event) => &event.correlation_id,
        FromProxy::Handshake(_) | FromProxy::Configure(_) | FromProxy::Ping(_) => return None,
    };
    Some(EventId::Correlation(id.clone()))
}

/// Reads the event that a message is.
///
/// # Errors
/// What is wrong, with the id of the event when there is one. Kinds that
/// [`Event`] does not have cannot be read.
pub fn decode_event(
    message: &ProxyToAgent,
    by_number: bool,
) -> Result<(EventId, DecodedEvent<'_>), BadMessage> {
    let what = kind(message).map_or("message", EventKind::name);
    let id = event_id(message, by_number);
    let bad = |id, detail: String| BadMessage {
        id,
        error: ProtocolError::malformed(what, detail),
    };
    let Some(id) = id else {
        return Err(bad(None, "it has no id".to_owned()));
    };
    match read(message, by_number) {
        Ok(event) => Ok((id, event)),
        Err(detail) => Err(bad(Some(id), detail)),
    }
}

fn read(message: &ProxyToAgent, by_number: bool) -> Result<DecodedEvent<'_>, String> {
    let budget_left = message.budget_left_us.filter(|_| by_number);
    let budget_left = budget_left.map(Duration::from_micros);
    match &message.message {
        Some(FromProxy::RequestHeaders(event)) => {
            read_request(event, budget_left).map(DecodedEvent::RequestHeaders)
        }
        Some(FromProxy::RequestBodyChunk(event)) => {
            read_chunk(event, budget_left, by_number).map(DecodedEvent::RequestBodyChunk)
        }
        Some(FromProxy::ResponseHeaders(event)) => {
            let decoded = DecodedResponseHeaders {
                correlation_id: text(&event.correlation_id),
                status: status(event.status_code)?,
                headers: header_map(&event.headers)?,
                budget_left,
            };
            Ok(DecodedEvent::ResponseHeaders(decoded))
        }
        Some(FromProxy::ResponseBodyChunk(event)) => {
            read_chunk(event, budget_left, by_number).map(DecodedEvent::ResponseBodyChunk)
        }
        Some(FromProxy::WebSocketFrame(event)) => {
            read_frame(event, budget_left).map(DecodedEvent::WebSocketFrame)
        }
        Some(FromProxy::RequestComplete(event)) => {
            let decoded = DecodedRequestComplete {
                correlation_id: text(&event.correlation_id),
                status: status(event.status_code)?,
                duration: Duration::from_millis(event.duration_ms),
                request_body_size: event.bytes_received,
                response_body_size: event.bytes_sent,
                upstream_attempts: event.upstream_attempts,
                error: event.error.as_deref().map(Cow::Borrowed),
            };
            Ok(DecodedEvent::RequestComplete(decoded))
        }
        Some(FromProxy::Guardrail(event)) => {
            guardrail::decode(event, budget_left).map(DecodedEvent::GuardrailInspect)
        }
        _ => Err("it is not read here".to_owned()),
    }
}

fn text(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

fn status(number: u32) -> Result<u16, String> {
    u16::try_from(number).map_err(|_| format!("{number} is not a status"))
}

// Published proxies may leave an address out.
fn address(text: &str) -> Result<IpAddr, String> {
    match text {
        "" => Ok(Ipv4Addr::UNSPECIFIED.into()),
        text => text
            .parse()
            .map_err(|_| format!("{text:?} is not an address")),
    }
}

fn read_request(
    event: &RequestHeadersEvent,
    budget_left: Option<Duration>,
) -> Result<DecodedRequestHeaders<'_>, String> {
    let metadata = event.metadata.as_ref().ok_or("it has no metadata")?;
    Ok(DecodedRequestHeaders {
        correlation_id: text(&metadata.correlation_id),
        request_id: text(&metadata.request_id),
        client_ip: address(&metadata.client_ip)?,
        client_port: u16::try_from(metadata.client_port).map_err(|_| "the port is out of range")?,
        server_name: metadata.server_name.as_deref().map(Cow::Borrowed),
        protocol: text(match &*metadata.protocol {
            "" => &event.http_version,
            protocol => protocol,
        }),
        tls_version: metadata.tls_version.as_deref().map(Cow::Borrowed),
        tls_cipher: metadata.tls_cipher.as_deref().map(Cow::Borrowed),
        route_id: metadata.route_id.as_deref().map(Cow::Borrowed),
        upstream_id: metadata.upstream_id.as_deref().map(Cow::Borrowed),
        timestamp: UNIX_EPOCH
            .checked_add(Duration::from_millis(metadata.timestamp_ms))
            .ok_or("the timestamp is out of range")?,
        traceparent: metadata.traceparent.as_deref().map(Cow::Borrowed),
        method: text(&event.method),
        uri: text(&event.uri),
        headers: header_map(&event.headers)?,
        budget_left,
    })
}

fn read_chunk(
    event: &BodyChunkEvent,
    budget_left: Option<Duration>,
    by_number: bool,
) -> Result<DecodedBodyChunk<'_>, String> {
    let trailers = header_map(&event.trailers)?;
    let decoded = DecodedBodyChunk {
        correlation_id: text(&event.correlation_id),
        index: event.chunk_index,
        data: event.data.clone(),
        is_last: event.is_last,
        total_size: event.total_size,
        transferred: event.bytes_transferred,
        truncated: event.truncated,
        trailers: None,
        budget_left,
    };
    Ok(decoded.with_trailers(by_number.then_some(trailers)))
}

fn read_frame(
    event: &WebSocketFrameEvent,
    budget_left: Option<Duration>,
) -> Result<DecodedWebSocketFrame<'_>, String> {
    let number = event.frame_type;
    let opcode = FRAME_TYPES.iter().find(|(_, it)| *it == number);
    let (opcode, _) = opcode.ok_or_else(|| format!("{number} is not a type of frames"))?;
    Ok(DecodedWebSocketFrame {
        correlation_id: text(&event.correlation_id),
        opcode: *opcode,
        data: event.payload.clone(),
        client_to_server: event.client_to_server,
        index: event.frame_index,
        // Published proxies send whole messages.
        fin: event.fin.unwrap_or(true),
        route_id: event.route_id.as_deref().map(Cow::Borrowed),
        client_ip: address(event.client_ip.as_deref().unwrap_or_default())?,
        budget_left,
    })
}
