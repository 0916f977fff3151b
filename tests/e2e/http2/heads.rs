//! Heads of requests that are malformed (RFC 9113 section 8): the stream is reset or refused, and nobody behind the proxy sees
//! any of it.

use super::{
    Case,
    Expected::*,
    IN_PART, NEVER, case, check,
    transport::{Transport, over_every_transport},
};
use crate::harness::{Origin, Proxy, TestAgent, frames::*};

over_every_transport![
    malformed_requests_reach_nobody,
    heads_become_those_of_http1,
    a_fragment_is_seen_by_nobody,
    trailers_of_requests_are_seen_by_nobody,
    a_client_that_goes_on_like_this_loses_its_connection,
];

/// A whole request with these fields behind those that every request has.
fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    request(
        1,
        END_STREAM,
        &[head("GET", NEVER), fields.to_vec()].concat(),
    )
}

/// A whole request of these fields alone.
fn of(fields: &[(&str, &str)]) -> Vec<u8> {
    request(1, END_STREAM, fields)
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const HOST: (&str, &str) = (":authority", "test");
const PATH: (&str, &str) = (":path", NEVER);

/// A whole request for this target.
fn target(target: &str) -> Vec<u8> {
    of(&[METHOD, SCHEME, HOST, (":path", target)])
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let malformed = Reset(PROTOCOL_ERROR);
    let trailers =
        |fields: &[(&str, &str)], flags| vec![post(1, IN_PART), request(1, flags, fields)];
    let length = |length: &str| {
        request(
            1,
            0,
            &[head("POST", IN_PART), vec![("content-length", length)]].concat(),
        )
    };
    vec![
        // Pseudo-fields.
        case("no method", &[of(&[SCHEME, HOST, PATH])], malformed),
        case("no scheme", &[of(&[METHOD, HOST, PATH])], malformed),
        case("no path", &[of(&[METHOD, SCHEME, HOST])], malformed),
        case("an empty path", &[target("")], malformed),
        case("two methods", &[of(&[METHOD, METHOD, SCHEME, HOST, PATH])], malformed),
        case("two schemes", &[of(&[METHOD, SCHEME, SCHEME, HOST, PATH])], malformed),
        case("two paths", &[of(&[METHOD, SCHEME, HOST, PATH, PATH])], malformed),
        case("two authorities", &[of(&[METHOD, SCHEME, HOST, HOST, PATH])], malformed),
        case("one that nobody knows", &[of(&[METHOD, SCHEME, HOST, PATH, (":test", "1")])], malformed),
        case("one of a response", &[of(&[METHOD, SCHEME, HOST, PATH, (":status", "200")])], malformed),
        case("one behind a field", &[of(&[METHOD, SCHEME, HOST, ("x-a", "1"), PATH])], malformed),
        case("one of WebSocket", &[of(&[(":method", "CONNECT"), (":protocol", "websocket"), SCHEME, HOST, PATH])], malformed),
        case("a tunnel", &[of(&[(":method", "CONNECT"), (":authority", "test:80")])], Status(405)),
        case("a tunnel with a path", &[of(&[(":method", "CONNECT"), (":authority", "test:80"), SCHEME, PATH])], malformed),
        // Names and values.
        case("a name in capitals", &[with(&[("X-A", "1")])], malformed),
        case("a name with a space", &[with(&[("x a", "1")])], malformed),
        case("a name with a colon", &[with(&[("x:a", "1")])], malformed),
        case("a name with a line end", &[with(&[("x-a\r\nx-b", "1")])], malformed),
        case("no name", &[with(&[("", "1")])], malformed),
        case("a value with a line end", &[with(&[("x-a", "1\r\nx-b: 2")])], malformed),
        case("a value with LF", &[with(&[("x-a", "1\n2")])], malformed),
        case("a value with NUL", &[with(&[("x-a", "1\0")])], malformed),
        case("a value behind a space", &[with(&[("x-a", " 1")])], Status(400)),
        case("a value before a tab", &[with(&[("x-a", "1\t")])], Status(400)),
        // Fields of a connection.
        case("connection", &[with(&[("connection", "close")])], malformed),
        case("keep-alive", &[with(&[("keep-alive", "1")])], malformed),
        case("proxy-connection", &[with(&[("proxy-connection", "close")])], malformed),
        case("transfer-encoding", &[with(&[("transfer-encoding", "chunked")])], malformed),
        case("upgrade", &[with(&[("upgrade", "websocket")])], malformed),
        case("te for anything but trailers", &[with(&[("te", "trailers, deflate")])], malformed),
        // Who is asked.
        case("nobody", &[of(&[METHOD, SCHEME, PATH])], Status(400)),
        case("somebody else in the host", &[with(&[("host", "other")])], Status(400)),
        case("two hosts", &[of(&[METHOD, SCHEME, PATH, ("host", "a"), ("host", "a")])], Status(400)),
        case("a user", &[of(&[METHOD, SCHEME, (":authority", "me@test"), PATH])], Status(400)),
        case("a port that is none", &[of(&[METHOD, SCHEME, (":authority", "test:http"), PATH])], Status(400)),
        case("a host with a slash", &[of(&[METHOD, SCHEME, PATH, ("host", "a/b")])], Status(400)),
        // What is asked for.
        case("another scheme", &[of(&[METHOD, (":scheme", "ftp"), HOST, PATH])], Status(400)),
        case("a target with a host", &[target("http://test/never")], malformed),
        case("a target without a slash", &[target("never")], malformed),
        case("a space in a target", &[target("/never a")], malformed),
        case("a tab in a target", &[target("/never\ta")], malformed),
        case("a line end in a target", &[target("/never HTTP/1.1\r\nx: y")], malformed),
        case("a backslash in a target", &[target("/never\\a")], Status(400)),
        case("NUL in a target", &[target("/never%00")], Status(400)),
        case("a star", &[target("*")], Status(400)),
        case("a method in small letters", &[of(&[(":method", "get"), SCHEME, HOST, PATH])], Status(400)),
        case("a method that is no word", &[of(&[(":method", "G T"), SCHEME, HOST, PATH])], malformed),
        case("no letters of a method", &[of(&[(":method", ""), SCHEME, HOST, PATH])], malformed),
        case("TRACE", &[of(&[(":method", "TRACE"), SCHEME, HOST, PATH])], Status(405)),
        // How long a body is.
        case("less than its length", &[length("5"), frame(DATA, END_STREAM, 1, b"1234")], malformed),
        case("more than its length", &[length("5"), frame(DATA, END_STREAM, 1, b"123456")], malformed),
        case("a length and nothing", &[request(1, END_STREAM, &[head("POST", NEVER), vec![("content-length", "5")]].concat())], malformed),
        case("a length that is no number", &[length("x"), frame(DATA, END_STREAM, 1, b"1")], malformed),
        case("a length with a sign", &[length("+1"), frame(DATA, END_STREAM, 1, b"1")], malformed),
        case("two lengths", &[request(1, 0, &[head("POST", NEVER), vec![("content-length", "1"), ("content-length", "2")]].concat()), frame(DATA, END_STREAM, 1, b"1")], malformed),
        case("more than a body may have", &[length("109951162777600")], Status(413)),
        // Trailers.
        case("trailers that do not end the stream", &trailers(&[("x-a", "1")], 0), malformed),
        case("trailers in capitals", &trailers(&[("X-A", "1")], END_STREAM), malformed),
    ]
}

fn malformed_requests_reach_nobody(transport: Transport) {
    let cases = cases();
    assert!(cases.len() >= 55, "{}", cases.len());
    check(transport, &cases);
}

/// What HTTP/2 says in its own way, everybody behind the proxy is told as HTTP/1.1 has it.
fn heads_become_those_of_http1(transport: Transport) {
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let proxy = transport.start(
        Proxy::builder(r#"routes { route "all" { filters { agent "waf" }; upstream "origin" } }"#)
            .origin(&origin)
            .agent(&agent),
    );
    proxy.wait_ready();
    let mut client = proxy.connect();
    let fields = [
        head("GET", "/told?a=b"),
        vec![
            ("cookie", "a=1"),
            ("x-a", "1"),
            ("cookie", "b=2"),
            ("host", "test"),
            ("te", "trailers"),
        ],
    ];
    client.send(request(1, END_STREAM, &fields.concat()));
    assert_eq!(client.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
    let seen = origin.last();
    assert_eq!(seen.request_line(), "GET /told?a=b HTTP/1.1");
    assert_eq!(seen.header("host").as_deref(), Some("test"));
    assert_eq!(seen.header("cookie").as_deref(), Some("a=1; b=2"));
    assert_eq!(seen.header("via").as_deref(), Some("2.0 portcullis"));
    let told = agent.saw(|event| event["uri"] == "/told?a=b");
    assert_eq!(told["headers"]["host"], serde_json::json!(["test"]));
    assert_eq!(told["headers"]["cookie"], serde_json::json!(["a=1; b=2"]));
}

/// The library below us leaves out what follows the sign of a fragment before anybody is asked, so that all see one target.
fn a_fragment_is_seen_by_nobody(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    let mut client = proxy.connect();
    for (stream, sent, seen) in [(1, "/a#b/../c", "/a"), (3, "/a?b#c", "/a?b")] {
        let fields = [METHOD, SCHEME, HOST, (":path", sent)];
        client.send(request(stream, END_STREAM, &fields));
        assert_eq!(client.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
        assert_eq!(origin.last().target(), seen);
        proxy.access_line_of(seen);
    }
}

/// Trailers of requests go no further, whatever they say.
fn trailers_of_requests_are_seen_by_nobody(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    let mut client = proxy.connect();
    for (stream, field) in [(1, ("x-a", "1")), (3, (":path", "/other"))] {
        client.send(post(stream, "/trailers"));
        client.send(frame(DATA, 0, stream, b"hello"));
        client.send(request(stream, END_STREAM, &[field]));
        assert_eq!(client.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
        let seen = origin.last();
        assert_eq!(
            (seen.target(), &*seen.body),
            ("/trailers".to_owned(), &b"hello"[..])
        );
        assert_eq!(seen.header("x-a"), None);
    }
}

/// A connection on which nothing but malformed requests comes has an end.
fn a_client_that_goes_on_like_this_loses_its_connection(transport: Transport) {
    let proxy = transport.start(Proxy::builder(
        r#"routes { route "fixed" { respond 200 "ok" } }"#,
    ));
    let mut client = proxy.connect();
    for number in 0..32 {
        let fields = of(&[METHOD, SCHEME, PATH]);
        let mut fields = fields;
        fields[5..9].copy_from_slice(&(2 * number + 1_u32).to_be_bytes());
        client.send(fields);
    }
    assert_eq!(client.end(), Some(ENHANCE_YOUR_CALM));
    proxy.wait_metric(
        r#"portcullis_http_refused_total{listener="http",reason="malformed_request"}"#,
        32.0,
    );
}
