//! Events: what an agent is told.
//!
//! Events are borrowed views. The proxy fills one from its request and has it
//! encoded; the library rebuilds the same view on the other side and hands it
//! to the agent. Neither side copies into an owned event in between.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::HeaderMap;

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
    /// The route that the request took.
    pub route_id: Option<&'a str>,
    /// The upstream that the request would go to.
    pub upstream_id: Option<&'a str>,
    /// When the request began. Times before 1970 are sent as 1970.
    pub timestamp: SystemTime,
    /// The W3C trace context of the request.
    pub traceparent: Option<&'a str>,
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
