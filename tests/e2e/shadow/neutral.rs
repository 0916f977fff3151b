//! Whatever a shadow agent does, its route stays the same: every status, every header, every byte.

use super::{everything, past, wait_up};
use crate::harness::{
    Answer, DEADLINE, Origin, Proxy, RawClient, Recorded, Response, TestAgent,
    agent::{Dialect, Handshake, Phase, Reaction, When},
    eventually,
    origin::in_chunks,
};
use portcullis_agent_protocol::Decision;
use std::io::Write;

fn named() -> TestAgent {
    TestAgent::named("next")
}

/// The agent that does this with every event.
fn always(agent: TestAgent, reaction: fn() -> Reaction) -> TestAgent {
    [
        Phase::RequestBody,
        Phase::ResponseHeaders,
        Phase::ResponseBody,
        Phase::Complete,
    ]
    .into_iter()
    .fold(agent.otherwise(reaction()), |agent, phase| {
        agent.then(phase, When::Always, reaction())
    })
}

/// An agent that does this with bodies.
fn in_bodies(reaction: fn() -> Reaction) -> TestAgent {
    [Phase::RequestBody, Phase::ResponseBody]
        .into_iter()
        .fold(named(), |agent, phase| {
            agent.then(phase, When::Always, reaction())
        })
}

/// What may be wrong with a shadow agent; and one that would change and refuse everything.
fn troubles() -> Vec<(&'static str, TestAgent)> {
    let block = || -> Reaction { Decision::block(403).with_body("refused").into() };
    let changes = || -> Reaction {
        Decision::allow()
            .set_request_header("x-changed", "yes")
            .remove_request_header("x-kept")
            .set_response_header("x-changed", "yes")
            .remove_response_header("etag")
            .into()
    };
    vec![
        ("hangs", always(named(), || Reaction::Hang).start()),
        ("hangs with bodies", in_bodies(|| Reaction::Hang).start()),
        ("crashes", always(named(), || Reaction::Exit).start()),
        ("crashes with bodies", in_bodies(|| Reaction::Exit).start()),
        ("fails", always(named(), || Reaction::Fail).start()),
        ("panics", in_bodies(|| Reaction::Panic).start()),
        (
            "is overloaded",
            always(named(), || Reaction::Overloaded(Some(5))).start(),
        ),
        ("is never there", named()),
        (
            "answers garbage",
            always(named().speaking(Dialect::Legacy), || {
                Reaction::Bytes(b"\0\0\0\x05\xffjunk".to_vec())
            })
            .start(),
        ),
        (
            "closes the connection",
            always(named().speaking(Dialect::Legacy), || Reaction::Close).start(),
        ),
        (
            "says nonsense at the handshake",
            named().at_handshake(Handshake::Garbage).start(),
        ),
        (
            "hangs at the handshake",
            named().at_handshake(Handshake::Hang).start(),
        ),
        (
            "refuses its configuration",
            named().refusing_config("no").start(),
        ),
        ("blocks", always(named(), block).start()),
        ("blocks bodies", in_bodies(block).start()),
        ("changes heads", named().otherwise(changes()).start()),
        (
            "replaces bodies",
            in_bodies(|| Reaction::Replace("[$DATA]".into())).start(),
        ),
    ]
}

/// An origin that answers in every form, and with what it got.
fn origin() -> Origin {
    Origin::answering(|request| {
        let headers = [("etag", "\"1\""), ("accept-ranges", "bytes")];
        match request.target().as_str() {
            "/chunked" => Answer::chunked(200, &headers, &[b'c'; 5000], 700),
            "/large" => Answer::with(200, &headers, &[b'l'; 300_000]),
            "/missing" => Answer::with(404, &headers, b"not here"),
            "/empty" => Answer::raw("HTTP/1.1 204 No Content\r\nx-empty: 1\r\n\r\n"),
            _ => Answer::with(200, &headers, &request.body),
        }
    })
}

/// Requests of every form, each on a connection of its own.
fn requests() -> Vec<Vec<u8>> {
    let head = |line: &str| format!("{line} HTTP/1.1\r\nhost: test\r\nx-kept: 1\r\n").into_bytes();
    let body: Vec<u8> = (0..150_000u32).flat_map(u32::to_be_bytes).collect();
    let mut requests = Vec::new();
    for path in ["/", "/chunked", "/large", "/missing", "/empty"] {
        requests.push([head(&format!("GET {path}")), b"\r\n".to_vec()].concat());
    }
    requests.push([head("HEAD /large"), b"\r\n".to_vec()].concat());
    let length = format!("content-length: {}\r\n\r\n", body.len());
    requests.push([head("POST /"), length.into_bytes(), body.clone()].concat());
    let chunked = b"transfer-encoding: chunked\r\n\r\n".to_vec();
    requests.push([head("PUT /"), chunked, in_chunks(&body, 10_000)].concat());
    let short = b"content-length: 5\r\nrange: bytes=0-1\r\n\r\nhello".to_vec();
    requests.push([head("POST /"), short].concat());
    requests
}

/// An answer without what differs from request to request.
fn answer_to(proxy: &Proxy, request: &[u8]) -> Response {
    let mut client: RawClient = proxy.client();
    client.send(request);
    let mut response = match request.starts_with(b"HEAD") {
        true => client.response_to_head(),
        false => client.response(),
    };
    let differs = ["x-request-id", "date"];
    response
        .headers
        .retain(|(name, _)| !differs.contains(&name.as_str()));
    response
}

/// What the origin was sent, without what differs from request to request, and with the body as a whole however it was cut.
fn sent(requests: Vec<Recorded>) -> Vec<(Vec<String>, Vec<u8>)> {
    let of = |request: Recorded| {
        let head = String::from_utf8(request.head).unwrap();
        let lines = head.split("\r\n").map(str::to_owned);
        let differs = ["x-request-id:", "x-forwarded-port:", "x-forwarded-host:"];
        let kept = lines.filter(|line| {
            let line = line.to_ascii_lowercase();
            !differs.iter().any(|name| line.starts_with(name))
        });
        let mut kept: Vec<String> = kept.collect();
        // Their order is that of a hash table.
        kept[1..].sort();
        (kept, request.body)
    };
    requests.into_iter().map(of).collect()
}

#[test]
fn whatever_a_shadow_agent_does_its_route_stays_the_same() {
    let origin = origin();
    let plain = past("", &origin).start();
    plain.wait_ready();
    let requests = requests();
    let expected: Vec<Response> = requests
        .iter()
        .map(|request| answer_to(&plain, request))
        .collect();
    let expected_sent = sent(origin.take());
    for (trouble, agent) in troubles() {
        for mode in ["buffer", "stream"] {
            let settings = format!("timeout \"300ms\"; config {{ a 1 }}; {}", everything(mode));
            let proxy = past(r#"agent "next" mode="shadow""#, &origin)
                .agent_with(&agent, &settings)
                .start();
            // Nobody waits for it, so it may be there or not.
            proxy.wait_ready();
            for (request, expected) in requests.iter().zip(&expected) {
                let line = String::from_utf8_lossy(&request[..request.len().min(20)]);
                let answer = answer_to(&proxy, request);
                assert_eq!(answer.status, expected.status, "{trouble} {mode} {line}");
                assert_eq!(answer.headers, expected.headers, "{trouble} {mode} {line}");
                assert!(
                    answer.body == expected.body,
                    "{trouble} {mode} {line}: other bytes"
                );
                assert_eq!(
                    answer.complete, expected.complete,
                    "{trouble} {mode} {line}"
                );
            }
            let sent = sent(origin.take());
            assert_eq!(sent.len(), expected_sent.len(), "{trouble} {mode}");
            for ((head, body), (expected_head, expected_body)) in sent.iter().zip(&expected_sent) {
                assert_eq!(head, expected_head, "{trouble} {mode}");
                assert!(
                    body == expected_body,
                    "{trouble} {mode}: other bytes went on"
                );
            }
        }
    }
}

#[test]
fn a_request_does_not_wait_for_its_shadow() {
    let origin = Origin::start();
    let agent = TestAgent::named("next")
        .otherwise(Reaction::late(&Decision::block(403)))
        .start();
    let proxy = past(r#"agent "next" mode="shadow""#, &origin)
        .agent(&agent)
        .start();
    wait_up(&proxy, &agent);
    // The answer is here before the agent may say a word.
    assert_eq!(proxy.get("/").status, 200);
    let line = proxy.access_line_of("/");
    assert!(line.get("shadow").is_none(), "{line}");
    assert!(line.get("agents").is_none(), "{line}");
    assert!(line.get("blocked_by").is_none(), "{line}");
    agent.release();
    // A late answer counts all the same.
    proxy.wait_metric(&super::series("block", "allow"), 1.0);
}

#[test]
fn readiness_and_reloads_do_not_wait_for_a_shadow_agent() {
    let origin = Origin::start();
    let absent = TestAgent::named("absent");
    let refusing = TestAgent::named("refusing")
        .refusing_config("never")
        .start();
    let hanging = TestAgent::named("hanging")
        .at_handshake(Handshake::Hang)
        .start();
    let proxy = past("", &origin).start();
    proxy.wait_ready();
    for (filters, agent) in [
        (r#"agent "absent" mode="shadow""#, &absent),
        (r#"agent "refusing" mode="shadow" enforce="0%""#, &refusing),
        (r#"agent "hanging" mode="shadow""#, &hanging),
    ] {
        let builder = past(filters, &origin).agent_with(agent, "config { a 1 }");
        let began = std::time::Instant::now();
        proxy.reload(&builder);
        // Agents that are needed are waited for up to five seconds.
        assert!(
            began.elapsed().as_secs() < 4,
            "{filters}: {:?}",
            began.elapsed()
        );
        assert_eq!(proxy.get("/").status, 200, "{filters}");
        let new = builder.start();
        eventually("ready", || {
            (new.probe("/readyz").status == 200).then_some(())
        });
        assert_eq!(new.get("/").status, 200, "{filters}");
    }
}

#[test]
fn pieces_pass_as_they_come() {
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let may_go_on = std::sync::Mutex::new(may_go_on);
    let may_go_on = std::sync::Arc::new(may_go_on);
    let origin = Origin::answering(move |_| {
        let may_go_on = may_go_on.clone();
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        Answer::raw(head).then(move |stream| {
            // Only when the client has the first one.
            may_go_on.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").unwrap();
        })
    });
    for mode in ["buffer", "stream"] {
        let agent = TestAgent::named("next")
            .then(Phase::ResponseBody, When::Always, Reaction::Hang)
            .start();
        let inspect = format!("timeout \"10s\"; inspect {{ response-body \"{mode}\" }}");
        let proxy = past(r#"agent "next" mode="shadow""#, &origin)
            .agent_with(&agent, &inspect)
            .start();
        wait_up(&proxy, &agent);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        client.read_head().unwrap();
        assert_eq!(client.read_exact(10), b"5\r\nfirst\r\n", "{mode}");
        go_on.send(()).unwrap();
        assert_eq!(client.read_exact(16), b"6\r\nsecond\r\n0\r\n\r\n", "{mode}");
    }
}

#[test]
fn upgrades_pass() {
    let origin = Origin::answering(crate::websocket::shouting);
    let agent = TestAgent::named("next")
        .then(Phase::ResponseHeaders, When::Always, Decision::block(403))
        .start();
    let proxy = Proxy::builder(
        r#"routes { route "live" { filters { agent "next" mode="shadow" }; upstream "origin"; websocket } }"#,
    )
    .origin(&origin)
    .agent_with(&agent, &everything("stream"))
    .start();
    wait_up(&proxy, &agent);
    let mut client = proxy.client();
    client.send(format!(
        "GET /ws HTTP/1.1\r\n{}\r\n",
        crate::websocket::UPGRADE
    ));
    let head = client.read_head().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    for text in ["hello", "world"] {
        client.send(text);
        assert_eq!(client.read_exact(5), text.to_uppercase().as_bytes());
    }
    client.finish_sending();
    client.expect_closed();
    proxy.wait_metric(&super::series("block", "allow"), 1.0);
}
