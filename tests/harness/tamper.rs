//! Ways to spoil a frame on its way from an agent to the proxy.

use super::find;
use std::time::Duration;

/// What becomes of a frame. Offsets count from its first byte: four bytes of length, one of type, the payload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tamper {
    /// It passes.
    Nothing,
    /// It never arrives.
    Swallow,
    /// So many bytes arrive, and then nothing more, of this frame or another.
    Stall(usize),
    /// It arrives byte by byte, with this pause after each.
    Drip(Duration),
    /// So many bytes arrive, and then the connection closes.
    Cut(usize),
    /// So many bytes are missing at the end, and the connection closes.
    CutBeforeEnd(usize),
    /// Its length is said to be this much more, or less, than it is.
    Lie(i32),
    /// Its length is said to be this.
    Length(u32),
    /// It has another type.
    Kind(u8),
    /// These bits of a byte are turned.
    Flip(usize, u8),
    /// The byte at this offset is this one.
    Byte(usize, u8),
    /// It has another payload, and a right length.
    Payload(&'static [u8]),
    /// The text is replaced in its payload, and the length is right.
    Text(&'static str, &'static str),
    /// These bytes arrive instead.
    Instead(&'static [u8]),
    /// It is followed by these bytes.
    Then(&'static [u8]),
    /// It names an event that nobody asked.
    WrongId,
    /// The answer before this one arrives again instead of this one.
    Replay,
    /// It arrives twice.
    Twice,
    /// Before it comes an answer that nobody asked for.
    Unsolicited,
    /// It changes places with the next one of its connection.
    Cross,
    /// It changes places with one of another connection.
    CrossConnections,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    Stall,
    Close,
}

impl Tamper {
    /// What arrives instead of a frame. `last` is the answer before it.
    pub(super) fn spoil(&self, frame: &[u8], last: Option<&[u8]>) -> (Vec<u8>, Then) {
        let mut bytes = frame.to_vec();
        let length = u32::try_from(frame.len() - 4).unwrap();
        match self {
            Self::Nothing | Self::Drip(_) | Self::Cross | Self::CrossConnections => {}
            Self::Swallow => bytes.clear(),
            Self::Stall(count) => {
                bytes.truncate(*count);
                return (bytes, Then::Stall);
            }
            Self::Cut(count) => {
                bytes.truncate(*count);
                return (bytes, Then::Close);
            }
            Self::CutBeforeEnd(count) => {
                bytes.truncate(frame.len() - count);
                return (bytes, Then::Close);
            }
            Self::Lie(difference) => {
                set_length(&mut bytes, length.checked_add_signed(*difference).unwrap());
            }
            Self::Length(claimed) => set_length(&mut bytes, *claimed),
            Self::Kind(kind) => bytes[4] = *kind,
            Self::Flip(at, bits) => bytes[*at] ^= bits,
            Self::Byte(at, byte) => bytes[*at] = *byte,
            Self::Payload(payload) => {
                bytes.truncate(5);
                bytes.extend_from_slice(payload);
                let length = bytes.len() - 4;
                set_length(&mut bytes, u32::try_from(length).unwrap());
            }
            Self::Text(from, to) => bytes = with_text(frame, from, to),
            Self::Instead(other) => bytes = other.to_vec(),
            Self::Then(more) => bytes.extend_from_slice(more),
            Self::WrongId => bytes = with_another_id(frame),
            // There may be none to send again.
            Self::Replay => bytes = last.unwrap_or(frame).to_vec(),
            Self::Twice => bytes.extend_from_slice(frame),
            Self::Unsolicited => bytes = [&with_another_id(frame)[..], frame].concat(),
        }
        (bytes, Then::GoOn)
    }
}

impl Tamper {
    /// Whether what comes behind the frame on its connection is spoilt as well.
    pub(super) fn ruins(&self) -> bool {
        use Tamper::{Flip, Instead, Length, Lie, Then};
        matches!(
            self,
            Lie(_) | Length(_) | Instead(_) | Then(_) | Flip(0..4, _)
        )
    }
}

/// The type of a whole frame.
pub(super) fn kind(frame: &[u8]) -> u8 {
    frame[4]
}

/// How long the frame at the start of these bytes is, its header included.
pub(super) fn frame_length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk::<4>()?;
    Some(4 + u32::from_be_bytes(*length) as usize)
}

fn set_length(frame: &mut [u8], length: u32) {
    frame[..4].copy_from_slice(&length.to_be_bytes());
}

fn with_text(frame: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = find(frame, from.as_bytes()).unwrap_or_else(|| {
        let text = String::from_utf8_lossy(frame);
        panic!("{from:?} is not in {text:?}")
    });
    let mut bytes = [&frame[..at], to.as_bytes(), &frame[at + from.len()..]].concat();
    let length = bytes.len() - 4;
    set_length(&mut bytes, u32::try_from(length).unwrap());
    bytes
}

/// The same answer to another event. JSON begins with a brace, binary with the high byte of a number below 2^53.
fn with_another_id(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    if frame[5] != b'{' {
        // A place that is used so often would have been used for years.
        bytes[5..13].copy_from_slice(&(0x1_ffff_0007_u64 << 20).to_be_bytes());
        return bytes;
    }
    // Every id that it has, and there may be two.
    for key in [&b"\"event_id\":"[..], b"\"correlation_id\":\""] {
        let mut from = 0;
        while let Some(at) = find(&bytes[from..], key) {
            let value = from + at + key.len();
            bytes[value] = if bytes[value] == b'8' { b'9' } else { b'8' };
            from = value;
        }
    }
    bytes
}
