//! A shadow agent is asked what an enforced agent at its place would be asked.

use super::{everything, past, series, wait_up};
use crate::harness::{
    Answer, Origin, TestAgent,
    agent::{Phase, When},
    eventually,
};
use portcullis_agent_protocol::Decision;
use serde_json::{Value, json};

/// The events that an agent was told, without what differs from request to request and from agent to agent.
fn told(agent: &TestAgent) -> Vec<Value> {
    let mut record = agent.record();
    record.retain(|event| event["event"] != "configure");
    for event in &mut record {
        for name in [
            "correlation_id",
            "request_id",
            "budget_left_ms",
            "client_port",
            // An agent before it changes the length.
            "total_size",
        ] {
            event.as_object_mut().unwrap().remove(name);
        }
        let headers = event.get_mut("headers").and_then(Value::as_object_mut);
        if let Some(headers) = headers {
            headers.remove("x-request-id");
            headers.remove("x-forwarded-port");
        }
    }
    record.sort_by_key(|event| {
        let place = |name| event["event"] == name;
        let names = [
            "request_headers",
            "request_body_chunk",
            "response_headers",
            "response_body_chunk",
            "request_complete",
        ];
        (names.into_iter().position(place), event["index"].as_u64())
    });
    record
}

#[test]
fn a_shadow_agent_sees_what_an_enforced_one_at_its_place_sees() {
    let origin = Origin::answering(|request| match request.target().as_str() {
        "/chunked" => Answer::chunked(200, &[("x-a", "1")], b"some answer in pieces", 4),
        _ => Answer::with(200, &[("x-a", "1")], b"answer"),
    });
    for mode in ["buffer", "stream"] {
        for rest in ["", r#"agent "last""#] {
            let record = |shadow: &str| {
                let first = TestAgent::named("first")
                    .otherwise(Decision::allow().set_request_header("x-user", "alice"))
                    .then(
                        Phase::RequestBody,
                        When::Always,
                        crate::harness::agent::Reaction::Replace("<$DATA>".into()),
                    )
                    .start();
                let last = TestAgent::named("last")
                    .then(
                        Phase::ResponseBody,
                        When::Always,
                        crate::harness::agent::Reaction::Replace("{$DATA}".into()),
                    )
                    .start();
                let next = TestAgent::named("next").start();
                let filters = format!(
                    r#"agent "first"; request-headers {{ set "x-set" "1" }}; agent "next" {shadow}; request-headers {{ set "x-later" "1" }}; {rest}"#
                );
                let buffered = "timeout \"10s\"; inspect { request-headers; request-body \"buffer\"; response-body \"buffer\" }";
                let mut builder = past(&filters, &origin)
                    .agent_with(&first, buffered)
                    .agent_with(&next, &format!("timeout \"10s\"; {}", everything(mode)));
                if !rest.is_empty() {
                    builder = builder.agent_with(&last, buffered);
                }
                let proxy = builder.start();
                proxy.wait_ready();
                wait_up(&proxy, &next);
                for request in [
                    "GET / HTTP/1.1\r\nhost: test\r\n\r\n",
                    "POST /chunked HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello",
                ] {
                    assert_eq!(proxy.client().send(request).response().status, 200);
                }
                next.wait_seen("request_complete", 2);
                told(&next)
            };
            let enforced = record("");
            let shadow = record(r#"mode="shadow""#);
            let kinds = |told: &[Value]| -> Vec<Value> {
                told.iter().map(|event| event["event"].clone()).collect()
            };
            assert!(kinds(&enforced).contains(&json!("request_body_chunk")));
            assert!(kinds(&enforced).contains(&json!("response_body_chunk")));
            assert_eq!(shadow, enforced, "{mode} {rest}");
        }
    }
}

#[test]
fn coded_bodies_are_decoded_beside_the_request() {
    let gzip = {
        use flate2::{Compression, write::GzEncoder};
        use std::io::Write;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"a plain attack").unwrap();
        encoder.finish().unwrap()
    };
    let coded = gzip.clone();
    let origin =
        Origin::answering(move |_| Answer::with(200, &[("content-encoding", "gzip")], &coded));
    for mode in ["buffer", "stream"] {
        let next = TestAgent::named("next")
            .then(
                Phase::ResponseBody,
                When::Holds("attack".into()),
                Decision::block(403),
            )
            .start();
        let proxy = past(r#"agent "next" mode="shadow""#, &origin)
            .agent_with(
                &next,
                &format!("timeout \"10s\"; inspect {{ response-body \"{mode}\" }}"),
            )
            .start();
        wait_up(&proxy, &next);
        let response = proxy.get("/");
        assert_eq!(response.body, gzip);
        assert_eq!(response.header("content-encoding"), Some("gzip"));
        proxy.wait_metric(&series("block", "allow"), 1.0);
        assert_eq!(
            next.seen("response_body_chunk")[0]["data"],
            "a plain attack"
        );
    }
}

#[test]
fn in_parallel_a_shadow_agent_has_the_view_of_the_group() {
    let origin = Origin::start();
    let waf = TestAgent::named("waf")
        .otherwise(Decision::allow().set_request_header("x-waf", "1"))
        .on("/no", Decision::block(403))
        .start();
    let next = TestAgent::named("next").start();
    let filters = r#"parallel { agent "waf"; agent "next" mode="shadow" compare-with="waf" }"#;
    let proxy = past(filters, &origin).agent(&waf).agent(&next).start();
    proxy.wait_ready();
    wait_up(&proxy, &next);
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(proxy.get("/no").status, 403);
    proxy.wait_metric(&series("allow", "allow"), 1.0);
    proxy.wait_metric(&series("allow", "block"), 1.0);
    for told in next.requests() {
        assert_eq!(told["headers"]["x-waf"], Value::Null);
    }
    let line = proxy.access_line_of("/no");
    assert_eq!(line["blocked_by"], "waf");
    assert_eq!(line["agents"].as_array().unwrap().len(), 1, "{line}");
}

#[test]
fn behind_the_agent_it_is_compared_with_it_is_asked_about_refused_requests_too() {
    let origin = Origin::start();
    let waf = TestAgent::named("waf")
        .on("/no", Decision::block(403))
        .start();
    let next = TestAgent::named("next").start();
    let filters = r#"agent "waf"; agent "next" mode="shadow" compare-with="waf""#;
    let proxy = past(filters, &origin).agent(&waf).agent(&next).start();
    proxy.wait_ready();
    wait_up(&proxy, &next);
    assert_eq!(proxy.get("/no").status, 403);
    proxy.wait_metric(&series("allow", "block"), 1.0);
    assert_eq!(next.requests().len(), 1);
}

#[test]
fn what_is_in_by_then_is_in_the_log() {
    let origin = Origin::start();
    let waf = TestAgent::named("waf")
        .otherwise(crate::harness::agent::Reaction::late(&Decision::allow()))
        .start();
    let next = TestAgent::named("next")
        .otherwise(Decision::block(403).reason("rule:1"))
        .start();
    let filters = r#"agent "next" mode="shadow"; agent "waf""#;
    let proxy = past(filters, &origin).agent(&waf).agent(&next).start();
    proxy.wait_ready();
    wait_up(&proxy, &next);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| proxy.get("/"));
        next.wait_seen("request_headers", 1);
        waf.wait_seen("request_headers", 1);
        let in_flight = r#"portcullis_agent_in_flight{agent="next"}"#;
        eventually("answer of the shadow agent", || {
            (proxy.metric(in_flight) == 0.0).then_some(())
        });
        waf.release();
        assert_eq!(asking.join().unwrap().status, 200);
    });
    let line = proxy.access_line_of("/");
    let shadow = line["shadow"].as_array().unwrap();
    assert_eq!(shadow.len(), 1, "{line}");
    assert_eq!(shadow[0]["name"], "next");
    assert_eq!(shadow[0]["phase"], "request_headers");
    assert_eq!(shadow[0]["verdict"], "block");
    assert_eq!(shadow[0]["reason"], "rule:1");
    assert_eq!(line["agents"].as_array().unwrap().len(), 1, "{line}");
    // Questions are counted like any other's, and nothing was applied.
    let calls = r#"portcullis_agent_calls_total{agent="next",outcome="block"}"#;
    proxy.wait_metric(calls, 1.0);
}
