//! Services that say whether a request may go on, and nothing else: Envoy's external authorization over gRPC ([`grpc`]) and
//! over HTTP ([`http`]), and forward-auth ([`forward_auth`]). Each request is one exchange.

mod answered;
mod check;
mod deferred;
mod forward_auth;
mod grpc;
mod http;
pub mod messages;
mod relay;
#[cfg(test)]
mod tests;

pub(crate) use forward_auth::ForwardAuth;
pub use forward_auth::ForwardAuthOptions;
pub(crate) use grpc::ExtAuthzGrpc;
pub use grpc::ExtAuthzGrpcOptions;
pub(crate) use http::ExtAuthzHttp;
pub use http::ExtAuthzHttpOptions;

use crate::{AgentLimits, Capabilities, EventKind};

/// A body comes in as few pieces as there can be; it is put together here.
const PIECE_BYTES: u64 = 8 << 20;

/// What a service of these dialects takes part in.
fn capabilities(name: &str, with_body: bool) -> Capabilities {
    let kinds = [EventKind::RequestHeaders, EventKind::RequestBodyChunk];
    let kinds = if with_body { &kinds[..] } else { &kinds[..1] };
    Capabilities {
        limits: AgentLimits {
            preferred_chunk_size: PIECE_BYTES,
            ..AgentLimits::default()
        },
        ..Capabilities::new(name, "").with_events(kinds)
    }
}
