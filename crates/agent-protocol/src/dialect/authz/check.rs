//! From events to the question over gRPC. Pure.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use http::header::{CONTENT_LENGTH, COOKIE, HOST};

use super::deferred::Shown;
use super::http::PARTIAL_BODY;
use super::messages::{
    Address, AttributeContext, CheckRequest, HttpRequest, Metadata, Peer, RequestAttributes,
    SocketAddress, Timestamp, TlsSession,
};
use super::relay;
use crate::RequestHeaders;
use crate::header_name::folded;

/// The question about a head. `context` is what the configuration adds.
pub(super) fn request(
    event: &RequestHeaders<'_>,
    context: &BTreeMap<String, String>,
) -> CheckRequest {
    let metadata = &event.metadata;
    let time = metadata.timestamp.duration_since(UNIX_EPOCH);
    let time = time.unwrap_or_default();
    let certificate = metadata.client_certificate;
    let principal = certificate.map_or("", |certificate| certificate.principal);
    let http = HttpRequest {
        id: metadata.correlation_id.to_owned(),
        method: event.method.to_owned(),
        headers: headers(event),
        path: event.uri.to_owned(),
        host: text(relay::host(event).as_bytes()),
        scheme: relay::scheme(event).to_owned(),
        size: size(event),
        protocol: metadata.protocol.to_owned(),
        ..HttpRequest::default()
    };
    let source = SocketAddress {
        address: metadata.client_ip.to_string(),
        port_value: metadata.client_port.into(),
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                principal: principal.to_owned(),
                address: Some(Address {
                    socket_address: Some(source),
                }),
            }),
            request: Some(RequestAttributes {
                time: Some(Timestamp {
                    seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                    nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
                }),
                http: Some(http),
            }),
            context_extensions: context.clone(),
            metadata_context: Some(Metadata {}),
            tls_session: metadata.server_name.map(|name| TlsSession {
                sni: name.to_owned(),
            }),
        }),
    }
}

/// Adds the body to a question. A text cannot be anything else than UTF-8, so that other bytes are always sent as such.
pub(super) fn add_body(question: &mut CheckRequest, shown: Shown, as_bytes: bool) {
    let attributes = question.attributes.as_mut();
    let request = attributes.and_then(|attributes| attributes.request.as_mut());
    let Some(http) = request.and_then(|request| request.http.as_mut()) else {
        return;
    };
    let partial = if shown.is_partial { "true" } else { "false" };
    http.headers
        .insert(PARTIAL_BODY.as_str().to_owned(), partial.to_owned());
    match std::str::from_utf8(&shown.data) {
        Ok(text) if !as_bytes => text.clone_into(&mut http.body),
        _ => http.raw_body = shown.data,
    }
}

fn size(event: &RequestHeaders<'_>) -> i64 {
    let length = event.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(-1)
}

/// Several values of one name are put together as RFC 9110 section 5.3 has it, those of cookies as RFC 9113 section 8.2.3.
fn headers(event: &RequestHeaders<'_>) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::from([
        (":authority".to_owned(), text(relay::host(event).as_bytes())),
        (":method".to_owned(), event.method.to_owned()),
        (":path".to_owned(), event.uri.to_owned()),
        (":scheme".to_owned(), relay::scheme(event).to_owned()),
    ]);
    for name in event.headers.keys() {
        if *name == HOST || folded(name.as_str()) == PARTIAL_BODY.as_str() {
            continue;
        }
        let values = event.headers.get_all(name).iter();
        let values: Vec<String> = values.map(|value| text(value.as_bytes())).collect();
        let separator = if *name == COOKIE { "; " } else { "," };
        headers.insert(name.as_str().to_owned(), values.join(separator));
    }
    headers
}

/// The fields of the question are texts, whatever a client has sent.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
