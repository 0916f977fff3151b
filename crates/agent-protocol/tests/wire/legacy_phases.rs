//! Bodies, responses and the end with peers that speak the legacy protocol.

use std::time::Duration;

use http::HeaderMap;
use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::{
    BodyChunk, CallError, CallGuard, Decision, Event, Extensions, ProtocolError, ResponseHeaders,
};
use serde_json::{Value, json};

use crate::phases::{Scribe, chunk, complete};
use crate::support::{RawListener, RawPeer, legacy_answer, within};

#[tokio::test]
async fn a_legacy_agent_is_told_what_the_legacy_protocol_has() {
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(Extensions::NONE).await;
    let headers = HeaderMap::from_iter([("etag".parse().unwrap(), "1".parse().unwrap())]);
    let chunk = BodyChunk {
        index: 3,
        total_size: Some(9),
        transferred: 9,
        trailers: Some(&headers),
        budget_left: Some(Duration::from_secs(1)),
        ..chunk(b"hello")
    };
    let response = ResponseHeaders {
        correlation_id: "c-1",
        status: 200,
        headers: &headers,
        budget_left: Some(Duration::from_secs(1)),
    };
    let expected = [
        (
            Event::RequestBodyChunk(chunk.clone()),
            json!({"correlation_id": "c-1", "data": "aGVsbG8=", "is_last": true, "total_size": 9,
                "chunk_index": 3, "bytes_received": 9}),
        ),
        (
            Event::ResponseHeaders(response),
            json!({"correlation_id": "c-1", "status": 200, "headers": {"etag": ["1"]}}),
        ),
        (
            Event::ResponseBodyChunk(chunk),
            json!({"correlation_id": "c-1", "data": "aGVsbG8=", "is_last": true, "total_size": 9,
                "chunk_index": 3, "bytes_sent": 9}),
        ),
        (
            complete(Some("late")),
            json!({"correlation_id": "c-1", "status": 200, "duration_ms": 12,
                "request_body_size": 5, "response_body_size": u64::MAX, "upstream_attempts": 2,
                "error": "late"}),
        ),
    ];
    for (event, expected) in expected {
        let pending = connection.send(&event, CallGuard::none()).unwrap();
        let again = connection.send(&event, CallGuard::none()).map(drop);
        assert_eq!(again, Err(CallError::DuplicateOutstanding));
        let message = peer.receive_json(event.kind().into()).await;
        assert_eq!(message, expected);
        let answer = legacy_answer("c-1", &json!("allow"));
        peer.send_json(MessageType::AgentResponse, &answer).await;
        assert_eq!(within(pending).await, Ok(Decision::allow()));
    }
}

#[tokio::test]
async fn d05_a_replacement_is_decoded_or_refused_and_never_taken_as_it_is() {
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(Extensions::NONE).await;
    let table = [
        (json!(null), Some(None)),
        (json!({"data": null, "chunk_index": 0}), Some(None)),
        (json!({"chunk_index": 0}), Some(None)),
        (json!({"data": "", "chunk_index": 0}), Some(Some(&b""[..]))),
        (
            json!({"data": "V09STEQ=", "chunk_index": 0}),
            Some(Some(b"WORLD")),
        ),
        // Of whatever piece it says that it is.
        (
            json!({"data": "V09STEQ=", "chunk_index": 99}),
            Some(Some(b"WORLD")),
        ),
        (
            json!({"data": "V09STEQ=", "chunk_index": "last"}),
            Some(Some(b"WORLD")),
        ),
        (json!({"data": "V09STEQ="}), Some(Some(b"WORLD"))),
        // Never the text itself.
        (json!({"data": "WORLD", "chunk_index": 0}), None),
        (json!({"data": "V09STEQ", "chunk_index": 0}), None),
        (json!({"data": "hello, world", "chunk_index": 0}), None),
        (json!({"data": [87], "chunk_index": 0}), None),
        (json!("V09STEQ="), None),
    ];
    for (mutation, expected) in table {
        let event = Event::RequestBodyChunk(chunk(b"world"));
        let pending = connection.send(&event, CallGuard::none()).unwrap();
        peer.receive().await;
        let mut answer = legacy_answer("c-1", &json!("allow"));
        answer["request_body_mutation"] = mutation;
        peer.send_json(MessageType::AgentResponse, &answer).await;
        let answered = within(pending).await;
        match expected {
            Some(body) => assert_eq!(answered.unwrap().request_body.as_deref(), body, "{answer}"),
            None => {
                let Err(CallError::Protocol(ProtocolError::Malformed { detail, .. })) = answered
                else {
                    panic!("{answer}: {answered:?}");
                };
                assert!(!detail.contains("hello, world"), "{detail}");
            }
        }
        assert!(connection.is_open());
    }
}

#[tokio::test]
async fn a_legacy_proxy_is_answered_about_the_piece_that_it_sent() {
    let served = Scribe::served(Extensions::ALL);
    let mut proxy = RawPeer::connect(&served.path).await;
    let response = proxy
        .greet(
            &json!({"supported_versions": [2], "proxy_id": "p", "proxy_version": "1",
            "config": null}),
        )
        .await;
    let capabilities = &response["capabilities"];
    assert_eq!(capabilities["supported_events"], json!([1, 2, 3, 4, 5]));
    assert_eq!(capabilities["features"]["streaming_body"], true);
    for (index, data, expected) in [(0, "aGVsbG8=", "SEVMTE8="), (1, "ZHJvcA==", "")] {
        for (kind, name, other) in [
            (
                MessageType::RequestBodyChunk,
                "request_body_mutation",
                "response_body_mutation",
            ),
            (
                MessageType::ResponseBodyChunk,
                "response_body_mutation",
                "request_body_mutation",
            ),
        ] {
            let chunk = json!({"correlation_id": "c-1", "data": data, "is_last": false,
                "total_size": null, "chunk_index": index});
            proxy.send_json(kind, &chunk).await;
            let answer = proxy.receive_json(MessageType::AgentResponse).await;
            let mutation = json!({"data": expected, "chunk_index": index});
            assert_eq!((&answer[name], &answer[other]), (&mutation, &Value::Null));
            assert_eq!(answer["audit"]["custom"]["correlation_id"], "c-1");
        }
    }
    let chunk = json!({"correlation_id": "c-1", "data": "not base64", "is_last": true});
    proxy.send_json(MessageType::RequestBodyChunk, &chunk).await;
    let answer = proxy.receive_json(MessageType::AgentResponse).await;
    assert_eq!(answer["decision"]["block"]["status"], 500);
}
