//! Upgrades: WebSocket passes where a route says so, and nothing else does. Where agents see frames, they decide about them.

mod conformance;
mod explained;
mod failures;
mod frame_guard;
mod lives;
mod load;
mod peers;
mod shadow;
mod verdicts;

use crate::harness::{
    Answer, Origin, Proxy, Recorded, TestAgent,
    agent::{Phase, When},
    proxy::Builder,
};
use peers::Server;
use portcullis_agent_protocol::Decision;
use std::io::{Read, Write};

const ROUTES: &str = r#"
routes {
    route "live" { match { path-prefix "/ws" }; upstream "origin"; websocket }
    route "all" { upstream "origin" }
}
"#;

pub(crate) const UPGRADE: &str = "host: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A proxy that sends `/ws…` to this server, past an agent that sees frames, with these settings on the route.
fn inspected(agent: &TestAgent, server: &Server, settings: &str) -> Builder {
    inspected_with(agent, server, settings, "")
}

/// The same with more blocks in the configuration.
fn inspected_with(agent: &TestAgent, server: &Server, settings: &str, blocks: &str) -> Builder {
    let name = agent.name();
    let routes = format!(
        "{blocks}\nroutes {{ route \"live\" {{ match {{ path-prefix \"/ws\" }}; filters {{ agent \"{name}\" }}; upstream \"origin\"; {settings} }} }}"
    );
    let inspect =
        "timeout \"10s\"; inspect { request-headers; websocket-frames; request-complete }";
    Proxy::builder(routes)
        .upstream("origin", &server.target())
        .agent_with(agent, inspect)
}

/// Agrees to every upgrade, and then sends back what it gets, in capital letters.
pub(crate) fn shouting(request: &Recorded) -> Answer {
    if request.header("upgrade").is_none() {
        return Answer::ok("no upgrade");
    }
    let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    Answer::raw(head).then(|stream| {
        let mut chunk = [0; 4096];
        while let Ok(count) = stream.read(&mut chunk) {
            let shouted = chunk[..count].to_ascii_uppercase();
            if count == 0 || stream.write_all(&shouted).is_err() {
                return;
            }
        }
    })
}

#[test]
fn bytes_pass_both_ways_behind_an_agent_that_judges_the_answer() {
    let origin = Origin::answering(shouting);
    let agent = TestAgent::named("judge")
        .then(
            Phase::ResponseHeaders,
            When::Always,
            Decision::allow().set_response_header("x-judged", "yes"),
        )
        .start();
    let routes = ROUTES.replace("websocket", "websocket; filters { agent \"judge\" }");
    let proxy = Proxy::builder(routes)
        .listener(r#"limits { body-bytes "10B" }; timeouts { request-body-idle "100ms" }"#)
        .agent_with(&agent, "timeout \"5s\"; inspect { response-headers }")
        .origin(&origin)
        .start();
    proxy.wait_ready();
    let mut client = proxy.client();
    client.send(format!("GET /ws/room HTTP/1.1\r\n{UPGRADE}\r\n"));
    let head = client.read_head().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("x-judged: yes"), "{head}");
    for number in 0..20 {
        let sent = format!("message number {number}, longer than ten bytes");
        client.send(&sent);
        assert_eq!(
            client.read_exact(sent.len()),
            sent.to_uppercase().as_bytes()
        );
    }
    client.finish_sending();
    client.expect_closed();
    // Who does not switch is judged as anybody.
    assert_eq!(proxy.get("/ws/plain").header("x-judged"), Some("yes"));
}

#[test]
fn bytes_pass_both_ways() {
    let origin = Origin::answering(shouting);
    let proxy = Proxy::builder(ROUTES)
        // Neither holds for what is no request any more.
        .listener(r#"limits { body-bytes "10B" }; timeouts { keepalive "100ms"; request-body-idle "100ms" }"#)
        .origin(&origin)
        .start();
    let mut client = proxy.client();
    client.send(format!("GET /ws/room HTTP/1.1\r\n{UPGRADE}\r\n"));
    let head = client.read_head().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="));
    for number in 0..20 {
        let sent = format!("message number {number}, longer than ten bytes");
        client.send(&sent);
        assert_eq!(
            client.read_exact(sent.len()),
            sent.to_uppercase().as_bytes()
        );
    }
    client.finish_sending();
    client.expect_closed();
    let request = origin.last();
    assert_eq!(request.header("upgrade").as_deref(), Some("websocket"));
    assert_eq!(
        request.header("sec-websocket-version").as_deref(),
        Some("13")
    );
    let line = proxy.access_line_of("/ws/room");
    assert_eq!(line["status"], 101);
}

#[test]
fn elsewhere_an_upgrade_is_403() {
    let origin = Origin::answering(shouting);
    let proxy = Proxy::builder(ROUTES).origin(&origin).start();
    for (name, request) in [
        (
            "no websocket on the route",
            format!("GET / HTTP/1.1\r\n{UPGRADE}\r\n"),
        ),
        (
            "another protocol",
            "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n".into(),
        ),
        (
            "another protocol beside it",
            "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket, foo\r\n\r\n"
                .into(),
        ),
    ] {
        let response = proxy.client().send(request).response();
        assert_eq!(response.status, 403, "{name}");
        let id = response.header("x-request-id").unwrap();
        let line = proxy.access_line(|line| line["request_id"] == id);
        assert_eq!(line["reason"], "upgrade_not_allowed", "{name}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn an_upgrade_with_a_body_is_400() {
    let origin = Origin::answering(shouting);
    let server = Server::echoing();
    let agent = TestAgent::named("frames").start();
    for proxy in [
        Proxy::builder(ROUTES).origin(&origin).start(),
        inspected(&agent, &server, "websocket").start(),
    ] {
        proxy.wait_ready();
        for (name, request) in [
            (
                "of a length",
                format!("GET /ws HTTP/1.1\r\n{UPGRADE}content-length: 5\r\n\r\n"),
            ),
            (
                "in chunks",
                format!("GET /ws HTTP/1.1\r\n{UPGRADE}transfer-encoding: chunked\r\n\r\n"),
            ),
            (
                "and no GET",
                format!("POST /ws HTTP/1.1\r\n{UPGRADE}content-length: 0\r\n\r\n"),
            ),
        ] {
            let mut client = proxy.client();
            let response = client.send(request).response();
            assert_eq!(response.status, 400, "{name}");
            client.expect_closed();
            let id = response.header("x-request-id").unwrap();
            let line = proxy.access_line(|line| line["request_id"] == id);
            assert_eq!(line["reason"], "upgrade_with_body", "{name}");
        }
    }
    assert_eq!(origin.connections(), 0);
    // No body at all may be said in words.
    let proxy = Proxy::builder(ROUTES).origin(&origin).start();
    let request = format!("GET /ws HTTP/1.1\r\n{UPGRADE}content-length: 0\r\n\r\n");
    let head = proxy.client().send(request).read_head().unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
}

#[test]
fn an_offer_of_h2c_is_ignored() {
    let origin = Origin::answering(shouting);
    let proxy = Proxy::builder(ROUTES).origin(&origin).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n");
    assert_eq!(client.response().text(), "no upgrade");
    assert_eq!(origin.last().header("http2-settings"), None);
}

#[test]
fn an_origin_may_refuse_an_upgrade() {
    let origin = Origin::answering(|_| Answer::with(426, &[], b"not here"));
    let proxy = Proxy::builder(ROUTES).origin(&origin).start();
    let mut client = proxy.client();
    client.send(format!("GET /ws HTTP/1.1\r\n{UPGRADE}\r\n"));
    let response = client.response();
    assert_eq!((response.status, response.text()), (426, "not here".into()));
}

#[test]
fn an_origin_cannot_upgrade_by_itself() {
    let origin = Origin::answering(|_| {
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        Answer::raw(head).then_close()
    });
    let proxy = Proxy::builder(ROUTES).origin(&origin).start();
    let response = proxy.get("/");
    assert_eq!(response.status, 502);
}
