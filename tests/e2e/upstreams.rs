//! Where requests go: targets and their turns, what happens when one is not there, and how long one may take.

use crate::harness::{
    Answer, DEADLINE, Origin, Proxy,
    http2::{exchange, get},
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// An address at which connections are refused for as long as the socket lives: it is bound, and nobody listens.
fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

const TO_POOL: &str = r#"routes { route "all" { upstream "pool" } }"#;

#[test]
fn targets_take_turns_by_their_weight() {
    let origins = [Origin::start(), Origin::start()];
    let targets = format!(
        "target \"{}\" weight=3; target \"{}\"",
        origins[0].address(),
        origins[1].address()
    );
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &targets).start();
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    let served = origins.each_ref().map(|origin| origin.requests().len());
    assert_eq!(served, [15, 5]);
}

#[test]
fn a_target_that_refuses_is_passed_over() {
    let (_socket, refusing) = refusing();
    let origin = Origin::start();
    let targets = format!("target \"{refusing}\"; target \"{}\"", origin.address());
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &targets).start();
    for _ in 0..6 {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
        assert_eq!(client.response().status, 200);
        assert_eq!(origin.last().body, b"hello");
    }
    assert_eq!(origin.requests().len(), 6);
    let line = proxy.access_line(|line| line["upstream_attempts"] == 2);
    assert_eq!(line["upstream"], "pool");
    assert_eq!(line["upstream_address"], origin.address().to_string());
}

#[test]
fn without_any_target_the_answer_is_502() {
    let (_one, first) = refusing();
    let (_two, second) = refusing();
    let targets = format!("target \"{first}\"; target \"{second}\"");
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &targets).start();
    let response = proxy.get("/");
    assert_eq!(response.status, 502);
    // The client does not learn where the targets are.
    assert!(
        !response.text().contains("127.0.0.1"),
        "{}",
        response.text()
    );
    let line = proxy.access_line_of("/");
    assert_eq!(line["reason"], "upstream_unreachable");
    assert_eq!(line["upstream_attempts"], 2);
}

#[test]
fn an_answer_that_is_no_http_is_502() {
    for garbage in [
        "garbage\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "",
    ] {
        let origin = Origin::answering(move |_| Answer::raw(garbage).then_close());
        let proxy = Proxy::in_front_of(&origin).start();
        let response = proxy.get("/");
        assert_eq!(response.status, 502, "{garbage:?}");
        assert!(!response.text().contains("garbage"));
    }
}

/// The time that a request takes, and the status of its answer.
fn timed(proxy: &Proxy, path: &str) -> (Duration, u16, bool) {
    let started = Instant::now();
    let response = proxy.get(path);
    (started.elapsed(), response.status, response.complete)
}

#[test]
fn d26_a_target_that_does_not_answer_is_given_up() {
    let origin = Origin::answering(|_| {
        Answer::raw("").then(|stream| {
            // Until the proxy has had enough.
            let _ = std::io::Read::read(stream, &mut [0]);
        })
    });
    let proxy = Proxy::builder(
        r#"
        routes {
            route "patient" { match { path "/patient" }; upstream "slow"; timeouts { response-header "600ms" } }
            route "all" { upstream "slow" }
        }
        "#,
    )
    .upstream(
        "slow",
        &format!(
            "target \"{}\"; timeouts {{ response-header \"300ms\" }}",
            origin.address()
        ),
    )
    .start();
    let (took, status, _) = timed(&proxy, "/");
    assert_eq!(status, 504);
    assert!(
        took > Duration::from_millis(250) && took < DEADLINE / 2,
        "{took:?}"
    );
    assert_eq!(proxy.access_line_of("/")["reason"], "upstream_timeout");
    let (took, status, _) = timed(&proxy, "/patient");
    assert_eq!(status, 504);
    assert!(
        took > Duration::from_millis(550) && took < DEADLINE / 2,
        "{took:?}"
    );
}

#[test]
fn a_pipelined_request_does_not_undo_the_timeout() {
    let origin = Origin::answering(|_| {
        Answer::raw("").then(|stream| {
            let _ = std::io::Read::read(stream, &mut [0]);
        })
    });
    let proxy = Proxy::in_front_of_slow(&origin, "response-header \"300ms\"; idle \"60s\"");
    let mut client = proxy.client();
    client.send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.response().status, 504);
}

#[test]
fn d26_a_body_that_stalls_is_cut_at_the_idle_time() {
    let origin = Origin::answering(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").then(
            |stream| {
                let _ = std::io::Read::read(stream, &mut [0]);
            },
        )
    });
    // The two limits are independent of each other, whichever is the longer.
    for (timeouts, least) in [
        ("response-header \"20s\"; idle \"300ms\"", 250),
        ("response-header \"100ms\"; idle \"600ms\"", 550),
    ] {
        let proxy = Proxy::in_front_of_slow(&origin, timeouts);
        let (took, status, complete) = timed(&proxy, "/");
        assert_eq!((status, complete), (200, false), "{timeouts}");
        let least = Duration::from_millis(least);
        assert!(took > least && took < DEADLINE / 2, "{timeouts}: {took:?}");
        let line = proxy.access_line_of("/");
        assert_eq!(line["aborted"], true, "{timeouts}");
    }
}

#[test]
fn an_upstream_may_speak_http2() {
    let origin = Origin::answering(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    });
    let behind = Proxy::in_front_of(&origin).start();
    let target = format!("target \"{}\"; protocol \"h2c\"", behind.address_of("http"));
    let proxy = Proxy::builder(TO_POOL).upstream("pool", &target).start();
    let mut client = proxy.client();
    // A body that is ended by an empty frame must not leave anything behind on any connection, so each follows another.
    for number in 0..3 {
        assert_eq!(client.get("/over", &[]).text(), "ok");
        client.send("POST /1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        assert_eq!(client.response().text(), "ok");
        client.send("POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
        assert_eq!(client.response().text(), "ok");
        let requests = origin.requests();
        let bodies: Vec<_> = requests[3 * number..]
            .iter()
            .map(|request| &*request.body)
            .collect();
        assert_eq!(bodies, [&b""[..], b"hello", b"hello"]);
    }
    let answers = exchange(proxy.address_of("http"), vec![get("/both")]);
    assert_eq!(answers[0].as_ref().unwrap().body(), "ok");
    for path in ["/over", "/both"] {
        let line = behind.access_line_of(path);
        assert_eq!(line["protocol"], "HTTP/2");
        assert_eq!(line["host"], "test");
        assert_eq!(line["status"], 200);
    }
}

#[test]
fn the_builtin_echo_says_what_it_was_asked() {
    let proxy = Proxy::builder(r#"routes { route "all" { upstream "echo" } }"#)
        .upstream("echo", "builtin \"echo\"")
        .start();
    let mut client = proxy.client();
    client
        .send("POST /path?query HTTP/1.1\r\nhost: a\r\nx-own: 1\r\ncontent-length: 5\r\n\r\nhello");
    let echo = client.response().json();
    assert_eq!(echo["method"], "POST");
    assert_eq!(echo["uri"], "/path?query");
    assert_eq!(echo["headers"]["x-own"][0], "1");
    assert_eq!(echo["headers"]["x-real-ip"][0], "127.0.0.1");
    assert_eq!(echo["body"], "hello");
}
