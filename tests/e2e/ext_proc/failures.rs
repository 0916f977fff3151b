//! Agents that do not answer, or with something that is no answer: the failure mode decides, whatever it was.

use super::{all_gone, routes, through};
use crate::harness::{
    Origin, Proxy, eventually,
    ext_proc::{ExtProcAgent, Say, pass, set, setting},
};
use portcullis_agent_protocol::ext_proc::messages::{
    Answered, HeadersResponse, ProcessingRequest, ProcessingResponse, Told,
};
use std::time::{Duration, Instant};
use tonic::Code;

/// How often questions to the agent came to this.
fn outcomes(outcome: &str) -> String {
    format!(r#"portcullis_agent_calls_total{{agent="p",outcome="{outcome}"}}"#)
}

/// What becomes of requests to both routes, with what in the log.
fn assert_failure(proxy: &Proxy, origin: &Origin, status: u16, failure: &str) {
    origin.take();
    assert_eq!(proxy.get("/closed").status, status);
    assert_eq!(origin.take().len(), 0);
    let line = proxy.access_line(|line| line["path"] == "/closed" && line["status"] == status);
    assert_eq!(line["blocked_by"], "p", "{line}");
    assert_eq!(line["agents"][0]["failure"], failure, "{line}");
    assert_eq!(proxy.get("/open").status, 200);
    assert_eq!(origin.take().len(), 1);
}

fn failing(script: impl Fn(&ProcessingRequest) -> Say + Send + Sync + 'static) -> ExtProcAgent {
    ExtProcAgent::start(script)
}

#[test]
fn no_answer_in_time_is_a_timeout() {
    let agent = failing(|_| Say::Nothing);
    let origin = Origin::start();
    let proxy = routes(&agent, "timeout \"200ms\"", &origin).start();
    proxy.wait_ready();
    assert_failure(&proxy, &origin, 504, "timeout");
    all_gone(&proxy, &agent);
}

#[test]
fn a_status_of_grpc_is_no_answer() {
    for (code, status, failure) in [
        (Code::Unavailable, 503, "unreachable"),
        (Code::Internal, 502, "protocol_error"),
        (Code::Unauthenticated, 502, "protocol_error"),
        (Code::ResourceExhausted, 502, "protocol_error"),
    ] {
        // Before there is an answer, all there is of the response are trailers.
        let agent = failing(move |_| Say::Fail(code, "go away"));
        let origin = Origin::start();
        let proxy = through(&agent, "", &origin);
        assert_failure(&proxy, &origin, status, failure);
        let line = proxy.access_line(|line| line["path"] == "/closed");
        let reason = line["agents"][0]["reason"].as_str().unwrap();
        assert!(
            reason.contains("go away") && reason.contains(&(code as i32).to_string()),
            "{line}"
        );
        all_gone(&proxy, &agent);
    }
}

#[test]
fn a_status_between_the_messages_is_no_answer_either() {
    let agent = failing(|told| match told.request {
        Some(Told::ResponseHeaders(_)) => Say::Fail(Code::Unavailable, "gone"),
        _ => pass(told).into(),
    });
    let origin = Origin::start();
    let proxy = through(
        &agent,
        "inspect { request-headers; response-headers }",
        &origin,
    );
    assert_eq!(proxy.get("/closed").status, 503);
    assert_eq!(proxy.get("/open").status, 200);
    all_gone(&proxy, &agent);
}

#[test]
fn the_wrong_kind_of_answer_is_none_and_nothing_more_is_asked() {
    let agent = failing(|_| {
        let wrong = Answered::ResponseHeaders(HeadersResponse {
            response: Some(setting(vec![set("x-wrong", "yes")])),
        });
        ProcessingResponse {
            response: Some(wrong),
            ..ProcessingResponse::default()
        }
        .into()
    });
    let origin = Origin::start();
    let proxy = through(
        &agent,
        "inspect { request-headers; response-headers }",
        &origin,
    );
    assert_failure(&proxy, &origin, 502, "protocol_error");
    let streams = agent.streams();
    assert_eq!(streams.len(), 2);
    assert!(
        streams.iter().all(|stream| stream.told.len() == 1),
        "its answer would mean nothing"
    );
    // Where the first goes on, the next phase fails for the same reason.
    proxy.wait_metric(&outcomes("protocol_error"), 3.0);
    all_gone(&proxy, &agent);
}

/// The failure of one phase is one failure, however many phases follow.
#[test]
fn what_follows_a_failure_says_nothing_new_about_the_agent() {
    let agent = failing(|_| Say::Fail(Code::Internal, "no"));
    let origin = Origin::start();
    let settings = "inspect { request-headers; response-headers; response-body \"buffer\" }; circuit-breaker failures=3";
    let proxy = through(&agent, settings, &origin);
    for _ in 0..2 {
        assert_eq!(proxy.get("/open").status, 200);
    }
    let closed = r#"portcullis_agent_circuit_state{agent="p",state="closed"}"#;
    assert_eq!(proxy.metric(closed), 1.0);
    assert_eq!(agent.told().len(), 2);
    all_gone(&proxy, &agent);
}

#[test]
fn an_answer_that_nobody_has_asked_for_is_none() {
    // The second could be taken for that to the next piece, which the agent has not seen.
    let agent = failing(|told| {
        let once = (Duration::ZERO, pass(told));
        Say::After(vec![once.clone(), once])
    });
    let origin = Origin::start();
    let proxy = through(&agent, "inspect { request-body \"stream\" }", &origin);
    let mut client = proxy.client();
    client.send(
        "POST /closed HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n",
    );
    eventually("the first piece", || {
        (agent.told().len() == 1).then_some(())
    });
    // What comes on the same connection after both answers is there, and so are they.
    let other = "POST /open HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\nx";
    assert_eq!(proxy.client().send(other).response().status, 200);
    client.send("3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!(client.response().status, 502);
    let line = proxy.access_line_of("/closed");
    assert_eq!(line["agents"][0]["failure"], "protocol_error", "{line}");
    all_gone(&proxy, &agent);
}

#[test]
fn an_empty_answer_is_none() {
    let agent = failing(|_| ProcessingResponse::default().into());
    let origin = Origin::start();
    let proxy = through(&agent, "", &origin);
    assert_failure(&proxy, &origin, 502, "protocol_error");
}

#[test]
fn a_stream_that_the_agent_closes_is_a_failure_unless_the_operator_allows_it() {
    let agent = failing(|_| Say::Close);
    let origin = Origin::start();
    let proxy = through(&agent, "", &origin);
    assert_failure(&proxy, &origin, 503, "unreachable");
    all_gone(&proxy, &agent);
    let inspect = "inspect { request-headers; response-headers }";
    let agent = failing(|_| Say::Close);
    let proxy = through(
        &agent,
        &format!(r#"{inspect}; ext-proc {{ on-close "allow" }}"#),
        &origin,
    );
    for path in ["/closed", "/open"] {
        assert_eq!(proxy.get(path).status, 200);
        assert_eq!(agent.parts(), ["request_headers"]);
    }
    all_gone(&proxy, &agent);
    // An agent that closes because it is done does that after its answer.
    let done = |told: &ProcessingRequest| match told.request {
        Some(Told::RequestHeaders(_)) => pass(told).into(),
        _ => Say::Close,
    };
    for (settings, status) in [("", 503), (r#"ext-proc { on-close "allow" }"#, 200)] {
        let agent = failing(done);
        let proxy = through(&agent, &format!("{inspect}; {settings}"), &origin);
        assert_eq!(proxy.get("/closed").status, status);
    }
}

#[test]
fn a_stream_that_breaks_leaves_the_others_alone() {
    let agent = failing(
        |told| match crate::harness::ext_proc::header(told, ":path").as_deref() {
            Some("/closed/break") => Say::Reset,
            _ => pass(told).into(),
        },
    );
    let origin = Origin::start();
    let proxy = through(
        &agent,
        "inspect { request-headers; response-headers }",
        &origin,
    );
    let reconnects = r#"portcullis_agent_reconnects_total{agent="p"}"#;
    assert_eq!(proxy.get("/closed/break").status, 503);
    assert_eq!(proxy.get("/closed").status, 200);
    assert_eq!(proxy.metric(reconnects), 0.0);
    all_gone(&proxy, &agent);
}

#[test]
fn an_agent_that_is_not_there_is_named_at_once() {
    let mut agent = ExtProcAgent::passing();
    agent.kill();
    let origin = Origin::start();
    let proxy = routes(&agent, "timeout \"5s\"", &origin).start();
    let before = Instant::now();
    let response = proxy.get("/closed");
    assert_eq!(response.status, 503);
    assert!(
        response
            .headers
            .iter()
            .any(|(name, _)| name == "retry-after")
    );
    assert!(before.elapsed() < Duration::from_secs(4));
    let line = proxy.access_line_of("/closed");
    assert_eq!(line["blocked_by"], "p");
    assert_eq!(line["agents"][0]["failure"], "unreachable");
    assert_eq!(proxy.get("/open").status, 200);
    // As soon as it is there, it is asked.
    agent.begin();
    proxy.wait_ready();
    assert_eq!(proxy.get("/closed").status, 200);
    assert_eq!(agent.parts(), ["request_headers"]);
}

#[test]
fn what_listens_and_is_no_agent_is_not_ready() {
    // It speaks HTTP/1.1 alone.
    let other = Origin::start();
    let origin = Origin::start();
    let kdl = format!("grpc \"http://{}\"; dialect \"ext-proc\"", other.address());
    let proxy =
        Proxy::builder(r#"routes { route "all" { filters { agent "p" }; upstream "origin" } }"#)
            .origin(&origin)
            .agent_block("p", &kdl)
            .start();
    assert_eq!(proxy.get("/").status, 503);
    assert_eq!(proxy.probe("/readyz").status, 503);
}
