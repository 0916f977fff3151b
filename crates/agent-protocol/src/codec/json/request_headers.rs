//! The head of a request in JSON.

use std::net::IpAddr;

use serde::Deserialize;

use super::event::{self, Text};
use super::headers::{Headers, encode_headers};
use super::{time, write};
use crate::codec::{BadMessage, DecodedRequestHeaders, EventId};
use crate::{RequestHeaders, RequestMetadata};

const WHAT: &str = "request-headers event";

/// Appends the payload of a request-headers event. The number of the event
/// and the time left are written for peers that know `event-id`.
pub fn encode_request_headers(
    out: &mut Vec<u8>,
    event_number: Option<u64>,
    event: &RequestHeaders<'_>,
) {
    event::begin(
        out,
        event_number,
        event.metadata.correlation_id,
        event.budget_left,
    );
    out.extend_from_slice(b",\"metadata\":");
    encode_metadata(out, &event.metadata);
    out.extend_from_slice(b",\"method\":");
    write::string(out, event.method);
    out.extend_from_slice(b",\"uri\":");
    write::string(out, event.uri);
    out.extend_from_slice(b",\"headers\":");
    encode_headers(out, event.headers);
    out.push(b'}');
}

fn encode_metadata(out: &mut Vec<u8>, metadata: &RequestMetadata<'_>) {
    out.extend_from_slice(b"{\"correlation_id\":");
    write::string(out, metadata.correlation_id);
    out.extend_from_slice(b",\"request_id\":");
    write::string(out, metadata.request_id);
    out.extend_from_slice(b",\"client_ip\":");
    write::address(out, metadata.client_ip);
    out.extend_from_slice(b",\"client_port\":");
    write::number(out, metadata.client_port.into());
    out.extend_from_slice(b",\"server_name\":");
    write::optional_string(out, metadata.server_name);
    out.extend_from_slice(b",\"protocol\":");
    write::string(out, metadata.protocol);
    for (key, value) in [
        (&b",\"tls_version\":"[..], metadata.tls_version),
        (b",\"tls_cipher\":", metadata.tls_cipher),
        (b",\"route_id\":", metadata.route_id),
        (b",\"upstream_id\":", metadata.upstream_id),
    ] {
        out.extend_from_slice(key);
        write::optional_string(out, value);
    }
    out.extend_from_slice(b",\"timestamp\":\"");
    time::write(out, metadata.timestamp);
    out.push(b'"');
    if let Some(traceparent) = metadata.traceparent {
        out.extend_from_slice(b",\"traceparent\":");
        write::string(out, traceparent);
    }
    out.push(b'}');
}

/// Reads the payload of a request-headers event.
///
/// # Errors
/// What is wrong, with the id of the event when that can be read.
pub fn decode_request_headers(
    payload: &[u8],
    by_number: bool,
) -> Result<(EventId, DecodedRequestHeaders<'_>), BadMessage> {
    let wire: WireEvent<'_> = event::read(payload, by_number, WHAT)?;
    let metadata = wire.metadata;
    let correlation_id = wire.correlation_id.unwrap_or(metadata.correlation_id).0;
    let id = event::id(wire.event_id, &correlation_id, by_number, WHAT)?;
    let Some(timestamp) = time::parse(&metadata.timestamp.0) else {
        return Err(event::bad(
            payload,
            by_number,
            WHAT,
            "timestamp is not RFC 3339",
        ));
    };
    let event = DecodedRequestHeaders {
        correlation_id,
        request_id: metadata.request_id.0,
        client_ip: metadata.client_ip,
        client_port: metadata.client_port,
        server_name: metadata.server_name.map(|text| text.0),
        protocol: metadata.protocol.0,
        tls_version: metadata.tls_version.map(|text| text.0),
        tls_cipher: metadata.tls_cipher.map(|text| text.0),
        route_id: metadata.route_id.map(|text| text.0),
        upstream_id: metadata.upstream_id.map(|text| text.0),
        timestamp,
        traceparent: metadata.traceparent.map(|text| text.0),
        method: wire.method.0,
        uri: wire.uri.0,
        headers: wire.headers.0,
        budget_left: event::budget_left(wire.budget_left_us, by_number),
    };
    Ok((id, event))
}

#[derive(Deserialize)]
struct WireEvent<'a> {
    #[serde(borrow, default)]
    correlation_id: Option<Text<'a>>,
    #[serde(default)]
    event_id: Option<u64>,
    #[serde(default)]
    budget_left_us: Option<u64>,
    metadata: WireMetadata<'a>,
    method: Text<'a>,
    uri: Text<'a>,
    headers: Headers,
}

#[derive(Deserialize)]
struct WireMetadata<'a> {
    #[serde(borrow, default)]
    correlation_id: Text<'a>,
    #[serde(default)]
    request_id: Text<'a>,
    client_ip: IpAddr,
    #[serde(default)]
    client_port: u16,
    #[serde(default)]
    server_name: Option<Text<'a>>,
    #[serde(default)]
    protocol: Text<'a>,
    #[serde(default)]
    tls_version: Option<Text<'a>>,
    #[serde(default)]
    tls_cipher: Option<Text<'a>>,
    #[serde(default)]
    route_id: Option<Text<'a>>,
    #[serde(default)]
    upstream_id: Option<Text<'a>>,
    timestamp: Text<'a>,
    #[serde(default)]
    traceparent: Option<Text<'a>>,
}
