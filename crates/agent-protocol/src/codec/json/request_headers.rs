//! Events in JSON.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::{find_event_id, time, write};
use crate::codec::{BadMessage, DecodedRequestHeaders, EventId};
use crate::{ProtocolError, RequestHeaders, RequestMetadata};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

/// Appends the payload of a request-headers event. The number of the event
/// and the time left are written for peers that know `event-id`.
pub fn encode_request_headers(
    out: &mut Vec<u8>,
    event_number: Option<u64>,
    event: &RequestHeaders<'_>,
) {
    out.extend_from_slice(b"{\"correlation_id\":");
    write::string(out, event.metadata.correlation_id);
    if let Some(number) = event_number {
        out.extend_from_slice(b",\"event_id\":");
        write::number(out, number);
        if let Some(budget_left) = event.budget_left {
            out.extend_from_slice(b",\"budget_left_us\":");
            let microseconds = u64::try_from(budget_left.as_micros());
            write::number(out, microseconds.unwrap_or(u64::MAX));
        }
    }
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

// The map yields the values of one name one after the other, which is what
// makes one array per name possible without looking anything up.
fn encode_headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    out.push(b'{');
    let mut previous: Option<&HeaderName> = None;
    for (name, value) in headers {
        if previous == Some(name) {
            out.push(b',');
        } else {
            out.extend_from_slice(if previous.is_some() { b"]," } else { b"" });
            write::string(out, name.as_str());
            out.extend_from_slice(b":[");
            previous = Some(name);
        }
        write::bytes(out, value.as_bytes());
    }
    out.extend_from_slice(if previous.is_some() { b"]}" } else { b"}" });
}

/// Reads the payload of a request-headers event.
///
/// # Errors
/// What is wrong, with the id of the event when that can be read.
pub fn decode_request_headers(
    payload: &[u8],
    by_number: bool,
) -> Result<(EventId, DecodedRequestHeaders<'_>), BadMessage> {
    let bad = |detail: &dyn fmt::Display| BadMessage {
        id: find_event_id(payload, by_number),
        error: ProtocolError::malformed("request-headers event", detail),
    };
    let wire: WireEvent<'_> = serde_json::from_slice(payload).map_err(|error| bad(&error))?;
    let metadata = wire.metadata;
    let correlation_id = wire.correlation_id.unwrap_or(metadata.correlation_id).0;
    let id = match (by_number, wire.event_id) {
        (true, Some(number)) => EventId::Number(number),
        (true, None) => return Err(bad(&"event_id is missing")),
        (false, _) => EventId::Correlation(correlation_id.clone().into_owned()),
    };
    let Some(timestamp) = time::parse(&metadata.timestamp.0) else {
        return Err(bad(&"timestamp is not RFC 3339"));
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
        budget_left: match by_number {
            true => wire.budget_left_us.map(Duration::from_micros),
            false => None,
        },
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

// Serde borrows into a `Cow` only when it is a field by itself, not when it is
// in an `Option`; hence the wrapper.
#[derive(Deserialize, Default)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Headers(HeaderMap);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadersVisitor).map(Self)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = HeaderMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from header name to a list of values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderMap, A::Error> {
        let mut headers = HeaderMap::new();
        while let Some((name, values)) = map.next_entry::<Text<'de>, Vec<Text<'de>>>()? {
            let name = HeaderName::from_bytes(name.0.as_bytes()).map_err(A::Error::custom)?;
            for value in values {
                let value =
                    HeaderValue::from_bytes(value.0.as_bytes()).map_err(A::Error::custom)?;
                headers
                    .try_append(name.clone(), value)
                    .map_err(A::Error::custom)?;
            }
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One member per name depends on the order in which the map yields.
    #[test]
    fn every_header_name_is_one_member() {
        let names: Vec<_> = (0..300).map(|n| format!("x-{n}")).collect();
        let mut headers = HeaderMap::new();
        for round in 0..3 {
            for name in &names {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from(round));
            }
        }
        for name in names.iter().step_by(7) {
            headers.remove(name);
        }
        let mut out = Vec::new();
        encode_headers(&mut out, &headers);
        let text = String::from_utf8(out).unwrap();
        for (index, name) in names.iter().enumerate() {
            let members = text
                .matches(&format!("\"{name}\":[\"0\",\"1\",\"2\"]"))
                .count();
            assert_eq!(members, usize::from(index % 7 != 0), "{name}");
        }
        let count = serde_json::from_str::<serde_json::Value>(&text)
            .unwrap()
            .as_object()
            .unwrap()
            .len();
        assert_eq!(count, headers.keys_len());
    }
}
