//! Frames by themselves: sizes, streams and contents (RFC 9113 sections 4 and 6).

use super::{
    Case,
    Expected::*,
    IN_PART, NEVER, case, check,
    transport::{Transport, over_every_transport},
};
use crate::harness::{Origin, Proxy, frames::*};

over_every_transport![
    frames_are_held_to_their_rules,
    a_head_may_come_in_pieces,
    settings_and_pings_are_answered,
    a_connection_begins_with_settings,
    a_client_that_says_goodbye_is_answered,
];

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let get = || get(1, "/");
    let settings = |payload: &[u8]| frame(SETTINGS, 0, 0, payload);
    let padded = |length: u8, rest: &[u8]| [&[length], rest].concat();
    let fields = block(&head("GET", NEVER));
    vec![
        // Settings.
        case("an acknowledgement with a setting", &[frame(SETTINGS, ACK, 0, &setting(3, 1))], GoAway(FRAME_SIZE_ERROR)),
        case("settings of a stream", &[frame(SETTINGS, 0, 1, &[])], GoAway(PROTOCOL_ERROR)),
        case("half a setting", &[settings(&[0, 3, 0, 0, 0])], GoAway(FRAME_SIZE_ERROR)),
        case("push that is neither on nor off", &[settings(&setting(2, 2))], GoAway(PROTOCOL_ERROR)),
        case("a window beyond the largest", &[settings(&setting(4, 1 << 31))], GoAway(FLOW_CONTROL_ERROR)),
        case("frames smaller than the smallest", &[settings(&setting(5, 16_383))], GoAway(PROTOCOL_ERROR)),
        case("frames larger than the largest", &[settings(&setting(5, 1 << 24))], GoAway(PROTOCOL_ERROR)),
        case("a setting that nobody knows", &[settings(&setting(0xfffe, 7)), get()], Status(200)),
        case("settings without a setting", &[settings(&[]), get()], Status(200)),
        case("one setting twice", &[settings(&[setting(4, 1), setting(4, 65_535)].concat()), get()], Status(200)),
        // Frames of any kind.
        case("a kind that nobody knows", &[frame(0xbe, 0xff, 0, b"anything"), frame(0xbf, 0, 1, b""), get()], Status(200)),
        case("flags that mean nothing", &[frame(PING, 0xfe, 0, &[0; 8]), get()], Status(200)),
        case("a stream's reserved bit", &[request(1 | 1 << 31, END_STREAM, &head("GET", "/"))], Status(200)),
        case("a piece larger than was allowed", &[post(1, IN_PART), frame(DATA, 0, 1, &[0; 16_385])], GoAway(FRAME_SIZE_ERROR)),
        case("a head larger than was allowed", &[frame(HEADERS, END_HEADERS, 1, &[0; 16_385])], GoAway(FRAME_SIZE_ERROR)),
        // Pings.
        case("an answer to a ping that was not sent", &[frame(PING, ACK, 0, &[7; 8]), get()], Status(200)),
        case("a ping of a stream", &[frame(PING, 0, 1, &[0; 8])], GoAway(PROTOCOL_ERROR)),
        case("a short ping", &[frame(PING, 0, 0, &[0; 6])], GoAway(FRAME_SIZE_ERROR)),
        case("a long ping", &[frame(PING, 0, 0, &[0; 9])], GoAway(FRAME_SIZE_ERROR)),
        // The end of a connection.
        case("a goaway of a stream", &[frame(GOAWAY, 0, 1, &[0; 8])], GoAway(PROTOCOL_ERROR)),
        case("a short goaway", &[frame(GOAWAY, 0, 0, &[0; 7])], GoAway(FRAME_SIZE_ERROR)),
        // Windows.
        case("a window that grows by nothing", &[window_update(0, 0)], GoAway(PROTOCOL_ERROR)),
        case("a stream's window that grows by nothing", &[post(1, IN_PART), window_update(1, 0)], Reset(PROTOCOL_ERROR)),
        case("a short window update", &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])], GoAway(FRAME_SIZE_ERROR)),
        case("a window update of an idle stream", &[window_update(1, 1)], GoAway(PROTOCOL_ERROR)),
        case("a window that outgrows the largest", &[window_update(0, 0x7fff_ffff)], GoAway(FLOW_CONTROL_ERROR)),
        case("a stream's window that outgrows the largest", &[post(1, IN_PART), window_update(1, 0x7fff_ffff)], Reset(FLOW_CONTROL_ERROR)),
        // Streams that are taken back.
        case("a reset of the connection", &[reset(0, CANCEL)], GoAway(PROTOCOL_ERROR)),
        case("a reset of an idle stream", &[reset(1, CANCEL)], GoAway(PROTOCOL_ERROR)),
        case("a short reset", &[post(1, IN_PART), frame(RST_STREAM, 0, 1, &[0; 3])], GoAway(FRAME_SIZE_ERROR)),
        // Priorities.
        case("a priority of the connection", &[frame(PRIORITY, 0, 0, &[0; 5])], GoAway(PROTOCOL_ERROR)),
        case("a priority of an idle stream", &[frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 9]), get()], Status(200)),
        case("a priority with the head", &[frame(HEADERS, END_HEADERS | END_STREAM | HAS_PRIORITY, 1, &[&[0, 0, 0, 0, 9][..], &block(&head("GET", "/"))].concat())], Status(200)),
        // Pieces of bodies.
        case("data of the connection", &[frame(DATA, 0, 0, b"x")], GoAway(PROTOCOL_ERROR)),
        case("data of an idle stream", &[frame(DATA, 0, 1, b"x")], GoAway(PROTOCOL_ERROR)),
        case("data with more padding than there is", &[post(1, IN_PART), frame(DATA, PADDED | END_STREAM, 1, &padded(9, b"x"))], GoAway(PROTOCOL_ERROR)),
        case("data with padding alone", &[post(1, "/padding"), frame(DATA, PADDED, 1, &padded(3, &[0; 3])), frame(DATA, END_STREAM, 1, b"")], Status(200)),
        // Heads.
        case("a head of the connection", &[frame(HEADERS, END_HEADERS, 0, &fields)], GoAway(PROTOCOL_ERROR)),
        case("a head with more padding than there is", &[frame(HEADERS, END_HEADERS | PADDED, 1, &padded(200, &fields))], GoAway(PROTOCOL_ERROR)),
        case("a head with padding", &[frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[padded(2, &block(&head("GET", "/"))), vec![0; 2]].concat())], Status(200)),
        case("a push of a client", &[frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &fields[..]].concat())], GoAway(PROTOCOL_ERROR)),
        // Heads in several frames.
        case("a continuation of nothing", &[frame(CONTINUATION, END_HEADERS, 1, &fields)], GoAway(PROTOCOL_ERROR)),
        case("a continuation of the connection", &[frame(HEADERS, 0, 1, &fields), frame(CONTINUATION, END_HEADERS, 0, &[])], GoAway(PROTOCOL_ERROR)),
        case("a continuation of another stream", &[frame(HEADERS, 0, 1, &fields), frame(CONTINUATION, END_HEADERS, 3, &[])], GoAway(PROTOCOL_ERROR)),
        case("a ping within a head", &[frame(HEADERS, 0, 1, &fields), frame(PING, 0, 0, &[0; 8])], GoAway(PROTOCOL_ERROR)),
        case("data within a head", &[frame(HEADERS, 0, 1, &fields), frame(DATA, END_STREAM, 1, b"x")], GoAway(PROTOCOL_ERROR)),
        case("an unknown frame within a head", &[frame(HEADERS, 0, 1, &fields), frame(0xbe, 0, 1, b"")], GoAway(PROTOCOL_ERROR)),
        case("a head within a head", &[frame(HEADERS, 0, 1, &fields), frame(HEADERS, END_HEADERS, 3, &fields)], GoAway(PROTOCOL_ERROR)),
        case("a continuation of a whole head", &[post(1, IN_PART), frame(CONTINUATION, END_HEADERS, 1, &[])], GoAway(PROTOCOL_ERROR)),
    ]
}

fn frames_are_held_to_their_rules(transport: Transport) {
    let cases = cases();
    assert!(cases.len() >= 45, "{}", cases.len());
    check(transport, &cases);
}

/// A block is what its frames hold together, wherever it was cut.
fn a_head_may_come_in_pieces(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    for cuts in [&[1_usize][..], &[10, 11, 40], &[5, 5, 5]] {
        let mut client = proxy.connect();
        let fields = block(&[head("GET", "/pieces"), vec![("x-last", "yes")]].concat());
        let ends: Vec<usize> = cuts.iter().copied().chain([fields.len()]).collect();
        let mut from = 0;
        for (number, end) in ends.iter().enumerate() {
            let kind = if number == 0 { HEADERS } else { CONTINUATION };
            let stream = if number == 0 { END_STREAM } else { 0 };
            let last = if *end == fields.len() { END_HEADERS } else { 0 };
            client.send(frame(kind, stream | last, 1, &fields[from..*end]));
            from = *end;
        }
        assert_eq!(client.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
        assert_eq!(origin.last().header("x-last").as_deref(), Some("yes"));
    }
}

fn settings_and_pings_are_answered(transport: Transport) {
    let proxy = transport.start(Proxy::builder(
        r#"routes { route "fixed" { respond 200 "ok" } }"#,
    ));
    let mut client = proxy.connect();
    let own = client.next().unwrap();
    assert_eq!((own.kind, own.flags & ACK), (SETTINGS, 0));
    let acknowledged = client.next_of(SETTINGS).unwrap();
    assert_eq!((acknowledged.flags, acknowledged.payload.len()), (ACK, 0));
    client.send(frame(PING, 0, 0, b"12345678"));
    let ping = client.next_of(PING).unwrap();
    assert_eq!((ping.flags, &*ping.payload), (ACK, &b"12345678"[..]));
}

/// Whoever does not begin with settings has not begun.
fn a_connection_begins_with_settings(transport: Transport) {
    let proxy = transport.start(Proxy::builder(
        r#"routes { route "fixed" { respond 200 "ok" } }"#,
    ));
    for first in [
        frame(PING, 0, 0, &[0; 8]),
        get(1, NEVER),
        frame(0xbe, 0, 0, b""),
    ] {
        let mut client = proxy.with_preface();
        client.send(&first);
        assert_eq!(client.end(), Some(PROTOCOL_ERROR), "{first:x?}");
    }
}

/// A client that goes has its answers all the same.
fn a_client_that_says_goodbye_is_answered(transport: Transport) {
    let proxy = transport.start(Proxy::builder(
        r#"routes { route "fixed" { respond 200 "ok" } }"#,
    ));
    let mut client = proxy.connect();
    client.send([get(1, "/"), frame(GOAWAY, 0, 0, &[0; 8])].concat());
    assert_eq!(client.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
    client.end();
}
