//! An agent without the library: frames and JSON written by hand, as an old agent does it, and as a broken one does.

use super::{
    agent::{Handshake, Phase, Reaction, Script, Told},
    agent_process::{POLL, new_words, path_of, remember, replacement},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    sync::Arc,
    thread,
};

const HANDSHAKE_REQUEST: u8 = 0x01;
const HANDSHAKE_RESPONSE: u8 = 0x02;
const REQUEST_HEADERS: u8 = 0x10;
const REQUEST_BODY_CHUNK: u8 = 0x11;
const RESPONSE_HEADERS: u8 = 0x12;
const RESPONSE_BODY_CHUNK: u8 = 0x13;
const REQUEST_COMPLETE: u8 = 0x14;
const WEBSOCKET_FRAME: u8 = 0x15;
const GUARDRAIL_INSPECT: u8 = 0x16;
const CONFIGURE: u8 = 0x17;
const AGENT_RESPONSE: u8 = 0x20;
const HEALTH: u8 = 0x30;
const METRICS_REPORT: u8 = 0x31;
const CONFIG_UPDATE_REQUEST: u8 = 0x32;
const FLOW_CONTROL: u8 = 0x33;
const PING: u8 = 0x41;
const PONG: u8 = 0x42;

/// Serves for ever, a thread per connection.
pub(super) fn serve(script: &Arc<Script>) {
    // A socket that an agent before this one left behind is in the way.
    let _ = std::fs::remove_file(&script.socket);
    let listener = UnixListener::bind(&script.socket).unwrap();
    for stream in listener.incoming() {
        let script = script.clone();
        thread::spawn(move || {
            let mut stream = stream.unwrap();
            // However it ends, the connection ends; another thread may hold it as well.
            let _ = converse(&script, &mut stream);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

/// Until either side has had enough.
fn converse(script: &Arc<Script>, stream: &mut UnixStream) -> io::Result<()> {
    loop {
        let (kind, payload) = receive(stream)?;
        let message: Value = serde_json::from_slice(&payload)?;
        match kind {
            HANDSHAKE_REQUEST => {
                script.note("handshake", message);
                shake_hands(script, stream)?;
            }
            CONFIGURE => {
                let id = message["correlation_id"].clone();
                let refusal = script.refusal_of(&message["config"]);
                script.note("configure", message);
                let decision = match refusal {
                    Some(reason) => json!({"block": {"status": 400, "body": reason}}),
                    None => json!("allow"),
                };
                answer(stream, &json!({"version": 2, "decision": decision}), &id)?;
            }
            REQUEST_HEADERS => asked(script, stream, message)?,
            REQUEST_BODY_CHUNK => later(script, stream, Phase::RequestBody, &message)?,
            RESPONSE_HEADERS => later(script, stream, Phase::ResponseHeaders, &message)?,
            RESPONSE_BODY_CHUNK => later(script, stream, Phase::ResponseBody, &message)?,
            WEBSOCKET_FRAME => later(script, stream, Phase::Frames, &message)?,
            GUARDRAIL_INSPECT => later(script, stream, Phase::Texts, &message)?,
            REQUEST_COMPLETE => later(script, stream, Phase::Complete, &message)?,
            PING => send(stream, PONG, &payload)?,
            _ => {}
        }
    }
}

/// Says what the test wants to be said, for as long as the connection stands.
fn report(script: &Script, mut stream: UnixStream) {
    let mut said = 0;
    loop {
        for word in new_words(&script.says, &mut said) {
            let (kind, payload) = report_frame(script, &word);
            if send(&mut stream, kind, payload.to_string().as_bytes()).is_err() {
                return;
            }
        }
        thread::sleep(POLL);
    }
}

/// Both shapes are in use.
fn report_frame(script: &Script, word: &str) -> (u8, Value) {
    if let Some((kind, json)) = word.split_once(' ') {
        let kind = match kind {
            "metrics" => METRICS_REPORT,
            _ => CONFIG_UPDATE_REQUEST,
        };
        return (kind, serde_json::from_str(json).unwrap());
    }
    let number = |words: &[&str]| {
        words
            .iter()
            .position(|known| *known == word)
            .map(|at| at + 1)
    };
    if let Some(action) = number(&["pause", "resume"]) {
        let payload = match script.in_numbers {
            true => json!({"action": action}),
            false => json!({"correlation_id": null, "action": {"type": word}, "timestamp_ms": 1}),
        };
        return (FLOW_CONTROL, payload);
    }
    let state = number(&["healthy", "degraded", "draining", "unhealthy"]);
    let payload = match script.in_numbers {
        true => json!({"state": state}),
        false => json!({"agent_id": script.name, "state": {"status": word}}),
    };
    (HEALTH, payload)
}

fn shake_hands(script: &Arc<Script>, stream: &mut UnixStream) -> io::Result<()> {
    let response = |success: bool, error: Option<&str>| {
        json!({
            "protocol_version": 2,
            "capabilities": {
                "agent_id": script.name, "name": script.name, "version": "0.0.1", "supported_events": script.supports,
                "features": {"streaming_body": false, "websocket": false, "guardrails": false, "config_push": false,
                    "metrics_export": false, "concurrent_requests": 100, "cancellation": false, "flow_control": false,
                    "health_reporting": false},
                "limits": {"max_body_size": 1_048_576, "max_concurrency": script.bears, "preferred_chunk_size": script.preferred_chunk},
            },
            "success": success,
            "error": error,
            "encoding": "json",
        })
        .to_string()
    };
    match script.handshake {
        Handshake::Accept => {
            send(stream, HANDSHAKE_RESPONSE, response(true, None).as_bytes())?;
            let (script, stream) = (script.clone(), stream.try_clone()?);
            thread::spawn(move || report(&script, stream));
            Ok(())
        }
        Handshake::Refuse => {
            let refusal = response(false, Some("not you"));
            send(stream, HANDSHAKE_RESPONSE, refusal.as_bytes())?;
            Err(io::ErrorKind::ConnectionAborted.into())
        }
        Handshake::Hang => Ok(()),
        Handshake::Garbage => stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"),
    }
}

fn asked(script: &Script, stream: &mut UnixStream, mut message: Value) -> io::Result<()> {
    let id = message["correlation_id"].clone();
    let uri = message["uri"].as_str().unwrap_or_default().to_owned();
    for field in ["route_id", "upstream_id", "client_ip", "request_id"] {
        message[field] = message["metadata"][field].clone();
    }
    script.note("request_headers", message);
    let path = uri.split('?').next().unwrap_or_default();
    remember(id.as_str().unwrap_or_default(), path);
    react(script, stream, script.reaction_to(path), &id)
}

/// An event after that of the request's head.
fn later(
    script: &Script,
    stream: &mut UnixStream,
    phase: Phase,
    message: &Value,
) -> io::Result<()> {
    let data = match phase {
        // The text of a head is all that a rule can look into.
        Phase::ResponseHeaders => message["headers"].to_string().into_bytes(),
        Phase::Texts => message["content"].as_str().unwrap_or_default().into(),
        _ => {
            let data = message["data"].as_str().unwrap_or_default();
            STANDARD.decode(data).unwrap()
        }
    };
    let id = &message["correlation_id"];
    let index = match phase {
        Phase::Frames => &message["frame_index"],
        _ => &message["chunk_index"],
    };
    let told = Told {
        path: &path_of(id.as_str().unwrap_or_default()),
        index: u32::try_from(index.as_u64().unwrap_or_default()).unwrap(),
        is_last: message["is_last"] == true || message["fin"] == true,
        data: &data,
    };
    let mut noted = message.clone();
    noted["index"] = json!(told.index);
    noted["size"] = json!(data.len());
    noted["data"] = json!(String::from_utf8_lossy(&data[..data.len().min(256)]));
    script.note(phase.event(), noted);
    let allow = json!({"version": 2, "decision": "allow"});
    match script.reaction_in(phase, &told) {
        None => answer(stream, &allow, id),
        Some(Reaction::Replace(text)) => {
            let piece = STANDARD.encode(replacement(text, &data));
            let member = match phase {
                Phase::RequestBody => "request_body_mutation",
                _ => "response_body_mutation",
            };
            let mut replaced = allow;
            replaced[member] = json!({"data": piece, "chunk_index": told.index});
            answer(stream, &replaced, id)
        }
        Some(reaction) => react(script, stream, reaction, id),
    }
}

fn react(
    script: &Script,
    stream: &mut UnixStream,
    reaction: &Reaction,
    id: &Value,
) -> io::Result<()> {
    match reaction {
        Reaction::Answer(decision) => answer(stream, decision, id),
        Reaction::Hang => Ok(()),
        Reaction::Late(decision) => {
            while !script.release.exists() {
                thread::sleep(POLL);
            }
            answer(stream, decision, id)
        }
        Reaction::Exit => std::process::exit(1),
        Reaction::Close => Err(io::ErrorKind::ConnectionAborted.into()),
        Reaction::Text(text) => {
            let text = text.replace("$ID", id.as_str().unwrap_or_default());
            send(stream, AGENT_RESPONSE, text.as_bytes())
        }
        Reaction::Bytes(bytes) => stream.write_all(bytes),
        Reaction::Fail | Reaction::Panic | Reaction::Overloaded(_) | Reaction::Slow(..) => {
            Err(io::Error::other("only by the library"))
        }
        Reaction::Replace(_) => Err(io::Error::other("there is no piece")),
    }
}

fn answer(stream: &mut UnixStream, decision: &Value, id: &Value) -> io::Result<()> {
    let mut answer = decision.clone();
    answer["audit"]["custom"]["correlation_id"] = id.clone();
    send(stream, AGENT_RESPONSE, answer.to_string().as_bytes())
}

fn receive(stream: &mut UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame)?;
    let payload = frame.split_off(1);
    Ok((frame[0], payload))
}

fn send(stream: &mut UnixStream, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = u32::try_from(payload.len() + 1)
        .unwrap()
        .to_be_bytes()
        .to_vec();
    frame.push(kind);
    frame.extend_from_slice(payload);
    stream.write_all(&frame)
}
