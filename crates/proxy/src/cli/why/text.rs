//! An explanation for people. What it says was made up by clients and agents in part, so nothing of it reaches the terminal
//! that could act on it.

use crate::cli::admin;
use serde_json::Value;
use std::fmt::Write;

/// The requests of an answer, one below the other. `None` when it is not one.
pub(super) fn explain(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let requests = answer["requests"].as_array()?;
    let mut text = String::new();
    for (position, request) in requests.iter().enumerate() {
        if position > 0 {
            text.push('\n');
        }
        // A String takes everything.
        let _ = of_request(&mut text, request);
    }
    Some(printable(&text))
}

/// The text without characters that a terminal would act on.
pub(super) fn printable(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(admin::printable).collect();
    lines.join("\n")
}

fn of_request(text: &mut String, request: &Value) -> std::fmt::Result {
    let field = |name: &str| one_line(&request[name]);
    writeln!(text, "request   {}", field("request_id"))?;
    writeln!(
        text,
        "          {} from {} on listener {}",
        field("ts"),
        field("client_ip"),
        field("listener")
    )?;
    writeln!(
        text,
        "          {} {}{}",
        field("method"),
        field("host"),
        field("path")
    )?;
    route(text, &request["route"])?;
    list(text, "agents", &request["agents"], agent)?;
    list(text, "headers", &request["headers"], header)?;
    upstream(text, &request["upstream"])?;
    socket(text, &request["websocket"])?;
    answer(text, &request["answer"])
}

fn route(text: &mut String, route: &Value) -> std::fmt::Result {
    if route.is_null() {
        return writeln!(text, "route     none");
    }
    write!(text, "route     {}", one_line(&route["id"]))?;
    let why = &route["why"];
    if why.is_null() {
        return writeln!(text);
    }
    let which = match (why["match_block"].as_u64(), why["match_blocks"].as_u64()) {
        (Some(block), Some(blocks)) if blocks > 1 => format!("match {block} of {blocks}, "),
        _ => String::new(),
    };
    writeln!(text, ": {which}{}", one_line(&why["match"]))?;
    writeln!(
        text,
        "          priority {}, place {} of {} in the order of precedence",
        one_line(&why["priority"]),
        one_line(&why["precedence"]),
        one_line(&why["precedence_of"])
    )
}

fn list(
    text: &mut String,
    name: &str,
    list: &Value,
    line: fn(&Value) -> String,
) -> std::fmt::Result {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        return writeln!(text, "{name:<9} none");
    }
    for (position, item) in list.iter().enumerate() {
        let name = if position == 0 { name } else { "" };
        writeln!(text, "{name:<9} {}", line(item))?;
    }
    Ok(())
}

fn agent(agent: &Value) -> String {
    let field = |name: &str| one_line(&agent[name]);
    let mut text = format!("{} {} {}", field("name"), field("phase"), field("verdict"));
    for (name, before) in [
        ("failure", " with "),
        ("failure_mode", ", failure-mode "),
        ("reason", ": "),
    ] {
        if !agent[name].is_null() {
            text += before;
            text += &field(name);
        }
    }
    let calls = agent["calls"].as_u64().unwrap_or(1);
    if calls != 1 {
        text += &format!(", {calls} calls");
    }
    for (name, said) in [
        ("cached", ", known from before"),
        ("shadow", ", in the shadow: not obeyed"),
    ] {
        if agent[name] == true {
            text += said;
        }
    }
    text + &format!(", {} ms", field("duration_ms"))
}

fn header(header: &Value) -> String {
    let field = |name: &str| one_line(&header[name]);
    let by = if header["agent"].is_null() {
        format!(
            "{} (step {} of the filters)",
            field("filter"),
            field("step")
        )
    } else {
        format!("agent {} in {}", field("agent"), field("phase"))
    };
    format!(
        "{}: {} {} by {by}",
        field("of"),
        field("done"),
        field("name")
    )
}

fn upstream(text: &mut String, upstream: &Value) -> std::fmt::Result {
    if upstream.is_null() {
        return writeln!(text, "upstream  not asked");
    }
    let field = |name: &str| one_line(&upstream[name]);
    write!(text, "upstream  {} at {}", field("id"), field("address"))?;
    match upstream["status"].as_u64() {
        Some(status) => write!(text, ": {status}")?,
        None => write!(text, ": no answer")?,
    }
    if !upstream["duration_ms"].is_null() {
        write!(text, " after {} ms", field("duration_ms"))?;
    }
    writeln!(text, ", attempts: {}", field("attempts"))?;
    let rewritten = |name: &str| (!upstream[name].is_null()).then(|| field(name));
    match (rewritten("rewritten_host"), rewritten("rewritten_path")) {
        (None, None) => Ok(()),
        (host, path) => {
            let (host, path) = (host.unwrap_or_default(), path.unwrap_or_default());
            writeln!(text, "          rewritten to {host}{path}")
        }
    }
}

fn socket(text: &mut String, socket: &Value) -> std::fmt::Result {
    if socket.is_null() {
        return Ok(());
    }
    let field = |name: &str| one_line(&socket[name]);
    writeln!(
        text,
        "websocket {} frames in, {} out, close code {}",
        field("frames_in"),
        field("frames_out"),
        field("close_code")
    )
}

fn answer(text: &mut String, answer: &Value) -> std::fmt::Result {
    let field = |name: &str| one_line(&answer[name]);
    match answer["status"].as_u64() {
        Some(status) => write!(text, "answer    {status}")?,
        None => write!(text, "answer    none, the client has gone")?,
    }
    // What has stopped it is an agent, or a filter that asks nobody.
    let by = answer["blocked_by"].as_str();
    match by.and_then(|by| by.strip_prefix("filter:")) {
        Some(filter) => write!(text, ", by filter {}", admin::printable(filter))?,
        None if by.is_some() => write!(text, ", by agent {}", field("blocked_by"))?,
        None => {}
    }
    for (name, before) in [("reason", ", reason "), ("grpc_status", ", grpc-status ")] {
        if !answer[name].is_null() {
            write!(text, "{before}{}", field(name))?;
        }
    }
    if answer["aborted"] == true {
        write!(text, ", broken off")?;
    }
    writeln!(
        text,
        ", after {} ms ({} ms of them agents)",
        field("duration_ms"),
        field("agents_ms")
    )
}

/// A value without quotation marks and line breaks.
fn one_line(value: &Value) -> String {
    match value.as_str() {
        Some(text) => admin::printable(text),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_explanation_says_what_there_is() {
        let blocked = json!({
            "request_id": "id-1", "ts": "2026-01-01T00:00:00.000Z", "client_ip": "192.0.2.1", "listener": "http",
            "method": "GET", "host": "a.example", "path": "/x\u{1b}[2J\ny", "traced": false,
            "route": {"id": "api", "why": {
                "match": "path-prefix /x", "match_block": 2, "match_blocks": 3, "priority": 7,
                "precedence": 4, "precedence_of": 9,
            }},
            "agents": [
                {"name": "auth", "phase": "request_headers", "verdict": "failed", "failure": "timeout",
                 "failure_mode": "open", "reason": "no answer", "tags": [], "calls": 1, "duration_ms": 50.1},
                {"name": "waf", "phase": "request_body", "verdict": "block", "failure": null,
                 "failure_mode": null, "reason": "rule", "tags": [], "calls": 3, "duration_ms": 1.5},
            ],
            "headers": [
                {"of": "request", "done": "set", "name": "x-user", "agent": "auth", "phase": "request_headers"},
                {"of": "response", "done": "remove", "name": "server", "filter": "response-headers", "step": 2},
            ],
            "upstream": null,
            "answer": {"status": 403, "blocked_by": "waf", "reason": "rule", "grpc_status": null, "aborted": false,
                       "duration_ms": 60.25, "agents_ms": 51.6},
        });
        let lost = json!({
            "request_id": "id-2", "route": null, "agents": [], "headers": [],
            "upstream": {"id": "app", "address": "127.0.0.1:1", "status": null, "attempts": 1, "duration_ms": null,
                         "rewritten_path": "/y", "rewritten_host": null},
            "websocket": {"frames_in": 3, "frames_out": 1, "close_code": 1002},
            "answer": {"status": 502, "reason": "upstream_unreachable", "duration_ms": 1, "agents_ms": 0},
        });
        let body = json!({"requests": [blocked, lost]}).to_string();
        assert_lines(
            &explain(body.as_bytes()).unwrap(),
            &[
                "request   id-1",
                "          2026-01-01T00:00:00.000Z from 192.0.2.1 on listener http",
                "          GET a.example/x\u{fffd}[2J\u{fffd}y",
                "route     api: match 2 of 3, path-prefix /x",
                "          priority 7, place 4 of 9 in the order of precedence",
                "agents    auth request_headers failed with timeout, failure-mode open: no answer, 50.1 ms",
                "          waf request_body block: rule, 3 calls, 1.5 ms",
                "headers   request: set x-user by agent auth in request_headers",
                "          response: remove server by response-headers (step 2 of the filters)",
                "upstream  not asked",
                "answer    403, by agent waf, reason rule, after 60.25 ms (51.6 ms of them agents)",
                "",
                "request   id-2",
                "          null from null on listener null",
                "          null nullnull",
                "route     none",
                "agents    none",
                "headers   none",
                "upstream  app at 127.0.0.1:1: no answer, attempts: 1",
                "          rewritten to /y",
                "websocket 3 frames in, 1 out, close code 1002",
                "answer    502, reason upstream_unreachable, after 1 ms (0 ms of them agents)",
            ],
        );
        for garbled in [&b""[..], b"{}", b"[]", b"<html>"] {
            assert_eq!(explain(garbled), None);
        }
    }

    fn assert_lines(text: &str, expected: &[&str]) {
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
