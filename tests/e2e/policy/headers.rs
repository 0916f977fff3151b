//! Headers that belong to an agent, and headers that an agent is told.

use super::{FREE, all_up, assert_outcomes, route, routes};
use crate::harness::{Origin, Proxy, TestAgent, agent::Reaction};
use portcullis_agent_protocol::Decision;
use serde_json::{Value, json};

/// Ways in which a client may write what only the agent may say.
const CLAIMS: [&str; 8] = [
    "x-user: root",
    "X-USER: root",
    "x_user: root",
    "X_User: root",
    "x-auth-role: root",
    "X-Auth_Role: root",
    "x_auth_role: root",
    "x-auth-: root",
];

const OTHERS: [&str; 2] = ["x-user-agent: kept", "x-author: kept"];

fn owned(origin: &Origin, owner: &TestAgent, other: &TestAgent) -> Proxy {
    let text = route("owned", r#"agent "owner"; agent "other""#, "")
        + &route(
            "open",
            r#"agent "owner" failure-mode="open"; agent "other""#,
            "",
        )
        + &route("other", r#"agent "other""#, "")
        + FREE;
    let settings =
        r#"timeout "10s"; circuit-breaker failures=1000; owns-headers "X-User" "x-auth-*""#;
    let proxy = routes(&text, origin)
        .agent_with(owner, settings)
        .agent_with(other, "timeout \"10s\"; circuit-breaker failures=1000")
        .start();
    all_up(&proxy, &[owner, other]);
    proxy
}

fn claimed() -> Vec<&'static str> {
    [&CLAIMS[..], &OTHERS[..]].concat()
}

/// No spelling of a header that the agent owns is left.
fn assert_no_claims(told: &Value) {
    for name in told.as_object().unwrap().keys() {
        let plain = name.to_ascii_lowercase().replace('_', "-");
        let claims = plain == "x-user" || plain.starts_with("x-auth-");
        assert!(!claims, "{told}");
    }
    assert_eq!(told["x-user-agent"], json!(["kept"]));
    assert_eq!(told["x-author"], json!(["kept"]));
}

#[test]
fn d27_what_an_agent_owns_no_client_can_say() {
    let origin = Origin::start();
    let owner = TestAgent::named("owner")
        .on(
            "/owned/known",
            Decision::allow().set_request_header("x-user", "alice"),
        )
        .on("/open/fail", Reaction::Fail)
        .start();
    let other = TestAgent::named("other").start();
    let proxy = owned(&origin, &owner, &other);
    for path in ["/owned", "/owned/known", "/open/fail", "/other", "/free"] {
        let status = proxy.get_with(path, &claimed()).status;
        assert_eq!(status, 200, "{path}");
        let request = origin.saw(|request| request.target() == path);
        let head = String::from_utf8_lossy(&request.head).into_owned();
        assert!(!head.contains("root"), "{path}: {head}");
        assert!(head.contains("kept"), "{path}: {head}");
        let expected = (path == "/owned/known").then_some("alice");
        assert_eq!(request.header("x-user").as_deref(), expected, "{path}");
    }
    for event in owner.requests() {
        assert_no_claims(&event["headers"]);
    }
    for mut event in other.requests() {
        if event["uri"] == "/owned/known" {
            // The owner came before it.
            assert_eq!(event["headers"]["x-user"], json!(["alice"]));
            event["headers"].as_object_mut().unwrap().remove("x-user");
        }
        assert_no_claims(&event["headers"]);
    }
    assert_outcomes(
        &proxy.access_line_of("/open/fail"),
        &[("owner", "protocol_error"), ("other", "allow")],
    );
}

#[test]
fn another_agent_cannot_say_it_either() {
    let origin = Origin::start();
    let owner = TestAgent::named("owner").start();
    let attempts = [
        Decision::allow().set_request_header("x-user", "root"),
        Decision::allow().add_request_header("X-User", "root"),
        Decision::allow().remove_request_header("x-user"),
        Decision::allow().set_request_header("x_user", "root"),
        Decision::allow().set_request_header("x-auth-anything", "root"),
    ];
    let mut other = TestAgent::named("other");
    for (number, decision) in attempts.iter().enumerate() {
        for place in ["owned", "other"] {
            other = other.on(&format!("/{place}/{number}"), decision.clone());
        }
    }
    let other = other.start();
    let proxy = owned(&origin, &owner, &other);
    for number in 0..attempts.len() {
        for place in ["owned", "other"] {
            let path = format!("/{place}/{number}");
            assert_eq!(proxy.get(&path).status, 502, "{path}");
            let line = proxy.access_line_of(&path);
            assert_eq!(
                (&line["blocked_by"], &line["reason"]),
                (&"other".into(), &"protocol_error".into())
            );
        }
    }
    let rejected = r#"portcullis_agent_rejected_mutations_total{agent="other"}"#;
    proxy.wait_metric(rejected, 2.0 * attempts.len() as f64);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn what_agents_say_of_the_coding_is_not_said_of_our_own_answers() {
    let origin = Origin::start();
    let coded = |decision: Decision| decision.set_response_header("content-encoding", "gzip");
    let refused = Decision::block(403).with_body("\u{1f}coded");
    let agent = TestAgent::named("coder")
        .on("/upstream", coded(Decision::allow()))
        .on("/fixed", coded(Decision::allow()))
        .on("/ours", coded(Decision::block(403)))
        .on("/own", coded(refused))
        .start();
    let text = r#"route "fixed" { match { path-prefix "/fixed" }; filters { agent "coder" }; respond 200 "text" }"#;
    let others = ["upstream", "ours", "own"].map(|name| route(name, r#"agent "coder""#, ""));
    let text = text.to_owned() + "\n" + &others.concat();
    let proxy = routes(&text, &origin).agent(&agent).start();
    all_up(&proxy, &[&agent]);
    for (path, status, coding) in [
        ("/upstream", 200, Some("gzip")),
        ("/fixed", 200, None),
        ("/ours", 403, None),
        ("/own", 403, Some("gzip")),
    ] {
        let response = proxy.get(path);
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("content-encoding"), coding, "{path}");
    }
}

#[test]
fn an_agent_is_told_what_the_configuration_says() {
    let origin = Origin::start();
    let agents = ["all", "except", "only"].map(|name| TestAgent::named(name).start());
    let settings = [
        "",
        r#"send-headers { except "cookie" "x-secret-*" }"#,
        r#"send-headers { only "host" "x-*" }"#,
    ];
    let filters = r#"agent "all"; agent "except"; agent "only""#;
    let mut builder = routes(&route("asked", filters, ""), &origin);
    for (agent, settings) in agents.iter().zip(settings) {
        builder = builder.agent_with(agent, &format!("timeout \"10s\"; {settings}"));
    }
    let proxy = builder.start();
    proxy.wait_ready();
    let lines = [
        "Cookie: a=1",
        "cookie: b=2",
        "X-Secret-Key: 1",
        "x-own: 1",
        "accept: */*",
    ];
    assert_eq!(proxy.get_with("/asked", &lines).status, 200);
    let told = agents
        .each_ref()
        .map(|agent| agent.requests().remove(0)["headers"].clone());
    let has = |agent: usize, name: &str| told[agent].get(name).is_some();
    for (name, expected) in [
        ("host", [true, true, true]),
        ("cookie", [true, false, false]),
        ("x-secret-key", [true, false, true]),
        ("x-own", [true, true, true]),
        ("accept", [true, true, false]),
    ] {
        assert_eq!([0, 1, 2].map(|agent| has(agent, name)), expected, "{name}");
    }
    assert_eq!(told[0]["cookie"], json!(["a=1", "b=2"]));
    // The server is told everything.
    let request = origin.last();
    for name in ["x-secret-key", "x-own", "accept"] {
        assert!(request.header(name).is_some(), "{name}");
    }
    assert!(!request.header_values("cookie").is_empty());
}
