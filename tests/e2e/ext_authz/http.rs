//! The same over HTTP: the service gets the request itself.

use super::before;
use crate::harness::{Answer, Origin, Proxy, Recorded};

fn over_http(service: &Origin, origin: &Origin, more: &str) -> Proxy {
    let way = format!("http \"http://{}/check\"", service.address());
    let proxy = before(&way, origin, more).start();
    proxy.wait_ready();
    proxy
}

/// The target that the service was asked about, without the prefix of its URL.
fn asked_for(request: &Recorded) -> String {
    let target = request.target();
    target.strip_prefix("/check").unwrap().to_owned()
}

#[test]
fn over_http_the_service_gets_the_request_itself() {
    let origin = Origin::start();
    let service = Origin::start();
    let proxy = over_http(&service, &origin, "");
    let head = "DELETE /cart?x=1 HTTP/1.1\r\nHost: shop.example.com\r\nAuthorization: Bearer t\r\nCookie: a=1\r\nX-Own: 1\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(proxy.client().send(head).response().status, 200);
    let asked = service.last();
    assert_eq!(asked.request_line(), "DELETE /check/cart?x=1 HTTP/1.1");
    for (name, value) in [
        ("host", Some("shop.example.com")),
        ("authorization", Some("Bearer t")),
        ("content-length", Some("0")),
        ("cookie", None),
        ("x-own", None),
        ("x-forwarded-for", None),
    ] {
        assert_eq!(asked.header(name).as_deref(), value, "{name}");
    }
    assert_eq!(origin.last().header("cookie").as_deref(), Some("a=1"));
}

#[test]
fn over_http_200_alone_lets_pass() {
    let origin = Origin::start();
    let service = Origin::answering(|request| match &*asked_for(request) {
        "/known" => Answer::with(
            200,
            &[
                ("x-user", "ann"),
                ("x-not-listed", "1"),
                ("x-session", "new"),
                ("x-envoy-auth-headers-to-remove", "authorization, X-Debug"),
            ],
            b"",
        ),
        "/204" => Answer::raw("HTTP/1.1 204 None\r\n\r\n"),
        "/401" => Answer::with(401, &[("www-authenticate", "Basic")], b"who?"),
        "/500" => Answer::with(500, &[], b""),
        "/open/500" => Answer::with(500, &[], b""),
        _ => Answer::ok("ok"),
    });
    let more = "circuit-breaker failures=1000; ext-authz { copy-headers \"x-user\"; copy-to-client \"x-session\" }";
    let proxy = over_http(&service, &origin, more);
    let lines = [
        "Authorization: Basic eA==",
        "X-Debug: 1",
        "X-User: root",
        "X-Not-Listed: own",
    ];
    let response = proxy.get_with("/known", &lines);
    assert_eq!(
        (response.status, response.header("x-session")),
        (200, Some("new"))
    );
    let request = origin.last();
    for (name, value) in [
        ("x-user", Some("ann")),
        ("x-not-listed", Some("own")),
        ("authorization", None),
        ("x-debug", None),
    ] {
        assert_eq!(request.header(name).as_deref(), value, "{name}");
    }
    assert_eq!(proxy.get_with("/plain", &lines).status, 200);
    assert_eq!(origin.last().header("x-user"), None);
    assert_eq!(proxy.get("/204").status, 204);
    let who = proxy.get("/401");
    assert_eq!((who.status, who.text()), (401, "who?".into()));
    assert_eq!(who.header("www-authenticate"), Some("Basic"));
    assert_eq!(proxy.get("/500").status, 502);
    assert_eq!(
        proxy.access_line_of("/500")["agents"][0]["failure"],
        "protocol_error"
    );
    assert_eq!(proxy.get("/open/500").text(), "ok");
}

#[test]
fn over_http_the_body_goes_along() {
    let origin = Origin::start();
    let service = Origin::answering(|request| match &request.body[..] {
        b"evil" => Answer::with(403, &[], b"no"),
        _ => Answer::ok(""),
    });
    let more =
        r#"inspect { request-headers; request-body "buffer" limit="8B" on-oversize="truncate" }"#;
    let proxy = over_http(&service, &origin, more);
    for (body, shown, partial, status) in [
        ("good", "good", "false", 200),
        ("evil", "evil", "false", 403),
        ("0123456789", "01234567", "true", 200),
    ] {
        let length = body.len();
        let head = format!("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}");
        assert_eq!(
            proxy.client().send(head).response().status,
            status,
            "{body}"
        );
        let asked = service.last();
        assert_eq!(asked.body, shown.as_bytes());
        assert_eq!(
            asked.header("x-envoy-auth-partial-body").as_deref(),
            Some(partial)
        );
    }
    assert_eq!(proxy.get("/y").status, 200);
    assert_eq!(service.last().header("x-envoy-auth-partial-body"), None);
    assert_eq!(service.requests().len(), 4);
}
