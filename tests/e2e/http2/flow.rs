//! Flow control (RFC 9113 section 5.2): neither side sends more than the other takes, and nothing is lost when one waits.

use super::{
    LATER,
    transport::{Served, Transport, over_every_transport},
};
use crate::harness::{Answer, Origin, Proxy, TestAgent, agent::Reaction, frames::*};
use portcullis_agent_protocol::Decision;

over_every_transport![
    a_response_waits_for_its_window,
    a_response_comes_byte_by_byte_if_it_must,
    a_window_may_be_taken_back,
    streams_wait_for_themselves_alone,
    a_connection_has_a_window_of_its_own,
    a_body_that_outgrows_its_window_ends,
    padding_does_not_use_up_a_window,
];

const BODY: &[u8] = b"a body that is longer than any of the windows here";

fn proxy(transport: Transport) -> (Origin, Served) {
    let origin = Origin::answering(|_| Answer::with(200, &[], BODY));
    let proxy = transport.start(Proxy::in_front_of(&origin));
    (origin, proxy)
}

/// The frames of a stream up to its end; the head's are left out.
fn pieces(
    client: &mut FrameClient,
    stream: u32,
    mut after_each: impl FnMut(&mut FrameClient),
) -> Vec<usize> {
    let mut sizes = Vec::new();
    loop {
        let frame = client.next_of(DATA).expect("data");
        assert_eq!(frame.stream, stream);
        sizes.push(frame.payload.len());
        if frame.flags & END_STREAM != 0 {
            return sizes;
        }
        after_each(client);
    }
}

fn a_response_waits_for_its_window(transport: Transport) {
    let (_origin, proxy) = proxy(transport);
    let mut client = proxy.with_preface();
    client.send(frame(
        SETTINGS,
        0,
        0,
        &[setting(1, 0), setting(4, 0)].concat(),
    ));
    client.send(get(1, "/"));
    assert_eq!(client.next_of(HEADERS).unwrap().flags & END_STREAM, 0);
    // Nothing more comes before an answer to what is sent now.
    client.send(frame(PING, 0, 0, b"anything"));
    while let Some(frame) = client.next() {
        assert_ne!(frame.kind, DATA);
        if frame.kind == PING {
            break;
        }
    }
    client.send(window_update(1, 10));
    assert_eq!(client.next_of(DATA).unwrap().payload, BODY[..10]);
    client.send(window_update(1, 1000));
    assert_eq!(client.outcome(1), answer_behind(10));
}

/// What is left of the answer; its head has come already.
fn answer_behind(count: usize) -> Outcome {
    Outcome::Answer(0, BODY[count..].to_vec())
}

fn a_response_comes_byte_by_byte_if_it_must(transport: Transport) {
    let (_origin, proxy) = proxy(transport);
    let mut client = proxy.with_preface();
    client.send(frame(
        SETTINGS,
        0,
        0,
        &[setting(1, 0), setting(4, 1)].concat(),
    ));
    client.send(get(1, "/"));
    let sizes = pieces(&mut client, 1, |client| {
        client.send(window_update(1, 1));
    });
    assert!(sizes.iter().all(|size| *size <= 1), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), BODY.len());
}

/// A window may become smaller than what is on its way already.
fn a_window_may_be_taken_back(transport: Transport) {
    let (_origin, proxy) = proxy(transport);
    let mut client = proxy.with_preface();
    client.send(frame(
        SETTINGS,
        0,
        0,
        &[setting(1, 0), setting(4, 20)].concat(),
    ));
    client.send(get(1, "/"));
    assert_eq!(client.next_of(DATA).unwrap().payload, BODY[..20]);
    // 20 bytes below zero, and then one above it.
    client.send(frame(SETTINGS, 0, 0, &setting(4, 0)));
    client.send(window_update(1, 20));
    client.send(frame(PING, 0, 0, b"anything"));
    while let Some(frame) = client.next() {
        assert_ne!(frame.kind, DATA);
        if frame.kind == PING {
            break;
        }
    }
    client.send(window_update(1, 1));
    assert_eq!(client.next_of(DATA).unwrap().payload, BODY[20..21]);
    client.send(frame(SETTINGS, 0, 0, &setting(4, 1000)));
    assert_eq!(client.outcome(1), answer_behind(21));
}

/// One stream that nobody reads does not keep the others from being answered.
fn streams_wait_for_themselves_alone(transport: Transport) {
    let (_origin, proxy) = proxy(transport);
    let mut client = proxy.with_preface();
    client.send(frame(
        SETTINGS,
        0,
        0,
        &[setting(1, 0), setting(4, 0)].concat(),
    ));
    client.send([get(1, "/stuck"), get(3, "/read"), window_update(3, 1000)].concat());
    assert_eq!(client.outcome(3), Outcome::Answer(200, BODY.to_vec()));
}

/// All bodies together have a window, too.
fn a_connection_has_a_window_of_its_own(transport: Transport) {
    let origin = Origin::answering(|_| Answer::with(200, &[], &[b'x'; 60_000]));
    let proxy = transport.start(Proxy::in_front_of(&origin));
    let mut client = proxy.connect();
    client.send([get(1, "/"), get(3, "/")].concat());
    let mut received = 0;
    while received < 65_535 {
        received += client.next_of(DATA).expect("data").payload.len();
    }
    assert_eq!(received, 65_535);
    client.send(window_update(0, 100_000));
    while received < 120_000 {
        received += client.next_of(DATA).expect("data").payload.len();
    }
    assert_eq!(received, 120_000);
}

/// Whoever sends more than was allowed loses the stream or the connection.
fn a_body_that_outgrows_its_window_ends(transport: Transport) {
    let origin = Origin::start();
    // Nobody reads the body before the agent has answered, so the window stays as it is.
    let agent = TestAgent::named("slow")
        .on("/slow", Reaction::late(&Decision::allow()))
        .start();
    let proxy = transport.start(Proxy::builder(
        r#"routes { route "all" { filters { agent "slow" timeout="60s" }; upstream "origin" } }"#,
    )
    .listener(r#"h2c; http2 { initial-stream-window "64KiB"; initial-connection-window "128KiB" }"#)
    .origin(&origin)
    .agent(&agent));
    proxy.wait_ready();
    let piece = |stream| frame(DATA, 0, stream, &[b'x'; 16_384]);
    let mut client = proxy.connect();
    client.send(post(1, "/slow"));
    client.send(piece(1).repeat(5));
    match client.outcome(1) {
        Outcome::Reset(code, _) | Outcome::GoAway(code) => assert_eq!(code, FLOW_CONTROL_ERROR),
        other => panic!("{other:?}"),
    }
    // The same of all streams together.
    let mut client = proxy.connect();
    for stream in [1, 3, 5] {
        client.send(post(stream, "/slow"));
        client.send(piece(stream).repeat(3));
    }
    assert_eq!(client.end(), Some(FLOW_CONTROL_ERROR));
    assert_eq!(origin.connections(), 0);
}

/// Padding counts against the window, and is given back.
fn padding_does_not_use_up_a_window(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin).listener(
        r#"h2c; http2 { initial-stream-window "64KiB"; initial-connection-window "64KiB" }"#,
    ));
    let mut client = proxy.connect();
    client.send(post(1, "/padded"));
    let piece = frame(
        DATA,
        PADDED,
        1,
        &[&[250][..], b"ten bytes.", &[0; 250]].concat(),
    );
    let mut window = 65_535_i64;
    for _ in 0..1000 {
        window -= 261;
        while window < 0 {
            let grown = client.next_of(WINDOW_UPDATE).expect("a window update");
            if grown.stream == 1 {
                window += i64::from(u32::from_be_bytes(grown.payload.try_into().unwrap()));
            }
        }
        client.send(&piece);
    }
    client.send(frame(DATA, END_STREAM, 1, b""));
    assert_eq!(client.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
    assert_eq!(origin.last().body, b"ten bytes.".repeat(1000));
    client.send(get(LATER, "/after"));
    assert_eq!(client.outcome(LATER), Outcome::Answer(200, b"ok".to_vec()));
}
