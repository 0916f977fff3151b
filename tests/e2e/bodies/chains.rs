//! Several agents that see the same body, and verdicts that are provisional as long as more of it comes.

use super::{
    DIRECTIONS, Direction, Framing, MODES, body, line_of, outcomes, past, post, send, sizes, text,
};
use crate::harness::{
    Answer, Origin, Proxy, TestAgent,
    agent::{Dialect, Phase, Reaction, When},
};
use portcullis_agent_protocol::Decision;
use serde_json::Value;

/// An agent that does this with every piece of a body.
fn agent(name: &str, direction: Direction, reaction: impl Into<Reaction>) -> TestAgent {
    TestAgent::named(name)
        .then(direction.phase(), When::Always, reaction)
        .start()
}

fn replacing(text: &str) -> Reaction {
    Reaction::Replace(text.to_owned())
}

/// An origin that answers with `hello`.
fn hello() -> Origin {
    Origin::answering(|_| Answer::with(200, &[("etag", "\"1\"")], b"hello"))
}

/// A proxy with these filters, whose agents look at bodies in this direction, each in its mode.
fn chained(
    filters: &str,
    direction: Direction,
    agents: &[(&TestAgent, &str)],
    origin: &Origin,
) -> Proxy {
    let mut builder = past(filters, origin);
    for (agent, mode) in agents {
        builder = builder.agent_with(agent, &direction.inspect(mode, ""));
    }
    let proxy = builder.start();
    proxy.wait_ready();
    proxy
}

/// Has `hello` go in this direction; what arrives, and the status.
fn carry(proxy: &Proxy, direction: Direction, origin: &Origin) -> (u16, String) {
    match direction {
        Direction::Request => {
            let response = send(proxy, b"hello", Framing::Length);
            let arrived = origin.requests().pop();
            let arrived = arrived.map(|request| request.body).unwrap_or_default();
            (response.status, String::from_utf8(arrived).unwrap())
        }
        Direction::Response => {
            let response = proxy.get("/");
            (response.status, response.text())
        }
    }
}

#[test]
fn what_one_agent_replaces_is_what_the_next_one_sees() {
    for direction in DIRECTIONS {
        for modes in [
            ["buffer", "buffer"],
            ["stream", "buffer"],
            ["buffer", "stream"],
            ["stream", "stream"],
        ] {
            let case = format!("{direction:?} {modes:?}");
            let origin = hello();
            let first = agent("first", direction, replacing("[$DATA]"));
            let second = agent("second", direction, replacing("<$DATA>"));
            let agents = [(&first, modes[0]), (&second, modes[1])];
            let filters = r#"agent "first"; agent "second""#;
            let proxy = chained(filters, direction, &agents, &origin);
            let (status, arrived) = carry(&proxy, direction, &origin);
            assert_eq!(status, 200, "{case}");
            let seen = [&first, &second].map(|agent| text(&agent.seen(direction.event())));
            // Responses pass the chain the other way. An end that comes alone is a piece of its own.
            match direction {
                Direction::Request => {
                    assert!(arrived.starts_with("<[hello"), "{case}: {arrived}");
                    assert!(
                        seen[0] == "hello" && seen[1].starts_with("[hello"),
                        "{case}"
                    );
                }
                Direction::Response => {
                    assert!(arrived.starts_with("[<hello"), "{case}: {arrived}");
                    assert!(
                        seen[1] == "hello" && seen[0].starts_with("<hello"),
                        "{case}"
                    );
                }
            }
            if direction == Direction::Request || !modes.contains(&"stream") {
                let expected = ["<[hello]>", "[<hello>]"];
                assert!(expected.contains(&arrived.as_str()), "{case}: {arrived}");
            }
        }
    }
}

/// Nothing of it passes the first one before all of it is here, so the second one sees what it left.
#[test]
fn each_agent_that_holds_a_body_sees_all_of_it() {
    let origin = Origin::start();
    let first = agent("first", Direction::Request, Decision::allow());
    let second = agent("second", Direction::Request, Decision::allow());
    let proxy = chained(
        r#"agent "first"; agent "second""#,
        Direction::Request,
        &[(&first, "buffer"), (&second, "buffer")],
        &origin,
    );
    for framing in [Framing::Length, Framing::Chunks(7)] {
        assert_eq!(send(&proxy, &body(60_000), framing).status, 200);
        assert!(origin.last().body == body(60_000));
    }
    for agent in [&first, &second] {
        assert_eq!(sizes(&agent.seen("request_body_chunk")), [60_000; 2]);
    }
}

#[test]
fn of_two_replacements_in_parallel_that_of_the_later_line_wins() {
    for direction in DIRECTIONS {
        // If one holds the body, it is held for both.
        for modes in [["buffer", "buffer"], ["stream", "buffer"]] {
            let case = format!("{direction:?} {modes:?}");
            let origin = hello();
            let first = agent("first", direction, replacing("[$DATA]"));
            let second = agent("second", direction, replacing("<$DATA>"));
            let agents = [(&first, modes[0]), (&second, modes[1])];
            let filters = r#"parallel { agent "first"; agent "second" }"#;
            let proxy = chained(filters, direction, &agents, &origin);
            let (status, arrived) = carry(&proxy, direction, &origin);
            assert_eq!((status, arrived.as_str()), (200, "<hello>"), "{case}");
            for agent in [&first, &second] {
                assert_eq!(text(&agent.seen(direction.event())), "hello", "{case}");
                assert_eq!(sizes(&agent.seen(direction.event())), [5], "{case}");
            }
        }
    }
}

#[test]
fn in_parallel_the_replacement_of_the_only_one_that_changes_it_counts() {
    for (name, other) in [("first", "second"), ("second", "first")] {
        for mode in MODES {
            let origin = hello();
            let changes = agent(name, Direction::Request, replacing("[$DATA]"));
            let allows = agent(other, Direction::Request, Decision::allow());
            let proxy = chained(
                r#"parallel { agent "first"; agent "second" }"#,
                Direction::Request,
                &[(&changes, mode), (&allows, mode)],
                &origin,
            );
            let carried = carry(&proxy, Direction::Request, &origin);
            assert_eq!(carried, (200, "[hello]".to_owned()), "{name} {mode}");
        }
    }
}

#[test]
fn in_parallel_the_first_block_of_a_body_wins() {
    for direction in DIRECTIONS {
        let origin = hello();
        let hangs = agent("hangs", direction, Reaction::Hang);
        let blocks = agent("blocks", direction, Decision::block(403).reason("no"));
        let agents = [(&hangs, "buffer"), (&blocks, "buffer")];
        let filters = r#"parallel { agent "hangs"; agent "blocks" }"#;
        let proxy = chained(filters, direction, &agents, &origin);
        assert_eq!(carry(&proxy, direction, &origin).0, 403, "{direction:?}");
        if direction == Direction::Request {
            assert_eq!(origin.connections(), 0);
        }
        let line = line_of(&proxy, "/");
        assert_eq!(line["blocked_by"], "blocks", "{line}");
        assert_eq!(line["reason"], "no", "{line}");
        let mut found = outcomes(&line, direction.name());
        found.sort();
        let expected = [("blocks", "block"), ("hangs", "cancelled")];
        let expected = expected.map(|(agent, outcome)| (agent.to_owned(), outcome.to_owned()));
        assert_eq!(found, expected, "{line}");
    }
}

/// The limits of the members are their own.
#[test]
fn in_parallel_a_body_can_be_too_large_for_one() {
    for on_oversize in ["skip", "truncate"] {
        let origin = Origin::start();
        let small = agent("small", Direction::Request, Decision::allow());
        let large = agent("large", Direction::Request, Decision::allow());
        let properties = format!("limit=\"1KiB\" on-oversize=\"{on_oversize}\"");
        let proxy = past(r#"parallel { agent "small"; agent "large" }"#, &origin)
            .agent_with(&small, &Direction::Request.inspect("buffer", &properties))
            .agent_with(&large, &Direction::Request.inspect("buffer", ""))
            .start();
        proxy.wait_ready();
        assert_eq!(send(&proxy, &body(5000), Framing::Length).status, 200);
        assert!(origin.last().body == body(5000), "{on_oversize}");
        let event = Direction::Request.event();
        assert_eq!(sizes(&large.seen(event)), [5000], "{on_oversize}");
        let expected = match on_oversize {
            "skip" => Vec::new(),
            _ => vec![1024],
        };
        assert_eq!(sizes(&small.seen(event)), expected);
    }
}

/// Headers can still be changed, because nothing has gone.
#[test]
fn an_agent_that_holds_a_body_changes_headers() {
    let origin = hello();
    let change = Decision::allow()
        .set_request_header("x-scanned", "yes")
        .set_response_header("x-scanned", "too");
    let requests = agent("requests", Direction::Request, change);
    let change = Decision::allow().set_response_header("x-seen", "yes");
    let responses = agent("responses", Direction::Response, change);
    let proxy = past(r#"agent "requests"; agent "responses""#, &origin)
        .agent_with(&requests, &Direction::Request.inspect("buffer", ""))
        .agent_with(&responses, &Direction::Response.inspect("buffer", ""))
        .start();
    proxy.wait_ready();
    let response = send(&proxy, b"hello", Framing::Length);
    assert_eq!(response.status, 200);
    assert_eq!(origin.last().header("x-scanned").as_deref(), Some("yes"));
    assert_eq!(response.header("x-scanned"), Some("too"));
    assert_eq!(response.header("x-seen"), Some("yes"));
}

/// Blocks as long as it has not seen more, and where it sees the end.
fn provisional() -> Decision {
    Decision::block(403).provisional()
}

/// A proxy whose agent sees heads and bodies of requests, or of responses, in small pieces.
fn judged(agent: &TestAgent, direction: Direction, mode: &str, origin: &Origin) -> Proxy {
    let name = match direction {
        Direction::Request => "request",
        Direction::Response => "response",
    };
    let inspect = format!(
        "timeout \"5s\"; inspect {{ request-headers; {name}-headers; {name}-body \"{mode}\" }}"
    )
    .replacen("request-headers; request-headers", "request-headers", 1);
    let proxy = past(r#"agent "waf""#, origin)
        .agent_with(agent, &inspect)
        .start();
    proxy.wait_ready();
    proxy
}

const DIALECTS: [Dialect; 2] = [Dialect::Binary, Dialect::Legacy];

/// Three pieces of the size that the agent likes.
const THREE: usize = 3 << 10;

fn undecided(dialect: Dialect, direction: Direction, when: When) -> TestAgent {
    TestAgent::named("waf")
        .speaking(dialect)
        .preferring(1 << 10)
        .then(direction.phase(), when, provisional())
        .start()
}

/// Has three pieces go in this direction: the status, and the body that has arrived if it is whole.
fn carry_three(proxy: &Proxy, direction: Direction, origin: &Origin) -> (u16, Option<Vec<u8>>) {
    let mut client = proxy.client();
    match direction {
        Direction::Request => client.send(post("/", &body(THREE), Framing::Length, &[])),
        Direction::Response => client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n"),
    };
    let Some(response) = client.try_response() else {
        return (0, None);
    };
    let whole = match direction {
        Direction::Request => {
            let mut whole = origin.requests().into_iter().filter(|one| one.complete);
            whole.next().map(|request| request.body)
        }
        Direction::Response => Some(response.body).filter(|_| response.complete),
    };
    (response.status, whole)
}

fn saying_three() -> Origin {
    Origin::answering(|_| Answer::with(200, &[], &body(THREE)))
}

#[test]
fn d06_a_provisional_block_of_an_early_piece_goes_on() {
    for dialect in DIALECTS {
        for direction in DIRECTIONS {
            for mode in MODES {
                let case = format!("{dialect:?} {direction:?} {mode}");
                let origin = saying_three();
                let agent = undecided(dialect, direction, When::Index(0));
                let proxy = judged(&agent, direction, mode, &origin);
                let (status, whole) = carry_three(&proxy, direction, &origin);
                assert_eq!(status, 200, "{case}");
                assert!(whole.is_some_and(|whole| whole == body(THREE)), "{case}");
                let line = line_of(&proxy, "/");
                let expected = [("waf".to_owned(), "allow".to_owned())];
                assert_eq!(outcomes(&line, direction.name()), expected, "{case}");
            }
        }
    }
}

#[test]
fn d06_a_provisional_block_of_the_last_piece_is_final() {
    for dialect in DIALECTS {
        for direction in DIRECTIONS {
            for mode in MODES {
                let case = format!("{dialect:?} {direction:?} {mode}");
                let origin = saying_three();
                let agent = undecided(dialect, direction, When::Always);
                let proxy = judged(&agent, direction, mode, &origin);
                let (status, whole) = carry_three(&proxy, direction, &origin);
                let is_late = direction == Direction::Response && mode == "stream";
                assert!(status == 403 || is_late && whole.is_none(), "{case}");
                let line = line_of(&proxy, "/");
                assert_eq!(line["blocked_by"], "waf", "{case}: {line}");
                let expected = [("waf".to_owned(), "block".to_owned())];
                assert_eq!(outcomes(&line, direction.name()), expected, "{case}");
                if direction == Direction::Request {
                    assert_eq!(whole, None, "{case}");
                    let connections = origin.connections();
                    assert!(connections == 0 || mode == "stream", "{case}");
                }
                let seen = sizes(&agent.seen(direction.event()));
                assert_eq!(seen.iter().sum::<u64>(), THREE as u64, "{case}");
            }
        }
    }
}

/// A head is not the end of a message that has a body which the agent sees.
#[test]
fn d06_a_provisional_block_of_a_head_goes_on_when_the_body_is_to_be_seen() {
    for dialect in DIALECTS {
        for mode in MODES {
            let origin = saying_three();
            let agent = TestAgent::named("waf")
                .speaking(dialect)
                .otherwise(provisional())
                .start();
            let proxy = judged(&agent, Direction::Request, mode, &origin);
            let (status, whole) = carry_three(&proxy, Direction::Request, &origin);
            assert_eq!(status, 200, "{dialect:?} {mode}");
            assert!(whole.is_some_and(|whole| whole == body(THREE)));
            // Nothing follows that it would see.
            assert_eq!(proxy.get("/").status, 403, "{dialect:?} {mode}");
            let empty = post("/", b"", Framing::Length, &[]);
            assert_eq!(proxy.client().send(empty).response().status, 403);
        }
        let agent = TestAgent::named("waf")
            .speaking(dialect)
            .otherwise(provisional())
            .start();
        let origin = Origin::start();
        let proxy = past(r#"agent "waf""#, &origin).agent(&agent).start();
        proxy.wait_ready();
        // The agent does not see it.
        assert_eq!(send(&proxy, b"hello", Framing::Length).status, 403);
        assert_eq!(origin.connections(), 0);
    }
}

#[test]
fn d06_a_provisional_block_of_a_response_goes_on_when_the_body_is_to_be_seen() {
    for dialect in DIALECTS {
        for mode in MODES {
            let origin = Origin::answering(|request| match request.target().as_str() {
                "/empty" => Answer::with(200, &[], b""),
                _ => Answer::with(200, &[], &body(THREE)),
            });
            let agent = TestAgent::named("waf")
                .speaking(dialect)
                .then(Phase::ResponseHeaders, When::Always, provisional())
                .start();
            let proxy = judged(&agent, Direction::Response, mode, &origin);
            let response = proxy.get("/");
            assert_eq!(response.status, 200, "{dialect:?} {mode}");
            assert!(response.body == body(THREE), "{dialect:?} {mode}");
            assert_eq!(proxy.get("/empty").status, 403, "{dialect:?} {mode}");
        }
    }
}

/// An agent that fails open does not change what the others do.
#[test]
fn a_failure_of_one_agent_leaves_the_body_to_the_next() {
    let origin = hello();
    let fails = agent("fails", Direction::Request, Reaction::Fail);
    let changes = agent("changes", Direction::Request, replacing("[$DATA]"));
    for filters in [
        r#"agent "fails" failure-mode="open"; agent "changes""#,
        r#"parallel { agent "fails" failure-mode="open"; agent "changes" }"#,
    ] {
        for mode in MODES {
            let agents = [(&fails, mode), (&changes, mode)];
            let proxy = chained(filters, Direction::Request, &agents, &origin);
            proxy.wait_metric(r#"portcullis_agent_up{agent="fails"}"#, 1.0);
            let carried = carry(&proxy, Direction::Request, &origin);
            assert_eq!(carried, (200, "[hello]".to_owned()), "{filters} {mode}");
            let line = line_of(&proxy, "/");
            let found = outcomes(&line, "request_body");
            let failed = ("fails".to_owned(), "protocol_error".to_owned());
            assert!(found.contains(&failed), "{line}");
        }
    }
    assert_eq!(fails.seen("request_headers"), Vec::<Value>::new());
}
