//! How sockets end: close codes (RFC 6455 section 7.4) and close frames.

use super::{frame::Violation, utf8::Utf8};
use bytes::Bytes;

/// The endpoint goes away: the proxy ends, or nobody has said anything for too long.
pub(crate) const GOING_AWAY: u16 = 1001;
pub(crate) const PROTOCOL_ERROR: u16 = 1002;
pub(crate) const INVALID_DATA: u16 = 1007;
pub(crate) const POLICY: u16 = 1008;
pub(crate) const TOO_BIG: u16 = 1009;
/// Something is wrong on our side: an agent has failed that must not.
pub(crate) const INTERNAL_ERROR: u16 = 1011;
/// Never sent: a close frame without a code.
pub(crate) const NO_CODE: u16 = 1005;
/// Never sent: a connection that ended without a close frame.
pub(crate) const ABNORMAL: u16 = 1006;

/// A control frame carries at most so many bytes (RFC 6455 section 5.5).
pub(crate) const MOST_CONTROL_BYTES: usize = 125;

/// Whether an endpoint may send the code: those that the RFC and its registry define for that, and those of applications.
pub(crate) const fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The code in a close frame.
///
/// # Errors
/// The frame is not what a close frame may be.
pub(crate) fn code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        [_] => return Err(Violation::protocol("a close frame of one byte")),
    };
    if !is_sendable(code) {
        return Err(Violation::protocol("a close code that nobody may send"));
    }
    let mut text = Utf8::default();
    if text.push(reason).is_err() || !text.is_complete() {
        return Err(Violation::invalid("a reason that is not UTF-8"));
    }
    Ok(Some(code))
}

/// What is in a close frame with this code and as much of the reason as there is room for.
pub(crate) fn payload(code: u16, reason: &str) -> Bytes {
    let room = reason.floor_char_boundary(MOST_CONTROL_BYTES - 2);
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..room]);
    payload.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_frames_are_checked() {
        assert_eq!(code(b""), Ok(None));
        assert_eq!(code(&payload(1000, "bye")), Ok(Some(1000)));
        assert_eq!(code(b"\x03").unwrap_err().code, PROTOCOL_ERROR);
        assert_eq!(code(b"\x03\xe8\xff").unwrap_err().code, INVALID_DATA);
        assert_eq!(code(b"\x03\xe8\xc3").unwrap_err().code, INVALID_DATA);
        for (number, good) in [
            (0, false),
            (999, false),
            (1000, true),
            (1003, true),
            (1004, false),
            (1005, false),
            (1006, false),
            (1007, true),
            (1014, true),
            (1015, false),
            (1016, false),
            (2999, false),
            (3000, true),
            (4999, true),
            (5000, false),
            (65535, false),
        ] {
            assert_eq!(code(&payload(number, "")).is_ok(), good, "{number}");
        }
    }

    #[test]
    fn a_reason_has_room_in_a_control_frame() {
        let long = payload(1008, &"ä".repeat(100));
        assert!(long.len() <= MOST_CONTROL_BYTES);
        assert_eq!(code(&long), Ok(Some(1008)));
    }
}
