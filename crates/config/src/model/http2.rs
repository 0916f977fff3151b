//! `http2 { … }` of a listener: how much of HTTP/2 one connection may have.

use super::ByteSize;

/// The settings of HTTP/2 that clients are given. What else bounds a connection follows from the listener's limits and
/// timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2 {
    /// Requests of one connection at a time; beyond it a stream is refused, which clients may repeat. Default 100, at most
    /// 1000.
    pub max_concurrent_streams: u32,
    /// Bytes of a request body that may be on their way unread. Default 256 KiB, 64 KiB to 16 MiB.
    pub initial_stream_window: ByteSize,
    /// The same of all request bodies of a connection together. Default 1 MiB, 64 KiB to 16 MiB.
    pub initial_connection_window: ByteSize,
}

impl Http2 {
    /// The most streams that can be asked for.
    pub const MAX_STREAMS: u32 = 1000;
    /// The smallest window. A connection begins with one of 65535 bytes, which cannot be taken back.
    pub const MIN_WINDOW: ByteSize = ByteSize::kib(64);
    /// The largest window.
    pub const MAX_WINDOW: ByteSize = ByteSize::mib(16);
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 100,
            initial_stream_window: ByteSize::kib(256),
            initial_connection_window: ByteSize::mib(1),
        }
    }
}
