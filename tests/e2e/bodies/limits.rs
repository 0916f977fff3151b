//! How much of a body an agent is shown, what becomes of a body that is larger, and how much is held for all of them together.

use super::{
    DIRECTIONS, Direction, Framing, MODES, body, line_of, outcomes, past, past_with, post, sizes,
    text,
};
use crate::harness::{
    Answer, Origin, Proxy, Response, TestAgent,
    agent::{Dialect, Phase, Reaction, When},
    eventually,
};
use portcullis_agent_protocol::Decision;
use serde_json::{Value, json};

const LIMIT: usize = 1 << 10;
const FRAMINGS: [Framing; 2] = [Framing::Length, Framing::Chunks(100)];
const FAILURE_MODES: [&str; 2] = ["closed", "open"];

/// An origin that answers with a body of the size that the query says, framed as it says.
fn origin() -> Origin {
    Origin::answering(|request| {
        let target = request.target();
        let Some((_, size)) = target.split_once('?') else {
            return Answer::ok("ok");
        };
        let (size, in_chunks) = match size.strip_prefix("chunks=") {
            Some(size) => (size, true),
            None => (size.strip_prefix("length=").unwrap(), false),
        };
        let body = body(size.parse().unwrap());
        match in_chunks {
            true => Answer::chunked(200, &[], &body, 100),
            false => Answer::with(200, &[], &body),
        }
    })
}

/// An agent and a proxy that has it look at these bodies, up to the limit.
fn limited(
    agent: &TestAgent,
    direction: Direction,
    mode: &str,
    on_oversize: &str,
    failure_mode: &str,
    origin: &Origin,
) -> Proxy {
    let properties = format!("limit=\"{LIMIT}B\" on-oversize=\"{on_oversize}\"");
    let filter = format!("agent \"waf\" failure-mode=\"{failure_mode}\"");
    let proxy = past(&filter, origin)
        .agent_with(agent, &direction.inspect(mode, &properties))
        .start();
    proxy.wait_ready();
    proxy.wait_metric(r#"portcullis_agent_up{agent="waf"}"#, 1.0);
    proxy
}

/// Has a body of this size go in this direction; the origin is asked for this path.
fn carry(
    proxy: &Proxy,
    direction: Direction,
    path: &str,
    size: usize,
    framing: Framing,
) -> Response {
    match (direction, framing) {
        (Direction::Request, framing) => {
            let mut client = proxy.client();
            client.send(post(path, &body(size), framing, &[]));
            client.response()
        }
        (Direction::Response, Framing::Length) => proxy.get(&format!("{path}?length={size}")),
        (Direction::Response, Framing::Chunks(_)) => proxy.get(&format!("{path}?chunks={size}")),
    }
}

/// Checks that a body of this size has come to the other side, and nothing else.
fn assert_carried(
    direction: Direction,
    origin: &Origin,
    response: &Response,
    size: usize,
    case: &str,
) {
    assert_eq!(response.status, 200, "{case}");
    assert!(response.complete, "{case}");
    let arrived = match direction {
        Direction::Request => origin.last().body,
        Direction::Response => response.body.clone(),
    };
    assert!(arrived == body(size), "{case}: {} bytes", arrived.len());
}

fn calls(direction: Direction, outcome: &str) -> String {
    let phase = direction.name();
    format!(r#"portcullis_agent_calls_total{{agent="waf",phase="{phase}",outcome="{outcome}"}}"#)
}

#[test]
fn a_body_over_the_limit_is_refused_whatever_the_failure_mode() {
    for failure_mode in FAILURE_MODES {
        for direction in DIRECTIONS {
            for mode in MODES {
                let origin = origin();
                let agent = TestAgent::named("waf").start();
                let proxy = limited(&agent, direction, mode, "fail", failure_mode, &origin);
                for (number, framing) in FRAMINGS.into_iter().enumerate() {
                    let case = format!("{failure_mode} {direction:?} {mode} {framing:?}");
                    let response = carry(&proxy, direction, "/fits", LIMIT, framing);
                    assert_carried(direction, &origin, &response, LIMIT, &case);
                    origin.take();
                    let path = format!("/over{number}");
                    let response = carry(&proxy, direction, &path, LIMIT + 1, framing);
                    assert_refused(direction, mode, &response, &case);
                    assert!(
                        direction == Direction::Response
                            || origin.take().iter().all(|request| !request.complete),
                        "{case}"
                    );
                    let line = line_of(&proxy, &path);
                    let expected = [("waf".to_owned(), "oversize".to_owned())];
                    assert_eq!(outcomes(&line, direction.name()), expected, "{line}");
                    assert_eq!(line["blocked_by"], "waf", "{line}");
                    assert_eq!(line["reason"], "oversize", "{line}");
                }
                if mode == "buffer" {
                    let seen = agent.seen(direction.event());
                    assert_eq!(sizes(&seen), [LIMIT as u64; 2], "it saw what it may see");
                }
            }
        }
    }
}

/// What the client gets, when there is nothing on its way to it yet.
fn assert_refused(direction: Direction, mode: &str, response: &Response, case: &str) {
    match (direction, mode) {
        (Direction::Request, _) => assert_eq!(response.status, 413, "{case}"),
        (Direction::Response, "buffer") => assert_eq!(response.status, 502, "{case}"),
        (Direction::Response, _) => {
            let status = response.status;
            assert!(status == 502 || !response.complete, "{case}: {status}");
        }
    }
}

#[test]
fn an_agent_decides_by_the_beginning_of_a_body() {
    for direction in DIRECTIONS {
        for mode in MODES {
            for framing in FRAMINGS {
                let case = format!("{direction:?} {mode} {framing:?}");
                let origin = origin();
                let agent = TestAgent::named("waf").start();
                let proxy = limited(&agent, direction, mode, "truncate", "closed", &origin);
                let size = 5 * LIMIT;
                let response = carry(&proxy, direction, "/", size, framing);
                assert_carried(direction, &origin, &response, size, &case);
                let seen = agent.seen(direction.event());
                assert_eq!(sizes(&seen).iter().sum::<u64>(), LIMIT as u64, "{case}");
                let beginning = body(size)[..256.min(size)].to_vec();
                assert!(
                    text(&seen).as_bytes().starts_with(&beginning[..100]),
                    "{case}"
                );
                let (last, others) = seen.split_last().unwrap();
                assert_eq!(last["truncated"], true, "{case}");
                assert_eq!(last["is_last"], true, "{case}");
                assert_eq!(last["transferred"], LIMIT, "{case}");
                let none = |piece: &Value| piece["truncated"] == false && piece["is_last"] == false;
                assert!(others.iter().all(none), "{case}");
                if framing == Framing::Length {
                    assert_eq!(last["total_size"], size, "{case}");
                }
                let line = line_of(&proxy, "/");
                let expected = [("waf".to_owned(), "allow".to_owned())];
                assert_eq!(outcomes(&line, direction.name()), expected, "{case}");
            }
        }
    }
}

#[test]
fn an_agent_blocks_by_the_beginning_of_a_body() {
    for dialect in [Dialect::Binary, Dialect::Legacy] {
        for direction in DIRECTIONS {
            for framing in FRAMINGS {
                let case = format!("{dialect:?} {direction:?} {framing:?}");
                let origin = origin();
                let agent = TestAgent::named("waf")
                    .speaking(dialect)
                    .then(direction.phase(), When::Last, Decision::block(403))
                    .start();
                let proxy = limited(&agent, direction, "buffer", "truncate", "closed", &origin);
                let response = carry(&proxy, direction, "/", 5 * LIMIT, framing);
                assert_eq!(response.status, 403, "{case}");
                if direction == Direction::Request {
                    assert_eq!(origin.connections(), 0, "{case}");
                }
            }
        }
    }
}

/// What the agent has seen it may change; the rest goes on as it is.
#[test]
fn the_beginning_of_a_body_is_replaced() {
    for direction in DIRECTIONS {
        for mode in MODES {
            let case = format!("{direction:?} {mode}");
            let origin = origin();
            let agent = TestAgent::named("waf")
                .then(
                    direction.phase(),
                    When::Always,
                    Reaction::Replace(String::new()),
                )
                .start();
            let proxy = limited(&agent, direction, mode, "truncate", "closed", &origin);
            let response = carry(&proxy, direction, "/", 5 * LIMIT, Framing::Length);
            assert_eq!(response.status, 200, "{case}");
            let arrived = match direction {
                Direction::Request => origin.last().body,
                Direction::Response => response.body.clone(),
            };
            assert!(arrived == body(5 * LIMIT)[LIMIT..], "{case}");
        }
    }
}

#[test]
fn a_body_over_the_limit_goes_on_without_the_agent() {
    for direction in DIRECTIONS {
        for mode in MODES {
            let origin = origin();
            // It would not let anything pass.
            let agent = TestAgent::named("waf")
                .then(direction.phase(), When::Last, Decision::block(403))
                .start();
            let proxy = limited(&agent, direction, mode, "skip", "closed", &origin);
            for (number, framing) in FRAMINGS.into_iter().enumerate() {
                let case = format!("{direction:?} {mode} {framing:?}");
                let path = format!("/over{number}");
                let response = carry(&proxy, direction, &path, 100 * LIMIT, framing);
                assert_carried(direction, &origin, &response, 100 * LIMIT, &case);
                let line = line_of(&proxy, &path);
                let expected = [("waf".to_owned(), "skipped".to_owned())];
                assert_eq!(outcomes(&line, direction.name()), expected, "{line}");
            }
            let seen = agent.seen(direction.event());
            if mode == "buffer" {
                assert_eq!(seen, Vec::<Value>::new(), "{direction:?}");
                proxy.wait_metric(&calls(direction, "skipped"), 2.0);
            }
            assert!(seen.iter().all(|piece| piece["is_last"] == false));
            assert!(proxy.metric(&calls(direction, "skipped")) >= 2.0);
        }
    }
}

#[test]
fn an_agent_that_has_seen_as_much_as_it_may_of_a_stream_is_asked_no_more() {
    let origin = origin();
    let agent = TestAgent::named("waf").start();
    let proxy = limited(
        &agent,
        Direction::Request,
        "stream",
        "skip",
        "closed",
        &origin,
    );
    let bytes = post("/", &body(3 * LIMIT), Framing::Length, &[]);
    let head = bytes.len() - 3 * LIMIT;
    let mut client = proxy.client();
    client.send(&bytes[..head + 600]);
    agent.wait_seen("request_body_chunk", 1);
    let response = client.send(&bytes[head + 600..]).response();
    assert_carried(Direction::Request, &origin, &response, 3 * LIMIT, "");
    assert_eq!(sizes(&agent.seen("request_body_chunk")), [600]);
    let line = line_of(&proxy, "/");
    let expected = [("waf".to_owned(), "skipped".to_owned())];
    assert_eq!(outcomes(&line, "request_body"), expected, "{line}");
}

const HELD: &str = "portcullis_buffer_memory_used_bytes";

#[test]
fn memory_for_requests_is_used_up() {
    for failure_mode in FAILURE_MODES {
        let origin = Origin::start();
        let agent = TestAgent::named("waf").start();
        let filter = format!("agent \"waf\" failure-mode=\"{failure_mode}\"");
        let system = r#"buffer-memory "1MiB" per-client="100%""#;
        let proxy = past_with(&filter, system, &origin)
            .agent_with(&agent, &Direction::Request.inspect("buffer", ""))
            .start();
        proxy.wait_ready();
        let large = post("/large", &body(700 << 10), Framing::Length, &[]);
        let mut client = proxy.client();
        client.send(&large[..large.len() - 1]);
        eventually("a body that is held", || {
            (proxy.metric(HELD) >= f64::from((700 << 10) - 1)).then_some(())
        });
        let mut other = proxy.client();
        let refused = other
            .send(post("/other", &body(600 << 10), Framing::Length, &[]))
            .response();
        assert_full(&proxy, &refused, Direction::Request, "/other");
        assert_eq!(origin.connections(), 0);
        let mut small = proxy.client();
        let passed = small
            .send(post("/small", &body(1000), Framing::Length, &[]))
            .response();
        assert_eq!(passed.status, 200, "there is room for it");
        assert_eq!(
            client.send(&large[large.len() - 1..]).response().status,
            200
        );
        assert!(origin.last().body == body(700 << 10));
        proxy.wait_metric(HELD, 0.0);
    }
}

#[test]
fn memory_for_responses_is_used_up() {
    let origin = origin();
    let agent = TestAgent::named("waf")
        .then(
            Phase::ResponseBody,
            When::Last.on("/held"),
            Reaction::late(&Decision::allow()),
        )
        .start();
    let inspect =
        r#"timeout "10s"; inspect { request-headers; response-body "buffer" limit="1MiB" }"#;
    let proxy = past_with(r#"agent "waf""#, "buffer-memory \"1MiB\"", &origin)
        .agent_with(&agent, inspect)
        .start();
    proxy.wait_ready();
    let size = 600 << 10;
    let mut client = proxy.client();
    client.send(format!(
        "GET /held?length={size} HTTP/1.1\r\nhost: test\r\n\r\n"
    ));
    eventually("the last piece at the agent", || {
        let seen = agent.seen("response_body_chunk");
        seen.iter()
            .any(|piece| piece["is_last"] == true)
            .then_some(())
    });
    assert!(proxy.metric(HELD) >= f64::from(size));
    let refused = proxy.get(&format!("/other?length={size}"));
    assert_full(&proxy, &refused, Direction::Response, "/other");
    agent.release();
    let response = client.response();
    assert_eq!(response.status, 200);
    assert!(response.body == body(600 << 10));
    proxy.wait_metric(HELD, 0.0);
}

fn assert_full(proxy: &Proxy, refused: &Response, direction: Direction, path: &str) {
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let line = line_of(proxy, path);
    let expected = [("waf".to_owned(), "buffer_full".to_owned())];
    assert_eq!(outcomes(&line, direction.name()), expected, "{line}");
    assert_eq!(line["reason"], "buffer_full", "{line}");
    proxy.wait_metric(&calls(direction, "buffer_full"), 1.0);
}

/// A client that goes away leaves nothing behind.
#[test]
fn memory_is_given_back_when_the_client_goes_away() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let proxy = past(r#"agent "waf""#, &origin)
        .agent_with(&agent, &Direction::Request.inspect("buffer", ""))
        .start();
    proxy.wait_ready();
    let bytes = post("/gone", &body(LIMIT), Framing::Length, &[]);
    let mut client = proxy.client();
    client.send(&bytes[..bytes.len() - 1]);
    eventually("a body that is held", || {
        (proxy.metric(HELD) > 0.0).then_some(())
    });
    drop(client);
    proxy.wait_metric(HELD, 0.0);
    let line = line_of(&proxy, "/gone");
    assert_eq!(line["status"], 499, "{line}");
    assert_eq!(origin.connections(), 0);
    assert_eq!(agent.seen("request_body_chunk"), Vec::<Value>::new());
}

/// The same while an agent is asked, which is told not to care any longer.
#[test]
fn memory_is_given_back_when_the_client_goes_away_while_an_agent_is_asked() {
    for direction in DIRECTIONS {
        let origin = origin();
        let agent = TestAgent::named("waf")
            .then(direction.phase(), When::Always, Reaction::Hang)
            .start();
        let proxy = past(r#"agent "waf""#, &origin)
            .agent_with(&agent, &direction.inspect("buffer", ""))
            .start();
        proxy.wait_ready();
        let mut client = proxy.client();
        match direction {
            Direction::Request => client.send(post("/gone", &body(LIMIT), Framing::Length, &[])),
            Direction::Response => {
                client.send("GET /gone?length=1024 HTTP/1.1\r\nhost: test\r\n\r\n")
            }
        };
        agent.wait_seen(direction.event(), 1);
        assert!(proxy.metric(HELD) > 0.0, "{direction:?}");
        drop(client);
        let line = line_of(&proxy, "/gone");
        assert_eq!(line["status"], 499, "{line}");
        assert_eq!(line["reason"], "client_gone", "{line}");
        let expected = [("waf".to_owned(), "client_gone".to_owned())];
        assert_eq!(outcomes(&line, direction.name()), expected, "{line}");
        proxy.wait_metric(HELD, 0.0);
        proxy.wait_metric("portcullis_agent_in_flight", 0.0);
    }
}

#[test]
fn pieces_are_as_large_as_the_agent_likes_them() {
    // Fewer than 1024 bytes are not taken seriously.
    for (preferred, dialect, size, expected) in [
        (4096, Dialect::Binary, 10_000, vec![4096, 4096, 1808]),
        (4096, Dialect::NumberedJson, 10_000, vec![4096, 4096, 1808]),
        (1, Dialect::Binary, 2500, vec![1024, 1024, 452]),
        (1 << 20, Dialect::Binary, 700_000, vec![700_000]),
    ] {
        for direction in DIRECTIONS {
            for mode in MODES {
                let case = format!("{preferred} {dialect:?} {direction:?} {mode}");
                let origin = origin();
                let agent = TestAgent::named("waf")
                    .speaking(dialect)
                    .preferring(preferred)
                    .start();
                let proxy = past(r#"agent "waf""#, &origin)
                    .agent_with(&agent, &direction.inspect(mode, ""))
                    .start();
                proxy.wait_ready();
                let response = carry(&proxy, direction, "/", size, Framing::Length);
                assert_carried(direction, &origin, &response, size, &case);
                let seen = agent.seen(direction.event());
                let largest = *expected.iter().max().unwrap();
                assert!(sizes(&seen).iter().all(|size| *size <= largest), "{case}");
                if mode == "buffer" {
                    assert_eq!(sizes(&seen), expected, "{case}");
                }
                assert_told(&seen, size, &case);
            }
        }
    }
}

#[test]
fn the_largest_pieces_have_room_in_a_connection() {
    for dialect in [Dialect::Binary, Dialect::NumberedJson, Dialect::Json] {
        for direction in DIRECTIONS {
            let case = format!("{dialect:?} {direction:?}");
            let size = 5 << 20;
            let origin = origin();
            // More than may be queued for a connection, which has to hold the piece in JSON too.
            let agent = TestAgent::named("waf")
                .speaking(dialect)
                .preferring(16 << 20)
                .start();
            let inspect = direction.inspect("buffer", "limit=\"16MiB\"");
            let proxy = past(r#"agent "waf""#, &origin)
                .agent_with(&agent, &inspect.replace("\"5s\"", "\"30s\""))
                .start();
            proxy.wait_ready();
            let response = carry(&proxy, direction, "/", size, Framing::Length);
            assert_carried(direction, &origin, &response, size, &case);
            let seen = agent.seen(direction.event());
            assert_eq!(sizes(&seen), [4 << 20, 1 << 20], "{case}");
        }
    }
}

/// Checks what is told of each piece of a whole body.
fn assert_told(seen: &[Value], size: usize, case: &str) {
    let mut transferred = 0;
    for (index, piece) in seen.iter().enumerate() {
        transferred += piece["size"].as_u64().unwrap();
        assert_eq!(piece["index"], index, "{case}");
        assert_eq!(piece["transferred"], transferred, "{case}");
        assert_eq!(piece["total_size"], size, "{case}");
        assert_eq!(piece["is_last"], json!(index + 1 == seen.len()), "{case}");
        assert_eq!(piece["truncated"], false, "{case}");
    }
    assert_eq!(transferred, size as u64, "{case}");
}
