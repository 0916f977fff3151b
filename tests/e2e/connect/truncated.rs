//! A response that breaks off never looks complete, however its end would be known.

use super::TO_POOL;
use crate::harness::{
    Answer, Http2Answer, Http2Origin, Origin, Proxy,
    agent_ways::tls_file,
    http2::{exchange, get},
    tls_front::{Manner, TlsFront},
};
use bytes::Bytes;

/// Where a body ends, and that it does not come to that.
const CUT: [(&str, &str); 3] = [
    (
        "by length",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
    ),
    (
        "in chunks",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ),
    ("with the connection", "HTTP/1.1 200 OK\r\n\r\nhalf"),
];

fn in_front_of(front: &TlsFront, protocol: &str) -> Proxy {
    let target = format!(
        "target \"{}\"; protocol \"{protocol}\"; tls server-name=\"agent.test\" ca=\"{}\"",
        front.address(),
        tls_file("ca.pem").display()
    );
    Proxy::builder(TO_POOL)
        .listener("h2c")
        .upstream("pool", &target)
        .start()
}

fn is_whole(answer: &Result<http::Response<Bytes>, h2::Error>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.status() == 200)
}

#[test]
fn a_connection_that_ends_without_a_word_ends_no_response() {
    for (name, bytes) in CUT {
        let origin = Origin::answering(move |_| Answer::raw(bytes).then_close());
        let manner = Manner {
            ends_silently: true,
            ..Manner::default()
        };
        let front = TlsFront::start(origin.address(), manner);
        let proxy = in_front_of(&front, "http1");
        let response = proxy.get("/");
        assert!(response.status == 502 || !response.complete, "{name}");
        let answers = exchange(proxy.address_of("http"), vec![get("/")]);
        assert!(!is_whole(&answers[0]), "{name}: {answers:?}");
    }
}

#[test]
fn a_connection_that_says_farewell_ends_only_what_ends_with_it() {
    for (name, bytes) in CUT {
        let origin = Origin::answering(move |_| Answer::raw(bytes).then_close());
        let front = TlsFront::start(origin.address(), Manner::default());
        let proxy = in_front_of(&front, "http1");
        let response = proxy.get("/");
        assert_eq!(response.complete, name == "with the connection", "{name}");
    }
}

#[test]
fn a_stream_that_is_reset_ends_no_response() {
    let origin = Http2Origin::answering(|_| Http2Answer::with(200, &[], "half").cut());
    let manner = Manner {
        protocols: &["h2"],
        ..Manner::default()
    };
    let front = TlsFront::start(origin.address(), manner);
    let proxy = in_front_of(&front, "h2");
    let response = proxy.get("/");
    // The reset may come before the head was sent on.
    assert!(response.status == 502 || !response.complete);
    let answers = exchange(proxy.address_of("http"), vec![get("/")]);
    assert!(!is_whole(&answers[0]), "{answers:?}");
}
