//! The connections of a pool, as agents and metrics see them.

use super::{all_quiet, route, routes};
use crate::harness::{
    Origin, RawClient, TestAgent,
    agent::{Dialect, Handshake, Reaction},
    eventually,
};
use portcullis_agent_protocol::Decision;
use std::time::{Duration, Instant};

const CONNECTIONS: &str = r#"portcullis_agent_connections{agent="waf"}"#;

#[test]
fn d23_a_pool_grows_to_its_maximum_and_shrinks_to_its_minimum() {
    let origin = Origin::start();
    // A legacy agent works on one event at a time, so each of them wants a connection of its own.
    let slow = Reaction::slow(Duration::from_millis(20), &Decision::allow());
    let agent = TestAgent::named("waf")
        .speaking(Dialect::Json)
        .otherwise(slow)
        .start();
    let pool = "pool min=2 max=5 idle=\"400ms\" maintenance=\"50ms\"";
    let proxy = routes(&route("asked", r#"agent "waf""#, ""), &origin)
        .agent_with(&agent, &format!("timeout \"10s\"; {pool}"))
        .start();
    proxy.wait_ready();
    assert_eq!(proxy.metric(CONNECTIONS), 2.0);
    let mut clients: Vec<RawClient> = (0..12).map(|_| proxy.client()).collect();
    let mut most = 0.0_f64;
    for _ in 0..15 {
        for client in &mut clients {
            client.send("GET /asked HTTP/1.1\r\nhost: a\r\n\r\n");
        }
        most = most.max(proxy.metric(CONNECTIONS));
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
    }
    most = most.max(proxy.metric(CONNECTIONS));
    assert_eq!(most, 5.0);
    proxy.wait_metric(CONNECTIONS, 2.0);
    let shrunk = Instant::now();
    while shrunk.elapsed() < Duration::from_millis(600) {
        assert_eq!(proxy.metric(CONNECTIONS), 2.0);
    }
    assert_eq!(
        proxy.metric(r#"portcullis_agent_pool_created_total{agent="waf"}"#),
        5.0
    );
    assert_eq!(
        proxy.metric(r#"portcullis_agent_pool_closed_total{agent="waf"}"#),
        3.0
    );
    assert_eq!(
        proxy.metric(r#"portcullis_agent_reconnects_total{agent="waf"}"#),
        0.0
    );
    all_quiet(&proxy);
}

#[test]
fn d23_a_connection_has_no_more_events_than_it_may_and_calls_wait_for_room() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf")
        .on("/asked/late", Reaction::late(&Decision::allow()))
        .start();
    let text = route("asked", r#"agent "waf""#, "")
        + &route("hurried", r#"agent "waf" timeout="200ms""#, "");
    let proxy = routes(&text, &origin)
        .agent_with(
            &agent,
            "timeout \"10s\"; pool min=1 max=1 max-outstanding=2",
        )
        .start();
    proxy.wait_ready();
    let mut clients: Vec<RawClient> = (0..3).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET /asked/late HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    proxy.wait_metric(
        r#"portcullis_agent_pool_lookups_total{agent="waf",result="waited"}"#,
        1.0,
    );
    assert_eq!(agent.wait_seen("request_headers", 2).len(), 2);
    // There is no room in its time, which is not the agent's fault.
    let refused = proxy.get("/hurried");
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(proxy.access_line_of("/hurried")["reason"], "saturated");
    assert_eq!(agent.requests().len(), 2);
    agent.release();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(agent.requests().len(), 3);
    all_quiet(&proxy);
}

#[test]
fn a_connection_that_is_not_made_in_time_is_given_up() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf")
        .at_handshake(Handshake::Hang)
        .start();
    let proxy = routes(&route("asked", r#"agent "waf""#, ""), &origin)
        .agent_with(&agent, "timeout \"10s\"; pool connect-timeout=\"100ms\"")
        .start();
    let started = Instant::now();
    eventually("the end of the attempt", || {
        let text = proxy.probe("/readyz?verbose").text();
        text.contains("did not finish the handshake in time")
            .then_some(())
    });
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!(proxy.get("/asked").status, 503);
}
