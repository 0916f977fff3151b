//! Codecs: bytes to messages and back. Everything here is pure: no sockets,
//! no clock, no allocation by a length that a peer merely claims.

pub mod binary;
mod decoded;
pub mod frame;
pub mod handshake;
pub mod json;

pub use decoded::{BadMessage, DecodedRequestHeaders, EventId};

use crate::Decision;

/// What an agent answered: a decision, or that it failed and why.
pub type Answer = Result<Decision, String>;
