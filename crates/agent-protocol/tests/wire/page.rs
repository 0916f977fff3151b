//! The examples in docs/protocol.md are what the library writes and reads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use portcullis_agent_protocol::codec::frame::{self, MessageType};
use portcullis_agent_protocol::codec::handshake::{
    self, Configure, HandshakeRequest, HandshakeResponse,
};
use portcullis_agent_protocol::codec::{
    Answer, DecodedBodyChunk, DecodedEvent, DecodedRequestComplete, DecodedResponseHeaders,
    DecodedWebSocketFrame, EventId, NoDecision, binary, json,
};
use portcullis_agent_protocol::{
    CancelReason, Capabilities, Decision, Extensions, FrameOpcode, KeyPart, RequestHeaders,
};
use serde::Serialize;
use serde_json::{Value, json as value};

use crate::support::Request;
use crate::{page_control, page_guardrail};

#[path = "../protocol_page/mod.rs"]
pub(crate) mod protocol_page;

const NUMBER: u64 = 1_048_576;

/// All extensions but the binary encoding.
const BY_NUMBER: Extensions = Extensions {
    binary: false,
    ..Extensions::ALL
};

/// What the library writes, for each example on the page.
fn written() -> BTreeMap<&'static str, Vec<u8>> {
    let mut written = BTreeMap::new();
    let mut add = |name, bytes| assert_eq!(written.insert(name, bytes), None);
    add("handshake-request", handshake_request());
    add("handshake-response", handshake_response());
    add("configure", configure(None, None));
    add("configure-event-id", configure(None, Some(0)));
    add("configure-later", configure(Some("7"), Some(NUMBER)));
    for (name, event) in json_events()
        .into_iter()
        .chain(page_guardrail::json_events())
    {
        let mut out = Vec::new();
        let number = name.ends_with("event-id").then_some(NUMBER);
        json::encode_event(&mut out, number, &event.view());
        add(name, out);
    }
    for (name, event) in binary_events()
        .into_iter()
        .chain(page_guardrail::binary_events())
    {
        let mut out = Vec::new();
        binary::encode_event(&mut out, NUMBER, &event.view());
        add(name, out);
    }
    add("request-headers", request_headers());
    add("request-headers-event-id", request_headers_event_id());
    add("binary-request-headers", binary_request_headers());
    for (name, id, answer, extensions) in json_answers() {
        let mut out = Vec::new();
        json::encode_answer(&mut out, &id, 1, &answer, extensions).unwrap();
        add(name, out);
    }
    for (name, answer) in binary_answers() {
        add(name, binary_answer(&answer));
    }
    let mut allow = Vec::new();
    frame::append(&mut allow, MessageType::AgentResponse, 100, |out| {
        out.extend_from_slice(&binary_answer(&Ok(Decision::allow())));
    })
    .unwrap();
    add("frame-allow", allow);
    add("cancel", cancel(None));
    add("cancel-event-id", cancel(Some(NUMBER)));
    for (name, payload) in page_control::written() {
        add(name, payload);
    }
    for (name, bytes) in crate::page_protobuf::written() {
        add(name, bytes);
    }
    written
}

fn encoded(message: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    handshake::encode(&mut out, message).unwrap();
    out
}

fn handshake_request() -> Vec<u8> {
    encoded(&HandshakeRequest {
        supported_versions: vec![2],
        proxy_id: "portcullis".into(),
        proxy_version: "0.1.0".into(),
        config: std::borrow::Cow::Owned(value!({"level": 2})),
        supported_encodings: vec!["json".into()],
        extensions: Extensions::ALL
            .names()
            .into_iter()
            .map(Into::into)
            .collect(),
    })
}

fn handshake_response() -> Vec<u8> {
    let mut capabilities = Capabilities::new("echo", "1.0.0");
    capabilities.features.concurrent_requests = 100;
    capabilities.features.cancellation = true;
    capabilities.features.config_push = true;
    capabilities.features.flow_control = true;
    capabilities.features.health_reporting = true;
    capabilities.limits.max_concurrency = 100;
    encoded(&HandshakeResponse {
        protocol_version: 2,
        capabilities,
        success: true,
        error: None,
        encoding: Some("json".to_owned()),
        extensions: Extensions::ALL
            .names()
            .into_iter()
            .map(str::to_owned)
            .collect(),
    })
}

fn configure(version: Option<&'static str>, event_id: Option<u64>) -> Vec<u8> {
    encoded(&Configure {
        config: std::borrow::Cow::Owned(value!({"level": 2})),
        config_version: version.map(Into::into),
        correlation_id: "configure-waf-1".into(),
        event_id,
    })
}

fn request(headers: &[(&'static str, &str)]) -> Request {
    let mut request = Request::new("c-1", "/a?b=1");
    request.headers = HeaderMap::new();
    for (name, value) in headers {
        request.headers.append(*name, value.parse().unwrap());
    }
    request
}

fn view(request: &Request) -> RequestHeaders<'_> {
    let mut view = request.view();
    view.metadata.request_id = "r-1";
    view
}

fn request_headers() -> Vec<u8> {
    let request = request(&[
        ("host", "example.com"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ]);
    let mut view = view(&request);
    view.metadata.server_name = Some("example.com");
    view.metadata.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    // Not for a legacy agent.
    view.budget_left = Some(Duration::from_millis(1500));
    let mut out = Vec::new();
    json::encode_request_headers(&mut out, None, &view);
    out
}

fn request_headers_event_id() -> Vec<u8> {
    let request = request(&[]);
    let mut view = view(&request);
    view.metadata.client_ip = IpAddr::V6("2001:db8::7".parse().unwrap());
    view.metadata.protocol = "HTTP/2";
    (view.metadata.route_id, view.metadata.upstream_id) = (None, None);
    view.metadata.timestamp += Duration::from_millis(5);
    view.uri = "/";
    view.budget_left = Some(Duration::from_millis(1500));
    let mut out = Vec::new();
    json::encode_request_headers(&mut out, Some(NUMBER), &view);
    out
}

fn binary_request_headers() -> Vec<u8> {
    let request = request(&[("host", "example.com")]);
    let mut view = view(&request);
    view.budget_left = Some(Duration::from_millis(1500));
    let mut out = Vec::new();
    binary::encode_request_headers(&mut out, NUMBER, &view);
    out
}

fn chunk(index: u32, data: &[u8], transferred: u64) -> DecodedBodyChunk<'static> {
    DecodedBodyChunk {
        correlation_id: "c-1".into(),
        index,
        data: Bytes::copy_from_slice(data),
        is_last: true,
        total_size: None,
        transferred,
        truncated: false,
        trailers: None,
        budget_left: None,
    }
}

fn last_chunk() -> DecodedBodyChunk<'static> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    DecodedBodyChunk {
        trailers: Some(trailers),
        ..chunk(2, b"", 4096)
    }
}

fn response() -> DecodedResponseHeaders<'static> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "text/html".parse().unwrap());
    DecodedResponseHeaders {
        correlation_id: "c-1".into(),
        status: 200,
        headers,
        budget_left: None,
    }
}

fn complete() -> DecodedRequestComplete<'static> {
    DecodedRequestComplete {
        correlation_id: "c-1".into(),
        status: 200,
        duration: Duration::from_millis(12),
        request_body_size: 0,
        response_body_size: 9,
        upstream_attempts: 1,
        error: None,
    }
}

fn websocket_frame(data: &[u8]) -> DecodedWebSocketFrame<'static> {
    DecodedWebSocketFrame {
        correlation_id: "c-1".into(),
        opcode: FrameOpcode::Text,
        data: Bytes::copy_from_slice(data),
        client_to_server: true,
        index: 0,
        fin: true,
        route_id: Some("ws".into()),
        client_ip: [203, 0, 113, 7].into(),
        budget_left: None,
    }
}

/// Those that are not request headers.
fn json_events() -> [(&'static str, DecodedEvent<'static>); 6] {
    let request_chunk = DecodedBodyChunk {
        total_size: Some(11),
        ..chunk(1, b"world", 11)
    };
    let response_chunk = DecodedBodyChunk {
        truncated: true,
        ..chunk(0, b"\0\xff\xfe\x80", 4)
    };
    let last = DecodedBodyChunk {
        budget_left: Some(Duration::from_millis(1500)),
        ..last_chunk()
    };
    [
        (
            "request-body-chunk",
            DecodedEvent::RequestBodyChunk(request_chunk),
        ),
        (
            "response-headers",
            DecodedEvent::ResponseHeaders(response()),
        ),
        (
            "response-body-chunk",
            DecodedEvent::ResponseBodyChunk(response_chunk),
        ),
        (
            "response-body-chunk-event-id",
            DecodedEvent::ResponseBodyChunk(last),
        ),
        (
            "websocket-frame",
            DecodedEvent::WebSocketFrame(websocket_frame(b"hi")),
        ),
        (
            "request-complete",
            DecodedEvent::RequestComplete(complete()),
        ),
    ]
}

/// Those that are not request headers.
fn binary_events() -> [(&'static str, DecodedEvent<'static>); 5] {
    let fragment = DecodedWebSocketFrame {
        opcode: FrameOpcode::Continuation,
        client_to_server: false,
        index: 258,
        budget_left: Some(Duration::from_millis(1500)),
        ..websocket_frame(b"hi")
    };
    let first = DecodedBodyChunk {
        is_last: false,
        total_size: Some(11),
        budget_left: Some(Duration::from_millis(1500)),
        ..chunk(0, b"hello ", 6)
    };
    [
        ("binary-body-chunk", DecodedEvent::RequestBodyChunk(first)),
        (
            "binary-body-chunk-last",
            DecodedEvent::ResponseBodyChunk(last_chunk()),
        ),
        (
            "binary-response-headers",
            DecodedEvent::ResponseHeaders(response()),
        ),
        (
            "binary-websocket-frame",
            DecodedEvent::WebSocketFrame(fragment),
        ),
        (
            "binary-request-complete",
            DecodedEvent::RequestComplete(complete()),
        ),
    ]
}

fn json_answers() -> [(&'static str, EventId, Answer, Extensions); 9] {
    let allow = Decision::allow()
        .set_request_header("x-a", "1")
        .add_request_header("x-b", "2")
        .remove_request_header("x-c")
        .tag("t")
        .rule_id("942100")
        .confidence(0.9)
        .reason("SQLI");
    let block = Decision::block(403)
        .with_body("no")
        .with_header("x-why", "waf")
        .reason("SQLI");
    let number = EventId::Number(NUMBER);
    let correlation = EventId::Correlation("c-1".to_owned());
    let replace = Decision::allow().replace_request_body("WORLD");
    let close = Decision::allow().close_websocket(1008, "policy");
    let frame = Decision::allow().replace_frame("HI");
    let ttl = held();
    [
        ("answer", correlation.clone(), Ok(allow), Extensions::NONE),
        (
            "answer-body",
            correlation.clone(),
            Ok(replace),
            Extensions::NONE,
        ),
        (
            "answer-guardrail",
            correlation.clone(),
            Ok(page_guardrail::answer()),
            Extensions::NONE,
        ),
        ("answer-close", correlation, Ok(close), Extensions::NONE),
        ("answer-frame", number.clone(), Ok(frame), BY_NUMBER),
        ("answer-ttl", number.clone(), Ok(ttl), BY_NUMBER),
        ("answer-event-id", number.clone(), Ok(block), BY_NUMBER),
        ("answer-error", number.clone(), failed("no idea"), BY_NUMBER),
        ("answer-overloaded", number, overloaded(), BY_NUMBER),
    ]
}

fn held() -> Decision {
    Decision::allow()
        .hold_for(Duration::from_millis(1500))
        .whatever_the(KeyPart::Cookie)
        .whatever_the(KeyPart::Query)
}

fn failed(message: &str) -> Answer {
    Err(NoDecision::Failed(message.to_owned()))
}

fn overloaded() -> Answer {
    let retry_after = Some(Duration::from_millis(1500));
    Err(NoDecision::Overloaded { retry_after })
}

fn binary_answers() -> [(&'static str, Answer); 10] {
    let block = Decision::block(403).with_body("no").reason("r");
    let redirect = Decision::redirect("/x").set_request_header("a", "b");
    let replace = Decision::allow().replace_request_body("WORLD");
    let drop = Decision::allow().replace_response_body("");
    [
        ("binary-replace", Ok(replace)),
        ("binary-drop", Ok(drop)),
        ("binary-block", Ok(block)),
        ("binary-redirect", Ok(redirect.provisional())),
        ("binary-error", failed("no")),
        ("binary-overloaded", overloaded()),
        (
            "binary-frame-replace",
            Ok(Decision::allow().replace_frame("HI")),
        ),
        (
            "binary-frame-close",
            Ok(Decision::allow().close_websocket(1008, "policy")),
        ),
        ("binary-ttl", Ok(held())),
        ("binary-guardrail", Ok(page_guardrail::answer())),
    ]
}

fn binary_answer(answer: &Answer) -> Vec<u8> {
    let mut out = Vec::new();
    binary::encode_answer(&mut out, 7, answer, Extensions::ALL).unwrap();
    out
}

fn cancel(number: Option<u64>) -> Vec<u8> {
    let mut out = Vec::new();
    let reason = CancelReason::BlockedByAgent;
    json::encode_cancel(&mut out, number, "c-1", reason, 1_700_000_000_000);
    out
}

#[test]
fn the_examples_are_what_is_written() {
    let page = protocol_page::vectors();
    let written = written();
    let names: Vec<&str> = page.keys().map(String::as_str).collect();
    assert_eq!(names, written.keys().copied().collect::<Vec<_>>());
    for (name, example) in &page {
        let ours = &written[name.as_str()];
        let readable = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(readable(ours), readable(example), "{name}");
        assert_eq!(ours, example, "{name}");
    }
}

#[test]
fn the_examples_can_be_read() {
    let page = protocol_page::vectors();
    for (name, id, answer, extensions) in json_answers() {
        let decoded = json::decode_answer(&page[name], extensions);
        assert_eq!(decoded, Ok((id, answer)), "{name}");
    }
    for (name, answer) in binary_answers() {
        let decoded = binary::decode_answer(&page[name], Extensions::ALL);
        assert_eq!(decoded, Ok((EventId::Number(7), answer)), "{name}");
    }
    for (name, event) in json_events()
        .into_iter()
        .chain(page_guardrail::json_events())
    {
        let by_number = name.ends_with("event-id");
        let id = match by_number {
            true => EventId::Number(NUMBER),
            false => EventId::Correlation("c-1".to_owned()),
        };
        let decoded = json::decode_event(event.view().kind(), &page[name], by_number);
        assert_eq!(decoded, Ok((id, event)), "{name}");
    }
    for (name, event) in binary_events()
        .into_iter()
        .chain(page_guardrail::binary_events())
    {
        let payload = Bytes::from(page[name].clone());
        let decoded = binary::decode_event(event.view().kind(), &payload);
        assert_eq!(decoded, Ok((EventId::Number(NUMBER), event)), "{name}");
    }
    let left = Some(Duration::from_millis(1500));
    let payload = Bytes::from(page["binary-request-headers"].clone());
    let (id, event) = binary::decode_request_headers(&payload).unwrap();
    assert_eq!((id, event.budget_left), (EventId::Number(NUMBER), left));
    for (name, by_number, budget_left) in [
        ("request-headers", false, None),
        ("request-headers-event-id", true, left),
    ] {
        let (_, event) = json::decode_request_headers(&page[name], by_number).unwrap();
        assert_eq!(event.correlation_id, "c-1");
        assert_eq!(event.budget_left, budget_left);
    }
    let reason = Some(CancelReason::BlockedByAgent);
    let legacy = EventId::Correlation("c-1".to_owned());
    let cancelled = json::decode_cancel(&page["cancel"], false);
    assert_eq!(cancelled, Ok((legacy, reason)));
    let cancelled = json::decode_cancel(&page["cancel-event-id"], true);
    assert_eq!(cancelled, Ok((EventId::Number(NUMBER), reason)));
    page_control::check(&page);
    let configure = handshake::decode_configure(&page["configure-event-id"]).unwrap();
    let level: &Value = &configure.config["level"];
    assert_eq!((level, configure.event_id), (&value!(2), Some(0)));
}
