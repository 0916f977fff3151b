//! One path: agent, router, log and origin see the same bytes, however a client spells them.

use crate::harness::{
    Origin, Proxy, TestAgent,
    http2::{exchange, get},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A target as it is sent, and as everybody sees it.
const SPELLINGS: &[(&[u8], &str)] = &[
    (b"/", "/"),
    (b"/plain", "/plain"),
    (b"/plain/", "/plain/"),
    (b"/plain?query=1", "/plain?query=1"),
    (b"/%70lain", "/plain"),
    (b"/%70%6C%61%69%6e", "/plain"),
    (b"/%50LAIN", "/PLAIN"),
    (b"/%7euser", "/~user"),
    (b"/a%2Db%5fc%2ed", "/a-b_c.d"),
    (b"/a%3ab", "/a%3Ab"),
    (b"/a:b", "/a:b"),
    (b"/a%20b", "/a%20b"),
    (b"/a b", "/a%20b"),
    (b"/a+b", "/a+b"),
    (b"/a%2bb", "/a%2Bb"),
    (b"/caf%c3%a9", "/caf%C3%A9"),
    (b"/caf\xc3\xa9", "/caf%C3%A9"),
    (b"/100%25", "/100%25"),
    (b"/a%252fb", "/a%252fb"),
    (b"/a%252e%252e/b", "/a%252e%252e/b"),
    (b"/./plain", "/plain"),
    (b"/a/./b", "/a/b"),
    (b"/a/.", "/a/"),
    (b"/x/../plain", "/plain"),
    (b"/a/b/..", "/a/"),
    (b"/..", "/"),
    (b"/../../../plain", "/plain"),
    (b"/x/%2e%2e/plain", "/plain"),
    (b"/x/%2E%2E/plain", "/plain"),
    (b"/x/.%2e/plain", "/plain"),
    (b"/x/y/../../plain", "/plain"),
    (b"//plain", "/plain"),
    (b"///plain", "/plain"),
    (b"/a//b", "/a/b"),
    (b"/a///b//", "/a/b/"),
    (b"/a//../plain", "/plain"),
    (b"/...", "/..."),
    (b"/..plain", "/..plain"),
    (b"/.hidden", "/.hidden"),
    (b"/a;v=1/b", "/a;v=1/b"),
    (b"/a/...;/plain", "/a/...;/plain"),
    (b"/a|b", "/a%7Cb"),
    (b"/[x]", "/%5Bx%5D"),
    (b"/\"quoted\"", "/%22quoted%22"),
    (b"/plain?", "/plain?"),
    (b"/plain?a=%2f..%2f&b=%zz", "/plain?a=%2f..%2f&b=%zz"),
    (b"/plain?a=//../b?c", "/plain?a=//../b?c"),
    (b"/plain?a=caf\xc3\xa9", "/plain?a=caf%C3%A9"),
    (b"http://test/absolute", "/absolute"),
    (b"HTTP://test/%61bsolute?q", "/absolute?q"),
    (b"http://test", "/"),
];

/// A target that nobody gets to see, and the reason in the log.
const REFUSED: &[(&[u8], &str)] = &[
    (b"/a%00", "control_in_target"),
    (b"/a%0d%0ax:y", "control_in_target"),
    (b"/a%7f", "control_in_target"),
    (b"/a%1f", "control_in_target"),
    (b"/a\\b", "backslash_in_path"),
    (b"/a%5cb", "backslash_in_path"),
    (b"/..%5C..%5Cplain", "backslash_in_path"),
    (b"/a%2fb", "encoded_slash_in_path"),
    (b"/x%2F..%2Fplain", "encoded_slash_in_path"),
    (b"/%2e%2e%2fplain", "encoded_slash_in_path"),
    (b"/a%", "invalid_percent_encoding"),
    (b"/a%2", "invalid_percent_encoding"),
    (b"/a%zz", "invalid_percent_encoding"),
    (b"/a%u002f", "invalid_percent_encoding"),
    (b"/a%c0%a", "invalid_percent_encoding"),
    (b"/a#b", "fragment_in_target"),
    (b"/a/..;/b", "dot_segment_with_parameter"),
    (b"/a/.;x=1/b", "dot_segment_with_parameter"),
    (b"/a/..%3b/b", "dot_segment_with_parameter"),
    (b"/a?b#c", "fragment_in_target"),
    (b"plain", "path_not_absolute"),
    (b"*", "path_not_absolute"),
];

/// A proxy with a route of its own for every path of the table, all of them past the agent.
fn proxy_of_paths(origin: &Origin, agent: &TestAgent) -> Proxy {
    let mut routes = String::from(
        "route \"rest\" { match { path-prefix \"/\" }; filters { agent \"waf\" }; upstream \"origin\" }\n",
    );
    for (number, path) in normal_paths().iter().enumerate() {
        routes.push_str(&format!(
            "route \"path-{number}\" {{ match {{ path \"{path}\" }}; filters {{ agent \"waf\" }}; upstream \"origin\" }}\n"
        ));
    }
    let proxy = Proxy::builder(format!("routes {{\n{routes}}}"))
        .origin(origin)
        .agent(agent)
        .start();
    proxy.wait_ready();
    proxy
}

/// The paths of the table, each once. A route is named after its position here.
fn normal_paths() -> Vec<&'static str> {
    let paths: BTreeSet<_> = SPELLINGS.iter().map(|(_, normal)| path(normal)).collect();
    paths.into_iter().collect()
}

/// The route that is for this path alone.
fn route_of(target: &str) -> String {
    let number = normal_paths()
        .iter()
        .position(|known| *known == path(target));
    format!("path-{}", number.unwrap())
}

/// What stands before the query.
fn path(target: &str) -> &str {
    target.split('?').next().unwrap()
}

/// What agent, log and origin saw of a request, by its id.
fn seen(proxy: &Proxy, agent: &TestAgent, origin: &Origin, id: &str) -> (Value, Value, String) {
    let line = proxy.access_line(|line| line["request_id"] == id);
    let told = agent.saw(|event| event["request_id"] == id);
    let arrived = origin.saw(|request| request.header("x-request-id").as_deref() == Some(id));
    (line, told, arrived.target())
}

#[test]
fn everybody_sees_the_same_path() {
    assert!(SPELLINGS.len() >= 40);
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let proxy = proxy_of_paths(&origin, &agent);
    let mut client = proxy.client();
    for (spelling, normal) in SPELLINGS {
        let shown = String::from_utf8_lossy(spelling);
        client.send([b"GET ", *spelling, b" HTTP/1.1\r\nhost: test\r\n\r\n"].concat());
        let response = client.response();
        assert_eq!(response.status, 200, "{shown}");
        let id = response.header("x-request-id").unwrap();
        let (line, told, arrived) = seen(&proxy, &agent, &origin, id);
        assert_eq!(told["uri"], *normal, "the agent: {shown}");
        assert_eq!(arrived, *normal, "the origin: {shown}");
        assert_eq!(line["path"], *normal, "the log: {shown}");
        let route = route_of(normal);
        assert_eq!(line["route"], route.as_str(), "the router: {shown}");
        assert_eq!(told["route_id"], route.as_str(), "{shown}");
    }
}

#[test]
fn paths_without_a_safe_meaning_are_refused() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let proxy = proxy_of_paths(&origin, &agent);
    for (spelling, reason) in REFUSED {
        let shown = String::from_utf8_lossy(spelling);
        let mut client = proxy.client();
        client.send([b"GET ", *spelling, b" HTTP/1.1\r\nhost: test\r\n\r\n"].concat());
        let response = client.response();
        assert_eq!(response.status, 400, "{shown}");
        client.expect_closed();
        let id = response.header("x-request-id").unwrap();
        let line = proxy.access_line(|line| line["request_id"] == id);
        assert_eq!(line["reason"], *reason, "{shown}");
        assert_eq!(line["route"], Value::Null, "{shown}");
    }
    assert_eq!(origin.connections(), 0);
    assert_eq!(agent.requests(), Vec::<Value>::new());
}

#[test]
fn bytes_that_no_target_has_are_refused() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    for target in [
        &b"/a\tb"[..],
        b"/a\0b",
        b"/a\rb",
        b"/a\x7fb",
        b"/a\x01b",
        b"/a\xff\xfeb",
    ] {
        let mut client = proxy.client();
        client.send([b"GET ", target, b" HTTP/1.1\r\nhost: test\r\n\r\n"].concat());
        assert_eq!(client.response().status, 400, "{target:?}");
        client.expect_closed();
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn http2_paths_have_the_same_form() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let proxy = proxy_of_paths(&origin, &agent);
    // The client library has its own idea of what a path is, so these are those that it sends.
    let spellings: Vec<_> = SPELLINGS
        .iter()
        .filter(|(spelling, _)| spelling.starts_with(b"/") && spelling.is_ascii())
        .filter_map(|(spelling, normal)| Some((std::str::from_utf8(spelling).ok()?, *normal)))
        .filter(|(spelling, _)| spelling.parse::<http::uri::PathAndQuery>().is_ok())
        .collect();
    assert!(spellings.len() >= 30, "{}", spellings.len());
    let requests = spellings
        .iter()
        .map(|(spelling, _)| get(spelling))
        .collect();
    let answers = exchange(proxy.address_of("http"), requests);
    for ((spelling, normal), answer) in spellings.iter().zip(answers) {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200, "{spelling}");
        let id = answer.headers()["x-request-id"].to_str().unwrap();
        let (line, told, arrived) = seen(&proxy, &agent, &origin, id);
        assert_eq!(told["uri"], *normal, "the agent: {spelling}");
        assert_eq!(arrived, *normal, "the origin: {spelling}");
        assert_eq!(line["path"], *normal, "the log: {spelling}");
        assert_eq!(line["route"], route_of(normal).as_str(), "{spelling}");
        assert_eq!(told["headers"]["host"], json!(["test"]), "{spelling}");
        let same = origin.saw(|request| request.header("x-request-id").as_deref() == Some(id));
        assert_eq!(same.header("host").as_deref(), Some("test"), "{spelling}");
    }
    let before = origin.requests().len();
    for spelling in ["/a%00", "/a%5cb", "/a%2fb", "/a%zz", "/a%"] {
        let answer = exchange(proxy.address_of("http"), vec![get(spelling)]).remove(0);
        assert_eq!(answer.unwrap().status(), 400, "{spelling}");
    }
    assert_eq!(origin.requests().len(), before);
}

/// With these settings of `path`, a spelling is seen like this, or refused.
fn with_policy(policy: &str, cases: &[(&str, Option<&str>)]) {
    let origin = Origin::start();
    let proxy = Proxy::builder(format!(
        "system {{ path {{ {policy} }} }}\nroutes {{ route \"all\" {{ upstream \"origin\" }} }}"
    ))
    .origin(&origin)
    .start();
    for (spelling, normal) in cases {
        let response = proxy.get(spelling);
        match normal {
            None => assert_eq!(response.status, 400, "{spelling}"),
            Some(normal) => {
                assert_eq!(response.status, 200, "{spelling}");
                assert_eq!(origin.last().target(), *normal, "{spelling}");
            }
        }
    }
}

#[test]
fn an_encoded_slash_may_be_kept() {
    with_policy(
        r#"encoded-slash "keep""#,
        &[
            ("/a%2fb", Some("/a%2Fb")),
            ("/a%2F..%2Fb", Some("/a%2F..%2Fb")),
            ("/x/../a%2fb", Some("/a%2Fb")),
            ("/%2e%2e%2fplain", Some("/..%2Fplain")),
            ("/a%5cb", None),
        ],
    );
}

#[test]
fn a_double_slash_may_be_kept() {
    with_policy(
        r#"double-slash "keep""#,
        &[
            ("/a//b", Some("/a//b")),
            ("//a", Some("//a")),
            ("/a//../b", Some("/a/b")),
            ("/a%2fb", None),
        ],
    );
}

#[test]
fn a_double_slash_may_be_refused() {
    with_policy(
        r#"double-slash "refuse""#,
        &[
            ("/a//b", None),
            ("//a", None),
            ("/a//../b", None),
            ("/a/b", Some("/a/b")),
            ("/a/b/", Some("/a/b/")),
        ],
    );
}
