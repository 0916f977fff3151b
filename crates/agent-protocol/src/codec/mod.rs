//! Codecs: bytes to messages and back. Everything here is pure: no sockets,
//! no clock, no allocation by a length that a peer merely claims.

mod answer;
pub mod binary;
mod decoded;
pub mod frame;
pub mod handshake;
pub mod json;

pub use answer::{Answer, MAX_RETRY_AFTER, NoDecision};
pub use decoded::{BadMessage, DecodedRequestHeaders, EventId};
