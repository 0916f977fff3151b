//! The builtin agent body-guard as users have it.

use crate::harness::{Answer, Origin, Proxy, eventually};
use std::{io::Write, time::Duration};

fn guarded(origin: &Origin, inspect: &str, config: &str) -> Proxy {
    let agent = format!(
        "builtin \"body-guard\"; timeout \"5s\"; inspect {{ {inspect} }}; config {{ {config} }}"
    );
    let proxy = Proxy::builder(
        r#"routes { route "all" { filters { agent "guard" }; upstream "origin" } }"#,
    )
    .origin(origin)
    .agent_block("guard", &agent)
    .start();
    proxy.wait_ready();
    proxy
}

fn post(proxy: &Proxy, body: &str) -> u16 {
    let request = format!(
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    proxy.client().send(request).response().status
}

#[test]
fn a_denied_body_does_not_reach_the_upstream() {
    let origin = Origin::start();
    let config = r#"request { deny "DROP TABLE"; json max-depth=3 }"#;
    let proxy = guarded(&origin, "request-body \"buffer\"", config);
    assert_eq!(post(&proxy, "; DROP TABLE users"), 403);
    let line = proxy.access_line(|line| line["status"] == 403);
    assert_eq!(line["reason"], "body:deny:DROP TABLE");
    assert_eq!(line["blocked_by"], "guard");
    assert_eq!(post(&proxy, "[[[[]]]]"), 403);
    assert_eq!(origin.connections(), 0);
    assert_eq!(post(&proxy, "[[[]]]"), 200);
    assert_eq!(origin.last().body, b"[[[]]]");
}

#[test]
fn a_stream_is_redacted_across_its_pieces() {
    let origin = Origin::answering(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\npay 4111\r\n").then(
            |stream| {
                // The pieces come apart, whatever the time between them is.
                std::thread::sleep(Duration::from_millis(20));
                let _ = stream.write_all(b"10\r\n111111111111 now\r\n0\r\n\r\n");
            },
        )
    });
    let config = r##"response { redact pattern=#"\b\d{16}\b"# with="[card]" }"##;
    let proxy = guarded(&origin, "response-body \"stream\"", config);
    let response = proxy.get("/");
    assert!(response.complete);
    assert_eq!(String::from_utf8_lossy(&response.body), "pay [card] now");
}

/// Whoever breaks off bodies takes no room from the bodies of others, and no time from the agent.
#[test]
fn what_is_kept_of_a_body_goes_with_its_request() {
    let origin = Origin::start();
    let proxy = guarded(
        &origin,
        "request-body \"stream\"",
        r#"request { deny "EVIL" }"#,
    );
    let told =
        r#"portcullis_agent_calls_total{agent="guard",phase="request_complete",outcome="allow"}"#;
    for broken_off in 1..=3 {
        let mut client = proxy.client();
        client
            .send("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n2\r\nEV\r\n");
        eventually("the request is on its way", || {
            (origin.connections() == broken_off).then_some(())
        });
        drop(client);
        proxy.wait_metric(told, broken_off as f64);
    }
}

#[test]
fn a_type_of_response_is_refused() {
    let origin = Origin::answering(|_| {
        Answer::with(200, &[("content-type", "application/x-msdownload")], b"MZ")
    });
    let config = r#"response { block-content-types "application/x-msdownload" }"#;
    let proxy = guarded(&origin, "response-headers", config);
    let response = proxy.get("/");
    assert_eq!(response.status, 403);
    assert!(!response.body.starts_with(b"MZ"));
}

#[test]
fn the_last_byte_of_a_denied_text_does_not_pass() {
    let origin = Origin::answering(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\nall evil\r\n").then(
            |stream| {
                // The piece is judged by what is there.
                std::thread::sleep(Duration::from_millis(20));
                let _ = stream.write_all(b"5\r\n done\r\n0\r\n\r\n");
            },
        )
    });
    for (config, denied) in [
        (r#"response { deny "root" "of"; deny "evil" }"#, "evil"),
        (r#"response { deny-regex "evil.*" }"#, "evil.*"),
        (r##"response { deny-regex #"\bevil\b"# }"##, r"\bevil\b"),
    ] {
        let proxy = guarded(&origin, "response-body \"stream\"", config);
        let response = proxy.get("/");
        assert!(!response.complete);
        let passed = String::from_utf8_lossy(&response.body);
        assert!("all evi".starts_with(&*passed), "{config}: {passed}");
        let line = proxy.access_line(|line| line["blocked_by"] == "guard");
        assert_eq!(line["reason"], format!("body:deny:{denied}"));
    }
}
