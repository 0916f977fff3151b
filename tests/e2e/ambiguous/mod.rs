//! Requests that two readers could take for two different ones. Each is refused, or it is one message and the same one for the
//! router, the agent, the log and the origin; what was sent behind it is a message of its own, or is not read.

mod chunks;
mod framing;
mod hop;
mod hosts;
mod lines;
mod origins;
mod targets;

use crate::harness::{Origin, Proxy, RawClient, Recorded, Response, TestAgent, eventually, find};
use serde_json::{Value, json};
use std::{cell::RefCell, collections::HashSet};

/// What is sent, and what has to come of it.
type Case = (&'static str, Vec<u8>, Expected);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Nobody sees it. The connection ends with this status.
    Refused(u16),
    /// A whole head, and a body that breaks its framing: nobody sees all of it. The connection ends with this status.
    Broken(u16),
    /// Everybody sees this request line and this body.
    Message(&'static str, &'static str),
    /// The same, and the connection ends with its answer.
    Last(&'static str, &'static str),
    /// Everybody sees this request line without a body, and what follows is refused.
    Then400(&'static str),
    /// We answer with this status ourselves, and nobody behind us sees it. What follows is served.
    Answered(u16),
}

/// What follows on the same connection.
const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nhost: canary\r\n\r\n";
const CANARY_LINE: &str = "GET /canary HTTP/1.1";

/// A request for a target.
fn get(target: &str) -> Vec<u8> {
    line(format!("GET {target} HTTP/1.1"))
}

/// A request with this first line.
fn line(line: impl AsRef<[u8]>) -> Vec<u8> {
    [line.as_ref(), b"\r\nhost: a\r\n\r\n"].concat()
}

/// A request with this line, or these, behind its host.
fn with(lines: impl AsRef<[u8]>) -> Vec<u8> {
    [
        b"GET /x HTTP/1.1\r\nhost: a\r\n",
        lines.as_ref(),
        b"\r\n\r\n",
    ]
    .concat()
}

/// A request with a body.
fn post(lines: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = [
        b"POST /x HTTP/1.1\r\nhost: a\r\n",
        lines.as_ref(),
        b"\r\n\r\n",
    ]
    .concat();
    [&head, body.as_ref()].concat()
}

/// Nobody waits for what does not come.
const LISTENER: &str = r#"timeouts { request-body-idle "1s" }"#;

/// A proxy, and who stands behind it.
struct Scene {
    origin: Origin,
    agent: Option<TestAgent>,
    proxy: Proxy,
    /// Requests that broke off earlier: when the origin notices is up to it.
    broken: RefCell<HashSet<String>>,
}

impl Scene {
    /// Nobody between the proxy and its origin.
    fn plain() -> Self {
        let origin = Origin::start();
        let proxy = Proxy::in_front_of(&origin).listener(LISTENER).start();
        Self {
            origin,
            agent: None,
            proxy,
            broken: RefCell::default(),
        }
    }

    /// An agent that sees requests whole before they go on.
    fn inspected() -> Self {
        let origin = Origin::start();
        let agent = TestAgent::named("waf").start();
        let proxy = Proxy::builder(
            r#"routes { route "all" { filters { agent "waf" }; upstream "origin" } }"#,
        )
        .listener(LISTENER)
        .origin(&origin)
        .agent_with(
            &agent,
            r#"timeout "10s"; inspect { request-headers; request-body "buffer" limit="1MiB" }"#,
        )
        .start();
        proxy.wait_ready();
        Self {
            origin,
            agent: Some(agent),
            proxy,
            broken: RefCell::default(),
        }
    }

    /// What is wrong with what became of a case.
    fn failure(&self, (name, bytes, expected): &Case) -> Option<String> {
        self.origin.take();
        let mut client = self.proxy.client();
        client.send([bytes, CANARY].concat());
        let answer = final_answer(&mut client);
        let wrong = match *expected {
            Expected::Refused(status) => self.refused(&mut client, answer, status, true),
            Expected::Broken(status) => self.refused(&mut client, answer, status, false),
            Expected::Message(line, body) => self
                .passed(answer, line, body)
                .and_then(|()| self.served(&mut client)),
            Expected::Last(line, body) => self
                .passed(answer, line, body)
                .and_then(|()| closed(&mut client)),
            Expected::Then400(line) => self.passed(answer, line, "").and_then(|()| {
                let next = final_answer(&mut client).map(|answer| answer.status);
                is(&next, &Some(400), "the status of what follows")?;
                closed(&mut client)
            }),
            Expected::Answered(status) => {
                let found = answer.map(|answer| answer.status);
                is(&found, &Some(status), "status").and_then(|()| self.served(&mut client))
            }
        };
        let wrong = wrong.and_then(|()| self.clean(*expected));
        wrong.err().map(|wrong| format!("{name}: {wrong}"))
    }

    fn refused(
        &self,
        client: &mut RawClient,
        answer: Option<Response>,
        status: u16,
        wholly: bool,
    ) -> Result<(), String> {
        let answer = answer.ok_or("no answer")?;
        is(&answer.status, &status, "status")?;
        is(&answer.header("connection"), &Some("close"), "connection")?;
        closed(client)?;
        let seen = self.take();
        self.broken
            .borrow_mut()
            .extend(answer.header("x-request-id").map(str::to_owned));
        if seen.iter().any(|request| wholly || request.complete) {
            return Err(format!("the origin saw {:?}", shown(&seen)));
        }
        Ok(())
    }

    /// The origin, the agent and the log saw this message.
    fn passed(&self, answer: Option<Response>, line: &str, body: &str) -> Result<(), String> {
        let answer = answer.ok_or("no answer")?;
        is(&answer.status, &200, "status")?;
        let id = answer.header("x-request-id").ok_or("no id")?;
        let by_id = |request: &Recorded| request.header("x-request-id").as_deref() == Some(id);
        let seen = self.origin.saw(by_id);
        is(
            &seen.request_line().as_str(),
            &line,
            "the origin's request line",
        )?;
        is(
            &&*String::from_utf8_lossy(&seen.body),
            &body,
            "the origin's body",
        )?;
        is(&seen.complete, &true, "complete at the origin")?;
        let (method, rest) = line.split_once(' ').unwrap();
        let (target, _) = rest.rsplit_once(' ').unwrap();
        let logged = self.proxy.access_line(|line| line["request_id"] == id);
        is(&logged["path"], &json!(target), "the log's path")?;
        is(&logged["method"], &json!(method), "the log's method")?;
        is(&logged["route"], &json!("all"), "the route")?;
        let Some(agent) = &self.agent else {
            return Ok(());
        };
        let told = agent.saw(|event| event["request_id"] == id);
        is(&told["uri"], &json!(target), "the agent's target")?;
        is(&told["method"], &json!(method), "the agent's method")?;
        let host = seen.header("host").map(|host| json!([host]));
        is(
            &Some(&told["headers"]["host"])
                .filter(|host| !host.is_null())
                .cloned(),
            &host,
            "the agent's host",
        )?;
        is(&body_at(agent, id), &body.to_owned(), "the agent's body")
    }

    /// What the origin saw since the last call, but for what broke off before.
    fn take(&self) -> Vec<Recorded> {
        let mut seen = self.origin.take();
        let broken = self.broken.borrow();
        seen.retain(|request| {
            !request
                .header("x-request-id")
                .is_some_and(|id| broken.contains(&id))
        });
        seen
    }

    /// The canary is served as what it is.
    fn served(&self, client: &mut RawClient) -> Result<(), String> {
        let answer = final_answer(client).ok_or("what follows has no answer")?;
        is(&answer.status, &200, "the status of what follows")?;
        let id = answer.header("x-request-id").ok_or("no id")?;
        let by_id = |request: &Recorded| request.header("x-request-id").as_deref() == Some(id);
        is(
            &self.origin.saw(by_id).request_line().as_str(),
            &CANARY_LINE,
            "what follows",
        )
    }

    /// What reached the origin can be read in one way only, and is no more than expected.
    fn clean(&self, expected: Expected) -> Result<(), String> {
        let seen = self.take();
        let most = match expected {
            Expected::Refused(_) => 0,
            Expected::Message(..) => 2,
            Expected::Broken(_)
            | Expected::Last(..)
            | Expected::Then400(_)
            | Expected::Answered(_) => 1,
        };
        if seen.len() > most {
            return Err(format!("the origin saw {:?}", shown(&seen)));
        }
        seen.iter().try_for_each(one_meaning)
    }
}

/// The answer behind those that are sent ahead of it.
fn final_answer(client: &mut RawClient) -> Option<Response> {
    loop {
        let answer = client.try_response()?;
        if answer.status >= 200 {
            return Some(answer);
        }
    }
}

fn closed(client: &mut RawClient) -> Result<(), String> {
    match client.read_to_end() {
        rest if rest.is_empty() => Ok(()),
        rest => Err(format!("then {:?}", String::from_utf8_lossy(&rest))),
    }
}

fn is<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T, what: &str) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: {found:?}, not {expected:?}")),
    }
}

fn shown(seen: &[Recorded]) -> Vec<String> {
    let lines = seen.iter().map(Recorded::request_line);
    lines.collect()
}

/// What the agent was shown of a body.
fn body_at(agent: &TestAgent, id: &str) -> String {
    let is_of = |event: &Value| event["correlation_id"] == id;
    let events = agent.seen("request_body_chunk");
    let pieces = events.iter().filter(|event| is_of(event));
    pieces
        .map(|event| event["data"].as_str().unwrap().to_owned())
        .collect()
}

/// Whether a head has lines that end as they should, one host, and one length said in one way.
fn one_meaning(request: &Recorded) -> Result<(), String> {
    let text = String::from_utf8_lossy(&request.head).into_owned();
    let lines: Vec<&str> = text.trim_end_matches("\r\n").split("\r\n").collect();
    let bad = |line: &&&str| {
        line.contains(['\r', '\n', '\0']) || line.starts_with([' ', '\t']) || line.is_empty()
    };
    if let Some(line) = lines.iter().find(bad) {
        return Err(format!("a line at the origin: {line:?}"));
    }
    let names = lines.iter().skip(1).map(|line| {
        let name = line.split(':').next().unwrap_or_default();
        name.to_ascii_lowercase().replace('_', "-")
    });
    let count = |wanted: &str| names.clone().filter(|name| name == wanted).count();
    let framings = count("content-length") + count("transfer-encoding");
    if count("host") > 1 || framings > 1 || find(&request.head, b"_encoding").is_some() {
        return Err(format!("a head at the origin: {text:?}"));
    }
    for name in [
        "connection",
        "keep-alive",
        "te",
        "upgrade",
        "proxy-connection",
        "http2-settings",
    ] {
        if count(name) > 0 {
            return Err(format!("{name} at the origin: {text:?}"));
        }
    }
    let coding = request.header("transfer-encoding");
    if coding.is_some_and(|coding| coding != "chunked") {
        return Err(format!("a coding at the origin: {text:?}"));
    }
    Ok(())
}

/// Tries all cases with and without an agent.
fn check(cases: &[Case]) {
    let mut failures = Vec::new();
    for (name, scene) in [("plain", Scene::plain()), ("inspected", Scene::inspected())] {
        let wrong = cases.iter().filter_map(|case| scene.failure(case));
        failures.extend(wrong.map(|wrong| format!("{name}, {wrong}")));
        // Agents and origins that were told of what they should not know.
        eventually("nothing in flight", || {
            (scene.proxy.metric("portcullis_http_requests_in_flight") == 0.0).then_some(())
        });
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn there_are_many_cases() {
    let count = [
        chunks::cases().len(),
        framing::cases().len(),
        hop::cases().len(),
        hosts::cases().len(),
        lines::cases().len(),
        targets::cases().len(),
    ];
    assert!(count.iter().sum::<usize>() >= 220, "{count:?}");
}
