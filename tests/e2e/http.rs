//! HTTP as clients and origins speak it: connections, bodies of all kinds and sizes, and ends that come too early.

use crate::harness::{
    Answer, Http2Answer, Http2Origin, Origin, Proxy, eventually,
    http2::{exchange, get, request},
};
use std::{
    io::{Read, Write},
    sync::mpsc,
};

/// Five mebibytes that look like nothing else, the same every time.
fn large_body() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..5 * 1024 * 1024 / 8).flat_map(|_| next()).collect()
}

#[test]
fn connections_are_kept_on_both_sides() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    for _ in 0..5 {
        let response = client.get("/", &[]);
        assert_eq!(response.status, 200);
        assert_eq!(response.header("connection"), Some("keep-alive"));
    }
    assert_eq!(origin.connections(), 1);
    let response = client.get("/", &["connection: close"]);
    assert_eq!(response.header("connection"), Some("close"));
    client.expect_closed();
    // What the client says about its connection is not for the origin.
    assert_eq!(origin.last().header("connection"), None);
}

#[test]
fn names_of_fields_go_on_in_lower_case_and_values_as_they_are() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let fields = [
        "X-Mixed-Case: One",
        "x-mixed-case: TWO",
        "ACCEPT: Text/Plain",
    ];
    assert_eq!(proxy.client().get("/A?B=c", &fields).status, 200);
    let head = String::from_utf8(origin.last().head).unwrap();
    assert!(head.starts_with("GET /A?B=c HTTP/1.1\r\n"), "{head}");
    let mixed: Vec<_> = head
        .lines()
        .filter(|line| line.to_ascii_lowercase().starts_with("x-mixed"))
        .collect();
    assert_eq!(mixed, ["x-mixed-case: One", "x-mixed-case: TWO"]);
    assert!(head.contains("\r\naccept: Text/Plain\r\n"), "{head}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::answering(|request| Answer::ok(&request.target()));
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    let post = "POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    client.send(format!("{}{post}{}{}", get("/1"), get("/3"), get("/4")));
    for path in ["/1", "/2", "/3", "/4"] {
        assert_eq!(client.response().text(), path);
    }
    let targets: Vec<_> = origin
        .requests()
        .iter()
        .map(|request| request.target())
        .collect();
    assert_eq!(targets, ["/1", "/2", "/3", "/4"]);
    assert_eq!(origin.requests()[1].body, b"hello");
    // The connection is still good for more.
    assert_eq!(client.get("/5", &[]).text(), "/5");
}

#[test]
fn answers_to_head_have_no_body() {
    let origin = Origin::answering(|request| match request.request_line().starts_with("HEAD") {
        true => Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n"),
        false => Answer::ok("body"),
    });
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
    let response = client.response_to_head();
    assert_eq!(response.header("content-length"), Some("12345"));
    assert_eq!(client.get("/", &[]).text(), "body");
}

#[test]
fn answers_without_a_body_have_none() {
    let origin = Origin::answering(|request| match request.target().as_str() {
        "/204" => Answer::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/304" => Answer::raw("HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n"),
        _ => Answer::with(200, &[], b""),
    });
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    for (path, status) in [("/204", 204), ("/304", 304), ("/", 200)] {
        let response = client.get(path, &[]);
        assert_eq!(response.status, status);
        assert!(response.body.is_empty());
    }
    assert_eq!(client.get("/", &[]).status, 200);
}

#[test]
fn http_1_0_is_served_and_closed() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    // The one version that may leave its host out.
    client.send("GET /old HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, "ok".into()));
    client.expect_closed();
    assert_eq!(proxy.access_line_of("/old")["protocol"], "HTTP/1.0");
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n");
        assert_eq!(client.response().text(), "ok");
    }
}

/// HTTP/2 has its host in front, where nothing can be left out.
#[test]
fn http_1_0_without_a_host_is_refused_where_the_upstream_needs_one() {
    let origin = Http2Origin::answering(|_| Http2Answer::with(200, &[], "ok"));
    let target = format!("target \"{}\"; protocol \"h2c\"", origin.address());
    let proxy = Proxy::builder(r#"routes { route "all" { upstream "newer" } }"#)
        .upstream("newer", &target)
        .start();
    let mut client = proxy.client();
    client.send("GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().status, 400);
    assert_eq!(proxy.access_line_of("/old")["reason"], "missing_host");
    let mut client = proxy.client();
    client.send("GET /old HTTP/1.0\r\nhost: a\r\n\r\n");
    assert_eq!(client.response().text(), "ok");
}

#[test]
fn http_1_0_gets_no_chunks() {
    let origin = Origin::answering(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    });
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nhost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(response.text(), "hello");
}

#[test]
fn chunks_of_a_client_reach_the_origin() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    // In pieces that have nothing to do with the chunks; an extension of a chunk means nothing.
    for piece in [
        "5",
        "\r",
        "\nhel",
        "lo\r\n",
        "6;name=value\r\n world\r\n0",
        "\r\n\r",
        "\n",
    ] {
        client.send(piece);
    }
    assert_eq!(client.response().status, 200);
    let request = origin.last();
    assert_eq!(request.body, b"hello world");
    assert!(request.complete);
    assert_eq!(client.get("/", &[]).status, 200);
}

#[test]
fn a_client_may_ask_before_it_sends() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(client.response().status, 100);
    client.send("hello");
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.last().body, b"hello");
    // Nobody sends what is refused.
    let mut client = proxy.client();
    client
        .send("POST /%00 HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(client.response().status, 400);
}

#[test]
fn large_bodies_arrive_as_they_were_sent() {
    let body = large_body();
    let expected = body.clone();
    let origin = Origin::answering(move |request| {
        assert!(request.body == expected, "the body arrived differently");
        Answer::with(200, &[], &request.body)
    });
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(head).send(&body);
    let response = client.response();
    assert!(response.complete && response.body == body);
    let mut chunks = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(100_000) {
        chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunks.extend(chunk);
        chunks.extend(b"\r\n");
    }
    chunks.extend(b"0\r\n\r\n");
    let response = client.send(&chunks).response();
    assert!(response.complete && response.body == body);
    let line = proxy.access_line(|line| line["bytes_in"] == body.len());
    assert_eq!(line["bytes_out"], body.len());
    let answers = exchange(
        proxy.address_of("http"),
        vec![
            request("POST", "/", body.clone().into()),
            request("PUT", "/", body.clone().into()),
        ],
    );
    for answer in answers {
        assert!(answer.unwrap().body() == &body);
    }
}

#[test]
fn http2_requests_share_a_connection() {
    let origin = Origin::answering(|request| {
        Answer::ok(&format!(
            "{} {}",
            request.target(),
            String::from_utf8_lossy(&request.body)
        ))
    });
    let proxy = Proxy::in_front_of(&origin).start();
    let mut requests: Vec<_> = (0..20).map(|number| get(&format!("/{number}"))).collect();
    requests.push(request("POST", "/post", "hello".into()));
    let answers = exchange(proxy.address_of("http"), requests);
    for (number, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        let expected = match number {
            20 => "/post hello".to_owned(),
            _ => format!("/{number} "),
        };
        assert_eq!(answer.body(), &expected);
        assert!(answer.headers().contains_key("x-request-id"));
    }
    let line = proxy.access_line_of("/post");
    assert_eq!(line["protocol"], "HTTP/2");
    assert_eq!(line["host"], "test");
    let request = origin.saw(|request| request.target() == "/post");
    assert_eq!(request.header("host").as_deref(), Some("test"));
}

#[test]
fn http2_is_only_spoken_where_the_listener_says_so() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).listener("").start();
    let mut client = proxy.client();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(client.response().status, 400);
    client.expect_closed();
}

#[test]
fn an_answer_is_passed_on_as_it_comes() {
    let framings = [
        (
            "transfer-encoding: chunked",
            "6\r\nfirst\n\r\n",
            "7\r\nsecond\n\r\n0\r\n\r\n",
        ),
        ("content-length: 13", "first\n", "second\n"),
    ];
    for (framing, first, second) in framings {
        let (go_on, waiting) = mpsc::channel::<()>();
        let waiting = std::sync::Mutex::new(Some(waiting));
        let origin = Origin::answering(move |_| {
            let waiting = waiting.lock().unwrap().take().unwrap();
            Answer::raw(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{first}")).then(
                move |stream| {
                    waiting.recv().unwrap();
                    stream.write_all(second.as_bytes()).unwrap();
                },
            )
        });
        let proxy = Proxy::in_front_of(&origin).start();
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(client.read_head().unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(
            client.read_exact(first.len()),
            first.as_bytes(),
            "{framing}"
        );
        go_on.send(()).unwrap();
        assert_eq!(
            client.read_exact(second.len()),
            second.as_bytes(),
            "{framing}"
        );
    }
}

/// Answers that end before they are complete.
const CUT_SHORT: &[(&str, &str)] = &[
    (
        "with a length",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
    ),
    (
        "in chunks",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ),
    (
        "in a chunk",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nhalf",
    ),
];

#[test]
fn an_origin_that_dies_leaves_no_complete_answer() {
    for (name, bytes) in CUT_SHORT {
        let origin = Origin::answering(|_| Answer::raw(*bytes).then_close());
        let proxy = Proxy::in_front_of(&origin).start();
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        match client.try_response() {
            None => {}
            Some(response) if response.status == 502 => {}
            Some(response) => assert!(!response.complete, "{name}"),
        }
        let answers = exchange(proxy.address_of("http"), vec![get("/")]);
        match &answers[0] {
            Ok(answer) => assert_eq!(answer.status(), 502, "{name}"),
            Err(error) => assert!(error.is_reset() || error.is_io(), "{name}: {error}"),
        }
        let line = proxy.access_line(|line| line["protocol"] == "HTTP/1.1");
        assert!(
            line["aborted"] == true || line["status"] == 502,
            "{name}: {line}"
        );
        assert_eq!(line["reason"], "upstream_connection_lost", "{name}");
    }
}

#[test]
fn a_reset_is_not_the_end_of_an_answer_without_a_length() {
    let (go_on, waiting) = mpsc::channel::<()>();
    let waiting = std::sync::Mutex::new(Some(waiting));
    let origin = Origin::answering(move |_| {
        let waiting = waiting.lock().unwrap().take().unwrap();
        Answer::raw("HTTP/1.1 200 OK\r\n\r\nhalf").then(move |stream| {
            waiting.recv().unwrap();
            let linger = Some(std::time::Duration::ZERO);
            socket2::SockRef::from(&*stream).set_linger(linger).unwrap();
        })
    });
    let proxy = Proxy::in_front_of(&origin).start();
    let mut stream = proxy.client().sender();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    let mut chunk = [0; 4096];
    while !answer.contains("half") {
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
    }
    go_on.send(()).unwrap();
    let ended = stream.read(&mut chunk);
    let chunked = answer.to_ascii_lowercase().contains("chunked");
    // Either the framing shows that something is missing, or the connection breaks.
    match ended {
        Ok(0) => assert!(chunked, "{answer}"),
        Ok(count) => panic!("{:?}", String::from_utf8_lossy(&chunk[..count])),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn an_origin_that_closes_before_its_answer_is_502() {
    let origin = Origin::answering(|_| Answer::raw("").then_close());
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(client.response().status, 502);
    // A request that may have had its effect is not sent again.
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn an_answer_may_end_with_the_connection() {
    let origin =
        Origin::answering(|_| Answer::raw("HTTP/1.1 200 OK\r\n\r\nall of it").then_close());
    let proxy = Proxy::in_front_of(&origin).start();
    let response = proxy.get("/");
    assert_eq!(response.text(), "all of it");
    let answers = exchange(proxy.address_of("http"), vec![get("/")]);
    assert_eq!(answers[0].as_ref().unwrap().body(), "all of it");
}

#[test]
fn d13_a_client_that_goes_away_ends_its_request() {
    let (gone, noticed) = mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let origin = Origin::answering(move |_| {
        let gone = gone.lock().unwrap().clone();
        Answer::raw("").then(move |stream| {
            // The end of the connection, which the proxy has no more use for.
            let _ = stream.read(&mut [0]);
            gone.send(()).unwrap();
        })
    });
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client.send("GET /gone HTTP/1.1\r\nhost: a\r\n\r\n");
    origin.saw(|request| request.target() == "/gone");
    drop(client);
    noticed.recv_timeout(crate::harness::DEADLINE).unwrap();
    let line = proxy.access_line_of("/gone");
    assert_eq!(line["status"], 499);
    assert_eq!(line["reason"], "client_gone");
    eventually("no connection", || {
        (proxy.metric("portcullis_connections_open") == 0.0).then_some(())
    });
    proxy.wait_metric("portcullis_http_requests_in_flight", 0.0);
}

#[test]
fn informational_answers_pass() {
    let origin = Origin::answering(|_| {
        Answer::raw(
            "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        )
    });
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let hints = client.response();
    assert_eq!(
        (hints.status, hints.header("link")),
        (103, Some("</style.css>"))
    );
    assert_eq!(client.response().text(), "ok");
    assert_eq!(proxy.access_line_of("/")["status"], 200);
}

#[test]
fn hop_by_hop_fields_of_an_origin_stay_there() {
    let origin = Origin::answering(|_| {
        let headers = [
            ("connection", "x-own, keep-alive"),
            ("keep-alive", "timeout=5"),
            ("x-own", "1"),
            ("x-kept", "1"),
        ];
        Answer::with(200, &headers, b"ok")
    });
    let proxy = Proxy::in_front_of(&origin).start();
    let response = proxy.get("/");
    assert_eq!(response.header("x-kept"), Some("1"));
    assert_eq!(response.header("keep-alive"), None);
    assert_eq!(response.header_values("connection"), ["keep-alive"]);
    let answers = exchange(proxy.address_of("http"), vec![get("/")]);
    let headers = answers[0].as_ref().unwrap().headers();
    assert!(!headers.contains_key("connection"));
    assert!(!headers.contains_key("keep-alive"));
}
