//! What ends after its head has gone out never looks as if it had come to its end, however it is framed.

use super::{Framing, post, through};
use crate::harness::{
    Answer, Origin, Proxy, TestAgent,
    agent::{Phase, Reaction, When},
    grpc::Call,
    http2,
};
use portcullis_agent_protocol::Decision;
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

/// What an agent does to the second piece, and the reason in the log.
fn refusals() -> [(Reaction, &'static str); 4] {
    [
        (Reaction::Fail, "protocol_error"),
        (Reaction::Exit, "unreachable"),
        (Reaction::Overloaded(Some(60_000)), "overloaded"),
        (Decision::block(403).reason("no").into(), "no"),
    ]
}

/// An agent that lets the first piece pass and does this to one that says `stop`.
fn stopping(phase: Phase, reaction: Reaction) -> TestAgent {
    TestAgent::named("dlp")
        .then(phase, When::Holds("stop".into()), reaction)
        .start()
}

/// An origin whose response begins with `go` and says `stop` when it is told to; then it stays.
fn in_two_pieces() -> (Origin, Sender<()>) {
    let (go_on, told) = channel();
    let told: Mutex<Receiver<()>> = Mutex::new(told);
    let told = Arc::new(told);
    let origin = Origin::answering(move |_| {
        let told = told.clone();
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\ngo\r\n";
        Answer::raw(head).then(move |stream| {
            if told.lock().unwrap().recv().is_ok() {
                let _ = stream.write_all(b"4\r\nstop\r\n0\r\n\r\n");
                let _ = stream.read(&mut [0]);
            }
        })
    });
    (origin, go_on)
}

/// The response is broken off, and the agent has done it.
fn assert_line(proxy: &Proxy, reason: &str) {
    let line = proxy.access_line(|line| line["aborted"] == true);
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(line["blocked_by"], "dlp", "{line}");
    assert_eq!(line["reason"], reason, "{line}");
    proxy.wait_metric("portcullis_http_requests_in_flight", 0.0);
}

/// Reads until this has come.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk).unwrap();
        assert_ne!(count, 0, "{text}");
        text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
    }
    text
}

#[test]
fn a_chunked_response_has_no_last_chunk() {
    for (reaction, reason) in refusals() {
        let (origin, go_on) = in_two_pieces();
        let agent = stopping(Phase::ResponseBody, reaction);
        let proxy = through(&agent, "response-body \"stream\"", &origin);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        let head = client.read_head().unwrap().to_ascii_lowercase();
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        assert_eq!(client.read_exact(7), b"2\r\ngo\r\n");
        go_on.send(()).unwrap();
        client.expect_closed();
        assert_line(&proxy, reason);
    }
}

#[test]
fn a_response_that_ends_with_its_connection_is_reset() {
    for (reaction, reason) in refusals() {
        let (origin, go_on) = in_two_pieces();
        let agent = stopping(Phase::ResponseBody, reaction);
        let proxy = through(&agent, "response-body \"stream\"", &origin);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.0\r\nhost: test\r\n\r\n");
        let mut stream = client.sender();
        let text = read_until(&mut stream, "go").to_ascii_lowercase();
        assert!(!text.contains("transfer-encoding"), "{text}");
        assert!(!text.contains("content-length"), "{text}");
        go_on.send(()).unwrap();
        let end = stream.read(&mut [0; 16]);
        let kind = end.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::ConnectionReset), "{reason}");
        assert_line(&proxy, reason);
    }
}

/// One that comes to its end is not.
#[test]
fn a_whole_response_that_ends_with_its_connection_ends_in_order() {
    let (origin, go_on) = in_two_pieces();
    let agent = TestAgent::named("dlp").start();
    let proxy = through(&agent, "response-body \"stream\"", &origin);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nhost: test\r\n\r\n");
    let mut stream = client.sender();
    read_until(&mut stream, "go");
    go_on.send(()).unwrap();
    assert_eq!(read_until(&mut stream, "stop"), "stop");
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
    let line = proxy.access_line_of("/");
    assert_eq!(line["aborted"], serde_json::Value::Null, "{line}");
}

#[test]
fn a_stream_of_http2_is_reset() {
    for (reaction, reason) in refusals() {
        let (origin, go_on) = in_two_pieces();
        let agent = stopping(Phase::ResponseBody, reaction);
        let proxy = through(&agent, "response-body \"stream\"", &origin);
        let request = http2::request("POST", "/", bytes::Bytes::new());
        let mut call = Call::begin(proxy.address_of("http"), request);
        call.finish();
        assert_eq!(call.head().unwrap().status(), 200);
        assert_eq!(call.data().unwrap().unwrap(), "go");
        go_on.send(()).unwrap();
        let error = call.rest().unwrap_err();
        assert!(error.is_reset(), "{reason}: {error}");
        assert_line(&proxy, reason);
    }
}

/// So much that it is not held back for company on its way to the client.
const HALF: usize = 32 << 10;

/// An origin that answers as soon as it has a piece of the request: with half of a body.
fn early() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                // The piece of two bytes, in a chunk.
                read_until(&mut stream, "go\r\n");
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * HALF);
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&[b'x'; HALF]).unwrap();
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    address
}

/// The answer runs already when the agent refuses the rest of the request.
#[test]
fn a_response_with_a_length_is_short() {
    for (reaction, reason) in refusals() {
        let agent = stopping(Phase::RequestBody, reaction);
        let proxy = Proxy::builder(
            "system { worker-threads 1 }\nroutes { route \"all\" { filters { agent \"dlp\" }; upstream \"early\" } }",
        )
        .upstream("early", &format!("target \"{}\"", early()))
        .agent_with(&agent, "timeout \"10s\"; inspect { request-body \"stream\" }")
        .start();
        proxy.wait_ready();
        let request = post("/", b"gostop", Framing::Length, &[]);
        let (first, rest) = request.split_at(request.len() - 4);
        let mut client = proxy.client();
        client.send(first);
        let head = client.read_head().unwrap().to_ascii_lowercase();
        let length = format!("content-length: {}", 2 * HALF);
        assert!(head.contains(&length), "{head}");
        client.send(rest);
        assert!(client.read_to_end().len() <= HALF, "{reason}");
        assert_line(&proxy, reason);
    }
}
