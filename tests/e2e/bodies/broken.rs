//! Bodies that cannot be decoded, and bodies that end too early: what is refused, and that nothing looks complete.

use super::{
    Direction, Framing, MODES, body,
    codings::{Coding, FRAMINGS, Way},
    in_both_failure_modes, line_of, outcomes, post,
};
use crate::harness::{Answer, Http2Answer, Http2Origin, Origin, Proxy, TestAgent};
use serde_json::Value;
use std::sync::LazyLock;

/// A body that cannot be decoded.
struct Bad {
    name: &'static str,
    coding: &'static str,
    body: Vec<u8>,
    /// What the client gets for it.
    status: u16,
}

/// Making them takes a while.
static BAD_BODIES: LazyLock<Vec<Bad>> = LazyLock::new(bad_bodies);

fn bad_bodies() -> Vec<Bad> {
    let clear = body(3000);
    let gzip = Coding::Gzip.encode(&clear);
    let bad = |name, coding, body: Vec<u8>, status| Bad {
        name,
        coding,
        body,
        status,
    };
    let mut wrong = gzip.clone();
    // In the checksum.
    let at = wrong.len() - 8;
    wrong[at] ^= 1;
    let mut bodies = vec![
        bad("double", "gzip, gzip", Coding::Gzip.encode(&gzip), 415),
        bad("unknown", "compress", clear.clone(), 415),
        bad("truncated", "gzip", gzip[..gzip.len() - 9].to_vec(), 413),
        bad("goes-on", "gzip", [&gzip[..], b"more"].concat(), 413),
        bad("wrong-checksum", "gzip", wrong, 413),
    ];
    for coding in Coding::ALL {
        let bomb = coding.encode(&vec![0; 4 << 20]);
        bodies.push(bad("bomb", coding.name(), bomb, 413));
        let half = coding.encode(&clear);
        let half = half[..half.len() / 2].to_vec();
        bodies.push(bad("half", coding.name(), half, 413));
        bodies.push(bad("none", coding.name(), clear.clone(), 413));
    }
    bodies
}

#[test]
fn a_request_whose_body_cannot_be_decoded_is_refused_whatever_the_failure_mode() {
    for mode in MODES {
        let origin = Origin::start();
        let agent = TestAgent::named("waf").start();
        let proxy = in_both_failure_modes(&agent, &Direction::Request.inspect(mode, ""), &origin);
        for bad in BAD_BODIES.iter() {
            for failure_mode in ["closed", "open"] {
                for framing in FRAMINGS {
                    let path = format!("/{failure_mode}/{}/{}/{framing:?}", bad.name, bad.coding);
                    let path = path.replace(['(', ')', ' ', ','], "-");
                    let line = format!("content-encoding: {}", bad.coding);
                    let request = post(&path, &bad.body, framing, &[&line]);
                    let response = proxy.client().send(request).response();
                    let case = format!("{mode} {path}");
                    assert_eq!(response.status, bad.status, "{case}");
                    assert_undecodable(&proxy, Direction::Request, &path);
                }
            }
        }
        if mode == "buffer" {
            assert_eq!(origin.connections(), 0);
            assert_eq!(agent.seen("request_body_chunk"), Vec::<Value>::new());
        }
        assert!(origin.requests().iter().all(|request| !request.complete));
        proxy.wait_metric("portcullis_buffer_memory_used_bytes", 0.0);
    }
}

fn assert_undecodable(proxy: &Proxy, direction: Direction, path: &str) {
    let line = line_of(proxy, path);
    let expected = [("waf".to_owned(), "undecodable".to_owned())];
    assert_eq!(outcomes(&line, direction.name()), expected, "{line}");
    assert_eq!(line["reason"], "undecodable", "{line}");
}

#[test]
fn a_response_whose_body_cannot_be_decoded_is_refused_whatever_the_failure_mode() {
    for mode in MODES {
        let origin = Origin::answering(|request| {
            let target = request.target();
            let number = target.rsplit('/').next().unwrap();
            let bad = &BAD_BODIES[number.parse::<usize>().unwrap()];
            Answer::with(200, &[("content-encoding", bad.coding)], &bad.body)
        });
        let agent = TestAgent::named("waf").start();
        let proxy = in_both_failure_modes(&agent, &Direction::Response.inspect(mode, ""), &origin);
        for (number, bad) in BAD_BODIES.iter().enumerate() {
            for failure_mode in ["closed", "open"] {
                let path = format!("/{failure_mode}/{number}");
                let case = format!("{mode} {path} {} {}", bad.name, bad.coding);
                let mut client = proxy.client();
                client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
                let response = client.try_response();
                // The head of a stream may have gone.
                let is_cut = response.as_ref().is_none_or(|response| !response.complete);
                let status = response.map_or(0, |response| response.status);
                let may_be_cut = mode == "stream" && bad.status != 415;
                assert!(may_be_cut && is_cut || status == 502, "{case}: {status}");
                assert_undecodable(&proxy, Direction::Response, &path);
            }
        }
        if mode == "buffer" {
            assert_eq!(agent.seen("response_body_chunk"), Vec::<Value>::new());
        }
        proxy.wait_metric("portcullis_buffer_memory_used_bytes", 0.0);
    }
}

/// What is announced does not come.
#[test]
fn a_request_that_ends_early_is_never_complete() {
    let coded = Coding::Gzip.encode(&body(3000));
    let whole = post(
        "/short",
        &[&coded[..], b"more"].concat(),
        Framing::Length,
        &["content-encoding: gzip"],
    );
    let open = post(
        "/open",
        &coded,
        Framing::Chunks(100),
        &["content-encoding: gzip"],
    );
    for mode in MODES {
        let way = Way::new(Direction::Request, mode, "", "identity", b"");
        // Without the last four bytes, and without the chunk that ends it.
        for request in [&whole[..whole.len() - 4], &open[..open.len() - 5]] {
            let mut client = way.proxy.client();
            client.send(request).finish_sending();
            let response = client.try_response();
            assert!(
                response.is_none_or(|response| response.status >= 400),
                "{mode}"
            );
        }
        for path in ["/short", "/open"] {
            let line = line_of(&way.proxy, path);
            assert!(line["status"].as_u64().unwrap() >= 400, "{line}");
        }
        assert!(
            way.origin
                .requests()
                .iter()
                .all(|request| !request.complete)
        );
        if mode == "buffer" {
            assert_eq!(way.origin.connections(), 0);
            assert_eq!(way.seen(), Vec::<Value>::new());
        }
    }
}

#[test]
fn a_response_that_ends_early_is_never_complete() {
    let coded = Coding::Gzip.encode(&body(3000));
    let length = |announced: usize| {
        let mut bytes = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {announced}\r\n\r\n"
        )
        .into_bytes();
        bytes.extend_from_slice(&coded);
        bytes
    };
    let (short, long) = (length(coded.len() + 4), length(coded.len() - 4));
    let http1 = Origin::answering(move |request| {
        let bytes = match request.target().as_str() {
            "/short" => short.clone(),
            _ => long.clone(),
        };
        Answer::raw(bytes).then_close()
    });
    let http2 = Http2Origin::answering(move |_| {
        Http2Answer::with(200, &[("content-encoding", "gzip")], coded.clone()).cut()
    });
    for mode in MODES {
        let agent = TestAgent::named("waf").start();
        let upstream = format!("target \"{}\"; protocol \"h2c\"", http2.address());
        let proxy = Proxy::builder(
            r#"system { worker-threads 1 }
            routes {
                route "two" { match { path-prefix "/two" }; filters { agent "waf" }; upstream "two" }
                route "one" { filters { agent "waf" }; upstream "origin" }
            }"#,
        )
        .origin(&http1)
        .upstream("two", &upstream)
        .agent_with(&agent, &Direction::Response.inspect(mode, ""))
        .start();
        proxy.wait_ready();
        for path in ["/short", "/long", "/two"] {
            let mut client = proxy.client();
            client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
            let response = client.try_response();
            let is_cut = response.as_ref().is_none_or(|response| !response.complete);
            let status = response.map_or(0, |response| response.status);
            let is_told = mode == "stream" && is_cut || status == 502;
            assert!(is_told, "{mode} {path}: {status}");
        }
        if mode == "buffer" {
            assert_eq!(agent.seen("response_body_chunk"), Vec::<Value>::new());
        }
    }
}
