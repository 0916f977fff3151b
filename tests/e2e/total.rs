//! What a whole exchange may take: `timeouts` `total` of routes and upstreams.

use crate::harness::{
    Answer, Origin, Proxy, TestAgent,
    http2::{exchange, get},
};
use std::{io::Write, sync::mpsc, thread, time::Duration};

/// Longer than any `total` here. It is the test's subject, not a wait for something.
const LONGER: Duration = Duration::from_millis(700);

/// An origin that is slow with its head, with its body, or never.
fn slow_origin() -> Origin {
    Origin::answering(|request| {
        match request.target().as_str() {
        "/head" => Answer::raw("").then(|stream| {
            thread::sleep(2 * LONGER);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }),
        "/drip" => Answer::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").then(drip),
        "/drip-length" => Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").then(drip),
        "/events" => Answer::raw(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .then(|stream| {
            thread::sleep(LONGER);
            let _ = stream.write_all(b"6\r\ndata:\n\r\n0\r\n\r\n");
        }),
        _ => Answer::ok("ok"),
    }
    })
}

/// Sends something again and again, so that nobody finds it silent.
fn drip(stream: &mut std::net::TcpStream) {
    while stream.write_all(b"1\r\nx\r\n").is_ok() {
        thread::sleep(Duration::from_millis(20));
    }
}

fn proxy(origin: &Origin) -> Proxy {
    Proxy::builder(
        r#"routes {
            route "quick" { match { path-prefix "/quick" }; upstream "origin" }
            route "all" { upstream "origin"; timeouts { total "300ms" } }
        }"#,
    )
    .origin(origin)
    .start()
}

#[test]
fn an_answer_that_comes_too_late_is_504() {
    let origin = slow_origin();
    let proxy = proxy(&origin);
    assert_eq!(proxy.get("/head").status, 504);
    assert_eq!(proxy.access_line_of("/head")["reason"], "total_timeout");
    let answers = exchange(proxy.address_of("http"), vec![get("/head"), get("/other")]);
    let statuses: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().status().as_u16())
        .collect();
    assert_eq!(statuses, [504, 200]);
}

/// However busy it is, and it never looks complete.
#[test]
fn an_answer_that_does_not_end_is_cut() {
    let origin = slow_origin();
    let proxy = proxy(&origin);
    for path in ["/drip", "/drip-length"] {
        let answer = proxy.get(path);
        assert_eq!((answer.status, answer.complete), (200, false), "{path}");
        let line = proxy.access_line_of(path);
        assert_eq!(line["reason"], "total_timeout", "{path}");
        assert_eq!(line["aborted"], true, "{path}");
        let answers = exchange(proxy.address_of("http"), vec![get(path)]);
        let error = answers.into_iter().next().unwrap().unwrap_err();
        assert!(error.is_reset(), "{path}: {error}");
    }
}

#[test]
fn a_body_that_does_not_end_is_given_up() {
    let origin = slow_origin();
    let proxy = proxy(&origin);
    let mut client = proxy.client();
    client.send("POST /body HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n");
    let mut sender = client.sender();
    let sending = thread::spawn(move || drip(&mut sender));
    assert_eq!(client.response().status, 504);
    client.expect_closed();
    drop(client);
    sending.join().unwrap();
    assert_eq!(proxy.access_line_of("/body")["reason"], "total_timeout");
}

/// The same where an agent waits for all of it.
#[test]
fn a_body_that_is_held_has_no_more_time() {
    let origin = slow_origin();
    let agent = TestAgent::named("waf").start();
    let proxy = Proxy::builder(
        r#"routes { route "all" { filters { agent "waf" }; upstream "origin"; timeouts { total "300ms" } } }"#,
    )
    .origin(&origin)
    .agent_with(&agent, r#"timeout "10s"; inspect { request-body "buffer" limit="1MiB" }"#)
    .start();
    proxy.wait_ready();
    let mut client = proxy.client();
    client.send("POST /held HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf");
    assert_eq!(client.response().status, 504);
    assert_eq!(proxy.access_line_of("/held")["reason"], "total_timeout");
    assert_eq!(origin.connections(), 0);
}

#[test]
fn events_and_sockets_outlive_it() {
    let origin = slow_origin();
    let proxy = proxy(&origin);
    let answer = proxy.get("/events");
    assert_eq!((answer.text().as_str(), answer.complete), ("data:\n", true));
    let (go_on, waiting) = mpsc::channel::<()>();
    let waiting = std::sync::Mutex::new(Some(waiting));
    let socket = Origin::answering(move |_| {
        let waiting = waiting.lock().unwrap().take().unwrap();
        let accept = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        Answer::raw(accept).then(move |stream| {
            waiting.recv().unwrap();
            stream.write_all(b"late").unwrap();
        })
    });
    let proxy = Proxy::builder(
        r#"routes { route "all" { upstream "origin"; websocket; timeouts { total "300ms" } } }"#,
    )
    .origin(&socket)
    .start();
    let mut client = proxy.client();
    client.send("GET /socket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert!(client.read_head().unwrap().starts_with("HTTP/1.1 101"));
    thread::sleep(LONGER);
    go_on.send(()).unwrap();
    assert_eq!(client.read_exact(4), b"late");
}

/// What a route says counts, then what the upstream says, then the defaults.
#[test]
fn a_route_says_it_or_its_upstream() {
    let origin = slow_origin();
    let target = format!("target \"{}\"", origin.address());
    let proxy = Proxy::builder(
        r#"
        defaults { upstream { timeouts { total "300ms" } } }
        routes {
            route "longer" { match { header "x-route" "longer" }; upstream "short"; timeouts { total "20s" } }
            route "short" { match { header "x-route" "short" }; upstream "short" }
            route "by-default" { upstream "plain" }
        }"#,
    )
    .upstream("short", &format!("{target}; timeouts {{ total \"250ms\" }}"))
    .upstream("plain", &target)
    .start();
    for (route, status) in [("longer", 200), ("short", 504), ("none", 504)] {
        let answer = proxy.get_with("/head", &[&format!("x-route: {route}")]);
        assert_eq!(answer.status, status, "{route}");
    }
}
