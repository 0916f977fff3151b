//! Bodies and responses on their way through agents.

mod basics;
mod broken;
mod chains;
mod codings;
mod disconnects;
mod failures;
mod grpc;
mod late;
mod limits;
mod matrix;
mod memory;
mod streams;
mod upstreams;
mod wire;

use crate::harness::{
    Answer, Origin, Proxy, RawClient, Response, TestAgent, agent::Phase, grpc::CallServer,
    origin::in_chunks, proxy::Builder,
};
use serde_json::Value;
use std::sync::LazyLock;

const MODES: [&str; 2] = ["buffer", "stream"];

/// Whose body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

const DIRECTIONS: [Direction; 2] = [Direction::Request, Direction::Response];

impl Direction {
    const fn phase(self) -> Phase {
        match self {
            Self::Request => Phase::RequestBody,
            Self::Response => Phase::ResponseBody,
        }
    }

    /// The name of the event in the record of an agent.
    const fn event(self) -> &'static str {
        match self {
            Self::Request => "request_body_chunk",
            Self::Response => "response_body_chunk",
        }
    }

    /// The name of the phase in logs, metrics and, with `-` for `_`, the configuration.
    const fn name(self) -> &'static str {
        match self {
            Self::Request => "request_body",
            Self::Response => "response_body",
        }
    }

    /// The line that makes an agent inspect it.
    fn inspect(self, mode: &str, properties: &str) -> String {
        let name = self.name().replace('_', "-");
        format!("timeout \"5s\"; inspect {{ {name} \"{mode}\" {properties} }}")
    }
}

/// A proxy with one worker that sends everything past these filters to the origin. Agents are to be added.
fn past(filters: &str, origin: &Origin) -> Builder {
    past_with(filters, "", origin)
}

/// The same with this in its block `system`.
fn past_with(filters: &str, system: &str, origin: &Origin) -> Builder {
    Proxy::builder(format!(
        "system {{ worker-threads 1; {system} }}\nroutes {{ route \"all\" {{ filters {{ {filters} }}; upstream \"origin\" }} }}"
    ))
    .origin(origin)
}

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

/// A proxy with two routes past the same agent, `/closed` and `/open`, which differ in what happens when the agent fails.
fn in_both_failure_modes(agent: &TestAgent, settings: &str, origin: &Origin) -> Proxy {
    let name = agent.name();
    let routes = ["closed", "open"].map(|mode| {
        format!(
            r#"route "{mode}" {{ match {{ path-prefix "/{mode}" }}; filters {{ agent "{name}" failure-mode="{mode}" }}; upstream "origin" }}"#
        )
    });
    let proxy = Proxy::builder(format!(
        "system {{ worker-threads 1 }}\nroutes {{\n{}\n}}",
        routes.join("\n")
    ))
    .origin(origin)
    .agent_with(agent, settings)
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
            bytes.extend_from_slice(&in_chunks(body, size));
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

/// A body of this size, 5 MiB at most, in which no part looks like another. It holds digits, small letters and ends of lines.
fn body(size: usize) -> Vec<u8> {
    /// Making it takes a while.
    static LARGEST: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut body = Vec::with_capacity(5 << 20);
        for line in 0..(5 << 20) / 8 {
            body.extend_from_slice(format!("{line:07x}\n").as_bytes());
        }
        body
    });
    LARGEST[..size].to_vec()
}

/// Waits for the line of the access log about a path, whatever its query is.
fn line_of(proxy: &Proxy, path: &str) -> Value {
    proxy.access_line(|line| {
        let target = line["path"].as_str().unwrap_or_default();
        target.split('?').next() == Some(path)
    })
}

/// The names of agents with what the access log says of what became of asking them, about this phase.
fn outcomes(line: &Value, phase: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let records = line["agents"].as_array().unwrap().iter();
    records
        .filter(|record| record["phase"] == phase)
        .map(|record| {
            let outcome = record.get("failure").unwrap_or(&record["verdict"]);
            (text(&record["name"]), text(outcome))
        })
        .collect()
}

/// The sizes of the pieces that an agent was shown.
fn sizes(seen: &[Value]) -> Vec<u64> {
    let sizes = seen.iter().map(|piece| piece["size"].as_u64().unwrap());
    sizes.collect()
}

/// Of the pieces that an agent was shown, the beginnings.
fn text(seen: &[Value]) -> String {
    let pieces = seen.iter().map(|piece| piece["data"].as_str().unwrap());
    pieces.collect()
}
