//! What agents say unasked: their own metrics, and what they want to have changed.

use crate::harness::{
    Origin, Proxy, RawClient, TestAgent, agent::Dialect, eventually, proxy::Builder,
};
use serde_json::Value;

/// A proxy with one worker and the admin listener, whose route names this agent. Not started yet.
fn asking(agent: &TestAgent, origin: &Origin, settings: &str) -> Builder {
    let name = agent.name();
    Proxy::builder(format!(
        r#"system {{ worker-threads 2 }}
admin {{ address "127.0.0.1:0" }}
routes {{ route "all" {{ filters {{ agent "{name}" }}; upstream "origin" }} }}"#
    ))
    .origin(origin)
    .agent_with(agent, &format!("timeout \"10s\"; {settings}"))
}

fn by_hand(name: &str) -> TestAgent {
    TestAgent::named(name).speaking(Dialect::Legacy).start()
}

/// What the admin listener says of the only agent.
fn status(proxy: &Proxy) -> Value {
    let mut admin = RawClient::connect(proxy.address_of("admin"));
    admin.get("/status", &["host: localhost"]).json()["agents"][0].clone()
}

#[test]
fn metrics_of_an_agent_stand_beside_ours_as_long_as_it_is_there() {
    let origin = Origin::start();
    let mut agent = by_hand("waf");
    let proxy = asking(&agent, &origin, "").start();
    proxy.wait_ready();
    agent.says(
        r#"metrics {"agent_id":"x","timestamp_ms":1,"interval_ms":10000,"counters":[{"name":"hits_total","help":"Rules that matched","labels":{"rule":"a\"b"},"value":7}],"gauges":[{"name":"rules","value":2.5,"labels":{}}],"histograms":[{"name":"took_seconds","labels":{},"sum":1.5,"count":3,"buckets":[{"le":0.1,"count":1},{"le":"+Inf","count":3}]}]}"#,
    );
    let hits = r#"portcullis_agent_reported_hits_total{agent="waf",rule="a\"b"} 7.0"#;
    let text = eventually("metrics of the agent", || {
        Some(proxy.probe("/metrics").text()).filter(|text| text.contains(hits))
    });
    for line in [
        "# TYPE portcullis_agent_reported_hits counter",
        r#"portcullis_agent_reported_rules{agent="waf"} 2.5"#,
        r#"portcullis_agent_reported_took_seconds_bucket{le="+Inf",agent="waf"} 3"#,
        r#"portcullis_agent_metrics_series{agent="waf"} 6"#,
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert_eq!(status(&proxy)["reported_metrics"]["series"], 6);
    agent.kill();
    eventually("the end of the series", || {
        let text = proxy.probe("/metrics").text();
        (!text.contains("portcullis_agent_reported")).then_some(())
    });
}

#[test]
fn no_more_series_are_shown_than_the_configuration_allows() {
    let origin = Origin::start();
    let agent = by_hand("waf");
    let proxy = asking(&agent, &origin, "reported-metrics max-series=2").start();
    proxy.wait_ready();
    let gauge = |label: usize| format!(r#"{{"name":"g","labels":{{"k":"{label}"}},"value":1}}"#);
    let gauges: Vec<String> = (0..5).map(gauge).collect();
    let report = format!(
        r#"metrics {{"gauges":[{{"name":"no name","value":1}},{}]}}"#,
        gauges.join(",")
    );
    agent.says(&report);
    // Each connection says it once, and there are two.
    proxy.wait_metric(
        r#"portcullis_agent_metrics_dropped_total{reason="limit"}"#,
        6.0,
    );
    assert_eq!(
        proxy.metric(r#"portcullis_agent_metrics_dropped_total{reason="invalid"}"#),
        2.0
    );
    assert_eq!(proxy.metric("portcullis_agent_reported_g"), 2.0);
    assert_eq!(proxy.metric("portcullis_agent_metrics_reports_total"), 2.0);
    let line = proxy.log_line(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("metrics of this agent are dropped")
    });
    assert_eq!(line["agent"], "waf");
}

#[test]
fn agents_of_the_library_report_too() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let proxy = asking(&agent, &origin, "").start();
    proxy.wait_ready();
    agent.says("metrics");
    proxy.wait_metric(
        r#"portcullis_agent_reported_hits_total{agent="waf",rule="a"}"#,
        7.0,
    );
}

#[test]
fn a_reload_is_not_an_agents_to_ask_for_unless_it_is_let() {
    let origin = Origin::start();
    let agent = by_hand("waf");
    let proxy = asking(&agent, &origin, "").start();
    proxy.wait_ready();
    agent.says(
        r#"update {"update_type":{"type":"request_reload"},"request_id":"u1","timestamp_ms":1}"#,
    );
    let refused = r#"portcullis_agent_config_updates_total{agent="waf",kind="request_reload",outcome="not_allowed"}"#;
    proxy.wait_metric(refused, 2.0);
    let line = proxy.log_line(|line| line["kind"] == "request_reload");
    assert!(
        line["message"].as_str().unwrap().contains("`allow-reload`"),
        "{line}"
    );
    assert_eq!(proxy.metric("portcullis_config_generation"), 1.0);
    let last = &status(&proxy)["last_config_update"];
    assert_eq!(last["outcome"], "not_allowed");
}

#[test]
fn an_agent_that_is_let_has_the_configuration_read_again_and_not_too_often() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let proxy = asking(&agent, &origin, "allow-reload min-interval=\"1h\"").start();
    proxy.wait_ready();
    // Another configuration, with the same agent.
    let other = Proxy::builder(
        r#"system { worker-threads 2 }
admin { address "127.0.0.1:0" }
routes { route "all" { filters { agent "waf" }; respond 201 } }"#,
    )
    .agent_with(&agent, "timeout \"10s\"; allow-reload min-interval=\"1h\"");
    other.rewrite(&proxy);
    agent.says("reload");
    proxy.wait_metric("portcullis_config_generation", 2.0);
    assert_eq!(proxy.get("/").status, 201);
    let updates = "portcullis_agent_config_updates_total";
    proxy.wait_metric(&format!(r#"{updates}{{outcome="done"}}"#), 1.0);
    // The other connection said the same.
    proxy.wait_metric(&format!(r#"{updates}{{outcome="repeated"}}"#), 1.0);
    agent.says("reload");
    proxy.wait_metric(&format!(r#"{updates}{{outcome="too_soon"}}"#), 2.0);
    assert_eq!(proxy.metric("portcullis_config_generation"), 2.0);
    assert_eq!(status(&proxy)["last_config_update"]["outcome"], "too_soon");
}

#[test]
fn what_nobody_can_do_is_refused_with_a_reason() {
    let origin = Origin::start();
    let agent = by_hand("waf");
    let proxy = asking(&agent, &origin, "allow-reload").start();
    proxy.wait_ready();
    for (kind, members, detail) in [
        (
            "rule_update",
            r#""rule_set":"crs","rules":[{}]"#,
            "rule set crs: 1 rules, 0 removed",
        ),
        (
            "config_error",
            r#""error":"no\nsuch file","field":"rules""#,
            "rules: no\nsuch file",
        ),
        ("restart_required", r#""reason":"new rules""#, "new rules"),
    ] {
        agent.says(&format!(
            r#"update {{"update_type":{{"type":"{kind}",{members}}},"request_id":"u1"}}"#
        ));
        let series = format!(
            r#"portcullis_agent_config_updates_total{{agent="waf",kind="{kind}",outcome="not_possible"}}"#
        );
        proxy.wait_metric(&series, 2.0);
        let line = proxy.log_line(|line| line["kind"] == kind);
        assert_eq!(line["agent"], "waf");
        let last = status(&proxy)["last_config_update"].clone();
        assert_eq!(
            (&last["kind"], &last["detail"]),
            (&kind.into(), &detail.into())
        );
    }
    assert_eq!(proxy.metric("portcullis_config_generation"), 1.0);
    assert_eq!(proxy.get("/").status, 200);
}
