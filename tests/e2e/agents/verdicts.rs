//! What an agent can decide about the head of a request, and what becomes of it.

use super::asked;
use crate::harness::{
    Answer, Origin, Proxy, TestAgent,
    agent::Dialect,
    http2::{exchange, get},
};
use portcullis_agent_protocol::Decision;
use serde_json::{Value, json};

/// An agent that knows every verdict, by the path.
fn decided() -> TestAgent {
    TestAgent::named("waf")
        .on(
            "/block",
            Decision::block(418)
                .with_body("short and stout\n")
                .with_header("x-why", "waf")
                .with_header("content-type", "text/x-teapot")
                .reason("rule-1")
                .reason("rule-2")
                .tag("bot"),
        )
        .on("/bare-block", Decision::block(403))
        .on("/empty-block", Decision::block(204))
        .on(
            "/redirect",
            Decision::redirect_with_status("https://example.com/login?next=/", 303),
        )
        .on("/redirect-relative", Decision::redirect("/login"))
        .on(
            "/challenge-param",
            Decision::challenge("http").with_param("www-authenticate", "Basic realm=\"x\""),
        )
        .on(
            "/challenge-operation",
            Decision::challenge("http").set_response_header("www-authenticate", "Bearer"),
        )
        .on(
            "/challenge-page",
            Decision::challenge("captcha")
                .with_param("body", "<p>prove it</p>")
                .with_param("content-type", "text/html")
                .with_param("site_key", "not for the client"),
        )
        .on(
            "/marked-block",
            Decision::block(403).set_response_header("x-marked", "yes"),
        )
        .on("/audit", Decision::allow().tag("good").reason("known"))
        .on(
            "/request-headers",
            Decision::allow()
                .set_request_header("X-Set", "by the agent")
                .add_request_header("x-many", "added")
                .remove_request_header("X-Removed"),
        )
        .on(
            "/response-headers",
            Decision::allow()
                .set_response_header("x-set", "by the agent")
                .add_response_header("x-many", "added")
                .remove_response_header("server"),
        )
}

/// Runs a test once with each way in which an agent can speak.
fn in_every_dialect(test: impl Fn(&Proxy, &TestAgent, &Origin)) {
    for dialect in [Dialect::Binary, Dialect::Json, Dialect::Legacy] {
        let agent = decided().speaking(dialect).start();
        let origin = Origin::answering(|_| {
            let headers = [
                ("server", "origin/1"),
                ("x-set", "origin"),
                ("x-many", "origin"),
            ];
            Answer::with(200, &headers, b"ok")
        });
        test(&asked(&agent, &origin), &agent, &origin);
    }
}

#[test]
fn an_allowed_request_goes_on() {
    in_every_dialect(|proxy, agent, origin| {
        let response = proxy.get("/allow");
        assert_eq!((response.status, response.text()), (200, "ok".into()));
        assert_eq!(origin.requests().len(), 1);
        assert_eq!(agent.requests().len(), 1);
        let line = proxy.access_line_of("/allow");
        assert_eq!(line["agents"][0]["name"], "waf");
        assert_eq!(line["agents"][0]["phase"], "request_headers");
        assert_eq!(line["agents"][0]["verdict"], "allow");
        assert!(line["agents"][0]["duration_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(line["blocked_by"], Value::Null);
        let calls = r#"portcullis_agent_calls_total{agent="waf",outcome="allow"}"#;
        proxy.wait_metric(calls, 1.0);
    });
}

#[test]
fn d01_a_block_has_status_body_and_headers() {
    in_every_dialect(|proxy, _, origin| {
        let response = proxy.get("/block");
        assert_eq!(response.status, 418);
        assert_eq!(response.text(), "short and stout\n");
        assert_eq!(response.header("x-why"), Some("waf"));
        assert_eq!(response.header_values("content-type"), ["text/x-teapot"]);
        let id = response.header("x-request-id").unwrap();
        let line = proxy.access_line_of("/block");
        assert_eq!(line["request_id"], id);
        assert_eq!(line["status"], 418);
        assert_eq!(line["blocked_by"], "waf");
        assert_eq!(line["reason"], "rule-1,rule-2");
        assert_eq!(line["agents"][0]["verdict"], "block");
        assert_eq!(line["agents"][0]["reason"], "rule-1,rule-2");
        assert_eq!(line["agents"][0]["tags"], json!(["bot"]));
        assert_eq!(line["upstream"], Value::Null);

        let bare = proxy.get("/bare-block");
        assert_eq!(bare.status, 403);
        let id = bare.header("x-request-id").unwrap().to_owned();
        assert!(bare.text().contains(&id));
        let marked = proxy.get("/marked-block");
        assert_eq!(marked.header("x-marked"), Some("yes"));
        assert_eq!(origin.connections(), 0);
        let calls = r#"portcullis_agent_calls_total{agent="waf",outcome="block"}"#;
        proxy.wait_metric(calls, 3.0);
    });
}

#[test]
fn a_block_keeps_the_connection_in_order() {
    in_every_dialect(|proxy, _, origin| {
        let mut client = proxy.client();
        client.send("HEAD /block HTTP/1.1\r\nhost: a\r\n\r\n");
        let head = client.response_to_head();
        assert_eq!(
            (head.status, head.header("content-length")),
            (418, Some("16"))
        );
        let empty = client.get("/empty-block", &[]);
        assert_eq!((empty.status, empty.header("content-length")), (204, None));
        assert_eq!(client.get("/allow", &[]).text(), "ok");
        // The body of a refused request is not taken for the next request.
        client.send("POST /block HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\nGET /hidden HTTP/1.1\r\nhost: a\r\n\r\n..");
        assert_eq!(client.response().status, 418);
        if let Some(next) = client
            .send("GET /next HTTP/1.1\r\nhost: a\r\n\r\n")
            .try_response()
        {
            assert_eq!(next.text(), "ok");
        }
        assert!(
            origin
                .requests()
                .iter()
                .all(|request| request.target() != "/hidden")
        );
    });
}

#[test]
fn d01_a_redirect_sends_the_client_elsewhere() {
    in_every_dialect(|proxy, _, origin| {
        let response = proxy.get("/redirect");
        assert_eq!(response.status, 303);
        let location = response.header("location");
        assert_eq!(location, Some("https://example.com/login?next=/"));
        let line = proxy.access_line_of("/redirect");
        assert_eq!(line["agents"][0]["verdict"], "redirect");
        assert_eq!(line["blocked_by"], "waf");
        let relative = proxy.get("/redirect-relative");
        assert_eq!(
            (relative.status, relative.header("location")),
            (302, Some("/login"))
        );
        assert_eq!(origin.connections(), 0);
    });
}

#[test]
fn d01_a_challenge_asks_for_proof() {
    in_every_dialect(|proxy, _, origin| {
        let param = proxy.get("/challenge-param");
        assert_eq!(param.status, 401);
        assert_eq!(
            param.header_values("www-authenticate"),
            ["Basic realm=\"x\""]
        );
        let operation = proxy.get("/challenge-operation");
        assert_eq!(operation.status, 401);
        assert_eq!(operation.header_values("www-authenticate"), ["Bearer"]);
        let page = proxy.get("/challenge-page");
        assert_eq!((page.status, page.text()), (403, "<p>prove it</p>".into()));
        assert_eq!(page.header_values("content-type"), ["text/html"]);
        assert!(!format!("{page:?}").contains("not for the client"));
        let line = proxy.access_line_of("/challenge-page");
        assert_eq!(line["agents"][0]["verdict"], "challenge");
        assert_eq!(line["blocked_by"], "waf");
        assert_eq!(origin.connections(), 0);
    });
}

#[test]
fn an_agent_changes_headers_both_ways() {
    in_every_dialect(|proxy, _, origin| {
        let lines = [
            "x-set: sent",
            "X-SET: twice",
            "x-many: sent",
            "x-removed: 1",
            "x-kept: 1",
        ];
        assert_eq!(proxy.get_with("/request-headers", &lines).status, 200);
        let request = origin.last();
        assert_eq!(request.header("x-set").as_deref(), Some("by the agent"));
        assert_eq!(request.header_values("x-many"), ["sent", "added"]);
        assert_eq!(request.header("x-removed"), None);
        assert_eq!(request.header("x-kept").as_deref(), Some("1"));
        let response = proxy.get("/response-headers");
        assert_eq!(response.header_values("x-set"), ["by the agent"]);
        assert_eq!(response.header_values("x-many"), ["origin", "added"]);
        assert_eq!(response.header("server"), None);
    });
}

#[test]
fn what_an_agent_says_beside_its_verdict_is_logged() {
    in_every_dialect(|proxy, _, _| {
        assert_eq!(proxy.get("/audit").status, 200);
        let line = proxy.access_line_of("/audit");
        let record = &line["agents"][0];
        assert_eq!(record["reason"], "known");
        assert_eq!(record["tags"], json!(["good"]));
        assert_eq!(line["reason"], Value::Null);
    });
}

#[test]
fn an_agent_is_told_everything_about_the_head() {
    in_every_dialect(|proxy, agent, _| {
        let mut client = proxy.client();
        client.send("PUT /a/../b?c=d HTTP/1.1\r\nHost: Example.com:8080\r\nCookie: a=1\r\ncookie: b=2\r\nX-Own: ä\r\ncontent-length: 0\r\n\r\n");
        let response = client.response();
        let event = agent.requests().remove(0);
        assert_eq!(event["method"], "PUT");
        assert_eq!(event["uri"], "/b?c=d");
        assert_eq!(event["headers"]["host"], json!(["Example.com:8080"]));
        assert_eq!(event["headers"]["cookie"], json!(["a=1", "b=2"]));
        assert_eq!(event["headers"]["x-own"], json!(["ä"]));
        assert_eq!(event["headers"]["x-forwarded-for"], json!(["127.0.0.1"]));
        assert_eq!(event["client_ip"], "127.0.0.1");
        assert_eq!(event["route_id"], "all");
        assert_eq!(event["upstream_id"], "origin");
        assert_eq!(
            event["request_id"],
            response.header("x-request-id").unwrap()
        );
        let metadata = event.get("metadata").unwrap_or(&event);
        assert_eq!(metadata["protocol"], "HTTP/1.1");
        assert_eq!(metadata["client_port"], client.local_address().port());
    });
}

#[test]
fn http2_requests_are_judged_alike() {
    in_every_dialect(|proxy, agent, origin| {
        let paths = [
            "/allow",
            "/block",
            "/redirect",
            "/challenge-param",
            "/request-headers",
        ];
        let answers = exchange(proxy.address_of("http"), paths.map(get).to_vec());
        let statuses: Vec<_> = answers
            .iter()
            .map(|answer| answer.as_ref().unwrap().status().as_u16())
            .collect();
        assert_eq!(statuses, [200, 418, 303, 401, 200]);
        assert_eq!(answers[1].as_ref().unwrap().body(), "short and stout\n");
        let changed = origin.saw(|request| request.target() == "/request-headers");
        assert_eq!(changed.header("x-set").as_deref(), Some("by the agent"));
        let event = agent.saw(|event| event["uri"] == "/allow");
        let metadata = event.get("metadata").unwrap_or(&event);
        assert_eq!(metadata["protocol"], "HTTP/2");
        assert_eq!(event["headers"]["host"], json!(["test"]));
    });
}

#[test]
fn routes_without_the_agent_do_not_ask_it() {
    let agent = TestAgent::named("waf")
        .otherwise(Decision::block(403))
        .start();
    let origin = Origin::start();
    let proxy = Proxy::builder(
        r#"
        routes {
            route "open" { match { path "/open" }; upstream "origin" }
            route "guarded" { filters { agent "waf" }; upstream "origin" }
            route "fixed" { match { path "/fixed" }; filters { agent "waf" }; respond 200 "fixed" }
        }
        "#,
    )
    .origin(&origin)
    .agent(&agent)
    .start();
    proxy.wait_ready();
    assert_eq!(proxy.get("/open").status, 200);
    assert_eq!(proxy.get("/guarded").status, 403);
    // An agent stands before everything that a route can answer with.
    assert_eq!(proxy.get("/fixed").status, 403);
    assert_eq!(agent.requests().len(), 2);
    assert_eq!(proxy.access_line_of("/open")["agents"], Value::Null);
}

#[test]
fn many_requests_at_once_get_each_their_own_verdict() {
    in_every_dialect(|proxy, _, _| {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut client = proxy.client();
                    for _ in 0..20 {
                        assert_eq!(client.get("/block", &[]).status, 418);
                        assert_eq!(client.get("/allow", &[]).status, 200);
                        assert_eq!(client.get("/redirect", &[]).status, 303);
                    }
                });
            }
        });
    });
}
