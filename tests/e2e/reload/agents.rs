//! Agents over reloads: kept when they are the same, started before they are needed, ended when nobody asks them any more.

use crate::harness::{
    Origin, Proxy, TestAgent,
    agent::{Dialect, Reaction},
    eventually,
    proxy::{Builder, processes},
};
use portcullis_agent_protocol::Decision;
use serde_json::json;

/// A route that asks these agents, closed, and one that asks nobody.
fn asking(origin: &Origin, agents: &[&str]) -> Builder {
    let filters: String = agents
        .iter()
        .map(|agent| format!("agent \"{agent}\"; "))
        .collect();
    Proxy::builder(format!(
        r#"
        system {{ worker-threads 2 }}
        routes {{
            route "free" {{ match {{ path-prefix "/free" }}; upstream "origin" }}
            route "all" {{ filters {{ {filters} response-headers {{ set "x-asked" "{}" }} }}; upstream "origin" }}
        }}"#,
        agents.len()
    ))
    .origin(origin)
}

fn judging(name: &str) -> TestAgent {
    TestAgent::named(name)
        .otherwise(Decision::allow().set_request_header(format!("x-{name}"), "yes"))
}

/// How many connections there are, as soon as every worker has one, and how often they were made again.
fn connections(proxy: &Proxy, agent: &str) -> (f64, f64) {
    let connections = format!("portcullis_agent_connections{{agent=\"{agent}\"}}");
    proxy.wait_metric(&connections, 2.0);
    let metric =
        |name: &str| proxy.metric(&format!("portcullis_agent_{name}{{agent=\"{agent}\"}}"));
    (metric("connections"), metric("reconnects_total"))
}

#[test]
fn d14_agents_that_stay_the_same_keep_their_connections() {
    let (waf, more) = (judging("waf").start(), judging("more").start());
    let origin = Origin::start();
    let proxy = asking(&origin, &["waf"]).agent(&waf).start();
    proxy.wait_ready();
    let before = connections(&proxy, "waf");
    proxy.reload(&asking(&origin, &["more", "waf"]).agent(&more).agent(&waf));
    assert_eq!(proxy.get("/").header("x-asked"), Some("2"));
    let request = origin.last();
    for header in ["x-waf", "x-more"] {
        assert_eq!(request.header(header).as_deref(), Some("yes"), "{header}");
    }
    assert_eq!(connections(&proxy, "waf"), before);
    let line = proxy.reload(&asking(&origin, &["waf"]).agent(&waf));
    assert!(
        line["changes"]
            .as_str()
            .unwrap()
            .ends_with("agents: -more 1 kept")
    );
    assert_eq!(connections(&proxy, "waf"), before);
    // What an agent is now is shown of those alone that are configured.
    assert!(
        !proxy
            .probe("/metrics")
            .text()
            .contains("agent_up{agent=\"more\"}")
    );
}

#[test]
fn d14_a_reload_waits_for_no_request_and_no_request_for_a_reload() {
    let waf = judging("waf").on("/hang", Reaction::Hang).start();
    let origin = Origin::start();
    let with = |agents: &[&str]| asking(&origin, agents).agent(&waf);
    let proxy = with(&["waf"]).start();
    proxy.wait_ready();
    let mut waiting = proxy.client();
    waiting.send("GET /hang HTTP/1.1\r\nhost: a\r\n\r\n");
    waf.saw(|event| event["uri"] == "/hang");
    // The slow agent holds up neither a reload nor the requests of the new configuration.
    proxy.reload(&with(&[]));
    assert_eq!(proxy.get("/").header("x-asked"), Some("0"));
    // An agent that never gets ready holds up the reload that brings it, and nobody else.
    let absent = TestAgent::named("absent");
    with(&["absent"]).agent(&absent).rewrite(&proxy);
    proxy.hang_up();
    assert_eq!(proxy.get("/").header("x-asked"), Some("0"));
    eventually("the reload", || {
        (proxy.get("/").status == 503).then_some(())
    });
    assert_eq!(proxy.get("/free").status, 200);
}

#[test]
fn a_breaker_that_is_open_stays_open() {
    let waf = TestAgent::named("waf").otherwise(Reaction::Hang).start();
    let origin = Origin::start();
    let settings = "timeout \"20ms\"; circuit-breaker failures=1 open-for=\"1h\"";
    let with = |agents: &[&str]| asking(&origin, agents).agent_with(&waf, settings);
    let proxy = with(&["waf"]).start();
    proxy.wait_ready();
    assert_eq!(proxy.get("/").status, 504);
    let open = r#"portcullis_agent_circuit_state{agent="waf",state="open"}"#;
    proxy.wait_metric(open, 1.0);
    proxy.reload(&with(&["waf", "waf"]));
    assert_eq!(proxy.metric(open), 1.0);
    assert_eq!(proxy.get("/").status, 503);
}

const GREETING: &str = "config { greeting \"hello\" }";
const REFUSED: &str = "config { greeting \"refuse-me\" }";

#[test]
fn a_changed_configuration_is_handed_over_and_acknowledged_first() {
    for dialect in [Dialect::Binary, Dialect::Legacy] {
        let waf = judging("waf").speaking(dialect).start();
        let origin = Origin::start();
        let with = |config: &str| {
            asking(&origin, &["waf"]).agent_with(&waf, &format!("timeout \"10s\"; {config}"))
        };
        let proxy = with("").start();
        proxy.wait_ready();
        proxy.reload(&with(GREETING));
        let configured = |event: &serde_json::Value| {
            event["event"] == "configure" && event["config"] == json!({"greeting": "hello"})
        };
        assert!(
            waf.record().iter().any(configured),
            "before the reload is done"
        );
        assert_eq!(proxy.get("/").status, 200);
    }
}

#[test]
fn an_agent_that_refuses_its_new_configuration_keeps_the_old_one() {
    for dialect in [Dialect::Binary, Dialect::Legacy] {
        let waf = judging("waf")
            .speaking(dialect)
            .refusing_config_with("refuse-me", "no such greeting")
            .start();
        let origin = Origin::start();
        let with = |config: &str| {
            asking(&origin, &["waf"]).agent_with(&waf, &format!("timeout \"10s\"; {config}"))
        };
        let proxy = with(GREETING).start();
        proxy.wait_ready();
        let before = connections(&proxy, "waf");
        proxy.reload_in_vain(&with(REFUSED));
        let log = proxy.log_text();
        assert!(
            log.contains(
                "agent \\\"waf\\\" refuses: the agent refused its configuration: no such greeting"
            ),
            "{log}"
        );
        assert_eq!(proxy.get("/").status, 200);
        assert_eq!(origin.last().header("x-waf").as_deref(), Some("yes"));
        assert_eq!(connections(&proxy, "waf"), before);
    }
}

#[test]
fn an_agent_that_lacks_a_phase_is_not_ready_and_refused() {
    let waf = judging("waf")
        .speaking(Dialect::Legacy)
        .supporting(&[3])
        .start();
    let origin = Origin::start();
    let proxy = asking(&origin, &["waf"]).agent(&waf).start();
    let why = "agent waf: the agent does not take request_headers";
    eventually("the reason", || {
        let unready = proxy.probe("/readyz?verbose");
        assert_eq!(unready.status, 503);
        unready.text().contains(why).then_some(())
    });
    let other = asking(&origin, &[]).start();
    other.reload_in_vain(&asking(&origin, &["waf"]).agent(&waf));
    eventually("the reason in the log", || {
        let said = "refuses: the agent does not take request_headers";
        other.log_text().contains(said).then_some(())
    });
    assert_eq!(other.get("/").status, 200);
}

const DENYLIST: &str = "builtin \"denylist\"; timeout \"10s\"; config { paths \"/secret\" }";
const STRICTER: &str =
    "builtin \"denylist\"; timeout \"10s\"; config { paths \"/secret\" \"/more\" }";

#[test]
fn supervised_agents_are_started_adopted_and_ended() {
    let origin = Origin::start();
    let with = |agent: &str| asking(&origin, &["guard"]).agent_block("guard", agent);
    let proxy = asking(&origin, &[]).start();
    assert_eq!(proxy.children().len(), 0);
    // It is ready before the configuration takes effect, so that no request is refused for want of it.
    proxy.reload(&with(DENYLIST));
    assert_eq!(proxy.get("/fine").status, 200);
    assert_eq!(proxy.get("/secret").status, 403);
    assert_eq!(proxy.get("/more").status, 200);
    let agent = proxy.children();
    assert_eq!(agent.len(), 1);
    // Another configuration is handed to the same process.
    proxy.reload(&with(STRICTER));
    assert_eq!(proxy.get("/more").status, 403);
    assert_eq!(proxy.children(), agent);
    proxy.reload(&with(STRICTER));
    assert_eq!(proxy.children(), agent);
    // Started in another way it is another process, and the old one ends.
    proxy.reload(&with(&format!("{STRICTER}; env {{ RUST_LOG \"debug\" }}")));
    assert_eq!(proxy.get("/more").status, 403);
    eventually("the end of the old agent", || {
        let ended = !processes().iter().any(|(process, _)| *process == agent[0]);
        (ended && proxy.children().len() == 1).then_some(())
    });
    proxy.reload(&asking(&origin, &[]));
    eventually("the end of all agents", || {
        proxy.children().is_empty().then_some(())
    });
}

#[test]
fn an_agent_of_a_reload_that_failed_does_not_stay() {
    let waf = judging("waf").refusing_config("no").start();
    let origin = Origin::start();
    let proxy = asking(&origin, &[]).start();
    let both = asking(&origin, &["guard", "waf"])
        .agent_block("guard", DENYLIST)
        .agent_with(&waf, GREETING);
    proxy.reload_in_vain(&both);
    eventually("the end of the agent", || {
        proxy.children().is_empty().then_some(())
    });
    assert_eq!(proxy.get("/secret").status, 200);
}

#[test]
fn an_old_agent_lives_as_long_as_a_request_may_ask_it() {
    let slow = TestAgent::named("slow")
        .on("/", Reaction::late(&Decision::allow()))
        .start();
    let origin = Origin::start();
    let both = asking(&origin, &["slow", "guard"])
        .agent(&slow)
        .agent_block("guard", DENYLIST);
    let proxy = both.start();
    proxy.wait_ready();
    let agent = proxy.children();
    let mut waiting = proxy.client();
    waiting.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    slow.saw(|event| event["uri"] == "/");
    proxy.reload(&asking(&origin, &[]));
    assert_eq!(proxy.get("/secret").status, 200);
    assert_eq!(proxy.children(), agent);
    slow.release();
    let answer = waiting.response();
    assert_eq!((answer.status, answer.header("x-asked")), (200, Some("2")));
    let line = proxy.access_line(|line| line["agents"][1]["name"] == "guard");
    assert_eq!(line["agents"][1]["verdict"], "allow");
    eventually("the end of the agent", || {
        proxy.children().is_empty().then_some(())
    });
}
