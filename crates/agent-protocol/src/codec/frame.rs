//! Frames: `[u32 big-endian N][u8 type][N-1 bytes payload]`.

use bytes::{Bytes, BytesMut};

use crate::{EventKind, ProtocolError};

/// The most that N may be in the protocol, and the default limit: 16 MiB.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// The bytes before the payload: the length and the type.
pub const HEADER_BYTES: usize = 5;

const LENGTH_BYTES: usize = 4;

/// The kinds of messages. The comments say who sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// Proxy: the first message of a connection.
    HandshakeRequest = 0x01,
    /// Agent: the answer to it.
    HandshakeResponse = 0x02,
    /// Proxy: the head of a request.
    RequestHeaders = 0x10,
    /// Proxy: a piece of a request's body.
    RequestBodyChunk = 0x11,
    /// Proxy: the head of a response.
    ResponseHeaders = 0x12,
    /// Proxy: a piece of a response's body.
    ResponseBodyChunk = 0x13,
    /// Proxy: a request has ended.
    RequestComplete = 0x14,
    /// Proxy: a frame of a WebSocket.
    WebSocketFrame = 0x15,
    /// Proxy: text for a guardrail.
    GuardrailInspect = 0x16,
    /// Proxy: the agent's configuration.
    Configure = 0x17,
    /// Agent: the answer to an event or to a configuration.
    AgentResponse = 0x20,
    /// Agent: how it is.
    HealthStatus = 0x30,
    /// Agent: its metrics.
    MetricsReport = 0x31,
    /// Agent: it wants its configuration changed.
    ConfigUpdateRequest = 0x32,
    /// Agent: pause or resume.
    FlowControl = 0x33,
    /// Agent: none of its verdicts holds any longer; only with `verdict-ttl`.
    VerdictPurge = 0x34,
    /// Proxy: the answer to an event is no longer wanted.
    Cancel = 0x40,
    /// Proxy: are you there?
    Ping = 0x41,
    /// Agent: yes.
    Pong = 0x42,
}

impl MessageType {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::HandshakeRequest,
        Self::HandshakeResponse,
        Self::RequestHeaders,
        Self::RequestBodyChunk,
        Self::ResponseHeaders,
        Self::ResponseBodyChunk,
        Self::RequestComplete,
        Self::WebSocketFrame,
        Self::GuardrailInspect,
        Self::Configure,
        Self::AgentResponse,
        Self::HealthStatus,
        Self::MetricsReport,
        Self::ConfigUpdateRequest,
        Self::FlowControl,
        Self::VerdictPurge,
        Self::Cancel,
        Self::Ping,
        Self::Pong,
    ];

    /// The type with this number.
    ///
    /// # Errors
    /// [`ProtocolError::UnknownType`].
    pub fn from_byte(byte: u8) -> Result<Self, ProtocolError> {
        match Self::ALL.into_iter().find(|kind| *kind as u8 == byte) {
            Some(kind) => Ok(kind),
            None => Err(ProtocolError::UnknownType(byte)),
        }
    }

    /// The kind of the events that are messages of this type; `None` when it
    /// is not that of an event.
    #[must_use]
    pub const fn event_kind(self) -> Option<EventKind> {
        match self {
            Self::RequestHeaders => Some(EventKind::RequestHeaders),
            Self::RequestBodyChunk => Some(EventKind::RequestBodyChunk),
            Self::ResponseHeaders => Some(EventKind::ResponseHeaders),
            Self::ResponseBodyChunk => Some(EventKind::ResponseBodyChunk),
            Self::RequestComplete => Some(EventKind::RequestComplete),
            Self::WebSocketFrame => Some(EventKind::WebSocketFrame),
            Self::GuardrailInspect => Some(EventKind::GuardrailInspect),
            Self::Configure => Some(EventKind::Configure),
            Self::HandshakeRequest
            | Self::HandshakeResponse
            | Self::AgentResponse
            | Self::HealthStatus
            | Self::MetricsReport
            | Self::ConfigUpdateRequest
            | Self::FlowControl
            | Self::VerdictPurge
            | Self::Cancel
            | Self::Ping
            | Self::Pong => None,
        }
    }
}

impl From<EventKind> for MessageType {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::RequestHeaders => Self::RequestHeaders,
            EventKind::RequestBodyChunk => Self::RequestBodyChunk,
            EventKind::ResponseHeaders => Self::ResponseHeaders,
            EventKind::ResponseBodyChunk => Self::ResponseBodyChunk,
            EventKind::RequestComplete => Self::RequestComplete,
            EventKind::WebSocketFrame => Self::WebSocketFrame,
            EventKind::GuardrailInspect => Self::GuardrailInspect,
            EventKind::Configure => Self::Configure,
        }
    }
}

/// Appends one frame whose payload `write` appends. The length is filled in
/// afterwards, so the payload is written in place and only once.
///
/// # Errors
/// The number of bytes that the frame would have had when that is more than
/// `max_frame_bytes`; `out` is as it was before.
pub fn append(
    out: &mut Vec<u8>,
    kind: MessageType,
    max_frame_bytes: usize,
    write: impl FnOnce(&mut Vec<u8>),
) -> Result<(), usize> {
    append_head(out, kind, max_frame_bytes, |out| {
        write(out);
        0
    })
}

/// Appends the beginning of a frame; `write` says how many bytes of it follow
/// that are kept elsewhere.
///
/// # Errors
/// As [`append`].
pub(crate) fn append_head(
    out: &mut Vec<u8>,
    kind: MessageType,
    max_frame_bytes: usize,
    write: impl FnOnce(&mut Vec<u8>) -> usize,
) -> Result<(), usize> {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind as u8]);
    let follows = write(out);
    let length = out.len() + follows - start - LENGTH_BYTES;
    match u32::try_from(length) {
        Ok(claimed) if length <= max_frame_bytes.min(MAX_FRAME_BYTES) => {
            out[start..start + LENGTH_BYTES].copy_from_slice(&claimed.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(length)
        }
    }
}

/// Looks at the head of `bytes`: the type of its first frame and how many
/// bytes it has with its header; `None` while the frame is incomplete.
///
/// # Errors
/// A length outside the limits or an unknown type, as soon as it can be seen
/// and before anything is allocated for it.
pub fn peek(
    bytes: &[u8],
    max_frame_bytes: usize,
) -> Result<Option<(MessageType, usize)>, ProtocolError> {
    let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let limit = max_frame_bytes.min(MAX_FRAME_BYTES);
    if length == 0 || length as usize > limit {
        return Err(ProtocolError::FrameLength {
            length,
            limit: limit as u32,
        });
    }
    let Some(&byte) = bytes.get(LENGTH_BYTES) else {
        return Ok(None);
    };
    let kind = MessageType::from_byte(byte)?;
    let total = LENGTH_BYTES + length as usize;
    Ok((bytes.len() >= total).then_some((kind, total)))
}

/// Takes the first frame off `buffer` without copying its payload; `None`
/// while it is incomplete.
///
/// # Errors
/// As [`peek`].
pub fn take(
    buffer: &mut BytesMut,
    max_frame_bytes: usize,
) -> Result<Option<(MessageType, Bytes)>, ProtocolError> {
    let Some((kind, total)) = peek(buffer, max_frame_bytes)? else {
        return Ok(None);
    };
    let mut frame = buffer.split_to(total).freeze();
    let payload = frame.split_off(HEADER_BYTES);
    Ok(Some((kind, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_length_type_payload() {
        let mut out = vec![0xff];
        append(&mut out, MessageType::Ping, 100, |out| {
            out.extend_from_slice(b"abc")
        })
        .unwrap();
        assert_eq!(out, b"\xff\0\0\0\x04\x41abc");
        assert_eq!(peek(&out[1..], 100), Ok(Some((MessageType::Ping, 8))));
    }

    #[test]
    fn every_kind_of_event_has_its_type() {
        let mut events = 0;
        for kind in MessageType::ALL {
            if let Some(event) = kind.event_kind() {
                assert_eq!(MessageType::from(event), kind);
                events += 1;
            }
        }
        assert_eq!(events, 8);
    }

    #[test]
    fn an_oversize_frame_leaves_no_trace() {
        let mut out = b"before".to_vec();
        let refused = append(&mut out, MessageType::Ping, 3, |out| {
            out.extend_from_slice(b"abc")
        });
        assert_eq!(refused, Err(4));
        assert_eq!(out, b"before");
    }

    #[test]
    fn the_head_of_a_frame_is_judged_early() {
        let length = |length| Err(ProtocolError::FrameLength { length, limit: 16 });
        let table: [(&[u8], Result<_, _>); 9] = [
            (b"", Ok(None)),
            (b"\0\0\0", Ok(None)),
            (b"\0\0\0\0", length(0)),
            (b"\0\0\0\x11", length(17)),
            (b"\xff\xff\xff\xff", length(u32::MAX)),
            (b"\0\0\0\x10", Ok(None)),
            (b"\0\0\0\x10\x77", Err(ProtocolError::UnknownType(0x77))),
            (b"\0\0\0\x10\x20", Ok(None)),
            (
                b"\0\0\0\x01\x20\0",
                Ok(Some((MessageType::AgentResponse, 5))),
            ),
        ];
        for (bytes, expected) in table {
            assert_eq!(peek(bytes, 16), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn the_protocol_limit_holds_whatever_is_configured() {
        let claimed = (MAX_FRAME_BYTES as u32 + 1).to_be_bytes();
        assert!(matches!(
            peek(&claimed, usize::MAX),
            Err(ProtocolError::FrameLength { .. })
        ));
    }

    #[test]
    fn frames_come_off_in_order() {
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(b"\0\0\0\x02\x41a\0\0\0\x01\x42\0\0");
        let first = take(&mut buffer, 16).unwrap();
        assert_eq!(first, Some((MessageType::Ping, Bytes::from_static(b"a"))));
        assert_eq!(
            take(&mut buffer, 16).unwrap(),
            Some((MessageType::Pong, Bytes::new()))
        );
        assert_eq!(take(&mut buffer, 16).unwrap(), None);
        assert_eq!(&buffer[..], b"\0\0");
    }
}
