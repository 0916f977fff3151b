//! Version 1 over a Unix socket, against agents in raw bytes.

use std::time::Duration;

use bytes::Bytes;
use portcullis_agent_protocol::codec::v1;
use portcullis_agent_protocol::{
    AnyConnection, BodyChunk, CallError, CallGuard, CloseReason, ConnectError, ConnectOptions,
    Decision, Event, EventKind, ProtocolError, Target,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::support::{RawListener, Request, until, within};

type Driver = JoinHandle<CloseReason>;

async fn connect(listener: &RawListener, options: &ConnectOptions) -> (AnyConnection, Driver) {
    let target = Target::V1UnixSocket(listener.path.clone());
    let connected = within(AnyConnection::connect(&target, options)).await;
    let (connection, driver) = connected.unwrap();
    (connection, tokio::spawn(driver))
}

/// Both ends, and what ends with the connection.
async fn connected(listener: &RawListener) -> (AnyConnection, Driver, Peer) {
    let options = ConnectOptions::new("old");
    let connecting = connect(listener, &options);
    let ((connection, driver), peer) = tokio::join!(connecting, listener.accept());
    (connection, driver, Peer(peer.stream))
}

pub(crate) struct Peer(pub(crate) UnixStream);

impl Peer {
    async fn question(&mut self) -> Value {
        within(self.next_question()).await.unwrap()
    }

    pub(crate) async fn next_question(&mut self) -> std::io::Result<Value> {
        let length = self.0.read_u32().await?;
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await?;
        Ok(serde_json::from_slice(&payload).unwrap())
    }

    async fn answer(&mut self, answer: &Value) {
        self.bytes(&frame(answer)).await;
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        within(self.0.write_all(bytes)).await.unwrap();
    }

    /// Waits for the other end to close. A reset is an end as well.
    async fn ended(&mut self) {
        let mut rest = Vec::new();
        drop(within(self.0.read_to_end(&mut rest)).await);
    }
}

pub(crate) fn frame(answer: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let append = |out: &mut Vec<u8>| out.extend_from_slice(answer.to_string().as_bytes());
    v1::append(&mut out, append).unwrap();
    out
}

fn allow() -> Value {
    json!({"version": 1, "decision": "allow"})
}

async fn ask(connection: &AnyConnection, event: &Event<'_>) -> Result<Decision, CallError> {
    within(connection.send(event, CallGuard::none())?).await
}

async fn ask_about(connection: &AnyConnection, id: &str) -> Result<Decision, CallError> {
    ask(connection, &Request::new(id, "/").event()).await
}

#[tokio::test]
async fn questions_are_answered_one_after_the_other() {
    let listener = RawListener::new();
    let (connection, _driver, mut peer) = connected(&listener).await;
    assert!(connection.supports(EventKind::ResponseBodyChunk));
    assert!(connection.supports(EventKind::WebSocketFrame));
    let agent = async {
        for status in [403, 404] {
            let question = peer.question().await;
            assert_eq!(question["version"], 1);
            assert_eq!(question["event_type"], "request_headers");
            let id = format!("c-{status}");
            assert_eq!(question["payload"]["metadata"]["correlation_id"], *id);
            assert_eq!(question["payload"]["uri"], "/");
            peer.answer(&json!({"version": 2, "decision": {"block": {"status": status}}}))
                .await;
        }
    };
    let proxy = async {
        for status in [403, 404] {
            let decision = ask_about(&connection, &format!("c-{status}")).await;
            assert_eq!(decision, Ok(Decision::block(status)));
        }
    };
    tokio::join!(agent, proxy);
    assert!(connection.is_open());
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn questions_at_the_same_time_wait_for_each_other() {
    let listener = RawListener::new();
    let (connection, _driver, mut peer) = connected(&listener).await;
    let agent = async {
        for id in ["a", "b"] {
            let question = peer.question().await;
            assert_eq!(question["payload"]["metadata"]["correlation_id"], id);
            // Nothing of the other question has come.
            let mut byte = [0];
            let more = tokio::time::timeout(Duration::from_millis(20), peer.0.read(&mut byte));
            assert!(more.await.is_err());
            let set = json!({"set": {"name": "x-id", "value": id}});
            peer.answer(&json!({"version": 1, "decision": "allow", "request_headers": [set]}))
                .await;
        }
    };
    let (a, b, ()) = tokio::join!(
        ask_about(&connection, "a"),
        ask_about(&connection, "b"),
        agent
    );
    assert_eq!(a, Ok(Decision::allow().set_request_header("x-id", "a")));
    assert_eq!(b, Ok(Decision::allow().set_request_header("x-id", "b")));
}

#[tokio::test]
async fn a_question_that_is_given_up_takes_its_socket_with_it() {
    let listener = RawListener::new();
    let (connection, driver, mut peer) = connected(&listener).await;
    let request = Request::new("late", "/");
    let mut answer = connection
        .send(&request.event(), CallGuard::none())
        .unwrap();
    // Sent, and not answered yet.
    let waited = tokio::time::timeout(Duration::from_millis(20), &mut answer);
    assert!(waited.await.is_err());
    peer.question().await;
    drop(answer);
    assert!(!connection.is_open());
    assert!(connection.was_given_up());
    assert_eq!(within(driver).await.unwrap(), CloseReason::Local);
    peer.ended().await;
    let refused = connection.send(&request.event(), CallGuard::none());
    assert!(matches!(refused, Err(CallError::Closed)));
}

#[tokio::test]
async fn a_question_that_was_never_sent_takes_nothing_with_it() {
    let listener = RawListener::new();
    let (connection, _driver, mut peer) = connected(&listener).await;
    let first = Request::new("first", "/");
    let answer = connection.send(&first.event(), CallGuard::none()).unwrap();
    drop(answer);
    assert!(connection.is_open());
    let agent = async {
        let question = peer.question().await;
        assert_eq!(question["payload"]["metadata"]["correlation_id"], "second");
        peer.answer(&allow()).await;
    };
    let (decision, ()) = tokio::join!(ask_about(&connection, "second"), agent);
    assert_eq!(decision, Ok(Decision::allow()));
}

#[tokio::test]
async fn an_answer_may_come_byte_by_byte() {
    let listener = RawListener::new();
    let (connection, _driver, mut peer) = connected(&listener).await;
    let agent = async {
        peer.question().await;
        for byte in frame(&allow()) {
            peer.bytes(&[byte]).await;
            tokio::task::yield_now().await;
        }
    };
    let (decision, ()) = tokio::join!(ask_about(&connection, "c"), agent);
    assert_eq!(decision, Ok(Decision::allow()));
}

/// What an agent sends instead of an answer before it closes, if it does, and
/// what becomes of the question.
async fn spoilt(bytes: &[u8], closes: bool) -> CallError {
    let listener = RawListener::new();
    let (connection, driver, mut peer) = connected(&listener).await;
    let agent = async {
        peer.question().await;
        peer.bytes(bytes).await;
        match closes {
            true => within(peer.0.shutdown()).await.unwrap(),
            false => peer.ended().await,
        }
    };
    let (decision, ()) = tokio::join!(ask_about(&connection, "c"), agent);
    assert!(!connection.is_open());
    assert!(!connection.was_given_up());
    within(driver).await.unwrap();
    decision.unwrap_err()
}

#[tokio::test]
async fn what_is_no_answer_ends_the_question_and_the_socket() {
    let whole = frame(&allow());
    for cut in 0..whole.len() {
        assert_eq!(spoilt(&whole[..cut], true).await, CallError::Closed);
    }
    let twice = [&whole[..], &whole[..]].concat();
    for garbage in [
        &b"\0\0\0\x05hello"[..],
        b"\0\0\0\0",
        b"\0\xa0\0\x01{",
        b"HTTP/1.1 200 OK\r\n\r\n",
        &frame(&json!({"version": 3, "decision": "allow"})),
        &frame(&json!({"version": 1, "decision": "whatever"})),
        &frame(&json!({"version": 1})),
        &twice,
    ] {
        let error = spoilt(garbage, false).await;
        assert!(matches!(error, CallError::Protocol(_)), "{error:?}");
    }
    let limit = v1::MAX_MESSAGE_BYTES as u32;
    let length = limit + 1;
    assert_eq!(
        spoilt(b"\0\xa0\0\x01", false).await,
        CallError::Protocol(ProtocolError::FrameLength { length, limit })
    );
}

#[tokio::test]
async fn what_an_agent_says_unasked_is_no_answer_to_what_comes_next() {
    let listener = RawListener::new();
    let (connection, driver, mut peer) = connected(&listener).await;
    peer.bytes(&frame(&allow())).await;
    // Nothing has run in between that could have seen it.
    let error = ask_about(&connection, "c").await.unwrap_err();
    assert_eq!(error, CallError::Closed);
    let reason = within(driver).await.unwrap();
    assert!(matches!(reason, CloseReason::Protocol(_)), "{reason:?}");
    peer.ended().await;
}

#[tokio::test]
async fn a_socket_that_the_agent_closes_is_seen_at_once() {
    let listener = RawListener::new();
    let (connection, driver, peer) = connected(&listener).await;
    within(connection.ping()).await.unwrap();
    drop(peer);
    assert_eq!(within(driver).await.unwrap(), CloseReason::Peer);
    assert!(!connection.is_open());
    assert!(!connection.was_given_up());
    within(connection.closed()).await;
    assert_eq!(within(connection.ping()).await, Err(CallError::Closed));
}

#[tokio::test]
async fn a_socket_on_which_something_comes_unasked_ends() {
    let listener = RawListener::new();
    let (connection, driver, mut peer) = connected(&listener).await;
    // Also after there was a question.
    let agent = async {
        peer.question().await;
        peer.answer(&allow()).await;
    };
    let (decision, ()) = tokio::join!(ask_about(&connection, "c"), agent);
    assert_eq!(decision, Ok(Decision::allow()));
    peer.answer(&allow()).await;
    let reason = within(driver).await.unwrap();
    assert!(matches!(reason, CloseReason::Protocol(_)), "{reason:?}");
}

#[tokio::test]
async fn a_ping_does_not_wait_for_a_question() {
    let listener = RawListener::new();
    let (connection, _driver, mut peer) = connected(&listener).await;
    let pinging = async {
        peer.question().await;
        within(connection.ping()).await.unwrap();
        peer.answer(&allow()).await;
    };
    let (decision, ()) = tokio::join!(ask_about(&connection, "c"), pinging);
    assert_eq!(decision, Ok(Decision::allow()));
}

#[tokio::test]
async fn a_connection_that_retires_finishes_its_question() {
    let listener = RawListener::new();
    let (connection, driver, mut peer) = connected(&listener).await;
    let retiring = async {
        peer.question().await;
        connection.retire();
        assert!(!connection.is_open());
        peer.answer(&allow()).await;
    };
    let (decision, ()) = tokio::join!(ask_about(&connection, "c"), retiring);
    assert_eq!(decision, Ok(Decision::allow()));
    assert_eq!(within(driver).await.unwrap(), CloseReason::Local);
    drop(connection);
    peer.ended().await;
}

fn chunk(data: Bytes) -> Event<'static> {
    Event::RequestBodyChunk(BodyChunk {
        correlation_id: "c",
        index: 0,
        transferred: data.len() as u64,
        data,
        is_last: true,
        total_size: None,
        truncated: false,
        trailers: None,
        budget_left: None,
    })
}

#[tokio::test]
async fn a_question_may_be_larger_than_what_a_socket_holds_and_not_than_a_frame() {
    let listener = RawListener::new();
    let (connection, _driver, mut peer) = connected(&listener).await;
    let agent = async {
        let question = peer.question().await;
        let data = question["payload"]["data"].as_str().unwrap();
        assert_eq!(data.len(), (7 << 20) / 3 * 4 + 4);
        peer.answer(&allow()).await;
    };
    let event = chunk(Bytes::from(vec![b'x'; 7 << 20]));
    let (decision, ()) = tokio::join!(ask(&connection, &event), agent);
    assert_eq!(decision, Ok(Decision::allow()));

    let error = ask(&connection, &chunk(Bytes::from(vec![b'x'; 8 << 20]))).await;
    assert!(matches!(
        error,
        Err(CallError::EventTooLarge {
            limit: v1::MAX_MESSAGE_BYTES,
            ..
        })
    ));
    assert!(connection.is_open());
}

fn with_config(config: Value) -> ConnectOptions {
    ConnectOptions {
        config: Some(std::sync::Arc::new(config)),
        ..ConnectOptions::new("old")
    }
}

#[tokio::test]
async fn the_configuration_is_handed_over_before_anything_is_asked() {
    let listener = RawListener::new();
    let options = with_config(json!({"rules": ["a"]}));
    let agent = async {
        let mut peer = Peer(listener.accept().await.stream);
        let expected = json!({"version": 1, "event_type": "configure",
            "payload": {"agent_id": "old", "config": {"rules": ["a"]}}});
        assert_eq!(peer.question().await, expected);
        peer.answer(&allow()).await;
        assert_eq!(peer.question().await["event_type"], "request_headers");
        peer.answer(&allow()).await;
    };
    let proxy = async {
        let (connection, _driver) = connect(&listener, &options).await;
        ask_about(&connection, "c").await.unwrap();
    };
    tokio::join!(agent, proxy);
}

#[tokio::test]
async fn what_an_agent_makes_of_its_configuration() {
    type Expected = fn(ConnectError) -> bool;
    let refused: Expected = |error| match error {
        ConnectError::ConfigurationRefused { reason } => reason == "no such rule",
        _ => false,
    };
    let malformed: Expected = |error| matches!(error, ConnectError::Protocol(_));
    let block =
        json!({"version": 1, "decision": {"block": {"status": 500, "body": "no such rule"}}});
    let table: [(&[u8], Expected); 4] = [
        (&frame(&block), refused),
        (
            &frame(&json!({"version": 1, "decision": {"redirect": {"url": "/"}}})),
            |error| matches!(error, ConnectError::ConfigurationRefused { .. }),
        ),
        (b"\0\0\0\x02{}", malformed),
        (b"", |error| matches!(error, ConnectError::Unreachable(_))),
    ];
    for (answer, is_expected) in table {
        let listener = RawListener::new();
        let options = with_config(json!({}));
        let target = Target::V1UnixSocket(listener.path.clone());
        let agent = async {
            let mut peer = Peer(listener.accept().await.stream);
            peer.question().await;
            peer.bytes(answer).await;
        };
        let connecting = AnyConnection::connect(&target, &options);
        let (connected, ()) = tokio::join!(within(connecting), agent);
        let error = connected.map(drop).unwrap_err();
        assert!(is_expected(error), "{answer:?}");
    }
}

#[tokio::test]
async fn connecting_has_a_deadline_and_may_find_nobody() {
    let listener = RawListener::new();
    let target = Target::V1UnixSocket(listener.path.clone());
    let options = ConnectOptions {
        handshake_timeout: Duration::from_millis(20),
        ..with_config(json!({}))
    };
    let connected = within(AnyConnection::connect(&target, &options)).await;
    assert!(matches!(connected, Err(ConnectError::Timeout)));
    drop(listener);
    let connected = within(AnyConnection::connect(&target, &options)).await;
    assert!(matches!(connected, Err(ConnectError::Unreachable(_))));
}

#[tokio::test]
async fn a_connection_that_nobody_holds_closes() {
    let listener = RawListener::new();
    let (connection, driver, mut peer) = connected(&listener).await;
    drop(connection);
    peer.ended().await;
    until(|| driver.is_finished()).await;
}
