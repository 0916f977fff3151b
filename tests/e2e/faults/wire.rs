//! Faults of the wire after a connection was made.

use super::{Bench, Case, Does, PROTOCOL_ERROR, TIMEOUT, UNREACHABLE, wire};
use crate::harness::{Sabotage, Tamper, agent::Dialect};
use std::time::Duration;

fn answers(tamper: Tamper) -> Sabotage {
    Sabotage::Answers(tamper)
}

/// Whatever the encoding.
#[expect(clippy::too_many_lines, reason = "a table, one case after the other")]
fn any_encoding() -> Vec<Case> {
    let mut cases = vec![
        wire("events are swallowed", Sabotage::SwallowEvents, TIMEOUT),
        wire("nothing passes", Sabotage::Hang, TIMEOUT),
        wire("nothing is read", Sabotage::StopReading, TIMEOUT),
    ];
    let tampers = [
        ("the answer is swallowed", Tamper::Swallow, TIMEOUT),
        ("stalls within the length", Tamper::Stall(2), TIMEOUT),
        ("stalls behind the header", Tamper::Stall(5), TIMEOUT),
        ("stalls within the payload", Tamper::Stall(12), TIMEOUT),
        ("drips", Tamper::Drip(Duration::from_millis(20)), TIMEOUT),
        ("says to be longer than it is", Tamper::Lie(1), TIMEOUT),
        (
            "says to be as long as may be",
            Tamper::Length(16 << 20),
            TIMEOUT,
        ),
        (
            "a report of health instead",
            Tamper::Instead(b"\0\0\0\x03\x30{}"),
            TIMEOUT,
        ),
        (
            "a pong instead",
            Tamper::Instead(b"\0\0\0\x21\x42{\"sequence\":99,\"timestamp_ms\":1}"),
            TIMEOUT,
        ),
        ("closes before the answer", Tamper::Cut(0), UNREACHABLE),
        ("closes within the length", Tamper::Cut(3), UNREACHABLE),
        ("closes behind the header", Tamper::Cut(5), UNREACHABLE),
        ("closes within the payload", Tamper::Cut(11), UNREACHABLE),
        (
            "closes before the last byte",
            Tamper::CutBeforeEnd(1),
            UNREACHABLE,
        ),
        (
            "says to be shorter than it is",
            Tamper::Lie(-1),
            PROTOCOL_ERROR,
        ),
        ("says to be empty", Tamper::Length(0), PROTOCOL_ERROR),
        ("says to be a type alone", Tamper::Length(1), PROTOCOL_ERROR),
        (
            "longer than may be",
            Tamper::Length((16 << 20) + 1),
            PROTOCOL_ERROR,
        ),
        (
            "as long as can be said",
            Tamper::Length(u32::MAX),
            PROTOCOL_ERROR,
        ),
        ("an unknown type", Tamper::Kind(0x7f), PROTOCOL_ERROR),
        ("a type of zero", Tamper::Kind(0), PROTOCOL_ERROR),
        (
            "a turned bit in the type",
            Tamper::Flip(4, 0x01),
            PROTOCOL_ERROR,
        ),
        (
            "a turned bit in the length",
            Tamper::Flip(0, 0x80),
            PROTOCOL_ERROR,
        ),
        ("an event of the agent", Tamper::Kind(0x10), PROTOCOL_ERROR),
        (
            "a handshake in the middle",
            Tamper::Kind(0x02),
            PROTOCOL_ERROR,
        ),
        ("a ping of the agent", Tamper::Kind(0x41), PROTOCOL_ERROR),
        ("a cancel of the agent", Tamper::Kind(0x40), PROTOCOL_ERROR),
        (
            "health that is no object",
            Tamper::Instead(b"\0\0\0\x03\x30[]"),
            PROTOCOL_ERROR,
        ),
        (
            "another protocol",
            Tamper::Instead(b"HTTP/1.1 200 OK\r\n\r\n"),
            PROTOCOL_ERROR,
        ),
        ("no payload", Tamper::Payload(b""), PROTOCOL_ERROR),
        ("zeros", Tamper::Payload(&[0; 64]), PROTOCOL_ERROR),
        ("ones", Tamper::Payload(&[0xff; 64]), PROTOCOL_ERROR),
        ("the id of nobody", Tamper::WrongId, PROTOCOL_ERROR),
        ("the last answer again", Tamper::Replay, PROTOCOL_ERROR),
        (
            "an answer to nobody first",
            Tamper::Unsolicited,
            PROTOCOL_ERROR,
        ),
    ];
    cases.extend(tampers.map(|(name, tamper, failure)| wire(name, answers(tamper), failure)));
    let harmless = [
        ("the answer twice", Tamper::Twice),
        (
            "garbage behind the answer",
            Tamper::Then(b"\xff\xff\xff\xff\xff"),
        ),
        ("half a frame behind the answer", Tamper::Then(b"\0\0")),
        (
            "an answer that drips fast enough",
            Tamper::Drip(Duration::from_micros(1)),
        ),
    ];
    cases.extend(harmless.map(|(name, tamper)| Case {
        name,
        does: Does::Wire(answers(tamper)),
        failure: None,
    }));
    cases
}

/// Offsets are those of an answer that allows and sets one header.
fn binary() -> Vec<Case> {
    [
        ("an unknown verdict", Tamper::Byte(13, 9)),
        ("a block without its status", Tamper::Byte(13, 1)),
        ("a redirect without its URL", Tamper::Byte(13, 2)),
        ("an error without its message", Tamper::Byte(13, 4)),
        (
            "a section that is longer than the answer",
            Tamper::Byte(16, 0x7f),
        ),
        (
            "more operations than there are bytes",
            Tamper::Byte(20, 0xff),
        ),
        ("an unknown operation", Tamper::Byte(24, 9)),
        (
            "a name that is longer than its section",
            Tamper::Byte(25, 0xff),
        ),
        ("a name that is not UTF-8", Tamper::Byte(29, 0xff)),
        (
            "JSON where binary was agreed on",
            Tamper::Payload(br#"{"version":2,"decision":"allow"}"#),
        ),
    ]
    .into_iter()
    .map(|(name, tamper)| wire(name, answers(tamper), PROTOCOL_ERROR))
    .collect()
}

fn json() -> Vec<Case> {
    const DECISION: &str = r#""decision":"allow""#;
    [
        (
            "an unknown decision",
            Tamper::Text(DECISION, r#""decision":"maybe""#),
        ),
        (
            "no decision",
            Tamper::Text(DECISION, r#""intention":"allow""#),
        ),
        (
            "a decision of null",
            Tamper::Text(DECISION, r#""decision":null"#),
        ),
        (
            "a decision that is a truth",
            Tamper::Text(DECISION, r#""decision":true"#),
        ),
        (
            "a block without its status",
            Tamper::Text(DECISION, r#""decision":{"block":{}}"#),
        ),
        (
            "two decisions",
            Tamper::Text(
                DECISION,
                r#""decision":{"allow":{},"block":{"status":403}}"#,
            ),
        ),
        (
            "another version",
            Tamper::Text(r#""version":2"#, r#""version":3"#),
        ),
        (
            "a version that is a text",
            Tamper::Text(r#""version":2"#, r#""version":"2""#),
        ),
        ("an unknown operation", Tamper::Text(r#""set""#, r#""put""#)),
        (
            "an operation without a value",
            Tamper::Text(r#""value""#, r#""worth""#),
        ),
        ("a value that is no text", Tamper::Text(r#""yes""#, "1")),
        (
            "binary where JSON was agreed on",
            Tamper::Payload(b"\0\0\0\0\0\x10\0\0\0\0"),
        ),
        ("JSON that ends too early", Tamper::Text("}", "")),
        ("a text that is not UTF-8", Tamper::Flip(20, 0x80)),
    ]
    .into_iter()
    .map(|(name, tamper)| wire(name, answers(tamper), PROTOCOL_ERROR))
    .collect()
}

fn all(own: Vec<Case>) -> Vec<Case> {
    let mut cases = any_encoding();
    cases.extend(own);
    cases
}

#[test]
fn on_a_binary_wire() {
    Bench::run(Dialect::Binary, &all(binary()));
}

#[test]
fn on_a_numbered_wire() {
    Bench::run(Dialect::NumberedJson, &all(json()));
}

#[test]
fn on_a_legacy_wire() {
    Bench::run(Dialect::Legacy, &all(json()));
}
