//! Bodies: how they are shown, and what becomes of them.

use super::{all_gone, through};
use crate::harness::{
    Answer, Origin, Proxy, RawClient, Response, eventually,
    ext_proc::{ExtProcAgent, answer, body, header, part, pass, replacing, set, setting},
    http2_origin::{Http2Answer, Http2Origin},
};
use portcullis_agent_protocol::ext_proc::messages::{
    BodyMutation, CONTINUE_AND_REPLACE, CommonResponse, Mutation, ProcessingRequest, Told,
};

const BUFFER: &str = r#"inspect { request-headers; request-body "buffer" }"#;
const STREAM: &str = r#"inspect { request-headers; request-body "stream" }"#;

/// Passes heads, and does this to bodies of requests.
fn to_bodies(common: impl Fn(&[u8]) -> CommonResponse + Send + Sync + 'static) -> ExtProcAgent {
    ExtProcAgent::start(move |told| match body(told) {
        Some(data) => answer(told, common(data)).into(),
        None => pass(told).into(),
    })
}

fn post(client: &mut RawClient, path: &str, body: &str) -> Response {
    let length = body.len();
    client
        .send(format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .response()
}

/// The pieces that the agent was shown, and whether each was the last.
fn pieces(agent: &ExtProcAgent) -> Vec<(usize, bool)> {
    let told = agent.told();
    let pieces = told.iter().filter_map(|told| match &told.request {
        Some(Told::RequestBody(body) | Told::ResponseBody(body)) => {
            Some((body.body.len(), body.end_of_stream))
        }
        _ => None,
    });
    pieces.collect()
}

#[test]
fn a_buffered_body_is_one_message_however_large() {
    let agent = ExtProcAgent::passing();
    let origin = Origin::start();
    let settings = r#"inspect { request-headers; request-body "buffer" limit="12MiB" }"#;
    // The agent's own limit is that of most servers.
    let proxy = through(&agent, settings, &origin);
    let large = "x".repeat(3 << 20);
    assert_eq!(post(&mut proxy.client(), "/", &large).status, 200);
    assert_eq!(pieces(&agent), [(3 << 20, true)]);
    assert_eq!(agent.parts(), ["request_headers", "request_body"]);
    let config = agent.told()[0].protocol_config.unwrap();
    assert_eq!(config.request_body_mode, 2);
    assert_eq!(origin.last().body, large.as_bytes());
    all_gone(&proxy, &agent);
}

#[test]
fn a_body_that_is_replaced_has_the_right_length() {
    let with_length = |body: &str, length: &str| CommonResponse {
        header_mutation: setting(vec![set("content-length", length)]).header_mutation,
        ..replacing(body)
    };
    let cleared = CommonResponse {
        body_mutation: Some(BodyMutation {
            mutation: Some(Mutation::ClearBody(true)),
        }),
        ..CommonResponse::default()
    };
    // What the agent says of the length makes no difference, be it right or wrong.
    for (common, expected) in [
        (replacing("longer than before"), "longer than before"),
        (replacing("s"), "s"),
        (with_length("new", "3"), "new"),
        (with_length("new", "300"), "new"),
        (cleared, ""),
    ] {
        for settings in [BUFFER.to_owned(), format!("{BUFFER}; strict")] {
            let common = common.clone();
            let agent = to_bodies(move |_| common.clone());
            let origin = Origin::start();
            let proxy = through(&agent, &settings, &origin);
            assert_eq!(post(&mut proxy.client(), "/", "before").status, 200);
            let request = origin.last();
            assert_eq!(String::from_utf8(request.body.clone()).unwrap(), expected);
            assert_eq!(
                request.header("content-length"),
                Some(expected.len().to_string())
            );
            assert_eq!(proxy.metric(super::REJECTED), 0.0);
        }
    }
}

#[test]
fn a_body_over_the_limit_is_for_the_operator_to_decide_and_never_for_the_failure_mode() {
    let origin = Origin::start();
    for (on_oversize, status, expected) in [
        ("fail", 413, vec![]),
        ("skip", 200, vec![]),
        ("truncate", 200, vec![(4, false)]),
    ] {
        for path in ["/closed", "/open"] {
            let agent = ExtProcAgent::passing();
            let settings = format!(
                r#"inspect {{ request-headers; request-body "buffer" limit="4B" on-oversize="{on_oversize}" }}"#
            );
            let proxy = through(&agent, &settings, &origin);
            let response = post(&mut proxy.client(), path, "12345");
            assert_eq!(response.status, status, "{on_oversize} {path}");
            assert_eq!(pieces(&agent), expected, "{on_oversize} {path}");
            all_gone(&proxy, &agent);
        }
    }
}

#[test]
fn a_streamed_body_comes_in_pieces_of_32_kibibytes_and_may_have_an_empty_end() {
    let agent = ExtProcAgent::passing();
    let origin = Origin::start();
    let proxy = through(&agent, STREAM, &origin);
    let body = "0123456789".repeat(10_000);
    assert_eq!(post(&mut proxy.client(), "/", &body).status, 200);
    let shown = pieces(&agent);
    assert!(shown.len() >= 4, "{shown:?}");
    assert!(shown.iter().all(|(size, _)| *size <= 32 << 10), "{shown:?}");
    assert_eq!(
        shown.iter().map(|(size, _)| size).sum::<usize>(),
        body.len()
    );
    let ends: Vec<bool> = shown.iter().map(|(_, ends)| *ends).collect();
    assert_eq!(ends.iter().position(|ends| *ends), Some(ends.len() - 1));
    assert_eq!(origin.last().body, body.as_bytes());
    // Nobody knows the end of chunks before it comes.
    let mut client = proxy.client();
    client.send(
        "POST /chunks HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    );
    origin.saw(|request| request.target() != "/chunks");
    let seen = |told: &ProcessingRequest| header(told, ":path").as_deref() == Some("/chunks");
    eventually("the first piece", || {
        let streams = agent.streams();
        let ours = streams
            .iter()
            .find(|stream| stream.told.first().is_some_and(seen))?;
        (ours.told.len() == 2).then_some(())
    });
    client.send("0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let last = agent.streams().pop().unwrap();
    let shown: Vec<_> = last
        .told
        .iter()
        .filter_map(|told| match &told.request {
            Some(Told::RequestBody(body)) => Some((body.body.clone(), body.end_of_stream)),
            _ => None,
        })
        .collect();
    assert_eq!(shown, [("abc".into(), false), ("".into(), true)]);
    all_gone(&proxy, &agent);
}

#[test]
fn pieces_are_replaced_and_dropped() {
    let agent = to_bodies(|data| match data {
        b"drop" => replacing(""),
        data => replacing(&String::from_utf8_lossy(data).to_uppercase()),
    });
    let origin = Origin::start();
    let proxy = through(&agent, STREAM, &origin);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
    for (number, piece) in ["keep", "drop", "this"].iter().enumerate() {
        client.send(format!("4\r\n{piece}\r\n"));
        eventually("a piece", || (pieces(&agent).len() > number).then_some(()));
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.last().body, b"KEEPTHIS");
}

#[test]
fn bodies_of_responses_are_shown_with_their_trailers() {
    let agent = ExtProcAgent::passing();
    let origin = Http2Origin::answering(|_| {
        Http2Answer::with(200, &[], "hello").with_trailers(&[("x-sum", "5"), ("x-more", "1")])
    });
    let settings =
        r#"timeout "5s"; inspect { response-body "stream" }; ext-proc { response-trailers }"#;
    let target = format!("target \"{}\"; protocol \"h2c\"", origin.address());
    let proxy =
        Proxy::builder(r#"routes { route "all" { filters { agent "p" }; upstream "h2" } }"#)
            .upstream("h2", &target)
            .agent_block("p", &agent.block(settings))
            .start();
    proxy.wait_ready();
    assert_eq!(proxy.get("/").body, b"hello");
    let told = agent.told();
    let parts: Vec<_> = told.iter().map(part).collect();
    assert_eq!(parts.last(), Some(&"response_trailers"), "{parts:?}");
    assert_eq!(header(told.last().unwrap(), "x-sum").as_deref(), Some("5"));
    let ends = pieces(&agent).iter().any(|(_, ends)| *ends);
    assert!(!ends, "the end is that of the trailers");
    all_gone(&proxy, &agent);
}

#[test]
fn a_body_of_a_response_is_replaced_before_its_head_has_gone() {
    let agent = ExtProcAgent::start(|told| match &told.request {
        Some(Told::ResponseBody(_)) => {
            let common = CommonResponse {
                header_mutation: setting(vec![set("x-judged", "yes")]).header_mutation,
                ..replacing("other")
            };
            answer(told, common).into()
        }
        _ => pass(told).into(),
    });
    let origin = Origin::answering(|_| Answer::with(200, &[("etag", "\"1\"")], b"original body"));
    let proxy = through(&agent, r#"inspect { response-body "buffer" }"#, &origin);
    let response = proxy.get("/");
    assert_eq!(response.body, b"other");
    let value = |wanted: &str| {
        let mut headers = response.headers.iter();
        headers
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.clone())
    };
    assert_eq!(value("content-length").as_deref(), Some("5"));
    assert_eq!(value("x-judged").as_deref(), Some("yes"));
    assert_eq!(value("etag"), None);
}

#[test]
fn continue_and_replace_takes_the_place_of_a_body_that_is_never_shown() {
    let replaces = || {
        ExtProcAgent::start(|told| match &told.request {
            Some(Told::RequestHeaders(_)) => {
                let common = CommonResponse {
                    status: CONTINUE_AND_REPLACE,
                    header_mutation: setting(vec![set("x-replaced", "yes")]).header_mutation,
                    ..replacing("a new body")
                };
                answer(told, common).into()
            }
            _ => pass(told).into(),
        })
    };
    let origin = Origin::start();
    for settings in [BUFFER, STREAM] {
        let agent = replaces();
        let proxy = through(&agent, settings, &origin);
        assert_eq!(post(&mut proxy.client(), "/", "the original").status, 200);
        let request = origin.last();
        assert_eq!(request.body, b"a new body");
        assert!(request.complete);
        assert_eq!(request.header("x-replaced").as_deref(), Some("yes"));
        assert_eq!(agent.parts(), ["request_headers"]);
        all_gone(&proxy, &agent);
    }
    // There is nothing to be replaced of an agent that inspects no body, or of a request without one.
    let agent = replaces();
    let proxy = through(&agent, "", &origin);
    assert_eq!(post(&mut proxy.client(), "/", "x").status, 502);
    let agent = replaces();
    let proxy = through(&agent, BUFFER, &origin);
    assert_eq!(proxy.get("/").status, 502);
}

#[test]
fn a_streamed_body_keeps_its_length_where_nobody_may_change_it() {
    const READS: &str = r#"inspect { request-body "stream" read-only=#true; response-body "stream" read-only=#true }"#;
    const WATCHES: &str = r#"failure-mode "open"; inspect { request-body "stream"; response-body "stream" }; ext-proc { observability }"#;
    const CHANGES: &str = r#"inspect { request-body "stream"; response-body "stream" }"#;
    let origin = Origin::answering(|_| Answer::ok("response"));
    for (settings, keeps) in [(READS, true), (WATCHES, true), (CHANGES, false)] {
        let agent = ExtProcAgent::passing();
        let proxy = through(&agent, settings, &origin);
        let response = post(&mut proxy.client(), "/", "body");
        assert_eq!(
            (response.status, response.body.as_slice()),
            (200, &b"response"[..])
        );
        let length = response
            .headers
            .iter()
            .find(|(name, _)| name == "content-length");
        assert_eq!(length.is_some(), keeps, "{settings}");
        let request = origin.last();
        assert_eq!(
            request.header("content-length").is_some(),
            keeps,
            "{settings}"
        );
        assert_eq!(request.body, b"body");
        all_gone(&proxy, &agent);
    }
    let agent = to_bodies(|_| replacing("longer than it was"));
    let proxy = through(&agent, READS, &origin);
    origin.take();
    assert_eq!(post(&mut proxy.client(), "/", "body").status, 502);
    let line = proxy.access_line(|line| line["status"] == 502);
    assert_eq!(line["agents"][0]["failure"], "protocol_error", "{line}");
}
