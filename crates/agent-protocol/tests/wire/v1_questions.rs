//! The bytes of each kind of question of version 1, as old agents read them.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use portcullis_agent_protocol::codec::v1;
use portcullis_agent_protocol::{
    BodyChunk, Event, FrameOpcode, RequestComplete, ResponseHeaders, WebSocketFrame,
};

use super::support::Request;

const METADATA: &str = r#"{"correlation_id":"c-1","request_id":"c-1","client_ip":"203.0.113.7","client_port":51234,"server_name":null,"protocol":"HTTP/1.1","tls_version":null,"tls_cipher":null,"route_id":"api","upstream_id":"backend","timestamp":"2026-07-01T12:00:00Z"}"#;

fn assert_question(event: &Event<'_>, name: &str, payload: &str) {
    let mut out = Vec::new();
    v1::encode_question(&mut out, event);
    let expected = format!(r#"{{"version":1,"event_type":"{name}","payload":{payload}}}"#);
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.append("cookie", "a=1".parse().unwrap());
    headers.append("cookie", "b=2".parse().unwrap());
    headers
}

#[test]
fn heads() {
    let headers = headers();
    let request = Request {
        headers: headers.clone(),
        ..Request::new("c-1", "/a?b=1")
    };
    assert_question(
        &request.event(),
        "request_headers",
        &format!(
            r#"{{"correlation_id":"c-1","metadata":{METADATA},"method":"GET","uri":"/a?b=1","headers":{{"cookie":["a=1","b=2"]}}}}"#
        ),
    );
    let response = ResponseHeaders {
        correlation_id: "c-1",
        status: 200,
        headers: &headers,
        budget_left: Some(Duration::from_millis(1)),
    };
    assert_question(
        &Event::ResponseHeaders(response),
        "response_headers",
        r#"{"correlation_id":"c-1","status":200,"headers":{"cookie":["a=1","b=2"]}}"#,
    );
}

#[test]
fn pieces_of_bodies() {
    let trailers = headers();
    let piece = BodyChunk {
        correlation_id: "c-1",
        index: 0,
        data: Bytes::from_static(b"hello"),
        is_last: true,
        total_size: Some(5),
        transferred: 5,
        truncated: false,
        // These two are not for old agents.
        trailers: Some(&trailers),
        budget_left: Some(Duration::from_millis(1)),
    };
    assert_question(
        &Event::RequestBodyChunk(piece.clone()),
        "request_body_chunk",
        r#"{"correlation_id":"c-1","data":"aGVsbG8=","is_last":true,"total_size":5,"chunk_index":0,"bytes_received":5}"#,
    );
    assert_question(
        &Event::ResponseBodyChunk(piece),
        "response_body_chunk",
        r#"{"correlation_id":"c-1","data":"aGVsbG8=","is_last":true,"total_size":5,"chunk_index":0,"bytes_sent":5}"#,
    );
}

#[test]
fn frames_and_ends() {
    let frame = WebSocketFrame {
        correlation_id: "c-1",
        opcode: FrameOpcode::Text,
        data: Bytes::from_static(b"hi"),
        client_to_server: true,
        index: 0,
        fin: true,
        route_id: Some("ws"),
        client_ip: [203, 0, 113, 7].into(),
        budget_left: None,
    };
    assert_question(
        &Event::WebSocketFrame(frame),
        "web_socket_frame",
        r#"{"correlation_id":"c-1","opcode":"text","data":"aGk=","client_to_server":true,"frame_index":0,"fin":true,"route_id":"ws","client_ip":"203.0.113.7"}"#,
    );
    let end = RequestComplete {
        correlation_id: "c-1",
        status: 200,
        duration: Duration::from_millis(12),
        request_body_size: 0,
        response_body_size: 9,
        upstream_attempts: 1,
        error: None,
    };
    assert_question(
        &Event::RequestComplete(end),
        "request_complete",
        r#"{"correlation_id":"c-1","status":200,"duration_ms":12,"request_body_size":0,"response_body_size":9,"upstream_attempts":1,"error":null}"#,
    );
}
