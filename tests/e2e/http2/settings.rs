//! What operators set for HTTP/2, as clients notice it.

use super::{
    IN_PART,
    transport::{Served, Transport, over_every_transport},
};
use crate::harness::{Answer, Origin, Proxy, TestAgent, agent::Reaction, eventually, frames::*};
use portcullis_agent_protocol::Decision;
use std::sync::mpsc;

over_every_transport![
    the_settings_are_announced,
    streams_beyond_the_limit_are_refused,
    a_connection_has_so_many_requests,
    an_idle_connection_is_told_to_go,
    a_connection_with_a_request_is_not_idle,
    half_a_preface_is_not_waited_for,
    a_large_head_is_431,
    a_body_that_stalls_is_given_up,
    a_response_that_nobody_takes_is_given_up,
    a_reload_is_for_new_connections,
];

fn fixed(transport: Transport, listener: &str) -> Served {
    transport.start(
        Proxy::builder(r#"routes { route "fixed" { respond 200 "ok" } }"#).listener(listener),
    )
}

/// The value of a setting that the proxy has announced.
fn announced(settings: &Frame, id: u16) -> Option<u32> {
    settings
        .payload
        .chunks(6)
        .filter(|setting| setting[..2] == id.to_be_bytes())
        .map(|setting| u32::from_be_bytes(setting[2..6].try_into().unwrap()))
        .next_back()
}

fn the_settings_are_announced(transport: Transport) {
    for (http2, streams, window, connection_window) in [
        ("", 100, 256 << 10, 1 << 20),
        (
            r#"http2 { max-concurrent-streams 7; initial-stream-window "64KiB"; initial-connection-window "2MiB" }"#,
            7,
            64 << 10,
            2 << 20,
        ),
        // What is not written gives way.
        (
            r#"http2 { initial-stream-window "4MiB" }"#,
            100,
            4 << 20,
            4 << 20,
        ),
        (
            r#"http2 { initial-connection-window "128KiB" }"#,
            100,
            128 << 10,
            128 << 10,
        ),
    ] {
        let proxy = fixed(
            transport,
            &format!(
                r#"h2c
            {http2}
            limits {{ header-bytes "10KiB"; uri-bytes "2KiB" }}"#
            ),
        );
        let mut client = proxy.connect();
        let settings = client.next_of(SETTINGS).unwrap();
        assert_eq!(announced(&settings, 3), Some(streams), "{http2}");
        assert_eq!(announced(&settings, 4), Some(window), "{http2}");
        assert_eq!(announced(&settings, 6), Some(12 << 10), "{http2}");
        let grown = client.next_of(WINDOW_UPDATE).unwrap();
        let grown = u32::from_be_bytes(grown.payload.try_into().unwrap());
        assert_eq!(65_535 + grown, connection_window, "{http2}");
    }
}

fn streams_beyond_the_limit_are_refused(transport: Transport) {
    let origin = Origin::start();
    let agent = TestAgent::named("slow")
        .on("/slow", Reaction::late(&Decision::allow()))
        .start();
    let proxy = transport.start(Proxy::builder(
        r#"routes { route "all" { filters { agent "slow" timeout="60s" }; upstream "origin" } }"#,
    )
    .listener("h2c; http2 { max-concurrent-streams 2 }")
    .origin(&origin)
    .agent(&agent));
    proxy.wait_ready();
    let mut client = proxy.connect();
    client.send([get(1, "/slow"), get(3, "/slow"), get(5, "/more")].concat());
    assert_eq!(
        client.outcome(5),
        Outcome::Reset(REFUSED_STREAM, Vec::new())
    );
    agent.release();
    assert_eq!(client.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
    client.send(get(7, "/then"));
    assert_eq!(client.outcome(7), Outcome::Answer(200, b"ok".to_vec()));
    assert!(
        origin
            .requests()
            .iter()
            .all(|request| request.target() != "/more")
    );
}

fn a_connection_has_so_many_requests(transport: Transport) {
    let proxy = fixed(transport, "h2c; limits { requests-per-connection 3 }");
    let mut client = proxy.connect();
    for stream in [1, 3, 5] {
        client.send(get(stream, "/"));
        assert_eq!(client.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
    }
    assert_eq!(client.end(), Some(NO_ERROR));
}

fn an_idle_connection_is_told_to_go(transport: Transport) {
    let proxy = fixed(transport, r#"h2c; timeouts { keepalive "300ms" }"#);
    // One that has asked nothing, and one that has.
    for asks in [false, true] {
        let mut client = proxy.connect();
        if asks {
            client.send(get(1, "/"));
            assert_eq!(client.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
        }
        assert_eq!(client.end(), Some(NO_ERROR), "asks: {asks}");
    }
}

fn a_connection_with_a_request_is_not_idle(transport: Transport) {
    let (go_on, waiting) = mpsc::channel::<()>();
    let waiting = std::sync::Mutex::new(Some(waiting));
    let (asked, is_asked) = mpsc::channel::<()>();
    let asked = std::sync::Mutex::new(asked);
    let origin = Origin::answering(move |_| {
        let waiting = waiting.lock().unwrap().take().unwrap();
        asked.lock().unwrap().send(()).unwrap();
        Answer::raw("").then(move |stream| {
            waiting.recv().unwrap();
            std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .unwrap();
        })
    });
    let proxy = transport
        .start(Proxy::in_front_of(&origin).listener(r#"h2c; timeouts { keepalive "100ms" }"#));
    let mut busy = proxy.connect();
    busy.send(get(1, "/"));
    is_asked.recv_timeout(crate::harness::DEADLINE).unwrap();
    // Another connection comes and goes meanwhile, and so do some times of the limit.
    for _ in 0..3 {
        assert_eq!(proxy.connect().end(), Some(NO_ERROR));
    }
    go_on.send(()).unwrap();
    assert_eq!(busy.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
}

/// Whoever connects has to begin.
fn half_a_preface_is_not_waited_for(transport: Transport) {
    let proxy = fixed(transport, r#"h2c; timeouts { request-header "300ms" }"#);
    let mut client = proxy.silent();
    client.send(b"PRI * HTTP/2.0\r\n\r\n");
    client.end();
}

fn a_large_head_is_431(transport: Transport) {
    let proxy = fixed(
        transport,
        r#"h2c; limits { header-bytes "4KiB"; uri-bytes "1KiB"; header-count 20 }"#,
    );
    let filler = "f".repeat(3000);
    let many: Vec<String> = (0..30).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    let target = format!("/{}", "a".repeat(1100));
    for (name, fields, status) in [
        ("fits", vec![("x-a", &*filler)], 200),
        ("too large", vec![("x-a", &*filler), ("x-b", &*filler)], 431),
        ("far too large", vec![("x-a", &*filler); 4], 431),
        ("too many", many, 431),
    ] {
        let mut client = proxy.connect();
        client.send(request(1, END_STREAM, &[head("GET", "/"), fields].concat()));
        assert!(
            matches!(client.outcome(1), Outcome::Answer(found, _) if found == status),
            "{name}"
        );
        client.send(get(3, &target));
        assert!(
            matches!(client.outcome(3), Outcome::Answer(414, _)),
            "{name}"
        );
        client.send(get(5, "/"));
        assert_eq!(
            client.outcome(5),
            Outcome::Answer(200, b"ok".to_vec()),
            "{name}"
        );
    }
}

/// A body that stalls ends its own request, and the connection goes on.
fn a_body_that_stalls_is_given_up(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(
        Proxy::in_front_of(&origin).listener(r#"h2c; timeouts { request-body-idle "300ms" }"#),
    );
    let mut client = proxy.connect();
    client.send([post(1, IN_PART), frame(DATA, 0, 1, b"half")].concat());
    assert!(matches!(client.outcome(1), Outcome::Answer(408, _)));
    let line = proxy.access_line_of(IN_PART);
    assert_eq!(line["reason"], "request_body_timeout");
    client.send(get(3, "/"));
    assert_eq!(client.outcome(3), Outcome::Answer(200, b"ok".to_vec()));
    let seen = origin.saw(|request| request.body == b"half");
    assert!(!seen.complete);
}

/// A client that takes nothing of its answer loses it.
fn a_response_that_nobody_takes_is_given_up(transport: Transport) {
    let origin = Origin::answering(|_| Answer::with(200, &[], &vec![b'x'; 1 << 20]));
    let proxy = transport
        .start(Proxy::in_front_of(&origin).listener(r#"h2c; timeouts { response-write "300ms" }"#));
    let mut client = proxy.connect();
    client.send(get(1, "/large"));
    let outcome = client.outcome(1);
    assert!(
        matches!(&outcome, Outcome::Reset(_, body) if body.len() == 65_535),
        "{outcome:?}"
    );
    let line = proxy.access_line_of("/large");
    assert_eq!(line["aborted"], true);
    client.send(window_update(0, 1 << 20));
    client.send(request(3, END_STREAM, &head("HEAD", "/")));
    assert!(matches!(client.outcome(3), Outcome::Answer(200, _)));
}

fn a_reload_is_for_new_connections(transport: Transport) {
    let builder = |streams: u32| {
        Proxy::builder(r#"routes { route "fixed" { respond 200 "ok" } }"#).listener(&format!(
            "h2c; http2 {{ max-concurrent-streams {streams} }}"
        ))
    };
    let proxy = transport.start(builder(5));
    let mut before = proxy.connect();
    assert_eq!(announced(&before.next_of(SETTINGS).unwrap(), 3), Some(5));
    proxy.reload(builder(9));
    eventually("the new settings", || {
        let mut client = proxy.connect();
        let settings = client.next_of(SETTINGS).unwrap();
        (announced(&settings, 3) == Some(9)).then_some(())
    });
    before.send(get(1, "/"));
    assert_eq!(before.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
}
