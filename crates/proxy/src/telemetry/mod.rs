//! What operators see: metrics, the access log, and the log of the process.

pub(crate) mod access_log;
pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod notify;

use crate::{
    recording::Recordings,
    server::{limits::Rejection, tls},
    trace::Recent,
};
use access_log::AccessLog;
use metrics::Metrics;
use portcullis_config::{AccessLogFormat, ListenerId};
use std::{fmt, net::SocketAddr, sync::Arc};

/// Counters and logs of the process, shared by everything that has something to report.
pub(crate) struct Telemetry {
    pub(crate) metrics: Metrics,
    pub(crate) access_log: AccessLog,
    /// Requests that can be explained.
    pub(crate) recent: Recent,
    /// What agents are told and answer, as long as somebody wants it written down.
    pub(crate) recordings: Arc<Recordings>,
}

/// Why a connection ended before a request was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refused {
    /// What was sent is not a request that HTTP/1.1 allows.
    Malformed,
    /// The head was not complete within `timeouts` `request-header`.
    HeadTimeout,
    /// The head was not complete within `limits` `header-bytes` and `uri-bytes` together.
    HeadTooLarge,
    /// HTTP without TLS, where TLS is spoken.
    PlainHttp,
    /// A method that a reverse proxy does not take (CONNECT).
    Method,
    /// Too many frames of HTTP/2 that carry nothing.
    Flood,
}

impl Refused {
    /// The name in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed_request",
            Self::HeadTimeout => "request_header_timeout",
            Self::HeadTooLarge => "request_header_too_large",
            Self::PlainHttp => "plain_http",
            Self::Method => "method_not_allowed",
            Self::Flood => "frame_flood",
        }
    }

    /// The status that the client gets; over HTTP/2 it gets a code of that instead.
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::PlainHttp => 400,
            Self::HeadTimeout => 408,
            Self::HeadTooLarge => 431,
            Self::Method => 405,
            Self::Flood => 429,
        }
    }
}

impl Telemetry {
    /// A connection whose client did not get as far as a request.
    pub(crate) fn refused(&self, listener: &ListenerId, peer: SocketAddr, why: Refused) {
        self.metrics.connections.refused(listener, why);
        if let Some(writer) = &*self.access_log.writer() {
            writer.write(|line, clock| match writer.format {
                AccessLogFormat::Combined => {
                    access_log::write_refused_combined(line, clock, peer, why);
                }
                AccessLogFormat::Json => {
                    access_log::write_refused(line, clock, listener, peer, why);
                }
            });
        }
    }

    /// A connection that did not get as far as TLS.
    pub(crate) fn handshake_failed(
        &self,
        listener: &ListenerId,
        peer: SocketAddr,
        failure: &tls::Failure,
    ) {
        let (reason, detail) = (failure.why.name(), &failure.detail);
        let connections = &self.metrics.connections;
        connections.handshake_failed(listener, reason);
        let server_name = failure.server_name.as_deref();
        tracing::debug!(%listener, client = %peer, reason, server_name, detail, "no TLS handshake");
    }

    /// A connection that was closed at once because a limit was reached.
    pub(crate) fn rejected(&self, listener: &ListenerId, peer: SocketAddr, why: Rejection) {
        self.metrics.connections.rejected(listener, why);
        tracing::debug!(listener = %listener, client = %peer, limit = why.name(), "connection closed: limit reached");
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}
