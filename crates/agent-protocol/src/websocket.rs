//! Frames of WebSockets: what an agent is shown of them, and what it decides.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

/// The most bytes that the reason of a close may have: what is left of the
/// 125 bytes of a control frame behind the code.
pub const MAX_CLOSE_REASON_BYTES: usize = 123;

/// The most bytes that the payload of a control frame may have.
pub const MAX_CONTROL_FRAME_BYTES: usize = 125;

/// The kind of a frame (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameOpcode {
    /// More of the message that the frames before it have begun.
    Continuation = 0x0,
    /// The beginning of a message of text, or all of it.
    Text = 0x1,
    /// The beginning of a message of bytes, or all of it.
    Binary = 0x2,
    /// The end of one direction. Its data are a code and a reason, or nothing.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping, or says that its sender is there.
    Pong = 0xa,
}

impl FrameOpcode {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Continuation,
        Self::Text,
        Self::Binary,
        Self::Close,
        Self::Ping,
        Self::Pong,
    ];

    /// The name, as in `text`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Continuation => "continuation",
            Self::Text => "text",
            Self::Binary => "binary",
            Self::Close => "close",
            Self::Ping => "ping",
            Self::Pong => "pong",
        }
    }

    /// The opcode of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|opcode| opcode.name() == name)
    }

    /// The opcode of this number; `None` for those that are reserved.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|opcode| *opcode as u8 == number)
    }

    /// Whether it is a frame of control, which may stand between the
    /// fragments of a message and is never itself a fragment.
    #[must_use]
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame of a WebSocket, in either direction, before it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketFrame<'a> {
    /// The id that all events of the request have that became the WebSocket.
    pub correlation_id: &'a str,
    /// The kind of the frame.
    pub opcode: FrameOpcode,
    /// The payload: unmasked, and inflated if the two ends had agreed to
    /// compress it. The text of a message may be cut within a character when
    /// the message has several frames. As with
    /// [`BodyChunk::data`](crate::BodyChunk::data), who keeps a few bytes for
    /// long should copy them.
    pub data: Bytes,
    /// Whether it goes from the client to the server.
    pub client_to_server: bool,
    /// The number of the frame in its direction, from 0.
    pub index: u64,
    /// Whether it is the last frame of its message.
    pub fin: bool,
    /// The route that the request took.
    pub route_id: Option<&'a str>,
    /// The address of the client, after trusted proxies were looked through.
    pub client_ip: IpAddr,
    /// As [`RequestHeaders::budget_left`](crate::RequestHeaders::budget_left).
    pub budget_left: Option<Duration>,
}

/// What becomes of a frame that does not pass as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameDecision {
    /// It does not go on.
    Drop,
    /// It goes on with this payload, which may be empty. Its kind and whether
    /// it is the last of its message stay as they are. Text has to stay UTF-8
    /// over all frames of a message.
    Replace(Bytes),
    /// It does not go on, and the WebSocket is closed in both directions.
    Close {
        /// The code, see [`is_close_code`]. The receiver checks it.
        code: u16,
        /// Why, for the two ends; at most [`MAX_CLOSE_REASON_BYTES`]. The
        /// receiver checks it.
        reason: String,
    },
}

impl FrameDecision {
    /// Whether it can be carried out on a frame of this kind.
    ///
    /// # Errors
    /// What is wrong with it, in words for a log.
    pub fn validate(&self, opcode: FrameOpcode) -> Result<(), String> {
        match self {
            Self::Drop => Ok(()),
            Self::Replace(data) => validate_replacement(opcode, data),
            Self::Close { code, .. } if !is_close_code(*code) => {
                Err(format!("{code} is not a code that a close may have"))
            }
            Self::Close { reason, .. } if reason.len() > MAX_CLOSE_REASON_BYTES => Err(format!(
                "a reason of {} bytes is longer than {MAX_CLOSE_REASON_BYTES}",
                reason.len()
            )),
            Self::Close { .. } => Ok(()),
        }
    }
}

// Of messages nothing can be said by one frame alone.
fn validate_replacement(opcode: FrameOpcode, data: &[u8]) -> Result<(), String> {
    if opcode.is_control() && data.len() > MAX_CONTROL_FRAME_BYTES {
        return Err(format!(
            "{} bytes are too many for a {} frame, which has at most {MAX_CONTROL_FRAME_BYTES}",
            data.len(),
            opcode.name()
        ));
    }
    if opcode != FrameOpcode::Close || data.is_empty() {
        return Ok(());
    }
    let Some((code, reason)) = data.split_first_chunk() else {
        return Err("a close frame cannot have one byte".to_owned());
    };
    let code = u16::from_be_bytes(*code);
    match is_close_code(code) {
        false => Err(format!("{code} is not a code that a close may have")),
        true => match std::str::from_utf8(reason) {
            Ok(_) => Ok(()),
            Err(_) => Err("the reason of a close is not UTF-8".to_owned()),
        },
    }
}

/// Whether a close frame may have this code: one that RFC 6455, section 7.4,
/// or the registry that it founds defines for the wire (1000 to 1003, 1007 to
/// 1014), or one of libraries and applications (3000 to 4999).
#[must_use]
pub const fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_have_names_and_numbers() {
        for opcode in FrameOpcode::ALL {
            assert_eq!(FrameOpcode::from_name(opcode.name()), Some(opcode));
            assert_eq!(FrameOpcode::from_number(opcode as u8), Some(opcode));
            assert_eq!(opcode.is_control(), opcode as u8 & 8 != 0);
        }
        let known = (0..=255).filter_map(FrameOpcode::from_number).count();
        assert_eq!(known, FrameOpcode::ALL.len());
        assert_eq!(FrameOpcode::from_name("Text"), None);
    }

    #[test]
    fn close_codes_are_those_that_may_be_sent() {
        let allowed: Vec<u16> = (0..=u16::MAX).filter(|code| is_close_code(*code)).collect();
        let expected: Vec<u16> = (1000..=1003)
            .chain(1007..=1014)
            .chain(3000..=4999)
            .collect();
        assert_eq!(allowed, expected);
    }

    #[test]
    fn a_decision_has_to_fit_its_frame() {
        use FrameOpcode::{Close, Continuation, Ping, Pong, Text};
        let close = |code, length: usize| FrameDecision::Close {
            code,
            reason: "r".repeat(length),
        };
        let replace = |data: &[u8]| FrameDecision::Replace(Bytes::copy_from_slice(data));
        let table = [
            (FrameDecision::Drop, Close, true),
            (close(1008, 0), Text, true),
            (close(1008, 123), Text, true),
            (close(1008, 124), Text, false),
            (close(1005, 0), Text, false),
            (close(0, 0), Text, false),
            (close(999, 0), Ping, false),
            (replace(&[0; 126]), Text, true),
            (replace(&[0xff]), Continuation, true),
            (replace(&[0; 125]), Ping, true),
            (replace(&[0; 126]), Pong, false),
            (replace(b""), Close, true),
            (replace(b"\x03"), Close, false),
            (replace(b"\x03\xe8bye"), Close, true),
            (replace(b"\x03\xed"), Close, false),
            (replace(b"\x03\xe8\xff"), Close, false),
            (replace(&[3; 126]), Close, false),
        ];
        for (decision, opcode, good) in table {
            let judged = decision.validate(opcode);
            assert_eq!(judged.is_ok(), good, "{decision:?} {opcode:?}");
        }
        // The length counts in bytes.
        let long = FrameDecision::Close {
            code: 1000,
            reason: "é".repeat(62),
        };
        assert!(long.validate(Text).is_err());
    }
}
