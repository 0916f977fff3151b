//! No verdict is a failure with a name, and the failure mode decides what it means. It is never an allow.

use super::{asked, asking};
use crate::harness::{
    DEADLINE, Origin, Proxy, Response, TestAgent,
    agent::{Dialect, Handshake, Reaction},
};
use portcullis_agent_protocol::Decision;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Checks what a failure looks like from every side, closed and open.
fn fails(agent: &TestAgent, settings: &str, failure: &str, status: u16) {
    let origin = Origin::start();
    let closed = asking(agent, &origin).agent_with(agent, settings).start();
    let response = closed.get("/");
    assert_refused(&closed, &response, agent.name(), failure, status);
    assert_eq!(
        origin.connections(),
        0,
        "{failure}: closed means that nothing passes"
    );

    let settings = format!("{settings}; failure-mode \"open\"");
    let open = asking(agent, &origin).agent_with(agent, &settings).start();
    let response = open.get("/");
    assert_eq!(
        response.status, 200,
        "{failure}: open means that it goes on"
    );
    let line = open.access_line_of("/");
    let record = &line["agents"][0];
    assert_eq!(record["verdict"], "failed");
    assert_eq!(record["failure"], failure);
    assert_eq!(record["failure_mode"], "open");
    assert_eq!(line["blocked_by"], Value::Null);
    let applied = format!(
        r#"portcullis_agent_failures_applied_total{{agent="{}",policy="open"}}"#,
        agent.name()
    );
    open.wait_metric(&applied, 1.0);
}

fn assert_refused(proxy: &Proxy, response: &Response, agent: &str, failure: &str, status: u16) {
    assert_eq!(response.status, status, "{failure}");
    let later = matches!(status, 503).then_some("1");
    assert_eq!(response.header("retry-after"), later, "{failure}");
    let id = response.header("x-request-id").unwrap();
    let line = proxy.access_line(|line| line["request_id"] == id);
    assert_eq!(line["status"], status);
    assert_eq!(line["blocked_by"], agent);
    assert_eq!(line["reason"], failure);
    let record = &line["agents"][0];
    assert_eq!(record["verdict"], "failed");
    assert_eq!(record["failure"], failure);
    assert_eq!(record["failure_mode"], "closed");
    // The client learns the status and the id, and nothing about the inside.
    assert!(!response.text().contains(agent), "{}", response.text());
    assert!(response.text().contains(id));
    let calls = format!(r#"portcullis_agent_calls_total{{agent="{agent}",outcome="{failure}"}}"#);
    let counted = |series: &str| {
        crate::harness::eventually(series, || (proxy.metric(series) >= 1.0).then_some(()));
    };
    counted(&calls);
    let applied =
        format!(r#"portcullis_agent_failures_applied_total{{agent="{agent}",policy="closed"}}"#);
    counted(&applied);
}

#[test]
fn d02_an_agent_that_is_not_there_refuses_from_the_first_request() {
    let started = Instant::now();
    fails(
        &TestAgent::named("absent"),
        "timeout \"10s\"",
        "unreachable",
        503,
    );
    // Neither the start nor a request has waited for it.
    assert!(started.elapsed() < DEADLINE / 2, "{:?}", started.elapsed());
}

#[test]
fn an_agent_that_does_not_answer_is_given_up_at_its_timeout() {
    for dialect in [Dialect::Binary, Dialect::Json, Dialect::Legacy] {
        let agent = TestAgent::named("hung")
            .speaking(dialect)
            .otherwise(Reaction::Hang)
            .start();
        let origin = Origin::start();
        let proxy = asking(&agent, &origin)
            .agent_with(&agent, "timeout \"300ms\"")
            .start();
        proxy.wait_ready();
        let started = Instant::now();
        let response = proxy.get("/");
        let took = started.elapsed();
        assert!(
            took > Duration::from_millis(250) && took < DEADLINE / 2,
            "{took:?}"
        );
        assert_refused(&proxy, &response, "hung", "timeout", 504);
        assert_eq!(origin.connections(), 0);
    }
}

#[test]
fn an_open_agent_that_does_not_answer_costs_its_timeout_only() {
    let agent = TestAgent::named("hung").otherwise(Reaction::Hang).start();
    let origin = Origin::start();
    let proxy = Proxy::builder(
        r#"routes { route "all" { filters { agent "hung" timeout="200ms" failure-mode="open" }; upstream "origin" } }"#,
    )
    .origin(&origin)
    .agent(&agent)
    .start();
    agent_is_up(&proxy, "hung");
    let started = Instant::now();
    assert_eq!(proxy.get("/").status, 200);
    assert!(started.elapsed() < DEADLINE / 2);
    let line = proxy.access_line_of("/");
    assert_eq!(line["agents"][0]["failure"], "timeout");
    assert_eq!(line["agents"][0]["failure_mode"], "open");
}

/// Waits for an agent that readiness does not wait for.
fn agent_is_up(proxy: &Proxy, agent: &str) {
    crate::harness::eventually("connection to the agent", || {
        let up = proxy.metric(&format!(r#"portcullis_agent_up{{agent="{agent}"}}"#));
        (up == 1.0).then_some(())
    });
}

#[test]
fn d12_a_late_answer_is_not_the_next_verdict() {
    for dialect in [Dialect::Binary, Dialect::Json, Dialect::Legacy] {
        let agent = TestAgent::named("slow")
            .speaking(dialect)
            .on("/slow", Reaction::late(&Decision::block(451)))
            .start();
        let origin = Origin::start();
        let proxy = asking(&agent, &origin)
            .agent_with(&agent, "timeout \"200ms\"")
            .start();
        proxy.wait_ready();
        let mut client = proxy.client();
        assert_eq!(client.get("/slow", &[]).status, 504);
        agent.release();
        for number in 0..20 {
            let status = client.get(&format!("/{number}"), &[]).status;
            // A connection whose agent is behind may be given up, but its answers never go to others.
            assert!(matches!(status, 200 | 503 | 504), "{dialect:?}: {status}");
        }
        crate::harness::eventually("verdicts again", || {
            (client.get("/", &[]).status == 200).then_some(())
        });
    }
}

#[test]
fn d17_a_handshake_that_does_not_end_is_no_connection() {
    let agent = TestAgent::named("mute")
        .at_handshake(Handshake::Hang)
        .start();
    fails(&agent, "timeout \"200ms\"", "unreachable", 503);
}

#[test]
fn a_handshake_that_fails_is_no_connection() {
    for handshake in [Handshake::Refuse, Handshake::Garbage] {
        let agent = TestAgent::named("rude").at_handshake(handshake).start();
        fails(&agent, "timeout \"10s\"", "unreachable", 503);
    }
}

#[test]
fn d07_a_clean_close_is_not_an_allow() {
    let agent = TestAgent::named("closing")
        .speaking(Dialect::Legacy)
        .on("/close", Reaction::Close)
        .start();
    let origin = Origin::start();
    let proxy = asked(&agent, &origin);
    for _ in 0..5 {
        let response = proxy.get("/close");
        assert_refused(&proxy, &response, "closing", "unreachable", 503);
        // The connection comes back by itself.
        crate::harness::eventually("verdicts again", || {
            (proxy.get("/").status == 200).then_some(())
        });
    }
    assert!(
        origin
            .requests()
            .iter()
            .all(|request| request.target() == "/")
    );
}

#[test]
fn an_agent_that_dies_while_it_is_asked_is_not_an_allow() {
    for dialect in [Dialect::Binary, Dialect::Legacy] {
        let agent = TestAgent::named("dying")
            .speaking(dialect)
            .on("/die", Reaction::Exit)
            .start();
        let origin = Origin::start();
        let proxy = asked(&agent, &origin);
        assert_refused(&proxy, &proxy.get("/die"), "dying", "unreachable", 503);
        assert_eq!(origin.connections(), 0);
    }
}

#[test]
fn d08_an_agent_that_cannot_decide_is_not_an_allow() {
    let origin = Origin::start();
    for dialect in [Dialect::Binary, Dialect::Json] {
        let agent = TestAgent::named("failing")
            .speaking(dialect)
            .on("/fail", Reaction::Fail)
            .on("/panic", Reaction::Panic)
            .start();
        let proxy = asked(&agent, &origin);
        for path in ["/fail", "/panic"] {
            let before = origin.requests().len();
            let response = proxy.get(path);
            if dialect == Dialect::Binary {
                assert_refused(&proxy, &response, "failing", "protocol_error", 502);
            } else {
                // The old protocol has no way to say it, so the library blocks.
                assert_eq!(response.status, 500);
                assert_eq!(proxy.access_line_of(path)["reason"], "agent_error");
            }
            assert_eq!(origin.requests().len(), before);
        }
        // One failed question is not the end of the agent.
        assert_eq!(proxy.get("/").status, 200);
    }
}

/// Answers that are no answers.
const MALFORMED: &[&str] = &[
    r#"{"version":2,"decision":"maybe","audit":{"custom":{"correlation_id":"$ID"}}}"#,
    r#"{"version":2,"audit":{"custom":{"correlation_id":"$ID"}}}"#,
    r#"{"decision":"allow","audit":{"custom":{"correlation_id":"$ID"}}}"#,
    r#"{"version":2,"decision":{"block":{}},"audit":{"custom":{"correlation_id":"$ID"}}}"#,
    r#"{"version":2,"decision":{"block":{"status":"403"}},"audit":{"custom":{"correlation_id":"$ID"}}}"#,
    r#"{"version":2,"decision":{"allow":true,"block":{"status":403}},"audit":{"custom":{"correlation_id":"$ID"}}}"#,
    r#"{"version":2,"decision":"allow","request_headers":[{"append":{"name":"x","value":"y"}}],"audit":{"custom":{"correlation_id":"$ID"}}}"#,
    r#"{"version":2,"decision":"allow","request_headers":{"x":"y"},"audit":{"custom":{"correlation_id":"$ID"}}}"#,
    r#"{"version":2,"decision":null,"audit":{"custom":{"correlation_id":"$ID"}}}"#,
    "not JSON",
    "",
    "null",
    r#""allow""#,
    r#"{"version":2,"decision":"allow"}"#,
    r#"{"version":2,"decision":"allow","audit":{"custom":{"correlation_id":"another"}}}"#,
];

#[test]
fn a_malformed_answer_is_502() {
    for text in MALFORMED {
        let agent = TestAgent::named("broken")
            .speaking(Dialect::Legacy)
            .otherwise(Reaction::Text((*text).to_owned()))
            .start();
        let origin = Origin::start();
        let proxy = asking(&agent, &origin)
            .agent_with(&agent, "timeout \"2s\"")
            .start();
        proxy.wait_ready();
        let response = proxy.get("/");
        assert_eq!(response.status, 502, "{text}");
        let line = proxy.access_line_of("/");
        assert_eq!(line["reason"], "protocol_error", "{text}");
        assert_eq!(origin.connections(), 0, "{text}");
    }
}

#[test]
fn bytes_that_are_no_frame_are_502() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\n\r\n"[..],
        b"\0\0\0\0",
        b"\0\0\0\x05\xffabcd",
        b"\xff\xff\xff\xff\x20",
    ] {
        let agent = TestAgent::named("broken")
            .speaking(Dialect::Legacy)
            .otherwise(Reaction::Bytes(bytes.to_vec()))
            .start();
        let origin = Origin::start();
        let proxy = asked(&agent, &origin);
        let response = proxy.get("/");
        assert_eq!(response.status, 502, "{bytes:?}");
        assert_eq!(proxy.access_line_of("/")["reason"], "protocol_error");
        assert_eq!(origin.connections(), 0);
    }
}

/// Decisions that would break a message, or say what only the proxy may say.
fn invalid() -> Vec<Decision> {
    let mut decisions: Vec<Decision> = [
        "host",
        "Content-Length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "upgrade",
        "te",
        "trailer",
        "via",
        "forwarded",
        "x-forwarded-for",
        "X-Forwarded-Anything",
        "x-request-id",
        "traceparent",
        ":path",
        "",
        "a b",
        "x\r\ny",
    ]
    .into_iter()
    .flat_map(|name| {
        [
            Decision::allow().set_request_header(name, "1"),
            Decision::allow().add_request_header(name, "1"),
            Decision::allow().remove_request_header(name),
            Decision::allow().set_response_header(name, "1"),
        ]
    })
    .collect();
    for value in ["a\r\nx-injected: 1", "a\nb", "a\rb", "a\0b"] {
        decisions.push(Decision::allow().set_request_header("x-own", value));
        decisions.push(Decision::allow().add_response_header("x-own", value));
        decisions.push(Decision::block(403).with_header("x-own", value));
        decisions.push(Decision::redirect(value));
        decisions.push(Decision::challenge("http").with_param("www-authenticate", value));
    }
    for status in [0, 99, 100, 101, 199, 600, 999] {
        decisions.push(Decision::block(status));
    }
    for status in [200, 299, 304, 400] {
        decisions.push(Decision::redirect_with_status(
            "https://example.com/",
            status,
        ));
    }
    for url in ["javascript:alert(1)", "data:text/html,x", ""] {
        decisions.push(Decision::redirect(url));
    }
    decisions
}

#[test]
fn an_invalid_operation_makes_the_whole_answer_502() {
    for dialect in [Dialect::Binary, Dialect::Legacy] {
        let mut agent = TestAgent::named("broken").speaking(dialect);
        let decisions = invalid();
        for (number, decision) in decisions.iter().enumerate() {
            // Beside it is an operation that would be valid.
            let decision = decision.clone().set_request_header("x-valid", "1");
            agent = agent.on(&format!("/{number}"), decision);
        }
        let agent = agent.start();
        let origin = Origin::start();
        // Each of these is a failure; the agent is asked all the same.
        let settings = "timeout \"10s\"; circuit-breaker failures=1000";
        let proxy = asking(&agent, &origin).agent_with(&agent, settings).start();
        proxy.wait_ready();
        let mut client = proxy.client();
        for (number, decision) in decisions.iter().enumerate() {
            let response = client.get(&format!("/{number}"), &[]);
            assert_eq!(response.status, 502, "{decision:?}");
            assert_eq!(response.header("x-own"), None);
        }
        assert_eq!(origin.connections(), 0);
        proxy.access_line(|line| line["reason"] == "protocol_error");

        let settings = format!("{settings}; failure-mode \"open\"");
        let open = asking(&agent, &origin)
            .agent_with(&agent, &settings)
            .start();
        agent_is_up(&open, "broken");
        let mut client = open.client();
        for (number, decision) in decisions.iter().enumerate() {
            let response = client.get(&format!("/{number}"), &[]);
            assert_eq!(response.status, 200, "{decision:?}");
            let request = origin.last();
            // The answer is discarded whole.
            assert_eq!(request.header("x-valid"), None, "{decision:?}");
            assert_eq!(request.header("x-injected"), None, "{decision:?}");
        }
    }
}

#[test]
fn a_failure_does_not_look_like_a_block() {
    let mut agent = TestAgent::named("waf")
        .on("/block", Decision::block(403))
        .start();
    let origin = Origin::start();
    let proxy = asked(&agent, &origin);
    assert_eq!(proxy.get("/block").status, 403);
    agent.kill();
    crate::harness::eventually("a refusal", || {
        (proxy.get("/block").status == 503).then_some(())
    });
}
