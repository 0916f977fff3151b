//! What goes from a request to a service and from its answer to the client or to the upstream. Pure.

use http::header::{
    self, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::header_name::{HeaderNames, remove_alike};
use crate::{CallError, Decision, HeaderOp, ProtocolError, RequestHeaders, Verdict};

/// The headers of a message that are for its next hop alone, and what is said of how its body is sent: another message
/// must not have them (RFC 9110 section 7.6.1).
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    // Some of them say where the message ends: nobody may read that in a name that is only like it.
    for name in [
        CONNECTION,
        CONTENT_LENGTH,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("http2-settings"),
    ] {
        remove_alike(headers, &name);
    }
}

/// The scheme that the client used, as whoever stands before us says.
pub(super) fn scheme(event: &RequestHeaders<'_>) -> &'static str {
    match event.headers.get("x-forwarded-proto") {
        Some(scheme) if scheme == "https" => "https",
        Some(_) => "http",
        None if event.metadata.tls_version.is_some() => "https",
        None => "http",
    }
}

/// The host that the client asked for, as it is written there.
pub(super) fn host(event: &RequestHeaders<'_>) -> HeaderValue {
    let host = event.headers.get(header::HOST);
    host.cloned()
        .unwrap_or_else(|| HeaderValue::from_static(""))
}

/// The client gets the answer of the service as it is.
pub(super) fn relayed(status: u16, headers: &HeaderMap, body: bytes::Bytes) -> Decision {
    let mut kept = headers.clone();
    remove_hop_by_hop(&mut kept);
    // What cannot be written as text cannot be told; a client would make nothing of it either.
    let headers = kept.iter().filter_map(|(name, value)| {
        let value = std::str::from_utf8(value.as_bytes()).ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    });
    Verdict::Block {
        status,
        body: Some(body),
        headers: headers.collect(),
    }
    .into()
}

/// Headers of an answer that are copied: the first value takes the place of what is there.
///
/// # Errors
/// A value that is no text: what it stands for must not be lost.
pub(super) fn copied(headers: &HeaderMap, names: &HeaderNames) -> Result<Vec<HeaderOp>, CallError> {
    let mut operations = Vec::new();
    for name in headers.keys().filter(|name| names.contains(name.as_str())) {
        for (number, value) in headers.get_all(name).iter().enumerate() {
            let name = name.as_str().to_owned();
            let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
                let detail = format!("has a header '{name}' that is no text");
                return Err(ProtocolError::malformed("HTTP answer", detail).into());
            };
            let value = value.to_owned();
            operations.push(match number {
                0 => HeaderOp::Set { name, value },
                _ => HeaderOp::Add { name, value },
            });
        }
    }
    Ok(operations)
}

/// The same for the response, which keeps what it has of the name: it is made later, by somebody else.
pub(super) fn added(headers: &HeaderMap, names: &HeaderNames) -> Result<Vec<HeaderOp>, CallError> {
    let copied = copied(headers, names)?.into_iter();
    let added = copied.map(|operation| match operation {
        HeaderOp::Set { name, value } => HeaderOp::Add { name, value },
        other => other,
    });
    Ok(added.collect())
}
