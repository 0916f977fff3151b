//! Time and places: the budget of a request, the permits of an agent and the queue before them.

use super::{FREE, all_quiet, all_up, assert_outcomes, route, routes};
use crate::harness::{
    DEADLINE, Origin, Sabotage, Saboteur, Tamper, TestAgent, agent::Reaction, eventually,
};
use portcullis_agent_protocol::Decision;
use serde_json::Value;
use std::{
    thread,
    time::{Duration, Instant},
};

#[test]
fn d09_a_budget_covers_all_agents_of_a_request() {
    let origin = Origin::start();
    let first = TestAgent::named("first").otherwise(Reaction::Hang).start();
    let second = TestAgent::named("second").otherwise(Reaction::Hang).start();
    let filters = r#"agent "first" timeout="200ms" failure-mode="open"; agent "second""#;
    let proxy = routes(&route("both", filters, "agent-budget \"500ms\""), &origin)
        .agent(&first)
        .agent(&second)
        .start();
    all_up(&proxy, &[&first, &second]);
    let started = Instant::now();
    let response = proxy.get("/both");
    let took = started.elapsed();
    assert_eq!(
        (response.status, response.header("retry-after")),
        (504, None)
    );
    assert!(took >= Duration::from_millis(490), "{took:?}");
    assert!(took < Duration::from_millis(2000), "{took:?}");
    let line = proxy.access_line_of("/both");
    assert_outcomes(&line, &[("first", "timeout"), ("second", "budget")]);
    assert_eq!(
        (&line["blocked_by"], &line["reason"]),
        (&"second".into(), &"budget".into())
    );
    // Each is told what was left when it was asked.
    let left = |agent: &TestAgent| agent.requests()[0]["budget_left_ms"].as_f64().unwrap();
    assert!(
        left(&first) > 400.0 && left(&first) <= 500.0,
        "{}",
        left(&first)
    );
    assert!(
        left(&second) > 100.0 && left(&second) <= 300.0,
        "{}",
        left(&second)
    );
    assert_eq!(origin.connections(), 0);
    all_quiet(&proxy);
}

#[test]
fn an_agent_is_not_asked_when_no_time_is_left() {
    let origin = Origin::start();
    let first = TestAgent::named("first").otherwise(Reaction::Hang).start();
    let second = TestAgent::named("second").start();
    let filters = r#"agent "first" failure-mode="open"; agent "second""#;
    let open = r#"agent "first" failure-mode="open"; agent "second" failure-mode="open""#;
    let budget = "agent-budget \"150ms\"";
    let text = route("closed", filters, budget) + &route("open", open, budget);
    let proxy = routes(&text, &origin).agent(&first).agent(&second).start();
    all_up(&proxy, &[&first, &second]);
    assert_eq!(proxy.get("/closed").status, 504);
    assert_eq!(proxy.get("/open").status, 200);
    for path in ["/closed", "/open"] {
        let line = proxy.access_line_of(path);
        assert_outcomes(&line, &[("first", "budget"), ("second", "budget")]);
    }
    assert_eq!(second.requests(), Vec::<Value>::new());
    all_quiet(&proxy);
}

#[test]
fn d09_a_full_queue_refuses_at_once() {
    let origin = Origin::start();
    let busy = TestAgent::named("busy")
        .otherwise(Reaction::late(&Decision::allow()))
        .start();
    let text = route("asked", r#"agent "busy""#, "") + FREE;
    let proxy = routes(&text, &origin)
        .agent_with(&busy, "timeout \"10s\"; max-concurrent-calls 2 queue=1")
        .start();
    proxy.wait_ready();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| proxy.get("/asked/first").status))
            .collect();
        proxy.wait_metric(r#"portcullis_agent_in_flight{agent="busy"}"#, 2.0);
        let waiting = scope.spawn(|| proxy.get("/asked/second").status);
        proxy.wait_metric(r#"portcullis_agent_waiting{agent="busy"}"#, 1.0);
        for number in 0..3 {
            let path = format!("/asked/third-{number}");
            let started = Instant::now();
            let response = proxy.get(&path);
            let took = started.elapsed();
            assert_eq!(response.status, 503);
            assert_eq!(response.header("retry-after"), Some("1"));
            assert!(took < DEADLINE / 10, "{took:?}");
            let line = proxy.access_line_of(&path);
            assert_outcomes(&line, &[("busy", "saturated")]);
            assert_eq!(line["reason"], "saturated");
        }
        // Whoever does not ask this agent does not notice.
        assert_eq!(proxy.get("/free").status, 200);
        assert_eq!(busy.requests().len(), 2);
        busy.release();
        for thread in asking.into_iter().chain([waiting]) {
            assert_eq!(thread.join().unwrap(), 200);
        }
    });
    assert_eq!(busy.requests().len(), 3);
    all_quiet(&proxy);
    let waited = proxy.metric(r#"portcullis_agent_queue_wait_seconds_count{agent="busy"}"#);
    assert_eq!(waited, 3.0);
}

#[test]
fn d09_the_wait_for_a_permit_is_part_of_the_timeout() {
    let origin = Origin::start();
    let busy = TestAgent::named("busy")
        .on("/long", Reaction::late(&Decision::allow()))
        .start();
    let text = route("long", r#"agent "busy""#, "")
        + &route("short", r#"agent "busy" timeout="150ms""#, "")
        + &route(
            "open",
            r#"agent "busy" timeout="150ms" failure-mode="open""#,
            "",
        );
    let proxy = routes(&text, &origin)
        .agent_with(&busy, "timeout \"10s\"; max-concurrent-calls 1 queue=10")
        .start();
    proxy.wait_ready();
    thread::scope(|scope| {
        let long = scope.spawn(|| proxy.get("/long").status);
        busy.saw(|event| event["uri"] == "/long");
        let started = Instant::now();
        assert_eq!(proxy.get("/short").status, 503);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(140), "{took:?}");
        assert!(took < DEADLINE / 5, "{took:?}");
        assert_eq!(proxy.get("/open").status, 200);
        for path in ["/short", "/open"] {
            assert_outcomes(&proxy.access_line_of(path), &[("busy", "saturated")]);
        }
        busy.release();
        assert_eq!(long.join().unwrap(), 200);
    });
    assert_eq!(proxy.get("/short/again").status, 200);
    all_quiet(&proxy);
}

/// An agent that hears nothing of cancels is still at work when nobody waits any longer.
#[test]
fn a_call_that_was_given_up_keeps_its_permit_until_its_answer_comes() {
    let origin = Origin::start();
    let busy = TestAgent::named("busy")
        .on("/short/hang", Reaction::late(&Decision::allow()))
        .start();
    let saboteur = Saboteur::before(&busy);
    saboteur.does(Sabotage::Handshake(Tamper::Text(
        r#""cancellation":true"#,
        r#""cancellation":false"#,
    )));
    let text = route("short", r#"agent "busy" timeout="150ms""#, "");
    let proxy = routes(&text, &origin)
        .agent_behind(
            &saboteur,
            "busy",
            "timeout \"10s\"; max-concurrent-calls 1 queue=0",
        )
        .start();
    proxy.wait_ready();
    assert_eq!(proxy.get("/short/hang").status, 504);
    assert_eq!(
        proxy.metric(r#"portcullis_agent_in_flight{agent="busy"}"#),
        1.0
    );
    assert_eq!(proxy.get("/short/next").status, 503);
    assert_outcomes(
        &proxy.access_line_of("/short/next"),
        &[("busy", "saturated")],
    );
    busy.release();
    eventually("the permit", || {
        (proxy.get("/short/again").status == 200).then_some(())
    });
    all_quiet(&proxy);
}
