//! One frame, and how it is taken out of a stream of bytes (RFC 6455 section 5.2).

use super::close::{INVALID_DATA, MOST_CONTROL_BYTES, PROTOCOL_ERROR, TOO_BIG};
use bytes::{Bytes, BytesMut};
use std::io::Cursor;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    pub(crate) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    pub(super) const fn to_wire(self) -> OpCode {
        match self {
            Self::Continuation => OpCode::Data(Data::Continue),
            Self::Text => OpCode::Data(Data::Text),
            Self::Binary => OpCode::Data(Data::Binary),
            Self::Close => OpCode::Control(Control::Close),
            Self::Ping => OpCode::Control(Control::Ping),
            Self::Pong => OpCode::Control(Control::Pong),
        }
    }

    const fn from_wire(opcode: OpCode) -> Option<Self> {
        Some(match opcode {
            OpCode::Data(Data::Continue) => Self::Continuation,
            OpCode::Data(Data::Text) => Self::Text,
            OpCode::Data(Data::Binary) => Self::Binary,
            OpCode::Control(Control::Close) => Self::Close,
            OpCode::Control(Control::Ping) => Self::Ping,
            OpCode::Control(Control::Pong) => Self::Pong,
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => return None,
        })
    }
}

/// A frame without mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: Opcode,
    pub(crate) fin: bool,
    pub(crate) data: Bytes,
}

/// A side does not keep to the rules, or to the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    /// With which it is told so.
    pub(crate) code: u16,
    /// For the log.
    pub(crate) why: &'static str,
}

impl Violation {
    pub(super) const fn protocol(why: &'static str) -> Self {
        Self {
            code: PROTOCOL_ERROR,
            why,
        }
    }

    pub(super) const fn invalid(why: &'static str) -> Self {
        Self {
            code: INVALID_DATA,
            why,
        }
    }

    pub(super) const fn too_big(why: &'static str) -> Self {
        Self { code: TOO_BIG, why }
    }
}

/// What is held against each frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Whether all frames are masked; otherwise none is.
    pub(super) masked: bool,
    /// Whether the two sides have agreed on compression, which marks the first frame of a message.
    pub(super) compressed: bool,
    /// The most bytes of a frame.
    pub(super) most: u64,
}

/// A frame as it came, without mask.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) frame: Frame,
    pub(super) compressed: bool,
}

/// Takes the first frame out of what has come, when all of it is here.
///
/// # Errors
/// The frame breaks a rule, which shows when its head is here.
pub(super) fn take(buffer: &mut BytesMut, rules: &Rules) -> Result<Option<Raw>, Violation> {
    let mut cursor = Cursor::new(&buffer[..]);
    let parsed =
        FrameHeader::parse(&mut cursor).map_err(|_| Violation::protocol("a reserved opcode"))?;
    let Some((head, length)) = parsed else {
        return early(buffer, rules);
    };
    let start = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
    let opcode = check(&head, length, start, rules)?;
    // No frame is longer than the limit, so it has room in memory.
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    if buffer.len() < end {
        return Ok(None);
    }
    let mut data = buffer.split_to(end).split_off(start);
    if let Some(key) = head.mask {
        unmask(&mut data, key);
    }
    Ok(Some(Raw {
        frame: Frame {
            opcode,
            fin: head.is_final,
            data: data.freeze(),
        },
        compressed: head.rsv1,
    }))
}

/// What the first bytes say already: nobody has to wait for the rest of what is wrong.
fn early(buffer: &BytesMut, rules: &Rules) -> Result<Option<Raw>, Violation> {
    let Some(first) = buffer.first() else {
        return Ok(None);
    };
    let opcode = Opcode::from_wire(OpCode::from(first & 0x0f))
        .ok_or(Violation::protocol("a reserved opcode"))?;
    check_bits([first & 0x40, first & 0x20, first & 0x10], opcode, rules)?;
    Ok(None)
}

fn check_bits(bits: [u8; 3], opcode: Opcode, rules: &Rules) -> Result<(), Violation> {
    let [first, second, third] = bits.map(|bit| bit != 0);
    let begins = matches!(opcode, Opcode::Text | Opcode::Binary);
    if second || third || first && !(rules.compressed && begins) {
        return Err(Violation::protocol("a reserved bit is set"));
    }
    Ok(())
}

fn check(
    head: &FrameHeader,
    length: u64,
    head_bytes: usize,
    rules: &Rules,
) -> Result<Opcode, Violation> {
    let opcode = Opcode::from_wire(head.opcode).ok_or(Violation::protocol("a reserved opcode"))?;
    let bits = [head.rsv1, head.rsv2, head.rsv3].map(u8::from);
    check_bits(bits, opcode, rules)?;
    if head.mask.is_some() != rules.masked {
        return Err(Violation::protocol(match rules.masked {
            true => "a frame of the client is not masked",
            false => "a frame of the server is masked",
        }));
    }
    if opcode.is_control() && (!head.is_final || length > MOST_CONTROL_BYTES as u64) {
        return Err(Violation::protocol(
            "a control frame in pieces, or of more than 125 bytes",
        ));
    }
    if length > i64::MAX as u64 || head.len(length) != head_bytes {
        return Err(Violation::protocol(
            "a length that is not written as the standard says",
        ));
    }
    if length > rules.most {
        return Err(Violation::too_big("a frame of more than frame-bytes"));
    }
    Ok(opcode)
}

/// Masking and unmasking are the same (RFC 6455 section 5.3). In chunks, which compilers make fast.
fn unmask(data: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let mut chunks = data.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        let word = u64::from_ne_bytes(word) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}
