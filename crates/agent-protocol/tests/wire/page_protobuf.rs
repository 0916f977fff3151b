//! The examples of gRPC in docs/protocol.md are what the library writes and
//! reads.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use portcullis_agent_protocol::codec::handshake::{self, HandshakeRequest};
use portcullis_agent_protocol::codec::protobuf::messages::{
    AgentToProxy, CancelRequest, FromAgent, FromProxy, ProxyToAgent,
};
use portcullis_agent_protocol::codec::protobuf::{self, EXTENSIONS, Message};
use portcullis_agent_protocol::codec::registration::{self, Registration, RegistrationReply};
use portcullis_agent_protocol::codec::{
    Answer, DecodedBodyChunk, DecodedEvent, EventId, NoDecision,
};
use portcullis_agent_protocol::{Capabilities, Decision, Event, Extensions, KeyPart};
use serde_json::json;

use crate::page_guardrail;
use crate::support::Request;

const NUMBER: u64 = 1_048_576;

/// What the library writes, for each example of gRPC and of dialling on the page.
pub(crate) fn written() -> Vec<(&'static str, Vec<u8>)> {
    let mut written = vec![
        ("protobuf-handshake-request", handshake_request()),
        ("protobuf-request-headers", request_headers(Some(NUMBER))),
        ("protobuf-request-headers-legacy", request_headers(None)),
        ("protobuf-body-chunk-last", last_chunk()),
        ("protobuf-guardrail-inspect", text()),
        ("protobuf-cancel", cancel()),
        ("registration", registration()),
        ("registration-reply", registration_reply()),
    ];
    for (name, id, answer, extensions) in answers() {
        let response = protobuf::encode_answer(&id, &answer, extensions);
        let message = Some(FromAgent::Response(Box::new(response)));
        written.push((name, AgentToProxy { message }.encode_to_vec()));
    }
    written
}

const ONE: Extensions = Extensions {
    event_id: true,
    ..Extensions::NONE
};

fn registration() -> Vec<u8> {
    let mut out = Vec::new();
    let registration = Registration {
        protocol_version: 2,
        agent_id: "waf-1".into(),
        capabilities: Capabilities::new("waf", "1.0.0"),
        auth_token: Some("a-token".into()),
        metadata: serde_json::Value::Null,
        extensions: ONE.names().into_iter().map(Into::into).collect(),
    };
    handshake::encode(&mut out, &registration).unwrap();
    out
}

fn registration_reply() -> Vec<u8> {
    let mut out = Vec::new();
    let reply = RegistrationReply {
        success: true,
        error: None,
        proxy_id: "portcullis".to_owned(),
        proxy_version: "0.1.0".to_owned(),
        connection_id: "waf-1-18c".to_owned(),
        extensions: ONE.names().into_iter().map(str::to_owned).collect(),
    };
    handshake::encode(&mut out, &reply).unwrap();
    out
}

fn handshake_request() -> Vec<u8> {
    let request = protobuf::encode_handshake_request(&HandshakeRequest {
        supported_versions: vec![2],
        proxy_id: "portcullis".into(),
        proxy_version: "0.1.0".into(),
        config: std::borrow::Cow::Owned(json!({"level": 2})),
        supported_encodings: Vec::new(),
        extensions: EXTENSIONS.names().into_iter().map(Into::into).collect(),
    });
    let message = ProxyToAgent {
        message: Some(FromProxy::Handshake(request)),
        ..ProxyToAgent::default()
    };
    message.encode_to_vec()
}

fn request_headers(number: Option<u64>) -> Vec<u8> {
    let request = Request::new("c-1", "/a?b=1");
    let mut view = request.view();
    view.metadata.request_id = "r-1";
    view.budget_left = Some(Duration::from_millis(1500));
    protobuf::encode_event(number, &Event::RequestHeaders(view)).encode_to_vec()
}

fn last_chunk() -> Vec<u8> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let chunk = DecodedBodyChunk {
        correlation_id: "c-1".into(),
        index: 2,
        data: Bytes::new(),
        is_last: true,
        total_size: None,
        transferred: 4096,
        truncated: false,
        trailers: Some(trailers),
        budget_left: None,
    };
    let event = Event::ResponseBodyChunk(chunk.view());
    protobuf::encode_event(Some(NUMBER), &event).encode_to_vec()
}

fn text() -> Vec<u8> {
    let reply = page_guardrail::reply();
    let event = Event::GuardrailInspect(reply.view());
    protobuf::encode_event(Some(NUMBER), &event).encode_to_vec()
}

fn cancel() -> Vec<u8> {
    let message = ProxyToAgent {
        message: Some(FromProxy::Cancel(CancelRequest {
            correlation_id: "c-1".to_owned(),
            reason: 3,
            timestamp_ms: 1_700_000_000_000,
        })),
        event_id: Some(NUMBER),
        budget_left_us: None,
    };
    message.encode_to_vec()
}

fn answers() -> [(&'static str, EventId, Answer, Extensions); 8] {
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
    let held = Decision::allow()
        .hold_for(Duration::from_millis(1500))
        .whatever_the(KeyPart::Cookie)
        .whatever_the(KeyPart::Query);
    let failed = NoDecision::Failed("no idea".to_owned());
    let overloaded = NoDecision::Overloaded {
        retry_after: Some(Duration::from_millis(1500)),
    };
    let ours = |name, answer| (name, EventId::Number(NUMBER), answer, EXTENSIONS);
    let published = EventId::Correlation("c-1".to_owned());
    [
        ("protobuf-answer", published, Ok(allow), Extensions::NONE),
        ours("protobuf-answer-block", Ok(block)),
        ours(
            "protobuf-answer-body",
            Ok(Decision::allow().replace_request_body("WORLD")),
        ),
        ours(
            "protobuf-answer-frame",
            Ok(Decision::allow().replace_frame("HI")),
        ),
        ours("protobuf-answer-error", Err(failed)),
        ours("protobuf-answer-overloaded", Err(overloaded)),
        ours("protobuf-answer-ttl", Ok(held)),
        ours("protobuf-answer-guardrail", Ok(page_guardrail::answer())),
    ]
}

#[test]
fn the_examples_can_be_read() {
    let page = crate::page::protocol_page::vectors();
    let registered = registration::decode_registration(&page["registration"]).unwrap();
    assert_eq!(registered.auth_token.as_deref(), Some("a-token"));
    let reply = registration::decode_reply(&page["registration-reply"], Extensions::ALL);
    assert_eq!(reply, Ok(Ok(ONE)));
    for (name, id, answer, extensions) in answers() {
        let message = AgentToProxy::decode(Bytes::from(page[name].clone())).unwrap();
        let Some(FromAgent::Response(response)) = message.message else {
            panic!("{name} is an answer");
        };
        let decoded = protobuf::decode_answer(*response, extensions);
        assert_eq!(decoded, Ok((id, answer)), "{name}");
    }
    for (name, number) in [
        ("protobuf-request-headers", true),
        ("protobuf-request-headers-legacy", false),
    ] {
        let message = ProxyToAgent::decode(Bytes::from(page[name].clone())).unwrap();
        let (id, event) = protobuf::decode_event(&message, number).unwrap();
        let expected = match number {
            true => EventId::Number(NUMBER),
            false => EventId::Correlation("c-1".to_owned()),
        };
        assert_eq!(id, expected);
        let Event::RequestHeaders(event) = event.view() else {
            panic!("{name} is the head of a request");
        };
        assert_eq!(event.metadata.client_port, 51234);
        let left = number.then_some(Duration::from_millis(1500));
        assert_eq!((event.uri, event.budget_left), ("/a?b=1", left));
    }
    let text = Bytes::from(page["protobuf-guardrail-inspect"].clone());
    let text = ProxyToAgent::decode(text).unwrap();
    let (id, event) = protobuf::decode_event(&text, true).unwrap();
    let expected = DecodedEvent::GuardrailInspect(page_guardrail::reply());
    assert_eq!(id, EventId::Number(NUMBER));
    assert_eq!(event.view(), expected.view());
}
