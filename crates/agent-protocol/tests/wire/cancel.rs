//! Events whose answer is no longer wanted.

use std::sync::Arc;

use portcullis_agent_protocol::codec::binary;
use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::server::{ServeCounters, ServeOptions};
use portcullis_agent_protocol::{
    CallError, CallGuard, CancelReason, CloseReason, ConnectOptions, Connection, Decision,
    Extensions, PendingAnswer,
};
use serde_json::{Value, json};

use crate::guard::Guards;
use crate::support::{
    PEERS, RawListener, RawPeer, Request, Served, connect, legacy_answer, until, within,
};

fn ask(connection: &Connection, id: &str, uri: &str, guard: CallGuard) -> PendingAnswer {
    let request = Request::new(id, uri);
    connection.send(&request.event(), guard).unwrap()
}

async fn raw_agent(extensions: Extensions, cancellation: bool) -> (Connection, RawPeer) {
    let raw = RawListener::new();
    let options = ConnectOptions::new("raw");
    raw.connected_with(&options, extensions, cancellation).await
}

/// The number of the next event, which must be a request's head.
async fn receive_event(peer: &mut RawPeer, extensions: Extensions) -> Option<u64> {
    let (kind, event) = peer.receive().await;
    assert_eq!(kind, MessageType::RequestHeaders);
    if extensions.binary {
        return Some(u64::from_be_bytes(*event.first_chunk().unwrap()));
    }
    let event: Value = serde_json::from_slice(&event).unwrap();
    event["event_id"].as_u64()
}

async fn answer(peer: &mut RawPeer, extensions: Extensions, id: &str, number: Option<u64>) {
    let mut payload = Vec::new();
    if extensions.binary {
        binary::encode_answer(
            &mut payload,
            number.unwrap(),
            &Ok(Decision::allow()),
            Extensions::ALL,
        )
        .unwrap();
    } else {
        let mut answer = legacy_answer(id, &json!("allow"));
        answer["event_id"] = json!(number);
        payload = answer.to_string().into_bytes();
    }
    peer.send(MessageType::AgentResponse, &payload).await;
}

#[tokio::test]
async fn a_cancel_names_the_event_and_the_reason() {
    for extensions in PEERS {
        let (connection, mut peer) = raw_agent(extensions, true).await;
        let guards = Guards::default();
        // Keeps a legacy connection from closing at once.
        let _other = ask(&connection, "other", "/", CallGuard::none());
        receive_event(&mut peer, extensions).await;
        let pending = ask(&connection, "c-1", "/", guards.make());
        let number = receive_event(&mut peer, extensions).await;
        assert_eq!(number.is_some(), extensions.event_id);
        pending.cancel(CancelReason::BlockedByAgent);
        assert_eq!(guards.held(), 0, "the agent works on it no longer");
        assert_eq!((connection.in_flight(), connection.cancels_sent()), (1, 1));
        let (kind, payload) = peer.receive().await;
        assert_eq!(kind, MessageType::Cancel);
        let mut cancel: Value = serde_json::from_slice(&payload).unwrap();
        let timestamp = cancel["timestamp_ms"].take().as_u64().unwrap();
        assert!(timestamp > 1_700_000_000_000, "{timestamp}");
        let mut expected = json!({"correlation_id": "c-1", "reason": 2, "timestamp_ms": null});
        if let Some(number) = number {
            expected["event_id"] = json!(number);
        }
        assert_eq!(cancel, expected);
    }
}

#[tokio::test]
async fn a_plain_drop_has_a_reason_too() {
    let (connection, mut peer) = raw_agent(Extensions::ALL, true).await;
    drop(ask(&connection, "1", "/", CallGuard::none()));
    receive_event(&mut peer, Extensions::ALL).await;
    let cancel = peer.receive_json(MessageType::Cancel).await;
    assert_eq!(cancel["reason"], 0);
    for reason in CancelReason::ALL {
        ask(&connection, "2", "/", CallGuard::none()).cancel(reason);
        receive_event(&mut peer, Extensions::ALL).await;
        let cancel = peer.receive_json(MessageType::Cancel).await;
        assert_eq!(cancel["reason"], reason.number());
    }
    assert_eq!(connection.cancels_sent(), 7);
}

#[tokio::test]
async fn an_agent_that_has_not_announced_it_gets_no_cancel() {
    for extensions in PEERS {
        let (connection, mut peer) = raw_agent(extensions, false).await;
        let guards = Guards::default();
        let kept = ask(&connection, "kept", "/", guards.make());
        let number = receive_event(&mut peer, extensions).await;
        ask(&connection, "dropped", "/", guards.make()).cancel(CancelReason::Timeout);
        receive_event(&mut peer, extensions).await;
        assert_eq!((guards.held(), connection.cancels_sent()), (2, 0));
        assert_eq!(connection.unanswered(), 2);
        answer(&mut peer, extensions, "kept", number).await;
        assert_eq!(within(kept).await, Ok(Decision::allow()));
        connection.close();
        within(connection.closed()).await;
        assert_eq!(guards.held(), 0);
        let mut rest = Vec::new();
        drop(tokio::io::AsyncReadExt::read_to_end(&mut peer.stream, &mut rest).await);
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn an_answered_call_is_not_cancelled() {
    let (connection, mut peer) = raw_agent(Extensions::ALL, true).await;
    let fetched = ask(&connection, "1", "/", CallGuard::none());
    let number = receive_event(&mut peer, Extensions::ALL).await;
    answer(&mut peer, Extensions::ALL, "1", number).await;
    assert_eq!(within(fetched).await, Ok(Decision::allow()));
    let unfetched = ask(&connection, "2", "/", CallGuard::none());
    let number = receive_event(&mut peer, Extensions::ALL).await;
    answer(&mut peer, Extensions::ALL, "2", number).await;
    until(|| connection.in_flight() == 0).await;
    unfetched.cancel(CancelReason::Timeout);
    assert_eq!(connection.cancels_sent(), 0);
    let _next = ask(&connection, "3", "/", CallGuard::none());
    receive_event(&mut peer, Extensions::ALL).await;
}

#[tokio::test]
async fn an_answer_that_crosses_a_cancel_is_late() {
    for extensions in [Extensions::ALL, PEERS[1]] {
        let (connection, mut peer) = raw_agent(extensions, true).await;
        let mut cancelled = Vec::new();
        for _ in 0..3 {
            let pending = ask(&connection, "same", "/", CallGuard::none());
            cancelled.push(receive_event(&mut peer, extensions).await);
            drop(pending);
            assert_eq!((connection.in_flight(), connection.unanswered()), (0, 0));
            peer.receive_json(MessageType::Cancel).await;
        }
        let pending = ask(&connection, "same", "/", CallGuard::none());
        let number = receive_event(&mut peer, extensions).await;
        for late in cancelled {
            answer(&mut peer, extensions, "same", late).await;
        }
        until(|| connection.late_answers_seen() == 3).await;
        assert_eq!(connection.in_flight(), 1, "it is nobody else's answer");
        answer(&mut peer, extensions, "same", number).await;
        assert_eq!(within(pending).await, Ok(Decision::allow()));
        assert!(connection.is_open());
        // A second answer to an event that was not cancelled is an error.
        answer(&mut peer, extensions, "same", number).await;
        within(connection.closed()).await;
        let reason = connection.close_reason();
        assert!(matches!(reason, Some(CloseReason::Protocol(_))));
    }
}

#[tokio::test]
async fn a_legacy_connection_retires_with_a_cancel() {
    for extensions in [PEERS[2], Extensions::NONE] {
        let (connection, mut peer) = raw_agent(extensions, true).await;
        let guards = Guards::default();
        let late = ask(&connection, "late", "/", guards.make());
        let other = ask(&connection, "other", "/", guards.make());
        receive_event(&mut peer, extensions).await;
        receive_event(&mut peer, extensions).await;
        late.cancel(CancelReason::Timeout);
        assert!(connection.is_retiring());
        assert_eq!(guards.held(), 1);
        let cancel = peer.receive_json(MessageType::Cancel).await;
        assert_eq!(cancel["correlation_id"], "late");
        answer(&mut peer, extensions, "late", None).await;
        until(|| connection.late_answers_seen() == 1).await;
        assert_eq!((connection.in_flight(), guards.held()), (1, 1));
        answer(&mut peer, extensions, "other", None).await;
        assert_eq!(within(other).await, Ok(Decision::allow()));
        within(connection.closed()).await;
        assert_eq!(connection.close_reason(), Some(CloseReason::Local));
        assert_eq!(guards.held(), 0);
    }
}

#[tokio::test]
async fn the_last_cancel_is_written_before_a_legacy_connection_closes() {
    let (connection, mut peer) = raw_agent(Extensions::NONE, true).await;
    let only = ask(&connection, "only", "/", CallGuard::none());
    receive_event(&mut peer, Extensions::NONE).await;
    only.cancel(CancelReason::Timeout);
    let cancel = peer.receive_json(MessageType::Cancel).await;
    assert_eq!(cancel["correlation_id"], "only");
    peer.ended().await;
    within(connection.closed()).await;
}

fn counted(options: ServeOptions) -> (Served, Arc<ServeCounters>) {
    let counters = Arc::clone(&options.counters);
    (Served::new(options), counters)
}

#[tokio::test]
async fn a_cancelled_handler_is_dropped_and_never_answers() {
    for extensions in [Extensions::ALL, PEERS[1]] {
        let (served, counters) = counted(ServeOptions {
            extensions,
            ..ServeOptions::default()
        });
        let connection = connect(&served.path).await;
        assert!(connection.capabilities().features.cancellation);
        let guards = Guards::default();
        // The same correlation id: the number alone says which one is meant.
        let held = ask(&connection, "same", "/hold", guards.make());
        let cancelled = ask(&connection, "same", "/hold", guards.make());
        until(|| served.agent.held() == 2).await;
        cancelled.cancel(CancelReason::Timeout);
        until(|| served.agent.held() == 1).await;
        assert_eq!(
            (counters.cancelled_events(), counters.idle_cancels()),
            (1, 0)
        );
        assert_eq!((guards.held(), connection.unanswered()), (1, 1));
        served.agent.release.notify_one();
        assert_eq!(within(held).await, Ok(Decision::allow().tag("held")));
        assert_eq!((served.agent.held(), guards.held()), (0, 0));
        assert_eq!(connection.late_answers_seen(), 0);
        assert!(connection.is_open());
    }
}

#[tokio::test]
async fn events_that_wait_are_cancelled_too() {
    let (served, counters) = counted(ServeOptions {
        concurrency: 1,
        backlog: 2,
        ..ServeOptions::default()
    });
    let connection = connect(&served.path).await;
    let held = ask(&connection, "1", "/hold", CallGuard::none());
    let cancelled = ask(&connection, "2", "/hold", CallGuard::none());
    until(|| served.agent.held() == 1).await;
    cancelled.cancel(CancelReason::ClientDisconnect);
    // Heard although as many events are worked on as may be.
    until(|| counters.cancelled_events() == 1).await;
    let next = ask(&connection, "3", "/hold", CallGuard::none());
    served.agent.release.notify_one();
    assert_eq!(within(held).await, Ok(Decision::allow().tag("held")));
    served.agent.release.notify_one();
    assert_eq!(within(next).await, Ok(Decision::allow().tag("held")));
    assert_eq!(connection.late_answers_seen(), 0);
}

#[tokio::test]
async fn a_hung_agent_recovers_when_its_events_are_cancelled() {
    let (served, counters) = counted(ServeOptions {
        concurrency: 4,
        backlog: 8,
        ..ServeOptions::default()
    });
    let connection = connect(&served.path).await;
    for round in 1..=5 {
        let hung: Vec<_> = (0..12)
            .map(|n| ask(&connection, &n.to_string(), "/hold", CallGuard::none()))
            .collect();
        until(|| served.agent.held() == 4).await;
        drop(hung);
        until(|| counters.cancelled_events() == 12 * round).await;
        let well = ask(&connection, "well", "/block", CallGuard::none());
        assert_eq!(within(well).await, Ok(crate::support::block()));
        assert_eq!(served.agent.held(), 0);
    }
    assert_eq!((counters.idle_cancels(), connection.unanswered()), (0, 0));
}

#[tokio::test]
async fn a_legacy_proxy_cancels_by_correlation_id() {
    let (served, counters) = counted(ServeOptions::default());
    let mut proxy = RawPeer::connect(&served.path).await;
    proxy.greet(&json!({"supported_versions": [2]})).await;
    for id in ["one", "two", "two"] {
        let event = crate::legacy::legacy_event(id, "/hold");
        proxy.send_json(MessageType::RequestHeaders, &event).await;
    }
    until(|| served.agent.held() == 3).await;
    let cancel = |id: &str| json!({"correlation_id": id, "reason": 1, "timestamp_ms": 1});
    for (id, held, cancelled) in [("two", 1, 2), ("none", 1, 2), ("one", 0, 3)] {
        proxy.send_json(MessageType::Cancel, &cancel(id)).await;
        // Answered after the Cancel was heard.
        let ping = json!({"sequence": 1, "timestamp_ms": 2});
        proxy.send_json(MessageType::Ping, &ping).await;
        proxy.receive_json(MessageType::Pong).await;
        until(|| served.agent.held() == held).await;
        assert_eq!(counters.cancelled_events(), cancelled, "{id}");
    }
    assert_eq!(counters.idle_cancels(), 1);
    proxy.send(MessageType::Cancel, b"{}").await;
    proxy.ended().await;
}

#[tokio::test]
async fn an_agent_without_extensions_answers_all_the_same() {
    let (served, counters) = counted(ServeOptions {
        extensions: Extensions::NONE,
        ..ServeOptions::default()
    });
    let mut proxy = RawPeer::connect(&served.path).await;
    let response = proxy.greet(&json!({"supported_versions": [2]})).await;
    assert_eq!(response["capabilities"]["features"]["cancellation"], false);
    let event = crate::legacy::legacy_event("c-1", "/hold");
    proxy.send_json(MessageType::RequestHeaders, &event).await;
    let cancel = json!({"correlation_id": "c-1", "reason": 1, "timestamp_ms": 1});
    proxy.send_json(MessageType::Cancel, &cancel).await;
    until(|| served.agent.held() == 1).await;
    served.agent.release.notify_one();
    let answer = proxy.receive_json(MessageType::AgentResponse).await;
    assert_eq!(answer["audit"]["tags"], json!(["held"]));
    assert_eq!(counters.cancelled_events(), 0);
}

#[tokio::test]
async fn cancelling_after_the_end_is_nothing() {
    let (connection, peer) = raw_agent(Extensions::ALL, true).await;
    let pending = ask(&connection, "1", "/", CallGuard::none());
    let failed = ask(&connection, "2", "/", CallGuard::none());
    drop(peer);
    assert_eq!(within(failed).await, Err(CallError::Closed));
    pending.cancel(CancelReason::Timeout);
    assert_eq!(connection.cancels_sent(), 0);
}
