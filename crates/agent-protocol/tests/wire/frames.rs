//! Frames of WebSockets: what agents are told of them, and what they decide,
//! also with peers that speak the legacy protocol.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::codec::{EventId, binary, json};
use portcullis_agent_protocol::server::{Agent, AgentError, PerRequest, ServeOptions};
use portcullis_agent_protocol::{
    CallError, CallGuard, Capabilities, Connection, Decision, Event, EventKind, Extensions,
    FrameDecision, FrameOpcode, ProtocolError, RequestComplete, WebSocketFrame,
};
use serde_json::{Value, json};

use crate::phases::complete;
use crate::support::{PEERS, RawListener, RawPeer, Served, connect, legacy_answer, within};
use crate::vectors::unhex;

/// Decides by what is in a frame, and counts those of each WebSocket.
struct Guard {
    frames: PerRequest<u64>,
}

impl Guard {
    fn served(extensions: Extensions) -> Served<Self> {
        let frames = PerRequest::new(10);
        let options = ServeOptions {
            extensions,
            ..ServeOptions::default()
        };
        Served::with_agent(Self { frames }, options)
    }
}

fn told(event: &WebSocketFrame<'_>) -> Decision {
    Decision::allow().tag(format!("{event:?}"))
}

#[async_trait::async_trait]
impl Agent for Guard {
    fn name(&self) -> &str {
        "guard"
    }

    fn capabilities(&self) -> Capabilities {
        let kinds = [EventKind::WebSocketFrame, EventKind::RequestComplete];
        Capabilities::new("guard", "1").with_events(&kinds)
    }

    async fn websocket_frame(&self, event: &WebSocketFrame<'_>) -> Result<Decision, AgentError> {
        let count = |frames: &mut u64| {
            *frames += 1;
            *frames
        };
        let seen = self.frames.with(event.correlation_id, u64::default, count);
        Ok(match &event.data[..] {
            b"keep" => told(event),
            b"count" => Decision::allow().tag(seen.to_string()),
            b"drop" => Decision::allow().drop_frame(),
            b"close" => Decision::allow().close_websocket(1008, "policy"),
            b"block" => Decision::block(403),
            b"fail" => return Err(AgentError::new("no idea")),
            b"panic" => panic!("a panic that belongs to the test"),
            data => Decision::allow().replace_frame(data.to_ascii_uppercase()),
        })
    }

    async fn request_complete(&self, event: &RequestComplete<'_>) {
        self.frames.remove(event.correlation_id);
    }
}

fn frame(data: impl Into<Bytes>) -> WebSocketFrame<'static> {
    WebSocketFrame {
        correlation_id: "c-1",
        opcode: FrameOpcode::Text,
        data: data.into(),
        client_to_server: true,
        index: 0,
        fin: true,
        route_id: Some("ws"),
        client_ip: [203, 0, 113, 7].into(),
        budget_left: None,
    }
}

async fn ask(connection: &Connection, event: &Event<'_>) -> Result<Decision, CallError> {
    within(connection.send(event, CallGuard::none()).unwrap()).await
}

async fn judged(
    connection: &Connection,
    data: impl Into<Bytes>,
) -> Result<Option<FrameDecision>, CallError> {
    let decision = ask(connection, &Event::WebSocketFrame(frame(data))).await?;
    assert!(decision.is_allow(), "{decision:?}");
    Ok(decision.websocket.map(|decision| *decision))
}

fn failed(extensions: Extensions, message: &str) -> Result<Decision, CallError> {
    match extensions.error {
        true => Err(CallError::Agent(message.to_owned())),
        false => Ok(Decision::block(500)
            .reason("agent_error")
            .custom("error", message)),
    }
}

#[tokio::test]
async fn an_agent_is_told_everything_about_a_frame() {
    let left = Some(Duration::from_micros(1500));
    for extensions in PEERS {
        let served = Guard::served(extensions);
        let connection = connect(&served.path).await;
        assert!(connection.supports(EventKind::WebSocketFrame));
        assert!(connection.capabilities().features.websocket);
        for opcode in FrameOpcode::ALL {
            let event = WebSocketFrame {
                opcode,
                budget_left: left,
                ..frame("keep")
            };
            let expected = WebSocketFrame {
                budget_left: left.filter(|_| extensions.event_id),
                ..event.clone()
            };
            let answer = ask(&connection, &Event::WebSocketFrame(event)).await;
            assert_eq!(answer, Ok(told(&expected)));
        }
        let event = WebSocketFrame {
            opcode: FrameOpcode::Binary,
            client_to_server: false,
            index: u64::MAX,
            fin: false,
            route_id: None,
            client_ip: "2001:db8::7".parse::<IpAddr>().unwrap(),
            ..frame("keep")
        };
        let answer = ask(&connection, &Event::WebSocketFrame(event.clone())).await;
        assert_eq!(answer, Ok(told(&event)));
    }
}

#[tokio::test]
async fn frames_are_passed_dropped_replaced_and_closed() {
    for extensions in PEERS {
        let served = Guard::served(extensions);
        let connection = connect(&served.path).await;
        assert_eq!(judged(&connection, "keep").await, Ok(None));
        let dropped = judged(&connection, "drop").await;
        assert_eq!(dropped, Ok(Some(FrameDecision::Drop)));
        let close = FrameDecision::Close {
            code: 1008,
            reason: "policy".to_owned(),
        };
        assert_eq!(judged(&connection, "close").await, Ok(Some(close)));
        let blocked = ask(&connection, &Event::WebSocketFrame(frame("block"))).await;
        assert_eq!(blocked, Ok(Decision::block(403)));
        // From empty to one that is neither copied into the rest when it is
        // written nor when it is read.
        for (data, capitals) in [
            (Bytes::new(), Bytes::new()),
            (Bytes::from_static(b"h\xffi"), Bytes::from_static(b"H\xffI")),
            (vec![b'x'; 1 << 20].into(), vec![b'X'; 1 << 20].into()),
        ] {
            let event = Event::WebSocketFrame(frame(data));
            let answer = ask(&connection, &event).await;
            let expected = match extensions.event_id {
                true => Ok(Decision::allow().replace_frame(capitals)),
                false => failed(extensions, "the proxy cannot replace a frame"),
            };
            assert_eq!(answer, expected);
        }
    }
}

#[tokio::test]
async fn d08_a_failing_agent_never_lets_a_frame_pass() {
    for extensions in PEERS {
        let served = Guard::served(extensions);
        let connection = connect(&served.path).await;
        for (data, message) in [("fail", "no idea"), ("panic", "the agent panicked")] {
            let answer = ask(&connection, &Event::WebSocketFrame(frame(data))).await;
            assert_eq!(answer, failed(extensions, message));
        }
    }
}

#[tokio::test]
async fn what_an_agent_keeps_of_a_websocket_lasts_until_its_request_is_over() {
    for extensions in PEERS {
        let served = Guard::served(extensions);
        let connection = connect(&served.path).await;
        for count in ["1", "2", "3"] {
            let answer = ask(&connection, &Event::WebSocketFrame(frame("count"))).await;
            assert_eq!(answer, Ok(Decision::allow().tag(count)));
        }
        let other = WebSocketFrame {
            correlation_id: "c-2",
            ..frame("count")
        };
        let answer = ask(&connection, &Event::WebSocketFrame(other)).await;
        assert_eq!(answer, Ok(Decision::allow().tag("1")));
        assert_eq!(
            ask(&connection, &complete(None)).await,
            Ok(Decision::allow())
        );
        let answer = ask(&connection, &Event::WebSocketFrame(frame("count"))).await;
        assert_eq!(answer, Ok(Decision::allow().tag("1")));
    }
}

#[tokio::test]
async fn a_legacy_agent_is_told_of_frames_and_obeyed() {
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(Extensions::NONE).await;
    let close = |code, reason: &str| {
        let reason = reason.to_owned();
        Some(Some(FrameDecision::Close { code, reason }))
    };
    let table = [
        (json!(null), Some(None)),
        (json!("allow"), Some(None)),
        (json!("drop"), Some(Some(FrameDecision::Drop))),
        (
            json!({"close": {"code": 1008, "reason": "policy"}}),
            close(1008, "policy"),
        ),
        (json!({"close": {"code": 1000}}), close(1000, "")),
        (
            json!({"close": {"code": 3000, "reason": null}}),
            close(3000, ""),
        ),
        // Whether the code may be sent is for the proxy to say.
        (json!({"close": {"code": 0, "reason": ""}}), close(0, "")),
        (json!("replace"), None),
        (json!({"replace": {"data": "aGk="}}), None),
        (json!({"close": {"code": 70000, "reason": ""}}), None),
        (json!({"close": {"reason": "policy"}}), None),
        (json!({"close": 1008}), None),
        (json!("close"), None),
        (json!({"drop": {}, "close": {"code": 1000}}), None),
        (json!("pass"), None),
        (json!(true), None),
        (json!([]), None),
    ];
    for (decision, expected) in table {
        let event = Event::WebSocketFrame(WebSocketFrame {
            budget_left: Some(Duration::from_secs(1)),
            index: 7,
            ..frame("hi")
        });
        let pending = connection.send(&event, CallGuard::none()).unwrap();
        let again = connection.send(&event, CallGuard::none()).map(drop);
        assert_eq!(again, Err(CallError::DuplicateOutstanding));
        let message = peer.receive_json(MessageType::WebSocketFrame).await;
        let told = json!({"correlation_id": "c-1", "opcode": "text", "data": "aGk=",
            "client_to_server": true, "frame_index": 7, "fin": true, "route_id": "ws",
            "client_ip": "203.0.113.7"});
        assert_eq!(message, told);
        let mut answer = legacy_answer("c-1", &json!("allow"));
        answer["websocket_decision"] = decision;
        // Means nothing to those who have not agreed to it.
        answer["ttl_ms"] = json!(1000);
        peer.send_json(MessageType::AgentResponse, &answer).await;
        let answered = within(pending).await;
        match expected {
            Some(expected) => {
                let decision = answered.unwrap();
                assert_eq!(decision.ttl, None);
                assert_eq!(decision.websocket.map(|it| *it), expected, "{answer}");
            }
            None => assert!(
                matches!(
                    answered,
                    Err(CallError::Protocol(ProtocolError::Malformed { .. }))
                ),
                "{answer}: {answered:?}"
            ),
        }
        assert!(connection.is_open());
    }
}

#[tokio::test]
async fn a_legacy_proxy_is_told_what_becomes_of_its_frames() {
    let served = Guard::served(Extensions::ALL);
    let mut proxy = RawPeer::connect(&served.path).await;
    let request = json!({"supported_versions": [2], "proxy_id": "p", "proxy_version": "1",
        "config": null});
    let response = proxy.greet(&request).await;
    let capabilities = &response["capabilities"];
    assert_eq!(capabilities["supported_events"], json!([6, 5]));
    assert_eq!(capabilities["features"]["websocket"], true);
    // keep, drop, close, block, hi, and what is not base64.
    let table = [
        ("a2VlcA==", json!("allow"), json!(null)),
        ("ZHJvcA==", json!("allow"), json!("drop")),
        (
            "Y2xvc2U=",
            json!("allow"),
            json!({"close": {"code": 1008, "reason": "policy"}}),
        ),
        (
            "YmxvY2s=",
            json!({"block": {"status": 403, "body": null, "headers": {}}}),
            json!(null),
        ),
        (
            "aGk=",
            json!({"block": {"status": 500, "body": null, "headers": {}}}),
            json!(null),
        ),
        (
            "hi there",
            json!({"block": {"status": 500, "body": null, "headers": {}}}),
            json!(null),
        ),
    ];
    for (data, decision, frame) in table {
        let event = json!({"correlation_id": "c-1", "opcode": "text", "data": data,
            "client_to_server": true, "frame_index": 0, "fin": true, "route_id": "ws",
            "client_ip": "203.0.113.7"});
        proxy.send_json(MessageType::WebSocketFrame, &event).await;
        let answer = proxy.receive_json(MessageType::AgentResponse).await;
        assert_eq!(answer["decision"], decision, "{answer}");
        assert_eq!(answer["websocket_decision"], frame, "{answer}");
        assert_eq!(answer["audit"]["custom"]["correlation_id"], "c-1");
        assert_eq!(answer.get("ttl_ms"), None);
    }
}

#[test]
fn json_frames_that_are_refused_but_have_an_id() {
    let good = json!({"correlation_id": "c-1", "event_id": 7, "opcode": "text", "data": "aGk=",
        "client_to_server": true, "frame_index": 0, "fin": true, "route_id": null,
        "client_ip": "203.0.113.7"});
    let decode = |message: &Value, by_number| {
        let text = message.to_string();
        let decoded = json::decode_event(EventKind::WebSocketFrame, text.as_bytes(), by_number);
        decoded.map(drop).map_err(|bad| bad.id)
    };
    assert_eq!(decode(&good, true), Ok(()));
    let mut short = good.clone();
    for optional in ["frame_index", "route_id"] {
        short.as_object_mut().unwrap().remove(optional);
    }
    assert_eq!(decode(&short, true), Ok(()));
    for (member, value) in [
        ("opcode", json!("Text")),
        ("opcode", json!("reserved")),
        ("opcode", json!(1)),
        ("data", json!("hi there")),
        ("data", json!(null)),
        ("data", json!([104, 105])),
        ("client_to_server", json!("yes")),
        ("frame_index", json!(-1)),
        ("fin", json!(1)),
        ("route_id", json!(1)),
        ("client_ip", json!("nowhere")),
        ("client_ip", json!(null)),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        for (by_number, id) in [
            (true, EventId::Number(7)),
            (false, EventId::Correlation("c-1".to_owned())),
        ] {
            assert_eq!(decode(&bad, by_number), Err(Some(id)), "{bad}");
        }
    }
    for required in ["opcode", "data", "client_to_server", "fin", "client_ip"] {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(required);
        assert_eq!(decode(&bad, true), Err(Some(EventId::Number(7))), "{bad}");
    }
}

#[test]
fn binary_frames_that_are_refused_but_have_an_id() {
    const REQUEST: &str = "010000000700000003632d31";
    // A frame whose opcode, flags, index, address and route are these.
    let frame = |opcode: &str, address: &str, rest: &str| {
        format!("{opcode}030000000000000000{address}{rest}")
    };
    let table = [
        (frame("01", "04cb007107", "ffffffff000000026869"), None),
        (
            frame("03", "04cb007107", "ffffffff00000000"),
            Some("the opcode is not known"),
        ),
        (
            frame("0b", "04cb007107", "ffffffff00000000"),
            Some("the opcode is not known"),
        ),
        (
            frame("01", "05cb007107", "ffffffff00000000"),
            Some("the client's address is of an unknown family"),
        ),
        (
            frame("01", "04cb007107", "ffffffff000000036869"),
            Some("it ends too early"),
        ),
        (
            frame("01", "04cb007107", "00000001ff00000000"),
            Some("a string is not UTF-8"),
        ),
        (frame("01", "04", ""), Some("it ends too early")),
        (String::new(), Some("it ends too early")),
    ];
    for (section, expected) in table {
        let length = section.len() / 2;
        let text = format!("0000000000000007{REQUEST}02{length:08x}{section}");
        let payload = Bytes::from(unhex(&text));
        let decoded = binary::decode_event(EventKind::WebSocketFrame, &payload);
        match (decoded, expected) {
            (Ok((id, _)), None) => assert_eq!(id, EventId::Number(7)),
            (Err(bad), Some(expected)) => {
                assert_eq!(bad.id, Some(EventId::Number(7)));
                assert!(bad.error.to_string().ends_with(expected), "{}", bad.error);
            }
            (decoded, _) => panic!("{text}: {decoded:?}"),
        }
    }
    for (sections, expected) in [
        (REQUEST, "the frame is missing"),
        ("0200000000", "the request is missing"),
    ] {
        let payload = Bytes::from(unhex(&format!("0000000000000007{sections}")));
        let bad = binary::decode_event(EventKind::WebSocketFrame, &payload);
        let bad = bad.map(drop).unwrap_err();
        assert!(bad.error.to_string().ends_with(expected), "{}", bad.error);
    }
}

#[test]
fn binary_decisions_about_frames_that_are_refused() {
    let table = [
        ("01", Ok(FrameDecision::Drop)),
        ("00", Err("unknown kind")),
        ("04", Err("unknown kind")),
        ("", Err("it ends too early")),
        ("02", Err("it ends too early")),
        ("02000000036869", Err("it ends too early")),
        ("0303", Err("it ends too early")),
        ("0303f000000001ff", Err("not UTF-8")),
        // What a later version appends is passed over.
        ("01ff", Ok(FrameDecision::Drop)),
    ];
    for (section, expected) in table {
        let length = section.len() / 2;
        let answer =
            unhex(&format!("00000000000000070000 07{length:08x}{section}").replace(' ', ""));
        let decoded = binary::decode_answer(&answer, Extensions::ALL);
        match expected {
            Ok(decision) => {
                let (_, answer) = decoded.unwrap();
                assert_eq!(*answer.unwrap().websocket.unwrap(), decision);
            }
            Err(detail) => {
                let bad = decoded.unwrap_err();
                assert_eq!(bad.id, Some(EventId::Number(7)));
                assert!(bad.error.to_string().contains(detail), "{}", bad.error);
            }
        }
    }
}

#[test]
fn the_bytes_of_a_frame_are_not_copied() {
    let event = Event::WebSocketFrame(frame("a frame that stays where it is"));
    let mut out = Vec::new();
    binary::encode_event(&mut out, 7, &event);
    let payload = Bytes::from(out);
    let (_, decoded) = binary::decode_event(event.kind(), &payload).unwrap();
    let Event::WebSocketFrame(frame) = decoded.view() else {
        panic!("{decoded:?}");
    };
    assert!(payload.as_ptr_range().contains(&frame.data.as_ptr()));
}
