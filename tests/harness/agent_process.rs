//! The agent's side of [`TestAgent`](super::TestAgent): what the process does that is an agent.

use super::{
    agent::{Dialect, Reaction, SCRIPT_VARIABLE, Script, from_json},
    agent_raw,
};
use async_trait::async_trait;
use portcullis_agent_protocol::{
    Decision, Extensions, HealthState, RequestHeaders,
    server::{self, Agent, AgentError, Reporter, ServeOptions},
};
use serde_json::{Map, Value, json};
use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How often an answer that comes late looks whether it may.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// Not a test: the entry of a process that is an agent. It does nothing in the process that runs the tests.
#[test]
fn the_agent() {
    let Some(path) = std::env::var_os(SCRIPT_VARIABLE) else {
        return;
    };
    // The process that runs the tests may be killed; its agents go with it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let script: Script = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    if script.dialect == Dialect::Legacy {
        return agent_raw::serve(&Arc::new(script));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(serve(script));
}

async fn serve(script: Script) {
    let options = ServeOptions {
        extensions: match script.dialect {
            Dialect::Binary => Extensions::ALL,
            Dialect::NumberedJson => Extensions {
                binary: false,
                ..Extensions::ALL
            },
            Dialect::Json | Dialect::Legacy => Extensions::NONE,
        },
        ..ServeOptions::default()
    };
    tokio::spawn(report(script.says.clone(), options.reporter.clone()));
    let listener = server::bind_socket(&script.socket).unwrap();
    let agent = Arc::new(Scripted(script));
    server::serve(agent, listener, options, std::future::pending())
        .await
        .unwrap();
}

/// Says what the test wants to be said.
async fn report(says: PathBuf, reporter: Reporter) {
    let mut said = 0;
    loop {
        for word in new_words(&says, &mut said) {
            match word.as_str() {
                "pause" => reporter.pause(),
                "resume" => reporter.resume(),
                "degraded" => reporter.health(HealthState::Degraded),
                "draining" => reporter.health(HealthState::Draining),
                "unhealthy" => reporter.health(HealthState::Unhealthy),
                _ => reporter.health(HealthState::Healthy),
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The words behind those that were said.
pub(super) fn new_words(says: &Path, said: &mut usize) -> Vec<String> {
    let text = std::fs::read_to_string(says).unwrap_or_default();
    let words: Vec<String> = text.lines().skip(*said).map(str::to_owned).collect();
    *said += words.len();
    words
}

struct Scripted(Script);

#[async_trait]
impl Agent for Scripted {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn configure(&self, config: &Value) -> Result<(), String> {
        self.0.note("configure", json!({"config": config}));
        self.0.refusal_of(config).map_or(Ok(()), Err)
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        self.0.note("request_headers", described(event));
        let mut dropped = NotedWhenDropped(Some((&self.0, event.uri)));
        let decision = self.decide(event.path()).await;
        dropped.0 = None;
        decision
    }
}

/// Writes down that nobody wants the answer any longer: the proxy has cancelled the event, or the connection has ended.
struct NotedWhenDropped<'a>(Option<(&'a Script, &'a str)>);

impl Drop for NotedWhenDropped<'_> {
    fn drop(&mut self) {
        if let Some((script, uri)) = self.0 {
            script.note("dropped", json!({"uri": uri}));
        }
    }
}

impl Scripted {
    async fn decide(&self, path: &str) -> Result<Decision, AgentError> {
        match self.0.reaction_to(path) {
            Reaction::Answer(answer) => Ok(from_json(answer)),
            Reaction::Hang => std::future::pending().await,
            Reaction::Late(answer) => {
                while !self.0.release.exists() {
                    tokio::time::sleep(POLL).await;
                }
                Ok(from_json(answer))
            }
            Reaction::Exit => std::process::exit(1),
            Reaction::Overloaded(rest) => {
                let rest = rest.map(Duration::from_millis);
                Err(AgentError::overloaded(rest))
            }
            Reaction::Fail => Err(AgentError::new("the test wants it to fail")),
            Reaction::Panic => panic!("the test wants it to panic"),
            Reaction::Close | Reaction::Text(_) | Reaction::Bytes(_) => {
                Err(AgentError::new("only by hand: speak Dialect::Legacy"))
            }
        }
    }
}

fn described(event: &RequestHeaders<'_>) -> Value {
    let mut headers = Map::new();
    for name in event.headers.keys() {
        let values = event.headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        headers.insert(name.to_string(), json!(values));
    }
    let metadata = &event.metadata;
    json!({
        "method": event.method,
        "uri": event.uri,
        "headers": headers,
        "request_id": metadata.request_id,
        "client_ip": metadata.client_ip,
        "client_port": metadata.client_port,
        "protocol": metadata.protocol,
        "route_id": metadata.route_id,
        "upstream_id": metadata.upstream_id,
        "budget_left_ms": event.budget_left.map(|left| left.as_secs_f64() * 1000.0),
    })
}

impl Script {
    pub(super) fn reaction_to(&self, path: &str) -> &Reaction {
        let rule = self.rules.iter().find(|(wanted, _)| wanted == path);
        rule.map_or(&self.otherwise, |(_, reaction)| reaction)
    }

    /// Why the agent refuses this configuration.
    pub(super) fn refusal_of(&self, config: &Value) -> Option<String> {
        let marked = config.to_string().contains(&self.refuse_marked);
        self.refuse_config.clone().filter(|_| marked)
    }

    /// Writes down what the agent was told.
    pub(super) fn note(&self, event: &str, mut told: Value) {
        told["event"] = json!(event);
        append(&self.record, &format!("{told}\n"));
    }
}

/// In one write, so that lines of several threads do not mix.
pub(super) fn append(path: &Path, line: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(line.as_bytes()).unwrap();
}
