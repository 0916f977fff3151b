//! Another configuration on an open connection.

use std::sync::Arc;

use futures::FutureExt;
use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::{
    CallError, CallGuard, ConfigureError, ConnectOptions, Connection, Decision, Extensions, Limits,
};
use serde_json::{Value, json};

use crate::support::{
    PEERS, RawListener, RawPeer, Request, Served, block, connect_with, legacy_answer, until, within,
};

/// Extensions of an agent that the tests can play in JSON.
const BY_NUMBER: Extensions = Extensions {
    binary: false,
    ..Extensions::ALL
};

async fn raw_agent(extensions: Extensions, cancellation: bool) -> (Connection, RawPeer) {
    let options = ConnectOptions::new("waf");
    let raw = RawListener::new();
    raw.connected_with(&options, extensions, cancellation).await
}

async fn answer(peer: &mut RawPeer, question: &Value, decision: Value) {
    let mut answer = legacy_answer(question["correlation_id"].as_str().unwrap(), &decision);
    answer["event_id"] = question["event_id"].clone();
    peer.send_json(MessageType::AgentResponse, &answer).await;
}

fn refused(reason: &str) -> Result<(), ConfigureError> {
    let reason = reason.to_owned();
    Err(ConfigureError::Refused { reason })
}

#[tokio::test]
async fn our_agents_take_and_refuse_it() {
    for extensions in PEERS {
        let served = Served::with_extensions(extensions);
        let options = ConnectOptions {
            config: Some(Arc::new(json!({"level": 1}))),
            ..ConnectOptions::new("test")
        };
        let connection = connect_with(&served.path, &options).await;
        assert!(connection.capabilities().features.config_push);
        let present = || served.agent.configured.lock().unwrap().clone();
        assert_eq!(present(), json!({"level": 1}));
        let taken = connection.configure(&json!({"level": 2}), Some("v2"));
        assert_eq!(within(taken).await, Ok(()));
        assert_eq!(present(), json!({"level": 2}));
        let config = json!({"level": 3, "refuse": "level 3 is not known"});
        let answered = within(connection.configure(&config, None)).await;
        assert_eq!(answered, refused("level 3 is not known"));
        assert_eq!(present(), json!({"level": 2}));
        // It goes on as it was.
        let request = Request::new("c", "/block");
        let asked = connection.send(&request.event(), CallGuard::none());
        assert_eq!(within(asked.unwrap()).await, Ok(block()));
        let taken = connection.configure(&json!({"level": 4}), None);
        assert_eq!(within(taken).await, Ok(()));
        assert!(connection.is_open());
        assert_eq!((connection.in_flight(), connection.unanswered()), (0, 0));
    }
}

#[tokio::test]
async fn it_is_one_of_many_messages() {
    for extensions in [Extensions::NONE, BY_NUMBER] {
        let (connection, mut peer) = raw_agent(extensions, false).await;
        let request = Request::new("c-1", "/");
        let event = connection.send(&request.event(), CallGuard::none());
        let first = connection.configure(&json!({"level": 2}), Some("7"));
        let second = connection.configure(&json!({"level": 3}), None);
        let asked = peer.receive_json(MessageType::RequestHeaders).await;
        let mut messages = Vec::new();
        for (level, version) in [(2, json!("7")), (3, json!(null))] {
            let message = peer.receive_json(MessageType::Configure).await;
            assert_eq!(message["config"], json!({"level": level}));
            assert_eq!(message["config_version"], version);
            let id = message["correlation_id"].as_str().unwrap();
            assert!(id.starts_with("configure-waf-"), "{id}");
            assert_eq!(message["event_id"].is_null(), !extensions.event_id);
            assert_ne!(message["event_id"], 0);
            messages.push(message);
        }
        assert_ne!(messages[0]["correlation_id"], messages[1]["correlation_id"]);
        // The answers come in another order.
        let why = json!({"block": {"status": 403, "body": "too strict"}});
        answer(&mut peer, &messages[1], why).await;
        answer(&mut peer, &asked, json!("allow")).await;
        answer(&mut peer, &messages[0], json!("allow")).await;
        assert_eq!(within(first).await, Ok(()));
        assert_eq!(within(second).await, refused("too strict"));
        assert_eq!(within(event.unwrap()).await, Ok(Decision::allow()));
        assert!(connection.is_open());
    }
}

#[tokio::test]
async fn anything_but_an_allow_is_no_allow() {
    let said = "the agent did not accept its configuration";
    let later = CallError::Overloaded { retry_after: None };
    let table = [
        (json!({"block": {"status": 500}}), refused(said)),
        (json!({"redirect": {"url": "/"}}), refused(said)),
        (json!({"error": {"message": "no idea"}}), refused("no idea")),
        (
            json!({"overloaded": {}}),
            Err(ConfigureError::Call(later.clone())),
        ),
    ];
    for (decision, expected) in table {
        let (connection, mut peer) = raw_agent(BY_NUMBER, false).await;
        let pending = connection.configure(&json!({}), None);
        let message = peer.receive_json(MessageType::Configure).await;
        answer(&mut peer, &message, decision).await;
        assert_eq!(within(pending).await, expected);
        assert!(connection.is_open());
        let pending = connection.configure(&json!({}), None);
        let message = peer.receive_json(MessageType::Configure).await;
        answer(&mut peer, &message, json!("perhaps")).await;
        let failed = within(pending).await;
        let malformed = matches!(failed, Err(ConfigureError::Call(CallError::Protocol(_))));
        assert!(malformed, "{failed:?}");
    }
}

#[tokio::test]
async fn who_stops_waiting_takes_nothing_back() {
    for extensions in [Extensions::NONE, BY_NUMBER] {
        let (connection, mut peer) = raw_agent(extensions, true).await;
        drop(connection.configure(&json!({}), None));
        let message = peer.receive_json(MessageType::Configure).await;
        assert_eq!((connection.in_flight(), connection.unanswered()), (0, 1));
        assert!(connection.is_open());
        answer(&mut peer, &message, json!("allow")).await;
        until(|| connection.late_answers_seen() == 1).await;
        assert_eq!(connection.cancels_sent(), 0);
        assert!(connection.is_open());
    }
}

#[tokio::test]
async fn it_fails_with_the_connection() {
    let closed = Err(ConfigureError::Call(CallError::Closed));
    let (connection, mut peer) = raw_agent(BY_NUMBER, false).await;
    let mut pending = connection.configure(&json!({}), None);
    assert!((&mut pending).now_or_never().is_none());
    peer.receive_json(MessageType::Configure).await;
    // A retiring connection waits for it, and takes no other.
    connection.retire();
    assert_eq!(
        within(connection.configure(&json!({}), None)).await,
        closed.clone()
    );
    assert!(connection.is_retiring());
    drop(peer);
    assert_eq!(within(&mut pending).await, closed);
    assert_eq!(within(pending).await, closed);

    let options = ConnectOptions {
        limits: Limits {
            max_frame_bytes: 1000,
            ..Limits::default()
        },
        ..ConnectOptions::new("waf")
    };
    let raw = RawListener::new();
    let (connection, _peer) = raw.connected_with(&options, BY_NUMBER, false).await;
    let refused = within(connection.configure(&json!("x".repeat(1000)), None)).await;
    let Err(ConfigureError::Call(CallError::EventTooLarge { limit: 1000, .. })) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((connection.in_flight(), connection.unanswered()), (0, 0));
}
