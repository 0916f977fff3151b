//! Faults of the agent itself: the wire is in order, and what is on it must not be done.

use super::{Bench, Case, PROTOCOL_ERROR, TIMEOUT, UNREACHABLE, agent};
use crate::harness::agent::{Dialect, Reaction};
use portcullis_agent_protocol::Decision;

/// Beside each of these is an operation that would be valid.
#[expect(clippy::too_many_lines, reason = "a table, one case after the other")]
fn invalid() -> Vec<Case> {
    let set = |name: &str| Decision::allow().set_request_header(name, "1");
    let many = (0..300).fold(Decision::allow(), |decision, number| {
        decision.set_request_header(format!("x-{number}"), "1")
    });
    [
        ("sets the host", set("Host")),
        (
            "adds a host",
            Decision::allow().add_request_header("host", "evil"),
        ),
        (
            "removes the host",
            Decision::allow().remove_request_header("host"),
        ),
        ("sets the length", set("Content-Length")),
        (
            "removes the length",
            Decision::allow().remove_request_header("content-length"),
        ),
        ("sets the length with an underscore", set("content_length")),
        (
            "sets the length of the response",
            Decision::allow().set_response_header("content-length", "0"),
        ),
        ("sets the transfer coding", set("transfer-encoding")),
        ("sets the connection", set("connection")),
        ("sets the client", set("X-Forwarded-For")),
        ("sets the request id", set("x-request-id")),
        ("sets the path", set(":path")),
        ("sets the method", set(":method")),
        ("a name with a space", set("x own")),
        ("a name that is empty", set("")),
        ("a name with a line end", set("x-own\r\nx-injected")),
        (
            "a value with a line end",
            Decision::allow().set_request_header("x-own", "a\r\nx-injected: 1"),
        ),
        (
            "a value with a line feed",
            Decision::allow().add_response_header("x-own", "a\nx-injected: 1"),
        ),
        (
            "a value with a nul",
            Decision::allow().set_request_header("x-own", "a\0b"),
        ),
        ("more operations than may be", many),
        (
            "a value longer than may be",
            Decision::allow().set_request_header("x-own", "v".repeat(70_000)),
        ),
        ("a block with status 99", Decision::block(99)),
        ("a block with status 101", Decision::block(101)),
        ("a block with status 600", Decision::block(600)),
        (
            "a block with an invalid header",
            Decision::block(403).with_header("x-own", "a\r\nb: c"),
        ),
        (
            "a redirect with status 200",
            Decision::redirect_with_status("https://example.com/", 200),
        ),
        (
            "a redirect with status 304",
            Decision::redirect_with_status("https://example.com/", 304),
        ),
        (
            "a redirect to a script",
            Decision::redirect("javascript:alert(1)"),
        ),
        (
            "a redirect with a line end",
            Decision::redirect("/a\r\nx-injected: 1"),
        ),
        ("a redirect to nowhere", Decision::redirect("")),
        (
            "a challenge with a line end",
            Decision::challenge("http").with_param("www-authenticate", "a\r\nb: c"),
        ),
    ]
    .into_iter()
    .map(|(name, decision)| {
        let decision = decision.set_request_header("x-valid", "1");
        agent(name, decision, PROTOCOL_ERROR)
    })
    .collect()
}

#[test]
fn of_a_binary_agent() {
    let mut cases = invalid();
    cases.extend([
        agent("does not answer", Reaction::Hang, TIMEOUT),
        agent("fails", Reaction::Fail, PROTOCOL_ERROR),
        agent("panics", Reaction::Panic, PROTOCOL_ERROR),
    ]);
    Bench::run(Dialect::Binary, &cases);
}

#[test]
fn of_a_legacy_agent() {
    let text = |text: &str| Reaction::Text(text.to_owned());
    let mut cases = invalid();
    cases.extend([
        agent("does not answer", Reaction::Hang, TIMEOUT),
        agent("closes", Reaction::Close, UNREACHABLE),
        agent("answers nothing", text(""), PROTOCOL_ERROR),
        agent("answers a word", text("allow"), PROTOCOL_ERROR),
        agent("answers without an id", text(r#"{"version":2,"decision":"allow"}"#), PROTOCOL_ERROR),
        agent(
            "answers with a number as its id",
            text(r#"{"version":2,"decision":"allow","audit":{"custom":{"correlation_id":1}}}"#),
            PROTOCOL_ERROR,
        ),
        agent(
            "decides what nobody knows",
            text(r#"{"version":2,"decision":{"delay":{}},"audit":{"custom":{"correlation_id":"$ID"}}}"#),
            PROTOCOL_ERROR,
        ),
        agent(
            "changes what nobody knows",
            text(r#"{"version":2,"decision":"allow","request_headers":[{"set":{"name":"x-valid","value":"1"}},{"rename":{"name":"a","value":"b"}}],"audit":{"custom":{"correlation_id":"$ID"}}}"#),
            PROTOCOL_ERROR,
        ),
        agent("answers within nesting", text(&format!("{}{}", "[".repeat(500), "]".repeat(500))), PROTOCOL_ERROR),
    ]);
    Bench::run(Dialect::Legacy, &cases);
}
