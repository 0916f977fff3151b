//! How a session and its proxy reach each other: what comes in, and what waits
//! to go out.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::codec::frame::{self, MessageType};
use crate::codec::protobuf::messages::ProxyToAgent;
use crate::codec::{Answer, EventId, binary, json};
use crate::transport::{Inbound, Outbound, Socket};
use crate::{Extensions, ProtocolError};

/// What a message of the proxy holds.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    /// JSON, or for events and where it was agreed on the binary encoding.
    Encoded(Bytes),
    /// An event in protobuf, and how many bytes it had.
    Message(Arc<ProxyToAgent>, usize),
}

impl Payload {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Encoded(bytes) => bytes.len(),
            Self::Message(_, bytes) => *bytes,
        }
    }

    /// What is in JSON on every wire: all but events.
    pub(super) fn json(&self) -> &[u8] {
        match self {
            Self::Encoded(bytes) => bytes,
            Self::Message(..) => &[],
        }
    }
}

/// Why something was not queued.
#[derive(Debug)]
pub(super) enum Unsent {
    /// It cannot be written, or is too large.
    Unwritable(String),
    /// There is no other way to say it than to end the connection.
    Ends(String),
}

/// A connection of a proxy. Everything but events and answers is JSON here,
/// whatever it is on the way.
pub(super) trait Wire: Send + 'static {
    /// What can be agreed on over it.
    const EXTENSIONS: Extensions;

    /// The type of the next complete message; `None` when there is none yet.
    fn peek(&self, limit: usize) -> Result<Option<MessageType>, ProtocolError>;

    /// Takes the next complete message.
    fn take(&mut self, limit: usize) -> Result<Option<(MessageType, Payload)>, ProtocolError>;

    /// Reads more; 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// Writes until nothing waits any longer.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// How many bytes wait to be written.
    fn unwritten(&self) -> usize;

    /// Queues a message whose payload `write` appends in JSON.
    fn queue(
        &mut self,
        kind: MessageType,
        limit: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), serde_json::Error>,
    ) -> Result<(), Unsent>;

    /// Queues an answer.
    fn answer(
        &mut self,
        id: &EventId,
        chunk_index: u32,
        answer: &Answer,
        extensions: Extensions,
        limit: usize,
    ) -> Result<(), Unsent>;

    /// The conversation is over, and why if it should not be.
    fn end(&mut self, _problem: Option<String>) {}
}

/// Frames on a socket.
pub(super) struct FrameWire {
    stream: Socket,
    inbound: Inbound,
    outbound: Outbound,
}

impl FrameWire {
    pub(super) fn new(stream: impl Into<Socket>) -> Self {
        Self {
            stream: stream.into(),
            inbound: Inbound::default(),
            outbound: Outbound::default(),
        }
    }
}

impl Wire for FrameWire {
    const EXTENSIONS: Extensions = Extensions::ALL;

    fn peek(&self, limit: usize) -> Result<Option<MessageType>, ProtocolError> {
        Ok(frame::peek(&self.inbound.bytes, limit)?.map(|(kind, _)| kind))
    }

    fn take(&mut self, limit: usize) -> Result<Option<(MessageType, Payload)>, ProtocolError> {
        let taken = frame::take(&mut self.inbound.bytes, limit)?;
        Ok(taken.map(|(kind, payload)| (kind, Payload::Encoded(payload))))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inbound.poll_read(&mut self.stream, cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbound.poll_flush(&mut self.stream, cx)
    }

    fn unwritten(&self) -> usize {
        self.outbound.remaining()
    }

    fn queue(
        &mut self,
        kind: MessageType,
        limit: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), serde_json::Error>,
    ) -> Result<(), Unsent> {
        let start = self.outbound.frames.bytes.len();
        let mut written = Ok(());
        let framed = frame::append(&mut self.outbound.frames.bytes, kind, limit, |out| {
            written = write(out);
        });
        if let Err(error) = written {
            self.outbound.frames.bytes.truncate(start);
            return Err(Unsent::Unwritable(error.to_string()));
        }
        framed.map_err(|bytes| Unsent::Unwritable(format!("{bytes} bytes are too many")))
    }

    fn answer(
        &mut self,
        id: &EventId,
        chunk_index: u32,
        answer: &Answer,
        extensions: Extensions,
        limit: usize,
    ) -> Result<(), Unsent> {
        self.queue(MessageType::AgentResponse, limit, |out| match id {
            EventId::Number(number) if extensions.binary => {
                binary::encode_answer(out, *number, answer, extensions)
            }
            id => json::encode_answer(out, id, chunk_index, answer, extensions),
        })
    }
}
