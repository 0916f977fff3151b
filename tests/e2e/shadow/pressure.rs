//! What there is no room for is dropped, counted, and hurts nobody.

use super::{entry, past, past_with, wait_up};
use crate::harness::{Origin, Proxy, TestAgent, agent::Reaction};
use portcullis_agent_protocol::Decision;

fn dropped(reason: &str) -> String {
    format!("portcullis_shadow_dropped_total{{agent=\"next\",reason=\"{reason}\"}}")
}

#[test]
fn more_heads_than_may_wait_are_dropped() {
    let origin = Origin::start();
    let next = TestAgent::named("next")
        .otherwise(Reaction::late(&Decision::allow()))
        .start();
    let proxy = past(r#"agent "next" mode="shadow""#, &origin)
        .agent_with(&next, "timeout \"10s\"; max-concurrent-calls 2 queue=1")
        .start();
    wait_up(&proxy, &next);
    for _ in 0..10 {
        assert_eq!(proxy.get("/").status, 200);
    }
    assert_eq!(proxy.metric(&dropped("calls")), 7.0);
    next.release();
    proxy.wait_metric(&super::series("allow", "allow"), 3.0);
    assert_eq!(entry(&proxy)["dropped"], 7);
    assert_eq!(next.requests().len(), 3);
    // There is room again.
    assert_eq!(proxy.get("/").status, 200);
    proxy.wait_metric(&super::series("allow", "allow"), 4.0);
}

#[test]
fn copies_take_their_share_of_memory_and_no_more() {
    let origin =
        Origin::answering(|request| crate::harness::Answer::ok(&request.body.len().to_string()));
    let next = TestAgent::named("next").otherwise(Reaction::Hang).start();
    let waf = TestAgent::named("waf").start();
    let filters = r#"agent "next" mode="shadow"; agent "waf""#;
    let system = r#"worker-threads 1; buffer-memory "1MiB""#;
    let body = "inspect { request-headers; request-body \"buffer\" limit=\"1MiB\" }";
    let proxy = past_with(filters, system, &origin)
        .agent_with(&next, &format!("timeout \"1s\"; {body}"))
        .agent_with(&waf, &format!("timeout \"10s\"; {body}"))
        .start();
    proxy.wait_ready();
    wait_up(&proxy, &next);
    // The agent hangs over the head, so copies of the body have to wait. An eighth of a mebibyte is too little for this one.
    let size = 900_000;
    for _ in 0..3 {
        let head = format!("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {size}\r\n\r\n");
        let request = [head.into_bytes(), vec![b'x'; size]].concat();
        let response = proxy.client().send(request).response();
        assert_eq!((response.status, response.text()), (200, size.to_string()));
    }
    proxy.wait_metric(&dropped("memory"), 3.0);
    assert_eq!(waf.requests().len(), 3);
    // What the agent said of the heads counts.
    proxy.wait_metric(&super::series("timeout", "allow"), 3.0);
}

/// Where the same agent is enforced on another route, the requests that wait for it go first.
#[test]
fn requests_that_wait_for_an_agent_go_before_its_shadow() {
    let origin = Origin::start();
    let next = TestAgent::named("next")
        .on("/shadow", Reaction::late(&Decision::allow()))
        .start();
    let routes = r#"
        route "all" { match { path "/shadow" }; filters { agent "next" mode="shadow" }; upstream "origin" }
        route "real" { match { path "/real" }; filters { agent "next" }; upstream "origin" }
    "#;
    let proxy = Proxy::builder(format!("routes {{ {routes} }}"))
        .origin(&origin)
        .agent_with(&next, "timeout \"10s\"; max-concurrent-calls 2 queue=10")
        .start();
    proxy.wait_ready();
    for _ in 0..5 {
        assert_eq!(proxy.get("/shadow").status, 200);
    }
    let saturated = super::series("saturated", "allow");
    proxy.wait_metric(&saturated, 4.0);
    // One of the two calls is left, and nobody waits in the queue for it.
    assert_eq!(proxy.get("/real").status, 200);
    assert_eq!(proxy.metric(&super::series("allow", "allow")), 0.0);
    next.release();
    proxy.wait_metric(&super::series("allow", "allow"), 1.0);
}
