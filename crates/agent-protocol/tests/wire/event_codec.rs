//! Both encodings of the events behind the head of a request: whose memory
//! they use, and what is refused. Their exact bytes are in docs/protocol.md.

use bytes::Bytes;
use portcullis_agent_protocol::codec::{EventId, binary, json};
use portcullis_agent_protocol::{Decision, Event, EventKind, Extensions};
use serde_json::json;

use crate::phases::chunk;
use crate::vectors::unhex;

fn shares(whole: &Bytes, part: &[u8]) -> bool {
    let start = part.as_ptr();
    !part.is_empty() && whole.as_ptr_range().contains(&start)
}

#[test]
fn binary_bodies_are_not_copied() {
    let event = Event::RequestBodyChunk(chunk(b"a body that stays where it is"));
    let mut out = Vec::new();
    binary::encode_event(&mut out, 7, &event);
    let payload = Bytes::from(out);
    let (_, decoded) = binary::decode_event(event.kind(), &payload).unwrap();
    let Event::RequestBodyChunk(chunk) = decoded.view() else {
        panic!("{decoded:?}");
    };
    assert!(shares(&payload, &chunk.data));

    let answer = Ok(Decision::block(403)
        .with_body("a page")
        .replace_response_body("a body"));
    let mut out = Vec::new();
    binary::encode_answer(&mut out, 7, &answer, Extensions::ALL).unwrap();
    let payload = Bytes::from(out);
    let shared = binary::decode_shared_answer(&payload, Extensions::ALL);
    let copied = binary::decode_answer(&payload, Extensions::ALL);
    assert_eq!(shared, copied);
    for (decoded, expected) in [(shared, true), (copied, false)] {
        let body = decoded.unwrap().1.unwrap().response_body.unwrap();
        assert_eq!(shares(&payload, &body), expected);
    }
}

#[test]
fn binary_events_that_are_refused_but_have_an_id() {
    use EventKind::{GuardrailInspect, RequestBodyChunk, RequestComplete, ResponseHeaders};
    let request = "010000000700000003632d31";
    let table = [
        (RequestBodyChunk, "", "the request is missing"),
        (RequestBodyChunk, "0100000000", "it ends too early"),
        (RequestBodyChunk, request, "the piece is missing"),
        (ResponseHeaders, request, "the status is missing"),
        (RequestComplete, request, "the outcome is missing"),
        (GuardrailInspect, request, "the text is missing"),
        (
            GuardrailInspect,
            &format!("{request}020000000103"),
            "the inspection type is not known",
        ),
    ];
    for (kind, sections, expected) in table {
        let payload = Bytes::from(unhex(&format!("0000000000000007{sections}")));
        let bad = binary::decode_event(kind, &payload).map(drop).unwrap_err();
        assert_eq!(bad.id, Some(EventId::Number(7)), "{kind:?} {sections}");
        assert!(bad.error.to_string().ends_with(expected), "{}", bad.error);
    }
    // What a later version appends is passed over.
    let appended =
        format!("0000000000000007{request}0200000004019400ff0300000004000000007700000000");
    let payload = Bytes::from(unhex(&appended));
    let (_, decoded) = binary::decode_event(ResponseHeaders, &payload).unwrap();
    assert!(matches!(decoded.view(), Event::ResponseHeaders(event) if event.status == 404));
    let kind = EventKind::Configure;
    assert!(binary::decode_event(kind, &payload).is_err());
    let bad = json::decode_event(kind, br#"{"event_id":7}"#, true);
    assert_eq!(bad.map(drop).unwrap_err().id, Some(EventId::Number(7)));
}

#[test]
fn json_events_that_are_refused_but_have_an_id() {
    use EventKind::{GuardrailInspect, RequestBodyChunk, RequestComplete, ResponseHeaders};
    let table = [
        (RequestBodyChunk, json!({"is_last": true})),
        (RequestBodyChunk, json!({"data": ""})),
        (RequestBodyChunk, json!({"data": "x", "is_last": true})),
        (RequestBodyChunk, json!({"data": null, "is_last": true})),
        (
            RequestBodyChunk,
            json!({"data": "", "is_last": true, "chunk_index": -1}),
        ),
        (
            RequestBodyChunk,
            json!({"data": "", "is_last": true, "trailers": {"a b": ["c"]}}),
        ),
        (ResponseHeaders, json!({"headers": {}})),
        (ResponseHeaders, json!({"status": 70000, "headers": {}})),
        (ResponseHeaders, json!({"status": 200})),
        (
            ResponseHeaders,
            json!({"status": 200, "headers": {"a": ["b\n"]}}),
        ),
        (RequestComplete, json!({"duration_ms": 1})),
        (RequestComplete, json!({"status": 200, "error": 1})),
        (
            GuardrailInspect,
            json!({"inspection_type": "pii_detection"}),
        ),
        (
            GuardrailInspect,
            json!({"inspection_type": "mood", "content": ""}),
        ),
        (
            GuardrailInspect,
            json!({"inspection_type": "pii_detection", "content": "", "metadata": {"a": 1}}),
        ),
    ];
    for (kind, mut message) in table {
        message["correlation_id"] = json!("c-1");
        message["event_id"] = json!(7);
        let text = message.to_string();
        for (by_number, id) in [
            (true, EventId::Number(7)),
            (false, EventId::Correlation("c-1".to_owned())),
        ] {
            let bad = json::decode_event(kind, text.as_bytes(), by_number);
            assert_eq!(bad.map(drop).unwrap_err().id, Some(id), "{text}");
        }
    }
    let nameless = br#"{"status":200,"headers":{}}"#;
    let bad = json::decode_event(ResponseHeaders, nameless, false);
    assert_eq!(bad.map(drop).unwrap_err().id, None);
}
