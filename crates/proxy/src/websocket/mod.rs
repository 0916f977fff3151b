//! WebSocket (RFC 6455) as bytes in and bytes out, without sockets: [`reader`] takes the frames of one direction out of a
//! stream and checks them, [`writer`] makes the frames of one direction, and keeps the stream valid when some are left out or
//! replaced. [`extension`] is what both sides agree on before.
//!
//! A proxy between the two ends is a server to the client and a client to the upstream: what comes masked is unmasked, and
//! masked again with keys of our own.

pub(crate) mod close;
pub(crate) mod extension;
pub(crate) mod frame;
mod inflate;
pub(crate) mod reader;
mod utf8;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
