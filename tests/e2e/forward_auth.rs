//! Services that are asked with a GET about each request: `dialect "forward-auth"`.

use crate::harness::{
    Answer, Origin, Proxy, Recorded, authz, eventually, grpc,
    http2::{HeadersAlone, exchange},
    proxy::Builder,
};
use std::{sync::mpsc, thread, time::Duration};

fn before(service: &str, origin: &Origin, more: &str) -> Builder {
    authz::before(&format!("http \"{service}\""), "forward-auth", origin, more)
}

fn url(service: &Origin) -> String {
    format!("http://{}/verify", service.address())
}

/// The path that the service is asked about.
fn path(request: &Recorded) -> String {
    request.header("x-forwarded-uri").unwrap_or_default()
}

fn started(service: &Origin, origin: &Origin, more: &str) -> Proxy {
    let proxy = before(&url(service), origin, more).start();
    proxy.wait_ready();
    proxy
}

#[test]
fn what_the_service_is_asked() {
    let origin = Origin::start();
    let service = Origin::start();
    let proxy = started(&service, &origin, "send-headers { except \"x-secret\" }");
    let lines = [
        "Host: shop.example.com",
        "Cookie: a=1",
        "X-Secret: 1",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Uri: /evil",
        "X-Original-Url: https://evil/",
        "Content-Length: 5",
        "Connection: x-hop",
        "X-Hop: 1",
        "If-None-Match: \"x\"",
    ];
    let mut client = proxy.client();
    let head = format!(
        "POST /cart?x=1 HTTP/1.1\r\n{}\r\n\r\nhello",
        lines.join("\r\n")
    );
    assert_eq!(client.send(head).response().status, 200);
    let asked = service.last();
    assert_eq!(asked.request_line(), "GET /verify HTTP/1.1");
    let expected = [
        ("host", Some(service.address().to_string())),
        ("x-forwarded-method", Some("POST".to_owned())),
        ("x-forwarded-proto", Some("http".to_owned())),
        ("x-forwarded-host", Some("shop.example.com".to_owned())),
        ("x-forwarded-uri", Some("/cart?x=1".to_owned())),
        ("x-forwarded-for", Some("127.0.0.1".to_owned())),
        (
            "x-original-url",
            Some("http://shop.example.com/cart?x=1".to_owned()),
        ),
        ("cookie", Some("a=1".to_owned())),
        ("x-secret", None),
        ("x-hop", None),
        ("if-none-match", None),
        ("content-length", None),
        ("transfer-encoding", None),
    ];
    for (name, value) in expected {
        assert_eq!(asked.header(name), value, "{name}");
    }
    // The upstream gets what the client has sent.
    let request = origin.last();
    assert_eq!(
        (request.target().as_str(), &request.body[..]),
        ("/cart?x=1", &b"hello"[..])
    );
    assert_eq!(request.header("x-secret").as_deref(), Some("1"));
    assert_eq!(request.header("x-forwarded-uri"), None);
    // The connection is kept: one to find out that it is there, one for all questions.
    for _ in 0..5 {
        assert_eq!(proxy.get("/again").status, 200);
    }
    assert!(service.connections() <= 4, "{}", service.connections());
}

/// As CGI has it: what a name is called there, whichever of `_` and `-` it was sent with.
fn read(request: &Recorded, name: &str) -> Vec<String> {
    let head = String::from_utf8_lossy(&request.head).into_owned();
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let alike = lines.filter(|(sent, _)| sent.to_ascii_lowercase().replace('_', "-") == name);
    alike.map(|(_, value)| value.trim().to_owned()).collect()
}

#[test]
fn d27_no_client_can_say_under_another_spelling_what_is_asked_about() {
    let origin = Origin::start();
    let service = Origin::answering(|request| {
        let is_public = |uri: &String| uri.starts_with("/public");
        match read(request, "x-original-uri").iter().any(is_public) {
            true => Answer::ok("yes"),
            false => Answer::with(401, &[], b"no"),
        }
    });
    let proxy = started(&service, &origin, "");
    for claim in ["X-Original-URI", "X_Original_URI", "x-original_uri"] {
        let line = format!("{claim}: /public");
        assert_eq!(proxy.get_with("/secret", &[&line]).status, 401, "{claim}");
    }
    let lines = [
        "x_original_method: PUT",
        "x_forwarded_for: 6.6.6.6",
        "x_forwarded-proto: https",
        "x_real_ip: 6.6.6.6",
        "x_request_id: 6",
    ];
    // What could make two readings of a message is not passed on at all.
    for line in ["content_length: 6", "transfer_encoding: chunked"] {
        assert_eq!(proxy.get_with("/public", &[line]).status, 400, "{line}");
    }
    assert_eq!(proxy.get_with("/public", &lines).status, 200);
    let asked = service.last();
    for (name, told) in [
        ("x-original-method", &["GET"][..]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-forwarded-proto", &["http"]),
        ("x-real-ip", &["127.0.0.1"]),
        ("content-length", &[]),
        ("transfer-encoding", &[]),
    ] {
        assert_eq!(read(&asked, name), told, "{name}");
    }
    // Nor to the upstream.
    let request = origin.last();
    for (name, count) in [
        ("x-forwarded-for", 1),
        ("x-real-ip", 1),
        ("x-request-id", 1),
        ("content-length", 0),
        ("transfer-encoding", 0),
    ] {
        assert_eq!(read(&request, name).len(), count, "{name}");
    }
}

#[test]
fn d27_listed_headers_are_copied_and_no_client_can_send_them() {
    let origin = Origin::answering(|_| Answer::with(200, &[("set-cookie", "own=1")], b"ok"));
    let service = Origin::answering(|request| match &*path(request) {
        "/known" => Answer::with(
            204,
            &[
                ("x-user", "ann"),
                ("x-auth-group", "a"),
                ("x-auth-group", "b"),
                ("x-other", "not copied"),
                ("set-cookie", "session=1"),
            ],
            b"",
        ),
        _ => Answer::with(200, &[], b"nobody"),
    });
    let copied =
        r#"forward-auth { copy-headers "x-user" "x-auth-*"; copy-to-client "set-cookie" }"#;
    let proxy = started(&service, &origin, copied);
    let spoofed = [
        "X-User: root",
        "x_user: root",
        "X-Auth-Admin: 1",
        "x-other: own",
    ];
    for (path, user, groups, cookies) in [
        (
            "/known",
            vec!["ann"],
            vec!["a", "b"],
            vec!["own=1", "session=1"],
        ),
        ("/unknown", vec![], vec![], vec!["own=1"]),
        ("/free", vec![], vec![], vec!["own=1"]),
    ] {
        let response = proxy.get_with(path, &spoofed);
        assert_eq!(response.status, 200);
        assert_eq!(response.header_values("set-cookie"), cookies, "{path}");
        let request = origin.last();
        assert_eq!(request.header_values("x-user"), user, "{path}");
        assert_eq!(request.header_values("x-auth-group"), groups, "{path}");
        for name in ["x_user", "x-auth-admin"] {
            assert_eq!(request.header(name), None, "{path}: {name}");
        }
        assert_eq!(request.header("x-other").as_deref(), Some("own"));
    }
    let asked = service.requests();
    assert!(asked.iter().all(|asked| asked.header("x-user").is_none()));
    assert_eq!(
        proxy.metric(r#"portcullis_agent_rejected_mutations_total{agent="auth"}"#),
        0.0
    );
}

#[test]
fn any_other_answer_is_the_clients() {
    let origin = Origin::start();
    let service = Origin::answering(|request| match &*path(request) {
        "/login" => Answer::with(
            302,
            &[
                ("location", "https://login.example.com/?next=%2F"),
                ("set-cookie", "state=1"),
                ("set-cookie", "csrf=2"),
                ("connection", "x-inner"),
                ("x-inner", "1"),
            ],
            b"<a>there</a>",
        ),
        "/who" => Answer::chunked(401, &[("www-authenticate", "Bearer")], b"who are you?", 3),
        "/unchanged" => Answer::raw("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n"),
        "/fixed/no" | "/free/no" => Answer::with(403, &[], b"no"),
        "/late" => Answer::raw(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
        ),
        _ => Answer::ok("ok"),
    });
    let proxy = started(&service, &origin, "");
    let login = proxy.get("/login");
    assert_eq!((login.status, login.text()), (302, "<a>there</a>".into()));
    assert_eq!(
        login.header("location"),
        Some("https://login.example.com/?next=%2F")
    );
    assert_eq!(login.header_values("set-cookie"), ["state=1", "csrf=2"]);
    assert_eq!(login.header("x-inner"), None);
    let who = proxy.get("/who");
    assert_eq!((who.status, who.text()), (401, "who are you?".into()));
    assert_eq!(who.header("www-authenticate"), Some("Bearer"));
    assert_eq!(who.header_values("transfer-encoding"), Vec::<&str>::new());
    assert_eq!(proxy.get("/unchanged").status, 304);
    let late = proxy.get("/late");
    assert_eq!((late.status, late.header("retry-after")), (429, Some("7")));
    // An answer of the route's own is only for those who may have it.
    assert_eq!(proxy.get("/fixed/no").status, 403);
    assert_eq!(proxy.get("/fixed/yes").text(), "fixed\n");
    assert_eq!(origin.requests().len(), 0);
    let line = proxy.access_line_of("/login");
    assert_eq!(
        (&line["blocked_by"], &line["status"]),
        (&"auth".into(), &302.into())
    );
    assert_eq!(line["agents"][0]["verdict"], "block");
    // gRPC has no other way to be refused.
    let refused = exchange(proxy.address_of("http"), vec![grpc::call("/who")])
        .remove(0)
        .unwrap();
    assert_eq!(refused.headers()["grpc-status"], "16");
    assert_eq!(refused.extensions().get(), Some(&HeadersAlone(true)));
}

#[test]
fn d28_what_is_no_answer_is_a_failure() {
    let origin = Origin::start();
    let service = Origin::answering(|request| {
        let path = path(request);
        match path.rsplit('/').next().unwrap() {
            "500" => Answer::with(500, &[], b"broken"),
            "503" => Answer::with(503, &[("retry-after", "60")], b"busy"),
            "closes" => Answer::raw("").then_close(),
            "half-head" => Answer::raw("HTTP/1.1 200 O").then_close(),
            "half-body" => {
                Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").then_close()
            }
            "switches" => Answer::raw(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            ),
            "garbage" => Answer::raw("220 mail ESMTP\r\n").then_close(),
            "huge" => Answer::with(403, &[], &vec![b'x'; 70_000]),
            "huge-allow" => Answer::with(200, &[], &vec![b'x'; 70_000]),
            "huge-head" => Answer::with(200, &[("x-user", &"x".repeat(400_000))], b""),
            _ => Answer::ok("ok"),
        }
    });
    let proxy = started(&service, &origin, "circuit-breaker failures=1000");
    let table = [
        ("500", 502, "protocol_error"),
        ("503", 502, "protocol_error"),
        ("closes", 503, "unreachable"),
        ("half-head", 503, "unreachable"),
        ("half-body", 502, "protocol_error"),
        ("switches", 502, "protocol_error"),
        ("garbage", 502, "protocol_error"),
        ("huge", 502, "protocol_error"),
        ("huge-allow", 502, "protocol_error"),
        ("huge-head", 502, "protocol_error"),
    ];
    for (what, status, failure) in table {
        let path = format!("/{what}");
        assert_eq!(proxy.get(&path).status, status, "{what}");
        let line = proxy.access_line_of(&path);
        assert_eq!(line["agents"][0]["failure"], failure, "{line}");
        // It is about this request alone.
        assert_eq!(proxy.get("/fine").status, 200, "after {what}");
        let open = format!("/open/{what}");
        assert_eq!(proxy.get(&open).text(), "ok", "{what}");
    }
    assert_eq!(origin.requests().len(), 2 * table.len());
    assert_eq!(
        proxy.metric(r#"portcullis_agent_reconnects_total{agent="auth"}"#),
        0.0
    );
}

#[test]
fn failures_are_relayed_where_that_is_written() {
    let origin = Origin::start();
    let service = Origin::answering(|_| Answer::with(503, &[("retry-after", "60")], b"busy"));
    let settings = "forward-auth { relay-failures; max-body \"4B\" }";
    let proxy = started(&service, &origin, settings);
    let response = proxy.get("/x");
    assert_eq!((response.status, response.text()), (503, "busy".into()));
    assert_eq!(response.header("retry-after"), Some("60"));
    assert_eq!(proxy.access_line_of("/x")["agents"][0]["verdict"], "block");
}

#[test]
fn a_service_that_hangs_costs_its_timeout() {
    let origin = Origin::start();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let service = Origin::answering(move |request| match &*path(request) {
        "/open/hang" | "/hang" => {
            Answer::raw("").then(|stream| drop(std::io::Read::read(stream, &mut [0])))
        }
        "/late" => {
            let _ = released
                .lock()
                .unwrap()
                .recv_timeout(Duration::from_secs(20));
            Answer::with(403, &[], b"late")
        }
        _ => Answer::ok("ok"),
    });
    let settings = "timeout \"200ms\"; circuit-breaker failures=1000";
    let proxy = started(&service, &origin, settings);
    assert_eq!(proxy.get("/hang").status, 504);
    assert_eq!(
        proxy.access_line_of("/hang")["agents"][0]["failure"],
        "timeout"
    );
    assert_eq!(proxy.get("/open/hang").text(), "ok");
    // A late answer has nowhere to come to: the next request gets its own.
    assert_eq!(proxy.get("/late").status, 504);
    release.send(()).unwrap();
    for _ in 0..3 {
        assert_eq!(proxy.get("/fine").status, 200);
    }
}

#[test]
fn a_service_that_is_gone_comes_back() {
    let origin = Origin::start();
    let answer = |_: &Recorded| Answer::ok("ok").then_close();
    let service = Origin::answering(answer);
    let address = service.address();
    let proxy = started(&service, &origin, "");
    assert_eq!(proxy.get("/before").status, 200);
    drop(service);
    let gone = eventually("failure", || {
        let response = proxy.get("/gone");
        (response.status != 200).then_some(response)
    });
    assert_eq!((gone.status, gone.header("retry-after")), (503, Some("1")));
    let line = proxy.access_line(|line| line["path"] == "/gone" && line["status"] == 503);
    assert_eq!(line["agents"][0]["failure"], "unreachable");
    assert_eq!(proxy.get("/open/gone").text(), "ok");
    let service = Origin::at(address, answer);
    eventually("recovery", || {
        let recovered = proxy.get("/back").status == 200;
        // It dials again after pauses, and the breaker may have opened.
        thread::sleep(Duration::from_millis(20));
        recovered.then_some(())
    });
    assert!(!service.requests().is_empty());
}

#[test]
fn a_service_that_never_was_there_is_unreachable() {
    let origin = Origin::start();
    let service = Origin::start();
    let url = url(&service);
    drop(service);
    let proxy = before(&url, &origin, "").start();
    assert_eq!(proxy.get("/x").status, 503);
    assert_eq!(proxy.get("/open/x").text(), "ok");
    assert_eq!(proxy.get("/free").text(), "ok");
    assert_eq!(proxy.probe("/readyz").status, 503);
}
