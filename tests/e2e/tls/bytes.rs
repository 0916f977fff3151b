//! What goes through TLS comes out whole, or is seen to be not whole.

use crate::{
    harness::{Answer, Authority, Origin, Proxy, tls::Stream},
    websocket::{UPGRADE, shouting},
};
use std::io::{Read, Write};

const LARGE: usize = 8 << 20;

fn body(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// A connection on which this was asked, and everything that came until its end.
fn all_of(mut stream: Stream, request: &str) -> (Vec<u8>, std::io::Result<()>) {
    stream.write_all(request.as_bytes()).unwrap();
    stream.flush().unwrap();
    let mut got = Vec::new();
    let end = stream.read_to_end(&mut got).map(drop);
    (got, end)
}

#[test]
fn large_bodies_come_through_in_both_directions() {
    let origin = Origin::answering(|request| match request.target().as_str() {
        "/chunks" => Answer::chunked(200, &[], &body(LARGE), 70_000),
        _ => Answer::with(200, &[], &body(LARGE)),
    });
    let authority = Authority::new("servers");
    let proxy = Proxy::in_front_of(&origin)
        .tls(&authority.server(&["test"]))
        .start();
    let mut client = authority.connector().connect(proxy.address_of("http"));
    for path in ["/length", "/chunks", "/length"] {
        // The answer is larger than what waits in sockets, and is only read when the request has been sent.
        let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {LARGE}\r\n\r\n");
        let answer = client.send(head).send(body(LARGE)).response();
        assert!(answer.complete && answer.body == body(LARGE), "{path}");
        assert!(origin.last().body == body(LARGE), "{path}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_is_seen_to_be_whole_or_not() {
    let origin = Origin::answering(|request| {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        match request.target().as_str() {
            "/whole" => Answer::raw(format!("{head}0\r\n\r\n")),
            _ => Answer::raw(head).then_close(),
        }
    });
    let authority = Authority::new("servers");
    let proxy = Proxy::in_front_of(&origin)
        .tls(&authority.server(&["test"]))
        .start();
    let connect = || {
        authority
            .connector()
            .handshake(proxy.address_of("http"), "test")
            .unwrap()
    };
    // Nothing but the end of the connection says where the body ends, so that TLS has to say that it is meant.
    let (got, end) = all_of(connect(), "GET /whole HTTP/1.0\r\nhost: test\r\n\r\n");
    assert!(got.ends_with(b"hello") && end.is_ok(), "{end:?}");
    let (_, end) = all_of(connect(), "GET /broken HTTP/1.0\r\nhost: test\r\n\r\n");
    assert!(end.is_err());
}

#[test]
fn clients_that_have_said_all_are_answered() {
    let origin = Origin::answering(|_| Answer::with(200, &[], &body(LARGE)));
    let authority = Authority::new("servers");
    let proxy = Proxy::in_front_of(&origin)
        .tls(&authority.server(&["test"]))
        .start();
    let mut client = authority.connector().connect(proxy.address_of("http"));
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let answers = [client.response(), client.response()];
    assert!(answers.iter().all(|answer| answer.body == body(LARGE)));
    // Many clients leave without a word.
    drop(client);
    proxy.wait_metric("portcullis_connections_open", 0.0);
    assert!(
        proxy
            .access_lines()
            .iter()
            .all(|line| line["reason"].is_null())
    );
}

#[test]
fn sockets_are_opened_over_tls() {
    let origin = Origin::answering(shouting);
    let authority = Authority::new("servers");
    let proxy = Proxy::builder(r#"routes { route "live" { upstream "origin"; websocket } }"#)
        .origin(&origin)
        .tls(&authority.server(&["test"]))
        .start();
    let mut client = authority.connector().connect(proxy.address_of("http"));
    client.send(format!("GET /ws HTTP/1.1\r\n{UPGRADE}\r\n"));
    assert!(client.read_head().unwrap().starts_with("HTTP/1.1 101"));
    for word in ["frame", "another"] {
        let shouted = client.send(word).read_exact(word.len());
        assert_eq!(shouted, word.to_ascii_uppercase().as_bytes());
    }
}
