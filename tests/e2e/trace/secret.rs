//! The token is seen by nobody: neither by agents nor upstreams nor in what the proxy says of itself.

use super::{BOTH, PREVIOUS, Scene, TOKEN, line};
use crate::harness::{Proxy, RawClient, eventually, http2};
use bytes::Bytes;
use serde_json::Value;

/// Everything that somebody can see, and where.
fn seen(scene: &Scene, proxy: &Proxy) -> Vec<(String, String)> {
    let admin = proxy.address_of("admin");
    let ask = |path: &str| RawClient::connect(admin).get(path, &["host: localhost"]);
    let mut seen = vec![
        ("access log".to_owned(), proxy.access_text()),
        ("log".to_owned(), proxy.log_text()),
        ("metrics".to_owned(), proxy.probe("/metrics").text()),
        ("status".to_owned(), ask("/status").text()),
    ];
    for request in scene.origin.requests() {
        let text = String::from_utf8_lossy(&[request.head, request.body].concat()).into_owned();
        seen.push(("upstream".to_owned(), text));
    }
    for agent in [&scene.judge, &scene.reader] {
        let record = agent.record().iter().map(Value::to_string).collect();
        seen.push((format!("agent {}", agent.name()), record));
    }
    for line in proxy.access_lines() {
        let Some(id) = line["request_id"].as_str() else {
            continue;
        };
        seen.push(("why".to_owned(), ask(&format!("/requests/{id}")).text()));
    }
    seen
}

fn places_of(needle: &str, seen: &[(String, String)]) -> Vec<String> {
    let is_there = |(_, text): &&(String, String)| text.to_ascii_lowercase().contains(needle);
    seen.iter()
        .filter(is_there)
        .map(|(place, _)| place.clone())
        .collect()
}

#[test]
fn nobody_sees_the_token_and_why_shows_no_values() {
    let scene = Scene::new();
    let admin = "admin { address \"127.0.0.1:0\" }";
    let proxy = scene.start(BOTH, admin);
    let right = line(TOKEN);
    let spellings = [
        vec![right.clone()],
        vec![line(PREVIOUS)],
        vec![right.to_ascii_uppercase().replace("THE-", "the-")],
        vec![right.clone(), right.clone()],
        vec![right.replace('-', "_").replace("the_", "the-")],
        vec![format!("X_Agent-Trace_Token: {TOKEN}")],
        vec![line(&format!("not {TOKEN}"))],
        vec![line(&format!("{TOKEN}, {TOKEN}"))],
        vec![right.clone(), "connection: x-agent-trace-token".to_owned()],
    ];
    let mut asked = 0;
    for lines in &spellings {
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        lines.push("x-told: hidden-by-client");
        for path in [
            "/judged/yes",
            "/judged/no",
            "/plain",
            "/lost",
            "/nowhere",
            "/fixed",
        ] {
            proxy.get_with(path, &lines);
            asked += 1;
        }
        // With a body whose end brings the token once more.
        let mut client = proxy.client();
        client.send(format!(
            "POST /bodies HTTP/1.1\r\nhost: test\r\n{}\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n{right}\r\n\r\n",
            lines.join("\r\n")
        ));
        client.try_response();
        asked += 1;
    }
    // What is no request is not told either.
    let mut client = proxy.client();
    client.send(format!(
        "GET / HTTP/1.1\r\nhost: test\r\n{right}\r\nno header\r\n\r\n"
    ));
    assert_eq!(client.response().status, 400);
    asked += 1;
    eventually("all lines", || {
        (proxy.access_lines().len() >= asked).then_some(())
    });
    let seen = seen(&scene, &proxy);
    // Requests came through, and what is looked for could be found.
    let places = places_of("/judged/yes", &seen);
    for place in ["access log", "upstream", "agent judge", "why"] {
        assert!(
            places.iter().any(|found| found == place),
            "{place}: {places:?}"
        );
    }
    for secret in ["token-is-secret", "token_is_secret"] {
        assert_eq!(places_of(secret, &seen), [""; 0], "{secret}");
    }
    // Agents and filters changed headers, and `why` names them; their values are for the upstream alone.
    assert!(places_of("x-user", &seen).contains(&"why".to_owned()));
    for value in ["hidden-by-agent", "hidden-by-filter", "hidden-by-client"] {
        let places = places_of(value, &seen);
        assert!(places.contains(&"upstream".to_owned()), "{value}");
        assert!(!places.contains(&"why".to_owned()), "{value}: {places:?}");
    }
}

#[test]
fn the_log_shows_no_heads_unless_pingora_is_named() {
    let scene = Scene::new();
    let headers = [&*line(TOKEN), "authorization: Bearer hush-hush"];
    for (directives, expected) in [("trace", false), ("trace,pingora=trace", true)] {
        let proxy = scene.builder(BOTH, "").log(directives).start();
        proxy.wait_ready();
        assert_eq!(proxy.get_with("/plain", &headers).status, 200);
        let answers = http2::exchange(
            proxy.address_of("http"),
            vec![
                http::Request::get("http://test/plain")
                    .header("authorization", "Bearer hush-hush")
                    .header("x-agent-trace-token", TOKEN)
                    .body(Bytes::new())
                    .unwrap(),
            ],
        );
        assert_eq!(answers[0].as_ref().unwrap().status(), 200);
        eventually("both lines", || {
            (proxy.access_lines().len() >= 2).then_some(())
        });
        // The level is in effect.
        let log = proxy.log_text();
        assert!(
            log.contains("\"TRACE\"") || log.contains("\"DEBUG\""),
            "{log}"
        );
        for secret in ["token-is-secret", "hush-hush"] {
            let shown = |line: &&str| line.contains(secret);
            let shown = log.lines().find(shown);
            assert_eq!(shown.is_some(), expected, "{directives}: {shown:?}");
        }
    }
}

#[test]
fn without_tokens_in_the_configuration_it_is_a_header_like_any_other() {
    let scene = Scene::new();
    let proxy = scene.start("", "");
    let response = proxy.get_with("/plain", &[&line(TOKEN)]);
    assert_eq!(response.header("x-agent-trace"), Some("made-up"));
    let asked = scene.origin.last();
    assert_eq!(asked.header("x-agent-trace-token").as_deref(), Some(TOKEN));
}

#[test]
fn a_check_shows_no_token_whatever_is_wrong() {
    let rest = "routes { route \"all\" { respond 200 } }";
    for (observability, expected) in [
        ("verdict-trace token=\"hush-hush-\"", "has 10 bytes"),
        (
            "verdict-trace token=\"hush-hush-hush-hush hush\"",
            "no white space",
        ),
        (
            "verdict-trace tokn=\"hush-hush-hush-hush\"",
            "no property `tokn`",
        ),
        (
            "verdict-trace \"hush-hush-hush-hush\"",
            "no further argument",
        ),
        (
            "verdict-trace { token \"hush-hush-hush-hush\" }",
            "no block",
        ),
        (
            "verdict-trace token=\"hush-hush-hush-hush\" token-file=\"token\"",
            "written twice",
        ),
        (
            "verdict-trace token=\"hush-hush-hush-hush\" previous-token=\"hush-hush-hush-hush\"",
            "are the same",
        ),
        (
            "verdict-trace token=\"hush-hush-hush-hush\"; nonsense",
            "nothing called",
        ),
        ("verdict-trace token-file=\"none\"", "cannot read the token"),
        ("verdict-trace token-file=\"short\"", "has 9 bytes"),
    ] {
        let builder = Proxy::builder(format!("observability {{ {observability} }}\n{rest}"))
            .file("token", "hush-hush-hush-hush-hush")
            .file("short", "hush-hush\n");
        let (code, output, errors) = builder.check();
        assert_eq!(code, Some(1), "{observability}");
        assert!(errors.contains(expected), "{expected} is not in {errors}");
        assert!(!format!("{output}{errors}").contains("hush"), "{errors}");
    }
    let builder = Proxy::builder(format!("observability {{ {BOTH} }}\n{rest}"));
    let (code, output, errors) = builder.file("token", TOKEN).check();
    assert_eq!((code, &*errors), (Some(0), ""), "{output}");
    assert!(!output.contains("secret"));
}
