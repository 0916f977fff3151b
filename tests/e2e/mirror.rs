//! Copies of requests for an upstream whose answers nobody waits for.

use crate::harness::{
    Answer, Http2Answer, Http2Origin, Origin, Proxy, Recorded, TestAgent,
    agent::{Phase, Reaction, When},
    eventually,
    proxy::Builder,
};
use portcullis_agent_protocol::Decision;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

const COPIES: &str = "portcullis_mirrored_requests_total";

fn mirrored(origin: &Origin, copies: &str, route: &str) -> Builder {
    Proxy::builder(format!(
        "routes {{ route \"all\" {{ upstream \"origin\"; {route} }} }}"
    ))
    .origin(origin)
    .upstream("copies", copies)
}

fn target(origin: &Origin) -> String {
    format!("target \"{}\"", origin.address())
}

fn count(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.metric(&format!("{COPIES}{{outcome=\"{outcome}\"}}"))
}

#[test]
fn somebody_else_gets_what_the_upstream_gets() {
    let (origin, copies) = (
        Origin::start(),
        Origin::answering(|_| Answer::with(500, &[], b"bad")),
    );
    let agent = TestAgent::named("judge")
        .otherwise(Decision::allow().set_request_header("x-judged", "yes"))
        .start();
    let route = r#"
        filters { agent "judge" }
        rewrite { path-prefix "/a" to="/b" }
        mirror "copies"
    "#;
    let proxy = mirrored(&origin, &target(&copies), route)
        .agent(&agent)
        .start();
    proxy.wait_ready();
    let mut client = proxy.client();
    assert_eq!(client.get("/a/x?y=1", &[]).text(), "ok");
    proxy.wait_metric(&format!("{COPIES}{{outcome=\"answered\"}}"), 1.0);
    client.send("POST /a/body HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
    client
        .send("5\r\nhello\r\n")
        .send("6\r\n there\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "ok");
    for (path, body) in [("/b/x?y=1", &b""[..]), ("/b/body", b"hello there")] {
        let copy = copies.saw(|request| request.target() == path);
        let request = origin.saw(|request| request.target() == path);
        assert_eq!(copy.body, body);
        assert_eq!(request.body, body);
        for name in ["host", "x-judged", "x-request-id", "x-forwarded-for", "via"] {
            assert_eq!(copy.header(name), request.header(name), "{name}");
        }
        assert_eq!(copy.header("x-portcullis-mirror").as_deref(), Some("all"));
        assert_eq!(request.header("x-portcullis-mirror"), None);
    }
    // That of the head is known when it is sent.
    let copy = copies.saw(|request| request.target() == "/b/body");
    assert_eq!(copy.header("content-length").as_deref(), Some("11"));
    assert_eq!(copy.header("transfer-encoding"), None);
    // Agents are asked once for each request.
    assert_eq!(agent.requests().len(), 2);
    let line = proxy.access_line_of("/a/x?y=1");
    assert_eq!(line["mirrored_to"], "copies");
    assert_eq!(line["upstream"], "origin");
    proxy.wait_metric(&format!("{COPIES}{{outcome=\"answered\"}}"), 2.0);
    assert_eq!(copies.connections(), 1, "its connection is used again");
}

/// What is for the proxy alone does not reach them either, and nobody but the proxy says that a request is a copy.
#[test]
fn copies_have_nothing_that_the_upstream_does_not_get() {
    let (origin, copies) = (Origin::start(), Origin::start());
    let proxy = mirrored(&origin, &target(&copies), "mirror \"copies\"")
        .listener("underscores-in-headers \"pass\"")
        .start();
    let lines = [
        "proxy-authorization: Basic c2VjcmV0",
        "proxy-authenticate: a",
        "connection: upgrade, http2-settings",
        "upgrade: h2c",
        "http2-settings: AAMAAABkAAQAAP__",
        "keep-alive: timeout=5",
        "proxy-connection: keep-alive",
        "te: trailers",
        "trailer: x-a",
        "x-portcullis-mirror: forged",
        "x_portcullis_mirror: forged",
        "x-kept: 1",
    ];
    assert_eq!(proxy.get_with("/", &lines).status, 200);
    let mut copy = copies.saw(|_| true);
    assert_eq!(copy.header("x-portcullis-mirror").as_deref(), Some("all"));
    let names = |request: &Recorded| {
        let head = String::from_utf8(request.head.clone()).unwrap();
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut names: Vec<_> = fields.map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.retain(|name| name != "x-portcullis-mirror");
        names.sort();
        names
    };
    let request = origin.last();
    assert_eq!(request.header("x-portcullis-mirror"), None);
    assert_eq!(names(&copy), names(&request));
    assert!(names(&request).contains(&"x-kept".to_owned()));
    copy.head.make_ascii_lowercase();
    let text = String::from_utf8(copy.head).unwrap();
    assert!(
        !text.contains("forged") && !text.contains("c2vjcmv0"),
        "{text}"
    );
}

#[test]
fn a_copy_that_hangs_keeps_nobody_waiting() {
    let origin = Origin::start();
    let copies = Origin::answering(|_| {
        Answer::raw(Vec::new()).then(|stream| {
            // Until the other end has enough of it.
            let _ = std::io::copy(stream, &mut std::io::sink());
        })
    });
    let target = format!(
        "{}; timeouts {{ response-header \"300ms\" }}",
        target(&copies)
    );
    let proxy = mirrored(&origin, &target, "mirror \"copies\"").start();
    let mut client = proxy.client();
    // More than are sent at once.
    for _ in 0..100 {
        assert_eq!(client.get("/", &[]).text(), "ok");
    }
    eventually("failures are counted", || {
        (count(&proxy, "failed") >= 64.0).then_some(())
    });
    assert_eq!(count(&proxy, "answered"), 0.0);
}

#[test]
fn nobody_there_is_no_failure_of_the_request() {
    let origin = Origin::start();
    let gone = Origin::start();
    let target = target(&gone);
    drop(gone);
    let proxy = mirrored(&origin, &target, "mirror \"copies\"").start();
    assert_eq!(proxy.get("/").text(), "ok");
    proxy.wait_metric(&format!("{COPIES}{{outcome=\"failed\"}}"), 1.0);
}

#[test]
fn large_bodies_and_broken_requests_are_not_copied() {
    let (origin, copies) = (Origin::start(), Origin::start());
    let route = "mirror \"copies\" max-body=\"10B\"";
    let proxy = mirrored(&origin, &target(&copies), route).start();
    let mut client = proxy.client();
    for (body, path) in [("0123456789", "/fits"), ("0123456789a", "/large")] {
        let length = body.len();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}"
        ));
        assert_eq!(client.response().text(), "ok");
    }
    proxy.wait_metric(&format!("{COPIES}{{outcome=\"too_large\"}}"), 1.0);
    let mut client = proxy.client();
    client.send("POST /broken HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhe");
    origin.saw(|request| request.target() == "/large");
    drop(client);
    proxy.wait_metric(&format!("{COPIES}{{outcome=\"incomplete\"}}"), 1.0);
    proxy.wait_metric(&format!("{COPIES}{{outcome=\"answered\"}}"), 1.0);
    let targets: Vec<String> = copies.requests().iter().map(|it| it.target()).collect();
    assert_eq!(targets, ["/fits"]);
}

/// One that has enough when it has seen so much of a body.
fn refusing(enough: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut seen, mut piece) = (0, [0; 4096]);
        while seen < enough {
            seen += stream.read(&mut piece).unwrap();
        }
        let answer = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).unwrap();
        // Until the proxy has seen it.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    address
}

#[test]
fn a_request_that_is_sent_again_takes_memory_for_one_copy() {
    const SENT: usize = 50_000;
    let (origin, copies) = (Origin::start(), Origin::start());
    // All attempts together have seen more than what copies may take.
    let bad: String = (0..3)
        .map(|_| format!("target \"{}\" weight=1000; ", refusing(SENT)))
        .collect();
    let proxy = Proxy::builder(
        r#"system { buffer-memory "1MiB" }
        routes { route "all" { upstream "pool"; retry attempts=3; mirror "copies" max-body="1MiB" } }"#,
    )
    .upstream("pool", &(bad + &target(&origin)))
    .upstream("copies", &target(&copies))
    .start();
    let mut client = proxy.client();
    let body = "b".repeat(SENT);
    client.send(format!(
        "PUT /big HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
        SENT + 4
    ));
    eventually("the last attempt", || {
        (origin.connections() > 0).then_some(())
    });
    client.send("last");
    assert_eq!(client.response().status, 200);
    proxy.wait_metric(&format!("{COPIES}{{outcome=\"answered\"}}"), 1.0);
    assert_eq!(copies.last().body.len(), SENT + 4);
}

#[test]
fn a_share_of_requests_is_copied() {
    let (origin, copies) = (Origin::start(), Origin::start());
    let route = "mirror \"copies\" percent=\"25%\"";
    let proxy = mirrored(&origin, &target(&copies), route).start();
    let mut client = proxy.client();
    for number in 0..400 {
        assert_eq!(client.get(&format!("/{number}"), &[]).status, 200);
    }
    proxy.access_line_of("/399");
    let lines = proxy.access_lines();
    let marked = lines
        .iter()
        .filter(|line| line["mirrored_to"] == "copies")
        .count();
    // Seven standard deviations around a hundred.
    assert!((40..=160).contains(&marked), "{marked}");
    proxy.wait_metric(&format!("{COPIES}{{outcome=\"answered\"}}"), marked as f64);
    assert_eq!(copies.requests().len(), marked);
}

#[test]
fn what_agents_change_of_a_body_is_in_the_copy() {
    let (origin, copies) = (Origin::start(), Origin::start());
    let agent = TestAgent::named("editor")
        .then(
            Phase::RequestBody,
            When::Holds("secret".into()),
            Reaction::Replace("[redacted]".into()),
        )
        .then(
            Phase::RequestBody,
            When::Holds("denied".into()),
            Decision::block(403),
        )
        .start();
    let proxy = mirrored(
        &origin,
        &target(&copies),
        "filters { agent \"editor\" }; mirror \"copies\"",
    )
    .agent_with(
        &agent,
        "timeout \"10s\"; inspect { request-headers; request-body \"buffer\" }",
    )
    .start();
    proxy.wait_ready();
    let mut client = proxy.client();
    for (body, status) in [("a secret", 200), ("a denied", 403)] {
        client.send(format!(
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\n\r\n{body}"
        ));
        assert_eq!(client.response().status, status);
    }
    let copy = copies.saw(|_| true);
    assert_eq!(copy.body, b"[redacted]");
    proxy.wait_metric(&format!("{COPIES}{{outcome=\"incomplete\"}}"), 1.0);
    assert_eq!(copies.requests().len(), 1);
}

#[test]
fn an_upstream_of_http2_gets_copies_too() {
    let origin = Origin::start();
    let copies = Http2Origin::answering(|_| Http2Answer::with(200, &[], "ok"));
    let target = format!("target \"{}\"; protocol \"h2c\"", copies.address());
    let proxy = mirrored(&origin, &target, "mirror \"copies\"").start();
    let mut client = proxy.client();
    assert_eq!(client.get("/one", &[]).text(), "ok");
    client.send("POST /two HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "ok");
    proxy.wait_metric(&format!("{COPIES}{{outcome=\"answered\"}}"), 2.0);
    let mut seen = copies.take();
    seen.sort_by_key(|request| request.target());
    let [one, two] = &seen[..] else {
        panic!("{seen:?}");
    };
    assert_eq!(
        (one.target(), two.target()),
        ("/one".to_owned(), "/two".to_owned())
    );
    assert_eq!(two.body, b"hello");
    assert_eq!(two.head.uri.authority().unwrap(), "test");
}
