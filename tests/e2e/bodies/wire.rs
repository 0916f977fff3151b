//! How bodies go over the wire: to and from agents, and from clients that send them in unusual ways.

use super::{
    DIRECTIONS, Direction, Framing, MODES, body, in_both_failure_modes, line_of, outcomes, past,
    post, sizes,
};
use crate::harness::{
    Answer, Http2Answer, Http2Origin, Origin, Proxy, Response, Saboteur, TestAgent,
    agent::{Dialect, Reaction, When},
};
use portcullis_agent_protocol::Decision;
use serde_json::json;

fn watched(agent: &TestAgent, direction: Direction, mode: &str, origin: &Origin) -> Proxy {
    let proxy = past(r#"agent "waf""#, origin)
        .agent_with(agent, &direction.inspect(mode, ""))
        .start();
    proxy.wait_ready();
    proxy
}

/// A piece in JSON is base64. What is none is no piece, and above all not the text itself.
#[test]
fn d05_a_replacement_that_cannot_be_decoded_is_no_answer() {
    let pieces = ["not base64", "aGVsbG8", "=aGVsbG8", "<p>", "aGVs\\nbG8="];
    for direction in DIRECTIONS {
        for mode in MODES {
            let mut agent = TestAgent::named("waf").speaking(Dialect::Legacy);
            for failure_mode in FAILURE_MODES {
                for (number, data) in pieces.into_iter().enumerate() {
                    let when = When::Always.on(&format!("/{failure_mode}/{number}"));
                    agent = agent.then(direction.phase(), when, replacing_by(direction, data));
                }
            }
            let agent = agent.start();
            let origin = Origin::answering(|_| Answer::ok("the body"));
            let name = direction.name().replace('_', "-");
            let settings = format!("inspect {{ request-headers; {name} \"{mode}\" }}");
            let proxy = in_both_failure_modes(&agent, &settings, &origin);
            for failure_mode in FAILURE_MODES {
                for (number, data) in pieces.into_iter().enumerate() {
                    let case = format!("{data:?} {direction:?} {mode} {failure_mode}");
                    let path = format!("/{failure_mode}/{number}");
                    assert_discarded(&proxy, &origin, direction, &path, &case);
                    let line = line_of(&proxy, &path);
                    let expected = [("waf".to_owned(), "protocol_error".to_owned())];
                    assert_eq!(outcomes(&line, direction.name()), expected, "{case}");
                }
            }
        }
    }
}

const FAILURE_MODES: [&str; 2] = ["closed", "open"];

/// An answer that puts this in the place of a piece, as it is.
fn replacing_by(direction: Direction, data: &str) -> Reaction {
    let member = format!("{}_mutation", direction.name());
    Reaction::Text(format!(
        r#"{{"version":2,"decision":"allow","{member}":{{"data":"{data}","chunk_index":0}},"audit":{{"custom":{{"correlation_id":"$ID"}}}}}}"#
    ))
}

fn assert_discarded(proxy: &Proxy, origin: &Origin, direction: Direction, path: &str, case: &str) {
    origin.take();
    let mut client = proxy.client();
    match direction {
        Direction::Request => client.send(post(path, b"the body", Framing::Length, &[])),
        Direction::Response => client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")),
    };
    let response = client.try_response();
    let whole = |response: &Response| response.complete && response.status == 200;
    let status = response.as_ref().map_or(0, |response| response.status);
    if path.starts_with("/open") {
        assert_eq!(status, 200, "{case}");
        let arrived = match direction {
            Direction::Request => origin.last().body,
            Direction::Response => response.unwrap().body,
        };
        assert_eq!(String::from_utf8_lossy(&arrived), "the body", "{case}");
        return;
    }
    assert!(!response.as_ref().is_some_and(whole), "{case}");
    match direction {
        Direction::Request => {
            assert_eq!(status, 502, "{case}");
            let requests = origin.requests();
            assert!(requests.iter().all(|request| !request.complete), "{case}");
        }
        Direction::Response => {
            let is_cut = response.is_none_or(|response| response.body.is_empty());
            assert!(status == 502 || is_cut, "{case}: {status}");
        }
    }
}

/// As it is and once for each agent. In base64 it would be a third more, in JSON of numbers several times as much.
#[test]
fn d15_a_body_crosses_the_wire_as_it_is_and_once_for_each_agent() {
    const SIZE: usize = 200 << 10;
    /// Everything else: heads of events, and pings.
    const REST: usize = 16 << 10;
    // Nothing of this is text.
    let bytes = vec![0xff; SIZE];
    for direction in DIRECTIONS {
        for mode in MODES {
            let case = format!("{direction:?} {mode}");
            let said = bytes.clone();
            let origin = Origin::answering(move |_| Answer::with(200, &[], &said));
            let agents = ["first", "second", "third"].map(|name| TestAgent::named(name).start());
            let saboteurs = agents.each_ref().map(Saboteur::before);
            let filters = r#"parallel { agent "first"; agent "second" }; agent "third""#;
            let mut builder = past(filters, &origin);
            for (agent, saboteur) in agents.iter().zip(&saboteurs) {
                let inspect = direction.inspect(mode, "");
                builder = builder.agent_behind(saboteur, agent.name(), &inspect);
            }
            let proxy = builder.start();
            proxy.wait_ready();
            let before = saboteurs.each_ref().map(Saboteur::bytes);
            let response = match direction {
                Direction::Request => {
                    let request = post("/", &bytes, Framing::Length, &[]);
                    proxy.client().send(request).response()
                }
                Direction::Response => proxy.get("/"),
            };
            assert_eq!(response.status, 200, "{case}");
            for ((agent, saboteur), before) in agents.iter().zip(&saboteurs).zip(before) {
                let sent = saboteur.bytes() - before;
                assert!((SIZE..SIZE + REST).contains(&sent), "{case}: {sent}");
                let seen = sizes(&agent.seen(direction.event()));
                assert_eq!(seen.iter().sum::<u64>(), SIZE as u64, "{case}");
            }
        }
    }
}

#[test]
fn a_client_that_waits_before_its_body_is_told_once_to_go_on() {
    for mode in MODES {
        for framing in [Framing::Length, Framing::Chunks(100)] {
            let origin = Origin::start();
            let agent = TestAgent::named("waf").start();
            let proxy = watched(&agent, Direction::Request, mode, &origin);
            let request = post("/", &body(1000), framing, &["expect: 100-continue"]);
            let at = crate::harness::find(&request, b"\r\n\r\n").unwrap() + 4;
            let mut client = proxy.client();
            client.send(&request[..at]);
            let told = client.read_head().unwrap();
            assert!(told.starts_with("HTTP/1.1 100 "), "{mode}: {told}");
            let response = client.send(&request[at..]).response();
            assert_eq!(response.status, 200, "{mode} {framing:?}");
            assert!(origin.last().body == body(1000), "{mode} {framing:?}");
            assert_eq!(origin.last().header("expect"), None);
            // Nothing is left over from it.
            assert_eq!(client.get("/", &[]).status, 200, "{mode} {framing:?}");
        }
    }
}

/// It is spared sending a body that is not wanted.
#[test]
fn a_client_that_waits_is_not_told_to_go_on_when_its_head_is_refused() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf")
        .otherwise(Decision::block(403))
        .start();
    let proxy = past(r#"agent "waf""#, &origin)
        .agent_with(
            &agent,
            "inspect { request-headers; request-body \"buffer\" }",
        )
        .start();
    proxy.wait_ready();
    let request = post("/", &body(1000), Framing::Length, &["expect: 100-continue"]);
    let head = &request[..request.len() - 1000];
    let told = proxy.client().send(head).read_head().unwrap();
    assert!(told.starts_with("HTTP/1.1 403 "), "{told}");
    assert_eq!(origin.connections(), 0);
}

#[test]
fn bodies_of_http_1_0_pass_agents() {
    for mode in MODES {
        for (mark, expected) in [("none", body(3000)), ("0000001", b"[]".to_vec())] {
            let case = format!("{mode} {mark}");
            let origin = Origin::answering(|_| Answer::chunked(200, &[], &body(3000), 100));
            let mut agent = TestAgent::named("waf");
            for direction in DIRECTIONS {
                let when = When::Holds(mark.to_owned());
                agent = agent.then(direction.phase(), when, Reaction::Replace("[]".to_owned()));
            }
            let agent = agent.start();
            let inspect =
                format!("inspect {{ request-body \"{mode}\"; response-body \"{mode}\" }}");
            let proxy = past(r#"agent "waf""#, &origin)
                .agent_with(&agent, &inspect)
                .start();
            proxy.wait_ready();
            let mut client = proxy.client();
            client.send("POST / HTTP/1.0\r\nhost: test\r\ncontent-length: 3000\r\n\r\n");
            let response = client.send(body(3000)).response();
            assert_eq!(response.status, 200, "{case}");
            assert_eq!(response.header("transfer-encoding"), None, "{case}");
            client.expect_closed();
            let whole = |got: &[u8]| match (mode, mark) {
                // It may have come in several pieces, of which the first is replaced.
                ("stream", "0000001") => got.starts_with(b"[]") && got.len() < 3000,
                _ => got == expected,
            };
            assert!(whole(&origin.last().body), "{case}");
            assert!(whole(&response.body), "{case}");
            if mode == "buffer" && mark != "none" {
                let length = expected.len().to_string();
                assert_eq!(response.header("content-length"), Some(&*length), "{case}");
            }
        }
    }
}

/// The fields behind a body are dropped, and nothing else is.
#[test]
fn a_request_with_trailers_passes() {
    for mode in MODES {
        let origin = Origin::start();
        let agent = TestAgent::named("waf").start();
        let proxy = watched(&agent, Direction::Request, mode, &origin);
        let mut request = post("/", &body(1000), Framing::Chunks(100), &["trailer: x-sum"]);
        let end = request.split_off(request.len() - 2);
        request.extend_from_slice(b"x-sum: 1\r\n");
        request.extend_from_slice(&end);
        let mut client = proxy.client();
        for _ in 0..2 {
            assert_eq!(client.send(&request).response().status, 200, "{mode}");
            assert!(origin.last().complete, "{mode}");
            assert!(origin.last().body == body(1000), "{mode}");
        }
        let seen = agent.seen("request_body_chunk");
        assert_eq!(sizes(&seen).iter().sum::<u64>(), 2000, "{mode}");
        let ends = seen.iter().filter(|piece| piece["is_last"] == true);
        assert_eq!(ends.count(), 2, "{mode}");
    }
}

#[test]
fn trailers_of_a_response_are_shown_with_its_last_piece() {
    let origin = Http2Origin::answering(|_| {
        Http2Answer::with(200, &[], body(1000)).with_trailers(&[("x-sum", "1")])
    });
    for mode in MODES {
        for dialect in [Dialect::Binary, Dialect::NumberedJson] {
            let agent = TestAgent::named("waf").speaking(dialect).start();
            let proxy = Proxy::builder(
                r#"routes { route "all" { filters { agent "waf" }; upstream "two" } }"#,
            )
            .upstream(
                "two",
                &format!("target \"{}\"; protocol \"h2c\"", origin.address()),
            )
            .agent_with(&agent, &Direction::Response.inspect(mode, ""))
            .start();
            proxy.wait_ready();
            let response = proxy.get("/");
            assert!(response.complete && response.body == body(1000), "{mode}");
            let seen = agent.seen("response_body_chunk");
            let (last, others) = seen.split_last().unwrap();
            assert_eq!(last["trailers"], json!({"x-sum": ["1"]}), "{mode}");
            assert_eq!(last["is_last"], true, "{mode}");
            assert!(others.iter().all(|piece| piece["is_last"] == false));
        }
    }
}

/// What is there already is put together, so that a client cannot make agents work by sending a body byte by byte.
#[test]
fn bytes_that_come_one_by_one_are_not_shown_one_by_one() {
    const CHUNKS: usize = 4000;
    for direction in DIRECTIONS {
        for mode in MODES {
            let case = format!("{direction:?} {mode}");
            let origin = Origin::answering(|_| Answer::chunked(200, &[], &body(CHUNKS), 1));
            let agent = TestAgent::named("waf").start();
            let proxy = watched(&agent, direction, mode, &origin);
            let response = match direction {
                Direction::Request => {
                    let request = post("/", &body(CHUNKS), Framing::Chunks(1), &[]);
                    proxy.client().send(request).response()
                }
                Direction::Response => proxy.get("/"),
            };
            assert_eq!(response.status, 200, "{case}");
            let arrived = match direction {
                Direction::Request => origin.last().body,
                Direction::Response => response.body,
            };
            assert!(arrived == body(CHUNKS), "{case}");
            let calls = agent.seen(direction.event()).len();
            assert!(calls < CHUNKS / 20, "{case}: {calls} calls");
        }
    }
}

/// What has come goes on without waiting for more.
#[test]
fn a_piece_of_a_stream_does_not_wait_for_the_next_one() {
    let origin = Origin::start();
    let agent = TestAgent::named("waf").start();
    let proxy = watched(&agent, Direction::Request, "stream", &origin);
    let request = post("/", &body(300), Framing::Chunks(100), &[]);
    let head = request.len() - 3 * 106 - 5;
    let mut client = proxy.client();
    client.send(&request[..head]);
    for (number, chunk) in request[head..].chunks(106).take(3).enumerate() {
        client.send(chunk);
        agent.wait_seen("request_body_chunk", number + 1);
    }
    let response = client.send(b"0\r\n\r\n").response();
    assert_eq!(response.status, 200);
    assert!(origin.last().body == body(300));
    let seen = agent.seen("request_body_chunk");
    assert_eq!(sizes(&seen), [100, 100, 100, 0]);
}

/// What is read for a body does not reach into the next request.
#[test]
fn requests_that_come_at_once_are_told_apart() {
    for mode in MODES {
        for framing in [Framing::Length, Framing::Chunks(7)] {
            let origin = Origin::start();
            let agent = TestAgent::named("waf").start();
            let proxy = watched(&agent, Direction::Request, mode, &origin);
            let sizes = [1000, 1, 20_000];
            let requests = sizes.map(|size| post("/", &body(size), framing, &[]));
            let mut client = proxy.client();
            client.send(requests.concat());
            for size in sizes {
                let response = client.response();
                assert_eq!(response.status, 200, "{mode} {framing:?} {size}");
            }
            let arrived: Vec<_> = origin.requests().into_iter().map(|it| it.body).collect();
            assert!(arrived == sizes.map(body), "{mode} {framing:?}");
        }
    }
}

#[test]
fn nobody_is_asked_about_a_body_that_is_not_there() {
    let origin = Origin::answering(|request| match request.target().as_str() {
        "/204" => Answer::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/304" => Answer::raw("HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n"),
        _ if request.request_line().starts_with("HEAD ") => {
            Answer::raw("HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: 5\r\n\r\n")
        }
        _ => Answer::with(200, &[("etag", "\"1\"")], b""),
    });
    for mode in MODES {
        let agent = TestAgent::named("waf")
            .then(
                Direction::Request.phase(),
                When::Always,
                Decision::block(403),
            )
            .then(
                Direction::Response.phase(),
                When::Always,
                Decision::block(403),
            )
            .start();
        let inspect = format!("inspect {{ request-body \"{mode}\"; response-body \"{mode}\" }}");
        let proxy = past(r#"agent "waf""#, &origin)
            .agent_with(&agent, &inspect)
            .start();
        proxy.wait_ready();
        let mut client = proxy.client();
        for (path, status) in [("/204", 204), ("/304", 304), ("/empty", 200)] {
            let response = client.get(path, &[]);
            assert_eq!(response.status, status, "{mode}");
            let tag = (status != 204).then_some("\"1\"");
            assert_eq!(response.header("etag"), tag, "{mode} {path}");
        }
        let empty = post("/empty", b"", Framing::Length, &[]);
        assert_eq!(client.send(empty).response().status, 200, "{mode}");
        client.send("HEAD / HTTP/1.1\r\nhost: test\r\n\r\n");
        let response = client.response_to_head();
        assert_eq!(response.status, 200, "{mode}");
        assert_eq!(response.header("content-length"), Some("5"), "{mode}");
        assert_eq!(
            client.get("/empty", &[]).status,
            200,
            "{mode}: still in step"
        );
        assert_eq!(agent.record().len(), 0, "{mode}: {:?}", agent.record());
    }
}

/// What the listener permits holds also for bodies that agents see, whatever they would have permitted.
#[test]
fn a_body_over_the_limit_of_the_listener_is_refused() {
    for mode in MODES {
        let origin = Origin::start();
        let agent = TestAgent::named("waf").start();
        let settings = Direction::Request.inspect(mode, "limit=\"1MiB\"");
        let proxy = past(r#"agent "waf""#, &origin)
            .listener(r#"h2c; limits { body-bytes "1000B" }"#)
            .agent_with(&agent, &settings)
            .start();
        proxy.wait_ready();
        for framing in [Framing::Length, Framing::Chunks(100)] {
            let case = format!("{mode} {framing:?}");
            let fits = post("/", &body(1000), framing, &[]);
            assert_eq!(proxy.client().send(fits).response().status, 200, "{case}");
            origin.take();
            let over = post("/", &body(1001), framing, &[]);
            assert_eq!(proxy.client().send(over).response().status, 413, "{case}");
            let whole = origin.take().into_iter().filter(|one| one.complete);
            assert_eq!(whole.count(), 0, "{case}");
        }
        let seen = agent.seen("request_body_chunk");
        let ends = seen.iter().filter(|piece| piece["is_last"] == true);
        assert_eq!(ends.count(), 2, "{mode}");
        proxy.wait_metric("portcullis_buffer_memory_used_bytes", 0.0);
    }
}
