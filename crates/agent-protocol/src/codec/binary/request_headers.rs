//! Events in the binary encoding.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::read::{Malformed, Reader};
use super::write;
use crate::codec::{BadMessage, DecodedRequestHeaders, EventId};
use crate::{ProtocolError, RequestHeaders, RequestMetadata};

const METADATA: u8 = 1;
const REQUEST_LINE: u8 = 2;
const HEADERS: u8 = 3;
const BUDGET: u8 = 4;

/// Appends the payload of a request-headers event.
pub fn encode_request_headers(out: &mut Vec<u8>, event_id: u64, event: &RequestHeaders<'_>) {
    out.extend_from_slice(&event_id.to_be_bytes());
    write::section(out, METADATA, |out| encode_metadata(out, &event.metadata));
    write::section(out, REQUEST_LINE, |out| {
        write::string(out, event.method);
        write::string(out, event.uri);
    });
    write::section(out, HEADERS, |out| {
        write::count(out, event.headers.len());
        for (name, value) in event.headers {
            write::string(out, name.as_str());
            write::bytes(out, value.as_bytes());
        }
    });
    if let Some(budget_left) = event.budget_left {
        let microseconds = u64::try_from(budget_left.as_micros()).unwrap_or(u64::MAX);
        write::section(out, BUDGET, |out| {
            out.extend_from_slice(&microseconds.to_be_bytes());
        });
    }
}

fn encode_metadata(out: &mut Vec<u8>, metadata: &RequestMetadata<'_>) {
    write::string(out, metadata.correlation_id);
    write::string(out, metadata.request_id);
    match metadata.client_ip {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend_from_slice(&address.octets());
        }
    }
    out.extend_from_slice(&metadata.client_port.to_be_bytes());
    let since_epoch = metadata
        .timestamp
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // 64 bits of nanoseconds reach until the year 2554.
    let nanoseconds = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
    out.extend_from_slice(&nanoseconds.to_be_bytes());
    write::string(out, metadata.protocol);
    for text in [
        metadata.server_name,
        metadata.tls_version,
        metadata.tls_cipher,
        metadata.route_id,
        metadata.upstream_id,
        metadata.traceparent,
    ] {
        write::optional(out, text);
    }
}

/// Reads the payload of a request-headers event. Header values share the
/// memory of the payload.
///
/// # Errors
/// What is wrong, with the id of the event when that can be read.
pub fn decode_request_headers(
    payload: &Bytes,
) -> Result<(EventId, DecodedRequestHeaders<'_>), BadMessage> {
    let id = super::event_id(payload);
    let bad = |detail| BadMessage {
        id: super::event_id(payload),
        error: ProtocolError::malformed("request-headers event", detail),
    };
    let id = id.ok_or_else(|| bad("it ends too early"))?;
    let event = decode(payload).map_err(bad)?;
    Ok((id, event))
}

fn decode(payload: &Bytes) -> Result<DecodedRequestHeaders<'_>, Malformed> {
    let mut reader = Reader::new(payload);
    reader.u64()?;
    let [metadata, request_line, headers, budget] = reader.sections()?;
    let mut metadata = metadata.ok_or("the metadata are missing")?;
    let mut request_line = request_line.ok_or("the request line is missing")?;
    let mut headers = headers.ok_or("the headers are missing")?;
    // The fields are read in the order of the layout.
    Ok(DecodedRequestHeaders {
        correlation_id: metadata.string()?.into(),
        request_id: metadata.string()?.into(),
        client_ip: decode_address(&mut metadata)?,
        client_port: metadata.u16()?,
        timestamp: UNIX_EPOCH
            .checked_add(Duration::from_nanos(metadata.u64()?))
            .ok_or("the timestamp is out of range")?,
        protocol: metadata.string()?.into(),
        server_name: metadata.optional()?.map(Cow::Borrowed),
        tls_version: metadata.optional()?.map(Cow::Borrowed),
        tls_cipher: metadata.optional()?.map(Cow::Borrowed),
        route_id: metadata.optional()?.map(Cow::Borrowed),
        upstream_id: metadata.optional()?.map(Cow::Borrowed),
        traceparent: metadata.optional()?.map(Cow::Borrowed),
        method: request_line.string()?.into(),
        uri: request_line.string()?.into(),
        headers: decode_headers(payload, &mut headers)?,
        budget_left: match budget {
            Some(mut budget) => Some(Duration::from_micros(budget.u64()?)),
            None => None,
        },
    })
}

fn decode_address(reader: &mut Reader<'_>) -> Result<IpAddr, Malformed> {
    match reader.u8()? {
        4 => Ok(IpAddr::from(reader.octets::<4>()?)),
        6 => Ok(IpAddr::from(reader.octets::<16>()?)),
        _ => Err("the client's address is of an unknown family"),
    }
}

fn decode_headers(payload: &Bytes, reader: &mut Reader<'_>) -> Result<HeaderMap, Malformed> {
    let count = reader.count(8)?;
    let mut headers = HeaderMap::new();
    for _ in 0..count {
        let name =
            HeaderName::from_bytes(reader.bytes()?).map_err(|_| "a header name is invalid")?;
        let value = HeaderValue::from_maybe_shared(payload.slice_ref(reader.bytes()?))
            .map_err(|_| "a header value is invalid")?;
        headers
            .try_append(name, value)
            .map_err(|_| "there are too many headers")?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn encoded(budget_left: Option<Duration>) -> Bytes {
        let mut out = Vec::new();
        let event = RequestHeaders {
            metadata: RequestMetadata {
                correlation_id: "c",
                request_id: "r",
                client_ip: [203, 0, 113, 7].into(),
                client_port: 1,
                server_name: None,
                protocol: "HTTP/2",
                tls_version: None,
                tls_cipher: None,
                route_id: None,
                upstream_id: None,
                timestamp: SystemTime::UNIX_EPOCH,
                traceparent: None,
            },
            method: "GET",
            uri: "/",
            headers: &HeaderMap::new(),
            budget_left,
        };
        encode_request_headers(&mut out, 7, &event);
        out.into()
    }

    #[test]
    fn the_time_left_is_appended_and_passed_over_by_older_readers() {
        let [without, with] = [None, Some(Duration::from_millis(1500))].map(encoded);
        let appended = with.strip_prefix(&without[..]).unwrap();
        assert_eq!(appended, b"\x04\0\0\0\x08\0\0\0\0\0\x16\xe3\x60");
        // What readers did before there was such a section.
        let sections = |payload| {
            let mut reader = Reader::new(payload);
            reader.u64().unwrap();
            let known: [Option<Reader<'_>>; 3] = reader.sections().unwrap();
            known.map(Option::unwrap)
        };
        assert_eq!(sections(&with), sections(&without));
        let (_, event) = decode_request_headers(&with).unwrap();
        assert_eq!(event.budget_left, Some(Duration::from_millis(1500)));
        let (_, event) = decode_request_headers(&without).unwrap();
        assert_eq!(event.budget_left, None);
    }

    #[test]
    fn a_time_left_without_its_time_is_malformed() {
        let mut payload = encoded(None).to_vec();
        payload.extend_from_slice(b"\x04\0\0\0\x07\0\0\0\0\0\0\0");
        let payload = Bytes::from(payload);
        let bad = decode_request_headers(&payload).map(drop).unwrap_err();
        assert_eq!(bad.id, Some(EventId::Number(7)));
    }
}
