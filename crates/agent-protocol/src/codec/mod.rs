//! Codecs: bytes to messages and back. Everything here is pure: no sockets,
//! no clock, no allocation by a length that a peer merely claims.

pub mod binary;
pub mod frame;
pub mod handshake;
pub mod json;
