//! What an agent may ask not to be sent, agents that only watch, and requests that become something else.

use super::{REJECTED, all_gone, routes, through};
use crate::{
    harness::{
        Answer, Origin, eventually,
        ext_proc::{ExtProcAgent, Say, immediate, part, pass},
    },
    websocket::{UPGRADE, shouting},
};
use portcullis_agent_protocol::ext_proc::messages::{
    BUFFERED, NONE, ProcessingMode, SKIP, STREAMED, Told,
};
use std::time::{Duration, Instant};

const ALL: &str = r#"inspect { request-headers; request-body "buffer"; response-headers; response-body "stream" }"#;
const POST: &str = "POST /closed HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody";
const EVERYTHING: [&str; 4] = [
    "request_headers",
    "request_body",
    "response_headers",
    "response_body",
];

/// Lets everything pass, and asks for this when it sees the head of the request.
fn overriding(mode: ProcessingMode) -> ExtProcAgent {
    ExtProcAgent::start(move |told| {
        let mut response = pass(told);
        if let Some(Told::RequestHeaders(_)) = &told.request {
            response.mode_override = Some(mode);
        }
        response.into()
    })
}

/// What an agent is shown of a request that asks for this, each name once.
fn shown(mode: ProcessingMode, allowed: &str) -> (Vec<&'static str>, f64) {
    let agent = overriding(mode);
    let origin = Origin::answering(|_| Answer::ok("response"));
    let settings = match allowed {
        "" => ALL.to_owned(),
        allowed => format!("{ALL}; ext-proc {{ allow-mode-override {allowed} }}"),
    };
    let proxy = through(&agent, &settings, &origin);
    let response = proxy.client().send(POST).response();
    assert_eq!(
        (response.status, response.body.as_slice()),
        (200, &b"response"[..])
    );
    assert_eq!(origin.last().body, b"body");
    all_gone(&proxy, &agent);
    let mut parts = agent.parts();
    parts.dedup();
    assert_eq!(agent.streams().len(), 1);
    (parts, proxy.metric(REJECTED))
}

#[test]
fn an_agent_leaves_out_what_it_may() {
    let nothing_more = ProcessingMode {
        response_header_mode: SKIP,
        ..ProcessingMode::default()
    };
    let everything = r#""request-body" "response-headers" "response-body""#;
    assert_eq!(
        shown(nothing_more, everything),
        (vec!["request_headers"], 0.0)
    );
    let no_response = ProcessingMode {
        request_body_mode: BUFFERED,
        ..nothing_more
    };
    let parts = vec!["request_headers", "request_body"];
    assert_eq!(shown(no_response, everything), (parts, 0.0));
    let response_head = ProcessingMode {
        request_body_mode: NONE,
        ..ProcessingMode::default()
    };
    let parts = vec!["request_headers", "response_headers"];
    assert_eq!(shown(response_head, everything), (parts, 0.0));
}

#[test]
fn an_override_that_is_not_allowed_is_ignored_and_counted() {
    let no_body = ProcessingMode {
        response_body_mode: STREAMED,
        ..ProcessingMode::default()
    };
    let parts = EVERYTHING.to_vec();
    assert_eq!(shown(no_body, ""), (parts.clone(), 1.0));
    assert_eq!(shown(no_body, r#""response-body""#), (parts.clone(), 1.0));
    let full_duplex = ProcessingMode {
        request_body_mode: 4,
        response_body_mode: STREAMED,
        ..ProcessingMode::default()
    };
    assert_eq!(shown(full_duplex, r#""request-body""#), (parts, 1.0));
}

const WATCHING: &str = r#"failure-mode "open"; inspect { request-headers; request-body "stream"; response-headers; response-body "stream" }; ext-proc { observability }"#;

#[test]
fn an_agent_that_watches_is_told_everything_and_not_waited_for() {
    for refuses in [false, true] {
        let agent = ExtProcAgent::start(move |_| match refuses {
            true => immediate(403, "no").into(),
            false => Say::Nothing,
        });
        let origin = Origin::answering(|_| Answer::ok("response"));
        let proxy = through(&agent, WATCHING, &origin);
        let before = Instant::now();
        let response = proxy.client().send(POST).response();
        assert_eq!(
            (response.status, response.body.as_slice()),
            (200, &b"response"[..])
        );
        assert!(before.elapsed() < Duration::from_secs(2));
        eventually("everything is told", || {
            let mut parts = agent.parts();
            parts.dedup();
            (parts == EVERYTHING).then_some(())
        });
        let told = agent.told();
        assert!(told.iter().all(|told| told.observability_mode), "{told:?}");
        // The stream ends in order, and the agent has time for that.
        eventually("the end of the stream", || {
            agent.streams().first()?.half_closed.then_some(())
        });
        all_gone(&proxy, &agent);
    }
}

#[test]
fn an_agent_that_watches_and_falls_over_harms_nobody() {
    for say in [
        Say::Close,
        Say::Fail(tonic::Code::Internal, "no"),
        Say::Reset,
    ] {
        let agent = ExtProcAgent::start(move |_| say.clone());
        let origin = Origin::start();
        let proxy = through(&agent, WATCHING, &origin);
        assert_eq!(proxy.client().send(POST).response().status, 200);
        all_gone(&proxy, &agent);
    }
    let mut agent = ExtProcAgent::passing();
    let origin = Origin::start();
    let proxy = through(&agent, WATCHING, &origin);
    agent.kill();
    assert_eq!(proxy.client().send(POST).response().status, 200);
}

#[test]
fn a_request_that_becomes_a_websocket_has_its_heads_shown_and_no_body() {
    // A body that is held would never end.
    for inspect in [
        "request-headers; response-headers",
        r#"request-headers; request-body "buffer"; response-headers; response-body "buffer""#,
        r#"request-headers; request-body "stream"; response-headers; response-body "stream""#,
    ] {
        let agent = ExtProcAgent::passing();
        let origin = Origin::answering(shouting);
        let settings = agent.block(&format!("timeout \"5s\"; inspect {{ {inspect} }}"));
        let passes = match inspect.contains("body") {
            true => "uninspected-upgrade",
            false => "",
        };
        let kdl = format!(
            r#"routes {{ route "all" {{ filters {{ agent "p" }}; upstream "origin"; websocket; {passes} }} }}"#
        );
        let proxy = crate::harness::Proxy::builder(kdl)
            .origin(&origin)
            .agent_block("p", &settings)
            .start();
        proxy.wait_ready();
        let mut client = proxy.client();
        client.send(format!("GET /ws HTTP/1.1\r\n{UPGRADE}\r\n"));
        assert!(
            client.read_head().unwrap().starts_with("HTTP/1.1 101"),
            "{inspect}"
        );
        assert_eq!(client.send("hello").read_exact(5), b"HELLO");
        let told = agent.told();
        let parts: Vec<_> = told.iter().map(part).collect();
        assert_eq!(parts, ["request_headers", "response_headers"], "{inspect}");
        drop(client);
        all_gone(&proxy, &agent);
    }
}

#[test]
fn an_agent_in_the_shadow_is_asked_and_not_obeyed() {
    let agent = ExtProcAgent::start(|_| immediate(403, "no").into());
    let origin = Origin::start();
    let kdl =
        r#"routes { route "all" { filters { agent "p" mode="shadow" }; upstream "origin" } }"#;
    let proxy = crate::harness::Proxy::builder(kdl)
        .origin(&origin)
        .agent_block("p", &agent.block("timeout \"5s\""))
        .start();
    proxy.wait_metric(r#"portcullis_agent_up{agent="p"}"#, 1.0);
    assert_eq!(proxy.get("/").status, 200);
    eventually("the copy", || (agent.told().len() == 1).then_some(()));
    all_gone(&proxy, &agent);
}

#[test]
fn a_reload_keeps_the_connection_of_an_agent_that_stays_the_same() {
    let agent = ExtProcAgent::passing();
    let origin = Origin::start();
    let builder = routes(&agent, "timeout \"5s\"", &origin);
    let proxy = builder.clone().start();
    proxy.wait_ready();
    proxy.reload(&builder);
    assert_eq!(proxy.get("/closed").status, 200);
    assert_eq!(
        proxy.metric(r#"portcullis_agent_reconnects_total{agent="p"}"#),
        0.0
    );
    // With other settings, it is another.
    let stricter = routes(&agent, "timeout \"5s\"; strict", &origin);
    proxy.reload(&stricter);
    assert_eq!(proxy.get("/closed").status, 200);
    all_gone(&proxy, &agent);
}
