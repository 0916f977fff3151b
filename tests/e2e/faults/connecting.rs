//! Faults before there is a connection. All of them are `unreachable`.

use super::{Bench, UNREACHABLE, wire};
use crate::harness::{Sabotage, Tamper, agent::Dialect};
use std::time::Duration;

#[test]
fn while_connecting() {
    const SUCCESS: &str = r#""success":true"#;
    let mut cases = vec![
        wire("there is no socket", Sabotage::NoSocket, UNREACHABLE),
        wire("nobody listens", Sabotage::NoListener, UNREACHABLE),
        wire("closes at once", Sabotage::CloseAtOnce, UNREACHABLE),
        wire("never reads", Sabotage::NeverRead, UNREACHABLE),
    ];
    let handshakes = [
        ("no handshake", Tamper::Swallow),
        ("a handshake that stalls", Tamper::Stall(9)),
        (
            "a handshake that drips",
            Tamper::Drip(Duration::from_millis(5)),
        ),
        ("closes before the handshake", Tamper::Cut(0)),
        ("closes within the handshake", Tamper::Cut(9)),
        ("a handshake that says to be longer", Tamper::Lie(5)),
        ("a handshake that says to be shorter", Tamper::Lie(-5)),
        ("a handshake that says to be empty", Tamper::Length(0)),
        ("a handshake longer than may be", Tamper::Length(u32::MAX)),
        ("an answer instead of a handshake", Tamper::Kind(0x20)),
        ("an empty handshake", Tamper::Payload(b"{}")),
        ("a handshake that is no JSON", Tamper::Payload(b"hello")),
        (
            "a handshake that is refused",
            Tamper::Text(SUCCESS, r#""success":false"#),
        ),
        (
            "a handshake that maybe succeeds",
            Tamper::Text(SUCCESS, r#""success":"yes""#),
        ),
        (
            "a version that was not offered",
            Tamper::Text(r#""protocol_version":2"#, r#""protocol_version":3"#),
        ),
        (
            "an encoding that was not offered",
            Tamper::Text(r#""encoding":"json""#, r#""encoding":"cbor""#),
        ),
        (
            "an extension that was not offered",
            Tamper::Text(r#""event-id""#, r#""event-no""#),
        ),
    ];
    cases.extend(
        handshakes.map(|(name, tamper)| wire(name, Sabotage::Handshake(tamper), UNREACHABLE)),
    );
    Bench::run(Dialect::Binary, &cases);
}
