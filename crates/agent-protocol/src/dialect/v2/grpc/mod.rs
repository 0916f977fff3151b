//! Protocol version 2 over gRPC: one connection is one stream of the method
//! `ProcessStream`, in which messages are multiplexed as frames are over a Unix
//! socket.
//!
//! The stream of outgoing messages is polled by the connection of HTTP/2. It
//! takes messages out of what all handles share, so that flow control bounds
//! what leaves it and the bound of the outbound buffer bounds the rest. The
//! driver reads the stream of incoming messages.

mod connect;
mod driver;
mod outflow;

pub(crate) use connect::connect;
pub(crate) use driver::GrpcDriver;
