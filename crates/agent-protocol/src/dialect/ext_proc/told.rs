//! From events to what the agent is told. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};

use super::messages::{
    BUFFERED, HeaderMap, HeaderValue, HttpBody, HttpHeaders, HttpTrailers, Kind, Metadata, NONE,
    ProcessingRequest, ProtocolConfiguration, STREAMED, Struct, Told, Value,
};
use super::options::{BodyMode, ExtProcOptions};
use crate::{BodyChunk, Event, RequestHeaders, ResponseHeaders};

/// What attributes are kept under, whatever the filter is called.
const ATTRIBUTES: &str = "envoy.filters.http.ext_proc";

/// What a message is about, and so what its answer has to be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
}

impl Part {
    /// The name of the answer.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request_headers",
            Self::RequestBody => "request_body",
            Self::RequestTrailers => "request_trailers",
            Self::ResponseHeaders => "response_headers",
            Self::ResponseBody => "response_body",
            Self::ResponseTrailers => "response_trailers",
        }
    }

    pub(super) const fn is_of_request(self) -> bool {
        matches!(
            self,
            Self::RequestHeaders | Self::RequestBody | Self::RequestTrailers
        )
    }
}

/// A message, and what it is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) part: Part,
    pub(super) request: ProcessingRequest,
}

/// The message that a stream begins with says how bodies come.
pub(super) fn first(message: &mut Message, options: &ExtProcOptions) {
    message.request.protocol_config = Some(ProtocolConfiguration {
        request_body_mode: mode(options.request_body),
        response_body_mode: mode(options.response_body),
    });
}

pub(super) const fn mode(mode: BodyMode) -> i32 {
    match mode {
        BodyMode::None => NONE,
        BodyMode::Streamed => STREAMED,
        BodyMode::Buffered => BUFFERED,
    }
}

/// What the agent is told of an event; nothing of an event that it does not take.
pub(super) fn messages(event: &Event<'_>, options: &ExtProcOptions) -> Vec<Message> {
    match event {
        Event::RequestHeaders(head) => vec![request_headers(head, options)],
        Event::RequestBodyChunk(piece) => body(piece, true, options),
        Event::ResponseHeaders(head) => vec![response_headers(head, options)],
        Event::ResponseBodyChunk(piece) => body(piece, false, options),
        Event::WebSocketFrame(_) | Event::GuardrailInspect(_) | Event::RequestComplete(_) => {
            Vec::new()
        }
    }
}

fn request_headers(event: &RequestHeaders<'_>, options: &ExtProcOptions) -> Message {
    let metadata = &event.metadata;
    let host = event
        .headers
        .get(HOST)
        .map_or(&b""[..], http::HeaderValue::as_bytes);
    let scheme = match metadata.tls_version {
        Some(_) => "https",
        None => "http",
    };
    let pseudo = [
        (":authority", host),
        (":path", event.uri.as_bytes()),
        (":method", event.method.as_bytes()),
        (":scheme", scheme.as_bytes()),
    ];
    let head = HttpHeaders {
        headers: Some(headers(&pseudo, event.headers, options)),
        // Who does not tell is taken to do as the method is meant.
        end_of_stream: !has_body(event).unwrap_or(!matches!(
            event.method,
            "GET" | "HEAD" | "DELETE" | "OPTIONS" | "TRACE"
        )),
    };
    let mut message = message(Part::RequestHeaders, Told::RequestHeaders(head), options);
    let source = match metadata.client_port {
        0 => metadata.client_ip.to_string(),
        port => std::net::SocketAddr::new(metadata.client_ip, port).to_string(),
    };
    let attributes = [
        ("request.path", event.uri.to_owned()),
        ("request.host", String::from_utf8_lossy(host).into_owned()),
        ("source.address", source),
        ("request.protocol", metadata.protocol.to_owned()),
        ("request.id", metadata.request_id.to_owned()),
    ];
    let attributes = attributes.map(|(name, text)| {
        let kind = Some(Kind::Text(text));
        (name.to_owned(), Value { kind })
    });
    let attributes = Struct {
        fields: BTreeMap::from(attributes),
    };
    message
        .request
        .attributes
        .insert(ATTRIBUTES.to_owned(), attributes);
    message
}

/// Whether a body follows the head of the request; `None` where the head does not tell. In HTTP/2 it does not have to.
fn has_body(event: &RequestHeaders<'_>) -> Option<bool> {
    match event.headers.get(CONTENT_LENGTH) {
        Some(length) => Some(length.as_bytes() != b"0"),
        None if event.headers.contains_key(TRANSFER_ENCODING) => Some(true),
        None if event.metadata.protocol == "HTTP/2" => None,
        None => Some(false),
    }
}

/// Whether the head says for certain that the message has no body.
pub(super) fn is_empty(event: &Event<'_>) -> bool {
    match event {
        Event::RequestHeaders(head) => has_body(head) == Some(false),
        Event::ResponseHeaders(head) => {
            let length = head.headers.get(CONTENT_LENGTH);
            let says_so = length.is_some_and(|length| length.as_bytes() == b"0");
            says_so || matches!(head.status, 100..=199 | 204 | 304)
        }
        _ => false,
    }
}

fn response_headers(event: &ResponseHeaders<'_>, options: &ExtProcOptions) -> Message {
    let status = event.status.to_string();
    let pseudo = [(":status", status.as_bytes())];
    let head = HttpHeaders {
        headers: Some(headers(&pseudo, event.headers, options)),
        end_of_stream: is_empty(&Event::ResponseHeaders(event.clone())),
    };
    message(Part::ResponseHeaders, Told::ResponseHeaders(head), options)
}

/// The piece of a body, and what follows the body where the agent wants that. A body that goes on unseen has no end.
fn body(event: &BodyChunk<'_>, is_request: bool, options: &ExtProcOptions) -> Vec<Message> {
    let trailers = event
        .trailers_to_send()
        .filter(|_| options.response_trailers && !is_request);
    let body = HttpBody {
        body: event.data.clone(),
        end_of_stream: event.is_last && !event.truncated && trailers.is_none(),
    };
    // Nobody has to judge that nothing comes before the trailers.
    let is_needed = trailers.is_none() || !event.data.is_empty() || event.index == 0;
    let mut messages = Vec::with_capacity(2);
    if is_needed {
        messages.push(match is_request {
            true => message(Part::RequestBody, Told::RequestBody(body), options),
            false => message(Part::ResponseBody, Told::ResponseBody(body), options),
        });
    }
    if let Some(trailers) = trailers {
        let trailers = HttpTrailers {
            trailers: Some(headers(&[], trailers, options)),
        };
        messages.push(message(
            Part::ResponseTrailers,
            Told::ResponseTrailers(trailers),
            options,
        ));
    }
    messages
}

fn message(part: Part, told: Told, options: &ExtProcOptions) -> Message {
    let request = ProcessingRequest {
        request: Some(told),
        metadata_context: Some(Metadata {}),
        observability_mode: options.observability,
        ..ProcessingRequest::default()
    };
    Message { part, request }
}

/// Pseudo-headers come first, and `host` is one of them already.
fn headers(
    pseudo: &[(&str, &[u8])],
    fields: &http::HeaderMap,
    options: &ExtProcOptions,
) -> HeaderMap {
    let pseudo = pseudo.iter().map(|(name, value)| (*name, *value));
    let is_head = pseudo.len() > 0;
    let fields = fields.iter().filter(|(name, _)| !is_head || **name != HOST);
    let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let line = |(name, value): (&str, &[u8])| {
        let (text, raw) = match options.headers_as_text {
            true => (String::from_utf8_lossy(value).into_owned(), Bytes::new()),
            false => (String::new(), Bytes::copy_from_slice(value)),
        };
        HeaderValue {
            key: name.to_owned(),
            value: text,
            raw_value: raw,
        }
    };
    HeaderMap {
        headers: pseudo.chain(fields).map(line).collect(),
    }
}
