//! The states of streams (RFC 9113 section 5).

use super::{
    Case,
    Expected::*,
    NEVER, case, check,
    transport::{Transport, over_every_transport},
};
use crate::harness::{Origin, Proxy, eventually, frames::*};

over_every_transport![
    streams_are_held_to_their_states,
    nothing_follows_the_end_of_a_request,
    a_reset_ends_the_request_at_the_origin,
];

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    vec![
        case("a stream of the server", &[get(2, NEVER)], GoAway(PROTOCOL_ERROR)),
        case("a stream below one that was used", &[get(5, "/"), get(1, NEVER)], GoAway(PROTOCOL_ERROR)),
        case("data of a stream below one that was used", &[get(5, "/"), frame(DATA, END_STREAM, 1, b"x")], Reset(STREAM_CLOSED)),
        case("a window of a stream that has ended", &[get(1, "/"), window_update(1, 10)], Status(200)),
        case("a priority of a stream that has ended", &[get(1, "/"), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9])], Status(200)),
    ]
}

fn streams_are_held_to_their_states(transport: Transport) {
    check(transport, &cases());
}

/// A request that is whole can have nothing behind it.
fn nothing_follows_the_end_of_a_request(transport: Transport) {
    let origin = Origin::answering(|_| {
        crate::harness::Answer::raw("").then(|stream| {
            let _ = std::io::Read::read(stream, &mut [0]);
        })
    });
    let proxy = transport.start(Proxy::in_front_of(&origin));
    for (name, more, expected) in [
        ("data", frame(DATA, END_STREAM, 1, b"x"), STREAM_CLOSED),
        (
            "a head",
            request(1, END_STREAM, &head("GET", NEVER)),
            STREAM_CLOSED,
        ),
        (
            "trailers",
            request(1, END_STREAM, &[("x-a", "1")]),
            STREAM_CLOSED,
        ),
    ] {
        let mut client = proxy.connect();
        client.send(get(1, "/waits"));
        origin.saw(|request| request.target() == "/waits");
        client.send(more);
        match client.outcome(1) {
            Outcome::Reset(code, _) | Outcome::GoAway(code) => {
                assert!(code == expected || code == PROTOCOL_ERROR, "{name}: {code}")
            }
            other => panic!("{name}: {other:?}"),
        }
        origin.take();
    }
}

/// Streams that are taken back make room for others, and what they asked ends at the origin.
fn a_reset_ends_the_request_at_the_origin(transport: Transport) {
    let (gone, noticed) = std::sync::mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let origin = Origin::answering(move |request| {
        let gone = gone.lock().unwrap().clone();
        if request.target() == "/after" {
            return crate::harness::Answer::ok("ok");
        }
        crate::harness::Answer::raw("").then(move |stream| {
            let _ = std::io::Read::read(stream, &mut [0]);
            gone.send(()).unwrap();
        })
    });
    let proxy = transport.start(Proxy::in_front_of(&origin));
    let mut client = proxy.connect();
    client.send(get(1, "/taken-back"));
    origin.saw(|request| request.target() == "/taken-back");
    client.send(reset(1, CANCEL));
    // What was on its way meanwhile is nobody's.
    client.send(frame(DATA, END_STREAM, 1, b"late"));
    noticed.recv_timeout(crate::harness::DEADLINE).unwrap();
    let line = proxy.access_line_of("/taken-back");
    assert_eq!(
        (&line["status"], &line["reason"]),
        (&499.into(), &"client_gone".into())
    );
    client.send(get(3, "/after"));
    assert_eq!(client.outcome(3), Outcome::Answer(200, b"ok".to_vec()));
    eventually("nothing in flight", || {
        (proxy.metric("portcullis_http_requests_in_flight") == 0.0).then_some(())
    });
}
