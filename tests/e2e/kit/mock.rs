//! `portcullis agent mock`: the proxy gets what its flags say.

use super::{Running, kit};
use crate::harness::{Answer, Origin, Proxy, Response};

/// What a client gets when the proxy asks a mock with these flags.
fn asked(origin: &Origin, flags: &[&str], inspect: &str) -> Response {
    let agent = Running::start(&[&["mock"], flags].concat());
    let socket = agent.socket();
    let kdl = format!(
        "unix-socket \"{}\"; timeout \"500ms\"; inspect {{ {inspect} }}",
        socket.display()
    );
    let route = r#"routes { route "all" { filters { agent "mock" }; upstream "origin" } }"#;
    let proxy = Proxy::builder(route)
        .origin(origin)
        .agent_block("mock", &kdl)
        .start();
    proxy.wait_ready();
    proxy.get("/")
}

#[test]
fn verdicts_are_those_of_the_flags() {
    let origin = Origin::start();
    for (flags, status) in [
        (&["--verdict", "allow"][..], 200),
        (&["--verdict", "block=451"], 451),
        (&["--verdict", "redirect=/elsewhere"], 302),
        (&["--verdict", "challenge=captcha"], 403),
        (&["--verdict", "block", "--phase", "response-headers"], 200),
    ] {
        let response = asked(&origin, flags, "request-headers");
        assert_eq!(response.status, status, "{flags:?}");
        if status == 302 {
            assert_eq!(response.header("location"), Some("/elsewhere"));
        }
    }
}

#[test]
fn headers_are_changed() {
    let origin = Origin::answering(|_| {
        Answer::raw("HTTP/1.1 200 OK\r\nserver: s\r\ncontent-length: 0\r\n\r\n")
    });
    let flags = [
        "--set-request-header",
        "x-from: mock",
        "--remove-request-header",
        "host-hint",
        "--set-response-header",
        "x-mock: yes",
        "--remove-response-header",
        "server",
    ];
    let response = asked(&origin, &flags, "request-headers");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-mock"), Some("yes"));
    assert_eq!(response.header("server"), None);
    assert_eq!(origin.last().header("x-from").as_deref(), Some("mock"));
}

#[test]
fn failures_are_those_of_the_flags() {
    let origin = Origin::start();
    for (failure, status) in [
        ("close", 503),
        ("hang", 504),
        ("garbage", 502),
        ("error", 502),
        ("overloaded", 503),
    ] {
        let response = asked(&origin, &["--fail", failure], "request-headers");
        assert_eq!(response.status, status, "{failure}");
    }
    let flags = ["--fail", "error", "--phase", "response-headers"];
    let response = asked(&origin, &flags, "request-headers; response-headers");
    assert_eq!(response.status, 502);
    let response = asked(&origin, &["--delay", "2s"], "request-headers");
    assert_eq!(response.status, 504);
}

#[test]
fn without_a_socket_it_does_not_run() {
    let (code, _, errors) = kit(&["mock"]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("give --socket"), "{errors}");
    let (code, _, errors) = kit(&["mock", "--verdict", "perhaps"]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("block=STATUS"), "{errors}");
}
