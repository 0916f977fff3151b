//! `compress`.

use super::past;
use crate::harness::{
    Answer, Http2Answer, Http2Origin, Origin, Proxy, Response, TestAgent, http2, origin::Recorded,
};
use std::{
    io::{Read, Write},
    sync::mpsc,
};

/// A text that becomes smaller.
fn text() -> String {
    (0..400)
        .map(|line| format!("line {line} of a text\n"))
        .collect()
}

fn decoded(response: &Response) -> Vec<u8> {
    assert!(response.complete);
    let mut plain = Vec::new();
    let body = &response.body[..];
    match response.header("content-encoding") {
        Some("gzip") => flate2::read::GzDecoder::new(body).read_to_end(&mut plain),
        Some("br") => brotli::Decompressor::new(body, 4096).read_to_end(&mut plain),
        Some("zstd") => zstd::Decoder::new(body).unwrap().read_to_end(&mut plain),
        Some(other) => panic!("{other}"),
        None => Ok(plain.write(body).unwrap()),
    }
    .unwrap();
    plain
}

type Lines = &'static [(&'static str, &'static str)];

fn serving(headers: Lines) -> Origin {
    Origin::answering(move |request: &Recorded| {
        let (text, target) = (text(), request.target());
        match target.as_str() {
            "/chunked" => Answer::chunked(200, headers, text.as_bytes(), 1000),
            "/close" => {
                let mut head = "HTTP/1.1 200 OK\r\n".to_owned();
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                Answer::raw(format!("{head}\r\n{text}")).then_close()
            }
            "/empty" => Answer::with(200, headers, b""),
            "/404" => Answer::with(404, headers, text.as_bytes()),
            _ => Answer::with(200, headers, text.as_bytes()),
        }
    })
}

fn accepting(proxy: &Proxy, path: &str, accept: &str) -> Response {
    proxy.get_with(path, &[&format!("accept-encoding: {accept}")])
}

const HTML: Lines = &[("content-type", "text/html"), ("etag", "\"v1\"")];

#[test]
fn responses_have_the_coding_that_the_client_likes_best() {
    let origin = serving(HTML);
    let proxy = past("compress", &origin).start();
    let all = [
        ("gzip, br, zstd", Some("zstd")),
        ("gzip, br", Some("br")),
        ("gzip", Some("gzip")),
        ("gzip, br;q=0.5", Some("gzip")),
        ("gzip;q=0", None),
        ("identity", None),
    ];
    for (accept, coding) in all {
        for path in ["/", "/chunked", "/close", "/404"] {
            let response = accepting(&proxy, path, accept);
            let status = if path == "/404" { 404 } else { 200 };
            assert_eq!(response.status, status);
            assert_eq!(
                response.header("content-encoding"),
                coding,
                "{accept} {path}"
            );
            assert_eq!(
                response.header("vary"),
                Some("accept-encoding"),
                "{accept} {path}"
            );
            let tag = if coding.is_some() {
                "W/\"v1\""
            } else {
                "\"v1\""
            };
            assert_eq!(response.header("etag"), Some(tag), "{accept} {path}");
            if coding.is_some() || path != "/close" {
                assert_eq!(decoded(&response), text().as_bytes(), "{accept} {path}");
            }
            if coding.is_some() {
                assert_eq!(response.header("content-length"), None);
                assert!(response.body.len() < text().len() / 2, "{accept} {path}");
            }
        }
    }
    let silent = proxy.get("/");
    assert_eq!(silent.header("content-encoding"), None);
    assert_eq!(silent.header("vary"), Some("accept-encoding"));
}

#[test]
fn what_is_not_to_be_compressed_goes_as_it_is() {
    let cases: [(&str, Lines, &str); 8] = [
        ("", &[("content-type", "image/png")], "/"),
        ("", &[], "/"),
        (
            "",
            &[("content-type", "text/html"), ("content-encoding", "x-own")],
            "/",
        ),
        (
            "",
            &[
                ("content-type", "text/html"),
                ("cache-control", "no-transform"),
            ],
            "/",
        ),
        ("", HTML, "/empty"),
        (r#"min-size="1MiB""#, HTML, "/"),
        (r#"{ types "application/json" }"#, HTML, "/"),
        (r#"{ algorithms "br" "zstd" }"#, HTML, "/"),
    ];
    for (settings, headers, path) in cases {
        let origin = serving(headers);
        let proxy = past(&format!("compress {settings}"), &origin).start();
        let response = accepting(&proxy, path, "gzip");
        assert_ne!(
            response.header("content-encoding"),
            Some("gzip"),
            "{settings} {headers:?}"
        );
        let body = if path == "/empty" {
            String::new()
        } else {
            text()
        };
        assert_eq!(response.text(), body, "{settings} {headers:?}");
    }
}

#[test]
fn settings_say_what_and_how() {
    let origin = serving(&[("content-type", "application/vnd.own+json; charset=utf-8")]);
    let settings = r#"compress min-size="0B" {
        algorithms "gzip" "zstd"
        types "application/*+json"
        levels gzip=9 br=0 zstd=12
    }"#;
    let proxy = past(settings, &origin).start();
    let response = accepting(&proxy, "/", "zstd, gzip");
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert_eq!(decoded(&response), text().as_bytes());
    let fast = past(
        r#"compress { types "application/*"; levels gzip=1 }"#,
        &origin,
    )
    .start();
    let fast = accepting(&fast, "/", "gzip");
    assert_eq!(decoded(&fast), text().as_bytes());
    assert!(fast.body.len() > response.body.len());
}

#[test]
fn heads_parts_and_old_clients_are_left_alone() {
    let origin = serving(HTML);
    let proxy = past("compress", &origin).start();
    let mut client = proxy.client();
    client.send("HEAD / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n");
    let head = client.response_to_head();
    assert_eq!(head.header("content-encoding"), None);
    assert_eq!(head.header("vary"), Some("accept-encoding"));
    let old = proxy
        .client()
        .send("GET / HTTP/1.0\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n")
        .response();
    assert_eq!((old.header("content-encoding"), old.text()), (None, text()));
    let parts = Origin::answering(|_| {
        let headers = [
            ("content-type", "text/plain"),
            ("content-range", "bytes 0-9/900"),
        ];
        Answer::with(206, &headers, &[b'a'; 2000])
    });
    let proxy = past("compress", &parts).start();
    let part = accepting(&proxy, "/", "gzip");
    assert_eq!((part.status, part.header("content-encoding")), (206, None));
}

#[test]
fn events_are_not_held_back() {
    let (more, next) = mpsc::channel::<()>();
    let next = std::sync::Mutex::new(Some(next));
    let origin = Origin::answering(move |_| {
        let next = next.lock().unwrap().take().unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 0\n\n";
        Answer::raw(head).then(move |stream| {
            for number in 1..4 {
                next.recv().unwrap();
                write!(stream, "data: {number}\n\n").unwrap();
            }
        })
    });
    let proxy = past("compress", &origin).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n");
    let head = client.read_head().unwrap().to_ascii_lowercase();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let (mut sent, mut plain) = (Vec::new(), Vec::new());
    for number in 0..4 {
        if number > 0 {
            more.send(()).unwrap();
        }
        plain.extend(format!("data: {number}\n\n").into_bytes());
        let mut read = vec![0; plain.len()];
        while flate2::read::GzDecoder::new(&sent[..])
            .read_exact(&mut read)
            .is_err()
        {
            let (chunk, is_whole) = client.read_chunk();
            assert!(is_whole);
            sent.extend(chunk);
        }
        assert_eq!(read, plain);
    }
}

#[test]
fn a_response_that_breaks_off_does_not_look_complete() {
    let origin = Origin::answering(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 90000\r\n\r\n";
        Answer::raw(format!("{head}{}", text())).then_close()
    });
    let proxy = past("compress", &origin).start();
    let response = accepting(&proxy, "/", "gzip");
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert!(!response.complete);
}

#[test]
fn agents_see_bodies_before_they_are_compressed() {
    let origin = serving(HTML);
    let agent = TestAgent::named("bodies").start();
    let inspect =
        r#"timeout "10s"; inspect { request-headers; response-body "buffer" limit="1MiB" }"#;
    for filters in [r#"compress; agent "bodies""#, r#"agent "bodies"; compress"#] {
        let proxy = past(filters, &origin).agent_with(&agent, inspect).start();
        proxy.wait_ready();
        let response = accepting(&proxy, "/", "br");
        assert_eq!(response.header("content-encoding"), Some("br"), "{filters}");
        assert_eq!(decoded(&response), text().as_bytes(), "{filters}");
    }
    assert!(agent.seen("response_body_chunk").len() >= 2);
}

#[test]
fn our_own_answers_and_clients_of_http2_are_served_too() {
    let body = "a ".repeat(1000);
    let kdl =
        format!(r#"routes {{ route "own" {{ filters {{ compress }}; respond 200 "{body}" }} }}"#);
    let proxy = Proxy::builder(kdl).start();
    let response = accepting(&proxy, "/", "gzip");
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert_eq!(decoded(&response), body.as_bytes());
    let mut request = http2::get("/");
    let gzip = http::HeaderValue::from_static("gzip");
    request.headers_mut().insert("accept-encoding", gzip);
    let client = http2::Client::connect(proxy.address_of("http")).unwrap();
    let response = client.ask(request).unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&response.body()[..])
        .read_to_string(&mut plain)
        .unwrap();
    assert_eq!(plain, body);
}

/// Trailers come behind the end of the body: where that is known before them, or where the client waits for them.
#[test]
fn trailers_pass_behind_a_compressed_body() {
    let body = text();
    let length = body.len().to_string();
    for (kind, has_length, waits, passes) in [
        ("text/plain", true, false, true),
        ("text/plain", true, true, true),
        ("text/plain", false, true, true),
        ("text/plain", false, false, false),
        // It is not compressed.
        ("application/grpc", false, true, true),
        ("application/grpc", false, false, true),
    ] {
        let (body, length) = (body.clone(), length.clone());
        let origin = Http2Origin::answering(move |_| {
            let mut headers = vec![("content-type", kind)];
            if has_length {
                headers.push(("content-length", &length));
            }
            Http2Answer::with(200, &headers, body.clone()).with_trailers(&[("x-checked", "yes")])
        });
        let target = format!("target \"{}\"; protocol \"h2c\"", origin.address());
        let kdl = r#"routes { route "all" { filters { compress }; upstream "app" } }"#;
        let proxy = Proxy::builder(kdl).upstream("app", &target).start();
        let mut request = http2::get("/");
        let gzip = http::HeaderValue::from_static("gzip");
        request.headers_mut().insert("accept-encoding", gzip);
        if waits {
            let trailers = http::HeaderValue::from_static("trailers");
            request.headers_mut().insert("te", trailers);
        }
        let client = http2::Client::connect(proxy.address_of("http")).unwrap();
        let response = client.ask(request).unwrap();
        let case = format!("{kind} {has_length} {waits}");
        let mut plain = Vec::new();
        match response.headers().get("content-encoding") {
            Some(_) => flate2::read::GzDecoder::new(&response.body()[..])
                .read_to_end(&mut plain)
                .unwrap(),
            None => plain.write(response.body()).unwrap(),
        };
        assert_eq!(plain, text().as_bytes(), "{case}");
        let is_compressed = response.headers().contains_key("content-encoding");
        assert_eq!(is_compressed, kind == "text/plain", "{case}");
        let trailers = response.extensions().get::<http2::Trailers>();
        let checked = trailers.is_some_and(|trailers| trailers.0["x-checked"] == "yes");
        assert_eq!(checked, passes, "{case}");
        // HTTP/1.1 has no place for them.
        let over_http1 = accepting(&proxy, "/", "gzip");
        assert_eq!(decoded(&over_http1), text().as_bytes(), "{case}");
    }
}
