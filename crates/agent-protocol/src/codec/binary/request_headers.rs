//! The head of a request in the binary encoding.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;

use super::event::{self, HEADERS, REQUEST, Sections};
use super::read::Malformed;
use super::write;
use crate::codec::{BadMessage, DecodedRequestHeaders, EventId};
use crate::{RequestHeaders, RequestMetadata};

const REQUEST_LINE: u8 = 2;

/// Appends the payload of a request-headers event.
pub fn encode_request_headers(out: &mut Vec<u8>, event_id: u64, event: &RequestHeaders<'_>) {
    out.extend_from_slice(&event_id.to_be_bytes());
    write::section(out, REQUEST, |out| encode_metadata(out, &event.metadata));
    write::section(out, REQUEST_LINE, |out| {
        write::string(out, event.method);
        write::string(out, event.uri);
    });
    write::section(out, HEADERS, |out| write::headers(out, event.headers));
    event::encode_budget(out, event.budget_left);
}

fn encode_metadata(out: &mut Vec<u8>, metadata: &RequestMetadata<'_>) {
    write::string(out, metadata.correlation_id);
    write::string(out, metadata.request_id);
    write::address(out, metadata.client_ip);
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
    event::read(payload, "request-headers event", decode)
}

fn decode<'a>(
    payload: &'a Bytes,
    [metadata, request_line, headers, budget]: Sections<'a>,
) -> Result<DecodedRequestHeaders<'a>, Malformed> {
    let mut metadata = metadata.ok_or("the metadata are missing")?;
    let mut request_line = request_line.ok_or("the request line is missing")?;
    let mut headers = headers.ok_or("the headers are missing")?;
    // The fields are read in the order of the layout.
    Ok(DecodedRequestHeaders {
        correlation_id: metadata.string()?.into(),
        request_id: metadata.string()?.into(),
        client_ip: metadata.address()?,
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
        headers: headers.headers(payload)?,
        budget_left: event::decode_budget(budget)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::read::Reader;
    use super::*;
    use http::HeaderMap;
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
                client_certificate: None,
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
