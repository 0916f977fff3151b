//! Version 1 over a Unix socket, against agents in raw bytes.

use std::time::Duration;

use bytes::Bytes;
use portcullis_agent_protocol::codec::v1;
use portcullis_agent_protocol::{
    AnyConnection, BodyChunk, CallError, CallGuard, CloseReason, ConnectError, ConnectOptions,
    Decision, Event, EventKind, FrameOpcode, ProtocolError, RequestComplete, ResponseHeaders,
    Target, WebSocketFrame,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
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

struct Peer(UnixStream);

impl Peer {
    async fn question(&mut self) -> Value {
        within(self.next_question()).await.unwrap()
    }

    async fn next_question(&mut self) -> std::io::Result<Value> {
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

fn frame(answer: &Value) -> Vec<u8> {
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

/// The bytes of each kind of question, as old agents read them.
#[test]
fn questions_are_what_old_agents_read() {
    let text = |event: &Event<'_>| {
        let mut out = Vec::new();
        v1::encode_question(&mut out, event);
        String::from_utf8(out).unwrap()
    };
    let mut headers = http::HeaderMap::new();
    headers.append("cookie", "a=1".parse().unwrap());
    headers.append("cookie", "b=2".parse().unwrap());
    let request = Request {
        headers: headers.clone(),
        ..Request::new("c-1", "/a?b=1")
    };
    let metadata = r#"{"correlation_id":"c-1","request_id":"c-1","client_ip":"203.0.113.7","client_port":51234,"server_name":null,"protocol":"HTTP/1.1","tls_version":null,"tls_cipher":null,"route_id":"api","upstream_id":"backend","timestamp":"2026-07-01T12:00:00Z"}"#;
    let data = Bytes::from_static(b"hello");
    let piece = BodyChunk {
        correlation_id: "c-1",
        index: 0,
        data: data.clone(),
        is_last: true,
        total_size: Some(5),
        transferred: 5,
        truncated: false,
        trailers: None,
        budget_left: Some(Duration::from_millis(1)),
    };
    let frame = WebSocketFrame {
        correlation_id: "c-1",
        opcode: FrameOpcode::Text,
        data,
        client_to_server: true,
        index: 0,
        fin: true,
        route_id: Some("ws"),
        client_ip: [203, 0, 113, 7].into(),
        budget_left: None,
    };
    let end = RequestComplete {
        correlation_id: "c-1",
        status: 200,
        duration: Duration::from_millis(12),
        request_body_size: 0,
        response_body_size: 9,
        upstream_attempts: 1,
        error: None,
    };
    let response = ResponseHeaders {
        correlation_id: "c-1",
        status: 200,
        headers: &headers,
        budget_left: None,
    };
    let table = [
        (
            request.event(),
            "request_headers",
            format!(
                r#"{{"correlation_id":"c-1","metadata":{metadata},"method":"GET","uri":"/a?b=1","headers":{{"cookie":["a=1","b=2"]}}}}"#
            ),
        ),
        (
            Event::RequestBodyChunk(piece.clone()),
            "request_body_chunk",
            r#"{"correlation_id":"c-1","data":"aGVsbG8=","is_last":true,"total_size":5,"chunk_index":0,"bytes_received":5}"#.to_owned(),
        ),
        (
            Event::ResponseHeaders(response),
            "response_headers",
            r#"{"correlation_id":"c-1","status":200,"headers":{"cookie":["a=1","b=2"]}}"#.to_owned(),
        ),
        (
            Event::ResponseBodyChunk(piece),
            "response_body_chunk",
            r#"{"correlation_id":"c-1","data":"aGVsbG8=","is_last":true,"total_size":5,"chunk_index":0,"bytes_sent":5}"#.to_owned(),
        ),
        (
            Event::WebSocketFrame(frame),
            "web_socket_frame",
            r#"{"correlation_id":"c-1","opcode":"text","data":"aGVsbG8=","client_to_server":true,"frame_index":0,"fin":true,"route_id":"ws","client_ip":"203.0.113.7"}"#.to_owned(),
        ),
        (
            Event::RequestComplete(end),
            "request_complete",
            r#"{"correlation_id":"c-1","status":200,"duration_ms":12,"request_body_size":0,"response_body_size":9,"upstream_attempts":1,"error":null}"#.to_owned(),
        ),
    ];
    for (event, name, payload) in table {
        let expected = format!(r#"{{"version":1,"event_type":"{name}","payload":{payload}}}"#);
        assert_eq!(text(&event), expected);
    }
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

/// A few numbers that are the same at every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Says in each answer which question it is for, some time later, and
/// sometimes misbehaves.
async fn agent_of_its_own_mind(listener: UnixListener) {
    for seed in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut numbers = Numbers(seed);
            let mut peer = Peer(stream);
            while let Ok(question) = peer.next_question().await {
                tokio::time::sleep(Duration::from_micros(numbers.below(3000))).await;
                let id = &question["payload"]["metadata"]["correlation_id"];
                let set = json!({"set": {"name": "x-id", "value": id}});
                let answer =
                    frame(&json!({"version": 1, "decision": "allow", "request_headers": [set]}));
                let sent = match numbers.below(40) {
                    0 => peer.0.write_all(&answer[..numbers.below(9) as usize]).await,
                    1 => peer.0.write_all(&[&answer[..], &answer[..]].concat()).await,
                    2 => peer.0.write_all(b"\0\0\0\x02no").await,
                    _ => peer.0.write_all(&answer).await,
                };
                if sent.is_err() || numbers.below(50) == 0 {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn d12_crossing_questions_never_get_the_verdict_of_another() {
    const ASKERS: u64 = 16;
    const QUESTIONS: u64 = 250;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let agent = tokio::spawn(agent_of_its_own_mind(UnixListener::bind(&path).unwrap()));
    let target = Target::V1UnixSocket(path);
    let mut askers = Vec::new();
    for asker in 0..ASKERS {
        let target = target.clone();
        askers.push(tokio::spawn(async move {
            let mut numbers = Numbers(1000 + asker);
            let mut connection = dial(&target).await;
            let (mut answered, mut late) = (0, 0);
            for question in 0..QUESTIONS {
                let id = format!("{asker}-{question}");
                let request = Request::new(&id, "/");
                let pending = loop {
                    match connection.send(&request.event(), CallGuard::none()) {
                        Ok(pending) => break pending,
                        Err(_) => connection = dial(&target).await,
                    }
                };
                let timeout = Duration::from_micros(numbers.below(6000));
                match tokio::time::timeout(timeout, pending).await {
                    Ok(Ok(decision)) => {
                        let own = Decision::allow().set_request_header("x-id", &id);
                        assert_eq!(decision, own);
                        answered += 1;
                    }
                    Ok(Err(_)) => {}
                    Err(_) => late += 1,
                }
            }
            (answered, late)
        }));
    }
    let (mut answered, mut late) = (0, 0);
    for asker in askers {
        let (these, those) = within(asker).await.unwrap();
        answered += these;
        late += those;
    }
    agent.abort();
    assert!(answered > 500 && late > 500, "{answered} {late}");
}

async fn dial(target: &Target) -> AnyConnection {
    let options = ConnectOptions::new("old");
    let connected = within(AnyConnection::connect(target, &options)).await;
    let (connection, driver) = connected.unwrap();
    tokio::spawn(driver);
    connection
}

#[tokio::test]
async fn a_connection_that_nobody_holds_closes() {
    let listener = RawListener::new();
    let (connection, driver, mut peer) = connected(&listener).await;
    drop(connection);
    peer.ended().await;
    until(|| driver.is_finished()).await;
}
