//! Mistakes that others made before, by the numbers of tests/defects.md. What belongs to a feature is tested beside it, under
//! a name that begins with the number.

use crate::harness::{Origin, Proxy, RawClient, TestAgent};
use portcullis_agent_protocol::Decision;
use std::time::Duration;

/// A configuration with places at which something can be written.
const BASE: &str = r#"schema-version "1"
TOP
system { SYSTEM }
listeners { listener "http" { address "127.0.0.1:0"; LISTENER } }
routes { route "all" { filters { agent "waf"; FILTER }; upstream "origin"; ROUTE } }
upstreams { upstream "origin" { target "127.0.0.1:1" TARGET; UPSTREAM } }
agents { agent "waf" { unix-socket "/run/waf.sock"; AGENT } }
observability { LOGS }
"#;

const PLACES: [&str; 9] = [
    "TOP", "SYSTEM", "LISTENER", "FILTER", "ROUTE", "TARGET", "UPSTREAM", "AGENT", "LOGS",
];

/// Exit code and errors of the base with something written at a place.
fn checked(place: &str, kdl: &str) -> (Option<i32>, String) {
    let mut text = BASE.replacen(place, kdl, 1);
    for other in PLACES.iter().filter(|other| **other != place) {
        text = text.replacen(other, "", 1);
    }
    let (code, stdout, stderr) = Proxy::builder(text).verbatim().check();
    // What is good is said on one, what is not on the other.
    assert_eq!(stdout.is_empty(), code != Some(0), "{stdout}");
    (code, stderr)
}

/// Checks that something is exactly one error, of this kind, at the line where it is written.
fn is_refused(place: &str, kdl: &str, kind: &str) {
    let line = 1 + BASE.lines().position(|line| line.contains(place)).unwrap();
    let (code, errors) = checked(place, kdl);
    assert_eq!(code, Some(1), "{place} {kdl}: {errors}");
    assert_eq!(errors.matches("  × ").count(), 1, "{place} {kdl}: {errors}");
    assert!(
        errors.starts_with(&format!("{kind}\n")),
        "{place} {kdl}: {errors}"
    );
    assert!(
        errors.contains(&format!("portcullis.kdl:{line}:")),
        "{place} {kdl}: {errors}"
    );
    assert!(errors.contains("help: "), "{place} {kdl}: {errors}");
}

#[test]
fn d20_the_base_of_these_tests_is_good() {
    for place in PLACES {
        let (code, errors) = checked(place, "");
        assert_eq!(code, Some(0), "{errors}");
    }
}

#[test]
fn d20_what_is_unknown_is_an_error() {
    for place in PLACES.iter().filter(|place| **place != "TARGET") {
        is_refused(place, "frobnicate 1", "unknown-node");
    }
    for (place, kdl) in [
        ("SYSTEM", "worker-threads 1 pinned=#true"),
        ("LISTENER", "h2c priority=1"),
        ("ROUTE", "websocket frames=#true"),
        ("TARGET", "wieght=2"),
        ("AGENT", "timeout \"1s\" hard=#true"),
        ("LOGS", "log colour=\"red\""),
        (
            "FILTER",
            "request-headers { set \"x-a\" \"1\" always=#true }",
        ),
    ] {
        is_refused(place, kdl, "unknown-property");
    }
}

#[test]
fn d20_what_is_not_built_is_an_error() {
    for (place, kdl) in [
        ("AGENT", "user \"agents\""),
        ("LOGS", "tracing otlp=\"http://127.0.0.1:4317\""),
    ] {
        is_refused(place, kdl, "not-supported-yet");
    }
    is_refused("LISTENER", "http3", "unknown-node");
}

#[test]
fn d20_a_wrong_type_is_no_default() {
    for (place, kdl, kind) in [
        ("SYSTEM", "worker-threads \"four\"", "wrong-type"),
        ("SYSTEM", "worker-threads 1.5", "wrong-type"),
        ("SYSTEM", "worker-threads -1", "out-of-range"),
        ("SYSTEM", "max-connections #true", "wrong-type"),
        ("SYSTEM", "max-connections 0", "out-of-range"),
        ("SYSTEM", "shutdown-grace 30", "wrong-unit"),
        ("SYSTEM", "buffer-memory 256", "wrong-unit"),
        ("SYSTEM", "shutdown-grace \"30 parsecs\"", "wrong-unit"),
        ("SYSTEM", "trusted-proxies \"everybody\"", "invalid-value"),
        (
            "SYSTEM",
            "path { double-slash \"ignore\" }",
            "invalid-value",
        ),
        ("LISTENER", "h2c \"yes\"", "wrong-type"),
        ("LISTENER", "limits { header-count \"100\" }", "wrong-type"),
        ("LISTENER", "limits { body-bytes 1024 }", "wrong-unit"),
        ("LISTENER", "limits { body-bytes \"1024\" }", "wrong-unit"),
        (
            "LISTENER",
            "limits { header-bytes \"2MiB\" }",
            "out-of-range",
        ),
        ("ROUTE", "priority \"high\"", "wrong-type"),
        ("ROUTE", "websocket 1", "wrong-type"),
        ("TARGET", "weight=\"2\"", "wrong-type"),
        ("UPSTREAM", "timeouts { connect 2 }", "wrong-unit"),
        ("AGENT", "timeout \"soon\"", "wrong-unit"),
        ("AGENT", "failure-mode \"close\"", "invalid-value"),
        ("AGENT", "failure-mode #true", "wrong-type"),
        (
            "AGENT",
            "inspect { request-body \"whole\" }",
            "invalid-value",
        ),
        ("AGENT", "inspect { response-headers 1 }", "wrong-type"),
        ("LOGS", "log level=1", "wrong-type"),
        ("LOGS", "log format=\"xml\"", "invalid-value"),
        ("FILTER", "request-headers { set \"x-a\" 1 }", "wrong-type"),
    ] {
        is_refused(place, kdl, kind);
    }
}

#[test]
fn d20_what_is_too_much_is_an_error() {
    for (place, kdl, kind) in [
        ("SYSTEM", "worker-threads 1 2", "extra-argument"),
        ("SYSTEM", "worker-threads 1 { more }", "unexpected"),
        ("SYSTEM", "worker-threads (u8)1", "unexpected"),
        ("SYSTEM", "worker-threads 1; worker-threads 2", "repeated"),
        ("LISTENER", "h2c #true #true", "extra-argument"),
        ("LISTENER", "limits 1 { header-count 10 }", "extra-argument"),
        ("ROUTE", "priority 1 2", "extra-argument"),
        ("ROUTE", "match { path \"/a\" \"/b\" }", "extra-argument"),
        ("TARGET", "\"127.0.0.1:2\"", "extra-argument"),
        ("AGENT", "timeout \"1s\" \"2s\"", "extra-argument"),
        ("AGENT", "timeout \"1s\"; timeout \"2s\"", "repeated"),
        ("LOGS", "log \"debug\"", "extra-argument"),
        (
            "FILTER",
            "request-headers { remove \"x-a\" \"x-b\" }",
            "extra-argument",
        ),
    ] {
        is_refused(place, kdl, kind);
    }
}

#[test]
fn d20_what_contradicts_itself_is_an_error() {
    for (place, kdl) in [
        ("AGENT", "env { NAME \"value\" }"),
        ("AGENT", "builtin \"echo\""),
        ("UPSTREAM", "builtin \"echo\""),
        ("LOGS", "access-log \"off\" format=\"json\""),
        ("FILTER", "parallel { agent \"waf\"; agent \"waf\" }"),
    ] {
        let (code, errors) = checked(place, kdl);
        assert_eq!(code, Some(1), "{kdl}: {errors}");
    }
}

#[test]
fn d20_nothing_is_started_with_a_mistake() {
    let text = BASE.replace("SYSTEM", "worker-threads \"four\"");
    let text = PLACES
        .iter()
        .fold(text, |text, place| text.replace(place, ""));
    let (code, stdout, stderr) = Proxy::builder(text).verbatim().run_to_end();
    assert_eq!(code, Some(1));
    assert!(stdout.is_empty(), "{stdout}");
    assert!(
        stderr.contains("nothing was started") && !stderr.contains("listening"),
        "{stderr}"
    );
}

#[test]
fn d22_all_mistakes_come_in_one_run_each_with_its_place() {
    let main = r#"schema-version "1"
include "more.kdl"
system { worker-threads "four"; shutdown-grace 30 }
listeners {
    listener "http" { address "127.0.0.1:0"; frobnicate }
    listener "http" { address "127.0.0.1:0" }
}
routes {
    route "one" { filters { agent "wfa" }; upstream "nowhere" }
    route "two" { match { path-regex "(" }; respond 200; redirect "/" }
    route "three" { match { path "/three" } }
}
agents { agent "waf" { unix-socket "${PORTCULLIS_E2E_UNSET}" } }
"#;
    let more = "upstreams { upstream \"a\" { target \"no address\" weight=0 } }\nagents {\n    agent \"waf\" { builtin \"nothing\" }\n}\n";
    let (code, stdout, stderr) = Proxy::builder(main)
        .verbatim()
        .file("more.kdl", more)
        .check();
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    let errors = format!("\n{stderr}");
    for (kind, place) in [
        ("wrong-type", "portcullis.kdl:3:25"),
        ("wrong-unit", "portcullis.kdl:3:48"),
        ("unknown-node", "portcullis.kdl:5:46"),
        ("duplicate-id", "portcullis.kdl:6:14"),
        ("dangling-reference", "portcullis.kdl:9:35"),
        ("dangling-reference", "portcullis.kdl:9:53"),
        ("invalid-regex", "portcullis.kdl:10:38"),
        ("two-actions", "portcullis.kdl:10:"),
        ("no-action", "portcullis.kdl:11:5"),
        ("unset-variable", "portcullis.kdl:13:36"),
        ("invalid-value", "more.kdl:1:35"),
        ("out-of-range", "more.kdl:1:55"),
        ("invalid-value", "more.kdl:3:27"),
        ("duplicate-id", "portcullis.kdl:13:16"),
    ] {
        let heading = format!("\n{kind}\n");
        let found = errors.split(&heading).skip(1);
        let mut blocks = found.map(|rest| rest.split("\n  help:").next().unwrap());
        assert!(
            blocks.any(|block| block.contains(place)),
            "{kind} at {place}:\n{stderr}"
        );
    }
    // The other of the two agents of one name.
    assert!(stderr.contains("more.kdl:3:11"), "{stderr}");
}

#[test]
fn d26_a_bare_lf_is_refused() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    for head in [
        "GET / HTTP/1.1\nhost: a\n\n",
        "GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
    ] {
        let mut client = proxy.client();
        assert_eq!(client.send(head).response().status, 400);
        client.expect_closed();
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn d26_a_missing_host_is_refused() {
    let origin = Origin::start();
    let proxy = Proxy::in_front_of(&origin).start();
    for head in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nhost:\r\n\r\n"] {
        let mut client = proxy.client();
        assert_eq!(client.send(head).response().status, 400);
        client.expect_closed();
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn d26_there_are_limits_without_a_word_in_the_configuration() {
    let origin = Origin::start();
    let proxy = Proxy::builder(
        r#"
        listeners { listener "http" { address "127.0.0.1:0" } }
        routes { route "all" { upstream "origin" } }
        "#,
    )
    .origin(&origin)
    .start();
    let ask = |text: String| {
        RawClient::connect(proxy.address_of("http"))
            .send(text)
            .response()
            .status
    };
    let head =
        |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
    assert_eq!(ask(head(&format!("/{}", "a".repeat(9000)), "")), 414);
    assert_eq!(ask(head("/", &"x: y\r\n".repeat(150))), 431);
    assert_eq!(
        ask(head("/", &format!("x: {}\r\n", "y".repeat(34_000)))),
        431
    );
    assert_eq!(
        ask(head(
            "/",
            &format!("content-length: {}\r\n", (100 << 20) + 1)
        )),
        413
    );
    assert_eq!(origin.connections(), 0);
}

#[test]
fn d26_there_are_timeouts_without_a_word_in_the_configuration() {
    let listener = portcullis_config::ListenerTimeouts::default();
    let upstream = portcullis_config::UpstreamTimeouts::default();
    for timeout in [
        listener.request_header,
        listener.keepalive,
        listener.request_body_idle,
        listener.response_write,
        upstream.connect,
        upstream.response_header,
        upstream.idle,
    ] {
        assert!(
            timeout > Duration::ZERO && timeout <= Duration::from_secs(120),
            "{timeout:?}"
        );
    }
    // And they cannot be switched off.
    for (place, kdl) in [
        ("LISTENER", "timeouts { request-header \"0s\" }"),
        ("LISTENER", "timeouts { keepalive \"0s\" }"),
        ("UPSTREAM", "timeouts { connect \"0s\" }"),
        ("AGENT", "timeout \"0s\""),
    ] {
        is_refused(place, kdl, "out-of-range");
    }
}

#[test]
fn d27_what_an_agent_says_replaces_what_the_client_says() {
    let origin = Origin::start();
    let agent = TestAgent::named("auth")
        .on(
            "/known",
            Decision::allow().set_request_header("x-user", "alice"),
        )
        .on(
            "/unknown",
            Decision::allow().remove_request_header("x-user"),
        )
        .start();
    let proxy =
        Proxy::builder(r#"routes { route "all" { filters { agent "auth" }; upstream "origin" } }"#)
            .origin(&origin)
            .agent(&agent)
            .start();
    proxy.wait_ready();
    let claims = ["x-user: root", "X-USER: admin", "X-User: operator"];
    proxy.get_with("/known", &claims);
    assert_eq!(origin.last().header_values("x-user"), ["alice"]);
    proxy.get_with("/unknown", &claims);
    assert_eq!(origin.last().header_values("x-user"), [""; 0]);
}

#[test]
fn d28_a_refusal_and_a_broken_agent_do_not_look_alike() {
    let origin = Origin::start();
    let mut agent = TestAgent::named("auth")
        .otherwise(Decision::block(403))
        .start();
    let proxy =
        Proxy::builder(r#"routes { route "all" { filters { agent "auth" }; upstream "origin" } }"#)
            .origin(&origin)
            .agent(&agent)
            .start();
    proxy.wait_ready();
    let denied = proxy.get("/");
    assert_eq!((denied.status, denied.header("retry-after")), (403, None));
    agent.kill();
    let broken = crate::harness::eventually("a failure", || {
        let response = proxy.get("/");
        (response.status != 403).then_some(response)
    });
    assert_eq!(
        (broken.status, broken.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(origin.connections(), 0);
}
