//! Our proxy's end against a legacy agent, and our agent's end against a
//! legacy proxy, both played in raw bytes.

use std::sync::Arc;

use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::server::ServeOptions;
use portcullis_agent_protocol::{
    CallError, CallGuard, ConnectError, ConnectOptions, Connection, Decision, Extensions,
};
use serde_json::{Value, json};

use crate::support::{RawListener, RawPeer, Request, Served, legacy_answer, until, within};

#[tokio::test]
async fn the_proxy_greets_and_asks_as_legacy_agents_expect() {
    let raw = RawListener::new();
    let (connection, mut peer) = {
        let options = ConnectOptions {
            proxy_id: "p".to_owned(),
            proxy_version: "9.9".to_owned(),
            config: Some(Arc::new(json!({"level": 2}))),
            ..ConnectOptions::new("waf")
        };
        let agent = async {
            let mut peer = raw.accept().await;
            let request = peer.shake_hands(Extensions::NONE).await;
            let expected = json!({"supported_versions": [2], "proxy_id": "p",
                "proxy_version": "9.9", "config": {"level": 2}, "supported_encodings": ["json"],
                "extensions": ["event-id", "binary", "error", "overloaded", "verdict-ttl"]});
            assert_eq!(request, expected);
            let configure = peer.receive_json(MessageType::Configure).await;
            let id = configure["correlation_id"].as_str().unwrap().to_owned();
            let expected =
                json!({"config": {"level": 2}, "config_version": null, "correlation_id": id});
            assert_eq!(configure, expected);
            let answer = legacy_answer(&id, &json!("allow"));
            peer.send_json(MessageType::AgentResponse, &answer).await;
            peer
        };
        tokio::join!(crate::support::connect_with(&raw.path, &options), agent)
    };
    assert_eq!(connection.extensions(), Extensions::NONE);
    let answer = connection
        .send(&Request::new("c-1", "/a?b=1").event(), CallGuard::none())
        .unwrap();
    let event = peer.receive_json(MessageType::RequestHeaders).await;
    assert_eq!(event["correlation_id"], "c-1");
    assert_eq!(event["metadata"]["correlation_id"], "c-1");
    assert!(event.get("event_id").is_none());
    let decision = json!({"block": {"status": 451, "body": "no"}});
    peer.send_json(MessageType::AgentResponse, &legacy_answer("c-1", &decision))
        .await;
    assert_eq!(
        within(answer).await,
        Ok(Decision::block(451).with_body("no"))
    );
}

#[tokio::test]
async fn a_configuration_is_refused_in_many_ways() {
    // Cut at 1 KiB, but not within a character.
    let long = "é".repeat(600).replacen('é', "e", 1);
    let table: [(Value, &str); 5] = [
        (
            json!({"block": {"status": 500, "body": "Configuration rejected"}}),
            "Configuration rejected",
        ),
        (
            json!({"block": {"status": 403, "body": long}}),
            &long[..1023],
        ),
        (
            json!({"block": {"status": 500}}),
            "the agent did not accept its configuration",
        ),
        (
            json!({"redirect": {"url": "/", "status": 302}}),
            "the agent did not accept its configuration",
        ),
        (
            json!({"challenge": {"challenge_type": "c"}}),
            "the agent did not accept its configuration",
        ),
    ];
    for (decision, expected) in table {
        let error = configured_with(|id| legacy_answer(id, &decision))
            .await
            .unwrap_err();
        let ConnectError::ConfigurationRefused { reason } = error else {
            panic!("{error}");
        };
        assert_eq!(reason, expected);
    }
    let malformed = configured_with(|id| legacy_answer(id, &json!("maybe")))
        .await
        .unwrap_err();
    assert!(
        matches!(malformed, ConnectError::Protocol(_)),
        "{malformed}"
    );
    let other = configured_with(|_| legacy_answer("other", &json!("allow")))
        .await
        .unwrap_err();
    assert!(matches!(other, ConnectError::Protocol(_)), "{other}");
}

async fn configured_with(answer: impl Fn(&str) -> Value) -> Result<(), ConnectError> {
    let raw = RawListener::new();
    let options = ConnectOptions {
        config: Some(Arc::new(json!({}))),
        ..ConnectOptions::new("waf")
    };
    let agent = async {
        let mut peer = raw.accept().await;
        peer.shake_hands(Extensions::NONE).await;
        let configure = peer.receive_json(MessageType::Configure).await;
        let answer = answer(configure["correlation_id"].as_str().unwrap());
        peer.send_json(MessageType::AgentResponse, &answer).await;
        peer
    };
    let (connected, _peer) = tokio::join!(within(Connection::connect(&raw.path, &options)), agent);
    connected.map(drop)
}

#[tokio::test]
async fn a_refused_handshake_has_its_reason() {
    let raw = RawListener::new();
    let options = ConnectOptions::new("waf");
    let agent = async {
        let mut peer = raw.accept().await;
        peer.receive().await;
        let refusal = json!({"protocol_version": 2, "success": false, "error": "not today"});
        peer.send_json(MessageType::HandshakeResponse, &refusal)
            .await;
    };
    let (connected, ()) = tokio::join!(Connection::connect(&raw.path, &options), agent);
    let error = connected.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Refused { reason } if reason == "not today"),
        "{error}"
    );
}

#[tokio::test]
async fn a_legacy_agent_cannot_say_not_now() {
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(Extensions::NONE).await;
    let answer = connection.send(&Request::new("c", "/").event(), CallGuard::none());
    let later = json!({"overloaded": {"retry_after_ms": 1500}});
    peer.send_json(MessageType::AgentResponse, &legacy_answer("c", &later))
        .await;
    let failed = within(answer.unwrap()).await;
    assert!(matches!(failed, Err(CallError::Protocol(_))), "{failed:?}");
    assert!(connection.is_open());
}

#[tokio::test]
async fn d12_a_late_legacy_answer_is_given_to_nobody() {
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(Extensions::NONE).await;
    let late = connection
        .send(&Request::new("late", "/").event(), CallGuard::none())
        .unwrap();
    let other = connection
        .send(&Request::new("other", "/").event(), CallGuard::none())
        .unwrap();
    drop(late);
    let again = connection.send(&Request::new("late", "/").event(), CallGuard::none());
    assert_eq!(again.unwrap_err(), CallError::Closed);
    let blocked = json!({"block": {"status": 403}});
    peer.send_json(MessageType::AgentResponse, &legacy_answer("late", &blocked))
        .await;
    until(|| connection.late_answers_seen() == 1).await;
    assert_eq!(connection.in_flight(), 1);
    peer.send_json(
        MessageType::AgentResponse,
        &legacy_answer("other", &json!("allow")),
    )
    .await;
    assert_eq!(within(other).await, Ok(Decision::allow()));
    within(connection.closed()).await;
}

#[tokio::test]
async fn an_abandoned_only_call_closes_a_legacy_connection() {
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(Extensions::NONE).await;
    drop(
        connection
            .send(&Request::new("1", "/").event(), CallGuard::none())
            .unwrap(),
    );
    within(connection.closed()).await;
    peer.ended().await;
}

/// A legacy proxy that has shaken hands with our agent.
async fn legacy_proxy(served: &Served) -> RawPeer {
    let mut proxy = RawPeer::connect(&served.path).await;
    let request = json!({"supported_versions": [2], "proxy_id": "p", "proxy_version": "1",
        "config": null});
    proxy
        .send_json(MessageType::HandshakeRequest, &request)
        .await;
    let response = proxy.receive_json(MessageType::HandshakeResponse).await;
    let expected = json!({
        "protocol_version": 2,
        "capabilities": {
            "agent_id": "path", "name": "path", "version": env!("CARGO_PKG_VERSION"),
            "supported_events": [1],
            "features": {"streaming_body": false, "websocket": false, "guardrails": false,
                "config_push": true, "metrics_export": false, "concurrent_requests": 100,
                "cancellation": true, "flow_control": true, "health_reporting": true},
            "limits": {"max_body_size": 10_485_760, "max_concurrency": 100,
                "preferred_chunk_size": 262144}},
        "success": true, "error": null, "encoding": "json"});
    assert_eq!(response, expected);
    proxy
}

pub(crate) fn legacy_event(id: &str, uri: &str) -> Value {
    json!({"correlation_id": id, "metadata": {"correlation_id": id, "request_id": "r-1",
            "client_ip": "203.0.113.7", "client_port": 51234, "server_name": null,
            "protocol": "HTTP/1.1", "tls_version": null, "tls_cipher": null, "route_id": "api",
            "upstream_id": "backend", "timestamp": "2026-07-01T12:00:00.123+00:00"},
        "method": "GET", "uri": uri, "headers": {"host": ["example.com"], "Cookie": ["a=1", "b=2"]}})
}

#[tokio::test]
async fn a_legacy_proxy_gets_legacy_answers() {
    let served = Served::new(ServeOptions::default());
    let mut proxy = legacy_proxy(&served).await;
    let configure = json!({"config": {"a": 1}, "config_version": null, "correlation_id": "conf-1"});
    proxy.send_json(MessageType::Configure, &configure).await;
    let answer = proxy.receive_json(MessageType::AgentResponse).await;
    assert_eq!(answer["decision"], "allow");
    assert_eq!(answer["audit"]["custom"]["correlation_id"], "conf-1");

    proxy
        .send_json(MessageType::RequestHeaders, &legacy_event("c-1", "/block"))
        .await;
    let answer = proxy.receive_json(MessageType::AgentResponse).await;
    assert_eq!(answer["version"], 2);
    assert_eq!(answer["decision"]["block"]["status"], 403);
    assert_eq!(answer["decision"]["block"]["headers"]["x-why"], "waf");
    assert_eq!(
        answer["audit"]["custom"],
        json!({"n": 1, "correlation_id": "c-1"})
    );
    assert!(answer.get("event_id").is_none());

    proxy
        .send_json(
            MessageType::Ping,
            &json!({"sequence": 5, "timestamp_ms": 6}),
        )
        .await;
    let pong = proxy.receive_json(MessageType::Pong).await;
    assert_eq!(pong, json!({"sequence": 5, "timestamp_ms": 6}));
}

#[tokio::test]
async fn d08_what_a_legacy_proxy_sends_wrongly_is_never_allowed() {
    let served = Served::new(ServeOptions::default());
    let mut proxy = legacy_proxy(&served).await;
    let mut undecodable = legacy_event("c-1", "/");
    undecodable["metadata"]["client_ip"] = json!("nowhere");
    let chunk = json!({"correlation_id": "c-1", "data": "aGVsbG8=", "is_last": true});
    for (kind, message) in [
        (MessageType::RequestHeaders, undecodable),
        (
            MessageType::RequestHeaders,
            json!({"correlation_id": "c-1"}),
        ),
        (MessageType::RequestBodyChunk, chunk),
        (
            MessageType::RequestComplete,
            json!({"correlation_id": "c-1", "status": 200}),
        ),
    ] {
        proxy.send_json(kind, &message).await;
        let answer = proxy.receive_json(MessageType::AgentResponse).await;
        assert_eq!(answer["decision"]["block"]["status"], 500, "{kind:?}");
        assert_eq!(answer["decision"]["block"]["body"], Value::Null);
        assert_eq!(answer["audit"]["reason_codes"], json!(["agent_error"]));
        assert_eq!(answer["audit"]["custom"]["correlation_id"], "c-1");
    }
    // Nothing to answer to: the end.
    proxy.send(MessageType::RequestHeaders, b"{}").await;
    proxy.ended().await;
}

#[tokio::test]
async fn handshakes_that_our_agent_refuses() {
    let served = Served::new(ServeOptions::default());
    for (request, expected) in [
        (
            json!({"supported_versions": [1]}),
            "only protocol version 2 is spoken",
        ),
        (
            json!({"supported_versions": [2], "supported_encodings": ["msgpack"]}),
            "only the encoding json is spoken",
        ),
    ] {
        let mut proxy = RawPeer::connect(&served.path).await;
        proxy
            .send_json(MessageType::HandshakeRequest, &request)
            .await;
        let response = proxy.receive_json(MessageType::HandshakeResponse).await;
        assert_eq!(
            (&response["success"], &response["error"]),
            (&json!(false), &json!(expected))
        );
        proxy.ended().await;
    }
}
