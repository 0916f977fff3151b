//! The client goes away, at every stage of a request: the origin is left alone, the agent is told, nothing is kept, and the log
//! has it.

use super::through;
use crate::harness::{
    Answer, Origin, Proxy, RawClient, TestAgent,
    agent::{Phase, Reaction, When},
    eventually,
    grpc::{Call, CallServer},
    http2,
};
use bytes::Bytes;
use rustix::process::Signal;
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

/// A stage of a request at which its client goes away.
struct Stage {
    name: &'static str,
    inspect: &'static str,
    /// Where the agent does not answer.
    hangs: Option<Phase>,
    origin: Does,
    /// The client has sent all of its request.
    whole: bool,
    /// How the test knows that the stage is reached.
    reached: Reached,
    /// The origin has the request, or a part of it.
    upstream: bool,
    /// The client has got a part of the response.
    late: bool,
}

/// What the origin does with a whole request.
#[derive(Debug, Clone, Copy)]
enum Does {
    Answer,
    Hang,
    /// Says one piece of a body and no more.
    Begin,
    /// Sends a body for as long as somebody takes it.
    Flood,
}

enum Reached {
    /// The agent has this event.
    Asked(&'static str),
    /// The proxy has a request, and the agent has nothing yet.
    Begun,
    /// The origin has a whole request.
    Sent,
    /// The client has a piece of the response.
    Received,
}

const STAGES: [Stage; 11] = [
    Stage {
        name: "the body is read for a buffer",
        inspect: "request-headers; request-body \"buffer\"",
        hangs: None,
        origin: Does::Answer,
        whole: false,
        reached: Reached::Begun,
        upstream: false,
        late: false,
    },
    Stage {
        name: "the body is read for a stream",
        inspect: "request-body \"stream\"",
        hangs: None,
        origin: Does::Answer,
        whole: false,
        reached: Reached::Asked("request_body_chunk"),
        upstream: true,
        late: false,
    },
    Stage {
        name: "an agent is asked about a buffered body",
        inspect: "request-body \"buffer\"",
        hangs: Some(Phase::RequestBody),
        origin: Does::Answer,
        whole: true,
        reached: Reached::Asked("request_body_chunk"),
        upstream: false,
        late: false,
    },
    Stage {
        name: "an agent is asked about a piece",
        inspect: "request-body \"stream\"",
        hangs: Some(Phase::RequestBody),
        origin: Does::Answer,
        whole: false,
        reached: Reached::Asked("request_body_chunk"),
        upstream: true,
        late: false,
    },
    Stage {
        name: "an agent is asked about the last piece",
        inspect: "request-body \"stream\"",
        hangs: Some(Phase::RequestBody),
        origin: Does::Answer,
        whole: true,
        reached: Reached::Asked("request_body_chunk"),
        upstream: true,
        late: false,
    },
    Stage {
        name: "the upstream has a buffered request",
        inspect: "request-body \"buffer\"",
        hangs: None,
        origin: Does::Hang,
        whole: true,
        reached: Reached::Sent,
        upstream: true,
        late: false,
    },
    Stage {
        name: "the upstream has a streamed request",
        inspect: "request-body \"stream\"",
        hangs: None,
        origin: Does::Hang,
        whole: true,
        reached: Reached::Sent,
        upstream: true,
        late: false,
    },
    Stage {
        name: "an agent is asked about the head of the response",
        inspect: "response-headers",
        hangs: Some(Phase::ResponseHeaders),
        origin: Does::Begin,
        whole: true,
        reached: Reached::Asked("response_headers"),
        upstream: true,
        late: false,
    },
    Stage {
        name: "an agent is asked about a buffered response",
        inspect: "response-body \"buffer\" limit=\"64KiB\" on-oversize=\"truncate\"",
        hangs: Some(Phase::ResponseBody),
        origin: Does::Flood,
        whole: true,
        reached: Reached::Asked("response_body_chunk"),
        upstream: true,
        late: false,
    },
    Stage {
        name: "the response is awaited for a stream",
        inspect: "response-body \"stream\"",
        hangs: None,
        origin: Does::Begin,
        whole: true,
        reached: Reached::Received,
        upstream: true,
        late: true,
    },
    Stage {
        name: "the response is written",
        inspect: "response-body \"stream\"",
        hangs: None,
        origin: Does::Flood,
        whole: true,
        reached: Reached::Received,
        upstream: true,
        late: true,
    },
];

/// An origin, and how many of its connections have come to their end after a whole request.
struct Upstream {
    origin: Origin,
    ended: Arc<AtomicUsize>,
}

fn upstream(does: Does) -> Upstream {
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = ended.clone();
    let origin = Origin::answering(move |_| {
        let counted = counted.clone();
        let wait = move |stream: &mut TcpStream| {
            // Nothing comes but the end.
            let _ = stream.read(&mut [0]);
            counted.fetch_add(1, SeqCst);
        };
        match does {
            Does::Answer => Answer::ok("ok"),
            Does::Hang => Answer::raw("").then(wait),
            Does::Begin => {
                Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun").then(wait)
            }
            Does::Flood => Answer::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .then(move |stream| {
                    let chunk = [&b"4000\r\n"[..], &[b'x'; 0x4000], b"\r\n"].concat();
                    while stream.write_all(&chunk).is_ok() {}
                    wait(stream);
                }),
        }
    });
    Upstream { origin, ended }
}

enum Client {
    Http1(RawClient),
    Http2(Call),
}

impl Client {
    /// Sends a request with a body of ten bytes, or with half of it.
    fn begin(proxy: &Proxy, http2: bool, whole: bool) -> Self {
        let body = "0123456789";
        let sent = if whole { body } else { "01234" };
        if http2 {
            let mut request = http2::request("POST", "/", Bytes::new());
            let length = http::HeaderValue::from(body.len());
            request.headers_mut().insert("content-length", length);
            let mut call = Call::begin(proxy.address_of("http"), request);
            assert!(call.send(sent));
            if whole {
                call.finish();
            }
            return Self::Http2(call);
        }
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n{sent}"
        ));
        Self::Http1(client)
    }

    fn receives(&mut self) {
        match self {
            Self::Http1(client) => {
                client.read_head().unwrap();
                client.read_exact(5);
            }
            Self::Http2(call) => {
                call.head().unwrap();
                call.data().unwrap().unwrap();
            }
        }
    }

    /// Over HTTP/2 the connection stays.
    fn leaves(self) -> Option<Call> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(mut call) => {
                call.reset();
                Some(call)
            }
        }
    }
}

fn agent_of(stage: &Stage) -> TestAgent {
    let agent = TestAgent::named("waf");
    match stage.hangs {
        Some(phase) => agent.then(phase, When::Always, Reaction::Hang),
        None => agent,
    }
    .start()
}

fn event_of(phase: Phase) -> &'static str {
    match phase {
        Phase::RequestBody => "request_body_chunk",
        Phase::ResponseHeaders => "response_headers",
        Phase::ResponseBody => "response_body_chunk",
        Phase::Frames => "websocket_frame",
        Phase::Texts => "guardrail_inspect",
        Phase::Complete => "request_complete",
    }
}

fn nothing_is_left(proxy: &Proxy) {
    for gauge in [
        "portcullis_http_requests_in_flight",
        "portcullis_agent_in_flight",
        "portcullis_agent_waiting",
        "portcullis_buffer_memory_used_bytes",
    ] {
        proxy.wait_metric(gauge, 0.0);
    }
}

fn run(stage: &Stage, http2: bool) {
    let case = format!("{}, http2: {http2}", stage.name);
    let upstream = upstream(stage.origin);
    let agent = agent_of(stage);
    let inspect = format!("{}; request-complete", stage.inspect);
    let proxy = through(&agent, &inspect, &upstream.origin);
    let mut client = Client::begin(&proxy, http2, stage.whole);
    match stage.reached {
        Reached::Asked(event) => drop(agent.wait_seen(event, 1)),
        Reached::Begun => drop(agent.wait_seen("request_headers", 1)),
        Reached::Sent => drop(upstream.origin.saw(|request| request.complete)),
        Reached::Received => client.receives(),
    }
    let _connection = client.leaves();
    let line = proxy.access_line_of("/");
    if stage.late {
        assert_eq!(line["status"], 200, "{case}: {line}");
        assert_eq!(line["aborted"], true, "{case}: {line}");
    } else {
        assert_eq!(line["status"], 499, "{case}: {line}");
    }
    assert_eq!(line["reason"], "client_gone", "{case}: {line}");
    assert_eq!(line["blocked_by"], Value::Null, "{case}: {line}");
    assert_at_origin(stage, &upstream, &case);
    if let Some(phase) = stage.hangs {
        let dropped = agent.saw(|event| event["event"] == "dropped");
        assert_eq!(dropped["phase"], event_of(phase), "{case}");
        let record = &line["agents"][0];
        assert_eq!(record["verdict"], "client_gone", "{case}: {line}");
    }
    nothing_is_left(&proxy);
    let told = agent.wait_seen("request_complete", 1);
    assert_eq!(told.len(), 1, "{case}");
    assert_eq!(told[0]["status"], line["status"], "{case}");
    assert_eq!(told[0]["error"], "client_gone", "{case}");
    assert_eq!(proxy.access_lines().len(), 1, "{case}");
}

fn assert_at_origin(stage: &Stage, upstream: &Upstream, case: &str) {
    let Upstream { origin, ended } = upstream;
    if !stage.upstream {
        assert_eq!(origin.connections(), 0, "{case}");
    } else if matches!(stage.origin, Does::Answer) {
        eventually(&format!("{case}: half a request"), || {
            let seen = origin.requests();
            assert!(seen.iter().all(|request| !request.complete), "{case}");
            (!seen.is_empty()).then_some(())
        });
    } else {
        eventually(&format!("{case}: the end of the connection"), || {
            (ended.load(SeqCst) == 1).then_some(())
        });
    }
}

#[test]
fn d13_a_client_of_http1_goes_away() {
    for stage in &STAGES {
        run(stage, false);
    }
}

#[test]
fn d13_a_client_of_http2_goes_away() {
    for stage in &STAGES {
        run(stage, true);
    }
}

/// An upstream of HTTP/2 keeps its connection and loses the stream.
#[test]
fn a_stream_of_the_upstream_is_given_up() {
    for http2 in [false, true] {
        let given_up = Arc::new(AtomicUsize::new(0));
        let counted = given_up.clone();
        let server = CallServer::serving(move |mut served| {
            let counted = counted.clone();
            Box::pin(async move {
                served.given_up().await;
                counted.fetch_add(1, SeqCst);
            })
        });
        let agent = TestAgent::named("waf").start();
        let proxy = super::before(&server, &agent, "request-body \"stream\"");
        let client = Client::begin(&proxy, http2, true);
        eventually("a call", || (server.calls() == 1).then_some(()));
        let _connection = client.leaves();
        eventually("the end of the stream", || {
            (given_up.load(SeqCst) == 1).then_some(())
        });
        assert_eq!(proxy.access_line_of("/")["status"], 499);
        nothing_is_left(&proxy);
    }
}

/// An agent that hears nothing holds nothing up: neither a client that goes nor one that comes.
#[test]
fn a_stopped_agent_keeps_nothing() {
    for (inspect, answers) in [
        ("request-body \"buffer\"", false),
        ("request-body \"stream\"", false),
        ("response-headers", true),
        ("response-body \"buffer\"", true),
    ] {
        let origin = Origin::start();
        let agent = TestAgent::named("waf").start();
        let proxy = through(&agent, inspect, &origin);
        agent.signal(Signal::STOP);
        let client = Client::begin(&proxy, false, true);
        proxy.wait_metric("portcullis_agent_in_flight", 1.0);
        drop(client);
        assert_eq!(proxy.access_line_of("/")["status"], 499, "{inspect}");
        nothing_is_left(&proxy);
        agent.signal(Signal::CONT);
        assert_eq!(
            super::send(&proxy, b"x", super::Framing::Length).status,
            200
        );
        if !answers {
            assert_eq!(
                origin
                    .requests()
                    .iter()
                    .filter(|seen| seen.complete)
                    .count(),
                1
            );
        }
    }
}
