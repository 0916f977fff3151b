//! A shadow agent that is obeyed for a share of clients, and for nobody when it fails too often.

use super::{entry, everything, past_with, series, wait_up};
use crate::harness::{
    Origin, Proxy, TestAgent,
    agent::{Phase, Reaction, When},
    proxy::Builder,
};
use portcullis_agent_protocol::Decision;
use std::collections::BTreeSet;

/// A proxy that believes who its clients are, with an agent in the shadow.
fn ramped(ramp: &str, agent: &TestAgent, settings: &str, origin: &Origin) -> Builder {
    let filters = format!(r#"agent "next" mode="shadow" {ramp}"#);
    let system = r#"worker-threads 1; trusted-proxies "127.0.0.1""#;
    past_with(&filters, system, origin).agent_with(agent, settings)
}

/// Of these clients, those whose requests are refused.
fn refused(proxy: &Proxy, clients: u16) -> BTreeSet<u16> {
    let asked = |client: &u16| {
        let [high, low] = client.to_be_bytes();
        let from = format!("x-forwarded-for: 10.20.{high}.{low}");
        let status = proxy.get_with("/", &[&from]).status;
        assert!([200, 403].contains(&status), "{status}");
        status == 403
    };
    (0..clients).filter(asked).collect()
}

#[test]
fn a_share_of_clients_gets_the_verdicts() {
    const CLIENTS: u16 = 200;
    let origin = Origin::start();
    let next = TestAgent::named("next")
        .otherwise(Decision::block(403))
        .start();
    let with = |share: &str| {
        let ramp = format!("enforce=\"{share}\"");
        ramped(&ramp, &next, "timeout \"10s\"", &origin)
    };
    let proxy = with("0%").start();
    wait_up(&proxy, &next);
    assert_eq!(refused(&proxy, CLIENTS), BTreeSet::new());
    let mut before = BTreeSet::new();
    for (share, about) in [("10%", 20), ("30%", 60), ("75.5%", 151), ("100%", 200)] {
        proxy.reload(&with(share));
        let now = refused(&proxy, CLIENTS);
        assert_eq!(
            refused(&proxy, CLIENTS),
            now,
            "{share}: nobody changes sides"
        );
        assert!(now.is_superset(&before), "{share}: it only adds clients");
        assert!(now.len().abs_diff(about) <= 20, "{share}: {}", now.len());
        assert_eq!(entry(&proxy)["enforce"], share);
        before = now;
    }
    assert_eq!(before.len(), usize::from(CLIENTS));
    // Another process agrees about who is who.
    let other = with("30%").start();
    wait_up(&other, &next);
    proxy.reload(&with("30%"));
    assert_eq!(refused(&other, CLIENTS), refused(&proxy, CLIENTS));
}

#[test]
fn for_them_it_is_an_agent_like_any_other() {
    let origin = Origin::answering(|request| crate::harness::Answer::with(200, &[], &request.body));
    for (share, status, body) in [("0%", 200, "hello"), ("100%", 200, "(<hello>)")] {
        let next = TestAgent::named("next")
            .otherwise(Decision::allow().set_request_header("x-next", "1"))
            .then(
                Phase::RequestBody,
                When::Last,
                Reaction::Replace("<$DATA>".into()),
            )
            .then(
                Phase::ResponseBody,
                When::Last,
                Reaction::Replace("($DATA)".into()),
            )
            .start();
        let settings = format!("timeout \"10s\"; {}", everything("buffer"));
        let ramp = format!("enforce=\"{share}\"");
        let proxy = ramped(&ramp, &next, &settings, &origin).start();
        wait_up(&proxy, &next);
        let request = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello";
        let response = proxy.client().send(request).response();
        assert_eq!(
            (response.status, response.text().as_str()),
            (status, body),
            "{share}"
        );
        let obeyed = share == "100%";
        assert_eq!(origin.last().header("x-next").is_some(), obeyed, "{share}");
        next.wait_seen("request_complete", 1);
        let line = proxy.access_line_of("/");
        assert_eq!(line.get("agents").is_some(), obeyed, "{line}");
        // Both bodies and both heads, once each.
        let compared = if obeyed { 0.0 } else { 4.0 };
        proxy.wait_metric(&series("allow", "allow"), compared);
    }
}

#[test]
fn too_many_failures_end_the_ramp_until_a_reload() {
    let origin = Origin::start();
    let next = TestAgent::named("next").on("/bad", Reaction::Fail).start();
    let ramp = r#"enforce="100%" fallback-failures="50%" fallback-calls=8"#;
    let settings = "timeout \"10s\"; circuit-breaker failures=1000";
    let builder = ramped(ramp, &next, settings, &origin);
    let proxy = builder.clone().start();
    wait_up(&proxy, &next);
    let fallbacks = r#"portcullis_shadow_fallbacks_total{route="all",agent="next"}"#;
    for round in [1.0, 2.0] {
        // Four of eight calls.
        for _ in 0..3 {
            assert_eq!(proxy.get("/bad").status, 502);
            assert_eq!(proxy.get("/good").status, 200);
        }
        assert_eq!(entry(&proxy)["fallen_back"], false);
        assert_eq!(proxy.metric(fallbacks), round - 1.0);
        assert_eq!(proxy.get("/bad").status, 502);
        proxy.wait_metric(fallbacks, round);
        assert_eq!(proxy.get("/bad").status, 200);
        assert_eq!(entry(&proxy)["fallen_back"], true);
        proxy.log_line(|line| line["agent"] == "next" && line["failures"] == 4);
        proxy.wait_metric(&series("protocol_error", "allow"), round);
        proxy.reload(&builder);
    }
}

#[test]
fn the_ramp_comes_back_by_itself() {
    let origin = Origin::start();
    let next = TestAgent::named("next").otherwise(Reaction::Fail).start();
    let ramp = r#"enforce="100%" fallback-failures="100%" fallback-calls=1 fallback-for="300ms""#;
    let settings = "timeout \"10s\"; circuit-breaker failures=1000";
    let proxy = ramped(ramp, &next, settings, &origin).start();
    wait_up(&proxy, &next);
    assert_eq!(proxy.get("/").status, 502);
    crate::harness::eventually("shadowed", || (proxy.get("/").status == 200).then_some(()));
    crate::harness::eventually("enforced", || (proxy.get("/").status == 502).then_some(()));
}

#[test]
fn failures_in_the_shadow_end_it_too() {
    let origin = Origin::start();
    let next = TestAgent::named("next").otherwise(Reaction::Fail).start();
    let ramp = r#"enforce="0%" fallback-failures="100%" fallback-calls=5"#;
    let proxy = ramped(ramp, &next, "timeout \"10s\"", &origin).start();
    wait_up(&proxy, &next);
    for _ in 0..5 {
        assert_eq!(proxy.get("/").status, 200);
    }
    let fallbacks = r#"portcullis_shadow_fallbacks_total{route="all",agent="next"}"#;
    proxy.wait_metric(fallbacks, 1.0);
}
