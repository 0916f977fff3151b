//! What waits to be written, in the form that the connection has: frames of a
//! Unix socket, or messages of a stream of gRPC.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message;
use serde_json::Value;

use super::Limits;
use super::configure;
use crate::codec::frame::{self, MAX_FRAME_BYTES, MessageType};
use crate::codec::protobuf::messages::{
    CancelRequest, ConfigureEvent, FromProxy, Ping, ProxyToAgent,
};
use crate::codec::{binary, handshake, json, protobuf};
use crate::transport::{Frames, now_ms};
use crate::{CallError, CancelReason, Event, Extensions};

/// Something that the agent is to be sent.
pub(super) enum Outgoing<'a> {
    Event(&'a Event<'a>),
    Configure(NewConfiguration<'a>),
    /// The answer to the event with the number that goes with it is no longer
    /// wanted.
    Cancel {
        correlation_id: &'a str,
        reason: CancelReason,
    },
    Ping {
        sequence: u64,
    },
}

/// A configuration for the agent.
#[derive(Clone, Copy)]
pub(crate) struct NewConfiguration<'a> {
    pub(crate) config: &'a Value,
    pub(crate) version: Option<&'a str>,
    pub(crate) correlation_id: &'a str,
    pub(crate) is_initial: bool,
}

impl Outgoing<'_> {
    fn kind(&self) -> MessageType {
        match self {
            Self::Event(event) => event.kind().into(),
            Self::Configure(_) => MessageType::Configure,
            Self::Cancel { .. } => MessageType::Cancel,
            Self::Ping { .. } => MessageType::Ping,
        }
    }

    // Appends the payload of a frame. What is returned belongs behind it.
    fn write(&self, out: &mut Vec<u8>, number: u64, extensions: Extensions) -> Option<Bytes> {
        let numbered = extensions.event_id.then_some(number);
        match self {
            Self::Event(event) if extensions.binary => {
                return binary::encode_event_head(out, number, event);
            }
            Self::Event(event) => json::encode_event(out, numbered, event),
            Self::Configure(it) => {
                let message =
                    configure::message(it.config, it.version, it.correlation_id, numbered);
                let encoded = handshake::encode(out, &message);
                debug_assert!(encoded.is_ok(), "any value can be written into a vector");
            }
            Self::Cancel {
                correlation_id,
                reason,
            } => json::encode_cancel(out, numbered, correlation_id, *reason, now_ms()),
            Self::Ping { sequence } => json::encode_ping(out, *sequence, now_ms()),
        }
        None
    }

    fn message(&self, number: u64, extensions: Extensions) -> ProxyToAgent {
        let numbered = extensions.event_id.then_some(number);
        let (message, event_id) = match self {
            Self::Event(event) => return protobuf::encode_event(numbered, event),
            Self::Configure(it) => return configuration(*it, numbered),
            Self::Cancel {
                correlation_id,
                reason,
            } => {
                let cancel = CancelRequest {
                    correlation_id: (*correlation_id).to_owned(),
                    // One more than in JSON, and 0 for one that is not said.
                    reason: *reason as i32 + 1,
                    timestamp_ms: now_ms(),
                };
                (FromProxy::Cancel(cancel), numbered)
            }
            Self::Ping { sequence } => {
                let ping = Ping {
                    sequence: *sequence,
                    timestamp_ms: now_ms(),
                };
                (FromProxy::Ping(ping), None)
            }
        };
        ProxyToAgent {
            message: Some(message),
            event_id,
            budget_left_us: None,
        }
    }
}

/// A configuration as a message of gRPC.
pub(crate) fn configuration(it: NewConfiguration<'_>, event_id: Option<u64>) -> ProxyToAgent {
    ProxyToAgent {
        message: Some(FromProxy::Configure(ConfigureEvent {
            config_json: it.config.to_string(),
            config_version: it.version.map(str::to_owned),
            is_initial: it.is_initial,
            timestamp_ms: now_ms(),
        })),
        event_id,
        budget_left_us: None,
    }
}

pub(super) enum Outbox {
    Frames(Frames),
    Messages(Messages),
}

/// Messages, and how many bytes they will have.
#[derive(Default)]
pub(super) struct Messages {
    queue: VecDeque<(ProxyToAgent, usize)>,
    bytes: usize,
}

impl Outbox {
    /// How many bytes wait in it.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Frames(frames) => frames.len(),
            Self::Messages(messages) => messages.bytes,
        }
    }

    pub(super) fn clear(&mut self) {
        match self {
            Self::Frames(frames) => frames.clear(),
            Self::Messages(messages) => *messages = Messages::default(),
        }
    }

    /// Appends something, or leaves everything as it was.
    ///
    /// # Errors
    /// [`CallError::EventTooLarge`].
    pub(super) fn push(
        &mut self,
        outgoing: &Outgoing<'_>,
        number: u64,
        extensions: Extensions,
        limits: &Limits,
    ) -> Result<(), CallError> {
        let limit = limits.max_frame_bytes;
        let too_large = |bytes| CallError::EventTooLarge { bytes, limit };
        match self {
            Self::Frames(frames) => {
                let mut large = None;
                let write = |out: &mut Vec<u8>| {
                    large = outgoing.write(out, number, extensions);
                    large.as_ref().map_or(0, Bytes::len)
                };
                frame::append_head(&mut frames.bytes, outgoing.kind(), limit, write)
                    .map_err(too_large)?;
                if let Some(large) = large {
                    frames.push_large(large);
                }
            }
            Self::Messages(messages) => {
                let message = outgoing.message(number, extensions);
                let bytes = message.encoded_len();
                if bytes > limit.min(MAX_FRAME_BYTES) {
                    return Err(too_large(bytes));
                }
                messages.bytes += bytes;
                messages.queue.push_back((message, bytes));
            }
        }
        Ok(())
    }

    /// The frames, of a connection that has them.
    pub(super) fn frames(&mut self) -> Option<&mut Frames> {
        match self {
            Self::Frames(frames) => Some(frames),
            Self::Messages(_) => None,
        }
    }

    /// Takes off the next message, of a connection that has them.
    pub(super) fn next_message(&mut self) -> Option<ProxyToAgent> {
        let Self::Messages(messages) = self else {
            return None;
        };
        let (message, bytes) = messages.queue.pop_front()?;
        messages.bytes -= bytes;
        Some(message)
    }
}
