//! What shadow agents are told: copies of the events that enforced ones are asked about, which outlive the request.

use crate::exchange::{
    memory::Held,
    pipe::{Body, End},
};
use crate::filter::Direction;
use bytes::Bytes;
use http::HeaderMap;
use portcullis_agent_manager::{Completed, Phase, RecordedVerdict};
use portcullis_agent_protocol::{
    ClientCertificate, Event, FrameOpcode, RequestHeaders, RequestMetadata, ResponseHeaders,
    WebSocketFrame,
};
use std::{net::IpAddr, sync::Arc, time::SystemTime};
use tokio::sync::OwnedSemaphorePermit;

/// What waits for a shadow agent. The order is that of the request.
pub(super) enum Message {
    RequestHead(Arc<RequestHead>, Hold),
    ResponseHead(Arc<ResponseHead>, Hold),
    BodyBegins(Direction, Body),
    Piece(Direction, Bytes, Option<End>, Held),
    Frame(Frame, Held),
    /// The request is over.
    Over(Over),
}

/// What an event takes of what there is for shadow agents, until it has been dealt with.
pub(super) struct Hold {
    pub(super) _slot: OwnedSemaphorePermit,
    pub(super) _held: Held,
}

/// How a request ended.
pub(super) struct Over {
    /// What the verdicts of each phase are compared with.
    pub(super) enforced: Vec<(Phase, Option<RecordedVerdict>)>,
    /// For an agent that is told of it.
    pub(super) completed: Option<Arc<Completed>>,
}

/// The head of a request.
pub(super) struct RequestHead {
    correlation_id: String,
    request_id: String,
    client_ip: IpAddr,
    client_port: u16,
    server_name: Option<String>,
    protocol: String,
    tls_version: Option<String>,
    tls_cipher: Option<String>,
    /// Its principal and its fingerprint.
    client_certificate: Option<(String, String)>,
    route_id: Option<String>,
    upstream_id: Option<String>,
    timestamp: SystemTime,
    traceparent: Option<String>,
    method: String,
    uri: String,
    headers: HeaderMap,
    /// A body comes behind it.
    pub(super) has_body: bool,
}

impl RequestHead {
    pub(super) fn of(head: &RequestHeaders<'_>, has_body: bool) -> Self {
        let metadata = &head.metadata;
        Self {
            correlation_id: metadata.correlation_id.to_owned(),
            request_id: metadata.request_id.to_owned(),
            client_ip: metadata.client_ip,
            client_port: metadata.client_port,
            server_name: metadata.server_name.map(str::to_owned),
            protocol: metadata.protocol.to_owned(),
            tls_version: metadata.tls_version.map(str::to_owned),
            tls_cipher: metadata.tls_cipher.map(str::to_owned),
            client_certificate: metadata
                .client_certificate
                .map(|it| (it.principal.to_owned(), it.fingerprint.to_owned())),
            route_id: metadata.route_id.map(str::to_owned),
            upstream_id: metadata.upstream_id.map(str::to_owned),
            timestamp: metadata.timestamp,
            traceparent: metadata.traceparent.map(str::to_owned),
            method: head.method.to_owned(),
            uri: head.uri.to_owned(),
            headers: head.headers.clone(),
            has_body,
        }
    }

    pub(super) fn event(&self) -> Event<'_> {
        Event::RequestHeaders(RequestHeaders {
            metadata: RequestMetadata {
                correlation_id: &self.correlation_id,
                request_id: &self.request_id,
                client_ip: self.client_ip,
                client_port: self.client_port,
                server_name: self.server_name.as_deref(),
                protocol: &self.protocol,
                tls_version: self.tls_version.as_deref(),
                tls_cipher: self.tls_cipher.as_deref(),
                client_certificate: self.client_certificate.as_ref().map(
                    |(principal, fingerprint)| ClientCertificate {
                        principal,
                        fingerprint,
                    },
                ),
                route_id: self.route_id.as_deref(),
                upstream_id: self.upstream_id.as_deref(),
                timestamp: self.timestamp,
                traceparent: self.traceparent.as_deref(),
            },
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
            budget_left: None,
        })
    }

    pub(super) fn size(&self) -> usize {
        self.uri.len() + size_of(&self.headers)
    }
}

/// A frame of the socket that the request became.
pub(super) struct Frame {
    opcode: FrameOpcode,
    data: Bytes,
    client_to_server: bool,
    index: u64,
    fin: bool,
    client_ip: IpAddr,
}

impl Frame {
    pub(super) fn of(frame: &WebSocketFrame<'_>) -> Self {
        Self {
            opcode: frame.opcode,
            data: frame.data.clone(),
            client_to_server: frame.client_to_server,
            index: frame.index,
            fin: frame.fin,
            client_ip: frame.client_ip,
        }
    }

    pub(super) fn event<'a>(&self, correlation_id: &'a str, route_id: &'a str) -> Event<'a> {
        Event::WebSocketFrame(WebSocketFrame {
            correlation_id,
            opcode: self.opcode,
            data: self.data.clone(),
            client_to_server: self.client_to_server,
            index: self.index,
            fin: self.fin,
            route_id: Some(route_id),
            client_ip: self.client_ip,
            budget_left: None,
        })
    }
}

/// The head of a response.
pub(super) struct ResponseHead {
    correlation_id: String,
    status: u16,
    headers: HeaderMap,
    pub(super) has_body: bool,
}

impl ResponseHead {
    pub(super) fn of(head: &ResponseHeaders<'_>, has_body: bool) -> Self {
        Self {
            correlation_id: head.correlation_id.to_owned(),
            status: head.status,
            headers: head.headers.clone(),
            has_body,
        }
    }

    pub(super) fn event(&self) -> Event<'_> {
        Event::ResponseHeaders(ResponseHeaders {
            correlation_id: &self.correlation_id,
            status: self.status,
            headers: &self.headers,
            budget_left: None,
        })
    }

    pub(super) fn size(&self) -> usize {
        size_of(&self.headers)
    }
}

fn size_of(headers: &HeaderMap) -> usize {
    let lines = headers.iter();
    lines
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}
