use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use portcullis_agent_protocol::{FrameDecision, Verdict};

fn guard(config: &Value) -> FrameGuard {
    let guard = FrameGuard::default();
    guard.configure(config).now_or_never().unwrap().unwrap();
    guard
}

fn frame(opcode: FrameOpcode, data: &[u8], fin: bool) -> WebSocketFrame<'static> {
    WebSocketFrame {
        correlation_id: "c",
        opcode,
        data: Bytes::copy_from_slice(data),
        client_to_server: true,
        index: 0,
        fin,
        route_id: None,
        client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        budget_left: None,
    }
}

/// The frames of a message with this payload each.
fn message(opcode: FrameOpcode, fragments: &[&[u8]]) -> Vec<WebSocketFrame<'static>> {
    let opcodes = std::iter::once(opcode).chain(std::iter::repeat(FrameOpcode::Continuation));
    let last = fragments.len() - 1;
    let frames = fragments.iter().zip(opcodes).enumerate();
    frames
        .map(|(index, (data, opcode))| frame(opcode, data, index == last))
        .collect()
}

/// How many frames pass, and what closes the socket.
fn pass(guard: &FrameGuard, frames: &[WebSocketFrame<'_>]) -> (usize, Option<(u16, String)>) {
    for (passed, frame) in frames.iter().enumerate() {
        if let Some(refusal) = guard.frame(frame) {
            return (passed, Some((refusal.code, refusal.reason)));
        }
    }
    (frames.len(), None)
}

#[test]
fn what_closes_a_socket() {
    use FrameOpcode::{Binary, Text};
    let guard = guard(&json!({"from-client": {
        "deny": [["secret", "evil word"], "drop"],
        "ignore-case": true,
        "deny-regex": [r"\b4\d{3}\b", "top.*"],
        "json": {"max-depth": 2, "text-only": true},
        "max-message-bytes": 40,
    }}));
    for (opcode, fragments, passed, reason) in [
        (Text, &[&b"a fine message"[..]][..], 1, ""),
        (Text, &[b"", b"", b""], 3, ""),
        (Text, &[b"a SecRet"], 0, "deny:secret"),
        (Binary, &[b"secret"], 0, "deny:secret"),
        (Text, &[b"an evil", b" word"], 1, "deny:evil word"),
        (Text, &[b"dr", b"", b"o", b"p", b"x"], 3, "deny:drop"),
        (Text, &[b"a top ", b"hat"], 0, "deny:top.*"),
        (Text, &[b"to", b"p"], 1, "deny:top.*"),
        (Text, &[b"n 4111", b"", b" "], 2, r"deny:\b4\d{3}\b"),
        (Text, &[b"n 4111", b""], 1, r"deny:\b4\d{3}\b"),
        (Text, &[b"n 4111", b"1"], 2, ""),
        (Text, &[b"[[1]]"], 1, ""),
        (Text, &[b"[[", b"[1]]]"], 1, "json-depth"),
        (Binary, &[b"[[[[[["], 1, ""),
        (Text, &[&[b'a'; 40]], 1, ""),
        (Text, &[&[b'a'; 41]], 0, "max-message-bytes"),
        (
            Binary,
            &[&[b'a'; 30], b"", &[b'a'; 11]],
            2,
            "max-message-bytes",
        ),
    ] {
        let code = match reason {
            "max-message-bytes" => 1009,
            _ => 1008,
        };
        let close = (!reason.is_empty()).then(|| (code, format!("frame:{reason}")));
        let frames = message(opcode, fragments);
        assert_eq!(pass(&guard, &frames), (passed, close), "{fragments:?}");
        let kept = guard.from_clients.len();
        assert_eq!(kept, 0, "nothing is kept of {fragments:?}");
    }
}

#[test]
fn messages_are_apart() {
    let config = json!({"from-client": {"deny": "secret"}, "from-server": {"deny": "reply"}});
    let guard = guard(&config);
    let mut server = message(FrameOpcode::Text, &[b"sec", b"ret rep", b"ly"]);
    for frame in &mut server {
        frame.client_to_server = false;
    }
    let client = message(FrameOpcode::Text, &[b"reply sec", b"urity"]);
    let mut other = message(FrameOpcode::Text, &[b"a", b"ret"]);
    for frame in &mut other {
        frame.correlation_id = "d";
    }
    // Fragments of several sockets and of both directions, and between them control frames, which are not looked at.
    for frame in [
        &client[0],
        &server[0],
        &other[0],
        &frame(FrameOpcode::Ping, b"secret", true),
        &other[1],
        &frame(FrameOpcode::Close, b"\x03\xe8secret", true),
        &client[1],
        &server[1],
        &message(FrameOpcode::Text, &[b"ret"])[0],
    ] {
        assert_eq!(guard.frame(frame), None);
    }
    let refusal = guard.frame(&server[2]).unwrap();
    assert_eq!(refusal.reason, "frame:deny:reply");
    assert!(guard.from_clients.is_empty() && guard.from_servers.is_empty());
}

#[test]
fn a_message_whose_beginning_is_not_known_never_passes() {
    let guard = guard(&json!({"from-client": {"deny": "secret"}}));
    let rest = frame(FrameOpcode::Continuation, b"ret", true);
    // Refused like what is denied, not failed at: errors would open the circuit breaker for everybody.
    let refusal = guard.frame(&rest).unwrap();
    assert_eq!(refusal.code, 1008);
    assert_eq!(refusal.reason, "frame:unknown-beginning");
    // With the next message everything is known again.
    let next = frame(FrameOpcode::Text, b"ret", true);
    assert_eq!(guard.frame(&next), None);
}

#[test]
fn the_end_of_a_request_is_the_end_of_its_messages() {
    let guard = guard(&json!({"from-client": {"deny": "secret"}}));
    guard.frame(&frame(FrameOpcode::Text, b"sec", false));
    assert_eq!(guard.from_clients.len(), 1);
    let end = RequestComplete {
        correlation_id: "c",
        status: 101,
        duration: Duration::ZERO,
        request_body_size: 0,
        response_body_size: 0,
        upstream_attempts: 1,
        error: None,
    };
    guard.request_complete(&end).now_or_never().unwrap();
    assert!(guard.from_clients.is_empty());
}

#[test]
fn the_two_ends_learn_no_rule() {
    let guard = guard(&json!({"from-client": {"deny": "secret", "max-message-bytes": 9}}));
    for (data, code) in [(&b"a secret"[..], 1008), (b"a long message", 1009)] {
        let event = frame(FrameOpcode::Text, data, true);
        let decision = guard.websocket_frame(&event).now_or_never();
        let decision = decision.unwrap().unwrap();
        assert_eq!(decision.verdict, Verdict::Allow);
        let close = *decision.websocket.unwrap();
        assert_eq!(close.validate(FrameOpcode::Text), Ok(()));
        let FrameDecision::Close { code: with, reason } = close else {
            unreachable!("{close:?}");
        };
        assert_eq!(with, code);
        assert!(reason.starts_with("message ") && !reason.contains("secret"));
    }
}

proptest! {
    /// However a message is cut into frames, it is closed when it is closed whole, before its last frame has passed.
    #[test]
    fn fragments_are_judged_as_the_message(
        text in r#"[ab1 \[\]"]{0,60}"#,
        places in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let guard = guard(&json!({"from-client": {
            "deny": "abb",
            "deny-regex": [r"\b11\b", "^b1", "1a.*b"],
            "json": {"max-depth": 2},
            "max-message-bytes": 50,
        }}));
        let text = text.as_bytes();
        let mut places: Vec<_> = places.iter().map(|place| place % (text.len() + 1)).collect();
        places.extend([0, text.len()]);
        places.sort_unstable();
        let fragments: Vec<_> = places.windows(2).map(|place| &text[place[0]..place[1]]).collect();
        let frames = message(FrameOpcode::Text, &fragments);
        let whole = guard.frame(&frame(FrameOpcode::Text, text, true));
        let (passed, close) = pass(&guard, &frames);
        prop_assert_eq!(close.is_some(), whole.is_some());
        prop_assert_eq!(passed < frames.len(), close.is_some());
    }
}

#[test]
fn the_same_configuration_changes_nothing() {
    let guard = guard(&json!({"from-client": {"deny": "a"}}));
    let before = guard.rules();
    for (config, is_same) in [
        (json!({"from-client": {"deny": "a"}}), true),
        (json!({"from-client": {"deny": "b"}}), false),
    ] {
        guard.configure(&config).now_or_never().unwrap().unwrap();
        assert_eq!(Arc::ptr_eq(&before, &guard.rules()), is_same, "{config}");
    }
}

#[test]
fn what_is_wrong_with_a_configuration() {
    for (config, part) in [
        (json!([]), "the configuration is not an object"),
        (
            json!({"deny": "a"}),
            "unknown key \"deny\"; known are from-client, from-server",
        ),
        (
            json!({"from-client": {"redact": {}}}),
            "unknown key from-client \"redact\"",
        ),
        (json!({"from-client": true}), "from-client is not an object"),
        (
            json!({"from-server": {"deny": ""}}),
            "from-server deny: \"\" has to have 1 to",
        ),
        (
            json!({"from-server": {"deny-regex": "a*"}}),
            "from-server deny-regex: \"a*\" matches where",
        ),
        (
            json!({"from-server": {"ignore-case": 1}}),
            "from-server ignore-case: 1 is not true or false",
        ),
        (
            json!({"from-server": {"json": {"text-only": true}}}),
            "`max-depth` is missing",
        ),
        (
            json!({"from-server": {"json": {"max-bytes": 1}}}),
            "unknown key from-server json \"max-bytes\"",
        ),
        (
            json!({"from-client": {"max-message-bytes": 0}}),
            "max-message-bytes: 0 is not a number from 1",
        ),
    ] {
        let error = Rules::parse(&config).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}
