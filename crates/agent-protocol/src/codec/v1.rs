//! Version 1 of the protocol, which old agents speak: `[u32 big-endian N][N
//! bytes of JSON]` over a Unix socket, or the same JSON over HTTP. A question
//! is an event of version 2 in an envelope, an answer is one of version 2
//! without an id. Every question has exactly one answer, in their order.

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde_json::Value;

use super::json;
use crate::{Decision, Event, EventKind, ProtocolError};

/// The most that N may be, and the most that is read over HTTP: 10 MiB.
pub const MAX_MESSAGE_BYTES: usize = 10 << 20;

const LENGTH_BYTES: usize = 4;

/// What an event of this kind is called. One of the names is not that of
/// version 2.
#[must_use]
pub const fn event_type(kind: EventKind) -> &'static str {
    match kind {
        // Where the libraries of old agents split the word.
        EventKind::WebSocketFrame => "web_socket_frame",
        kind => kind.name(),
    }
}

/// Appends a question about an event.
pub fn encode_question(out: &mut Vec<u8>, event: &Event<'_>) {
    begin(out, event.kind());
    json::encode_event(out, None, event);
    out.push(b'}');
}

/// Appends the agent's configuration, which is a question as well: whether it
/// takes it.
///
/// # Errors
/// When the configuration cannot be written as JSON.
pub fn encode_configure(
    out: &mut Vec<u8>,
    agent_id: &str,
    config: &Value,
) -> Result<(), serde_json::Error> {
    begin(out, EventKind::Configure);
    serde_json::to_writer(&mut *out, &Configure { agent_id, config })?;
    out.push(b'}');
    Ok(())
}

fn begin(out: &mut Vec<u8>, kind: EventKind) {
    out.extend_from_slice(b"{\"version\":1,\"event_type\":\"");
    out.extend_from_slice(event_type(kind).as_bytes());
    out.extend_from_slice(b"\",\"payload\":");
}

#[derive(Serialize)]
struct Configure<'a> {
    agent_id: &'a str,
    config: &'a Value,
}

/// Reads an answer. Its `version` may also be 2, which some agents write.
///
/// # Errors
/// What is wrong with it.
pub fn decode_answer(payload: &[u8]) -> Result<Decision, ProtocolError> {
    json::decode_answer_without_id(payload)
}

/// Appends one frame whose payload `write` appends. The length is filled in
/// afterwards, so the payload is written in place and only once.
///
/// # Errors
/// The number of bytes of the payload when that is more than
/// [`MAX_MESSAGE_BYTES`]; `out` is as it was before.
pub fn append(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), usize> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    write(out);
    let length = out.len() - start - LENGTH_BYTES;
    match u32::try_from(length) {
        Ok(claimed) if length <= MAX_MESSAGE_BYTES => {
            out[start..start + LENGTH_BYTES].copy_from_slice(&claimed.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(length)
        }
    }
}

/// Takes the payload of the first frame off `buffer`; `None` while the frame is
/// incomplete.
///
/// # Errors
/// A length outside the limits, as soon as it can be seen and before anything
/// is allocated for it.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, ProtocolError> {
    let Some(claimed) = buffer.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let claimed = u32::from_be_bytes(*claimed);
    let length = claimed as usize;
    if length == 0 || length > MAX_MESSAGE_BYTES {
        return Err(ProtocolError::FrameLength {
            length: claimed,
            limit: MAX_MESSAGE_BYTES as u32,
        });
    }
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;
    use serde_json::json;

    #[test]
    fn a_frame_is_length_and_payload() {
        let mut out = vec![0xff];
        append(&mut out, |out| out.extend_from_slice(b"abc")).unwrap();
        assert_eq!(out, b"\xff\0\0\0\x03abc");

        let too_large = append(&mut out, |out| {
            out.resize(out.len() + MAX_MESSAGE_BYTES + 1, 0)
        });
        assert_eq!(too_large, Err(MAX_MESSAGE_BYTES + 1));
        assert_eq!(out, b"\xff\0\0\0\x03abc");
    }

    #[test]
    fn frames_come_off_in_order() {
        let mut buffer = BytesMut::from(&b"\0\0\0\x02ab\0\0\0\x01c\0\0\0\x02d"[..]);
        assert_eq!(take(&mut buffer), Ok(Some(Bytes::from_static(b"ab"))));
        assert_eq!(take(&mut buffer), Ok(Some(Bytes::from_static(b"c"))));
        assert_eq!(take(&mut buffer), Ok(None));
        assert_eq!(&buffer[..], b"\0\0\0\x02d");
    }

    #[test]
    fn the_length_of_a_frame_is_judged_early() {
        let limit = MAX_MESSAGE_BYTES as u32;
        let wrong = |length| Err(ProtocolError::FrameLength { length, limit });
        let table: [(&[u8], _); 6] = [
            (b"", Ok(None)),
            (b"\0\0\0", Ok(None)),
            (b"\0\0\0\0", wrong(0)),
            (b"\0\xa0\0\0", Ok(None)),
            (b"\0\xa0\0\x01", wrong(limit + 1)),
            (b"\xff\xff\xff\xff", wrong(u32::MAX)),
        ];
        for (bytes, expected) in table {
            let mut buffer = BytesMut::from(bytes);
            assert_eq!(take(&mut buffer), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn a_configuration_is_a_question() {
        let mut out = Vec::new();
        encode_configure(&mut out, "waf", &json!({"a": [1]})).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"version":1,"event_type":"configure","payload":{"agent_id":"waf","config":{"a":[1]}}}"#
        );
    }

    #[test]
    fn kinds_have_the_names_that_old_agents_know() {
        let names = [
            (EventKind::RequestHeaders, "request_headers"),
            (EventKind::RequestBodyChunk, "request_body_chunk"),
            (EventKind::ResponseHeaders, "response_headers"),
            (EventKind::ResponseBodyChunk, "response_body_chunk"),
            (EventKind::RequestComplete, "request_complete"),
            (EventKind::WebSocketFrame, "web_socket_frame"),
            (EventKind::GuardrailInspect, "guardrail_inspect"),
            (EventKind::Configure, "configure"),
        ];
        for (kind, name) in names {
            assert_eq!(event_type(kind), name);
        }
    }

    #[test]
    fn an_answer_needs_no_id_and_has_version_1_or_2() {
        for version in [1, 2] {
            let text =
                format!(r#"{{"version":{version},"decision":{{"block":{{"status":403}}}}}}"#);
            let decision = decode_answer(text.as_bytes()).unwrap();
            assert!(matches!(
                decision.verdict,
                Verdict::Block { status: 403, .. }
            ));
        }
    }

    #[test]
    fn what_is_no_answer_of_this_version_is_malformed() {
        let table = [
            "",
            "null",
            "[]",
            "{}",
            r#"{"version":1}"#,
            r#"{"decision":"allow"}"#,
            r#"{"version":0,"decision":"allow"}"#,
            r#"{"version":3,"decision":"allow"}"#,
            r#"{"version":1,"decision":"maybe"}"#,
            r#"{"version":1,"decision":{"error":{"message":"no"}}}"#,
            r#"{"version":1,"decision":{"overloaded":{}}}"#,
            r#"{"version":1,"decision":"allow","request_body_mutation":{"data":"no base64"}}"#,
            r#"{"version":1,"decision":"allow","websocket_decision":{"replace":{"data":""}}}"#,
            r#"{"version":1,"decision":"allow"}{}"#,
        ];
        for text in table {
            let decoded = decode_answer(text.as_bytes());
            assert!(
                matches!(decoded, Err(ProtocolError::Malformed { .. })),
                "{text}: {decoded:?}"
            );
        }
    }
}
