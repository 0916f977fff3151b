//! How much and how slowly a client may send, and how often it may come.

use crate::harness::{Answer, Origin, Proxy, Response, eventually};
use std::time::{Duration, Instant};

/// Between the bytes of a client that dribbles. It is the test's subject, not a wait for something.
const DRIBBLE: Duration = Duration::from_millis(100);

/// A request with this head line and this many header lines of this size.
fn request(target: &str, lines: usize, line_bytes: usize) -> String {
    let mut text = format!("GET {target} HTTP/1.1\r\nhost: a\r\n");
    for number in 0..lines {
        let name = format!("x-{number}: ");
        let filler = "f".repeat(line_bytes.saturating_sub(name.len() + 2));
        text.push_str(&format!("{name}{filler}\r\n"));
    }
    text + "\r\n"
}

fn ask(proxy: &Proxy, request: &str) -> Response {
    proxy.client().send(request).response()
}

#[test]
fn long_targets_are_414() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"limits { uri-bytes "64B" }"#)
        .start();
    let longest = format!("/{}", "a".repeat(63));
    assert_eq!(ask(&proxy, &request(&longest, 0, 0)).status, 200);
    for extra in [1, 100, 4000] {
        let target = format!("{longest}{}", "b".repeat(extra));
        let response = ask(&proxy, &request(&target, 0, 0));
        assert_eq!(response.status, 414, "{extra}");
        assert_eq!(response.header("connection"), Some("close"));
    }
    assert_eq!(origin.requests().len(), 1);
    proxy.access_line(|line| line["status"] == 414 && line["reason"] == "uri_too_long");
}

#[test]
fn large_heads_are_431() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"limits { header-bytes "2KiB"; uri-bytes "1KiB" }"#)
        .start();
    assert_eq!(ask(&proxy, &request("/", 3, 500)).status, 200);
    // The second is larger than what is read at all.
    for (lines, bytes) in [(5, 500), (8, 500), (1, 100_000)] {
        let response = ask(&proxy, &request("/", lines, bytes));
        assert_eq!(response.status, 431, "{lines} lines of {bytes} bytes");
        assert_eq!(response.header("connection"), Some("close"));
    }
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn many_header_lines_are_431() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener("limits { header-count 10 }")
        .start();
    assert_eq!(ask(&proxy, &request("/", 9, 10)).status, 200);
    assert_eq!(ask(&proxy, &request("/", 10, 10)).status, 431);
    assert_eq!(ask(&proxy, &request("/", 200, 10)).status, 431);
    assert_eq!(origin.requests().len(), 1);
    proxy.access_line(|line| line["reason"] == "too_many_headers");
}

#[test]
fn a_head_that_never_ends_is_cut_at_its_size() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"limits { header-bytes "4KiB"; uri-bytes "1KiB" }"#)
        .start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n");
    // More than the proxy takes, but not more than fits on its way, so that the answer is not lost.
    for number in 0..60 {
        client.send(format!("x-{number}: {}\r\n", "f".repeat(90)));
    }
    assert_eq!(client.response().status, 431);
    client.expect_closed();
    assert_eq!(origin.connections(), 0);
    proxy.access_line(|line| line["reason"] == "request_header_too_large");
}

#[test]
fn d26_large_bodies_are_413() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"limits { body-bytes "1000B" }"#)
        .start();
    let post = |framing: &str, body: &str| {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n{body}");
        ask(&proxy, &head)
    };
    let fits = "b".repeat(1000);
    let chunks = |size: usize, count: usize| {
        let chunk = format!("{size:x}\r\n{}\r\n", "c".repeat(size));
        chunk.repeat(count) + "0\r\n\r\n"
    };
    assert_eq!(post("content-length: 1000", &fits).status, 200);
    let chunked = "transfer-encoding: chunked";
    assert_eq!(post(chunked, &chunks(500, 2)).status, 200);
    assert_eq!(origin.requests().len(), 2);
    assert!(origin.requests().iter().all(|request| request.complete));

    let announced = post("content-length: 1001", "");
    assert_eq!(announced.status, 413);
    assert_eq!(announced.header("connection"), Some("close"));
    // An announced body is refused before anything reaches the origin.
    assert_eq!(origin.requests().len(), 2);
    assert_eq!(post(chunked, &chunks(501, 2)).status, 413);
    assert_eq!(post(chunked, &chunks(5000, 1)).status, 413);
    proxy.access_line(|line| line["reason"] == "request_body_too_large");
    // A body that counts itself reaches the origin in part only.
    let whole = origin
        .requests()
        .iter()
        .filter(|request| request.complete)
        .count();
    assert_eq!(whole, 2);
}

#[test]
fn d26_a_client_that_dribbles_its_head_is_cut_at_the_total_deadline() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"timeouts { request-header "500ms" }"#)
        .start();
    let mut client = proxy.client();
    let started = Instant::now();
    let head = b"GET / HTTP/1.1\r\nhost: a\r\nx-long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let mut sender = client.sender();
    let dribbler = std::thread::spawn(move || {
        for byte in head {
            if std::io::Write::write_all(&mut sender, &[*byte]).is_err() {
                return;
            }
            std::thread::sleep(DRIBBLE);
        }
    });
    let response = client.response();
    let took = started.elapsed();
    assert_eq!(response.status, 408);
    assert_eq!(response.header("connection"), Some("close"));
    assert!(took > Duration::from_millis(400), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    client.expect_closed();
    drop(client);
    dribbler.join().unwrap();
    assert_eq!(origin.connections(), 0);
    let line = proxy.access_line(|line| line["reason"] == "request_header_timeout");
    assert_eq!(line["status"], 408);
}

#[test]
fn the_deadline_holds_for_the_second_head_too() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"timeouts { request-header "300ms"; keepalive "60s" }"#)
        .start();
    let mut client = proxy.client();
    assert_eq!(client.get("/", &[]).status, 200);
    client.send("GET / HTTP/1.1\r\nhost:");
    assert_eq!(client.response().status, 408);
    client.expect_closed();
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"timeouts { request-header "300ms" }"#)
        .start();
    proxy.client().expect_closed();
    assert_eq!(proxy.access_lines(), Vec::<serde_json::Value>::new());
}

#[test]
fn a_kept_connection_is_closed_at_the_keepalive_deadline() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"timeouts { keepalive "300ms" }"#)
        .start();
    let mut client = proxy.client();
    let first = client.get("/", &[]);
    assert_eq!(first.header("connection"), Some("keep-alive"));
    assert_eq!(client.get("/", &[]).status, 200);
    let idle = Instant::now();
    client.expect_closed();
    let took = idle.elapsed();
    assert!(took > Duration::from_millis(200), "{took:?}");
}

#[test]
fn d26_a_body_that_stalls_is_given_up() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"timeouts { request-body-idle "300ms" }"#)
        .start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf");
    let response = client.response();
    assert_eq!(response.status, 408);
    assert_eq!(response.header("connection"), Some("close"));
    client.expect_closed();
    let seen = origin.saw(|request| request.body == b"half");
    assert!(!seen.complete);
    proxy.access_line(|line| line["reason"] == "request_body_timeout");
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let big = vec![b'b'; 64 << 20];
    let origin = Origin::answering(move |_| Answer::with(200, &[], &big));
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"timeouts { response-write "300ms" }"#)
        .start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let line = proxy.access_line(|line| line["status"] == 200);
    assert_eq!(line["aborted"], true);
    assert!(!client.response().complete);
}

#[test]
fn requests_per_connection_end_with_a_close() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener("limits { requests-per-connection 3 }")
        .start();
    let mut client = proxy.client();
    let connections: Vec<_> = (0..3)
        .map(|_| client.get("/", &[]).header("connection").map(str::to_owned))
        .collect();
    let expected = ["keep-alive", "keep-alive", "close"].map(|value| Some(value.to_owned()));
    assert_eq!(connections, expected);
    client.expect_closed();
}

#[test]
fn connections_of_one_client_are_limited() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener("limits { connections-per-client 2 }")
        .start();
    let mut first = proxy.client();
    let mut second = proxy.client();
    assert_eq!(first.get("/", &[]).status, 200);
    assert_eq!(second.get("/", &[]).status, 200);
    proxy.client().expect_closed();
    let rejected =
        r#"portcullis_connections_rejected_total{listener="http",reason="connections_per_client"}"#;
    proxy.wait_metric(rejected, 1.0);
    // The place of a connection that ended is free again.
    drop(first);
    eventually("a free place", || {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        client
            .try_response()
            .filter(|response| response.status == 200)
    });
    assert_eq!(second.get("/", &[]).status, 200);
}

#[test]
fn trusted_proxies_may_have_many_connections() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin)
        .listener(r#"limits { connections-per-client 1 }; trusted-proxies "127.0.0.0/8""#)
        .start();
    let mut clients: Vec<_> = (0..5).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/", &[]).status, 200);
    }
}

#[test]
fn connections_in_all_are_limited() {
    let origin = Origin::start();
    let proxy = Proxy::builder(
        r#"
        system { max-connections 2 }
        routes { route "all" { upstream "origin" } }
        "#,
    )
    .origin(&origin)
    .listener(r#"trusted-proxies "127.0.0.1""#)
    .start();
    let mut first = proxy.client();
    let mut second = proxy.client();
    assert_eq!(first.get("/", &[]).status, 200);
    assert_eq!(second.get("/", &[]).status, 200);
    proxy.client().expect_closed();
    let rejected =
        r#"portcullis_connections_rejected_total{listener="http",reason="max_connections"}"#;
    proxy.wait_metric(rejected, 1.0);
}
