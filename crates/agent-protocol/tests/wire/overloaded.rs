//! "Not now": exact bytes, and who understands them.

use std::time::Duration;

use portcullis_agent_protocol::Extensions;
use portcullis_agent_protocol::codec::{Answer, EventId, NoDecision, binary, json};
use serde_json::json;

use crate::support::legacy_answer;
use crate::vectors::{failed, hex, unhex};

/// What is known to peers of ours that are older than `overloaded`.
const WITHOUT_OVERLOADED: Extensions = Extensions {
    overloaded: false,
    ..Extensions::ALL
};

#[test]
fn a_binary_overload() {
    let table = [
        (
            overloaded(Some(1500)),
            "0000000000000007050001000000090100000000000005dc",
        ),
        (overloaded(None), "00000000000000070500010000000100"),
    ];
    for (answer, expected) in table {
        let mut out = Vec::new();
        binary::encode_answer(&mut out, 7, &answer, Extensions::ALL).unwrap();
        assert_eq!(hex(&out), expected, "{answer:?}");
        let decoded = binary::decode_answer(&out, Extensions::ALL);
        assert_eq!(decoded, Ok((EventId::Number(7), answer)));
    }
}

#[test]
fn a_binary_overload_must_be_negotiated() {
    let payload = unhex("00000000000000070500010000000100");
    let bad = binary::decode_answer(&payload, WITHOUT_OVERLOADED).unwrap_err();
    assert_eq!(bad.id, Some(EventId::Number(7)));
    let expected = "the verdict `overloaded` was not negotiated";
    assert!(bad.error.to_string().ends_with(expected), "{}", bad.error);
}

#[test]
fn an_overload_is_read_in_json_when_it_was_negotiated() {
    let hour = 3_600_000;
    let table = [
        (json!({"retry_after_ms": 1500}), Some(Some(1500))),
        (json!({"retry_after_ms": null}), Some(None)),
        (json!({}), Some(None)),
        (json!({"retry_after_ms": 0, "why": "later"}), Some(Some(0))),
        (json!({"retry_after_ms": hour + 1}), Some(Some(hour))),
        (json!({"retry_after_ms": u64::MAX}), Some(Some(hour))),
        (json!({"retry_after_ms": -1}), None),
        (json!({"retry_after_ms": 1.5}), None),
        (json!({"retry_after_ms": "1500"}), None),
        (json!(null), None),
        (json!("soon"), None),
    ];
    for (details, expected) in table {
        let mut message = legacy_answer("c-1", &json!({"overloaded": details}));
        message["event_id"] = json!(7);
        let text = message.to_string();
        let decoded = json::decode_answer(text.as_bytes(), Extensions::ALL);
        match expected {
            Some(retry_after) => {
                let expected = (EventId::Number(7), overloaded(retry_after));
                assert_eq!(decoded, Ok(expected), "{text}");
            }
            None => assert_eq!(decoded.unwrap_err().id, Some(EventId::Number(7)), "{text}"),
        }
        for extensions in [WITHOUT_OVERLOADED, Extensions::NONE] {
            let bad = json::decode_answer(text.as_bytes(), extensions).unwrap_err();
            assert!(bad.id.is_some(), "{text}");
        }
    }
}

#[test]
fn an_overload_is_a_failure_for_who_does_not_know_it() {
    let mut out = Vec::new();
    binary::encode_answer(&mut out, 7, &overloaded(Some(1)), WITHOUT_OVERLOADED).unwrap();
    let decoded = binary::decode_answer(&out, Extensions::ALL);
    let expected = (EventId::Number(7), failed("the agent is overloaded"));
    assert_eq!(decoded, Ok(expected));
}

fn overloaded(retry_after_ms: Option<u64>) -> Answer {
    let retry_after = retry_after_ms.map(Duration::from_millis);
    Err(NoDecision::Overloaded { retry_after })
}
