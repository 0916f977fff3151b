//! `X-Agent-Trace` and `Server-Timing`: for the right token, on every kind of answer, and for nobody else.

use super::{BOTH, PREVIOUS, Scene, TOKEN, line, told};
use crate::{
    harness::{Answer, Origin, Proxy, Response, TestAgent, http2},
    websocket::UPGRADE,
};
use bytes::Bytes;

/// What a request for a path is answered with, and what the trace of it says in its order.
const ANSWERS: [(&str, &str, u16, &[&str]); 10] = [
    (
        "GET",
        "/judged/yes",
        200,
        &[
            "proxy;request-id=\"",
            "route=\"judged\"",
            ", \"judge\";phase=request_headers;verdict=allow;ms=",
        ],
    ),
    (
        "GET",
        "/judged/no",
        403,
        &[
            "route=\"judged\";blocked-by=\"judge\";reason=\"rule-7\"",
            ", \"judge\";phase=request_headers;verdict=block;reason=\"rule-7\";ms=",
        ],
    ),
    ("GET", "/judged/there", 302, &["verdict=redirect;ms="]),
    (
        "GET",
        "/judged/late",
        504,
        &[
            "blocked-by=\"judge\";reason=\"timeout\"",
            "verdict=failed;failure=timeout;mode=closed;",
        ],
    ),
    (
        "GET",
        "/open/late",
        200,
        &["verdict=failed;failure=timeout;mode=open;"],
    ),
    (
        "POST",
        "/bodies",
        200,
        &[
            "\"reader\";phase=request_headers;verdict=allow",
            "\"reader\";phase=request_body;verdict=allow",
            "\"reader\";phase=response_headers;verdict=allow",
            "\"reader\";phase=response_body;verdict=allow",
        ],
    ),
    ("GET", "/plain", 200, &["route=\"plain\""]),
    (
        "GET",
        "/lost",
        502,
        &["route=\"lost\";reason=\"upstream_unreachable\""],
    ),
    ("GET", "/old", 302, &["route=\"old\""]),
    ("GET", "/nowhere", 404, &["reason=\"no_route\""]),
];

fn ask(proxy: &Proxy, method: &str, path: &str, lines: &[&str]) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
    for line in lines {
        head += &format!("{line}\r\n");
    }
    let body = if method == "POST" { "content" } else { "" };
    head += &format!("content-length: {}\r\n\r\n{body}", body.len());
    proxy.client().send(head).response()
}

fn ask_http2(proxy: &Proxy, method: &str, path: &str, token: &str) -> Response {
    let body = if method == "POST" { "content" } else { "" };
    let mut request = http2::request(method, path, Bytes::from_static(body.as_bytes()));
    let value = token.parse().unwrap();
    request.headers_mut().insert("x-agent-trace-token", value);
    let answers = http2::exchange(proxy.address_of("http"), vec![request]);
    let answer = answers.into_iter().next().unwrap().unwrap();
    let headers = answer.headers().iter();
    Response {
        status: answer.status().as_u16(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
        body: answer.into_body().to_vec(),
        complete: true,
    }
}

fn assert_told(response: &Response, path: &str, status: u16, parts: &[&str]) {
    assert_eq!(response.status, status, "{path}");
    let (trace, timing) = told(response).unwrap_or_else(|| panic!("{path}: {response:?}"));
    let mut rest = &*trace;
    for part in parts {
        let Some(at) = rest.find(part) else {
            panic!("{path}: {part} is not in {trace}")
        };
        rest = &rest[at + part.len()..];
    }
    let id = response.header("x-request-id").unwrap();
    assert!(
        trace.starts_with(&format!("proxy;request-id=\"{id}\"")),
        "{trace}"
    );
    assert!(
        !trace.contains("made-up") && !trace.contains("secret"),
        "{trace}"
    );
    assert!(timing.contains("total;dur="), "{timing}");
    let has_agents = ["/judged", "/open", "/bodies"]
        .iter()
        .any(|with| path.starts_with(with));
    assert_eq!(
        timing.contains("agents;dur="),
        has_agents,
        "{path}: {timing}"
    );
    let from_upstream = status == 200;
    assert_eq!(
        timing.contains("upstream;dur="),
        from_upstream,
        "{path}: {timing}"
    );
    assert_eq!(
        timing.contains("app;dur=1"),
        from_upstream,
        "{path}: {timing}"
    );
    assert_eq!(
        response.header("vary"),
        Some("x-agent-trace-token"),
        "{path}"
    );
    assert_eq!(
        response.header_values("cache-control"),
        ["no-store"],
        "{path}"
    );
}

#[test]
fn with_either_token_every_answer_says_everything() {
    let scene = Scene::new();
    let proxy = scene.start(BOTH, "");
    for token in [TOKEN, PREVIOUS] {
        for (method, path, status, parts) in ANSWERS {
            let response = ask(&proxy, method, path, &[&line(token)]);
            assert_told(&response, path, status, parts);
        }
    }
    for (method, path, status, parts) in ANSWERS {
        let response = ask_http2(&proxy, method, path, TOKEN);
        assert_told(&response, path, status, parts);
    }
    let lines = [&*line(TOKEN), "content-type: application/grpc"];
    let response = proxy.get_with("/judged/no", &lines);
    assert_eq!(response.header("grpc-status"), Some("7"));
    assert!(told(&response).unwrap().0.contains(";verdict=block;"));
}

#[test]
fn without_the_right_token_nothing_is_said() {
    let scene = Scene::new();
    let proxy = scene.start(BOTH, "");
    let right = line(TOKEN);
    let wrong = [
        vec![],
        vec![line("")],
        vec![line("wrong")],
        vec![line(&TOKEN[1..])],
        vec![line(&TOKEN.to_ascii_uppercase())],
        vec![line(&format!("{TOKEN}, {TOKEN}"))],
        // It is not known which of them is meant.
        vec![right.clone(), right.clone()],
        vec![right.clone(), line(PREVIOUS)],
        vec![right.replace('-', "_")],
    ];
    for lines in &wrong {
        for (method, path, status, _) in ANSWERS {
            if path.ends_with("late") {
                continue;
            }
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let response = ask(&proxy, method, path, &lines);
            assert_eq!(response.status, status, "{path} {lines:?}");
            assert_eq!(told(&response), None, "{path} {lines:?}");
            let timing = response.header_values("server-timing");
            assert!(!timing.concat().contains("total"), "{path} {timing:?}");
            assert_eq!(response.header("vary"), None, "{path}");
        }
    }
}

#[test]
fn caches_keep_nothing_of_a_traced_response() {
    let origin = Origin::answering(|request| {
        let fields = [
            ("cache-control", "public, max-age=600"),
            ("cdn-cache-control", "max-age=600"),
            ("example-cdn-cache-control", "max-age=600"),
            ("surrogate-control", "max-age=600"),
            ("vary", "accept"),
            ("etag", "\"1\""),
        ];
        match request.header("if-none-match") {
            Some(_) => Answer::raw(
                "HTTP/1.1 304 Not Modified\r\ncache-control: public, max-age=600\r\nexample-cdn-cache-control: max-age=600\r\nvary: accept\r\netag: \"1\"\r\n\r\n",
            ),
            None => Answer::with(200, &fields, b"ok"),
        }
    });
    let reader = TestAgent::named("reader").start();
    let proxy = Proxy::builder(format!(
        r#"
        observability {{ log format="json"; verdict-trace token="{TOKEN}" }}
        routes {{
            route "bodies" {{ match {{ path-prefix "/bodies" }}; filters {{ agent "reader" }}; upstream "origin" }}
            route "plain" {{ upstream "origin" }}
        }}
        "#
    ))
    .origin(&origin)
    .agent_with(&reader, "timeout \"5s\"; inspect { request-headers; response-body \"stream\" }")
    .start();
    proxy.wait_ready();
    for path in ["/plain", "/bodies"] {
        for (lines, status) in [(&[][..], 200), (&["if-none-match: \"1\""], 304)] {
            let plain = proxy.get_with(path, lines);
            assert_eq!((plain.status, told(&plain)), (status, None), "{path}");
            assert_eq!(plain.header("cache-control"), Some("public, max-age=600"));
            assert_eq!(
                plain.header("example-cdn-cache-control"),
                Some("max-age=600")
            );
            assert_eq!(plain.header_values("vary"), ["accept"]);
            let token = line(TOKEN);
            let traced = proxy.get_with(path, &[&[&*token], lines].concat());
            assert_eq!(traced.status, status, "{path}");
            assert!(told(&traced).is_some(), "{path} {status}");
            assert_eq!(
                traced.header_values("cache-control"),
                ["no-store"],
                "{path}"
            );
            assert_eq!(
                traced.header_values("vary"),
                ["accept", "x-agent-trace-token"]
            );
            let names = traced
                .headers
                .iter()
                .map(|(name, _)| name.to_ascii_lowercase());
            let left: Vec<_> = names.filter(|name| name.ends_with("-control")).collect();
            assert_eq!(left, ["cache-control"], "{path} {status}");
        }
    }
}

#[test]
fn an_upgrade_and_an_answer_before_there_is_a_route_are_traced() {
    let origin = Origin::answering(crate::websocket::shouting);
    let judge = TestAgent::named("judge").start();
    let proxy = Proxy::builder(format!(
        r#"
        observability {{ log format="json"; verdict-trace token="{TOKEN}" }}
        routes {{
            route "plain" {{ match {{ path "/plain" }}; upstream "origin"; websocket }}
            route "judged" {{ match {{ path "/judged" }}; filters {{ agent "judge" }}; upstream "origin"; websocket }}
        }}
        "#
    ))
    .origin(&origin)
    .agent_with(&judge, "timeout \"5s\"; inspect { request-headers; response-headers }")
    .start();
    proxy.wait_ready();
    for (path, told) in [
        ("/plain", "route=\"plain\""),
        (
            "/judged",
            "\"judge\";phase=response_headers;verdict=allow;ms=",
        ),
    ] {
        let mut client = proxy.client();
        client.send(format!(
            "GET {path} HTTP/1.1\r\n{}\r\n{UPGRADE}\r\n",
            line(TOKEN)
        ));
        let head = client.read_head().unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains(told), "{head}");
        assert_eq!(head.matches("x-agent-trace:").count(), 1, "{head}");
    }
    // Refused before anything else is done with it.
    let response = proxy.get_with("/a%2Fb", &[&line(TOKEN)]);
    assert_eq!(response.status, 400);
    assert!(told(&response).unwrap().0.contains(";reason=\""));
}

#[test]
fn the_line_is_bounded_and_clean_whatever_agents_say() {
    use portcullis_agent_protocol::Decision;
    let origin = Origin::start();
    let words = |word: &str| {
        (0..20).fold(Decision::allow(), |decision, number| {
            decision.reason(format!("{number}{}", word.repeat(50)))
        })
    };
    let agent = TestAgent::named("talker")
        .otherwise(words("\"\u{e4}\r\nx: y "))
        .start();
    let filters = "agent \"talker\"; ".repeat(30);
    let proxy = Proxy::builder(format!(
        r#"
        observability {{ log format="json"; verdict-trace token="{TOKEN}" }}
        routes {{ route "all" {{ filters {{ {filters} }}; agent-budget "10s"; upstream "origin" }} }}
        "#
    ))
    .origin(&origin)
    .agent(&agent)
    .start();
    proxy.wait_ready();
    let response = proxy.get_with("/", &[&line(TOKEN)]);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x"), None);
    let (trace, _) = told(&response).unwrap();
    assert!(trace.len() <= 4096, "{} bytes", trace.len());
    assert!(
        trace.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
        "{trace}"
    );
    let told = trace.matches(";phase=").count();
    let left_out: usize = trace
        .rsplit("left-out;count=")
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(told + left_out, 30, "{trace}");
}

#[test]
fn a_reload_changes_who_knows_the_token() {
    let scene = Scene::new();
    let proxy = scene.start(BOTH, "");
    // Without any token in the configuration, what the upstream says is passed on as it is.
    let is_told = |token: &str| {
        let told = told(&proxy.get_with("/plain", &[&line(token)]));
        told.is_some_and(|(trace, _)| trace.starts_with("proxy;"))
    };
    let new = "the-next-token-is-secret";
    assert_eq!([TOKEN, PREVIOUS, new].map(is_told), [true, true, false]);
    // The file alone is another one now: the configuration says the same.
    let rotated = scene.builder(BOTH, "").file("token", new);
    let line = proxy.reload(&rotated);
    let changes = line["changes"].as_str().unwrap();
    assert!(changes.ends_with("changed: observability"), "{changes}");
    assert_eq!([TOKEN, PREVIOUS, new].map(is_told), [false, true, true]);
    let without_previous = scene
        .builder("verdict-trace token-file=\"token\"", "")
        .file("token", new);
    proxy.reload(&without_previous);
    assert_eq!([TOKEN, PREVIOUS, new].map(is_told), [false, false, true]);
    // A token that is too short changes nothing.
    proxy.reload_in_vain(&scene.builder(BOTH, "").file("token", "short"));
    assert_eq!([TOKEN, PREVIOUS, new].map(is_told), [false, false, true]);
    proxy.reload(&scene.builder("", ""));
    assert_eq!([TOKEN, PREVIOUS, new].map(is_told), [false; 3]);
}
