//! `listeners { listener "ID" { … } }`: where clients connect, and what they may do.

use super::{ByteSize, Http2, ListenerId, ListenerTls, Place};
use ipnet::IpNet;
use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// A socket on which clients are served.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Its name in logs and metrics.
    pub id: ListenerId,
    /// What to bind.
    pub address: ListenerAddress,
    /// HTTP/2 with prior knowledge beside HTTP/1.1. Default false.
    pub h2c: bool,
    /// What a proxy in front says about connections. `None`: nothing, clients connect themselves.
    pub proxy_protocol: Option<ListenerProxyProtocol>,
    /// TLS with its clients. `None`: it is not spoken.
    pub tls: Option<ListenerTls>,
    /// How much of HTTP/2 one connection may have.
    pub http2: Http2,
    /// Clients of HTTP/1.1 that close their sending side behind a request are served all the same. Default false: it means that
    /// they have gone.
    pub half_close: bool,
    /// What becomes of fields of a request with `_` in their names. Default drop.
    pub underscores_in_headers: Underscores,
    /// How long a client may take.
    pub timeouts: ListenerTimeouts,
    /// How much a client may send.
    pub limits: ListenerLimits,
    /// Whose X-Forwarded-For and X-Request-Id are believed: the listener's own list if it has one, else the system's.
    pub trusted_proxies: Vec<IpNet>,
    /// Where it is written.
    pub place: Place,
}

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerAddress {
    /// A socket of TCP. Port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A socket of Unix.
    Unix {
        /// Where its file is.
        path: PathBuf,
        /// Who may connect, as permissions of the file. Default 0660.
        mode: u32,
    },
}

/// As in `0.0.0.0:80` or `unix:/run/a.sock`.
impl fmt::Display for ListenerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection begins with a header of the PROXY protocol, version 1 or 2, from a trusted proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListenerProxyProtocol {
    /// X-Forwarded-For and X-Request-Id are believed too, when the address in the header is that of a trusted proxy.
    /// Default false.
    pub believes_forwarded: bool,
}

/// What becomes of fields of a request with `_` in their names, which many servers take for those with `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Underscores {
    /// Nobody sees them. The default.
    #[default]
    Drop,
    /// They are fields like others, but for those that read as one that nobody may change or that says how a body is read.
    Pass,
}

/// How long a client may take. None of these can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// From the start of a connection to the end of the TLS handshake. Default 10 s.
    pub tls_handshake: Duration,
    /// From the first byte of a request to the end of its head, in total. Default 10 s.
    pub request_header: Duration,
    /// How long an idle connection is kept. Default 75 s.
    pub keepalive: Duration,
    /// Between two pieces of a request body. Default 30 s.
    pub request_body_idle: Duration,
    /// For a client to take one piece of a response. Default 30 s.
    pub response_write: Duration,
}

impl Default for ListenerTimeouts {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_secs(10),
            request_header: Duration::from_secs(10),
            keepalive: Duration::from_secs(75),
            request_body_idle: Duration::from_secs(30),
            response_write: Duration::from_secs(30),
        }
    }
}

/// How much a client may send. None of these can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerLimits {
    /// All header fields of a request together; beyond it 431. Default 32 KiB; with `uri_bytes` at most 1 MiB.
    pub header_bytes: ByteSize,
    /// Header fields of a request; beyond it 431. Default 100, at most 256.
    pub header_count: usize,
    /// The request target; beyond it 414. Default 8 KiB.
    pub uri_bytes: ByteSize,
    /// A request body; beyond it 413. Default 100 MiB.
    pub body_bytes: ByteSize,
    /// Connections of one client address (IPv6: of one /64) at a time; beyond it a new one is closed. Default 200.
    pub connections_per_client: usize,
    /// Requests on one connection, after which it is closed; over HTTP/2 when those that have begun are answered. Default 10000.
    pub requests_per_connection: u64,
}

impl ListenerLimits {
    /// The most header fields that the HTTP/1 parser below us takes.
    pub const MAX_HEADER_COUNT: usize = 256;
    /// The largest request head that the HTTP/1 parser below us takes.
    pub const MAX_HEAD_BYTES: ByteSize = ByteSize::mib(1);
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            header_bytes: ByteSize::kib(32),
            header_count: 100,
            uri_bytes: ByteSize::kib(8),
            body_bytes: ByteSize::mib(100),
            connections_per_client: 200,
            requests_per_connection: 10_000,
        }
    }
}
