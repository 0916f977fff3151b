//! What operators see: the access log, probes, metrics, and the admin listener.

use crate::harness::{Origin, Proxy, RawClient};
use regex::Regex;

#[test]
fn a_line_has_everything_about_a_request() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client
        .send("POST /path?q=1 HTTP/1.1\r\nHost: Example.com:80\r\ncontent-length: 5\r\n\r\nhello");
    let response = client.response();
    let line = proxy.access_line_of("/path?q=1");
    for (field, value) in [
        ("request_id", response.header("x-request-id").unwrap()),
        ("client_ip", "127.0.0.1"),
        ("listener", "http"),
        ("method", "POST"),
        ("host", "example.com"),
        ("protocol", "HTTP/1.1"),
        ("route", "all"),
        ("upstream", "origin"),
        ("upstream_address", &origin.address().to_string()),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    for (field, value) in [
        ("status", 200),
        ("bytes_in", 5),
        ("bytes_out", 2),
        ("upstream_status", 200),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    let time = Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$").unwrap();
    assert!(time.is_match(line["ts"].as_str().unwrap()));
    let duration = line["duration_ms"].as_f64().unwrap();
    let upstream = line["upstream_header_ms"].as_f64().unwrap();
    assert!(upstream > 0.0 && duration >= upstream, "{line}");
}

#[test]
fn secrets_are_not_logged() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let lines = [
        "authorization: Bearer hush",
        "cookie: session=hush",
        "proxy-authorization: Basic hush",
    ];
    proxy.get_with("/", &lines);
    proxy.access_line_of("/");
    assert!(!proxy.access_text().contains("hush"));
}

#[test]
fn a_request_is_one_line_whatever_it_holds() {
    let origin = Origin::start();
    for format in ["json", "combined"] {
        let proxy = Proxy::builder(format!(
            "observability {{ access-log \"./access.log\" format=\"{format}\"; log format=\"json\" }}\nroutes {{ route \"all\" {{ upstream \"origin\" }} }}"
        ))
        .origin(&origin)
        .start();
        for agent in ["\"quoted\" \\back", "caf\u{e9} \u{9b}31m", "a\tb"] {
            proxy.get_with("/?a=\"b\"", &[&format!("user-agent: {agent}")]);
        }
        // Refused, and a line of the same form all the same.
        assert_eq!(
            proxy.get_with("/", &["user-agent: \x1b[31m red"]).status,
            400
        );
        let text = crate::harness::eventually("four lines", || {
            let text = proxy.access_text();
            (text.lines().count() == 4).then_some(text)
        });
        assert!(
            text.bytes().all(|byte| byte == b'\n' || byte >= 0x20),
            "{text:?}"
        );
        assert!(!text.contains('\u{9b}'));
        for line in text.lines() {
            let json = serde_json::from_str::<serde_json::Value>(line).is_ok();
            assert_eq!(json, format == "json", "{line}");
        }
    }
}

#[test]
fn the_combined_format_is_that_of_others() {
    let origin = Origin::start();
    let proxy = Proxy::builder(
        r#"
        observability { access-log "./access.log" format="combined" }
        routes { route "all" { upstream "origin" } }
        "#,
    )
    .origin(&origin)
    .start();
    proxy.get_with("/a?b", &["referer: http://r/", "user-agent: Mozilla/5.0"]);
    // Another worker may serve the next one and be the first to log.
    crate::harness::eventually("the first line", || {
        (!proxy.access_text().is_empty()).then_some(())
    });
    proxy.get("/plain");
    let expected = Regex::new(
        r#"^127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /a\?b HTTP/1\.1" 200 2 "http://r/" "Mozilla/5\.0"\n127\.0\.0\.1 - - \[.*\] "GET /plain HTTP/1\.1" 200 2 "-" "-"\n$"#,
    )
    .unwrap();
    crate::harness::eventually("two lines", || {
        let text = proxy.access_text();
        (text.lines().count() == 2).then(|| assert!(expected.is_match(&text), "{text}"))
    });
}

#[test]
fn an_access_log_may_be_off() {
    let proxy = Proxy::builder(
        r#"
        observability { access-log "off" }
        routes { route "all" { respond 200 } }
        "#,
    )
    .start();
    proxy.get("/");
    proxy.wait_metric("portcullis_http_requests_total{code=\"200\"}", 1.0);
    assert_eq!(proxy.access_text(), "");
}

#[test]
fn probes_answer_probes_and_nothing_else() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    for (path, status, text) in [
        ("/livez", 200, "ok\n"),
        ("/healthz", 200, "ok\n"),
        ("/health", 200, "ok\n"),
        ("/readyz", 200, "ready\n"),
        ("/ready", 200, "ready\n"),
        ("/readyz?verbose", 200, "ready\n"),
        ("/", 404, "not found\n"),
        ("/status", 404, "not found\n"),
    ] {
        let response = proxy.probe(path);
        assert_eq!(
            (response.status, response.text()),
            (status, text.to_owned()),
            "{path}"
        );
    }
    let mut client = RawClient::connect(proxy.address_of("probes"));
    client.send("POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.response().status, 405);
    // And the listener for clients knows none of them.
    assert_eq!(proxy.get("/metrics").text(), "ok");
}

#[test]
fn metrics_are_in_the_text_format() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    let mut client = proxy.client();
    client.get("/some/path", &[]);
    client.get("/some/other", &[]);
    client.send("BREW / HTTP/1.1\r\nhost: a\r\n\r\n");
    client.response();
    let series = |method: &str| {
        format!(
            r#"portcullis_http_requests_total{{listener="http",route="all",method="{method}",code="200"}}"#
        )
    };
    proxy.wait_metric(&series("GET"), 2.0);
    proxy.wait_metric(&series("other"), 1.0);
    let response = proxy.probe("/metrics");
    let content_type = response.header("content-type").unwrap();
    assert!(content_type.starts_with("application/openmetrics-text"));
    let text = response.text();
    assert!(text.ends_with("# EOF\n"));
    // What a client makes up is no label.
    assert!(!text.contains("/some") && !text.contains("BREW"), "{text}");
    for name in [
        "portcullis_build_info{version=",
        "# TYPE portcullis_http_requests counter",
        "# TYPE portcullis_http_request_duration_seconds histogram",
        "portcullis_http_request_duration_seconds_bucket{le=\"0.005\",route=\"all\"}",
        "portcullis_connections_open 1",
        "portcullis_config_generation 1",
    ] {
        assert!(text.contains(name), "{name}:\n{text}");
    }
}

const ADMIN: &str = r#"
admin { address "127.0.0.1:0" }
routes { route "all" { respond 200 } }
"#;

#[test]
fn the_admin_listener_tells_the_status() {
    let proxy = Proxy::builder(ADMIN).start();
    let mut client = RawClient::connect(proxy.address_of("admin"));
    let response = client.get("/status", &["host: localhost"]);
    assert_eq!(response.status, 200);
    let status = response.json();
    assert_eq!(status["ready"], true);
    assert_eq!(status["config"]["generation"], 1);
    assert!(status["version"].is_string());
    let policy = response.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'"));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(
        client.get("/metrics", &["host: 127.0.0.1:9901"]).status,
        200
    );
    assert_eq!(client.get("/nothing", &["host: [::1]"]).status, 404);
}

#[test]
fn web_pages_cannot_ask_the_admin_listener() {
    let proxy = Proxy::builder(ADMIN).start();
    for (lines, status) in [
        (&["host: localhost:9901"][..], 200),
        // A name that was made to resolve to this machine.
        (&["host: attacker.example"], 403),
        (&["host: localhost.attacker.example"], 403),
        (&["host: 127.0.0.1.attacker.example:9901"], 403),
        (&["host: "], 403),
        (&["host: localhost", "origin: http://attacker.example"], 403),
        (&["host: localhost", "origin: null"], 403),
        (&["host: localhost", "origin: http://localhost:9901"], 403),
    ] {
        for path in ["/status", "/metrics", "/readyz"] {
            let mut client = RawClient::connect(proxy.address_of("admin"));
            assert_eq!(client.get(path, lines).status, status, "{path} {lines:?}");
        }
    }
}

#[test]
fn the_log_is_for_people_unless_written_otherwise() {
    let proxy = Proxy::builder(
        r#"
        observability { log level="debug" format="text" }
        routes { route "all" { respond 200 } }
        "#,
    )
    .start();
    assert_eq!(proxy.get("/").status, 200);
    // No colours where nobody looks.
    assert!(!proxy.log_text().contains('\x1b'));
    assert!(proxy.log_text().contains("ready to serve"));
}
