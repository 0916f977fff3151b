//! Several agents on a route: one after the other, or at the same time.

use crate::harness::{Answer, DEADLINE, Origin, Proxy, TestAgent, agent::Reaction};
use portcullis_agent_protocol::Decision;
use serde_json::{Value, json};
use std::time::Instant;

/// A proxy with these filters before the origin. All agents are connected, but those that cannot be.
fn filtering(filters: &str, agents: &[&TestAgent], origin: &Origin) -> Proxy {
    let kdl =
        format!(r#"routes {{ route "all" {{ filters {{ {filters} }}; upstream "origin" }} }}"#);
    let mut builder = Proxy::builder(kdl).origin(origin);
    for agent in agents {
        builder = builder.agent(agent);
    }
    let proxy = builder.start();
    proxy.wait_ready();
    proxy
}

/// Verdicts by agent, in the order of the log.
fn verdicts(line: &Value) -> Vec<(&str, &str)> {
    let records = line["agents"].as_array().unwrap();
    records
        .iter()
        .map(|record| {
            (
                record["name"].as_str().unwrap(),
                record["verdict"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_later_agent_sees_what_an_earlier_one_changed() {
    let origin = Origin::start();
    let first = TestAgent::named("first")
        .otherwise(
            Decision::allow()
                .set_request_header("x-user", "alice")
                .remove_request_header("x-secret"),
        )
        .start();
    let second = TestAgent::named("second")
        .otherwise(Decision::allow().set_request_header("x-second", "seen"))
        .start();
    let filters = r#"
        request-headers { set "x-before" "1" }
        agent "first"
        request-headers { set "x-between" "2" }
        agent "second"
        request-headers { set "x-after" "3" }
    "#;
    let proxy = filtering(filters, &[&first, &second], &origin);
    assert_eq!(proxy.get_with("/", &["x-secret: 1"]).status, 200);
    let told = [&first, &second].map(|agent| agent.requests().remove(0)["headers"].clone());
    assert_eq!(told[0]["x-secret"], json!(["1"]));
    assert_eq!(told[0]["x-before"], json!(["1"]));
    assert_eq!(told[0]["x-user"], Value::Null);
    assert_eq!(told[0]["x-between"], Value::Null);
    assert_eq!(told[1]["x-secret"], Value::Null);
    assert_eq!(told[1]["x-user"], json!(["alice"]));
    assert_eq!(told[1]["x-between"], json!(["2"]));
    assert_eq!(told[1]["x-after"], Value::Null);
    let request = origin.last();
    for (name, value) in [("x-user", "alice"), ("x-second", "seen"), ("x-after", "3")] {
        assert_eq!(request.header(name).as_deref(), Some(value));
    }
    let line = proxy.access_line_of("/");
    assert_eq!(verdicts(&line), [("first", "allow"), ("second", "allow")]);
}

#[test]
fn a_block_ends_the_chain() {
    let origin = Origin::start();
    let first = TestAgent::named("first")
        .otherwise(Decision::block(403))
        .start();
    let second = TestAgent::named("second").start();
    let proxy = filtering(
        r#"agent "first"; agent "second""#,
        &[&first, &second],
        &origin,
    );
    assert_eq!(proxy.get("/").status, 403);
    assert_eq!(second.requests(), Vec::<Value>::new());
    assert_eq!(origin.connections(), 0);
    let line = proxy.access_line_of("/");
    assert_eq!(verdicts(&line), [("first", "block")]);
    assert_eq!(line["blocked_by"], "first");
}

#[test]
fn responses_pass_the_chain_in_reverse() {
    let origin = Origin::answering(|_| Answer::with(200, &[("x-way", "origin")], b"ok"));
    let mark = |name: &str| {
        TestAgent::named(name)
            .otherwise(
                Decision::allow()
                    .set_response_header("x-last", name)
                    .add_response_header("x-way", name),
            )
            .start()
    };
    let (first, second) = (mark("first"), mark("second"));
    let filters = r#"agent "first"; response-headers { add "x-way" "filter" }; agent "second""#;
    let proxy = filtering(filters, &[&first, &second], &origin);
    let response = proxy.get("/");
    assert_eq!(response.header_values("x-last"), ["first"]);
    let way = response.header_values("x-way");
    assert_eq!(way, ["origin", "second", "filter", "first"]);
}

#[test]
fn an_answer_of_our_own_passes_the_filters_that_the_request_passed() {
    let origin = Origin::start();
    let first = TestAgent::named("first")
        .otherwise(Decision::allow().set_response_header("x-first", "yes"))
        .start();
    let second = TestAgent::named("second")
        .otherwise(Decision::block(403))
        .start();
    let filters = r#"
        response-headers { set "x-before" "yes" }
        agent "first"
        agent "second"
        response-headers { set "x-after" "yes" }
    "#;
    let proxy = filtering(filters, &[&first, &second], &origin);
    let response = proxy.get("/");
    assert_eq!(response.status, 403);
    assert_eq!(response.header("x-before"), Some("yes"));
    assert_eq!(response.header("x-first"), Some("yes"));
    assert_eq!(response.header("x-after"), None);
}

#[test]
fn parallel_agents_have_the_same_view() {
    let origin = Origin::start();
    let set = |name: &str| {
        let own = format!("x-{name}");
        TestAgent::named(name)
            .otherwise(
                Decision::allow()
                    .set_request_header(own, "yes")
                    .set_request_header("x-both", name)
                    .add_request_header("x-list", name)
                    .set_response_header("x-both", name),
            )
            .start()
    };
    let (left, right) = (set("left"), set("right"));
    let filters = r#"parallel { agent "left"; agent "right" }"#;
    let proxy = filtering(filters, &[&left, &right], &origin);
    let response = proxy.get("/");
    for agent in [&left, &right] {
        let headers = agent.requests().remove(0)["headers"].clone();
        for name in ["x-left", "x-right", "x-both", "x-list"] {
            assert_eq!(headers[name], Value::Null, "{name}");
        }
    }
    let request = origin.last();
    assert_eq!(request.header("x-left").as_deref(), Some("yes"));
    assert_eq!(request.header("x-right").as_deref(), Some("yes"));
    // Merged in the order written, whoever answered first; the later line wins, and that is said.
    assert_eq!(request.header_values("x-list"), ["left", "right"]);
    assert_eq!(request.header("x-both").as_deref(), Some("right"));
    assert_eq!(response.header_values("x-both"), ["right"]);
    let conflict = proxy.log_line(|line| line["header"] == "x-both");
    assert_eq!(
        (&conflict["lost"], &conflict["won"]),
        (&json!("left"), &json!("right"))
    );
    let line = proxy.access_line_of("/");
    let mut verdicts = verdicts(&line);
    verdicts.sort_unstable();
    assert_eq!(verdicts, [("left", "allow"), ("right", "allow")]);
}

#[test]
fn d11_a_block_does_not_wait_for_the_others() {
    let origin = Origin::start();
    let slow = TestAgent::named("slow").otherwise(Reaction::Hang).start();
    let fast = TestAgent::named("fast")
        .otherwise(Decision::block(403).reason("fast"))
        .start();
    for filters in [
        r#"parallel { agent "slow"; agent "fast" }"#,
        r#"parallel { agent "fast"; agent "slow" }"#,
    ] {
        let proxy = filtering(filters, &[&slow, &fast], &origin);
        let started = Instant::now();
        assert_eq!(proxy.get("/").status, 403);
        assert!(started.elapsed() < DEADLINE / 2, "{:?}", started.elapsed());
        let line = proxy.access_line_of("/");
        assert_eq!(verdicts(&line), [("fast", "block"), ("slow", "cancelled")]);
        assert_eq!(line["blocked_by"], "fast");
        assert_eq!(line["reason"], "fast");
        let cancelled = r#"portcullis_agent_calls_total{agent="slow",outcome="cancelled"}"#;
        proxy.wait_metric(cancelled, 1.0);
        proxy.wait_metric(r#"portcullis_agent_in_flight{agent="slow"}"#, 0.0);
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn d11_what_others_said_before_a_block_is_kept() {
    let origin = Origin::start();
    let first = TestAgent::named("first")
        .otherwise(Decision::allow().tag("seen"))
        .start();
    let second = TestAgent::named("second")
        .otherwise(Reaction::late(&Decision::block(429)))
        .start();
    let filters = r#"parallel { agent "second"; agent "first" }"#;
    let proxy = filtering(filters, &[&first, &second], &origin);
    let in_flight = |agent| format!(r#"portcullis_agent_in_flight{{agent="{agent}"}}"#);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| proxy.get("/"));
        first.saw(|event| event["uri"] == "/");
        second.saw(|event| event["uri"] == "/");
        proxy.wait_metric(&in_flight("first"), 0.0);
        second.release();
        assert_eq!(asking.join().unwrap().status, 429);
    });
    let line = proxy.access_line_of("/");
    assert_eq!(verdicts(&line), [("first", "allow"), ("second", "block")]);
    assert_eq!(line["agents"][0]["tags"], json!(["seen"]));
    proxy.wait_metric(&in_flight("second"), 0.0);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn in_parallel_a_closed_failure_refuses_and_an_open_one_does_not() {
    let origin = Origin::start();
    let good = TestAgent::named("good")
        .otherwise(Decision::allow().set_request_header("x-good", "yes"))
        .start();
    let broken = TestAgent::named("broken").otherwise(Reaction::Fail).start();
    let agents = [&good, &broken];
    let closed = filtering(
        r#"parallel { agent "good"; agent "broken" }"#,
        &agents,
        &origin,
    );
    assert_eq!(closed.get("/").status, 502);
    assert_eq!(origin.connections(), 0);
    let open = filtering(
        r#"parallel { agent "good"; agent "broken" failure-mode="open" }"#,
        &agents,
        &origin,
    );
    assert_eq!(open.get("/").status, 200);
    assert_eq!(origin.last().header("x-good").as_deref(), Some("yes"));
    let line = open.access_line_of("/");
    let mut verdicts = verdicts(&line);
    verdicts.sort_unstable();
    assert_eq!(verdicts, [("broken", "failed"), ("good", "allow")]);
}
