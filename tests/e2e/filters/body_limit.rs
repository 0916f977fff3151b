//! `body-limit`.

use super::past;
use crate::harness::{Origin, Proxy, Response, TestAgent};

fn post(proxy: &Proxy, framing: &str, body: &str) -> Response {
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n{body}");
    proxy.client().send(head).response()
}

fn chunks(size: usize, count: usize) -> String {
    let chunk = format!("{size:x}\r\n{}\r\n", "c".repeat(size));
    chunk.repeat(count) + "0\r\n\r\n"
}

#[test]
fn larger_bodies_are_413() {
    let agent = TestAgent::named("bodies").start();
    let inspecting =
        r#"timeout "10s"; inspect { request-headers; request-body "buffer" limit="64KiB" }"#;
    for filters in [
        r#"body-limit "1000B""#,
        r#"body-limit "2000B"; body-limit "1000B""#,
        r#"body-limit "1000B"; agent "bodies""#,
    ] {
        let origin = Origin::start();
        let proxy = past(filters, &origin)
            .agent_with(&agent, inspecting)
            .start();
        proxy.wait_ready();
        let chunked = "transfer-encoding: chunked";
        assert_eq!(
            post(&proxy, "content-length: 1000", &"b".repeat(1000)).status,
            200
        );
        assert_eq!(post(&proxy, chunked, &chunks(500, 2)).status, 200);
        assert_eq!(origin.take().len(), 2, "{filters}");
        let announced = post(&proxy, "content-length: 1001", "");
        assert_eq!(announced.status, 413, "{filters}");
        assert_eq!(announced.header("connection"), Some("close"));
        assert!(origin.take().is_empty(), "{filters}");
        assert_eq!(
            post(&proxy, chunked, &chunks(501, 2)).status,
            413,
            "{filters}"
        );
        assert_eq!(
            post(&proxy, chunked, &chunks(5000, 1)).status,
            413,
            "{filters}"
        );
        let complete = origin
            .take()
            .iter()
            .filter(|request| request.complete)
            .count();
        assert_eq!(complete, 0, "{filters}");
        let refused = proxy.access_lines().into_iter();
        let refused = refused.filter(|line| line["status"] == 413);
        for line in refused {
            assert_eq!(line["reason"], "request_body_too_large", "{filters}");
            assert_eq!(line["blocked_by"], "filter:body-limit", "{filters}");
        }
        let refused = "portcullis_filter_refused_total{filter=\"body-limit\",mode=\"enforce\"}";
        proxy.wait_metric(refused, 3.0);
    }
}

#[test]
fn a_limit_holds_on_its_route_alone() {
    let origin = Origin::start();
    let proxy = Proxy::builder(
        r#"
        routes {
            route "small" { match { path "/small" }; filters { body-limit "10B" }; upstream "origin" }
            route "all" { upstream "origin" }
        }
        "#,
    )
    .origin(&origin)
    .start();
    let post = |path: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n");
        proxy
            .client()
            .send(head + &"b".repeat(20))
            .response()
            .status
    };
    assert_eq!(post("/small"), 413);
    assert_eq!(post("/other"), 200);
}
