//! Questions whose answer nobody wants any longer: another agent has decided, or the client has gone.

use super::{all_quiet, assert_outcomes, route, routes};
use crate::harness::{
    DEADLINE, Origin, Proxy, Saboteur, TestAgent,
    agent::{Dialect, Reaction},
    http2,
};
use portcullis_agent_protocol::Decision;
use serde_json::json;
use std::time::Instant;

#[test]
fn d11_a_block_cancels_those_who_are_still_thinking() {
    for dialect in [Dialect::Binary, Dialect::NumberedJson] {
        let origin = Origin::start();
        let fast = TestAgent::named("fast")
            .otherwise(Decision::block(403).reason("no"))
            .start();
        let slow = TestAgent::named("slow")
            .speaking(dialect)
            .otherwise(Reaction::Hang)
            .start();
        let saboteur = Saboteur::before(&slow);
        let filters = r#"parallel { agent "slow"; agent "fast" }"#;
        let proxy = routes(&route("both", filters, ""), &origin)
            .agent(&fast)
            .agent_behind(&saboteur, "slow", "timeout \"10s\"; pool min=1 max=1")
            .start();
        proxy.wait_ready();
        for _ in 0..3 {
            let started = Instant::now();
            let response = proxy.get("/both");
            assert_eq!(response.status, 403);
            assert!(started.elapsed() < DEADLINE / 5, "{:?}", started.elapsed());
            let id = response.header("x-request-id").unwrap();
            let line = proxy.access_line(|line| line["request_id"] == id);
            assert_outcomes(&line, &[("fast", "block"), ("slow", "cancelled")]);
            assert_eq!(line["blocked_by"], "fast");
            // It is told why, and only this event is meant.
            let cancel = saboteur.saw_cancel(2);
            assert!(cancel["event_id"].is_number(), "{cancel}");
            slow.saw(|event| event["event"] == "dropped" && event["uri"] == "/both");
            all_quiet(&proxy);
        }
        assert_eq!(saboteur.accepted(), 1, "the connection goes on");
        assert_eq!(origin.connections(), 0);
    }
}

fn asking_one(agent: &str, saboteur: &Saboteur, origin: &Origin) -> Proxy {
    let text = route("asked", &format!("agent \"{agent}\""), "");
    let proxy = routes(&text, origin)
        .agent_behind(saboteur, agent, "timeout \"10s\"; pool min=1 max=1")
        .start();
    proxy.wait_ready();
    proxy
}

fn assert_client_gone(proxy: &Proxy, path: &str) {
    let line = proxy.access_line_of(path);
    assert_eq!(line["status"], 499, "{line}");
    assert_eq!(line["reason"], "client_gone", "{line}");
    assert_outcomes(&line, &[("slow", "client_gone")]);
    let calls = r#"portcullis_agent_calls_total{agent="slow",outcome="client_gone"}"#;
    proxy.wait_metric(calls, 1.0);
    all_quiet(proxy);
}

#[test]
fn d13_a_client_that_goes_away_ends_the_question() {
    let origin = Origin::start();
    let slow = TestAgent::named("slow")
        .on("/asked/hang", Reaction::Hang)
        .start();
    let saboteur = Saboteur::before(&slow);
    let proxy = asking_one("slow", &saboteur, &origin);
    let mut client = proxy.client();
    client.send("GET /asked/hang HTTP/1.1\r\nhost: test\r\n\r\n");
    slow.saw(|event| event["uri"] == "/asked/hang");
    drop(client);
    let cancel = saboteur.saw_cancel(0);
    assert!(cancel["event_id"].is_number(), "{cancel}");
    slow.saw(|event| event["event"] == "dropped");
    assert_client_gone(&proxy, "/asked/hang");
    assert_eq!(proxy.get("/asked").status, 200);
    assert_eq!(saboteur.accepted(), 1, "the connection goes on");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn d13_a_stream_that_is_reset_ends_the_question() {
    let origin = Origin::start();
    let slow = TestAgent::named("slow")
        .on("/asked/hang", Reaction::Hang)
        .start();
    let saboteur = Saboteur::before(&slow);
    let proxy = asking_one("slow", &saboteur, &origin);
    http2::abandon(proxy.address_of("http"), http2::get("/asked/hang"), || {
        slow.saw(|event| event["uri"] == "/asked/hang");
    });
    saboteur.saw_cancel(0);
    slow.saw(|event| event["event"] == "dropped");
    assert_client_gone(&proxy, "/asked/hang");
    assert_eq!(proxy.get("/asked").status, 200);
}

#[test]
fn d13_all_agents_of_a_group_are_recorded_when_the_client_goes() {
    let origin = Origin::start();
    let quick = TestAgent::named("quick")
        .otherwise(Decision::allow().tag("kept"))
        .start();
    let slow = TestAgent::named("slow").otherwise(Reaction::Hang).start();
    let filters = r#"parallel { agent "slow"; agent "quick" }"#;
    let proxy = routes(&route("both", filters, ""), &origin)
        .agent(&quick)
        .agent(&slow)
        .start();
    proxy.wait_ready();
    let mut client = proxy.client();
    client.send("GET /both HTTP/1.1\r\nhost: test\r\n\r\n");
    slow.saw(|event| event["uri"] == "/both");
    proxy.wait_metric(r#"portcullis_agent_in_flight{agent="quick"}"#, 0.0);
    quick.saw(|event| event["uri"] == "/both");
    proxy.wait_metric(r#"portcullis_agent_in_flight{agent="quick"}"#, 0.0);
    drop(client);
    let line = proxy.access_line_of("/both");
    assert_eq!(line["status"], 499);
    assert_outcomes(&line, &[("quick", "allow"), ("slow", "client_gone")]);
    assert_eq!(line["agents"][0]["tags"], json!(["kept"]));
    all_quiet(&proxy);
}
