//! `error-pages`: what our own answers look like when something is wrong.

use crate::harness::{Answer, Origin, Proxy, Response, TestAgent, proxy::Builder};
use portcullis_agent_protocol::Decision;

const PAGE: &str = "<style>p {color: red}</style><p>{status} {status.text}: {request.id}</p>";
const BROWSER: &str = "accept: text/html,application/xml;q=0.9,*/*;q=0.8";

/// Routes that fail in one way or another.
fn failing(pages: &str, of_route: &str) -> Builder {
    let kdl = format!(
        r#"
        {pages}
        routes {{
            route "denied" {{ match {{ path "/denied" }}; filters {{ ip-deny "127.0.0.1" }}; respond 200; {of_route} }}
            route "down" {{ match {{ path "/down" }}; upstream "down" }}
            route "own" {{ match {{ path "/own" }}; respond 404 "own words" }}
            route "agent" {{ match {{ path-prefix "/agent" }}; filters {{ agent "waf" }}; respond 200 }}
            route "origin" {{ match {{ path "/origin" }}; upstream "origin" }}
        }}
        "#
    );
    // Nobody listens at this port.
    Proxy::builder(kdl).upstream("down", r#"target "127.0.0.1:1""#)
}

fn html(response: &Response) -> String {
    let kind = response.header("content-type");
    assert_eq!(kind, Some("text/html; charset=utf-8"), "{response:?}");
    assert_eq!(response.header("vary"), Some("accept"));
    response.text()
}

#[test]
fn our_own_answers_have_pages_and_others_have_not() {
    let origin = Origin::answering(|_| Answer::with(404, &[], b"of the origin"));
    let agent = TestAgent::named("waf")
        .on("/agent/plain", Decision::block(403))
        .on(
            "/agent/body",
            Decision::block(403).with_body("of the agent"),
        )
        .start();
    let blocks = r#"error-pages { page 403 404 html="page.html"; page html="other.html" }"#;
    let proxy = failing(blocks, "")
        .origin(&origin)
        .agent(&agent)
        .file("page.html", PAGE)
        .file("other.html", "other {status}")
        .start();
    proxy.wait_ready();
    for (path, status, text) in [
        ("/nowhere", 404, "404 Not Found"),
        ("/denied", 403, "403 Forbidden"),
        ("/agent/plain", 403, "403 Forbidden"),
    ] {
        let response = proxy.get_with(path, &[BROWSER]);
        assert_eq!(response.status, status, "{path}");
        let id = response.header("x-request-id").unwrap();
        let page = format!("<style>p {{color: red}}</style><p>{text}: {id}</p>");
        assert_eq!(html(&response), page, "{path}");
    }
    assert_eq!(html(&proxy.get_with("/down", &[BROWSER])), "other 502");
    for (path, text) in [
        ("/own", "own words"),
        ("/origin", "of the origin"),
        ("/agent/body", "of the agent"),
    ] {
        assert_eq!(proxy.get_with(path, &[BROWSER]).text(), text);
    }
    let plain = proxy.get_with("/nowhere", &["accept: text/plain"]);
    assert!(plain.text().starts_with("404 Not Found\n"));
    assert_eq!(plain.header("vary"), Some("accept"));
    let mut client = proxy.client();
    client.send("HEAD /nowhere HTTP/1.1\r\nhost: a\r\naccept: text/html\r\n\r\n");
    let head = client.response_to_head();
    assert_eq!(
        head.header("content-type"),
        Some("text/html; charset=utf-8")
    );
}

#[test]
fn programs_get_problems() {
    let agent = TestAgent::named("waf").start();
    let origin = Origin::start();
    let proxy = failing(
        "error-pages { problem-json }",
        "error-pages { problem-json #false }",
    )
    .agent(&agent)
    .origin(&origin)
    .start();
    let response = proxy.get_with("/down", &["accept: application/json"]);
    assert_eq!(response.status, 502);
    let kind = response.header("content-type");
    assert_eq!(kind, Some("application/problem+json"));
    let problem = response.json();
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["title"], "Bad Gateway");
    assert_eq!(problem["status"], 502);
    assert_eq!(
        problem["request_id"],
        *response.header("x-request-id").unwrap()
    );
    assert_eq!(problem.as_object().unwrap().len(), 4);
    // A route may say otherwise.
    let plain = proxy.get_with("/denied", &["accept: application/json"]);
    assert_eq!(
        plain.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(plain.header("vary"), None);
}

#[test]
fn pages_of_a_route_come_first_and_a_reload_reads_files_again() {
    let agent = TestAgent::named("waf").start();
    let origin = Origin::start();
    let with = |page: &str| {
        let shared = r#"error-pages { page 403 404 html="page.html" }"#;
        let own = r#"error-pages { page 403 html="own.html" }"#;
        failing(shared, own)
            .agent(&agent)
            .origin(&origin)
            .file("page.html", page)
            .file("own.html", "own")
    };
    let proxy = with("first").start();
    assert_eq!(html(&proxy.get_with("/denied", &[BROWSER])), "own");
    assert_eq!(html(&proxy.get_with("/nowhere", &[BROWSER])), "first");
    let said = proxy.reload(&with("second"));
    assert!(
        said["changes"].as_str().unwrap().contains("error-pages"),
        "{said}"
    );
    assert_eq!(html(&proxy.get_with("/nowhere", &[BROWSER])), "second");
    proxy.reload_in_vain(&with("{nothing}"));
    assert_eq!(html(&proxy.get_with("/nowhere", &[BROWSER])), "second");
}
