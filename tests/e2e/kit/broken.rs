//! Agents that are broken, each in one way. They are written by hand, as a legacy agent is.

use serde_json::{Value, json};
use std::{
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// How long a second event may take to arrive behind the first of several that are sent at once.
const COMPANY: Duration = Duration::from_millis(30);

/// In which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    /// It is not.
    Nothing,
    NeverAnswers,
    /// It answers something that nobody asked.
    AnswersAnother,
    /// It sets a header that no agent may set.
    SetsHost,
    /// It changes a body in the answer to a head.
    ChangesWrongPhase,
    /// It closes when it is asked two things at once.
    ClosesWhenBusy,
    /// Of two things that it is asked at once, each is answered as the other.
    MixesUp,
    /// It does not say in the handshake that all is well.
    NoSuccess,
    /// It does not shake hands at all.
    GarbageForHandshake,
    /// It lets pass what it cannot read.
    AllowsUnreadable,
    AnswersTwice,
    /// It takes no connections any longer when it has read a frame that is none.
    DiesOfGarbage,
}

/// Serves until the process ends, a thread for each connection. The folder has the socket.
pub(super) fn serve(defect: Defect) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        let (dies, death) = std::sync::mpsc::channel();
        for stream in listener.incoming() {
            if death.try_recv().is_ok() {
                return;
            }
            let (stream, dies) = (stream.unwrap(), dies.clone());
            thread::spawn(move || {
                let mut agent = Agent { stream };
                let ended = converse(defect, &mut agent).map_err(|error| error.kind());
                // Before the proxy sees the end of the connection.
                if defect == Defect::DiesOfGarbage && ended == Err(io::ErrorKind::InvalidData) {
                    let _ = dies.send(());
                }
            });
        }
    });
    let target = socket.display().to_string();
    (folder, target)
}

struct Agent {
    stream: UnixStream,
}

const HANDSHAKE: u8 = 0x01;
const ANSWER: u8 = 0x20;
const PING: u8 = 0x41;

/// Until the proxy closes, or the agent has had enough, which is an error.
fn converse(defect: Defect, agent: &mut Agent) -> io::Result<()> {
    while let Some((kind, payload)) = agent.receive()? {
        let message = match serde_json::from_slice::<Value>(&payload) {
            Ok(message) => message,
            Err(_) if defect == Defect::AllowsUnreadable => {
                // As somebody would who looks for the id and nothing else.
                let text = String::from_utf8_lossy(&payload);
                let id = text.split('"').nth(3).unwrap_or_default().to_owned();
                agent.answer(&json!({"correlation_id": id}), &json!({}))?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match kind {
            HANDSHAKE => agent.shake_hands(defect)?,
            PING => agent.send(PING + 1, &payload)?,
            0x10..=0x15 => agent.asked(defect, &message)?,
            // Of the rest nothing is wanted.
            0x02..=0x42 => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

impl Agent {
    fn shake_hands(&mut self, defect: Defect) -> io::Result<()> {
        if defect == Defect::GarbageForHandshake {
            return self.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
        let mut response = json!({
            "protocol_version": 2,
            "capabilities": {
                "agent_id": "broken", "name": "broken", "version": "1", "supported_events": [1, 2, 5],
                "features": {"concurrent_requests": 16},
                "limits": {"max_body_size": 100_000, "max_concurrency": 100, "preferred_chunk_size": 16384},
            },
            "success": true,
        });
        if defect == Defect::NoSuccess {
            response["success"] = json!(false);
            response["error"] = json!("not you");
        }
        self.send(0x02, response.to_string().as_bytes())
    }

    fn asked(&mut self, defect: Defect, message: &Value) -> io::Result<()> {
        match defect {
            Defect::NeverAnswers => Ok(()),
            Defect::AnswersAnother => {
                let id = message["correlation_id"].as_str().unwrap_or_default();
                let another = json!({"correlation_id": format!("{id}-"), "uri": message["uri"]});
                self.answer(&another, &json!({}))
            }
            Defect::SetsHost => {
                let host = json!({"set": {"name": "Host", "value": "elsewhere"}});
                self.answer(message, &json!({"request_headers": [host]}))
            }
            Defect::ChangesWrongPhase if message["uri"].is_string() => {
                let change = json!({"data": "eA==", "chunk_index": 0});
                self.answer(message, &json!({"request_body_mutation": change}))
            }
            Defect::ClosesWhenBusy if self.is_waiting()? => {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Defect::MixesUp if self.is_waiting()? => {
                let Some((_, payload)) = self.receive()? else {
                    return Ok(());
                };
                let mut other: Value = serde_json::from_slice(&payload)?;
                let mut one = message.clone();
                let id = one["correlation_id"].take();
                one["correlation_id"] = other["correlation_id"].take();
                other["correlation_id"] = id;
                self.answer(&one, &json!({}))?;
                self.answer(&other, &json!({}))
            }
            Defect::AnswersTwice => {
                self.answer(message, &json!({}))?;
                self.answer(message, &json!({}))
            }
            _ => self.answer(message, &json!({})),
        }
    }

    /// Whether something else has come already.
    fn is_waiting(&mut self) -> io::Result<bool> {
        self.stream.set_read_timeout(Some(COMPANY))?;
        let mut flags = [0; 1];
        let waiting = rustix::net::recv(&self.stream, &mut flags, rustix::net::RecvFlags::PEEK);
        self.stream.set_read_timeout(None)?;
        Ok(matches!(waiting, Ok((count, _)) if count > 0))
    }

    /// Allows, and says in a header of the request what was asked about.
    fn answer(&mut self, message: &Value, more: &Value) -> io::Result<()> {
        let mut answer = json!({
            "version": 2, "decision": "allow",
            "audit": {"custom": {"correlation_id": message["correlation_id"]}},
        });
        if let Some(uri) = message["uri"].as_str() {
            let seen = json!({"set": {"name": "x-seen", "value": uri}});
            answer["request_headers"] = json!([seen]);
        }
        for (name, value) in more.as_object().unwrap() {
            answer[name] = value.clone();
        }
        self.send(ANSWER, answer.to_string().as_bytes())
    }

    /// `None` at the end.
    fn receive(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let length = u32::from_be_bytes(length);
        if !(1..=1 << 24).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut frame = vec![0; length as usize];
        self.stream.read_exact(&mut frame)?;
        let payload = frame.split_off(1);
        Ok(Some((frame[0], payload)))
    }

    fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len() + 1).unwrap();
        let frame = [&length.to_be_bytes()[..], &[kind], payload].concat();
        self.stream.write_all(&frame)
    }
}
