//! What strangers tried, each with the way in that it found.

use crate::harness::{Answer, Origin, Proxy, TestAgent, http2};
use bytes::Bytes;
use portcullis_agent_protocol::Decision;
use socket2::{Domain, Socket, Type};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Nothing here takes anywhere near as long.
const DEADLINE: Duration = Duration::from_secs(10);

/// A request that is answered without reading on must not leave its deadline and its size to the next one.
#[test]
fn every_head_of_a_connection_has_its_own_deadline_and_size() {
    let proxy = Proxy::builder(r#"routes { route "fixed" { respond 200 "ok" } }"#)
        .listener(
            r#"timeouts { request-header "600ms"; keepalive "30s" }
            limits { header-bytes "2KiB"; uri-bytes "1KiB" }"#,
        )
        .start();
    let mut client = proxy.client();
    let filler = format!("x-filler: {}", "f".repeat(1000));
    let started = Instant::now();
    let mut answered = 0;
    // Far more bytes than one head may have, for longer than one head may take.
    while answered < 10 || started.elapsed() < Duration::from_millis(1500) {
        assert_eq!(client.get("/", &[&filler]).status, 200, "after {answered}");
        answered += 1;
    }
}

#[test]
fn an_idle_connection_ends_without_a_word() {
    let proxy = Proxy::builder(r#"routes { route "fixed" { respond 200 "ok" } }"#)
        .listener(r#"timeouts { request-header "10s"; keepalive "300ms" }"#)
        .start();
    let mut client = proxy.client();
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(client.read_to_end(), b"");
}

/// A map of headers has an end, and an answer beyond it must cost the call and nothing else.
#[test]
fn an_answer_with_a_hundred_thousand_headers_is_a_protocol_error() {
    let origin = Origin::start();
    let huge = (0..100_000).fold(Decision::allow(), |decision, number| {
        decision.set_response_header(format!("x-{number}"), "v")
    });
    let agent = TestAgent::named("huge").on("/huge", huge).start();
    let proxy = Proxy::builder(
        r#"routes { route "all" { filters { agent "huge" timeout="5s" }; upstream "origin" } }"#,
    )
    .origin(&origin)
    .agent(&agent)
    .start();
    proxy.wait_ready();
    assert_eq!(proxy.get("/huge").status, 502);
    let line = proxy.access_line_of("/huge");
    assert_eq!(line["agents"][0]["failure"], "protocol_error");
    assert_eq!(proxy.get("/fair").status, 200);
    assert!(!proxy.log_text().contains("panicked"));
}

#[test]
fn idle_connections_do_not_keep_probes_from_being_answered() {
    let proxy = Proxy::builder(r#"routes { route "fixed" { respond 200 "ok" } }"#).start();
    let probes = proxy.address_of("probes");
    let idle: Vec<_> = (0..300)
        .map_while(|_| TcpStream::connect(probes).ok())
        .collect();
    assert_eq!(idle.len(), 300);
    // Somebody else asks.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let other: SocketAddr = "127.0.0.2:0".parse().unwrap();
    socket.bind(&other.into()).unwrap();
    socket.connect(&probes.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    drop(idle);
}

/// The agent, the router and the origin see one value, or none.
#[test]
fn padded_values_of_http2_are_refused() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).listener("h2c").start();
    let mut request = http2::request("GET", "/padded", Bytes::new());
    let value = http::HeaderValue::from_bytes(b" blue ").unwrap();
    request.headers_mut().insert("x-tenant", value);
    let answers = http2::exchange(proxy.address_of("http"), vec![request]);
    assert_eq!(answers[0].as_ref().unwrap().status(), 400);
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn cookies_of_http2_are_joined() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).listener("h2c").start();
    let mut request = http2::request("GET", "/cookies", Bytes::new());
    for cookie in ["a=1", "b=2"] {
        let value = http::HeaderValue::from_static(cookie);
        request.headers_mut().append("cookie", value);
    }
    let answers = http2::exchange(proxy.address_of("http"), vec![request]);
    assert_eq!(answers[0].as_ref().unwrap().status(), 200);
    assert_eq!(origin.last().header_values("cookie"), ["a=1; b=2"]);
}

/// An offer that is ignored must not lift a limit either.
#[test]
fn an_offer_of_h2c_does_not_lift_the_idle_time() {
    let origin = Origin::answering(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhal").then(|stream| {
            let _ = stream.read(&mut [0]);
        })
    });
    let timeouts = r#"response-header "300ms"; idle "400ms""#;
    let proxy = Proxy::in_front_of_slow(&origin, timeouts);
    let mut client = proxy.client();
    client.send("GET /slow HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n");
    assert!(client.read_to_end().ends_with(b"\r\n\r\nhal"));
    let line = proxy.access_line_of("/slow");
    assert_eq!(line["reason"], "upstream_timeout");
}

#[test]
fn redirects_out_of_variables_stay_on_their_host() {
    let proxy = Proxy::builder(
        r#"system { path { double-slash "keep" } }
        routes { route "away" { redirect "{request.path}" } }"#,
    )
    .start();
    assert_eq!(proxy.get("/here").header("location"), Some("/here"));
    let away = proxy.get("//evil.example/x");
    assert_eq!((away.status, away.header("location")), (400, None));
}
