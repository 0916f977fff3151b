//! Heads of messages whose bodies pass agents: how long the body is, and what is no longer true of it.

use super::pipe::{Form, Pieces};
use crate::filter::Head;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora::{
    Error,
    ErrorType::InvalidHTTPHeader,
    Result,
    http::{RequestHeader, ResponseHeader},
};

/// What vouches for the bytes of a body (RFC 9530, RFC 1864).
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// How clients asked for slices before there was a standard; some servers still know it.
const REQUEST_RANGE: HeaderName = HeaderName::from_static("request-range");

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// There is none, or what the head says of it stands.
    AsItIs,
    Known(usize),
    /// It ends when it ends.
    Open,
}

impl Length {
    /// That of a body whose first pieces are these.
    pub(super) fn of(form: Form, pieces: &Pieces) -> Self {
        if form.differs() && form.ended {
            Self::Known(pieces.iter().map(Bytes::len).sum())
        } else if form.may_differ() {
            Self::Open
        } else {
            Self::AsItIs
        }
    }
}

/// Whether a client of HTTP/2 takes trailers behind the response.
pub(crate) fn takes_trailers(head: &RequestHeader, is_http2: bool) -> bool {
    let te = head.headers.get(header::TE);
    is_http2 && te.is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

/// The head of the inner request.
///
/// # Errors
/// None of the values can be refused by the header map; the signature is Pingora's.
pub(super) fn inner_request(
    head: &RequestHeader,
    length: Length,
    form: Option<Form>,
    whole_response: bool,
) -> Result<RequestHeader> {
    let mut head = head.clone();
    head.set_version(http::Version::HTTP_11);
    // Whoever reads the body has said so already.
    head.remove_header(&header::EXPECT);
    describe(&mut head, length, form)?;
    if length == Length::Open {
        head.insert_header(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        )?;
    }
    if whole_response {
        for name in [header::RANGE, header::IF_RANGE, REQUEST_RANGE] {
            head.remove_header(&name);
        }
    }
    Ok(head)
}

/// Whether a body follows the head of a response (RFC 9112 section 6.3).
pub(super) fn has_body(head: &ResponseHeader, method: &Method) -> bool {
    let status = head.status.as_u16();
    let is_empty = content_length(head.headers.get(header::CONTENT_LENGTH)) == Some(0);
    method != Method::HEAD && !matches!(status, 100..=199 | 204 | 304) && !is_empty
}

/// Where agents judge whole bodies, a slice that nobody has asked for would pass for one.
///
/// # Errors
/// It is a slice.
pub(super) fn check_whole(head: &ResponseHeader) -> Result<()> {
    if head.status == StatusCode::PARTIAL_CONTENT {
        let why = "a slice that nobody has asked for";
        return Err(Error::explain(InvalidHTTPHeader, why).into_up());
    }
    Ok(())
}

/// Whether what follows are events as they happen (the media type of `EventSource`).
pub(super) fn is_event_stream(head: &ResponseHeader) -> bool {
    const KIND: &[u8] = b"text/event-stream";
    let kind = head.headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| {
        let kind = kind.as_bytes().split(|byte| *byte == b';').next();
        kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(KIND))
    })
}

pub(super) fn content_length(value: Option<&HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.trim().parse().ok()
}

/// Makes the head of a response true for the body that follows.
///
/// # Errors
/// None of the values can be refused by the header map; the signature is Pingora's.
pub(super) fn describe_response(
    head: &mut ResponseHeader,
    length: Length,
    form: Form,
) -> Result<()> {
    describe(head, length, Some(form))?;
    if form.may_differ() {
        head.remove_header(&header::ACCEPT_RANGES);
    }
    if form.differs() {
        head.remove_header(&header::ETAG);
    } else if form.open {
        // It may become another body that means the same.
        weaken(head)?;
    }
    Ok(())
}

/// What the heads of both directions say of a body.
fn describe(head: &mut impl Head, length: Length, form: Option<Form>) -> Result<()> {
    if form.is_some_and(|form| form.decoded) {
        head.remove(&header::CONTENT_ENCODING);
    }
    if form.is_some_and(Form::may_differ) {
        forget_digests(head);
    }
    match length {
        Length::AsItIs => {}
        Length::Known(bytes) => {
            head.remove(&header::TRANSFER_ENCODING);
            head.set(header::CONTENT_LENGTH, HeaderValue::from(bytes))?;
        }
        Length::Open => head.remove(&header::CONTENT_LENGTH),
    }
    Ok(())
}

/// The body is not what it was byte for byte.
pub(crate) fn forget_digests(head: &mut impl Head) {
    for name in DIGESTS {
        head.remove(&HeaderName::from_static(name));
    }
}

/// It means the same as what had this tag, and may be another byte for byte.
///
/// # Errors
/// None that its values can cause; the signature is Pingora's.
pub(crate) fn weaken(head: &mut ResponseHeader) -> Result<()> {
    let Some(tag) = head.headers.get(header::ETAG) else {
        return Ok(());
    };
    if tag.as_bytes().starts_with(b"W/") {
        return Ok(());
    }
    match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        Ok(weak) => head.insert_header(header::ETAG, weak),
        Err(_) => {
            head.remove_header(&header::ETAG);
            Ok(())
        }
    }
}

/// Frames a response whose length is not in its head, as this client needs it. HTTP/1.0 knows no chunks: there, the end of
/// the connection is the end of the body. Returns whether that is so.
///
/// # Errors
/// None of the values can be refused by the header map; the signature is Pingora's.
pub(super) fn frame(
    head: &mut ResponseHeader,
    client: http::Version,
    method: &Method,
) -> Result<bool> {
    let is_bodiless = matches!(head.status.as_u16(), 204 | 304);
    if head.status == 204 || is_bodiless && client == http::Version::HTTP_2 {
        // The one must not say how long its body is, the other need not, and over HTTP/2 some take it for a promise.
        head.remove_header(&header::CONTENT_LENGTH);
    }
    let counted = head.headers.contains_key(header::CONTENT_LENGTH);
    match client {
        http::Version::HTTP_10 => {
            head.remove_header(&header::TRANSFER_ENCODING);
            Ok(!counted)
        }
        http::Version::HTTP_11 if !counted && has_body(head, method) => {
            let chunked = HeaderValue::from_static("chunked");
            head.insert_header(header::TRANSFER_ENCODING, chunked)?;
            Ok(false)
        }
        _ => Ok(false),
    }
}
