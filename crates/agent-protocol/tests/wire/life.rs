//! Signs of life: pings, what was heard last, and the end of being open.

use futures::FutureExt;
use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::server::ServeOptions;
use portcullis_agent_protocol::{
    CallError, CallGuard, ConnectOptions, Connection, Decision, Extensions, Limits, PendingAnswer,
};
use serde_json::{Value, json};

use crate::support::{
    PEERS, RawListener, RawPeer, Request, Served, connect, framed, legacy_answer, until, within,
};

async fn raw_agent(extensions: Extensions) -> (Connection, RawPeer) {
    RawListener::new().connected(extensions).await
}

fn ask(connection: &Connection, id: &str, uri: &str) -> PendingAnswer {
    let request = Request::new(id, uri);
    let pending = connection.send(&request.event(), CallGuard::none());
    pending.unwrap()
}

async fn pong(peer: &mut RawPeer, sequence: u64) {
    let pong = json!({"sequence": sequence, "timestamp_ms": 1});
    peer.send_json(MessageType::Pong, &pong).await;
}

#[tokio::test]
async fn our_agents_answer_pings() {
    for extensions in PEERS {
        let served = Served::with_extensions(extensions);
        let connection = connect(&served.path).await;
        let [first, second] = [connection.ping(), connection.ping()];
        assert!(within(second).await.is_ok());
        assert!(within(first).await.is_ok());
        assert_eq!(connection.control_messages_seen(), 2);
        assert_eq!(connection.unexpected_pongs_seen(), 0);
    }
}

#[tokio::test]
async fn a_busy_agent_answers_pings() {
    let served = Served::new(ServeOptions {
        concurrency: 1,
        ..ServeOptions::default()
    });
    let connection = connect(&served.path).await;
    let _held = [ask(&connection, "1", "/hold"), ask(&connection, "2", "/")];
    assert!(within(connection.ping()).await.is_ok());
    assert_eq!(connection.in_flight(), 2);
}

#[tokio::test]
async fn pings_are_numbered_and_pongs_repeat_the_number() {
    let (connection, mut peer) = raw_agent(Extensions::NONE).await;
    let mut pings = [1, 2, 3].map(|_| connection.ping());
    for expected in 1..=3 {
        let mut ping = peer.receive_json(MessageType::Ping).await;
        let timestamp = ping["timestamp_ms"].take().as_u64().unwrap();
        assert!(timestamp > 1_700_000_000_000, "{timestamp}");
        assert_eq!(ping, json!({"sequence": expected, "timestamp_ms": null}));
    }
    pong(&mut peer, 2).await;
    assert!(within(&mut pings[1]).await.is_ok());
    assert_eq!(within(&mut pings[1]).await, Err(CallError::Closed));
    assert!((&mut pings[0]).now_or_never().is_none());
    for sequence in [3, 1] {
        pong(&mut peer, sequence).await;
    }
    assert!(within(&mut pings[0]).await.is_ok());
    assert!(within(&mut pings[2]).await.is_ok());
    assert_eq!(connection.unexpected_pongs_seen(), 0);
}

#[tokio::test]
async fn pongs_that_nobody_waits_for_are_counted() {
    let (connection, mut peer) = raw_agent(Extensions::ALL).await;
    let forgotten = connection.ping();
    let waited_for = connection.ping();
    drop(forgotten);
    for (sequence, unexpected) in [(1, 1), (7, 2), (0, 3), (2, 3), (2, 4)] {
        pong(&mut peer, sequence).await;
        until(|| connection.unexpected_pongs_seen() == unexpected).await;
    }
    assert!(within(waited_for).await.is_ok());
    assert_eq!(connection.control_messages_seen(), 5);
    assert!(connection.is_open());
}

#[tokio::test]
async fn pings_fail_with_the_connection() {
    let (connection, mut peer) = raw_agent(Extensions::ALL).await;
    let unanswered = connection.ping();
    peer.receive_json(MessageType::Ping).await;
    drop(peer);
    assert_eq!(within(unanswered).await, Err(CallError::Closed));
    assert_eq!(within(connection.ping()).await, Err(CallError::Closed));

    let (connection, mut peer) = raw_agent(Extensions::ALL).await;
    let unanswered = connection.ping();
    peer.send_bytes(&[0, 0, 0, 0]).await;
    let failed = within(unanswered).await;
    assert!(matches!(failed, Err(CallError::Protocol(_))), "{failed:?}");

    let (connection, _peer) = raw_agent(Extensions::ALL).await;
    connection.close();
    assert_eq!(within(connection.ping()).await, Err(CallError::Closed));
}

#[tokio::test]
async fn a_retiring_connection_can_be_pinged() {
    let served = Served::with_extensions(Extensions::ALL);
    let connection = connect(&served.path).await;
    let held = ask(&connection, "1", "/hold");
    connection.retire();
    assert!(within(connection.ping()).await.is_ok());
    // A ping alone does not keep it.
    let _unanswered = connection.ping();
    served.agent.release.notify_one();
    assert_eq!(within(held).await, Ok(Decision::allow().tag("held")));
    within(connection.closed()).await;
}

#[tokio::test]
async fn unanswered_pings_are_bounded() {
    let (connection, mut peer) = raw_agent(Extensions::ALL).await;
    let mut pings: Vec<_> = (0..16).map(|_| connection.ping()).collect();
    assert_eq!(
        within(connection.ping()).await,
        Err(CallError::OutboundFull)
    );
    pings.pop();
    let another = connection.ping();
    pong(&mut peer, 17).await;
    assert!(within(another).await.is_ok());

    // An agent that does not read is not sent more and more of them.
    let raw = RawListener::new();
    let limits = Limits {
        max_outbound_bytes: 100,
        ..Limits::default()
    };
    let options = ConnectOptions {
        limits,
        ..ConnectOptions::new("raw")
    };
    let (connection, _peer) = raw.connected_with(&options, Extensions::ALL, false).await;
    let refused = (0..5).map(|_| connection.ping().now_or_never());
    let refused = refused.filter(|outcome| *outcome == Some(Err(CallError::OutboundFull)));
    assert_eq!(refused.count(), 2);
}

#[tokio::test]
async fn every_frame_is_a_sign_of_life() {
    let (connection, mut peer) = raw_agent(Extensions::NONE).await;
    let pending = ask(&connection, "c", "/");
    drop(ask(&connection, "late", "/"));
    let answer = |id| legacy_answer(id, &json!("allow"));
    for (kind, message) in [
        (MessageType::HealthStatus, json!({"state": 4})),
        (MessageType::Pong, json!({"sequence": 9})),
        (MessageType::AgentResponse, answer("late")),
        (MessageType::MetricsReport, json!({})),
        (MessageType::AgentResponse, answer("c")),
    ] {
        let before = connection.last_heard();
        peer.send_json(kind, &message).await;
        until(|| connection.last_heard() > before).await;
    }
    assert_eq!(within(pending).await, Ok(Decision::allow()));
}

#[tokio::test]
async fn half_a_frame_is_no_sign_of_life() {
    let (connection, mut peer) = raw_agent(Extensions::NONE).await;
    let opened = connection.last_heard();
    let health = framed(MessageType::HealthStatus, b"{\"state\":1}");
    let (head, tail) = health.split_at(health.len() - 1);
    peer.send_bytes(head).await;
    let _ping = connection.ping();
    let ping: Value = peer.receive_json(MessageType::Ping).await;
    assert_eq!(ping["sequence"], 1);
    assert_eq!(connection.last_heard(), opened);
    peer.send_bytes(tail).await;
    until(|| connection.last_heard() > opened).await;
    assert_eq!(connection.control_messages_seen(), 1);
}

#[tokio::test]
async fn the_owner_learns_when_a_connection_is_no_longer_open() {
    type End = fn(&Connection, RawPeer) -> Option<RawPeer>;
    let ends: [(&str, End); 4] = [
        ("retired", |connection, peer| {
            connection.retire();
            Some(peer)
        }),
        ("closed", |connection, peer| {
            connection.close();
            Some(peer)
        }),
        ("lost", |_, peer| {
            drop(peer);
            None
        }),
        ("abandoned", |connection, peer| {
            drop(ask(connection, "abandoned", "/"));
            Some(peer)
        }),
    ];
    for (what, end) in ends {
        let (connection, peer) = raw_agent(Extensions::NONE).await;
        let _pending = ask(&connection, "c", "/");
        let owner = connection.clone();
        let told = tokio::spawn(async move { owner.no_longer_open().await });
        let mut watched = Box::pin(connection.no_longer_open());
        assert!(watched.as_mut().now_or_never().is_none(), "{what}");
        let _peer = end(&connection, peer);
        within(watched).await;
        within(told).await.unwrap();
        assert!(!connection.is_open(), "{what}");
        // And whoever asks later knows at once.
        assert!(connection.no_longer_open().now_or_never().is_some());
    }
}
