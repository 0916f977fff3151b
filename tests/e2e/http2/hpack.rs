//! Compressed fields (RFC 7541). A block that cannot be read leaves nobody knowing what the next one says, so it ends the
//! connection.

use super::{
    Case,
    Expected::*,
    NEVER, case, check,
    transport::{Transport, over_every_transport},
};
use crate::harness::{Origin, Proxy, frames::*};

over_every_transport![
    blocks_are_held_to_their_rules,
    fields_are_remembered_by_the_connection,
    a_refused_request_is_remembered_too,
    coded_fields_are_read,
];

/// A request whose fields are followed by these bytes.
fn with(rest: &[u8]) -> Vec<u8> {
    let fields = [block(&head("GET", NEVER)), rest.to_vec()].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let broken = GoAway(COMPRESSION_ERROR);
    let before = |first: &[u8]| {
        let fields = [first.to_vec(), block(&head("GET", "/"))].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)
    };
    vec![
        case("a field at place 0", &[with(&[0x80])], broken),
        case("a field behind the tables", &[with(&[0xbe])], broken),
        case("a name behind the tables", &[with(&[0x7e, 1, b'x'])], broken),
        case("a name far behind the tables", &[with(&[0x7f, 0xff, 0x7f, 1, b'x'])], broken),
        case("a number without an end", &[with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])], broken),
        case("a length without an end", &[with(&[0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])], broken),
        case("a name that is cut off", &[with(&[0, 5, b'x'])], broken),
        case("a value that is cut off", &[with(&[0, 1, b'x', 5, b'y'])], broken),
        case("a field that is cut off behind its name", &[with(&[0, 1, b'x'])], broken),
        case("a number that is cut off", &[with(&[0xff])], broken),
        case("a table larger than was allowed", &[before(&[0x3f, 0xe2, 0x1f])], broken),
        case("a size of the table behind a field", &[with(&[0x20])], broken),
        case("a size of the table before the fields", &[before(&[0x20])], Status(200)),
        case("two sizes of the table before the fields", &[before(&[0x20, 0x3f, 0xe1, 0x1f])], Status(200)),
        // Codes of Huffman: padded by a whole byte, by zeros, and with the end of the string in them.
        case("padding of eight bits", &[with(&[0, 1, b'x', 0x82, 0x1f, 0xff])], broken),
        case("padding of zeros", &[with(&[0, 1, b'x', 0x81, 0x18])], broken),
        case("the end of a string within it", &[with(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff])], broken),
    ]
}

fn blocks_are_held_to_their_rules(transport: Transport) {
    let cases = cases();
    assert!(cases.len() >= 15, "{}", cases.len());
    check(transport, &cases);
}

/// What was put into the table is found there by the next request.
fn fields_are_remembered_by_the_connection(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    let mut client = proxy.connect();
    let remembered = [
        0x40, 6, b'x', b'-', b'k', b'e', b'p', b't', 3, b'o', b'n', b'e',
    ];
    let newest = [0xbe];
    for (stream, last) in [(1, &remembered[..]), (3, &newest[..]), (5, &newest[..])] {
        let fields = [&block(&head("GET", "/table"))[..], last].concat();
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields));
        assert_eq!(client.outcome(stream), Outcome::Answer(200, b"ok".to_vec()));
        assert_eq!(origin.last().header("x-kept").as_deref(), Some("one"));
    }
    // It is gone when the table is made empty.
    let fields = [
        &[0x20, 0x3f, 0xe1, 0x1f][..],
        &block(&head("GET", NEVER)),
        &newest,
    ]
    .concat();
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 7, &fields));
    assert!(matches!(client.outcome(7), Outcome::GoAway(_)));
}

/// The table goes on from a request that was refused, or the two sides would no longer mean the same.
fn a_refused_request_is_remembered_too(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    let mut client = proxy.connect();
    let remembered = [
        0x40, 6, b'x', b'-', b'k', b'e', b'p', b't', 3, b'o', b'n', b'e',
    ];
    let malformed = [&remembered[..], &block(&[("connection", "close")])].concat();
    let fields = [&block(&head("GET", NEVER))[..], &malformed].concat();
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields));
    assert_eq!(
        client.outcome(1),
        Outcome::Reset(PROTOCOL_ERROR, Vec::new())
    );
    let fields = [&block(&head("GET", "/table"))[..], &[0xbe]].concat();
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &fields));
    assert_eq!(client.outcome(3), Outcome::Answer(200, b"ok".to_vec()));
    assert_eq!(origin.last().header("x-kept").as_deref(), Some("one"));
}

/// Huffman codes and the static table mean what they say: `GET`, `/`, `http`, and `www.example.com` of RFC 7541, C.4.1.
fn coded_fields_are_read(transport: Transport) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    let mut client = proxy.connect();
    let fields = [
        0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90,
        0xf4, 0xff,
    ];
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields));
    assert_eq!(client.outcome(1), Outcome::Answer(200, b"ok".to_vec()));
    let seen = origin.last();
    assert_eq!(seen.request_line(), "GET / HTTP/1.1");
    assert_eq!(seen.header("host").as_deref(), Some("www.example.com"));
}
