//! Refusals in the form that gRPC knows: an answer of headers alone.

use super::{all_quiet, route, routes};
use crate::harness::{
    Origin, Proxy, TestAgent,
    agent::Reaction,
    http2::{HeadersAlone, exchange, request},
};
use portcullis_agent_protocol::Decision;

/// What a gRPC client gets: the status of the call, its message, and whether to try again.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: String,
    message: String,
    retry_after: Option<String>,
}

fn call(proxy: &Proxy, path: &str, body: usize) -> Refusal {
    let mut request = request("POST", path, vec![0; body].into());
    for (name, value) in [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = exchange(proxy.address_of("http"), vec![request])
        .remove(0)
        .unwrap();
    assert_eq!(answer.status(), 200, "{path}: {answer:?}");
    assert!(answer.body().is_empty(), "{path}: {answer:?}");
    assert_eq!(
        answer.extensions().get(),
        Some(&HeadersAlone(true)),
        "{path}"
    );
    let header = |name: &str| {
        let mut values = answer.headers().get_all(name).iter();
        let value = values
            .next()
            .map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(values.next(), None, "{path}: {name}");
        value
    };
    assert_eq!(header("content-type").as_deref(), Some("application/grpc"));
    assert_eq!(header("content-length"), None);
    assert!(header("x-request-id").is_some());
    Refusal {
        status: header("grpc-status").unwrap(),
        message: header("grpc-message").unwrap(),
        retry_after: header("retry-after"),
    }
}

fn refusal(status: u8, message: &str) -> Refusal {
    Refusal {
        status: status.to_string(),
        message: message.to_owned(),
        retry_after: None,
    }
}

#[test]
fn refusals_are_trailers_alone() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf")
        .on(
            "/asked/403",
            Decision::block(403).with_body("no").reason("rule 7 %"),
        )
        .on("/asked/429", Decision::block(429))
        .on("/asked/401", Decision::block(401).reason("who"))
        .on(
            "/asked/challenge",
            Decision::challenge("http").with_param("www-authenticate", "Bearer"),
        )
        .on(
            "/asked/redirect",
            Decision::redirect("https://example.com/"),
        )
        .on("/asked/fail", Reaction::Fail)
        .on("/asked/hang", Reaction::Hang)
        .on("/budget", Reaction::Hang)
        .start();
    let absent = TestAgent::named("absent");
    let text = route("asked", r#"agent "waf" timeout="300ms""#, "")
        + &route("absent", r#"agent "absent""#, "")
        + &route("budget", r#"agent "waf""#, "agent-budget \"150ms\"");
    let proxy = routes(&text, &origin)
        .listener("h2c; limits { body-bytes \"1KiB\" }")
        .agent_with(&agent, "timeout \"10s\"; circuit-breaker failures=1000")
        .agent_with(&absent, "timeout \"10s\"; circuit-breaker failures=2")
        .start();
    super::all_up(&proxy, &[&agent]);
    let later = |message| Refusal {
        retry_after: Some("1".to_owned()),
        ..refusal(14, message)
    };
    for (path, expected) in [
        ("/asked/403", refusal(7, "rule 7 %25")),
        ("/asked/429", refusal(7, "refused")),
        ("/asked/401", refusal(16, "who")),
        ("/asked/challenge", refusal(16, "refused")),
        ("/asked/redirect", refusal(7, "refused")),
        ("/asked/fail", refusal(13, "protocol_error")),
        ("/asked/hang", refusal(4, "timeout")),
        ("/budget", refusal(4, "budget")),
        ("/absent/1", later("unreachable")),
        ("/absent/2", later("unreachable")),
        ("/absent/3", later("breaker_open")),
    ] {
        assert_eq!(call(&proxy, path, 5), expected, "{path}");
        let line = proxy.access_line_of(path);
        assert_eq!(line["grpc_status"].to_string(), expected.status, "{line}");
        assert_eq!(line["status"], 200, "{line}");
        assert!(line["blocked_by"].is_string(), "{line}");
    }
    assert_eq!(origin.connections(), 0);
    all_quiet(&proxy);
    assert_eq!(call(&proxy, "/asked/large", 2048).status, "8");
}

#[test]
fn a_saturated_agent_is_unavailable() {
    let origin = Origin::start();
    let agent = TestAgent::named("busy")
        .on("/asked/hang", Reaction::late(&Decision::block(403)))
        .start();
    let proxy = routes(&route("asked", r#"agent "busy""#, ""), &origin)
        .agent_with(&agent, "timeout \"10s\"; max-concurrent-calls 1 queue=0")
        .start();
    proxy.wait_ready();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| call(&proxy, "/asked/hang", 0));
        agent.saw(|event| event["uri"] == "/asked/hang");
        let refused = call(&proxy, "/asked/now", 0);
        assert_eq!((&*refused.status, &*refused.message), ("14", "saturated"));
        agent.release();
        assert_eq!(held.join().unwrap(), refusal(7, "refused"));
    });
}

/// Who does not speak gRPC gets what HTTP knows.
#[test]
fn others_are_answered_as_ever() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf")
        .otherwise(Decision::block(403))
        .start();
    let proxy = routes(&route("asked", r#"agent "waf""#, ""), &origin)
        .agent(&agent)
        .start();
    proxy.wait_ready();
    let answer = proxy.get_with("/asked", &["content-type: application/json"]);
    assert_eq!((answer.status, answer.header("grpc-status")), (403, None));
    // HTTP/1.1 has no trailers-only answers; the answer is complete all the same.
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.get("/asked", &["content-type: application/grpc"]);
        assert_eq!(
            (answer.status, answer.header("grpc-status")),
            (200, Some("7"))
        );
        assert!(answer.complete && answer.body.is_empty());
    }
}
