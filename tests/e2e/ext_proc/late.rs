//! Verdicts, and those that come when the head of the response has gone.

use super::{all_gone, through};
use crate::harness::{
    Answer, Origin,
    ext_proc::{ExtProcAgent, body, immediate, pass, set},
    grpc::Call,
};
use portcullis_agent_protocol::ext_proc::messages::{
    GrpcStatus, HeaderMutation, ImmediateResponse, Told,
};
use std::time::{Duration, Instant};

fn refusing(response: ImmediateResponse) -> ExtProcAgent {
    ExtProcAgent::start(move |_| response.clone().into())
}

#[test]
fn an_immediate_response_is_what_the_client_gets_and_its_details_are_the_reason() {
    let agent = refusing(ImmediateResponse {
        headers: Some(HeaderMutation {
            set_headers: vec![
                set("x-why", "policy"),
                set("content-type", "application/json"),
            ],
            remove_headers: Vec::new(),
        }),
        details: "blocked by test".to_owned(),
        ..immediate(451, "{}")
    });
    let origin = Origin::start();
    let proxy = through(
        &agent,
        "inspect { request-headers; response-headers }",
        &origin,
    );
    let response = proxy.get("/closed");
    assert_eq!(
        (response.status, response.body.as_slice()),
        (451, &b"{}"[..])
    );
    for (name, value) in [
        ("x-why", "policy"),
        ("content-type", "application/json"),
        ("content-length", "2"),
    ] {
        let found = response.headers.iter().find(|(found, _)| found == name);
        assert_eq!(
            found.map(|(_, value)| value.as_str()),
            Some(value),
            "{name}"
        );
    }
    let line = proxy.access_line_of("/closed");
    assert_eq!(
        (&line["blocked_by"], &line["reason"]),
        (&"p".into(), &"blocked by test".into()),
        "{line}"
    );
    assert_eq!(origin.requests().len(), 0);
    assert_eq!(agent.parts(), ["request_headers"]);
    all_gone(&proxy, &agent);
}

#[test]
fn an_immediate_response_can_send_the_client_elsewhere() {
    let agent = refusing(ImmediateResponse {
        headers: Some(HeaderMutation {
            set_headers: vec![set("location", "https://example.com/login")],
            remove_headers: Vec::new(),
        }),
        ..immediate(303, "")
    });
    let origin = Origin::start();
    let proxy = through(&agent, "", &origin);
    let response = proxy.get("/closed");
    assert_eq!(response.status, 303);
    let location = response.headers.iter().find(|(name, _)| name == "location");
    assert_eq!(location.unwrap().1, "https://example.com/login");
    let line = proxy.access_line_of("/closed");
    assert_eq!(line["agents"][0]["verdict"], "redirect", "{line}");
}

#[test]
fn a_grpc_call_ends_with_the_status_that_the_agent_says() {
    let agent = refusing(ImmediateResponse {
        grpc_status: Some(GrpcStatus { status: 9 }),
        details: "not now".to_owned(),
        ..immediate(403, "")
    });
    let origin = Origin::start();
    let proxy = through(&agent, "", &origin);
    let mut call = Call::to(proxy.address_of("http"), "/closed.Service/Method");
    let head = call.finish().head().unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["grpc-status"], "9");
    assert_eq!(head.headers()["grpc-message"], "not now");
    // Others have no use for it.
    let response = proxy.get("/closed");
    assert_eq!(response.status, 403);
    assert!(
        !response
            .headers
            .iter()
            .any(|(name, _)| name == "grpc-status")
    );
}

#[test]
fn the_body_of_a_response_is_refused_while_its_head_waits() {
    let agent = ExtProcAgent::start(|told| match &told.request {
        Some(Told::ResponseBody(_)) => immediate(418, "no").into(),
        _ => pass(told).into(),
    });
    let origin = Origin::answering(|_| Answer::ok("secret"));
    let proxy = through(
        &agent,
        r#"inspect { response-headers; response-body "buffer" }"#,
        &origin,
    );
    let response = proxy.get("/closed");
    assert_eq!(
        (response.status, response.body.as_slice()),
        (418, &b"no"[..])
    );
    all_gone(&proxy, &agent);
}

#[test]
fn a_verdict_that_comes_too_late_breaks_the_response_off_at_once() {
    let agent = ExtProcAgent::start(|told| match body(told) {
        Some(b"stop") => immediate(403, "too late").into(),
        _ => pass(told).into(),
    });
    let origin = Origin::answering(|_| {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\ngo\r\n";
        Answer::raw(head).then(|stream| {
            use std::io::{Read, Write};
            std::thread::sleep(Duration::from_millis(50));
            let _ = stream.write_all(b"4\r\nstop\r\n");
            let _ = stream.read(&mut [0]);
        })
    });
    let proxy = through(&agent, r#"inspect { response-body "stream" }"#, &origin);
    let before = Instant::now();
    let response = proxy.get("/closed");
    assert_eq!(
        (response.status, response.body.as_slice()),
        (200, &b"go"[..])
    );
    assert!(!response.complete);
    assert!(
        before.elapsed() < Duration::from_millis(900),
        "{:?}",
        before.elapsed()
    );
    let line = proxy.access_line_of("/closed");
    assert_eq!(
        (&line["blocked_by"], &line["aborted"]),
        (&"p".into(), &true.into()),
        "{line}"
    );
    all_gone(&proxy, &agent);
}
