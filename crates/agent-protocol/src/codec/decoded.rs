//! What both encodings decode to.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderMap;

use crate::{
    BodyChunk, Event, FrameOpcode, GuardrailInspect, InspectionType, ProtocolError,
    RequestComplete, RequestHeaders, RequestMetadata, ResponseHeaders, WebSocketFrame,
};

/// What an answer names its event by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventId {
    /// The number of the event, with peers that know `event-id`.
    Number(u64),
    /// The correlation id of the request, with legacy peers.
    Correlation(String),
}

/// A message that cannot be decoded. When its id can still be read, the
/// failure is that of one call; otherwise it is that of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadMessage {
    /// The event that the message belongs to.
    pub id: Option<EventId>,
    /// What is wrong with it.
    pub error: ProtocolError,
}

/// An event as it came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the variant of the same name")]
#[expect(
    clippy::large_enum_variant,
    reason = "it is looked at where it was decoded, and most are of the large kind"
)]
pub enum DecodedEvent<'a> {
    RequestHeaders(DecodedRequestHeaders<'a>),
    RequestBodyChunk(DecodedBodyChunk<'a>),
    ResponseHeaders(DecodedResponseHeaders<'a>),
    ResponseBodyChunk(DecodedBodyChunk<'a>),
    WebSocketFrame(DecodedWebSocketFrame<'a>),
    GuardrailInspect(DecodedGuardrailInspect<'a>),
    RequestComplete(DecodedRequestComplete<'a>),
}

impl DecodedEvent<'_> {
    /// The view that agents get.
    #[must_use]
    pub fn view(&self) -> Event<'_> {
        match self {
            Self::RequestHeaders(event) => Event::RequestHeaders(event.view()),
            Self::RequestBodyChunk(event) => Event::RequestBodyChunk(event.view()),
            Self::ResponseHeaders(event) => Event::ResponseHeaders(event.view()),
            Self::ResponseBodyChunk(event) => Event::ResponseBodyChunk(event.view()),
            Self::WebSocketFrame(event) => Event::WebSocketFrame(event.view()),
            Self::GuardrailInspect(event) => Event::GuardrailInspect(event.view()),
            Self::RequestComplete(event) => Event::RequestComplete(event.view()),
        }
    }
}

/// The head of a request as it came off the wire; borrows from the frame
/// where the encoding allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is the field of the same name in the view"
)]
pub struct DecodedRequestHeaders<'a> {
    pub correlation_id: Cow<'a, str>,
    pub request_id: Cow<'a, str>,
    pub client_ip: IpAddr,
    pub client_port: u16,
    pub server_name: Option<Cow<'a, str>>,
    pub protocol: Cow<'a, str>,
    pub tls_version: Option<Cow<'a, str>>,
    pub tls_cipher: Option<Cow<'a, str>>,
    pub route_id: Option<Cow<'a, str>>,
    pub upstream_id: Option<Cow<'a, str>>,
    pub timestamp: SystemTime,
    pub traceparent: Option<Cow<'a, str>>,
    pub method: Cow<'a, str>,
    pub uri: Cow<'a, str>,
    pub headers: HeaderMap,
    pub budget_left: Option<Duration>,
}

impl DecodedRequestHeaders<'_> {
    /// The view that agents get.
    #[must_use]
    pub fn view(&self) -> RequestHeaders<'_> {
        RequestHeaders {
            metadata: RequestMetadata {
                correlation_id: &self.correlation_id,
                request_id: &self.request_id,
                client_ip: self.client_ip,
                client_port: self.client_port,
                server_name: self.server_name.as_deref(),
                protocol: &self.protocol,
                tls_version: self.tls_version.as_deref(),
                tls_cipher: self.tls_cipher.as_deref(),
                client_certificate: None,
                route_id: self.route_id.as_deref(),
                upstream_id: self.upstream_id.as_deref(),
                timestamp: self.timestamp,
                traceparent: self.traceparent.as_deref(),
            },
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
            budget_left: self.budget_left,
        }
    }
}

/// A piece of a body as it came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is the field of the same name in the view"
)]
pub struct DecodedBodyChunk<'a> {
    pub correlation_id: Cow<'a, str>,
    pub index: u32,
    pub data: Bytes,
    pub is_last: bool,
    pub total_size: Option<u64>,
    pub transferred: u64,
    pub truncated: bool,
    pub trailers: Option<HeaderMap>,
    pub budget_left: Option<Duration>,
}

impl DecodedBodyChunk<'_> {
    /// The view that agents get.
    #[must_use]
    pub fn view(&self) -> BodyChunk<'_> {
        BodyChunk {
            correlation_id: &self.correlation_id,
            index: self.index,
            data: self.data.clone(),
            is_last: self.is_last,
            total_size: self.total_size,
            transferred: self.transferred,
            truncated: self.truncated,
            trailers: self.trailers.as_ref(),
            budget_left: self.budget_left,
        }
    }

    /// Keeps trailers only where they belong, and none as `None`.
    pub(super) fn with_trailers(mut self, trailers: Option<HeaderMap>) -> Self {
        self.trailers = trailers.filter(|fields| self.is_last && !fields.is_empty());
        self
    }
}

/// The head of a response as it came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is the field of the same name in the view"
)]
pub struct DecodedResponseHeaders<'a> {
    pub correlation_id: Cow<'a, str>,
    pub status: u16,
    pub headers: HeaderMap,
    pub budget_left: Option<Duration>,
}

impl DecodedResponseHeaders<'_> {
    /// The view that agents get.
    #[must_use]
    pub fn view(&self) -> ResponseHeaders<'_> {
        ResponseHeaders {
            correlation_id: &self.correlation_id,
            status: self.status,
            headers: &self.headers,
            budget_left: self.budget_left,
        }
    }
}

/// A frame of a WebSocket as it came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is the field of the same name in the view"
)]
pub struct DecodedWebSocketFrame<'a> {
    pub correlation_id: Cow<'a, str>,
    pub opcode: FrameOpcode,
    pub data: Bytes,
    pub client_to_server: bool,
    pub index: u64,
    pub fin: bool,
    pub route_id: Option<Cow<'a, str>>,
    pub client_ip: IpAddr,
    pub budget_left: Option<Duration>,
}

impl DecodedWebSocketFrame<'_> {
    /// The view that agents get.
    #[must_use]
    pub fn view(&self) -> WebSocketFrame<'_> {
        WebSocketFrame {
            correlation_id: &self.correlation_id,
            opcode: self.opcode,
            data: self.data.clone(),
            client_to_server: self.client_to_server,
            index: self.index,
            fin: self.fin,
            route_id: self.route_id.as_deref(),
            client_ip: self.client_ip,
            budget_left: self.budget_left,
        }
    }
}

/// A text for a guardrail as it came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is the field of the same name in the view"
)]
pub struct DecodedGuardrailInspect<'a> {
    pub correlation_id: Cow<'a, str>,
    pub inspection_type: InspectionType,
    pub content: Cow<'a, str>,
    pub model: Option<Cow<'a, str>>,
    pub categories: Vec<String>,
    pub route_id: Option<Cow<'a, str>>,
    pub is_response: bool,
    pub metadata: Vec<(String, String)>,
    pub budget_left: Option<Duration>,
}

impl DecodedGuardrailInspect<'_> {
    /// The view that agents get.
    #[must_use]
    pub fn view(&self) -> GuardrailInspect<'_> {
        GuardrailInspect {
            correlation_id: &self.correlation_id,
            inspection_type: self.inspection_type,
            content: &self.content,
            model: self.model.as_deref(),
            categories: &self.categories,
            route_id: self.route_id.as_deref(),
            is_response: self.is_response,
            metadata: &self.metadata,
            budget_left: self.budget_left,
        }
    }
}

/// The end of a request as it came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is the field of the same name in the view"
)]
pub struct DecodedRequestComplete<'a> {
    pub correlation_id: Cow<'a, str>,
    pub status: u16,
    pub duration: Duration,
    pub request_body_size: u64,
    pub response_body_size: u64,
    pub upstream_attempts: u32,
    pub error: Option<Cow<'a, str>>,
}

impl DecodedRequestComplete<'_> {
    /// The view that agents get.
    #[must_use]
    pub fn view(&self) -> RequestComplete<'_> {
        RequestComplete {
            correlation_id: &self.correlation_id,
            status: self.status,
            duration: self.duration,
            request_body_size: self.request_body_size,
            response_body_size: self.response_body_size,
            upstream_attempts: self.upstream_attempts,
            error: self.error.as_deref(),
        }
    }
}
