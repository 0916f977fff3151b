//! Clients that close their sending side: `half-close` of listeners.

use crate::harness::{Answer, DEADLINE, Origin, Proxy, TestAgent};
use std::{
    io::Write,
    sync::{Arc, Mutex, mpsc},
};

/// Where the listener says so, whoever has nothing more to ask is still answered, with and without agents.
#[test]
fn a_client_that_closes_its_sending_side_is_served() {
    let agent = TestAgent::named("waf").start();
    let (go_on, waiting) = mpsc::channel::<()>();
    let waiting = Arc::new(Mutex::new(waiting));
    let origin = Origin::answering(move |_| {
        let waiting = waiting.clone();
        Answer::raw("").then(move |stream| {
            waiting.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")
                .unwrap();
        })
    });
    let proxy = Proxy::builder(
        r#"routes {
            route "seen" { match { path "/seen" }; filters { agent "waf" }; upstream "origin" }
            route "all" { upstream "origin" }
        }"#,
    )
    .listener("half-close")
    .origin(&origin)
    .agent_with(
        &agent,
        r#"timeout "10s"; inspect { response-headers; request-body "buffer" limit="1KiB" }"#,
    )
    .start();
    proxy.wait_ready();
    for path in ["/plain", "/seen"] {
        let mut client = proxy.client();
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello"
            ))
            .finish_sending();
        origin.saw(|request| request.target() == path);
        // The proxy has seen the end when it has served something after it.
        assert_eq!(proxy.probe("/livez").status, 200);
        go_on.send(()).unwrap();
        let answer = client.response();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "late"),
            "{path}"
        );
        client.expect_closed();
        assert_eq!(origin.last().body, b"hello", "{path}");
    }
}
