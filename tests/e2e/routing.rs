//! Which route takes a request, and what a route does with it.

use crate::harness::{Origin, Proxy, RawClient};
use serde_json::Value;

/// Every route answers with its own name, so that the answer says which one it was.
const ROUTES: &str = r##"
routes {
    route "host-exact" { match { host "api.example.com" }; respond 200 "host-exact" }
    route "host-wildcard" { match { host "*.example.com" }; respond 200 "host-wildcard" }
    route "host-longer" { match { host "*.deep.example.com" }; respond 200 "host-longer" }
    route "host-regex" { match { host-regex #"^v[0-9]+\.test$"# }; respond 200 "host-regex" }
    route "host-path" { match { host "api.example.com"; path "/only" }; respond 200 "host-path" }
    route "exact" { match { path "/exact" }; respond 200 "exact" }
    route "prefix" { match { path-prefix "/prefix" }; respond 200 "prefix" }
    route "prefix-longer" { match { path-prefix "/prefix/longer/" }; respond 200 "prefix-longer" }
    route "regex" { match { path-regex #"^/re[0-9]+$"# }; respond 200 "regex" }
    route "regex-under-prefix" { match { path-regex "^/prefix/x" }; respond 200 "regex-under-prefix" }
    route "method" { match { path "/method"; method "POST" "PUT" }; respond 200 "method" }
    route "header-value" { match { path "/header"; header "x-tenant" "blue" }; respond 200 "header-value" }
    route "header-there" { match { path "/header"; header "x-there" }; respond 200 "header-there" }
    route "header-absent" { match { path "/header"; header "x-tenant" absent=#true }; respond 200 "header-absent" }
    route "query-value" { match { path "/query"; query "mode" "a b" }; respond 200 "query-value" }
    route "query-there" { match { path "/query"; query "beta" }; respond 200 "query-there" }
    route "not" { match { path "/not"; not { method "DELETE" }; not { query "no" } }; respond 200 "not" }
    route "either" { match { path "/one" }; match { path "/two"; method "GET" }; respond 200 "either" }
    route "low" { match { path "/ranked" }; respond 200 "low" }
    route "high" { match { path-prefix "/ranked" }; priority 10; respond 200 "high" }
    route "below" { match { path-prefix "/" ; header "x-below" }; priority -5; respond 200 "below" }
}
"##;

/// Method and target, header lines, and the route that takes the request; none where it is empty.
const DECISIONS: &[(&str, &[&str], &str)] = &[
    ("GET /", &["host: api.example.com"], "host-exact"),
    ("GET /", &["host: API.Example.COM"], "host-exact"),
    ("GET /", &["host: api.example.com:8080"], "host-exact"),
    ("GET /", &["host: api.example.com."], "host-exact"),
    ("GET /only", &["host: api.example.com"], "host-path"),
    // A host that is named is nearer than a path that is.
    ("GET /exact", &["host: api.example.com"], "host-exact"),
    ("GET /", &["host: www.example.com"], "host-wildcard"),
    ("GET /", &["host: a.deep.example.com"], "host-longer"),
    ("GET /", &["host: v12.test"], "host-regex"),
    ("GET /", &["host: v.test"], ""),
    ("GET /", &["host: example.com"], ""),
    ("GET /exact", &[], "exact"),
    ("GET /exact?query", &[], "exact"),
    ("GET /e%78act", &[], "exact"),
    ("GET /exact/", &[], ""),
    ("GET /exactly", &[], ""),
    ("GET /prefix", &[], "prefix"),
    ("GET /prefix/", &[], "prefix"),
    ("GET /prefix/below", &[], "prefix"),
    ("GET /prefixed", &[], ""),
    ("GET /prefix/longer", &[], "prefix-longer"),
    ("GET /prefix/longer/still", &[], "prefix-longer"),
    ("GET /prefix/../exact", &[], "exact"),
    ("GET /prefix/x", &[], "prefix"),
    ("GET /re12", &[], "regex"),
    ("GET /re", &[], ""),
    ("POST /method", &["content-length: 0"], "method"),
    ("PUT /method", &["content-length: 0"], "method"),
    ("GET /method", &[], ""),
    ("GET /header", &["x-tenant: blue"], "header-value"),
    (
        "GET /header",
        &["X-Tenant: red", "x-tenant: blue"],
        "header-value",
    ),
    (
        "GET /header",
        &["x-tenant: red", "x-there: 1"],
        "header-there",
    ),
    ("GET /header", &["x-tenant: red"], ""),
    ("GET /header", &[], "header-absent"),
    ("GET /query?mode=a%20b", &[], "query-value"),
    ("GET /query?x&mode=a+b", &[], "query-value"),
    ("GET /query?mode=ab&beta", &[], "query-there"),
    ("GET /query?beta=0", &[], "query-there"),
    ("GET /query?alphabeta", &[], ""),
    ("GET /not", &[], "not"),
    ("DELETE /not", &[], ""),
    ("GET /not?no", &[], ""),
    ("GET /one", &[], "either"),
    ("DELETE /one", &[], "either"),
    ("GET /two", &[], "either"),
    ("DELETE /two", &[], ""),
    ("GET /ranked", &[], "high"),
    ("GET /exact", &["x-below: 1"], "exact"),
    ("GET /nothing", &["x-below: 1"], "below"),
];

#[test]
fn every_kind_of_condition_decides() {
    let proxy = Proxy::builder(ROUTES).start();
    for (request, lines, route) in DECISIONS {
        let host = if lines.iter().any(|line| line.starts_with("host")) {
            ""
        } else {
            "host: test\r\n"
        };
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let mut client = proxy.client();
        client.send(format!("{request} HTTP/1.1\r\n{host}{lines}\r\n"));
        let response = client.response();
        let shown = format!("{request} {lines}");
        if route.is_empty() {
            assert_eq!(response.status, 404, "{shown}");
            continue;
        }
        assert_eq!(response.status, 200, "{shown}");
        assert_eq!(response.text(), *route, "{shown}");
    }
}

#[test]
fn what_no_route_takes_is_404() {
    let proxy = Proxy::builder(ROUTES).start();
    let response = proxy.get("/nowhere");
    assert_eq!(response.status, 404);
    assert_eq!(response.header("connection"), Some("keep-alive"));
    let id = response.header("x-request-id").unwrap();
    assert!(response.text().contains(id));
    let line = proxy.access_line_of("/nowhere");
    assert_eq!(line["reason"], "no_route");
    assert_eq!(line["route"], Value::Null);
    assert_eq!(line["request_id"], id);
}

#[test]
fn a_fixed_answer_is_given_as_written() {
    let proxy = Proxy::builder(
        r#"
        routes {
            route "text" { match { path "/text" }; respond 418 "short and stout\n" }
            route "none" { match { path "/none" }; respond 204 }
            route "empty" { match { path "/empty" }; respond 200 }
        }
        "#,
    )
    .start();
    let mut client = proxy.client();
    let text = client.get("/text", &[]);
    assert_eq!(
        (text.status, text.text()),
        (418, "short and stout\n".into())
    );
    assert_eq!(
        text.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    let none = client.get("/none", &[]);
    assert_eq!(none.status, 204);
    assert_eq!(none.header("content-length"), None);
    let empty = client.get("/empty", &[]);
    assert_eq!(empty.status, 200);
    assert_eq!(empty.header("content-length"), Some("0"));
    client.send("HEAD /text HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = client.response_to_head();
    assert_eq!(head.status, 418);
    assert_eq!(head.header("content-length"), Some("16"));
    assert_eq!(client.get("/text", &[]).status, 418);
}

#[test]
fn a_redirection_may_hold_variables() {
    let proxy = Proxy::builder(
        r#"
        routes {
            route "plain" { match { path "/plain" }; redirect "https://example.com/new" }
            route "same" { match { path-prefix "/same" }; redirect "https://{request.host}{request.path}" status=308 }
            route "all" { match { path "/all" }; redirect "/to/{route.id}/{request.method}/{client.ip}" status=303 }
        }
        "#,
    )
    .start();
    for (path, lines, status, location) in [
        ("/plain", &[][..], 302, "https://example.com/new"),
        (
            "/same/x?q=1",
            &["host: Example.com:8080"],
            308,
            "https://example.com/same/x",
        ),
        ("/same/%2e%2e/same/y", &["host: a"], 308, "https://a/same/y"),
        ("/all", &[], 303, "/to/all/GET/127.0.0.1"),
    ] {
        let response = proxy.get_with(path, lines);
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("location"), Some(location), "{path}");
        assert_eq!(response.text(), "");
    }
}

#[test]
fn a_redirection_cannot_be_split() {
    let proxy = Proxy::builder(
        r#"routes { route "same" { redirect "https://example.com{request.path}" } }"#,
    )
    .start();
    let response = proxy.get("/a%20b%22?x");
    assert_eq!(
        response.header("location"),
        Some("https://example.com/a%20b%22")
    );
    assert_eq!(proxy.get("/a%0d%0aset-cookie:x").status, 400);
}

#[test]
fn headers_are_edited_on_both_ways() {
    let origin = Origin::answering(|_| {
        let headers = [
            ("server", "secret/1.0"),
            ("x-many", "1"),
            ("x-many", "2"),
            ("set-cookie", "a=1"),
        ];
        crate::harness::Answer::with(200, &headers, b"ok")
    });
    let proxy = Proxy::builder(
        r#"
        filters {
            chain "common" { response-headers { set "x-frame-options" "DENY"; remove "server" } }
        }
        routes {
            route "all" {
                filters {
                    use "common"
                    request-headers {
                        set "x-set" "{request.method} {request.path} {request.host} {request.scheme} {client.ip} {route.id}"
                        add "x-many" "added"
                        remove "x-removed"
                    }
                    response-headers { set "x-many" "one"; add "set-cookie" "b={request.id}" }
                }
                upstream "origin"
            }
        }
        "#,
    )
    .origin(&origin)
    .start();
    let lines = [
        "x-set: 1",
        "x-set: 2",
        "x-many: sent",
        "x-removed: 1",
        "X-Removed: 2",
    ];
    let response = proxy.get_with("/path?query", &lines);
    let request = origin.last();
    assert_eq!(
        request.header("x-set").as_deref(),
        Some("GET /path test http 127.0.0.1 all")
    );
    assert_eq!(request.header_values("x-many"), ["sent", "added"]);
    assert_eq!(request.header("x-removed"), None);
    assert_eq!(response.header("x-frame-options"), Some("DENY"));
    assert_eq!(response.header("server"), None);
    assert_eq!(response.header_values("x-many"), ["one"]);
    let id = response.header("x-request-id").unwrap();
    assert_eq!(
        response.header_values("set-cookie"),
        ["a=1", &format!("b={id}")]
    );
}

#[test]
fn listeners_share_the_routes() {
    let proxy = Proxy::builder(
        r#"
        listeners {
            listener "one" { address "127.0.0.1:0" }
            listener "two" { address "127.0.0.1:0" }
        }
        routes { route "all" { respond 200 "here" } }
        "#,
    )
    .start();
    for listener in ["one", "two"] {
        let mut client = RawClient::connect(proxy.address_of(listener));
        assert_eq!(client.get("/", &[]).text(), "here");
        proxy.access_line(|line| line["listener"] == listener);
    }
}

#[test]
fn fixed_answers_have_types_and_come_from_files() {
    let routes = r#"
        routes {
            route "json" { match { path "/json" }; respond 200 "{\"ok\":true}" content-type="application/json" }
            route "page" { match { path "/page" }; respond 503 body-file="sorry.html" }
            route "text" { match { path "/text" }; respond 200 body-file="robots" }
        }
    "#;
    let builder = |page: &str| {
        Proxy::builder(routes)
            .file("sorry.html", page)
            .file("robots", "User-agent: *\n")
    };
    let proxy = builder("<p>Sorry").start();
    for (path, status, kind, body) in [
        ("/json", 200, "application/json", "{\"ok\":true}"),
        ("/page", 503, "text/html; charset=utf-8", "<p>Sorry"),
        ("/text", 200, "text/plain; charset=utf-8", "User-agent: *\n"),
    ] {
        let response = proxy.get(path);
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.header("content-type"), Some(kind), "{path}");
        assert_eq!(response.text(), body, "{path}");
    }
    proxy.reload(&builder("<p>Soon"));
    assert_eq!(proxy.get("/page").text(), "<p>Soon");
}
