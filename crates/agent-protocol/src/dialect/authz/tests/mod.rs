//! Questions, and what goes from one message to another.

mod answers;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use prost::Message;

use super::deferred::{Deferred, Shown};
use super::messages::CheckRequest;
use super::relay;
use super::{check, forward_auth};
use crate::header_name::HeaderNames;
use crate::{BodyChunk, ClientCertificate, HeaderOp, RequestHeaders, RequestMetadata, Verdict};

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    headers
}

fn head<'a>(method: &'a str, uri: &'a str, headers: &'a HeaderMap) -> RequestHeaders<'a> {
    RequestHeaders {
        metadata: RequestMetadata {
            correlation_id: "c-1",
            request_id: "r-1",
            client_ip: IpAddr::from([192, 0, 2, 7]),
            client_port: 4711,
            server_name: None,
            protocol: "HTTP/1.1",
            tls_version: None,
            tls_cipher: None,
            client_certificate: None,
            route_id: None,
            upstream_id: None,
            timestamp: UNIX_EPOCH + Duration::from_millis(1_500),
            traceparent: None,
        },
        method,
        uri,
        headers,
        budget_left: None,
    }
}

const CLIENT: &[(&str, &str)] = &[
    ("host", "shop.example.com"),
    ("x-forwarded-for", "192.0.2.7"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "shop.example.com"),
    ("cookie", "a=1"),
    ("cookie", "b=2"),
    ("accept", "text/html"),
    ("accept", "*/*"),
    ("content-length", "5"),
    ("connection", "x-hop, keep-alive"),
    ("x-hop", "1"),
    ("keep-alive", "5"),
    ("te", "trailers"),
    ("if-none-match", "\"x\""),
    ("range", "bytes=0-1"),
    ("x-original-url", "https://evil/"),
    ("x-forwarded-uri", "/evil"),
    ("x-envoy-auth-partial-body", "false"),
    ("x_original_uri", "/public"),
    ("x-original_url", "https://evil/public"),
    ("x_forwarded_for", "10.0.0.1"),
    ("x_envoy_auth_partial_body", "false"),
    ("x_envoy-auth-partial_body", "true"),
    ("content_length", "7"),
    ("transfer_encoding", "chunked"),
    ("if_none_match", "*"),
    ("x_own", "1"),
];

#[test]
fn d27_forward_auth_asks_about_the_request_and_not_for_the_resource() {
    let lines = headers(CLIENT);
    let told = forward_auth::told(&head("POST", "/cart?x=1", &lines));
    let expected = headers(&[
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example.com"),
        ("x-forwarded-method", "POST"),
        ("x-forwarded-uri", "/cart?x=1"),
        ("x-original-method", "POST"),
        ("x-original-uri", "/cart?x=1"),
        ("x-original-url", "https://shop.example.com/cart?x=1"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("accept", "text/html"),
        ("accept", "*/*"),
        ("x-envoy-auth-partial-body", "false"),
        ("x_envoy_auth_partial_body", "false"),
        ("x_envoy-auth-partial_body", "true"),
        ("x_own", "1"),
    ]);
    assert_eq!(told, expected);
    let few = headers(&[("host", "a")]);
    let told = forward_auth::told(&head("GET", "/", &few));
    assert_eq!(told["x-forwarded-for"], "192.0.2.7");
    assert_eq!(told["x-forwarded-proto"], "http");
}

#[test]
fn ext_authz_over_http_passes_the_request_on() {
    let lines = headers(CLIENT);
    let shown = Shown {
        data: Bytes::from("hello"),
        is_partial: true,
    };
    let table = [
        ("http://auth:9000/", None, "http://auth:9000/cart?x=1", "0"),
        (
            "http://auth:9000/check/",
            Some(shown),
            "http://auth:9000/check/cart?x=1",
            "5",
        ),
    ];
    for (url, shown, target, length) in table {
        let partial = shown.as_ref().map(|_| "true");
        let body = shown.clone().map(|shown| shown.data).unwrap_or_default();
        let url = url.parse().unwrap();
        let told = super::http::told(&url, &head("POST", "/cart?x=1", &lines), shown);
        assert_eq!(
            (told.method().as_str(), told.uri().to_string()),
            ("POST", target.to_owned())
        );
        assert_eq!(told.headers()["host"], "shop.example.com");
        assert_eq!(told.headers()["content-length"], length);
        let header = told.headers().get("x-envoy-auth-partial-body");
        assert_eq!(header.map(|it| it.to_str().unwrap()), partial);
        let gone = [
            "x-hop",
            "x_envoy_auth_partial_body",
            "x_envoy-auth-partial_body",
            "content_length",
            "transfer_encoding",
        ];
        for name in gone {
            assert!(!told.headers().contains_key(name), "{name}");
        }
        assert!(told.headers().contains_key("x_own"));
        assert!(!told.headers().contains_key("connection"));
        assert_eq!(*told.body(), body);
    }
}

#[test]
fn the_question_over_grpc_is_that_of_envoy() {
    let lines = headers(CLIENT);
    let context = BTreeMap::from([("tenant".to_owned(), "blue".to_owned())]);
    let mut head = head("POST", "/cart?x=1", &lines);
    head.metadata.client_certificate = Some(ClientCertificate {
        principal: "spiffe://example.com/app",
        fingerprint: "00",
    });
    let mut question = check::request(&head, &context);
    let shown = Shown {
        data: Bytes::from("hello"),
        is_partial: false,
    };
    check::add_body(&mut question, shown, false);
    // It survives the wire.
    let question = CheckRequest::decode(&question.encode_to_vec()[..]).unwrap();
    let attributes = question.attributes.unwrap();
    assert_eq!(attributes.context_extensions, context);
    let source = attributes.source.unwrap();
    assert_eq!(source.principal, "spiffe://example.com/app");
    let source = source.address.unwrap();
    let source = source.socket_address.unwrap();
    assert_eq!((&*source.address, source.port_value), ("192.0.2.7", 4711));
    let request = attributes.request.unwrap();
    let time = request.time.unwrap();
    assert_eq!((time.seconds, time.nanos), (1, 500_000_000));
    let http = request.http.unwrap();
    assert_eq!(
        (&*http.id, &*http.method, &*http.path),
        ("c-1", "POST", "/cart?x=1")
    );
    assert_eq!(
        (&*http.host, &*http.scheme, &*http.protocol),
        ("shop.example.com", "https", "HTTP/1.1")
    );
    assert_eq!(
        (http.size, &*http.body, http.raw_body.len()),
        (5, "hello", 0)
    );
    let header = |name: &str| http.headers.get(name).map(String::as_str);
    for (name, value) in [
        (":authority", Some("shop.example.com")),
        (":method", Some("POST")),
        (":path", Some("/cart?x=1")),
        (":scheme", Some("https")),
        ("host", None),
        ("cookie", Some("a=1; b=2")),
        ("accept", Some("text/html,*/*")),
        ("x-envoy-auth-partial-body", Some("false")),
    ] {
        assert_eq!(header(name), value, "{name}");
    }
}

#[test]
fn a_body_is_a_text_when_it_can_be_one() {
    let lines = HeaderMap::new();
    for (data, as_bytes, is_text) in [
        (&b"text"[..], false, true),
        (&b"text"[..], true, false),
        (&b"\xff\xfe"[..], false, false),
    ] {
        let mut question = check::request(&head("POST", "/", &lines), &BTreeMap::new());
        let shown = Shown {
            data: Bytes::from_static(data),
            is_partial: false,
        };
        check::add_body(&mut question, shown, as_bytes);
        let http = question.attributes.unwrap().request.unwrap().http.unwrap();
        assert_eq!(http.size, -1);
        assert_eq!(
            (http.body.is_empty(), http.raw_body.is_empty()),
            (!is_text, is_text)
        );
    }
}

#[test]
fn answers_over_http_are_copied_by_name_and_relayed_without_their_hop() {
    let answer = headers(&[
        ("x-user", "ann"),
        ("x-auth-group", "a"),
        ("x-auth-group", "b"),
        ("set-cookie", "s=1"),
        ("connection", "close, x-inner"),
        ("x-inner", "1"),
        ("transfer-encoding", "chunked"),
        ("content-type", "text/html"),
    ]);
    let names = HeaderNames::new(["X-User", "x-auth-*"]);
    let mut copied = relay::copied(&answer, &names).unwrap();
    copied.sort_by_key(|it| it.name().to_owned());
    let set = |name: &str, value: &str| HeaderOp::Set {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let add = |name: &str, value: &str| HeaderOp::Add {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    assert_eq!(
        copied,
        [
            set("x-auth-group", "a"),
            add("x-auth-group", "b"),
            set("x-user", "ann")
        ]
    );
    let cookies = relay::added(&answer, &HeaderNames::new(["set-cookie"])).unwrap();
    assert_eq!(cookies, [add("set-cookie", "s=1")]);
    let Verdict::Block {
        status,
        headers: kept,
        ..
    } = relay::relayed(302, &answer, Bytes::new()).verdict
    else {
        panic!();
    };
    let mut kept: Vec<&str> = kept.iter().map(|(name, _)| &**name).collect();
    kept.sort_unstable();
    assert_eq!(status, 302);
    assert_eq!(
        kept,
        [
            "content-type",
            "set-cookie",
            "x-auth-group",
            "x-auth-group",
            "x-user"
        ]
    );
    let mut odd = HeaderMap::new();
    odd.insert("x-user", HeaderValue::from_bytes(b"\xff").unwrap());
    assert!(relay::copied(&odd, &names).is_err());
}

#[test]
fn a_question_waits_for_its_body() {
    let piece = |data: &'static str, is_last, truncated| BodyChunk {
        correlation_id: "c",
        index: 0,
        data: Bytes::from(data),
        is_last,
        total_size: None,
        transferred: 0,
        truncated,
        trailers: None,
        budget_left: None,
    };
    let deferred = Deferred::new();
    assert_eq!(deferred.keep("c", 1), Some(1), "no body was announced");
    assert!(deferred.add(&piece("x", true, false)).is_err());
    deferred.announce("c");
    assert_eq!(deferred.keep("c", 2), None);
    assert_eq!(deferred.add(&piece("a", false, false)).unwrap(), None);
    let (question, shown) = deferred.add(&piece("b", true, true)).unwrap().unwrap();
    assert_eq!(
        (question, &shown.data[..], shown.is_partial),
        (2, &b"ab"[..], true)
    );
    assert!(
        deferred.add(&piece("x", true, false)).is_err(),
        "it was asked"
    );
    deferred.announce("c");
    deferred.forget("c");
    assert_eq!(deferred.keep("c", 3), Some(3));
}
