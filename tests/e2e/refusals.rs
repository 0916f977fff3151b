//! What is not a request that the proxy takes: malformed, ambiguous and forbidden heads, and bodies that break their framing.

use crate::harness::{Origin, Proxy};

/// Refused by Pingora's parser, before there is a request. The reason in the log is `malformed_request`.
const NOT_HTTP: &[(&str, &[u8])] = &[
    ("two hosts", b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n"),
    (
        "folded line",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n",
    ),
    (
        "space before colon",
        b"GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
    ),
    (
        "nul in value",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: y\0z\r\n\r\n",
    ),
    (
        "nul in name",
        b"GET / HTTP/1.1\r\nhost: a\r\nx\0: y\r\n\r\n",
    ),
    (
        "bare cr in value",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: y\rz\r\n\r\n",
    ),
    ("empty name", b"GET / HTTP/1.1\r\nhost: a\r\n: y\r\n\r\n"),
    ("no colon", b"GET / HTTP/1.1\r\nhost: a\r\nxy\r\n\r\n"),
    (
        "other host in target",
        b"GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n",
    ),
    ("user in host", b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n"),
    (
        "different lengths",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    ),
    (
        "length with plus",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
    ),
    (
        "length below zero",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\nhello",
    ),
    (
        "length in hex",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x5\r\n\r\nhello",
    ),
    (
        "length empty",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: \r\n\r\nhello",
    ),
    (
        "length too long",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    ),
    (
        "coding not chunked",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
    ),
    (
        "chunked not last",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n",
    ),
    (
        "coding unknown",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n",
    ),
    (
        "coding in HTTP/1.0",
        b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "TLS",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ),
    ("a word", b"hello\r\n\r\n"),
    ("HTTP/0.9", b"GET /\r\n\r\n"),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nhost: a\r\n\r\n"),
    ("HTTP/2.0 in text", b"GET / HTTP/2.0\r\nhost: a\r\n\r\n"),
    ("half a preface", b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n"),
    ("tabs", b"GET\t/\tHTTP/1.1\r\nhost: a\r\n\r\n"),
    ("leading space", b" GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
    (
        "space behind version",
        b"GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
    ),
    ("method no token", b"G@T / HTTP/1.1\r\nhost: a\r\n\r\n"),
];

/// Refused by the proxy's own checks, with this status and reason.
const REFUSED: &[(&str, &[u8], u16, &str)] = &[
    ("no host", b"GET / HTTP/1.1\r\n\r\n", 400, "missing_host"),
    ("empty host", b"GET / HTTP/1.1\r\nhost:\r\n\r\n", 400, "missing_host"),
    ("space in host", b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400, "invalid_host"),
    ("slash in host", b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400, "invalid_host"),
    ("port no number", b"GET / HTTP/1.1\r\nhost: a:b\r\n\r\n", 400, "invalid_host"),
    ("lf behind request line", b"GET / HTTP/1.1\nhost: a\r\n\r\n", 400, "bare_lf_in_head"),
    ("lf behind header", b"GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", 400, "bare_lf_in_head"),
    ("lf as empty line", b"GET / HTTP/1.1\r\nhost: a\r\n\n", 400, "bare_lf_in_head"),
    ("lf everywhere", b"GET / HTTP/1.1\nhost: a\n\n", 400, "bare_lf_in_head"),
    ("chunked and length", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400, "content_length_with_transfer_encoding"),
    ("length and chunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400, "content_length_with_transfer_encoding"),
    ("chunked twice", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400, "invalid_transfer_encoding"),
    ("gzip and chunked", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        400, "invalid_transfer_encoding"),
    ("length twice", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        400, "invalid_content_length"),
    ("length list", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\nhello", 400, "invalid_content_length"),
    ("TRACE", b"TRACE / HTTP/1.1\r\nhost: a\r\n\r\n", 405, "method_not_allowed"),
    ("TRACK", b"TRACK / HTTP/1.1\r\nhost: a\r\n\r\n", 405, "method_not_allowed"),
    ("method in lower case", b"get / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "method_in_lower_case"),
    ("method in both cases", b"Delete / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "method_in_lower_case"),
    ("path not absolute", b"GET x HTTP/1.1\r\nhost: a\r\n\r\n", 400, "path_not_absolute"),
    ("star without OPTIONS", b"GET * HTTP/1.1\r\nhost: a\r\n\r\n", 400, "path_not_absolute"),
    ("target without path", b"GET http://a?x HTTP/1.1\r\nhost: a\r\n\r\n", 400, "path_not_absolute"),
    ("scheme of its own", b"GET ftp://a/x HTTP/1.1\r\nhost: a\r\n\r\n", 400, "path_not_absolute"),
    ("encoded slash", b"GET /%2f HTTP/1.1\r\nhost: a\r\n\r\n", 400, "encoded_slash_in_path"),
];

#[test]
fn what_is_not_http_is_refused() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    for (name, request) in NOT_HTTP {
        let mut client = proxy.client();
        let response = client.send(request).response();
        assert_eq!(response.status, 400, "{name}");
        assert_eq!(response.header("connection"), Some("close"), "{name}");
        client.expect_closed();
    }
    assert_eq!(origin.connections(), 0);
    let refused = r#"portcullis_http_refused_total{listener="http",reason="malformed_request"}"#;
    proxy.wait_metric(refused, NOT_HTTP.len() as f64);
    proxy.access_line(|line| line["reason"] == "malformed_request" && line["status"] == 400);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    for (name, request, status, reason) in REFUSED {
        let mut client = proxy.client();
        let response = client.send(request).response();
        assert_eq!(response.status, *status, "{name}");
        assert_eq!(response.header("connection"), Some("close"), "{name}");
        // Whoever asks about a refusal has something to look for in the log.
        let id = response.header("x-request-id").unwrap().to_owned();
        assert!(response.text().contains(&id), "{name}");
        client.expect_closed();
        let line = proxy.access_line(|line| line["request_id"] == id.as_str());
        assert_eq!(line["reason"], *reason, "{name}");
        assert_eq!(line["status"], *status, "{name}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn connect_is_refused() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client.send("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n");
    assert_eq!(client.response().status, 405);
    client.expect_closed();
    assert_eq!(origin.connections(), 0);
    proxy.access_line(|line| line["reason"] == "method_not_allowed");
}

#[test]
fn a_refused_method_names_those_that_are_allowed() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client.send("TRACE / HTTP/1.1\r\nhost: a\r\n\r\n");
    let response = client.response();
    let allowed = response.header("allow").unwrap();
    assert!(allowed.contains("GET") && !allowed.contains("TRACE"));
}

#[test]
fn what_follows_a_refused_head_is_not_read() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let hidden = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";
    for (name, request) in NOT_HTTP {
        let mut client = proxy.client();
        client.send([request, hidden.as_bytes()].concat());
        assert_eq!(client.response().status, 400, "{name}");
        client.expect_closed();
    }
    for (name, request, status, _) in REFUSED {
        let mut client = proxy.client();
        client.send([request, hidden.as_bytes()].concat());
        assert_eq!(client.response().status, *status, "{name}");
        client.expect_closed();
    }
    assert_eq!(origin.connections(), 0);
}

/// The origin may have seen a part of such a request, but never a whole one.
#[test]
fn a_body_that_breaks_its_framing_is_never_complete() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    for (name, body) in [
        ("size no number", "xyz\r\n\r\n"),
        ("size below zero", "-1\r\n\r\n"),
        ("size with prefix", "0x1\r\nx\r\n0\r\n\r\n"),
        ("size too large", "fffffffffffffffff\r\nxy\r\n0\r\n\r\n"),
        ("lf instead of crlf", "1\nx\n0\n\n"),
        ("longer than its size", "1\r\nxy\r\n0\r\n\r\n"),
    ] {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        let response = client.send(body).response();
        assert_eq!(response.status, 400, "{name}");
        assert_eq!(response.header("connection"), Some("close"), "{name}");
        client.expect_closed();
        let id = response.header("x-request-id").unwrap().to_owned();
        let line = proxy.access_line(|line| line["request_id"] == id.as_str());
        assert_eq!(line["reason"], "malformed_request", "{name}");
    }
    assert!(origin.requests().iter().all(|request| !request.complete));
}

#[test]
fn http2_is_held_to_the_same_rules() {
    use crate::harness::http2::{exchange, get, request};
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let trace = request("TRACE", "/", "".into());
    let lower = request("delete", "/", "".into());
    let requests = vec![trace, lower, get("/%00"), get("/a%5cb"), get("/ok")];
    let statuses: Vec<u16> = exchange(proxy.address_of("http"), requests)
        .into_iter()
        .map(|answer| answer.unwrap().status().as_u16())
        .collect();
    assert_eq!(statuses, [405, 400, 400, 400, 200]);
    assert_eq!(origin.requests().len(), 1);
}
