//! The upstream dies, refuses, or answers early: no answer looks whole that is not, and agents are asked once all the same.

use super::{Framing, before, post, through};
use crate::harness::{
    Answer, Origin, Proxy, TestAgent, eventually,
    grpc::{Call, CallServer},
    http2,
};
use bytes::Bytes;
use serde_json::Value;
use std::{
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::channel,
    },
    thread,
};

const INSPECTIONS: [&str; 4] = [
    "request-headers; request-body \"stream\"",
    "response-headers",
    "response-body \"buffer\"",
    "response-body \"stream\"",
];

/// What a client has got of a response when there is no more.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// An answer of the proxy.
    Status(u16),
    /// Not the end of a response.
    Cut,
}

fn over_http1(proxy: &Proxy, version: &str) -> End {
    let mut client = proxy.client();
    client.send(format!("GET / HTTP/{version}\r\nhost: test\r\n\r\n"));
    let mut stream = client.sender();
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    if let Err(error) = end {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        return End::Cut;
    }
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return End::Cut;
    };
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let whole = match length {
        Some(length) => body.len() >= length.parse().unwrap(),
        None if head.contains("transfer-encoding: chunked") => body.ends_with("0\r\n\r\n"),
        None => true,
    };
    match whole {
        true => End::Status(head[9..12].parse().unwrap()),
        false => End::Cut,
    }
}

fn over_http2(proxy: &Proxy) -> End {
    let answer = http2::exchange(proxy.address_of("http"), vec![http2::get("/")]).remove(0);
    answer.map_or(End::Cut, |answer| End::Status(answer.status().as_u16()))
}

/// How the upstream dies: what it has said before.
const LAST_WORDS: [(&str, bool); 3] = [
    ("", false),
    ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", true),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        true,
    ),
];

#[test]
fn an_upstream_dies() {
    for (words, has_head) in LAST_WORDS {
        let origin = Origin::answering(move |_| Answer::raw(words).then_close());
        for inspect in INSPECTIONS {
            let agent = TestAgent::named("waf").start();
            let proxy = through(&agent, &format!("{inspect}; request-complete"), &origin);
            let ends = [
                over_http1(&proxy, "1.1"),
                over_http1(&proxy, "1.0"),
                over_http2(&proxy),
            ];
            for end in ends {
                // What is held, or has not been written yet, can still be answered in another way.
                let held = !has_head || inspect.contains("response-body \"buffer\"");
                let is_cut = end == End::Cut && !held;
                assert!(
                    is_cut || end == End::Status(502),
                    "{inspect}, after {words:?}: {end:?}"
                );
            }
            let told = agent.wait_seen("request_complete", 3);
            assert_eq!(told.len(), 3);
            let lines = proxy.access_lines();
            for line in &lines {
                assert_eq!(
                    line["reason"], "upstream_connection_lost",
                    "{inspect}: {line}"
                );
                assert_eq!(line["blocked_by"], Value::Null, "{inspect}: {line}");
            }
            proxy.wait_metric("portcullis_http_requests_in_flight", 0.0);
            proxy.wait_metric("portcullis_buffer_memory_used_bytes", 0.0);
        }
    }
}

/// The client has a part of the response when the upstream dies.
#[test]
fn an_upstream_dies_behind_its_head() {
    for inspect in ["response-headers", "response-body \"stream\""] {
        for version in ["1.1", "1.0", "2"] {
            let (die, told) = channel::<()>();
            let told = Mutex::new(told);
            let told = Arc::new(told);
            let origin = Origin::answering(move |_| {
                let told = told.clone();
                let words = LAST_WORDS[2].0;
                Answer::raw(words).then(move |_| told.lock().unwrap().recv().unwrap())
            });
            let agent = TestAgent::named("waf").start();
            let proxy = through(&agent, inspect, &origin);
            if version == "2" {
                let request = http2::request("POST", "/", Bytes::new());
                let mut call = Call::begin(proxy.address_of("http"), request);
                assert_eq!(call.finish().head().unwrap().status(), 200);
                assert_eq!(call.data().unwrap().unwrap(), "abc");
                die.send(()).unwrap();
                assert!(call.rest().unwrap_err().is_reset(), "{inspect}");
            } else {
                let mut client = proxy.client();
                client.send(format!("GET / HTTP/{version}\r\nhost: test\r\n\r\n"));
                client.read_head().unwrap();
                let piece = if version == "1.0" {
                    "abc"
                } else {
                    "3\r\nabc\r\n"
                };
                assert_eq!(client.read_exact(piece.len()), piece.as_bytes());
                die.send(()).unwrap();
                let end = client.sender().read(&mut [0]).map_err(|error| error.kind());
                match version {
                    "1.0" => assert_eq!(end, Err(ErrorKind::ConnectionReset), "{inspect}"),
                    _ => assert_eq!(end, Ok(0), "{inspect}"),
                }
            }
            let line = proxy.access_line_of("/");
            assert_eq!(
                (&line["status"], &line["aborted"]),
                (&200.into(), &true.into()),
                "{line}"
            );
            assert_eq!(line["reason"], "upstream_connection_lost", "{line}");
        }
    }
}

#[test]
fn a_stream_of_an_upstream_is_reset() {
    for inspect in INSPECTIONS {
        let server = CallServer::serving(|mut served| {
            Box::pin(async move {
                served.answer(&[("content-type", "text/plain")]);
                served.send("abc").await;
                served.reset();
            })
        });
        let agent = TestAgent::named("waf").start();
        let proxy = before(&server, &agent, inspect);
        for end in [
            over_http1(&proxy, "1.1"),
            over_http1(&proxy, "1.0"),
            over_http2(&proxy),
        ] {
            assert!(
                end == End::Cut || end == End::Status(502),
                "{inspect}: {end:?}"
            );
        }
        proxy.wait_metric("portcullis_http_requests_in_flight", 0.0);
    }
}

/// The origin has an answer before it has the request.
#[test]
fn an_early_answer_does_not_wait_for_the_upload() {
    let server = CallServer::serving(|mut served| {
        Box::pin(async move {
            served.data().await.unwrap().unwrap();
            served.answer(&[("x-early", "yes")]);
            served.send("enough").await;
            served.end();
            served.given_up().await;
        })
    });
    let agent = TestAgent::named("waf").start();
    let proxy = before(
        &server,
        &agent,
        "request-body \"stream\"; response-body \"stream\"",
    );
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\nbegun");
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, "enough".into()));
    assert!(response.complete);
    let request = http2::request("POST", "/", Bytes::new());
    let mut call = Call::begin(proxy.address_of("http"), request);
    assert!(call.send("begun"));
    assert_eq!(call.head().unwrap().headers()["x-early"], "yes");
    assert_eq!(call.rest().unwrap(), b"enough");
    proxy.wait_metric("portcullis_http_requests_in_flight", 0.0);
}

/// Nobody listens there.
fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Reads something of each request and resets the connection.
fn resetting() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            counted.fetch_add(1, SeqCst);
            // With the rest unread it is a reset; of a short request it is an early end, which is as bad.
        }
    });
    (address, seen)
}

fn retrying(first: SocketAddr, origin: &Origin, agent: &TestAgent) -> Proxy {
    let targets = format!("target \"{first}\"; target \"{}\"", origin.address());
    let inspect = "request-headers; request-body \"buffer\" limit=\"1MiB\"; request-complete";
    super::to(&targets, agent, inspect)
}

fn ask(proxy: &Proxy, method: &str, body: &[u8]) -> u16 {
    let request = post("/", body, Framing::Length, &[]);
    let request = [method.as_bytes(), &request[4..]].concat();
    proxy.client().send(request).response().status
}

/// Small, and larger than what Pingora keeps for another attempt.
const SIZES: [usize; 2] = [10, 300_000];

#[test]
fn a_refused_connection_is_another_target() {
    for size in SIZES {
        let origin = Origin::start();
        let agent = TestAgent::named("waf").start();
        let proxy = retrying(nowhere(), &origin, &agent);
        let body = vec![b'x'; size];
        for method in ["POST", "PUT", "POST", "PUT"] {
            assert_eq!(ask(&proxy, method, &body), 200, "{method} {size}");
            assert_eq!(origin.last().body.len(), size);
        }
        asked_once_each(&proxy, &agent, 4);
    }
}

#[test]
fn a_lost_request_is_repeated_if_that_is_safe() {
    for size in SIZES {
        let origin = Origin::start();
        let agent = TestAgent::named("waf").start();
        let (address, lost) = resetting();
        let proxy = retrying(address, &origin, &agent);
        let body = vec![b'x'; size];
        for _ in 0..3 {
            assert_eq!(ask(&proxy, "PUT", &body), 200, "{size}");
            assert_eq!(origin.last().body.len(), size);
        }
        assert!(lost.load(SeqCst) > 0);
        let before = lost.load(SeqCst);
        let statuses = [(); 2].map(|()| ask(&proxy, "POST", &body));
        let lost = lost.load(SeqCst) - before;
        assert_eq!(lost, 1, "{size}: {statuses:?}");
        let failed = statuses.iter().filter(|status| **status == 502).count();
        assert_eq!(failed, 1, "{size}: {statuses:?}");
        asked_once_each(&proxy, &agent, 5);
    }
}

/// However often the upstream was tried, the agents were asked once, and there is one line and one count.
fn asked_once_each(proxy: &Proxy, agent: &TestAgent, requests: usize) {
    assert_eq!(
        agent.wait_seen("request_complete", requests).len(),
        requests
    );
    assert_eq!(agent.seen("request_headers").len(), requests);
    let lasts = agent.seen("request_body_chunk");
    let lasts = lasts.iter().filter(|piece| piece["is_last"] == true);
    assert_eq!(lasts.count(), requests);
    eventually("lines", || {
        (proxy.access_lines().len() == requests).then_some(())
    });
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    proxy.wait_metric("portcullis_http_requests_total", requests as f64);
    let lines = proxy.access_lines();
    let attempts = lines.iter().map(|line| line["upstream_attempts"].as_u64());
    assert!(attempts.flatten().any(|attempts| attempts > 1));
}

/// No body comes where there is none, and what the head says of it stays.
#[test]
fn responses_without_a_body_have_none() {
    let origin = Origin::answering(|request| {
        Answer::raw(match request.target().as_str() {
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 7\r\n\r\n",
            "/head" => "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        })
    });
    for inspect in &INSPECTIONS[1..] {
        let agent = TestAgent::named("waf").start();
        let proxy = through(&agent, inspect, &origin);
        let mut client = proxy.client();
        assert_eq!(client.get("/204", &[]).status, 204);
        let response = client.get("/304", &[]);
        assert_eq!(
            (response.status, response.header("etag")),
            (304, Some("\"1\""))
        );
        client.send("HEAD /head HTTP/1.1\r\nhost: test\r\n\r\n");
        let response = client.response_to_head();
        assert_eq!(response.header("content-length"), Some("1234"), "{inspect}");
        assert_eq!(response.header("transfer-encoding"), None, "{inspect}");
        // On the same connection, so that a stray byte would be seen.
        assert_eq!(client.get("/", &[]).text(), "ok", "{inspect}");
        let bodies = agent.seen("response_body_chunk");
        assert!(
            bodies
                .iter()
                .all(|piece| piece["data"] == "ok" || piece["data"] == ""),
            "{bodies:?}"
        );
    }
}

/// A 100 of the upstream is nobody's concern, since the proxy has said it; a 103 is passed on, unless an agent judges heads:
/// nobody has judged it.
#[test]
fn informational_responses_come_before_the_answer() {
    for inspect in INSPECTIONS {
        let origin = Origin::answering(|_| {
            Answer::raw(
                "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            )
        });
        let agent = TestAgent::named("waf").start();
        let proxy = through(&agent, inspect, &origin);
        let mut client = proxy.client();
        let lines = ["expect: 100-continue"];
        let request = post("/", b"body", Framing::Length, &lines);
        let (head, body) = request.split_at(request.len() - 4);
        client.send(head);
        assert_eq!(client.response().status, 100, "{inspect}");
        client.send(body);
        if !inspect.contains("response-headers") {
            let hints = client.response();
            assert_eq!(
                (hints.status, hints.header("link")),
                (103, Some("</a>")),
                "{inspect}"
            );
        }
        assert_eq!(client.response().text(), "ok", "{inspect}");
        assert_eq!(origin.last().body, b"body", "{inspect}");
    }
}

/// A slice could hide what a whole would show.
#[test]
fn slices_are_not_asked_for_where_the_whole_is_judged() {
    for mode in ["closed", "open"] {
        for inspect in &INSPECTIONS[2..] {
            let origin = Origin::answering(|request| match request.target().as_str() {
                "/slice" => Answer::with(206, &[("content-range", "bytes 0-3/9")], b"part"),
                _ => Answer::ok("ok"),
            });
            let agent = TestAgent::named("dlp").start();
            let proxy = Proxy::builder(format!(
                "routes {{ route \"all\" {{ filters {{ agent \"dlp\" failure-mode=\"{mode}\" }}; upstream \"origin\" }} }}"
            ))
            .origin(&origin)
            .agent_with(&agent, &format!("timeout \"5s\"; inspect {{ {inspect} }}"))
            .start();
            proxy.wait_ready();
            let lines = [
                "range: bytes=0-3",
                "if-range: \"1\"",
                "request-range: bytes=0-3",
            ];
            assert_eq!(proxy.get_with("/", &lines).status, 200);
            for name in ["range", "if-range", "request-range"] {
                let is_gone = origin.last().header(name).is_none();
                assert!(is_gone, "{mode} {inspect}: {name}");
            }
            let unasked = proxy.get_with("/slice", &lines);
            assert_eq!(unasked.status, 502, "{mode} {inspect}");
        }
    }
}
