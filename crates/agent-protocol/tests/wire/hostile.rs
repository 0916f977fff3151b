//! Peers that do not keep to the protocol.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_agent_protocol::codec::binary;
use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::server::ServeOptions;
use portcullis_agent_protocol::{
    CallError, CallGuard, CloseReason, ConnectError, ConnectOptions, Connection, Decision, Event,
    Extensions, FrameOpcode, Limits, ProtocolError, WebSocketFrame,
};
use serde_json::json;

use crate::support::{
    PEERS, RawListener, RawPeer, Request, Served, connect, drive_by_turns, framed, legacy_answer,
    until, within,
};

/// Bytes that end a connection to an agent, whoever it is.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let health = framed(MessageType::HealthStatus, b"not json");
    vec![
        ("length zero", vec![0, 0, 0, 0]),
        ("length above the limit", vec![1, 0, 0, 1, 0x20]),
        ("length far above the limit", vec![0xff; 5]),
        ("unknown type", vec![0, 0, 0, 1, 0x99]),
        (
            "wrong direction",
            framed(MessageType::RequestHeaders, b"{}"),
        ),
        (
            "a second handshake",
            framed(MessageType::HandshakeResponse, b"{}"),
        ),
        (
            "answer without an id",
            framed(MessageType::AgentResponse, b"{}"),
        ),
        ("empty answer", framed(MessageType::AgentResponse, b"")),
        ("control message that is not JSON", health),
        ("text", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
    ]
}

#[tokio::test]
async fn garbage_fails_all_calls_with_a_protocol_error() {
    for extensions in [Extensions::ALL, Extensions::NONE] {
        for (what, bytes) in garbage() {
            let raw = RawListener::new();
            let (connection, mut peer) = raw.connected(extensions).await;
            let answer = connection
                .send(&Request::new("c", "/").event(), CallGuard::none())
                .unwrap();
            peer.receive().await;
            peer.send_bytes(&bytes).await;
            let failed = within(answer).await;
            assert!(
                matches!(failed, Err(CallError::Protocol(_))),
                "{what}: {failed:?}"
            );
            within(connection.closed()).await;
            let reason = connection.close_reason();
            assert!(
                matches!(reason, Some(CloseReason::Protocol(_))),
                "{what}: {reason:?}"
            );
            assert!(
                connection
                    .send(&Request::new("d", "/").event(), CallGuard::none())
                    .is_err()
            );
            peer.ended().await;
        }
    }
}

#[tokio::test]
async fn an_agent_that_floods_leaves_the_thread_to_others() {
    const FLOOD: usize = 1_000;
    let raw = RawListener::new();
    let heard = Arc::new(AtomicUsize::new(0));
    let hears = Arc::clone(&heard);
    let options = ConnectOptions {
        on_control: Some(Arc::new(move |_| {
            hears.fetch_add(1, Ordering::SeqCst);
        })),
        ..ConnectOptions::new("raw")
    };
    let agent = async {
        let mut peer = raw.accept().await;
        peer.shake_hands(Extensions::NONE).await;
        peer
    };
    let (connected, mut peer) = tokio::join!(Connection::connect(&raw.path, &options), agent);
    let (connection, driver) = connected.unwrap();
    let healthy = framed(MessageType::HealthStatus, br#"{"state":1}"#);
    peer.send_bytes(&healthy.repeat(FLOOD)).await;
    drive_by_turns(driver, &heard, FLOOD).await;
    drop(connection);
}

#[tokio::test]
async fn an_agent_that_closes_fails_all_calls() {
    for partial in [&b""[..], b"\0\0", b"\0\0\0\x40\x20{\"version\":2,"] {
        for extensions in PEERS {
            let raw = RawListener::new();
            let (connection, mut peer) = raw.connected(extensions).await;
            let answers = ["1", "2"].map(|id| {
                connection
                    .send(&Request::new(id, "/").event(), CallGuard::none())
                    .unwrap()
            });
            peer.receive().await;
            peer.receive().await;
            peer.send_bytes(partial).await;
            drop(peer);
            for answer in answers {
                assert_eq!(within(answer).await, Err(CallError::Closed));
            }
            within(connection.closed()).await;
            assert_eq!(connection.close_reason(), Some(CloseReason::Peer));
        }
    }
}

#[tokio::test]
async fn answers_before_an_error_count() {
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(Extensions::NONE).await;
    let [first, second] = ["1", "2"].map(|id| {
        connection
            .send(&Request::new(id, "/").event(), CallGuard::none())
            .unwrap()
    });
    let answer = legacy_answer("1", &json!({"block": {"status": 403}})).to_string();
    let mut bytes = framed(MessageType::AgentResponse, answer.as_bytes());
    bytes.extend([0, 0, 0, 0]);
    peer.send_bytes(&bytes).await;
    assert_eq!(within(first).await, Ok(Decision::block(403)));
    let error = ProtocolError::FrameLength {
        length: 0,
        limit: 16 << 20,
    };
    assert_eq!(within(second).await, Err(CallError::Protocol(error)));
}

#[tokio::test]
async fn a_malformed_answer_fails_its_own_call_alone() {
    for extensions in [Extensions::ALL, Extensions::NONE] {
        let raw = RawListener::new();
        let (connection, mut peer) = raw.connected(extensions).await;
        let [first, second] = ["1", "2"].map(|id| {
            connection
                .send(&Request::new(id, "/").event(), CallGuard::none())
                .unwrap()
        });
        let (_, event) = peer.receive().await;
        let (_, other) = peer.receive().await;
        let (bad, good) = match extensions.binary {
            true => {
                let mut good = Vec::new();
                binary::encode_answer(
                    &mut good,
                    number(&other),
                    &Ok(Decision::allow()),
                    Extensions::ALL,
                )
                .unwrap();
                ([&event[..8], &[9, 9]].concat(), good)
            }
            false => (
                legacy_answer("1", &json!("maybe")).to_string().into_bytes(),
                legacy_answer("2", &json!("allow")).to_string().into_bytes(),
            ),
        };
        peer.send(MessageType::AgentResponse, &bad).await;
        peer.send(MessageType::AgentResponse, &good).await;
        let failed = within(first).await;
        assert!(matches!(failed, Err(CallError::Protocol(_))), "{failed:?}");
        assert_eq!(within(second).await, Ok(Decision::allow()));
        assert!(connection.is_open());
    }
}

#[tokio::test]
async fn answers_that_nobody_asked_for_end_the_connection() {
    for extensions in [Extensions::ALL, Extensions::NONE] {
        for repeated in [true, false] {
            let raw = RawListener::new();
            let (connection, mut peer) = raw.connected(extensions).await;
            let first = connection
                .send(&Request::new("1", "/").event(), CallGuard::none())
                .unwrap();
            let (_, event) = peer.receive().await;
            let answer = |number, id: &str| match extensions.binary {
                true => {
                    let mut out = Vec::new();
                    binary::encode_answer(
                        &mut out,
                        number,
                        &Ok(Decision::allow()),
                        Extensions::ALL,
                    )
                    .unwrap();
                    out
                }
                false => legacy_answer(id, &json!("allow")).to_string().into_bytes(),
            };
            let number = number(&event);
            peer.send(MessageType::AgentResponse, &answer(number, "1"))
                .await;
            assert_eq!(within(first).await, Ok(Decision::allow()));
            // The second use of the same slot must not be hit by it either.
            let second = connection
                .send(&Request::new("2", "/").event(), CallGuard::none())
                .unwrap();
            let stray = match repeated {
                true => answer(number, "1"),
                false => answer(number + 1, "never"),
            };
            peer.send(MessageType::AgentResponse, &stray).await;
            let failed = within(second).await;
            let Err(CallError::Protocol(ProtocolError::UnknownEvent { .. })) = failed else {
                panic!("{failed:?}");
            };
        }
    }
}

fn number(payload: &[u8]) -> u64 {
    payload
        .first_chunk()
        .map_or(0, |id| u64::from_be_bytes(*id))
}

#[tokio::test]
async fn an_agent_that_does_not_read_is_bounded() {
    let raw = RawListener::new();
    let limits = Limits {
        max_outbound_bytes: 20_000,
        ..Limits::default()
    };
    let options = ConnectOptions {
        limits,
        ..ConnectOptions::new("raw")
    };
    let agent = async {
        let mut peer = raw.accept().await;
        peer.shake_hands(Extensions::ALL).await;
        peer
    };
    let (connection, mut peer) =
        tokio::join!(crate::support::connect_with(&raw.path, &options), agent);
    let uri = format!("/{}", "x".repeat(5000));
    let mut answers = Vec::new();
    let refused = within(async {
        loop {
            match connection.send(&Request::new("c", &*uri).event(), CallGuard::none()) {
                Ok(answer) => answers.push(answer),
                Err(error) => break error,
            }
            // Lets the driver write what the socket takes.
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(refused, CallError::OutboundFull);
    assert_eq!(connection.in_flight(), answers.len());
    // It reads again, and so all goes on.
    for _ in 0..answers.len() {
        peer.receive().await;
    }
    until(
        || match connection.send(&Request::new("c", "/").event(), CallGuard::none()) {
            Ok(answer) => {
                answers.push(answer);
                true
            }
            Err(_) => false,
        },
    )
    .await;
}

/// What the encoding makes longer than all that may wait otherwise.
#[tokio::test]
async fn one_large_event_has_room_where_nothing_waits() {
    let raw = RawListener::new();
    for extensions in PEERS {
        let options = ConnectOptions {
            extensions,
            ..ConnectOptions::new("raw")
        };
        let (connection, mut peer) = raw.connected_with(&options, extensions, false).await;
        let frame = |correlation_id| {
            Event::WebSocketFrame(WebSocketFrame {
                correlation_id,
                opcode: FrameOpcode::Binary,
                data: vec![0xff; 8 << 20].into(),
                client_to_server: true,
                index: 0,
                fin: true,
                route_id: None,
                client_ip: Ipv4Addr::LOCALHOST.into(),
                budget_left: None,
            })
        };
        let first = connection.send(&frame("c"), CallGuard::none());
        assert!(first.is_ok(), "{extensions:?}: {first:?}");
        // More than may wait does so now.
        let second = connection.send(&frame("d"), CallGuard::none());
        assert_eq!(second.unwrap_err(), CallError::OutboundFull);
        let (kind, payload) = peer.receive().await;
        assert_eq!(kind, MessageType::WebSocketFrame);
        assert!(payload.len() >= 8 << 20);
    }
}

#[tokio::test]
async fn unanswered_events_are_bounded() {
    let raw = RawListener::new();
    let limits = Limits {
        max_unanswered: 2,
        ..Limits::default()
    };
    let options = ConnectOptions {
        limits,
        ..ConnectOptions::new("raw")
    };
    let agent = async {
        let mut peer = raw.accept().await;
        peer.shake_hands(Extensions::ALL).await;
        peer
    };
    let (connection, _peer) =
        tokio::join!(crate::support::connect_with(&raw.path, &options), agent);
    let ask = || connection.send(&Request::new("c", "/").event(), CallGuard::none());
    drop(ask().unwrap());
    let _waited_for = ask().unwrap();
    assert_eq!(ask().unwrap_err(), CallError::OutboundFull);
    assert_eq!((connection.in_flight(), connection.unanswered()), (1, 2));
}

#[tokio::test]
async fn agents_that_misbehave_in_the_handshake() {
    let not_offered = json!({"protocol_version": 2, "success": true, "extensions": ["telepathy"]});
    let answer = framed(MessageType::AgentResponse, b"{}");
    let response = |text: &str| framed(MessageType::HandshakeResponse, text.as_bytes());
    for (what, bytes) in [
        ("wrong message", answer),
        ("not JSON", response("hello")),
        ("not offered", response(&not_offered.to_string())),
        ("unknown type", vec![0, 0, 0, 1, 0x99]),
        ("a lie about the length", vec![0xff, 0, 0, 0, 2]),
    ] {
        let raw = RawListener::new();
        let agent = async {
            let mut peer = raw.accept().await;
            peer.receive().await;
            peer.send_bytes(&bytes).await;
            peer
        };
        let options = ConnectOptions::new("raw");
        let (connected, _peer) =
            tokio::join!(within(Connection::connect(&raw.path, &options)), agent);
        let error = connected.unwrap_err();
        assert!(
            matches!(error, ConnectError::Protocol(_)),
            "{what}: {error}"
        );
    }
    let raw = RawListener::new();
    let agent = async { drop(raw.accept().await) };
    let options = ConnectOptions::new("raw");
    let (connected, ()) = tokio::join!(within(Connection::connect(&raw.path, &options)), agent);
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn garbage_ends_a_connection_of_our_agent_and_no_other() {
    let served = Served::new(ServeOptions::default());
    let bystander = connect(&served.path).await;
    for after_handshake in [true, false] {
        for (what, bytes) in garbage() {
            let bytes = match what {
                // This one is the right direction for an agent.
                "wrong direction" => framed(MessageType::Pong, b"{}"),
                _ => bytes,
            };
            let mut proxy = RawPeer::connect(&served.path).await;
            if after_handshake {
                let request = json!({"supported_versions": [2]});
                proxy
                    .send_json(MessageType::HandshakeRequest, &request)
                    .await;
                proxy.receive().await;
            }
            proxy.send_bytes(&bytes).await;
            proxy.ended().await;
        }
    }
    let answer = bystander
        .send(&Request::new("c", "/").event(), CallGuard::none())
        .unwrap();
    assert_eq!(within(answer).await, Ok(Decision::allow()));
}

#[tokio::test]
async fn an_undecodable_binary_event_is_answered_with_an_error() {
    let served = Served::new(ServeOptions::default());
    let mut proxy = RawPeer::connect(&served.path).await;
    let request =
        json!({"supported_versions": [2], "extensions": ["binary", "error", "from the future"]});
    proxy
        .send_json(MessageType::HandshakeRequest, &request)
        .await;
    let response = proxy.receive_json(MessageType::HandshakeResponse).await;
    assert_eq!(
        response["extensions"],
        json!(["event-id", "binary", "error"])
    );
    proxy
        .send(MessageType::RequestHeaders, &[0, 0, 0, 0, 0, 0, 0, 7, 1])
        .await;
    let (kind, payload) = proxy.receive().await;
    assert_eq!(kind, MessageType::AgentResponse);
    let (_, answer) = binary::decode_answer(&payload, Extensions::ALL).unwrap();
    let message = answer.unwrap_err().to_string();
    assert!(
        message.starts_with("malformed request-headers event"),
        "{message}"
    );
    proxy.send(MessageType::RequestHeaders, &[0, 0, 7]).await;
    proxy.ended().await;
}

#[tokio::test]
async fn frames_arrive_in_any_pieces() {
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(Extensions::NONE).await;
    let answer = connection
        .send(&Request::new("1", "/").event(), CallGuard::none())
        .unwrap();
    let body = "x".repeat(100_000);
    let text = legacy_answer("1", &json!({"block": {"status": 403, "body": body}})).to_string();
    let bytes = framed(MessageType::AgentResponse, text.as_bytes());
    for piece in bytes[..100].chunks(1).chain(bytes[100..].chunks(7001)) {
        peer.send_bytes(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(
        within(answer).await,
        Ok(Decision::block(403).with_body(body))
    );
}
