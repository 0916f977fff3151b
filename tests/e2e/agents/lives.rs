//! Agents come and go: connecting, configuration, restarts, and the agents that the proxy starts itself.

use super::{asked, asking};
use crate::harness::{
    Origin, Proxy, TestAgent,
    agent::{Dialect, Handshake},
    eventually,
};
use portcullis_agent_protocol::Decision;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

#[test]
fn d17_an_agent_may_come_back() {
    for dialect in [Dialect::Binary, Dialect::Legacy] {
        let mut agent = TestAgent::named("waf")
            .speaking(dialect)
            .otherwise(Decision::allow().set_request_header("x-judged", "yes"))
            .start();
        let origin = Origin::start();
        let proxy = asked(&agent, &origin);
        for _ in 0..3 {
            eventually("verdicts", || (proxy.get("/").status == 200).then_some(()));
            agent.kill();
            eventually("refusals", || (proxy.get("/").status == 503).then_some(()));
            agent.start_again();
        }
        eventually("verdicts", || (proxy.get("/").status == 200).then_some(()));
        assert!(
            origin
                .requests()
                .iter()
                .all(|request| request.header("x-judged").is_some())
        );
        proxy
            .log_line(|line| line["message"] == "agent connection ended" && line["agent"] == "waf");
    }
}

#[test]
fn d17_an_agent_may_come_late() {
    let mut agent = TestAgent::named("late");
    let origin = Origin::start();
    let proxy = asking(&agent, &origin).agent(&agent).start();
    assert_eq!(proxy.get("/").status, 503);
    let unready = proxy.probe("/readyz?verbose");
    assert_eq!(unready.status, 503);
    assert!(unready.text().contains("agent late"), "{}", unready.text());
    proxy.wait_metric(r#"portcullis_agent_up{agent="late"}"#, 0.0);
    agent.start_again();
    proxy.wait_ready();
    assert_eq!(proxy.get("/").status, 200);
    proxy.wait_metric(r#"portcullis_agent_up{agent="late"}"#, 1.0);
}

#[test]
fn readiness_does_not_wait_for_open_agents() {
    let agent = TestAgent::named("absent");
    let origin = Origin::start();
    let proxy = asking(&agent, &origin)
        .agent_with(&agent, "failure-mode \"open\"")
        .start();
    proxy.wait_ready();
}

const CONFIG: &str =
    r#"config { paranoia-level 2; rules "a.conf" "b.conf"; strict #true; nested { name "x" } }"#;

fn config() -> Value {
    json!({"paranoia-level": 2, "rules": ["a.conf", "b.conf"], "strict": true, "nested": {"name": "x"}})
}

#[test]
fn an_agent_gets_its_configuration_before_the_first_question() {
    for dialect in [Dialect::Binary, Dialect::Json, Dialect::Legacy] {
        let agent = TestAgent::named("waf").speaking(dialect).start();
        let origin = Origin::start();
        let proxy = asking(&agent, &origin).agent_with(&agent, CONFIG).start();
        proxy.wait_ready();
        proxy.get("/");
        let told = agent.record();
        let configure = told
            .iter()
            .find(|event| event["event"] == "configure")
            .unwrap();
        assert_eq!(configure["config"], config());
        assert_ne!(told[0]["event"], "request_headers");
        if dialect == Dialect::Legacy {
            assert_eq!(told[0]["event"], "handshake");
            assert_eq!(told[0]["config"], config());
            assert_eq!(told[0]["supported_versions"], json!([2]));
        }
    }
}

#[test]
fn an_agent_without_a_configuration_is_not_configured() {
    let agent = TestAgent::named("waf").speaking(Dialect::Legacy).start();
    let origin = Origin::start();
    asked(&agent, &origin);
    let told = agent.record();
    assert_eq!(told[0]["config"], Value::Null);
    assert!(told.iter().all(|event| event["event"] != "configure"));
}

#[test]
fn an_agent_that_refuses_its_configuration_is_not_used() {
    for dialect in [Dialect::Binary, Dialect::Json, Dialect::Legacy] {
        let agent = TestAgent::named("picky")
            .speaking(dialect)
            .refusing_config("no such rule: b.conf")
            .start();
        let origin = Origin::start();
        let proxy = asking(&agent, &origin)
            .agent_with(&agent, &format!("timeout \"10s\"; {CONFIG}"))
            .start();
        agent.saw(|event| event["event"] == "configure");
        let unready = eventually("the refusal", || {
            let answer = proxy.probe("/readyz?verbose");
            assert_eq!(answer.status, 503);
            answer.text().contains("no such rule").then_some(answer)
        });
        assert!(unready.text().contains("agent picky"), "{}", unready.text());
        // Without being asked for more, the probe does not tell.
        assert_eq!(proxy.probe("/readyz").text(), "not ready\n");
        assert_eq!(proxy.get("/").status, 503);
        assert_eq!(proxy.access_line_of("/")["reason"], "unreachable");
        assert_eq!(agent.requests(), Vec::<Value>::new());
        assert_eq!(origin.connections(), 0);
        proxy.log_line(|line| {
            line["agent"] == "picky" && line["error"].to_string().contains("no such rule")
        });
    }
}

#[test]
fn an_agent_that_refuses_the_handshake_is_named() {
    let agent = TestAgent::named("rude")
        .at_handshake(Handshake::Refuse)
        .start();
    let origin = Origin::start();
    let proxy = asking(&agent, &origin).agent(&agent).start();
    eventually("the refusal", || {
        let text = proxy.probe("/readyz?verbose").text();
        (text.contains("agent rude") && text.contains("not you")).then_some(())
    });
}

/// A proxy with an agent that it starts itself.
fn starting(agent: &str, origin: &Origin) -> Proxy {
    let proxy =
        Proxy::builder(r#"routes { route "all" { filters { agent "own" }; upstream "origin" } }"#)
            .origin(origin)
            .agent_block("own", &format!("{agent}; timeout \"10s\""))
            .start();
    proxy.wait_ready();
    proxy
}

#[test]
fn a_builtin_agent_is_a_process_of_its_own() {
    let origin = Origin::start();
    let proxy = starting("builtin \"echo\"", &origin);
    let response = proxy.get_with("/", &["x-agent-echo: made up"]);
    assert_eq!(response.header("x-agent-echo"), Some("echo"));
    assert_eq!(
        origin.last().header("x-agent-echo").as_deref(),
        Some("echo")
    );
    assert_eq!(proxy.children().len(), 1);
}

#[test]
fn a_command_is_started_with_nothing_but_what_is_written() {
    let origin = Origin::start();
    let program = env!("CARGO_BIN_EXE_portcullis");
    let proxy = starting(
        &format!(r#"command "{program}" "agent" "echo"; env {{ X_OWN "value" }}"#),
        &origin,
    );
    assert_eq!(proxy.get("/").header("x-agent-echo"), Some("echo"));
    let child = proxy.children()[0];
    let environment = std::fs::read(format!("/proc/{child}/environ")).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    let mut names: Vec<_> = environment
        .split_terminator('\0')
        .filter_map(|variable| Some(variable.split_once('=')?.0))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["PORTCULLIS_AGENT_SOCKET", "X_OWN"]);
    // What it prints is in the log, under its name.
    proxy.log_line(|line| {
        line["agent"] == "own" && line["message"].to_string().contains("listens on")
    });
}

#[test]
fn an_agent_that_ends_is_started_again() {
    let origin = Origin::start();
    let proxy = starting("builtin \"echo\"", &origin);
    let first = proxy.children();
    let process = Pid::from_raw(first[0].try_into().unwrap()).unwrap();
    rustix::process::kill_process(process, Signal::KILL).unwrap();
    eventually("another process", || {
        let now = proxy.children();
        (now.len() == 1 && now != first).then_some(())
    });
    eventually("verdicts again", || {
        (proxy.get("/").status == 200).then_some(())
    });
    proxy.log_line(|line| line["message"] == "agent ended by itself" && line["agent"] == "own");
}

#[test]
fn the_socket_of_an_own_agent_is_private() {
    use std::os::unix::fs::MetadataExt;
    let origin = Origin::start();
    let proxy = starting("builtin \"echo\"", &origin);
    let child = proxy.children()[0];
    let environment = std::fs::read(format!("/proc/{child}/environ")).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    let socket = environment
        .split('\0')
        .find_map(|variable| variable.strip_prefix("PORTCULLIS_AGENT_SOCKET="))
        .unwrap();
    let folder = std::path::Path::new(socket).parent().unwrap();
    assert_eq!(std::fs::metadata(folder).unwrap().mode() & 0o777, 0o700);
    let path = folder.to_owned();
    let mut proxy = proxy;
    proxy.signal(Signal::TERM);
    assert!(proxy.wait_end().success());
    assert!(!path.exists(), "the folder goes with the proxy");
}
