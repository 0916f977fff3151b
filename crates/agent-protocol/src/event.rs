//! Events: what an agent is told.
//!
//! Events are borrowed views. The proxy fills one from its request and has it
//! encoded; the library rebuilds the same view on the other side and hands it
//! to the agent. Neither side copies into an owned event in between.
//!
//! The events of one request come in the order of [`Event`]'s variants, except
//! that the pieces of the two bodies may overlap, and so may the frames of the
//! two directions of a WebSocket, and that the texts of a body come when that
//! would. An agent gets those that it has announced,
//! and has at most one of a request to answer at a time.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderMap;

use crate::{EventKind, GuardrailInspect, WebSocketFrame};

/// Something that an agent is asked about or told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// The head of a request.
    RequestHeaders(RequestHeaders<'a>),
    /// A piece of a request's body.
    RequestBodyChunk(BodyChunk<'a>),
    /// The head of a response.
    ResponseHeaders(ResponseHeaders<'a>),
    /// A piece of a response's body.
    ResponseBodyChunk(BodyChunk<'a>),
    /// A frame of the WebSocket that the request became.
    WebSocketFrame(WebSocketFrame<'a>),
    /// A text out of the body of the request or of the response.
    GuardrailInspect(GuardrailInspect<'a>),
    /// The end of a request.
    RequestComplete(RequestComplete<'a>),
}

impl Event<'_> {
    /// The kind of the event, which an agent must have announced to get it.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            Self::RequestHeaders(_) => EventKind::RequestHeaders,
            Self::RequestBodyChunk(_) => EventKind::RequestBodyChunk,
            Self::ResponseHeaders(_) => EventKind::ResponseHeaders,
            Self::ResponseBodyChunk(_) => EventKind::ResponseBodyChunk,
            Self::WebSocketFrame(_) => EventKind::WebSocketFrame,
            Self::GuardrailInspect(_) => EventKind::GuardrailInspect,
            Self::RequestComplete(_) => EventKind::RequestComplete,
        }
    }

    /// The id that all events of one request have.
    #[must_use]
    pub fn correlation_id(&self) -> &str {
        match self {
            Self::RequestHeaders(event) => event.metadata.correlation_id,
            Self::RequestBodyChunk(event) | Self::ResponseBodyChunk(event) => event.correlation_id,
            Self::ResponseHeaders(event) => event.correlation_id,
            Self::WebSocketFrame(event) => event.correlation_id,
            Self::GuardrailInspect(event) => event.correlation_id,
            Self::RequestComplete(event) => event.correlation_id,
        }
    }

    /// The same event with another time left. The end of a request has none
    /// and stays as it is.
    #[must_use]
    pub fn with_budget_left(mut self, left: Option<Duration>) -> Self {
        match &mut self {
            Self::RequestHeaders(event) => event.budget_left = left,
            Self::RequestBodyChunk(event) | Self::ResponseBodyChunk(event) => {
                event.budget_left = left;
            }
            Self::ResponseHeaders(event) => event.budget_left = left,
            Self::WebSocketFrame(event) => event.budget_left = left,
            Self::GuardrailInspect(event) => event.budget_left = left,
            Self::RequestComplete(_) => {}
        }
        self
    }
}

/// What is known about a request in every phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMetadata<'a> {
    /// The same for all events of one request. Legacy peers find the answer
    /// to an event by it, so it must be unique among requests in flight.
    pub correlation_id: &'a str,
    /// The id of the request that its client and the logs see.
    pub request_id: &'a str,
    /// The address of the client, after trusted proxies were looked through.
    pub client_ip: IpAddr,
    /// The port of the client; 0 when it is not known.
    pub client_port: u16,
    /// The name that the client asked for in TLS; `None` without TLS.
    pub server_name: Option<&'a str>,
    /// The protocol of the client's connection, as in `HTTP/1.1`.
    pub protocol: &'a str,
    /// The version of TLS, as in `TLSv1.3`; `None` without TLS.
    pub tls_version: Option<&'a str>,
    /// The name of the cipher suite; `None` without TLS.
    pub tls_cipher: Option<&'a str>,
    /// What the client has shown of itself in TLS; `None` without a
    /// certificate. Only some dialects have a place for it: version 2 has
    /// none, so that it is never in what an agent of the library is told.
    pub client_certificate: Option<ClientCertificate<'a>>,
    /// The route that the request took.
    pub route_id: Option<&'a str>,
    /// The upstream that the request would go to.
    pub upstream_id: Option<&'a str>,
    /// When the request began. Times before 1970 are sent as 1970.
    pub timestamp: SystemTime,
    /// The W3C trace context of the request.
    pub traceparent: Option<&'a str>,
}

/// A certificate that a client has shown, and that is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCertificate<'a> {
    /// Who it is: its first URI, else its first DNS name, else its subject.
    pub principal: &'a str,
    /// SHA-256 of it, in hexadecimal digits.
    pub fingerprint: &'a str,
}

/// The head of a request, before anything of it went to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeaders<'a> {
    /// What is known about the request.
    pub metadata: RequestMetadata<'a>,
    /// The method, as in `GET`.
    pub method: &'a str,
    /// Path and query, as in `/a?b=1`.
    pub uri: &'a str,
    /// The header fields. The order of the values of one name is kept, the
    /// order of different names is not.
    pub headers: &'a HeaderMap,
    /// What was left of the time that all agents together may take for this
    /// request when the event was sent; `None` when the peer does not say.
    /// Goes over the wire in whole microseconds, and only between peers that
    /// have agreed to `event-id`.
    pub budget_left: Option<Duration>,
}

impl RequestHeaders<'_> {
    /// The path: what comes before the query in [`uri`](Self::uri).
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.split_once('?').map_or(self.uri, |(path, _)| path)
    }

    /// The first value of a header field as text; `None` when it is missing
    /// or is not UTF-8. A check that must not be evaded by odd bytes looks at
    /// all values as bytes instead.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.headers.get(name)?.as_bytes()).ok()
    }
}

/// A piece of a body, of a request or of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyChunk<'a> {
    /// The id that all events of the request have.
    pub correlation_id: &'a str,
    /// The number of the piece, from 0, in the body of the request and in
    /// that of the response.
    pub index: u32,
    /// The bytes. What an agent gets shares the memory of the buffer that was
    /// read from the socket: who keeps a few bytes for long should copy them.
    pub data: Bytes,
    /// Whether it is the last piece. It may be empty.
    pub is_last: bool,
    /// The size of the whole body in bytes; `None` when it is not known.
    pub total_size: Option<u64>,
    /// How many bytes of the body there have been, those of this piece
    /// included.
    pub transferred: u64,
    /// The body goes on, but the agent is shown only its beginning, which
    /// ends with this piece.
    pub truncated: bool,
    /// The trailer fields behind the body. They go over the wire when there
    /// are any, with the last piece only, and only between peers that have
    /// agreed to `event-id`.
    pub trailers: Option<&'a HeaderMap>,
    /// As [`RequestHeaders::budget_left`].
    pub budget_left: Option<Duration>,
}

impl<'a> BodyChunk<'a> {
    /// The trailer fields as far as they go over the wire.
    pub(crate) fn trailers_to_send(&self) -> Option<&'a HeaderMap> {
        self.trailers
            .filter(|trailers| self.is_last && !trailers.is_empty())
    }
}

/// The head of a response, before anything of it went to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHeaders<'a> {
    /// The id that all events of the request have.
    pub correlation_id: &'a str,
    /// The status, as in 200.
    pub status: u16,
    /// The header fields. The order of the values of one name is kept, the
    /// order of different names is not.
    pub headers: &'a HeaderMap,
    /// As [`RequestHeaders::budget_left`].
    pub budget_left: Option<Duration>,
}

/// The end of a request: nothing more comes about it, and nothing can be
/// decided any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestComplete<'a> {
    /// The id that all events of the request had.
    pub correlation_id: &'a str,
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// How long the request took. JSON has whole milliseconds, the binary
    /// encoding whole microseconds.
    pub duration: Duration,
    /// How many bytes the body of the request had.
    pub request_body_size: u64,
    /// How many bytes the body of the response had.
    pub response_body_size: u64,
    /// How often a server was tried; 0 when the request never went to one.
    pub upstream_attempts: u32,
    /// Why the request failed, for people; `None` when it did not.
    pub error: Option<&'a str>,
}
