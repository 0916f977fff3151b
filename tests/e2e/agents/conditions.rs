//! What agents say of themselves without being asked, and what the proxy makes of it.

use super::asking;
use crate::harness::{
    Origin, Proxy, RawClient, TestAgent,
    agent::{Dialect, Reaction},
    eventually,
};
use portcullis_agent_protocol::Decision;
use serde_json::Value;

/// Agents by our library, and by hand in both shapes of the messages.
fn makes() -> [TestAgent; 4] {
    let judged = || {
        let judged = Decision::allow().set_request_header("x-judged", "yes");
        TestAgent::named("waf").otherwise(judged)
    };
    [
        judged().speaking(Dialect::Binary),
        judged().speaking(Dialect::NumberedJson),
        judged().speaking(Dialect::Legacy),
        judged().in_numbers(),
    ]
}

fn asked(agent: &TestAgent, origin: &Origin, settings: &str) -> Proxy {
    let proxy = asking(agent, origin).agent_with(agent, settings).start();
    proxy.wait_ready();
    proxy
}

fn says(agent: &TestAgent, proxy: &Proxy, word: &str, health: &str, paused: bool) {
    agent.says(word);
    proxy.log_line(|line| {
        line["message"] == "agent says how it is"
            && line["health"] == health
            && line["paused"] == paused
    });
}

#[test]
fn d16_one_that_has_paused_is_not_asked_before_it_resumes() {
    for agent in makes() {
        let agent = agent.start();
        let origin = Origin::start();
        let proxy = asked(&agent, &origin, "timeout \"300ms\"");
        assert_eq!(proxy.get("/before").status, 200);
        says(&agent, &proxy, "pause", "healthy", true);
        // The worker that took the request may not have heard it when another one has.
        eventually("a refusal", || {
            (proxy.get("/paused").status == 503).then_some(())
        });
        eventually("no questions", || {
            let asked = agent.requests().len();
            assert_eq!(proxy.get("/paused").status, 503);
            (agent.requests().len() == asked).then_some(())
        });
        let line = proxy.access_line(|line| line["path"] == "/paused" && line["status"] == 503);
        assert_eq!(line["reason"], "saturated");
        says(&agent, &proxy, "resume", "healthy", false);
        eventually("verdicts", || {
            (proxy.get("/after").status == 200).then_some(())
        });
    }
}

#[test]
fn a_call_waits_for_the_end_of_a_pause() {
    let [agent, ..] = makes();
    let agent = agent.start();
    let origin = Origin::start();
    let proxy = asked(&agent, &origin, "timeout \"10s\"");
    says(&agent, &proxy, "pause", "healthy", true);
    let waiting = r#"portcullis_http_requests_in_flight"#;
    let mut clients: Vec<RawClient> = (0..8).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET /waits HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    eventually("a request that waits", || {
        (proxy.metric(waiting) >= 1.0).then_some(())
    });
    agent.says("resume");
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn d16_health_that_is_reported_is_obeyed_and_shown() {
    for (word, passes, state) in [
        ("degraded", true, "degraded"),
        ("draining", false, "draining"),
        ("unhealthy", false, "unhealthy"),
    ] {
        for agent in makes() {
            let agent = agent.start();
            let origin = Origin::start();
            let proxy = Proxy::builder(
                r#"
                admin { address "127.0.0.1:0" }
                routes { route "all" { filters { agent "waf" }; upstream "origin" } }
                "#,
            )
            .origin(&origin)
            .agent(&agent)
            .start();
            proxy.wait_ready();
            agent.says(word);
            eventually(word, || (status(&proxy)["state"] == state).then_some(()));
            if passes {
                assert_eq!(proxy.get("/").status, 200, "{word}");
                assert!(origin.last().header("x-judged").is_some());
            } else {
                eventually(word, || (proxy.get("/").status == 503).then_some(()));
                let line = proxy.access_line(|line| line["status"] == 503);
                assert_eq!(line["reason"], "unreachable");
                let detail = line["agents"][0]["reason"].as_str().unwrap();
                assert_eq!(detail, format!("the agent says that it is {word}"));
                // Once ready, the process stays so.
                assert_eq!(proxy.probe("/readyz").status, 200);
            }
            agent.says("healthy");
            eventually("well again", || {
                (status(&proxy)["state"] == "ready").then_some(())
            });
            eventually("verdicts", || (proxy.get("/").status == 200).then_some(()));
        }
    }
}

fn status(proxy: &Proxy) -> Value {
    let mut client = RawClient::connect(proxy.address_of("admin"));
    client.get("/status", &["host: localhost"]).json()["agents"][0].clone()
}

#[test]
fn calls_under_way_finish_while_an_agent_drains() {
    let agent = TestAgent::named("waf")
        .on("/slow", Reaction::late(&Decision::allow()))
        .start();
    let origin = Origin::start();
    let proxy = asked(&agent, &origin, "timeout \"10s\"");
    let mut waiting = proxy.client();
    waiting.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n");
    agent.saw(|event| event["uri"] == "/slow");
    says(&agent, &proxy, "draining", "draining", false);
    eventually("refusals", || (proxy.get("/").status == 503).then_some(()));
    agent.release();
    assert_eq!(waiting.response().status, 200);
}

#[test]
fn an_agent_gets_no_more_calls_at_once_than_it_bears() {
    let agent = TestAgent::named("waf")
        .bearing(2)
        .otherwise(Reaction::Hang)
        .start();
    let origin = Origin::start();
    let settings = "timeout \"10s\"; max-concurrent-calls 50 queue=0; pool min=4";
    let proxy = asked(&agent, &origin, settings);
    let mut clients: Vec<RawClient> = (0..2).map(|_| proxy.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n"));
    }
    proxy.wait_metric("portcullis_agent_in_flight", 2.0);
    let refused = proxy.get("/third");
    assert_eq!(refused.status, 503);
    assert_eq!(proxy.access_line_of("/third")["reason"], "saturated");
    proxy.log_line(|line| line["limit"] == 2 && line["configured"] == 50);
}

#[test]
fn an_agent_that_says_not_now_is_left_alone_for_as_long() {
    let agent = TestAgent::named("waf")
        .on("/busy", Reaction::Overloaded(Some(3_600_000)))
        .start();
    let origin = Origin::start();
    let proxy = asked(&agent, &origin, "timeout \"10s\"");
    let refused = proxy.get("/busy");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("3600"));
    assert_eq!(proxy.access_line_of("/busy")["reason"], "overloaded");
    // It is not even asked about others.
    let asked = agent.requests().len();
    let refused = proxy.get("/other");
    assert_eq!(refused.status, 503);
    assert!(
        refused
            .header("retry-after")
            .unwrap()
            .parse::<u32>()
            .unwrap()
            > 3500
    );
    assert_eq!(agent.requests().len(), asked);
    let failures = r#"portcullis_agent_calls_total{agent="waf",outcome="overloaded"}"#;
    proxy.wait_metric(failures, 2.0);
    assert_eq!(
        proxy.metric(r#"portcullis_agent_circuit_state{agent="waf",state="closed"}"#),
        1.0
    );
}

#[test]
fn d24_a_call_is_tried_again_as_often_as_it_may_be_and_when_there_is_time() {
    let agent = TestAgent::named("waf")
        .on("/busy", Reaction::Overloaded(Some(20)))
        .on("/silent", Reaction::Overloaded(None))
        .start();
    let origin = Origin::start();
    for (retries, asked) in [(0, 1), (1, 2), (3, 4)] {
        let settings = format!("timeout \"10s\"; overload retries={retries} backoff=\"1h\"");
        let proxy = self::asked(&agent, &origin, &settings);
        let before = agent.requests().len();
        let refused = proxy.get("/busy");
        assert_eq!(
            (refused.status, refused.header("retry-after")),
            (503, Some("1"))
        );
        assert_eq!(agent.requests().len() - before, asked);
        // Others wait for the end of its rest, which is short.
        assert_eq!(proxy.get("/fine").status, 200);
        // An agent that does not say how long has the time that is configured.
        assert_eq!(proxy.get("/silent").header("retry-after"), Some("3600"));
    }
}

#[test]
fn agents_of_one_quota_are_left_alone_together() {
    let busy = TestAgent::named("busy")
        .otherwise(Reaction::Overloaded(Some(3_600_000)))
        .start();
    let (same, other) = (
        TestAgent::named("same").start(),
        TestAgent::named("other").start(),
    );
    let origin = Origin::start();
    let route = |name: &str| {
        format!(
            "route \"{name}\" {{ match {{ path \"/{name}\" }}; filters {{ agent \"{name}\" }}; upstream \"origin\" }}\n"
        )
    };
    let routes: String = ["busy", "same", "other"].map(route).concat();
    let shared = "timeout \"10s\"; overload quota-key=\"llm\"";
    let proxy = Proxy::builder(format!("routes {{\n{routes}}}"))
        .origin(&origin)
        .agent_with(&busy, shared)
        .agent_with(&same, shared)
        .agent(&other)
        .start();
    proxy.wait_ready();
    assert_eq!(proxy.get("/busy").status, 503);
    assert_eq!(proxy.get("/same").status, 503);
    assert_eq!(same.requests().len(), 0);
    assert_eq!(proxy.get("/other").status, 200);
}

#[test]
fn an_open_agent_that_says_not_now_lets_pass() {
    let agent = TestAgent::named("waf")
        .otherwise(Reaction::Overloaded(None))
        .start();
    let origin = Origin::start();
    let proxy = asked(
        &agent,
        &origin,
        "timeout \"10s\"; failure-mode \"open\"; overload retries=0",
    );
    assert_eq!(proxy.get("/open").status, 200);
    let record = &proxy.access_line_of("/open")["agents"][0];
    assert_eq!(record["failure"], "overloaded");
    assert_eq!(record["failure_mode"], "open");
}
