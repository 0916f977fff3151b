//! How long what is held for agents counts.

use super::{Direction, MODES, body, line_of, past};
use crate::harness::{Answer, Origin, TestAgent, http2};

const HELD: &str = "portcullis_buffer_memory_used_bytes";

/// Over HTTP/2 too, where one connection has room for many bodies that do not end.
#[test]
fn d26_a_body_that_stalls_gives_its_memory_back() {
    for mode in MODES {
        let origin = Origin::start();
        let agent = TestAgent::named("waf").start();
        let proxy = past("agent \"waf\"", &origin)
            .listener("h2c; timeouts { request-body-idle \"300ms\" }")
            .agent_with(&agent, &Direction::Request.inspect(mode, ""))
            .start();
        proxy.wait_ready();
        let request = http2::request("POST", "/stalls", bytes::Bytes::from(body(1000)));
        let status = http2::stalled(proxy.address_of("http"), request);
        assert_eq!(status, 408, "{mode}");
        let line = line_of(&proxy, "/stalls");
        assert_eq!(line["reason"], "request_body_timeout", "{line}");
        proxy.wait_metric(HELD, 0.0);
    }
}

/// Nor does one that comes byte by byte, and is never silent for long.
#[test]
fn d26_a_body_that_dribbles_gives_its_memory_back() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let proxy = past("agent \"waf\"", &origin)
        .listener("timeouts { request-body-idle \"500ms\" }")
        .agent_with(&agent, &Direction::Request.inspect("buffer", ""))
        .start();
    proxy.wait_ready();
    let mut client = proxy.client();
    client.send("POST /dribbles HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n");
    let mut sender = client.sender();
    let dribbler = std::thread::spawn(move || {
        // Until nobody takes it any longer.
        while std::io::Write::write_all(&mut sender, b"x").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    assert_eq!(client.response().status, 408);
    client.expect_closed();
    drop(client);
    dribbler.join().unwrap();
    let line = line_of(&proxy, "/dribbles");
    assert_eq!(line["reason"], "request_body_timeout", "{line}");
    proxy.wait_metric(HELD, 0.0);
    assert_eq!(origin.connections(), 0);
}

/// A client that does not take what was held for it does not make the memory of others larger.
#[test]
fn what_was_held_counts_until_the_client_has_it() {
    const SIZE: usize = 24 << 20;
    let whole = vec![b'x'; SIZE];
    let origin = Origin::answering({
        let whole = whole.clone();
        move |_| Answer::with(200, &[], &whole)
    });
    let agent = TestAgent::named("waf").start();
    let inspect = r#"timeout "10s"; inspect { response-body "buffer" limit="32MiB" }"#;
    let proxy = past(r#"agent "waf""#, &origin)
        .agent_with(&agent, inspect)
        .start();
    proxy.wait_ready();
    let mut client = proxy.client();
    client.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    // The head comes when the agent has let all of it pass.
    assert!(client.read_head().unwrap().starts_with("HTTP/1.1 200"));
    assert!(proxy.metric(HELD) >= SIZE as f64);
    assert!(client.read_exact(SIZE) == whole);
    proxy.wait_metric(HELD, 0.0);
}
