//! Agents that speak protocol version 2 over gRPC decide as those on Unix sockets do, and fail as they do.

use crate::harness::{
    Origin, Proxy, TestAgent,
    agent::{Dialect, Phase, Reaction, When},
    agent_ways::tls_file,
    eventually,
    proxy::Builder,
};
use portcullis_agent_protocol::Decision;
use serde_json::{Value, json};

/// With our extensions, and as published agents are.
const DIALECTS: [Dialect; 2] = [Dialect::Binary, Dialect::Json];

fn asking(agent: &TestAgent, origin: &Origin) -> Builder {
    let name = agent.name();
    Proxy::builder(format!(
        r#"routes {{ route "all" {{ filters {{ agent "{name}" }}; upstream "origin" }} }}"#
    ))
    .origin(origin)
}

fn deciding(dialect: Dialect) -> TestAgent {
    TestAgent::named("remote")
        .over_grpc()
        .speaking(dialect)
        .on(
            "/block",
            Decision::block(451)
                .with_body("not here\n")
                .with_header("x-why", "law")
                .reason("law"),
        )
        .on(
            "/redirect",
            Decision::redirect_with_status("https://example.com/there", 307),
        )
        .otherwise(
            Decision::allow()
                .set_request_header("x-judged", "yes")
                .remove_request_header("x-secret")
                .add_response_header("x-answered", "yes"),
        )
}

#[test]
fn verdicts_come_over_grpc() {
    for dialect in DIALECTS {
        let agent = deciding(dialect).start();
        let origin = Origin::start();
        let proxy = asking(&agent, &origin).agent(&agent).start();
        proxy.wait_ready();
        let blocked = proxy.get("/block");
        assert_eq!(blocked.status, 451);
        assert_eq!(blocked.header("x-why"), Some("law"));
        assert_eq!(blocked.text(), "not here\n");
        assert_eq!(proxy.access_line_of("/block")["reason"], "law");
        let redirected = proxy.get("/redirect");
        assert_eq!(redirected.status, 307);
        let location = redirected.header("location");
        assert_eq!(location, Some("https://example.com/there"));
        assert_eq!(origin.requests().len(), 0);
        let passed = proxy.get_with("/passes?a=b", &["x-secret: s", "x-odd: \u{e9}"]);
        assert_eq!(passed.status, 200);
        assert_eq!(passed.header("x-answered"), Some("yes"));
        let request = &origin.requests()[0];
        assert_eq!(request.header("x-judged").as_deref(), Some("yes"));
        assert_eq!(request.header("x-secret"), None);
        let told = agent.saw(|event| event["uri"] == "/passes?a=b");
        assert_eq!(told["headers"]["x-secret"], json!(["s"]), "{told}");
    }
}

#[test]
fn it_gets_its_configuration_first_and_may_refuse_it() {
    for dialect in DIALECTS {
        let agent = TestAgent::named("remote")
            .over_grpc()
            .speaking(dialect)
            .refusing_config_with("wrong", "rules do not compile")
            .start();
        let origin = Origin::start();
        let with = |config: &str| {
            let settings = format!("timeout \"10s\"; config {{ mode \"{config}\" }}");
            asking(&agent, &origin).agent_with(&agent, &settings)
        };
        let proxy = with("right").start();
        proxy.wait_ready();
        assert_eq!(proxy.get("/").status, 200);
        let told = &agent.record()[0];
        assert_eq!(told["event"], "configure");
        assert_eq!(told["config"], json!({"mode": "right"}));
        let refused = with("wrong").start();
        assert_eq!(refused.get("/").status, 503);
        refused.log_line(|line| {
            let error = line["error"].as_str().unwrap_or_default();
            error.contains("rules do not compile")
        });
    }
}

#[test]
fn bodies_are_changed_with_our_extensions() {
    let replace = || Reaction::Replace("[$DATA]".into());
    let agent = TestAgent::named("remote")
        .over_grpc()
        .then(Phase::RequestBody, When::Last, replace())
        .then(Phase::ResponseBody, When::Last, replace())
        .start();
    let origin = Origin::start();
    let inspect = r#"timeout "10s"; inspect { request-headers; request-body "buffer" limit="1MiB";
        response-headers; response-body "buffer" limit="1MiB" }"#;
    let proxy = asking(&agent, &origin).agent_with(&agent, inspect).start();
    proxy.wait_ready();
    let request = b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 5\r\n\r\nhello";
    let response = proxy.client().send(request).response();
    assert_eq!(response.status, 200);
    assert_eq!(origin.requests()[0].body, b"[hello]");
    assert!(response.text().starts_with('['), "{}", response.text());
    assert!(response.text().ends_with(']'), "{}", response.text());
}

#[test]
fn d18_both_ends_of_tls_show_who_they_are() {
    let agent = TestAgent::named("remote").over_mtls().start();
    let origin = Origin::start();
    let tls = |ca: &str, identity: &str| {
        let file = |name: &str| tls_file(name).display().to_string();
        let identity = match identity {
            "" => String::new(),
            name => format!(
                r#"certificate="{}" key="{}""#,
                file(&format!("{name}.pem")),
                file(&format!("{name}.key"))
            ),
        };
        let settings = format!(r#"timeout "10s"; tls ca="{}" {identity}"#, file(ca));
        asking(&agent, &origin)
            .agent_with(&agent, &settings)
            .start()
    };
    let proxy = tls("ca.pem", "proxy");
    proxy.wait_ready();
    assert_eq!(proxy.get("/").status, 200);

    let unreachable = |proxy: &Proxy, reason: &str| {
        assert_eq!(proxy.get("/refused").status, 503);
        assert_eq!(proxy.access_line_of("/refused")["reason"], "unreachable");
        proxy.log_line(|line| {
            let error = line["error"].as_str().unwrap_or_default();
            line["agent"] == "remote" && error.contains(reason)
        });
    };
    unreachable(&tls("other-ca.pem", "proxy"), "UnknownIssuer");
    // What the agent makes of it is not told in words before something is read.
    let anonymous = tls("ca.pem", "");
    assert_eq!(anonymous.get("/refused").status, 503);
    unreachable(&tls("absent.pem", "proxy"), "absent.pem");
    assert_eq!(agent.requests().len(), 1);
}

#[test]
fn a_late_answer_is_never_that_to_another_question() {
    for dialect in DIALECTS {
        let agent = TestAgent::named("remote")
            .over_grpc()
            .speaking(dialect)
            .on("/slow", Reaction::late(&Decision::block(451)))
            .otherwise(Decision::allow().set_request_header("x-judged", "yes"))
            .start();
        let origin = Origin::start();
        let proxy = asking(&agent, &origin)
            .agent_with(&agent, "timeout \"300ms\"; pool min=1 max=1")
            .start();
        proxy.wait_ready();
        assert_eq!(proxy.get("/slow").status, 504);
        assert_eq!(proxy.access_line_of("/slow")["reason"], "timeout");
        agent.release();
        eventually("verdicts again", || {
            (proxy.get("/next").status == 200).then_some(())
        });
        for number in 0..20 {
            assert_eq!(proxy.get(&format!("/{number}")).status, 200);
        }
        let judged = |request: &crate::harness::Recorded| request.header("x-judged").is_some();
        assert!(origin.requests().iter().all(judged));
    }
}

#[test]
fn it_may_be_killed_and_come_back() {
    for dialect in DIALECTS {
        let mut agent = deciding(dialect).start();
        let origin = Origin::start();
        let proxy = asking(&agent, &origin).agent(&agent).start();
        proxy.wait_ready();
        for _ in 0..3 {
            eventually("verdicts", || (proxy.get("/").status == 200).then_some(()));
            agent.kill();
            eventually("refusals", || (proxy.get("/").status == 503).then_some(()));
            agent.start_again();
        }
        eventually("verdicts", || (proxy.get("/").status == 200).then_some(()));
        let judged = |request: &crate::harness::Recorded| request.header("x-judged").is_some();
        assert!(origin.requests().iter().all(judged));
    }
}

#[test]
fn it_fails_as_on_a_unix_socket() {
    let agent = TestAgent::named("remote")
        .over_grpc()
        .on("/hangs", Reaction::Hang)
        .on("/fails", Reaction::Fail)
        .on("/panics", Reaction::Panic)
        .on("/full", Reaction::Overloaded(Some(1)))
        .start();
    let origin = Origin::start();
    let proxy = asking(&agent, &origin)
        // An agent that panics takes a while to say where.
        .agent_with(&agent, "timeout \"3s\"; circuit-breaker failures=100")
        .start();
    proxy.wait_ready();
    for (path, status, reason) in [
        ("/hangs", 504, "timeout"),
        ("/fails", 502, "protocol_error"),
        ("/panics", 502, "protocol_error"),
        ("/full", 503, "overloaded"),
    ] {
        assert_eq!(proxy.get(path).status, status, "{path}");
        assert_eq!(proxy.access_line_of(path)["reason"], reason, "{path}");
    }
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(proxy.access_line_of("/")["blocked_by"], Value::Null);
}

#[test]
fn d25_a_name_that_cannot_be_resolved_holds_nobody_up() {
    let origin = Origin::start();
    for way in [
        "grpc \"http://agent.invalid:50051\"",
        "http \"http://agent.invalid/\"; dialect \"forward-auth\"",
    ] {
        let proxy = Proxy::builder(
            r#"routes {
                route "free" { match { path-prefix "/free" }; upstream "origin" }
                route "all" { filters { agent "remote" }; upstream "origin" }
            }"#,
        )
        .origin(&origin)
        .agent_block("remote", way)
        .start();
        // While it is looked up, and afterwards.
        assert_eq!(proxy.get("/free").status, 200);
        proxy.log_line(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            line["agent"] == "remote" && message.starts_with("agent cannot be connected")
        });
        assert_eq!(proxy.get("/").status, 503);
        assert_eq!(proxy.access_line_of("/")["reason"], "unreachable");
        assert_eq!(proxy.get("/free").status, 200);
    }
}

#[test]
fn d25_an_empty_name_does_not_turn_verification_off() {
    for way in [
        "grpc \"https://127.0.0.1:1\"; tls server-name=\"\"",
        "http \"https://127.0.0.1:1/\"; dialect \"forward-auth\"; tls server-name=\"\"",
        "reverse \"127.0.0.1:0\" certificate-name=\"\"; tls certificate=\"a\" key=\"b\" ca=\"c\"",
    ] {
        let routes = r#"routes { route "all" { filters { agent "remote" }; respond 200 } }"#;
        let checked = Proxy::builder(routes).agent_block("remote", way).check();
        let (code, _, errors) = checked;
        assert_ne!(code, Some(0), "{way}");
        assert!(errors.contains("-name=\"\""), "{way}: {errors}");
    }
}
