//! Handshakes that come to nothing.

use crate::harness::{Authority, Proxy, RawClient};
use std::net::TcpStream;

const EVERYTHING: &str = r#"routes { route "all" { respond 204 } }"#;

fn failures(proxy: &Proxy, reason: &str, count: f64) {
    let series =
        format!(r#"portcullis_tls_handshake_failures_total{{listener="http",reason="{reason}"}}"#);
    proxy.wait_metric(&series, count);
}

#[test]
fn plain_http_is_answered_in_plain_and_logged() {
    let authority = Authority::new("servers");
    let proxy = Proxy::builder(EVERYTHING)
        .tls(&authority.server(&["test"]))
        .start();
    let answer = proxy.client().get("/", &[]);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("connection"), Some("close"));
    failures(&proxy, "plain_http", 1.0);
    let line = proxy.access_line(|line| line["reason"] == "plain_http");
    assert_eq!(line["status"], 400);
    assert_eq!(line["listener"], "http");
}

#[test]
fn what_is_no_tls_is_closed_and_counted() {
    let authority = Authority::new("servers");
    let proxy = Proxy::builder(EVERYTHING)
        .tls(&authority.server(&["test"]))
        .start();
    proxy.client().send(b"\x00\x01\x02\x03").expect_closed();
    failures(&proxy, "not_tls", 1.0);
    // A record of TLS with nonsense in it gets an alert.
    let mut client = proxy.client();
    let alert = client
        .send(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
        .read_to_end();
    assert_eq!(alert.first(), Some(&0x15));
    failures(&proxy, "protocol_error", 1.0);
    proxy
        .client()
        .send(b"\x16\x03\x01")
        .finish_sending()
        .expect_closed();
    failures(&proxy, "closed", 1.0);
    let unbelieving = Authority::new("others").connector();
    assert!(
        unbelieving
            .handshake(proxy.address_of("http"), "test")
            .is_err()
    );
    failures(&proxy, "refused_by_client", 1.0);
    assert_eq!(
        authority
            .connector()
            .get(proxy.address_of("http"), "/")
            .status,
        204
    );
}

#[test]
fn a_handshake_has_a_deadline() {
    let authority = Authority::new("servers");
    let certificate = authority.server(&["test"]);
    let tls =
        r#"tls { certificate "server.pem" key="server.key" }; timeouts { tls-handshake "200ms" }"#;
    let proxy = Proxy::builder(EVERYTHING)
        .certificate("server", &certificate)
        .listener(tls)
        .start();
    // Nothing at all, and something that does not come to its end.
    let mut silent = RawClient::connect(proxy.address_of("http"));
    let mut slow = RawClient::connect(proxy.address_of("http"));
    slow.send(b"\x16\x03\x01\x02\x00\x01");
    silent.expect_closed();
    slow.expect_closed();
    failures(&proxy, "timeout", 2.0);
    // It is about the handshake alone.
    let mut client = authority.connector().connect(proxy.address_of("http"));
    assert_eq!(client.get("/", &[]).status, 204);
}

#[test]
fn a_handshake_that_has_failed_is_not_late() {
    let authority = Authority::new("servers");
    // Less than a client has to go away.
    let tls =
        r#"tls { certificate "server.pem" key="server.key" }; timeouts { tls-handshake "450ms" }"#;
    let proxy = Proxy::builder(EVERYTHING)
        .certificate("server", &authority.server(&["test"]))
        .listener(tls)
        .start();
    let stays = TcpStream::connect(proxy.address_of("http")).unwrap();
    let other = authority.connector().offering(&["other"]);
    let shaken = other.handshake_over(stays.try_clone().unwrap(), "test");
    assert!(shaken.is_err());
    failures(&proxy, "no_common_protocol", 1.0);
    drop(stays);
}

#[test]
fn whoever_settles_on_http2_has_to_speak_it() {
    let authority = Authority::new("servers");
    let proxy = Proxy::builder(EVERYTHING)
        .tls(&authority.server(&["test"]))
        .start();
    let h2 = authority.connector().offering(&["h2"]);
    let mut client = h2.connect(proxy.address_of("http"));
    client
        .send("GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect_closed();
}

#[test]
fn a_handshake_that_dawdles_does_not_hold_up_the_end() {
    let authority = Authority::new("servers");
    let mut proxy = Proxy::builder(EVERYTHING)
        .tls(&authority.server(&["test"]))
        .start();
    let mut slow = proxy.client();
    slow.send(b"\x16\x03\x01\x02\x00\x01");
    proxy.wait_metric("portcullis_connections_open", 1.0);
    proxy.signal(rustix::process::Signal::TERM);
    assert!(proxy.wait_end().success());
    slow.expect_closed();
}
