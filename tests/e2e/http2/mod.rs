//! HTTP/2 frame by frame: what RFC 9113 and RFC 7541 allow is served, and what they do not ends the stream or the connection
//! with the code that they name.

mod abuse;
mod calls;
mod flow;
mod frames;
mod heads;
mod hpack;
mod settings;
mod streams;
mod transport;
mod upstream;

use crate::harness::{
    Origin, Proxy,
    frames::{Outcome, PROTOCOL_ERROR, get},
};
use transport::{Served, Transport};

/// What is sent on a connection of its own, and what has to come of it.
struct Case {
    name: &'static str,
    frames: Vec<Vec<u8>>,
    expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The connection ends with this code, or the general one.
    GoAway(u32),
    /// Stream 1 is reset with this code, and the connection goes on or ends with it.
    Reset(u32),
    /// Stream 1 is answered with this status, and the connection goes on.
    Status(u16),
}

fn case(name: &'static str, frames: &[Vec<u8>], expected: Expected) -> Case {
    Case {
        name,
        frames: frames.to_vec(),
        expected,
    }
}

/// Malformed requests of the cases are for this path, and no origin may see it.
const NEVER: &str = "/never";
/// Requests that break off behind a head that is in order. An origin may see such a head, and never a whole request.
const IN_PART: &str = "/in-part";
/// What is asked on every connection that has to go on.
const AFTER: &str = "/after";

/// A higher stream than any of the cases.
const LATER: u32 = 1001;

fn check(transport: Transport, cases: &[Case]) {
    let origin = Origin::start();
    let proxy = transport.start(Proxy::in_front_of(&origin));
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| failure(&proxy, case))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    for request in origin.requests() {
        assert_ne!(request.target(), NEVER);
        assert!(request.target() != IN_PART || !request.complete);
    }
}

/// An error of a stream may be taken for one of its connection (RFC 9113 section 5.4.2), and the library below us says
/// PROTOCOL_ERROR where a more exact code exists.
fn is_right(outcome: &Outcome, expected: Expected) -> bool {
    let names = |code: u32, exact: u32| code == exact || code == PROTOCOL_ERROR;
    match (outcome, expected) {
        (Outcome::GoAway(code), Expected::GoAway(exact) | Expected::Reset(exact))
        | (Outcome::Reset(code, _), Expected::Reset(exact)) => names(*code, exact),
        (Outcome::Answer(status, _), Expected::Status(expected)) => *status == expected,
        _ => false,
    }
}

fn failure(proxy: &Served, case: &Case) -> Option<String> {
    let mut client = proxy.connect();
    client.send(case.frames.concat());
    let outcome = client.outcome(1);
    if !is_right(&outcome, case.expected) {
        return Some(format!(
            "{}: {outcome:?}, not {:?}",
            case.name, case.expected
        ));
    }
    if matches!(outcome, Outcome::GoAway(_)) {
        client.end();
        return None;
    }
    client.send(get(LATER, AFTER));
    match client.outcome(LATER) {
        Outcome::Answer(200, _) => None,
        other => Some(format!("{}: then {other:?}", case.name)),
    }
}
