//! How the targets of an upstream are connected to: `tls`, `keepalive` and `send-proxy-protocol`.

use std::{path::PathBuf, time::Duration};

/// How a target shows who it is, and we.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name or address that the target's certificate must have, and that it is asked for. Never empty.
    pub server_name: String,
    /// PEM file with the authorities that may have signed the target's certificate. None: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM files with our certificate, its chain after it, and with its key. None: we show none.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether any certificate will do. Default false.
    pub insecure_skip_verify: bool,
}

/// Connections that are kept for the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How many are kept for each target and worker at most; 0: none. Default 128, at most 1024.
    pub connections: u32,
    /// How long one is kept that nobody uses. Default 60 s.
    pub idle: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            connections: 128,
            idle: Duration::from_secs(60),
        }
    }
}

/// The PROXY header with which a target is told who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}
