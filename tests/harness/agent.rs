//! Agents that do as they are told: each is a process of its own, this test binary once more.

use super::{
    agent_json::to_json,
    agent_ways::{Grpc, Reverse},
    eventually,
};
use portcullis_agent_protocol::Decision;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs::File,
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// Tells a process of this binary to be an agent; the value is the path of its script.
pub(super) const SCRIPT_VARIABLE: &str = "PORTCULLIS_E2E_AGENT";

/// An agent. It is killed when it is dropped.
pub(crate) struct TestAgent {
    pub(super) script: Script,
    pub(super) folder: TempDir,
    process: Option<Child>,
}

/// Everything that an agent process has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Script {
    pub(super) name: String,
    pub(super) socket: PathBuf,
    /// It speaks gRPC here instead.
    pub(super) grpc: Option<Grpc>,
    /// It dials the proxy there instead.
    pub(super) reverse: Option<Reverse>,
    /// What the agent saw, one JSON object per line.
    pub(super) record: PathBuf,
    /// Exists when answers that come late may come.
    pub(super) release: PathBuf,
    pub(super) dialect: Dialect,
    pub(super) handshake: Handshake,
    /// Refuses its configuration with this reason.
    pub(super) refuse_config: Option<String>,
    /// Only a configuration that holds this.
    pub(super) refuse_marked: String,
    /// The kinds of events that a hand-written agent announces.
    pub(super) supports: Vec<u32>,
    /// What it says without being asked, one word per line: a state of health, `pause` or `resume`.
    pub(super) says: PathBuf,
    /// A hand-written agent says it in numbers, and not in objects.
    pub(super) in_numbers: bool,
    /// How many calls a hand-written agent announces to bear at once.
    pub(super) bears: u32,
    /// By path, without the query.
    pub(super) rules: Vec<(String, Reaction)>,
    pub(super) otherwise: Reaction,
    /// In later phases.
    pub(super) phases: Vec<PhaseRule>,
    /// The size of a piece of a body that the agent announces to like.
    pub(super) preferred_chunk: u64,
    /// The version that the agent announces.
    pub(super) version: String,
    /// A header of request and response that the agent sets to what it saw of these headers.
    pub(super) tells: Option<(String, Vec<String>)>,
}

/// What an agent does in a phase after that of the request's head.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PhaseRule {
    pub(super) phase: Phase,
    pub(super) when: When,
    pub(super) reaction: Reaction,
}

/// A phase after that of the request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    RequestBody,
    ResponseHeaders,
    ResponseBody,
    /// The frames of sockets, whose number is that within their direction.
    Frames,
    /// Texts out of bodies.
    Texts,
    Complete,
}

impl Phase {
    pub(super) const fn event(self) -> &'static str {
        match self {
            Self::RequestBody => "request_body_chunk",
            Self::ResponseHeaders => "response_headers",
            Self::ResponseBody => "response_body_chunk",
            Self::Frames => "websocket_frame",
            Self::Texts => "guardrail_inspect",
            Self::Complete => "request_complete",
        }
    }
}

/// To which event of a phase a rule applies. The first rule that does counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum When {
    Always,
    /// The piece of this number.
    Index(u32),
    Last,
    /// The piece, or the head of a response, holds this text.
    Holds(String),
    /// See [`on`](Self::on).
    On(String, Box<Self>),
}

impl When {
    /// In a message of a request for this path, which the agent knows if it sees heads of requests.
    pub(crate) fn on(self, path: &str) -> Self {
        Self::On(path.to_owned(), Box::new(self))
    }

    pub(super) fn applies(&self, told: &Told<'_>) -> bool {
        match self {
            Self::On(path, when) => told.path == path && when.applies(told),
            Self::Always => true,
            Self::Index(index) => told.index == *index,
            Self::Last => told.is_last,
            Self::Holds(text) => super::find(told.data, text.as_bytes()).is_some(),
        }
    }
}

/// What is told of a piece of a body. Of the head of a response, its lines are the data.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told<'a> {
    /// Without the query.
    pub(super) path: &'a str,
    pub(super) index: u32,
    pub(super) is_last: bool,
    pub(super) data: &'a [u8],
}

/// How the agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Dialect {
    /// By the library, with everything that it can negotiate.
    Binary,
    /// By the library, in JSON, with numbers for events.
    NumberedJson,
    /// By the library, without any extension: JSON.
    Json,
    /// Written by hand, as an agent that has never heard of the library: JSON.
    Legacy,
}

/// What a hand-written agent does when a proxy connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Handshake {
    Accept,
    Refuse,
    Hang,
    Garbage,
}

/// What an agent does with an event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Reaction {
    /// Answers with this decision, as the protocol writes it.
    Answer(Value),
    /// Lets the piece of a body, or the frame, pass as this text; `$DATA` in it is the piece itself.
    Replace(String),
    /// Never answers.
    Hang,
    /// Answers with this decision when the test says so, see [`TestAgent::release`].
    Late(Value),
    /// Answers with this decision after so many milliseconds, by the library.
    Slow(u64, Value),
    /// The process ends.
    Exit,
    /// Says that it has too much to do, for so many milliseconds, by the library.
    Overloaded(Option<u64>),
    /// Fails, by the library.
    Fail,
    /// Panics, by the library.
    Panic,
    /// Closes the connection, by hand.
    Close,
    /// Answers with this text, by hand; `$ID` is the id of the event.
    Text(String),
    /// Sends these bytes, by hand.
    Bytes(Vec<u8>),
}

impl From<Decision> for Reaction {
    fn from(decision: Decision) -> Self {
        Self::Answer(to_json(&decision))
    }
}

impl Reaction {
    /// This decision, when the test says so.
    pub(crate) fn late(decision: &Decision) -> Self {
        Self::Late(to_json(decision))
    }

    /// This decision, after that time.
    pub(crate) fn slow(takes: Duration, decision: &Decision) -> Self {
        Self::Slow(u64::try_from(takes.as_millis()).unwrap(), to_json(decision))
    }
}

impl TestAgent {
    /// An agent that allows everything. It does not run before [`start`](Self::start).
    pub(crate) fn named(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            script: Script {
                name: name.to_owned(),
                socket: folder.path().join("agent.sock"),
                grpc: None,
                reverse: None,
                record: folder.path().join("record"),
                release: folder.path().join("release"),
                dialect: Dialect::Binary,
                handshake: Handshake::Accept,
                refuse_config: None,
                refuse_marked: String::new(),
                supports: vec![1, 2, 3, 4, 5, 6, 7],
                says: folder.path().join("says"),
                in_numbers: false,
                bears: 100,
                rules: Vec::new(),
                otherwise: Decision::allow().into(),
                phases: Vec::new(),
                preferred_chunk: 65536,
                version: "0.0.1".to_owned(),
                tells: None,
            },
            folder,
            process: None,
        }
    }

    pub(crate) fn speaking(mut self, dialect: Dialect) -> Self {
        self.script.dialect = dialect;
        self
    }

    /// A hand-written agent that does this when a proxy connects.
    pub(crate) fn at_handshake(mut self, handshake: Handshake) -> Self {
        self.script.dialect = Dialect::Legacy;
        self.script.handshake = handshake;
        self
    }

    pub(crate) fn refusing_config(mut self, reason: &str) -> Self {
        self.script.refuse_config = Some(reason.to_owned());
        self
    }

    /// The same, where the configuration holds this marker.
    pub(crate) fn refusing_config_with(mut self, marker: &str, reason: &str) -> Self {
        self.script.refuse_marked = marker.to_owned();
        self.refusing_config(reason)
    }

    /// A hand-written agent that takes these kinds of events alone.
    pub(crate) fn supporting(mut self, kinds: &[u32]) -> Self {
        self.script.dialect = Dialect::Legacy;
        self.script.supports = kinds.to_vec();
        self
    }

    /// A hand-written agent whose reports are numbers.
    pub(crate) fn in_numbers(mut self) -> Self {
        self.script.dialect = Dialect::Legacy;
        self.script.in_numbers = true;
        self
    }

    /// A hand-written agent that announces to bear so many calls at once.
    pub(crate) fn bearing(mut self, calls: u32) -> Self {
        self.script.dialect = Dialect::Legacy;
        self.script.bears = calls;
        self
    }

    /// Says something without being asked, on every connection: a state of health, `pause` or `resume`; `reload` by the
    /// library; `metrics` or `update` and JSON by hand.
    pub(crate) fn says(&self, word: &str) {
        super::agent_process::append(&self.script.says, &format!("{word}\n"));
    }

    /// What it does with requests for this path.
    pub(crate) fn on(mut self, path: &str, reaction: impl Into<Reaction>) -> Self {
        self.script.rules.push((path.to_owned(), reaction.into()));
        self
    }

    /// What it does with every other request.
    pub(crate) fn otherwise(mut self, reaction: impl Into<Reaction>) -> Self {
        self.script.otherwise = reaction.into();
        self
    }

    /// What it does in a later phase, unless an earlier rule says something else.
    pub(crate) fn then(mut self, phase: Phase, when: When, reaction: impl Into<Reaction>) -> Self {
        self.script.phases.push(PhaseRule {
            phase,
            when,
            reaction: reaction.into(),
        });
        self
    }

    /// The size of a piece of a body that it announces to like.
    pub(crate) fn preferring(mut self, bytes: u64) -> Self {
        self.script.preferred_chunk = bytes;
        self
    }

    /// One that writes nothing down, for very many events.
    pub(crate) fn quiet(mut self) -> Self {
        self.script.record = "/dev/null".into();
        self
    }

    /// With every allow to the head of a request, sets this header of request and response to what it saw of these headers, of
    /// `:method` and of `:target`.
    pub(crate) fn telling(mut self, header: &str, names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.script.tells = Some((header.to_owned(), names));
        self
    }

    /// The version that it announces from its next start on.
    pub(crate) fn becomes(&mut self, version: &str) {
        version.clone_into(&mut self.script.version);
    }

    /// Starts the process and waits until somebody listens on its socket.
    pub(crate) fn start(mut self) -> Self {
        self.start_again();
        self
    }

    /// Starts the process, once more if it ran already.
    pub(crate) fn start_again(&mut self) {
        let path = self.folder.path().join("script.json");
        serde_json::to_writer(File::create(&path).unwrap(), &self.script).unwrap();
        let errors = File::create(self.folder.path().join("stderr")).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args([
                "harness::agent_process::the_agent",
                "--exact",
                "--nocapture",
            ])
            .env(SCRIPT_VARIABLE, &path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        self.process = Some(process);
        if self.script.reverse.is_some() {
            return;
        }
        eventually("socket of the agent", || match self.script.grpc {
            None => UnixStream::connect(self.socket()).map(drop).ok(),
            Some(grpc) => TcpStream::connect(grpc.address).map(drop).ok(),
        });
    }

    /// Kills the process. Its socket stays behind, as it does when a machine is short of memory.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Sends the process a signal; after STOP, none of its threads runs any more.
    pub(crate) fn signal(&self, signal: Signal) {
        let process = Pid::from_child(self.process.as_ref().unwrap());
        rustix::process::kill_process(process, signal).unwrap();
        if signal == Signal::STOP {
            // Threads on other processors run on for a moment, long enough for an answer.
            let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
            eventually("the process stops", || {
                waitid(WaitId::Pid(process), stopped).unwrap()
            });
        }
    }

    /// Lets answers go that come late.
    pub(crate) fn release(&self) {
        File::create(&self.script.release).unwrap();
    }

    pub(crate) fn name(&self) -> &str {
        &self.script.name
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.script.socket
    }

    /// Everything that the agent was told so far.
    pub(crate) fn record(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.script.record).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The events of this kind that it was told of so far.
    pub(crate) fn seen(&self, event: &str) -> Vec<Value> {
        let mut record = self.record();
        record.retain(|told| told["event"] == event);
        record
    }

    /// Waits until it was told of so many events of this kind.
    pub(crate) fn wait_seen(&self, event: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} events of {event}"), || {
            Some(self.seen(event)).filter(|seen| seen.len() >= count)
        })
    }

    /// The requests that it was asked about.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let mut record = self.record();
        record.retain(|event| event["event"] == "request_headers");
        record
    }

    /// Waits until the agent was told something like this.
    pub(crate) fn saw(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("event at the agent", || {
            self.record().into_iter().find(|event| wanted(event))
        })
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let errors = std::fs::read_to_string(self.folder.path().join("stderr"));
            eprintln!("agent {}: {}", self.name(), errors.unwrap_or_default());
        }
    }
}
