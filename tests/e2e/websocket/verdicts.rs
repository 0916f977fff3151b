//! What agents decide about frames, and which agents see which.

use super::{
    inspected,
    peers::{Server, connect, described, echo, upgraded},
};
use crate::harness::{
    Answer, Origin, Proxy, TestAgent,
    agent::{Dialect, Phase, Reaction, When},
};
use portcullis_agent_protocol::Decision;
use serde_json::Value;
use tungstenite::{Message, protocol::frame::coding::Data};

/// An agent that does something with frames that hold a word.
fn judge(dialect: Dialect) -> TestAgent {
    let holds = |word: &str| When::Holds(word.to_owned());
    TestAgent::named("judge")
        .speaking(dialect)
        .then(Phase::Frames, holds("gone"), Decision::allow().drop_frame())
        .then(
            Phase::Frames,
            holds("secret"),
            Reaction::Replace("<$DATA>".to_owned()),
        )
        .then(
            Phase::Frames,
            holds("evil"),
            Decision::allow()
                .close_websocket(1008, "no evil")
                .reason("EVIL"),
        )
        .then(
            Phase::Frames,
            holds("blocked"),
            Decision::block(403).reason("BLOCKED"),
        )
        .start()
}

fn said(socket: &mut super::peers::Socket, text: &str) {
    socket.send(Message::text(text)).unwrap();
}

#[test]
fn frames_are_dropped_and_replaced() {
    for dialect in [Dialect::Binary, Dialect::NumberedJson] {
        let server = Server::echoing();
        let agent = judge(dialect);
        let proxy = inspected(&agent, &server, "websocket").start();
        proxy.wait_ready();
        let mut client = connect(proxy.address_of("http"), "/ws/rewritten");
        for text in ["one", "gone", "secret", "two"] {
            said(&mut client, text);
        }
        for expected in ["text one", "text <<secret>>", "text two"] {
            assert_eq!(described(&client.read()), expected);
        }
        // Some fragments of a message.
        let message = |data: Data, fin, text: &str| {
            tungstenite::protocol::frame::Frame::message(
                text.to_owned(),
                tungstenite::protocol::frame::coding::OpCode::Data(data),
                fin,
            )
        };
        for frame in [
            message(Data::Text, false, "gone "),
            message(Data::Continue, false, "a "),
            message(Data::Continue, false, "secret"),
            message(Data::Continue, true, " gone"),
        ] {
            client.send(Message::Frame(frame)).unwrap();
        }
        // It comes back in one frame, which holds the word once more.
        assert_eq!(described(&client.read()), "text <a <secret>>");
        client.close(None).unwrap();
        assert_eq!(described(&client.read()), "close");
        let seen = server.saw("/ws/rewritten");
        let texts = ["text one", "text <secret>", "text two", "text a <secret>"];
        assert_eq!(seen[..4], texts, "{seen:?}");
        let line = proxy.access_line_of("/ws/rewritten");
        assert_eq!(line["status"], 101);
        assert_eq!(line["websocket"]["frames_in"], 9, "{line}");
        assert_eq!(line["websocket"]["frames_out"], 5, "{line}");
        assert_eq!(line["websocket"]["close_code"], 1005, "{line}");
        assert_eq!(line["reason"], Value::Null, "{line}");
        let metric = |direction: &str, outcome: &str| {
            proxy.metric(&format!(
                r#"portcullis_websocket_frames_total{{route="live",direction="{direction}",outcome="{outcome}"}}"#
            ))
        };
        assert_eq!(metric("client_to_server", "drop"), 3.0);
        assert_eq!(metric("client_to_server", "replace"), 2.0);
        assert_eq!(metric("client_to_server", "allow"), 4.0);
        assert_eq!(metric("server_to_client", "replace"), 2.0);
        proxy.wait_metric("portcullis_websocket_open", 0.0);
    }
}

#[test]
fn an_agent_closes_both_sides() {
    for (word, code, said_to_them, reason) in [
        ("evil", 1008, "no evil", "EVIL"),
        ("blocked", 1008, "", "BLOCKED"),
    ] {
        let server = Server::echoing();
        let agent = judge(Dialect::Binary);
        let proxy = inspected(&agent, &server, "websocket").start();
        proxy.wait_ready();
        let mut client = connect(proxy.address_of("http"), "/ws/closed");
        said(&mut client, "fine");
        assert_eq!(described(&client.read()), "text fine");
        said(&mut client, word);
        let close = format!("close {code} {said_to_them}");
        assert_eq!(described(&client.read()), close);
        assert_eq!(described(&client.read()), "end");
        assert_eq!(server.saw("/ws/closed"), ["text fine", &close, "end"]);
        let line = proxy.access_line_of("/ws/closed");
        assert_eq!(line["blocked_by"], "judge", "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(line["websocket"]["close_code"], code, "{line}");
        let complete = &agent.wait_seen("request_complete", 1)[0];
        assert_eq!(complete["status"], 101);
    }
}

#[test]
fn agents_are_asked_in_the_order_of_the_chain_and_back() {
    let server = Server::echoing();
    let marks = |name: &str| {
        TestAgent::named(name)
            .then(
                Phase::Frames,
                When::Holds("mark".to_owned()),
                Reaction::Replace(format!("$DATA {name}")),
            )
            .start()
    };
    let (first, second) = (marks("first"), marks("second"));
    let routes = "routes { route \"live\" { match { path-prefix \"/ws\" }; filters { agent \"first\"; agent \"second\" }; upstream \"origin\"; websocket } }";
    let proxy = Proxy::builder(routes)
        .upstream("origin", &server.target())
        .agent_with(&first, "timeout \"5s\"; inspect { websocket-frames }")
        .agent_with(&second, "timeout \"5s\"; inspect { websocket-frames }")
        .start();
    proxy.wait_ready();
    let mut client = connect(proxy.address_of("http"), "/ws/order");
    said(&mut client, "mark");
    let back = described(&client.read());
    assert_eq!(back, "text mark first second second first");
}

#[test]
fn d19_frames_go_to_the_agents_of_their_route_alone() {
    let server = Server::echoing();
    let one = TestAgent::named("one").start();
    let legacy = TestAgent::named("legacy").speaking(Dialect::Legacy).start();
    let heads = TestAgent::named("heads").start();
    let route = |id: &str, agents: &str| {
        format!(
            "route \"{id}\" {{ match {{ path-prefix \"/{id}\" }}; filters {{ {agents} }}; upstream \"origin\"; websocket }}\n"
        )
    };
    let routes = [
        route("one", "agent \"one\"; agent \"heads\""),
        route("legacy", "agent \"legacy\""),
        route("none", "agent \"heads\""),
    ];
    let frames = "timeout \"5s\"; inspect { request-headers; websocket-frames }";
    let proxy = Proxy::builder(format!("routes {{\n{}}}", routes.concat()))
        .upstream("origin", &server.target())
        .agent_with(&one, frames)
        .agent_with(&legacy, frames)
        .agent_with(&heads, "timeout \"5s\"; inspect { request-headers }")
        .start();
    proxy.wait_ready();
    for path in ["/one", "/legacy", "/none"] {
        let mut client = connect(proxy.address_of("http"), path);
        said(&mut client, path);
        assert_eq!(described(&client.read()), format!("text {path}"));
        client.close(None).unwrap();
        assert_eq!(echo(&mut client), ["close", "end"]);
    }
    for (agent, path) in [(&one, "/one"), (&legacy, "/legacy")] {
        let frames = agent.wait_seen("websocket_frame", 4);
        let texts: Vec<_> = frames
            .iter()
            .map(|frame| {
                (
                    frame["opcode"].as_str().unwrap(),
                    frame["data"].as_str().unwrap(),
                )
            })
            .collect();
        let expected = [("text", path), ("text", path), ("close", ""), ("close", "")];
        assert_eq!(texts, expected);
        let directions = frames.iter().map(|frame| frame["client_to_server"] == true);
        assert_eq!(directions.collect::<Vec<_>>(), [true, false, true, false]);
        let index = frames.iter().map(|frame| frame["index"].as_u64().unwrap());
        assert_eq!(index.collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert!(frames.iter().all(|frame| frame["fin"] == true));
    }
    assert!(heads.seen("websocket_frame").is_empty());
}

#[test]
fn an_origin_may_refuse_an_upgrade_whose_frames_agents_would_see() {
    let origin = Origin::answering(|request| match request.header("upgrade") {
        Some(_) => Answer::with(426, &[], b"not here"),
        None => Answer::ok("plain"),
    });
    let agent = TestAgent::named("frames").start();
    let routes = "routes { route \"live\" { filters { agent \"frames\" }; upstream \"origin\"; websocket } }";
    let proxy = Proxy::builder(routes)
        .origin(&origin)
        .agent_with(&agent, "inspect { websocket-frames }")
        .start();
    proxy.wait_ready();
    let mut client = proxy.client();
    client.send(format!("GET /ws HTTP/1.1\r\n{}\r\n", super::UPGRADE));
    let response = client.response();
    assert_eq!((response.status, response.text()), (426, "not here".into()));
    assert_eq!(proxy.get("/plain").text(), "plain");
    assert!(agent.seen("websocket_frame").is_empty());
    let line = proxy.access_line_of("/ws");
    assert_eq!(line["websocket"], Value::Null, "{line}");
}

#[test]
fn compression_is_negotiated_away_or_inflated() {
    let agent = TestAgent::named("frames").start();
    let server = Server::echoing();
    for (settings, offered) in [
        ("websocket", ""),
        ("websocket { deflate \"refuse\" }", ""),
        (
            "websocket { deflate \"inflate\" }",
            "permessage-deflate; client_max_window_bits",
        ),
    ] {
        let proxy = inspected(&agent, &server, settings).start();
        proxy.wait_ready();
        let lines = "sec-websocket-extensions: mux, permessage-deflate; client_max_window_bits\r\n";
        let (_, head) = upgraded(proxy.address_of("http"), "/ws", lines);
        let line = format!("x-offered: {offered}\r\n");
        assert!(
            head.starts_with("HTTP/1.1 101") && head.contains(&line),
            "{head}"
        );
    }
    // What was not offered is not to be agreed on.
    let agreeing = "sec-websocket-extensions: permessage-deflate\r\n";
    let server = Server::answering(agreeing, |_, _| Vec::new());
    let proxy = inspected(&agent, &server, "websocket").start();
    proxy.wait_ready();
    let (_, head) = upgraded(proxy.address_of("http"), "/ws", "");
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
}

#[test]
fn agents_see_inflated_messages_which_go_on_as_they_are() {
    use super::peers::{Step, by_hand, frame, next_frame};
    use flate2::{Compress, Compression, FlushCompress};
    let agent = TestAgent::named("frames").start();
    let agreeing = "sec-websocket-extensions: permessage-deflate; client_max_window_bits=10\r\n";
    let server = Server::answering(agreeing, |mut stream, _| {
        let (first, data) = next_frame(&mut stream).unwrap();
        let text = String::from_utf8_lossy(&data);
        let seen = vec![format!("{first:02x} {text}")];
        let answer = [frame(0x81, b"plain", false), frame(0x88, b"", false)].concat();
        by_hand(stream, &[Step::Send(answer)]);
        seen
    });
    let proxy = inspected(
        &agent,
        &server,
        "websocket { deflate \"inflate\" max-ratio=50; frame-bytes \"64KiB\" }",
    )
    .start();
    proxy.wait_ready();
    let compressed = |data: &[u8]| {
        let mut stream = Compress::new(Compression::default(), false);
        let mut out = Vec::with_capacity(4096);
        stream
            .compress_vec(data, &mut out, FlushCompress::Sync)
            .unwrap();
        out.truncate(out.len() - 4);
        out
    };
    let offer = "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n";
    let (stream, _) = upgraded(proxy.address_of("http"), "/ws/small", offer);
    let seen = by_hand(
        stream,
        &[Step::Send(frame(0xc1, &compressed(b"inflated"), true))],
    );
    assert_eq!(seen, ["81 plain", "close"]);
    assert_eq!(server.saw("/ws/small"), ["81 inflated"]);
    agent.saw(|told| told["data"] == "inflated" && told["client_to_server"] == true);
    let (stream, _) = upgraded(proxy.address_of("http"), "/ws/bomb", offer);
    let bomb = frame(0xc2, &compressed(&vec![0; 1 << 20]), true);
    let seen = by_hand(stream, &[Step::Send(bomb)]);
    assert!(seen[0].starts_with("close 1009 "), "{seen:?}");
    assert_eq!(server.saw("/ws/bomb"), ["88 \u{3}\u{fffd}"]);
}
