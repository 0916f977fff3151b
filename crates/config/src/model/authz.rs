//! `ext-authz { … }` and `forward-auth { … }` of an agent: how services are spoken to that say whether a request may go on.

use super::ByteSize;

/// What such a service is told and what of its answers is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authz {
    /// Names and values that go with every question; with ext-authz over gRPC alone. No name twice. Default none.
    pub context: Vec<(String, String)>,
    /// Bodies of requests are sent as bytes, also when they are texts; with ext-authz over gRPC alone. Default false.
    pub body_as_bytes: bool,
    /// Header patterns: what an answer over HTTP that lets pass has of these goes to the upstream. The agent owns them.
    /// Default none.
    pub copy_headers: Vec<String>,
    /// Header patterns: what an answer over HTTP that lets pass has of these goes to the client, with the response. Default
    /// none.
    pub copy_to_client: Vec<String>,
    /// An answer with a status of 500 or more goes to the client instead of being a failure; with forward-auth alone.
    /// Default false.
    pub relay_failures: bool,
    /// The largest body of an answer over HTTP. Default 64 KiB, 1 byte to 16 MiB.
    pub max_body: ByteSize,
}

impl Default for Authz {
    fn default() -> Self {
        Self {
            context: Vec::new(),
            body_as_bytes: false,
            copy_headers: Vec::new(),
            copy_to_client: Vec::new(),
            relay_failures: false,
            max_body: ByteSize::kib(64),
        }
    }
}
