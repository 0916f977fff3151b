//! How agents say that they are, and who learns it.

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::{
    CallGuard, Condition, ConnectOptions, Connection, Decision, Extensions, HealthState,
};
use serde_json::{Value, json};

use crate::support::{PEERS, RawListener, RawPeer, Request, legacy_answer, until, within};

async fn raw_agent(extensions: Extensions) -> (Connection, RawPeer) {
    RawListener::new().connected(extensions).await
}

fn health(state: Value) -> (MessageType, Value) {
    (MessageType::HealthStatus, json!({"state": state}))
}

fn flow(action: Value) -> (MessageType, Value) {
    (MessageType::FlowControl, json!({"action": action}))
}

fn typed(message: &str) -> (MessageType, Value) {
    let signal = json!({"correlation_id": null, "action": {"type": message}, "timestamp_ms": 1});
    (MessageType::FlowControl, signal)
}

#[tokio::test]
async fn both_shapes_change_the_condition() {
    use HealthState::{Degraded, Draining, Healthy, Unhealthy};
    let reports = [
        (health(json!(1)), Healthy, false, 0),
        (health(json!(2)), Degraded, false, 1),
        (health(json!({"status": "degraded"})), Degraded, false, 1),
        (health(json!({"status": "draining"})), Draining, false, 2),
        (health(json!("unhealthy")), Unhealthy, false, 3),
        // What is not understood changes nothing.
        (health(json!({"status": "sleepy"})), Unhealthy, false, 3),
        (health(json!(7)), Unhealthy, false, 3),
        (flow(json!(1)), Unhealthy, true, 4),
        (typed("pause"), Unhealthy, true, 4),
        (typed("update_capacity"), Unhealthy, true, 4),
        (flow(json!(3)), Unhealthy, true, 4),
        (health(json!({"status": "healthy"})), Healthy, true, 5),
        (typed("resume"), Healthy, false, 6),
        (typed("pause"), Healthy, true, 7),
        (flow(json!(2)), Healthy, false, 8),
    ];
    for extensions in PEERS {
        let (connection, mut peer) = raw_agent(extensions).await;
        assert_eq!(connection.condition(), Condition::default());
        for (seen, ((kind, message), health, paused, changes)) in (1..).zip(reports.clone()) {
            peer.send_json(kind, &message).await;
            until(|| connection.control_messages_seen() == seen).await;
            let expected = Condition {
                health,
                paused,
                changes,
            };
            assert_eq!(connection.condition(), expected, "{message}");
            assert_eq!(connection.health(), health);
            assert_eq!(connection.is_paused(), paused);
        }
        assert!(connection.is_open());
    }
}

#[tokio::test]
async fn a_pause_of_one_request_is_not_one_of_the_agent() {
    let (connection, mut peer) = raw_agent(Extensions::NONE).await;
    let signal = json!({"correlation_id": "c", "action": {"type": "pause"}, "timestamp_ms": 1});
    peer.send_json(MessageType::FlowControl, &signal).await;
    until(|| connection.control_messages_seen() == 1).await;
    assert_eq!(connection.condition(), Condition::default());
}

#[tokio::test]
async fn no_change_is_missed() {
    let (connection, mut peer) = raw_agent(Extensions::ALL).await;
    let first = connection.condition();
    let mut waiting = Box::pin(connection.condition_changed(first));
    assert!(waiting.as_mut().now_or_never().is_none());
    let (kind, message) = flow(json!(1));
    peer.send_json(kind, &message).await;
    let paused = within(waiting).await.unwrap();
    assert!(paused.paused);
    // It changes twice before somebody looks, and is as it was.
    for action in [2, 1] {
        let (kind, message) = flow(json!(action));
        peer.send_json(kind, &message).await;
    }
    until(|| connection.control_messages_seen() == 3).await;
    let again = within(connection.condition_changed(paused)).await.unwrap();
    assert_eq!((again.paused, again.changes), (true, 3));
    // Several may wait, and a report that says nothing new wakes nobody.
    let mut waiting = [(), ()].map(|()| Box::pin(connection.condition_changed(again)));
    peer.send_json(kind, &message).await;
    until(|| connection.control_messages_seen() == 4).await;
    for one in &mut waiting {
        assert!(one.as_mut().now_or_never().is_none());
    }
    let (kind, message) = health(json!(3));
    peer.send_json(kind, &message).await;
    for one in waiting {
        let changed = within(one).await.unwrap();
        assert_eq!(changed.health, HealthState::Draining);
    }
}

#[tokio::test]
async fn who_waits_for_a_change_learns_of_the_end() {
    let (connection, mut peer) = raw_agent(Extensions::ALL).await;
    let first = connection.condition();
    let waiting = connection.condition_changed(first);
    let (kind, message) = health(json!(3));
    peer.send_json(kind, &message).await;
    drop(peer);
    // What was said before the end comes first.
    let last = within(waiting).await.unwrap();
    assert_eq!(last.health, HealthState::Draining);
    assert_eq!(within(connection.condition_changed(last)).await, None);
    within(connection.closed()).await;
    assert_eq!(connection.condition(), last);
}

#[tokio::test]
async fn a_paused_connection_gets_answers_and_takes_events() {
    let (connection, mut peer) = raw_agent(Extensions::NONE).await;
    let ask = |id| connection.send(&Request::new(id, "/").event(), CallGuard::none());
    let before = ask("before").unwrap();
    let (kind, message) = typed("pause");
    peer.send_json(kind, &message).await;
    until(|| connection.is_paused()).await;
    let after = ask("after").unwrap();
    for id in ["before", "after"] {
        let answer = legacy_answer(id, &json!("allow"));
        peer.send_json(MessageType::AgentResponse, &answer).await;
    }
    assert_eq!(within(before).await, Ok(Decision::allow()));
    assert_eq!(within(after).await, Ok(Decision::allow()));
    assert!(connection.is_paused());
}

#[tokio::test]
async fn what_is_reported_before_the_configuration_is_accepted_counts() {
    let raw = RawListener::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    let options = ConnectOptions {
        config: Some(Arc::new(json!({}))),
        on_control: Some(Arc::new(move |message| {
            hearing.lock().unwrap().push(message.clone());
        })),
        ..ConnectOptions::new("raw")
    };
    let agent = async {
        let mut peer = raw.accept().await;
        peer.shake_hands(Extensions::NONE).await;
        let configure = peer.receive_json(MessageType::Configure).await;
        for (kind, message) in [health(json!({"status": "degraded"})), typed("pause")] {
            peer.send_json(kind, &message).await;
        }
        let id = configure["correlation_id"].as_str().unwrap();
        let answer = legacy_answer(id, &json!("allow"));
        peer.send_json(MessageType::AgentResponse, &answer).await;
        peer
    };
    let connected = crate::support::connect_with(&raw.path, &options);
    let (connection, _peer) = tokio::join!(connected, agent);
    let expected = Condition {
        health: HealthState::Degraded,
        paused: true,
        changes: 2,
    };
    assert_eq!(connection.condition(), expected);
    assert_eq!(heard.lock().unwrap().len(), 2);
}
