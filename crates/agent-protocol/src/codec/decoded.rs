//! What both encodings decode to.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::HeaderMap;

use crate::{ProtocolError, RequestHeaders, RequestMetadata};

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
