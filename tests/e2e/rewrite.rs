//! What the upstream is asked for instead of what the client asked for.

use crate::harness::{Http2Answer, Http2Origin, Origin, Proxy, TestAgent};

const ROUTES: &str = r##"
routes {
    route "v1" { match { path-prefix "/v1" }; rewrite { path-prefix "/v1" to="/" }; upstream "origin" }
    route "v2" { match { path-prefix "/v2" }; rewrite { path-prefix "/v2/" to="/app/two/"; host "two.internal:81" }; upstream "origin" }
    route "users" { match { path-prefix "/users" }; rewrite { path-regex #"^/users/([^/]*)/"# to="/u-$1/$$/" }; upstream "origin" }
    route "cut" { match { path-prefix "/cut" }; rewrite { path-regex #"^/cut/(.?)"# to="/.$1" }; upstream "origin" }
    route "long" { match { path-prefix "/long" }; rewrite { path-regex #"^(.*)$"# to="$1$1$1" }; upstream "origin" }
    route "all" { match { path-prefix "/all" }; rewrite { path "/base{request.path}/{request.method}" }; upstream "origin" }
    route "host" { match { path-prefix "/host" }; rewrite { host "Other.Internal" }; upstream "origin" }
}
"##;

#[test]
fn the_upstream_is_asked_for_something_else_and_the_query_stays() {
    let origin = Origin::start();
    let proxy = Proxy::builder(ROUTES).origin(&origin).start();
    let mut client = proxy.client();
    for (path, target, host) in [
        ("/v1", "/", "test"),
        ("/v1/", "/", "test"),
        ("/v1?a=/v1", "/?a=/v1", "test"),
        ("/v1/a/b%20c?q=1&r=%2F", "/a/b%20c?q=1&r=%2F", "test"),
        ("/v2", "/app/two", "two.internal:81"),
        ("/v2/x/", "/app/two/x/", "two.internal:81"),
        ("/users/ann/x?", "/u-ann/$/x?", "test"),
        ("/users/ann", "/users/ann", "test"),
        ("/users//x", "/users/x", "test"),
        ("/all/x", "/base/all/x/GET", "test"),
        ("/host/x", "/host/x", "other.internal"),
    ] {
        assert_eq!(client.get(path, &[]).status, 200, "{path}");
        let request = origin.last();
        assert_eq!(request.target(), target, "{path}");
        assert_eq!(request.header("host").as_deref(), Some(host), "{path}");
        assert_eq!(
            request.header("x-forwarded-host").as_deref(),
            Some("test"),
            "{path}"
        );
    }
}

/// However it was put together, it is not resolved: whoever can have dots made could leave the folder that the operator named.
#[test]
fn what_has_another_meaning_elsewhere_is_refused() {
    let origin = Origin::start();
    let proxy = Proxy::builder(ROUTES).origin(&origin).start();
    let long = format!("/long/{}", "0123456789".repeat(400));
    for (path, status, reason) in [
        ("/cut/", 400, "rewritten_path_invalid"),
        ("/cut/.", 400, "rewritten_path_invalid"),
        ("/cut/./", 400, "rewritten_path_invalid"),
        ("/cut//x", 200, ""),
        (&long, 414, "rewritten_path_too_long"),
    ] {
        let response = proxy.get(path);
        assert_eq!(response.status, status, "{path}");
        if status != 200 {
            let line = proxy.access_line(|line| line["reason"] == reason);
            assert_eq!(line["status"], status, "{path}");
            assert_eq!(line.get("upstream"), None);
        }
    }
    assert_eq!(origin.last().target(), "/.x");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn agents_see_what_was_asked_for_and_the_log_has_both() {
    let origin = Origin::start();
    let agent = TestAgent::named("judge").start();
    let proxy = Proxy::builder(
        r#"
        admin { address "127.0.0.1:0" }
        observability {
            access-log "./access.log"
            verdict-trace token="the-token-is-a-secret"
        }
        routes {
            route "bodies" {
                match { path-prefix "/bodies" }
                filters { agent "judge"; request-headers { set "x-path" "{request.path}" } }
                rewrite { path-prefix "/bodies" to="/store"; host "store.internal" }
                upstream "origin"
            }
        }
        "#,
    )
    .origin(&origin)
    .agent_with(
        &agent,
        "timeout \"10s\"; inspect { request-headers; request-body \"buffer\"; response-headers; request-complete }",
    )
    .start();
    proxy.wait_ready();
    let mut client = proxy.client();
    let head = "POST /bodies/a?q=1 HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\
                x-agent-trace-token: the-token-is-a-secret\r\n\r\nhello";
    let response = client.send(head).response();
    assert_eq!(response.status, 200);
    let trace = response.header("x-agent-trace").unwrap().to_owned();
    assert!(
        trace.contains("rewritten=\"/store/a?q=1\""),
        "what was asked for instead is in {trace}"
    );
    let request = origin.last();
    assert_eq!(request.target(), "/store/a?q=1");
    assert_eq!(request.body, b"hello");
    assert_eq!(request.header("host").as_deref(), Some("store.internal"));
    assert_eq!(request.header("x-path").as_deref(), Some("/bodies/a"));
    for seen in agent.requests() {
        assert_eq!(seen["uri"], "/bodies/a?q=1");
    }
    let line = proxy.access_line_of("/bodies/a?q=1");
    assert_eq!(line["rewritten_path"], "/store/a?q=1");
    assert_eq!(line["rewritten_host"], "store.internal");
}

#[test]
fn an_upstream_of_http2_is_asked_for_it_too() {
    let origin = Http2Origin::answering(|_| Http2Answer::with(200, &[], "ok"));
    let target = format!("target \"{}\"; protocol \"h2c\"", origin.address());
    let proxy = Proxy::builder(
        r#"routes {
            route "all" { rewrite { path-prefix "/a" to="/b"; host "other.internal" }; upstream "two" }
        }"#,
    )
    .upstream("two", &target)
    .start();
    assert_eq!(proxy.get("/a/x?y").status, 200);
    let request = origin.take().pop().unwrap();
    assert_eq!(request.target(), "/b/x?y");
    assert_eq!(request.head.uri.authority().unwrap(), "other.internal");
}

#[test]
fn a_reload_rewrites_otherwise() {
    let origin = Origin::start();
    let to = |path: &str| {
        let routes = format!(
            "routes {{ route \"all\" {{ rewrite {{ path-prefix \"/\" to=\"{path}\" }}; upstream \"origin\" }} }}"
        );
        Proxy::builder(routes).origin(&origin)
    };
    let proxy = to("/one").start();
    proxy.get("/x");
    assert_eq!(origin.last().target(), "/one/x");
    proxy.reload(&to("/two"));
    proxy.get("/x");
    assert_eq!(origin.last().target(), "/two/x");
}
