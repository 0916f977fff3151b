//! Bodies and responses on their way through agents.

mod basics;
mod disconnects;
mod failures;
mod late;
mod streams;
mod upstreams;

use crate::harness::{Answer, Origin, Proxy, RawClient, Response, TestAgent, grpc::CallServer};

/// A proxy with one worker that sends everything to the origin, through this agent, which inspects this.
fn through(agent: &TestAgent, inspect: &str, origin: &Origin) -> Proxy {
    to(&format!("target \"{}\"", origin.address()), agent, inspect)
}

/// The same to an upstream that speaks HTTP/2.
fn before(server: &CallServer, agent: &TestAgent, inspect: &str) -> Proxy {
    let target = format!("target \"{}\"; protocol \"h2c\"", server.address());
    to(&target, agent, inspect)
}

/// The same to this upstream.
fn to(upstream: &str, agent: &TestAgent, inspect: &str) -> Proxy {
    let name = agent.name();
    let proxy = Proxy::builder(format!(
        "system {{ worker-threads 1 }}\nroutes {{ route \"all\" {{ filters {{ agent \"{name}\" }}; upstream \"origin\" }} }}"
    ))
    .upstream("origin", upstream)
    .agent_with(agent, &format!("timeout \"5s\"; inspect {{ {inspect} }}"))
    .start();
    proxy.wait_ready();
    proxy
}

/// How the body of a request is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunks(usize),
}

/// A request with this body, as it is written.
fn post(path: &str, body: &[u8], framing: Framing, lines: &[&str]) -> Vec<u8> {
    let mut bytes = format!("POST {path} HTTP/1.1\r\nhost: test\r\n").into_bytes();
    for line in lines {
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    match framing {
        Framing::Length => {
            bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(body);
        }
        Framing::Chunks(size) => {
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            for chunk in body.chunks(size) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
    }
    bytes
}

/// Sends a request with this body on a connection of its own.
fn send(proxy: &Proxy, body: &[u8], framing: Framing) -> Response {
    let mut client: RawClient = proxy.client();
    client.send(post("/", body, framing, &[])).response()
}

/// An origin that answers with this.
fn saying(body: &'static str) -> Origin {
    Origin::answering(move |_| Answer::with(200, &[("etag", "\"1\"")], body.as_bytes()))
}
