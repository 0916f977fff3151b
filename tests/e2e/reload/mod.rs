//! Another configuration takes effect while requests are served, or nothing changes at all.

mod agents;
mod listeners;
mod logs;
mod under_load;

use crate::{
    harness::{Answer, Origin, Proxy, TestAgent, proxy::Builder},
    websocket::shouting,
};
use portcullis_agent_protocol::Decision;
use std::{
    io::Read,
    sync::{Arc, Mutex, mpsc},
};

/// A proxy whose route `all` says this on its responses.
fn saying(origin: &Origin, word: &str) -> Builder {
    Proxy::builder(format!(
        r#"routes {{ route "all" {{ filters {{ response-headers {{ set "x-word" "{word}" }} }}; upstream "origin" }} }}"#
    ))
    .origin(origin)
}

fn word(proxy: &Proxy, path: &str) -> Option<String> {
    proxy.get(path).header("x-word").map(str::to_owned)
}

#[test]
fn d21_routes_filters_and_upstreams_are_those_of_the_file() {
    let (first, second) = (Origin::start(), Origin::answering(|_| Answer::ok("second")));
    let proxy = saying(&first, "one").start();
    assert_eq!(word(&proxy, "/"), Some("one".into()));
    let line = proxy.reload(&saying(&second, "two"));
    assert_eq!(line["message"], "configuration reloaded");
    assert_eq!(
        line["changes"],
        "listeners: 1 kept; routes: ~all 0 kept; upstreams: ~origin 0 kept; agents: 0 kept"
    );
    let response = proxy.get("/");
    assert_eq!(response.header("x-word"), Some("two"));
    assert_eq!(response.text(), "second");
    // A second parser for included files would miss what the main one knows.
    let included = Proxy::builder("include \"more.kdl\"").file(
        "more.kdl",
        r#"routes { route "all" { respond 201 "from another file" } }"#,
    );
    proxy.reload(&included);
    assert_eq!(proxy.get("/").status, 201);
}

#[test]
fn a_reload_that_changes_nothing_is_one_all_the_same() {
    let origin = Origin::start();
    let builder = saying(&origin, "one");
    let proxy = builder.clone().start();
    let line = proxy.reload(&builder);
    assert_eq!(
        line["changes"],
        "listeners: 1 kept; routes: 1 kept; upstreams: 1 kept; agents: 0 kept"
    );
    assert_eq!(
        proxy.metric("portcullis_config_last_reload_successful"),
        1.0
    );
    assert!(proxy.metric("portcullis_config_last_reload_success_timestamp_seconds") > 1.7e9);
}

#[test]
fn d22_a_broken_file_changes_nothing_and_every_mistake_is_said_with_its_place() {
    let origin = Origin::start();
    let proxy = saying(&origin, "one").start();
    let broken = Proxy::builder(
        r#"routes {
    route "all" { upstream "nowhere"; colour "red" }
    route "all" { respond 200 }
}"#,
    );
    proxy.reload_in_vain(&broken);
    let mistakes: Vec<(String, String)> = proxy
        .log_text()
        .lines()
        .filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            Some((line["place"].as_str()?.to_owned(), line["code"].to_string()))
        })
        .collect();
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    for line in [2, 3] {
        let place = format!("portcullis.kdl:{line}:");
        assert!(
            mistakes.iter().any(|(at, _)| at.contains(&place)),
            "{mistakes:?}"
        );
    }
    assert_eq!(word(&proxy, "/"), Some("one".into()));
    // The next good file is taken.
    proxy.reload(&saying(&origin, "two"));
    assert_eq!(word(&proxy, "/"), Some("two".into()));
    assert_eq!(
        proxy.metric("portcullis_config_last_reload_successful"),
        1.0
    );
}

#[test]
fn people_see_the_lines_of_a_broken_file() {
    let text = r#"observability { access-log "off"; log format="text" }"#;
    let good = Proxy::builder(format!(
        "routes {{ route \"all\" {{ respond 200 }} }}\n{text}"
    ));
    let proxy = good.start();
    let broken = Proxy::builder(format!(
        "routes {{ route \"all\" {{ respnd 200 }} }}\n{text}"
    ));
    proxy.reload_in_vain(&broken);
    let log = proxy.log_text();
    assert!(log.contains("portcullis.kdl:1:"), "{log}");
    assert!(log.contains("respond"), "{log}");
    assert!(log.contains("everything stays as it is"), "{log}");
}

#[test]
fn what_needs_a_restart_is_said() {
    let origin = Origin::start();
    let with = |threads: usize| {
        Proxy::builder(format!(
            "system {{ worker-threads {threads} }}\nroutes {{ route \"all\" {{ upstream \"origin\" }} }}"
        ))
        .origin(&origin)
    };
    let proxy = with(1).start();
    for _ in 0..2 {
        proxy.reload(&with(2));
    }
    let said = proxy.log_text();
    let said = said.matches("system worker-threads").count();
    assert_eq!(said, 2, "it is still so at the second reload");
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn limits_of_the_process_change() {
    let with = |most: usize| {
        Proxy::builder(format!(
            "system {{ max-connections {most} }}\nroutes {{ route \"all\" {{ respond 200 }} }}"
        ))
    };
    let proxy = with(100).start();
    proxy.reload(&with(1));
    let mut first = proxy.client();
    assert_eq!(first.get("/", &[]).status, 200);
    proxy
        .client()
        .send("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect_closed();
}

#[test]
fn a_request_sees_one_configuration_from_start_to_end() {
    let agent = TestAgent::named("waf")
        .on(
            "/slow",
            crate::harness::agent::Reaction::late(&Decision::allow()),
        )
        .start();
    let origin = Origin::start();
    let with = |word: &str| {
        Proxy::builder(format!(
            r#"routes {{ route "all" {{ filters {{ agent "waf"; request-headers {{ set "x-word" "{word}" }}; response-headers {{ set "x-word" "{word}" }} }}; upstream "origin" }} }}"#
        ))
        .origin(&origin)
        .agent(&agent)
    };
    let proxy = with("one").start();
    proxy.wait_ready();
    let mut waiting = proxy.client();
    waiting.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n");
    agent.saw(|event| event["uri"] == "/slow");
    proxy.reload(&with("two"));
    assert_eq!(word(&proxy, "/"), Some("two".into()));
    agent.release();
    assert_eq!(waiting.response().header("x-word"), Some("one"));
    let request = origin.saw(|request| request.target() == "/slow");
    assert_eq!(request.header("x-word").as_deref(), Some("one"));
}

#[test]
fn targets_go_on_taking_turns_where_an_upstream_stays() {
    let origins = [
        Origin::answering(|_| Answer::ok("a")),
        Origin::answering(|_| Answer::ok("b")),
    ];
    let targets = format!(
        "target \"{}\"; target \"{}\"",
        origins[0].address(),
        origins[1].address()
    );
    let with = |path: &str| {
        Proxy::builder(format!(
            "routes {{ route \"all\" {{ match {{ path-prefix \"{path}\" }}; upstream \"two\" }} }}"
        ))
        .upstream("two", &targets)
    };
    let proxy = with("/").start();
    let first = proxy.get("/x").text();
    proxy.reload(&with("/x"));
    assert_ne!(proxy.get("/x").text(), first);
}

/// An origin that answers `/slow` when the test says so, and everything else at once. It agrees to become a WebSocket.
fn slow_origin() -> (Origin, mpsc::Sender<()>) {
    let (go_on, waiting) = mpsc::channel::<()>();
    let waiting = Arc::new(Mutex::new(waiting));
    let origin = Origin::answering(move |request| {
        match request.target().as_str() {
            "/slow" => {}
            "/ws" => return shouting(request),
            // Nothing of the past is left open on the way to the origin.
            _ => {
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n";
                return Answer::raw(format!("{head}ok")).then_close();
            }
        }
        let waiting = waiting.clone();
        Answer::raw("").then(move |stream| {
            use std::io::Write;
            if waiting.lock().unwrap().recv().is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow");
            }
            let _ = stream.read(&mut [0]);
        })
    });
    (origin, go_on)
}
