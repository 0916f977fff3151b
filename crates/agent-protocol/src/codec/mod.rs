//! Codecs: bytes to messages and back. Everything here is pure: no sockets,
//! no clock, no allocation by a length that a peer merely claims.

mod answer;
pub mod binary;
mod decoded;
pub mod frame;
pub mod handshake;
pub mod json;
pub mod protobuf;
pub mod registration;
pub mod v1;

pub use answer::{Answer, MAX_RETRY_AFTER, NoDecision};
pub use decoded::{
    BadMessage, DecodedBodyChunk, DecodedEvent, DecodedGuardrailInspect, DecodedRequestComplete,
    DecodedRequestHeaders, DecodedResponseHeaders, DecodedWebSocketFrame, EventId,
};

/// The time left of a budget and the like, as all encodings have it.
fn whole_microseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
