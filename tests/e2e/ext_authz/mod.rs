//! Services of Envoy's external authorization: `dialect "ext-authz"`, over gRPC and over HTTP.

mod http;

use crate::harness::{
    Answer, Origin, Proxy,
    authz::{self, AuthzService, Checked, allowed, answered, denied, options},
    eventually, grpc,
    http2::{HeadersAlone, exchange, request},
    proxy::Builder,
};
use portcullis_agent_protocol::authz::messages::{
    Answer as With, CheckResponse, Kind, OkResponse, QueryParameter, Status, Struct, Value,
};
use std::{thread, time::Duration};

fn before(way: &str, origin: &Origin, more: &str) -> Builder {
    authz::before(way, "ext-authz", origin, more)
}

fn over_grpc(service: &AuthzService, origin: &Origin, more: &str) -> Proxy {
    let way = format!("grpc \"http://{}\"", service.address());
    let proxy = before(&way, origin, more).start();
    proxy.wait_ready();
    proxy
}

const REJECTED: &str = r#"portcullis_agent_rejected_mutations_total{agent="auth"}"#;

#[test]
fn the_question_is_that_of_envoy() {
    let origin = Origin::start();
    let service = AuthzService::answering(|_| allowed(&[]).into());
    let context = "ext-authz { context { tenant \"blue\"; \"a b\" \"\" } }";
    let proxy = over_grpc(&service, &origin, context);
    let lines = [
        "Host: Shop.Example.com:80",
        "Cookie: a=1",
        "Cookie: b=2",
        "X-Tenant: 7",
    ];
    assert_eq!(proxy.get_with("/cart?x=1", &lines).status, 200);
    let (question, call) = service.asked().remove(0);
    let attributes = question.attributes.unwrap();
    let context: Vec<_> = attributes.context_extensions.into_iter().collect();
    assert_eq!(
        context,
        [
            ("a b".into(), String::new()),
            ("tenant".into(), "blue".into())
        ]
    );
    let source = attributes
        .source
        .unwrap()
        .address
        .unwrap()
        .socket_address
        .unwrap();
    assert_eq!(source.address, "127.0.0.1");
    assert!(source.port_value > 0);
    let http = service.told("/cart?x=1");
    assert_eq!(
        (&*http.method, &*http.scheme, &*http.protocol),
        ("GET", "http", "HTTP/1.1")
    );
    assert_eq!(
        http.headers[":authority"].to_ascii_lowercase(),
        "shop.example.com:80"
    );
    assert_eq!(http.headers[":path"], "/cart?x=1");
    assert_eq!(http.headers["cookie"], "a=1; b=2");
    assert_eq!(http.headers["x-tenant"], "7");
    assert_eq!(http.headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(http.size, -1);
    // The service is told how much time there is.
    let timeout = call["grpc-timeout"].to_str().unwrap();
    assert!(timeout.ends_with(['m', 'u', 'n', 'S']), "{timeout}");
}

#[test]
fn an_answer_that_lets_pass_changes_headers() {
    let origin = Origin::answering(|_| Answer::with(200, &[("x-both", "origin")], b"ok"));
    let service = AuthzService::answering(|http| {
        if http.path != "/changed" {
            return answered(0, "", None);
        }
        let mut answer = allowed(&[("x-auth-user", "ann")]);
        answer.headers_to_remove = vec!["Authorization".to_owned(), "x-auth-debug".to_owned()];
        answer.response_headers_to_add = options(&[("x-both", "service")]);
        let mut more = options(&[("x-auth-user", "bob")]);
        more[0].append = Some(true);
        answer.headers.extend(more);
        answer.into()
    });
    let proxy = over_grpc(&service, &origin, "owns-headers \"x-auth-*\"");
    let lines = [
        "Authorization: Basic eA==",
        "X-Auth-User: root",
        "x_auth_user: root",
    ];
    let response = proxy.get_with("/changed", &lines);
    assert_eq!(response.status, 200);
    assert_eq!(response.header_values("x-both"), ["origin", "service"]);
    let request = origin.last();
    assert_eq!(request.header_values("x-auth-user"), ["ann", "bob"]);
    assert_eq!(request.header("authorization"), None);
    // What the client made up reaches nobody, whatever the answer is.
    assert_eq!(proxy.get_with("/plain", &lines).status, 200);
    let request = origin.last();
    assert_eq!(
        (request.header("x-auth-user"), request.header("x_auth_user")),
        (None, None)
    );
    assert!(request.header("authorization").is_some());
    assert!(!service.told("/plain").headers.contains_key("x-auth-user"));
    assert_eq!(proxy.metric(REJECTED), 0.0);
}

#[test]
fn an_answer_that_refuses_is_the_clients() {
    let origin = Origin::start();
    let service = AuthzService::answering(|http| match &*http.path {
        "/who" => denied(401, &[("www-authenticate", "Bearer")], "who?", "no token"),
        "/login" => denied(302, &[("location", "/login")], "", ""),
        "/bare" => answered(7, "", None),
        "/call-7" => Checked::Status(7, "policy"),
        "/call-16" => Checked::Status(16, ""),
        "/fixed/no" => answered(7, "", None),
        _ => allowed(&[]).into(),
    });
    let proxy = over_grpc(&service, &origin, "");
    let who = proxy.get("/who");
    assert_eq!((who.status, who.text()), (401, "who?".into()));
    assert_eq!(who.header("www-authenticate"), Some("Bearer"));
    let line = proxy.access_line_of("/who");
    assert_eq!(
        (&line["blocked_by"], &line["reason"]),
        (&"auth".into(), &"no token".into())
    );
    let login = proxy.get("/login");
    assert_eq!(
        (login.status, login.header("location")),
        (302, Some("/login"))
    );
    for (path, status, reason) in [
        ("/bare", 403, serde_json::Value::Null),
        ("/call-7", 403, "policy".into()),
        ("/call-16", 401, serde_json::Value::Null),
        ("/fixed/no", 403, serde_json::Value::Null),
    ] {
        assert_eq!(proxy.get(path).status, status, "{path}");
        let line = proxy.access_line_of(path);
        assert_eq!(line["agents"][0]["verdict"], "block", "{line}");
        assert_eq!(line["reason"], reason, "{path}");
    }
    assert_eq!(proxy.get("/fixed/yes").text(), "fixed\n");
    assert_eq!(origin.requests().len(), 0);
    let address = proxy.address_of("http");
    for (path, status) in [("/bare", "7"), ("/call-16", "16")] {
        let refused = exchange(address, vec![grpc::call(path)]).remove(0).unwrap();
        assert_eq!(refused.headers()["grpc-status"], status, "{path}");
        assert_eq!(refused.extensions().get(), Some(&HeadersAlone(true)));
    }
}

/// Answers with things that no agent may do.
fn forbidden(http: &portcullis_agent_protocol::authz::messages::HttpRequest) -> Checked {
    let mut answer = OkResponse::default();
    match http.path.rsplit('/').next().unwrap() {
        "framing" => {
            answer = allowed(&[
                ("x-auth-user", "ann"),
                ("content-length", "0"),
                ("Host", "evil"),
            ]);
            answer.headers_to_remove = vec!["host".to_owned(), ":path".to_owned()];
        }
        "unowned" => answer = allowed(&[("x-auth-user", "ann"), ("x-other", "1")]),
        "query" => {
            answer = allowed(&[("x-auth-user", "ann")]);
            answer.query_parameters_to_set = vec![QueryParameter::default()];
        }
        "broken" => answer = allowed(&[("x-auth-user", "ann"), ("x-auth-x", "a\r\nb: c")]),
        "denied" => {
            return denied(
                403,
                &[("x-why", "no"), ("transfer-encoding", "x")],
                "no",
                "",
            );
        }
        _ => {}
    }
    answer.into()
}

#[test]
fn what_no_agent_may_do_is_ignored_and_counted() {
    let origin = Origin::start();
    let service = AuthzService::answering(forbidden);
    let proxy = over_grpc(&service, &origin, "owns-headers \"x-auth-*\"");
    let mut count = 0.0;
    for (what, more) in [
        ("framing", 4.0),
        ("unowned", 1.0),
        ("query", 1.0),
        ("broken", 1.0),
    ] {
        let path = format!("/{what}");
        assert_eq!(
            proxy.get_with(&path, &["Host: a.example"]).status,
            200,
            "{what}"
        );
        let request = origin.last();
        assert_eq!(request.target(), path);
        assert_eq!(request.header("host").as_deref(), Some("a.example"));
        assert_eq!(
            request.header("x-auth-user").as_deref(),
            Some("ann"),
            "{what}"
        );
        assert_eq!(
            (request.header("x-other"), request.header("b")),
            (None, None)
        );
        count += more;
        proxy.wait_metric(REJECTED, count);
    }
    let response = proxy.get("/denied");
    assert_eq!(
        (response.status, response.header("x-why")),
        (403, Some("no"))
    );
    proxy.wait_metric(REJECTED, count + 1.0);
    // The first is news.
    let news = proxy.log_line(|line| line["level"] == "WARN" && line["agent"] == "auth");
    assert!(news.to_string().contains("may not"), "{news}");
}

#[test]
fn what_no_agent_may_do_is_a_failure_where_that_is_written() {
    let origin = Origin::start();
    let service = AuthzService::answering(forbidden);
    let more = "owns-headers \"x-auth-*\"; strict; circuit-breaker failures=1000";
    let proxy = over_grpc(&service, &origin, more);
    for what in ["framing", "unowned", "query", "broken", "denied"] {
        let path = format!("/{what}");
        assert_eq!(proxy.get(&path).status, 502, "{what}");
        assert_eq!(
            proxy.access_line_of(&path)["agents"][0]["failure"],
            "protocol_error"
        );
    }
    assert_eq!(origin.requests().len(), 0);
    assert_eq!(proxy.get("/fine").status, 200);
}

#[test]
fn the_body_goes_with_the_one_question() {
    let origin = Origin::start();
    let service = AuthzService::answering(|http| match (&*http.body, http.path.as_str()) {
        ("evil", _) | (_, "/fixed/no") => denied(403, &[], "no", ""),
        _ => allowed(&[("x-auth-length", &http.body.len().to_string())]).into(),
    });
    let more = r#"owns-headers "x-auth-*"
        inspect { request-headers; request-body "buffer" limit="8B" on-oversize="truncate" }"#;
    let proxy = over_grpc(&service, &origin, more);
    let post = |path: &str, body: &str| {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        proxy.client().send(head + body).response()
    };
    for (path, body, shown, partial) in [
        ("/a", "good", "good", "false"),
        ("/b", "0123456789", "01234567", "true"),
    ] {
        assert_eq!(post(path, body).status, 200, "{path}");
        let told = service.told(path);
        assert_eq!(
            (&*told.body, &*told.headers["x-envoy-auth-partial-body"]),
            (shown, partial)
        );
        let request = origin.last();
        assert_eq!(request.body, body.as_bytes());
        assert_eq!(
            request.header("x-auth-length"),
            Some(shown.len().to_string())
        );
    }
    assert_eq!(post("/c", "evil").status, 403);
    // Without a body the head is the whole question; so it is where nobody reads the body.
    assert_eq!(proxy.get("/d").status, 200);
    assert_eq!(post("/fixed/no", "good").status, 403);
    assert_eq!(post("/fixed/yes", "good").text(), "fixed\n");
    let chunked = "POST /e HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nev\r\n2\r\nil\r\n0\r\n\r\n";
    assert_eq!(proxy.client().send(chunked).response().status, 403);
    let http2 = request("POST", "/f", "evil".into());
    let answer = exchange(proxy.address_of("http"), vec![http2])
        .remove(0)
        .unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(service.asked().len(), 8, "each request is asked about once");
    assert_eq!(origin.requests().len(), 3);
}

#[test]
fn what_is_no_answer_is_a_failure() {
    let origin = Origin::start();
    let service = AuthzService::answering(|http| match http.path.rsplit('/').next().unwrap() {
        "unavailable" => Checked::Status(14, "down"),
        "internal" => Checked::Status(13, "broken"),
        "unimplemented" => Checked::Status(12, ""),
        "deadline" => Checked::Status(4, ""),
        "garbage" => Checked::Garbage(b"\xff\xff\xff"),
        "reset" => Checked::Reset,
        "error" => answered(13, "broken", Some(With::Error(Default::default()))),
        "odd-status" => denied(700, &[], "", ""),
        _ => allowed(&[]).into(),
    });
    let proxy = over_grpc(&service, &origin, "circuit-breaker failures=1000");
    let table = [
        ("unavailable", 503, "unreachable"),
        ("internal", 502, "protocol_error"),
        ("unimplemented", 502, "protocol_error"),
        ("deadline", 502, "protocol_error"),
        ("garbage", 502, "protocol_error"),
        ("reset", 503, "unreachable"),
        ("error", 502, "protocol_error"),
        ("odd-status", 502, "protocol_error"),
    ];
    for (what, status, failure) in table {
        let path = format!("/{what}");
        assert_eq!(proxy.get(&path).status, status, "{what}");
        let line = proxy.access_line_of(&path);
        assert_eq!(line["agents"][0]["failure"], failure, "{line}");
        assert_eq!(proxy.get("/fine").status, 200, "after {what}");
        assert_eq!(proxy.get(&format!("/open/{what}")).text(), "ok", "{what}");
    }
    assert_eq!(
        proxy.metric(r#"portcullis_agent_reconnects_total{agent="auth"}"#),
        0.0
    );
}

#[test]
fn a_service_that_hangs_costs_its_timeout() {
    let origin = Origin::start();
    let service = AuthzService::answering(|http| match http.path.ends_with("/hang") {
        true => Checked::Nothing,
        false => allowed(&[]).into(),
    });
    let more = "timeout \"200ms\"; circuit-breaker failures=1000";
    let proxy = over_grpc(&service, &origin, more);
    assert_eq!(proxy.get("/hang").status, 504);
    assert_eq!(
        proxy.access_line_of("/hang")["agents"][0]["failure"],
        "timeout"
    );
    assert_eq!(proxy.get("/open/hang").text(), "ok");
    assert_eq!(proxy.get("/fine").status, 200);
}

#[test]
fn a_service_that_is_killed_comes_back() {
    let origin = Origin::start();
    let mut service = AuthzService::answering(|http| match http.path.ends_with("/hang") {
        true => Checked::Nothing,
        false => allowed(&[]).into(),
    });
    let proxy = over_grpc(&service, &origin, "");
    assert_eq!(proxy.get("/before").status, 200);
    // In the middle of a question.
    let mut client = proxy.client();
    client.send("GET /hang HTTP/1.1\r\nhost: a\r\n\r\n");
    service.told("/hang");
    service.kill();
    let response = client.response();
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(
        proxy.access_line_of("/hang")["agents"][0]["failure"],
        "unreachable"
    );
    assert_eq!(proxy.get("/gone").status, 503);
    assert_eq!(proxy.get("/open/gone").text(), "ok");
    service.start_again();
    eventually("recovery", || {
        let recovered = proxy.get("/back").status == 200;
        thread::sleep(Duration::from_millis(20));
        recovered.then_some(())
    });
}

/// Whatever is spoken to the service.
#[test]
fn d28_a_refusal_and_a_service_that_is_down_do_not_look_alike() {
    let origin = Origin::start();
    let refusal = || Origin::answering(|_| Answer::with(403, &[], b"no").then_close());
    for dialect in ["forward-auth", "ext-authz over http", "ext-authz over grpc"] {
        let (spoken, _) = dialect.split_once(" over ").unwrap_or((dialect, ""));
        let over_grpc = dialect.ends_with("grpc");
        let grpc = AuthzService::answering(|_| denied(403, &[], "no", ""));
        let http = refusal();
        let way = match over_grpc {
            true => format!("grpc \"http://{}\"", grpc.address()),
            false => format!("http \"http://{}/check\"", http.address()),
        };
        let proxy = authz::before(&way, spoken, &origin, "").start();
        proxy.wait_ready();
        let denied = proxy.get("/denied");
        assert_eq!(
            (denied.status, denied.header("retry-after")),
            (403, None),
            "{dialect}"
        );
        assert_eq!(
            proxy.access_line_of("/denied")["agents"][0]["verdict"],
            "block"
        );
        drop((grpc, http));
        let broken = eventually("a failure", || {
            let response = proxy.get("/broken");
            (response.status != 403).then_some(response)
        });
        assert_eq!(
            (broken.status, broken.header("retry-after")),
            (503, Some("1")),
            "{dialect}"
        );
        let line = proxy.access_line(|line| line["path"] == "/broken" && line["status"] == 503);
        assert_eq!(line["agents"][0]["failure"], "unreachable", "{dialect}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn metadata_is_in_the_log() {
    let origin = Origin::start();
    let service = AuthzService::answering(|_| {
        let value = Value {
            kind: Some(Kind::Text("ann".to_owned())),
        };
        Checked::Answer(Box::new(CheckResponse {
            status: Some(Status::default()),
            answer: None,
            dynamic_metadata: Some(Struct {
                fields: [("user".to_owned(), value)].into(),
            }),
        }))
    });
    let proxy = over_grpc(&service, &origin, "");
    assert_eq!(proxy.get("/x").status, 200);
    let line = proxy.access_line_of("/x");
    assert_eq!(line["agents"][0]["tags"], serde_json::json!(["user=ann"]));
}
