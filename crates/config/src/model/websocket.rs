//! `websocket { … }` of a route: what holds for sockets whose frames pass through agents.

use super::ByteSize;
use std::time::Duration;

/// What may flow over an upgraded connection of which agents see the frames. Without such agents it means nothing, because
/// then nobody takes the frames apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocket {
    /// What is done about compression. Default refuse.
    pub deflate: Deflate,
    /// The most bytes of one frame, as agents see it. Beyond it the socket is closed with 1009. Default 1 MiB, or
    /// [`message_bytes`](Self::message_bytes) if that is less; 125 bytes to 8 MiB.
    pub frame_bytes: ByteSize,
    /// The most bytes of one message, all of its frames together, as agents see it. Beyond it the socket is closed with
    /// 1009. Default 16 MiB, or [`frame_bytes`](Self::frame_bytes) if that is more; 125 bytes to 1 TiB.
    pub message_bytes: ByteSize,
    /// The most bytes of each direction of a socket that wait for agents; beyond it nothing more is read from that side. Default
    /// twice [`frame_bytes`](Self::frame_bytes), which is also the least; 1 GiB at most.
    pub held_bytes: ByteSize,
    /// How long both sides may be silent. After it the socket is closed with 1001. Default 10 min.
    pub idle: Duration,
}

impl WebSocket {
    /// For one frame, when nobody says otherwise.
    pub(crate) const FRAME_BYTES: ByteSize = ByteSize::mib(1);
    /// For one message, when nobody says otherwise.
    pub(crate) const MESSAGE_BYTES: ByteSize = ByteSize::mib(16);
    /// Without a word from either side, when nobody says otherwise.
    pub(crate) const IDLE: Duration = Duration::from_mins(10);
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            deflate: Deflate::Refuse,
            frame_bytes: Self::FRAME_BYTES,
            message_bytes: Self::MESSAGE_BYTES,
            held_bytes: ByteSize(2 * Self::FRAME_BYTES.bytes()),
            idle: Self::IDLE,
        }
    }
}

/// What becomes of permessage-deflate (RFC 7692).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deflate {
    /// The client's offer does not reach the upstream, so that nothing is compressed. The default.
    #[default]
    Refuse,
    /// Both sides may agree on it. Messages are inflated, and go on as the agents saw them.
    Inflate {
        /// Inflated bytes that there may be for each compressed one, of a message. Default 100, 1 to 100 000.
        max_ratio: u32,
    },
}
