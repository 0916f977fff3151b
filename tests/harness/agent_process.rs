//! The agent's side of [`TestAgent`](super::TestAgent): what the process does that is an agent.

use super::{
    agent::{Dialect, Phase, Reaction, SCRIPT_VARIABLE, Script, Told},
    agent_json::from_json,
    agent_raw,
    agent_ways::{Grpc, Place, tls_file},
};
use async_trait::async_trait;
use http::HeaderMap;
use portcullis_agent_protocol::{
    BodyChunk, Capabilities, Decision, EventKind, Extensions, GuardrailInspect, HealthState,
    Metric, MetricValue, MetricsReport, RequestComplete, RequestHeaders, ResponseHeaders, TlsFiles,
    WebSocketFrame,
    server::{self, Agent, AgentError, DialOptions, DialTarget, Reporter, ServeOptions, ServerTls},
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
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
    if let Some(reverse) = &script.reverse {
        let proxy = DialOptions {
            proxy: dial_target(&reverse.place),
            agent_id: reverse.agent_id.clone(),
            token: Some(reverse.token.clone()),
        };
        let agent = Arc::new(Scripted(script));
        return server::dial(agent, proxy, options, std::future::pending()).await;
    }
    if let Some(Grpc { address, tls }) = script.grpc {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let tls = tls.then(|| ServerTls {
            certificate: tls_file("agent.pem"),
            key: tls_file("agent.key"),
            client_ca: Some(tls_file("ca.pem")),
        });
        let agent = Arc::new(Scripted(script));
        let serving =
            server::serve_grpc(agent, listener, tls, options, std::future::pending()).await;
        return serving.unwrap();
    }
    let listener = server::bind_socket(&script.socket).unwrap();
    let agent = Arc::new(Scripted(script));
    server::serve(agent, listener, options, std::future::pending())
        .await
        .unwrap();
}

fn dial_target(place: &Place) -> DialTarget {
    match place {
        Place::Socket(path) => DialTarget::UnixSocket(path.clone()),
        Place::Tls(address, client) => DialTarget::Tls {
            address: address.to_string(),
            tls: TlsFiles {
                ca: Some(tls_file("ca.pem")),
                server_name: Some(client.expects.clone()),
                identity: client.shows.as_ref().map(|name| {
                    let file = |kind: &str| tls_file(&format!("{name}.{kind}"));
                    (file("pem"), file("key"))
                }),
            },
        },
    }
}

/// Says what the test wants to be said.
async fn report(says: PathBuf, reporter: Reporter) {
    let mut said = 0;
    loop {
        for word in new_words(&says, &mut said) {
            match word.as_str() {
                "pause" => reporter.pause(),
                "resume" => reporter.resume(),
                "purge" => reporter.purge_verdicts(),
                "reload" => reporter.request_reload(),
                "metrics" => reporter.metrics(some_metrics()),
                "degraded" => reporter.health(HealthState::Degraded),
                "draining" => reporter.health(HealthState::Draining),
                "unhealthy" => reporter.health(HealthState::Unhealthy),
                _ => reporter.health(HealthState::Healthy),
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What an agent may report of itself.
fn some_metrics() -> MetricsReport {
    let value = MetricValue::Counter(7.0);
    let labels = vec![("rule".to_owned(), "a".to_owned())];
    MetricsReport {
        metrics: vec![Metric {
            name: "hits_total".to_owned(),
            help: "Rules that matched".to_owned(),
            labels,
            value,
        }],
        interval: Some(Duration::from_secs(10)),
        unreadable: 0,
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

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new(self.name(), &self.0.version).with_events(&[
            EventKind::RequestHeaders,
            EventKind::RequestBodyChunk,
            EventKind::ResponseHeaders,
            EventKind::ResponseBodyChunk,
            EventKind::WebSocketFrame,
            EventKind::GuardrailInspect,
            EventKind::RequestComplete,
        ]);
        capabilities.limits.preferred_chunk_size = self.0.preferred_chunk;
        capabilities
    }

    async fn configure(&self, config: &Value) -> Result<(), String> {
        self.0.note("configure", json!({"config": config}));
        self.0.refusal_of(config).map_or(Ok(()), Err)
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        self.0.note("request_headers", described(event));
        remember(event.metadata.correlation_id, event.path());
        let told = json!({"phase": "request_headers", "uri": event.uri});
        let mut dropped = NotedWhenDropped(Some((&self.0, told)));
        let decision = self.react(self.0.reaction_to(event.path())).await;
        dropped.0 = None;
        decision.map(|decision| self.0.tell(decision, event))
    }

    async fn request_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        self.chunk(Phase::RequestBody, event).await
    }

    async fn response_headers(&self, event: &ResponseHeaders<'_>) -> Result<Decision, AgentError> {
        let told = json!({
            "correlation_id": event.correlation_id,
            "status": event.status,
            "headers": fields(event.headers),
        });
        let lines = lines(event.headers);
        let head = Told {
            path: &path_of(event.correlation_id),
            data: &lines,
            ..Told::default()
        };
        self.later(Phase::ResponseHeaders, told, head).await
    }

    async fn response_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        self.chunk(Phase::ResponseBody, event).await
    }

    async fn websocket_frame(&self, event: &WebSocketFrame<'_>) -> Result<Decision, AgentError> {
        let told = Told {
            path: &path_of(event.correlation_id),
            index: u32::try_from(event.index).unwrap_or(u32::MAX),
            is_last: event.fin,
            data: &event.data,
        };
        let replaced = match self.0.reaction_in(Phase::Frames, &told) {
            Some(Reaction::Replace(text)) => Some(replacement(text, &event.data)),
            _ => None,
        };
        let decision = self
            .later(Phase::Frames, described_frame(event), told)
            .await?;
        Ok(match replaced {
            Some(data) => decision.replace_frame(data),
            None => decision,
        })
    }

    async fn guardrail_inspect(
        &self,
        event: &GuardrailInspect<'_>,
    ) -> Result<Decision, AgentError> {
        let told = json!({
            "correlation_id": event.correlation_id,
            "inspection_type": event.inspection_type.name(),
            "content": event.content,
            "model": event.model,
            "categories": event.categories,
            "route_id": event.route_id,
            "metadata": {"direction": if event.is_response { "response" } else { "request" }},
        });
        let text = Told {
            data: event.content.as_bytes(),
            ..Told::default()
        };
        self.later(Phase::Texts, told, text).await
    }

    async fn request_complete(&self, event: &RequestComplete<'_>) {
        let told = json!({
            "correlation_id": event.correlation_id,
            "status": event.status,
            "request_body_size": event.request_body_size,
            "response_body_size": event.response_body_size,
            "upstream_attempts": event.upstream_attempts,
            "error": event.error,
        });
        let _ = self.later(Phase::Complete, told, Told::default()).await;
    }
}

/// What a piece looks like in the record.
fn described_chunk(event: &BodyChunk<'_>) -> Value {
    /// More of the piece is not written down.
    const MOST: usize = 256;
    let data = &event.data[..event.data.len().min(MOST)];
    json!({
        "correlation_id": event.correlation_id,
        "index": event.index,
        "is_last": event.is_last,
        "size": event.data.len(),
        "data": String::from_utf8_lossy(data),
        "total_size": event.total_size,
        "transferred": event.transferred,
        "truncated": event.truncated,
        "trailers": event.trailers.map(fields),
    })
}

/// What a frame looks like in the record.
fn described_frame(event: &WebSocketFrame<'_>) -> Value {
    /// More of it is not written down.
    const MOST: usize = 256;
    let data = &event.data[..event.data.len().min(MOST)];
    json!({
        "correlation_id": event.correlation_id,
        "opcode": event.opcode.name(),
        "client_to_server": event.client_to_server,
        "index": event.index,
        "fin": event.fin,
        "size": event.data.len(),
        "data": String::from_utf8_lossy(data),
        "route_id": event.route_id,
        "client_ip": event.client_ip,
    })
}

/// The paths of requests whose heads the agent has seen. A process is one agent.
static PATHS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Keeps the path of a request for its later events.
pub(super) fn remember(correlation_id: &str, path: &str) {
    let mut paths = PATHS.lock().unwrap();
    paths.insert(correlation_id.to_owned(), path.to_owned());
}

/// Without the query; empty when the head was not seen.
pub(super) fn path_of(correlation_id: &str) -> String {
    let paths = PATHS.lock().unwrap();
    paths.get(correlation_id).cloned().unwrap_or_default()
}

/// Writes down that nobody wants the answer any longer: the proxy has cancelled the event, or the connection has ended.
struct NotedWhenDropped<'a>(Option<(&'a Script, Value)>);

impl Drop for NotedWhenDropped<'_> {
    fn drop(&mut self) {
        if let Some((script, told)) = self.0.take() {
            script.note("dropped", told);
        }
    }
}

impl Scripted {
    async fn chunk(&self, phase: Phase, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        let told = Told {
            path: &path_of(event.correlation_id),
            index: event.index,
            is_last: event.is_last,
            data: &event.data,
        };
        let replaced = match self.0.reaction_in(phase, &told) {
            Some(Reaction::Replace(text)) => Some(replacement(text, &event.data)),
            _ => None,
        };
        let decision = self.later(phase, described_chunk(event), told).await?;
        Ok(match (replaced, phase) {
            (None, _) => decision,
            (Some(piece), Phase::RequestBody) => decision.replace_request_body(piece),
            (Some(piece), _) => decision.replace_response_body(piece),
        })
    }

    /// What it does in a phase after that of the request's head.
    async fn later(
        &self,
        phase: Phase,
        told: Value,
        piece: Told<'_>,
    ) -> Result<Decision, AgentError> {
        let about = json!({"phase": phase.event(), "correlation_id": told["correlation_id"]});
        self.0.note(phase.event(), told);
        let Some(reaction) = self.0.reaction_in(phase, &piece) else {
            return Ok(Decision::allow());
        };
        let mut dropped = NotedWhenDropped(Some((&self.0, about)));
        let decision = self.react(reaction).await;
        dropped.0 = None;
        decision
    }

    async fn react(&self, reaction: &Reaction) -> Result<Decision, AgentError> {
        match reaction {
            Reaction::Answer(answer) => Ok(from_json(answer)),
            Reaction::Replace(_) => Ok(Decision::allow()),
            Reaction::Hang => std::future::pending().await,
            Reaction::Late(answer) => {
                while !self.0.release.exists() {
                    tokio::time::sleep(POLL).await;
                }
                Ok(from_json(answer))
            }
            Reaction::Slow(takes, answer) => {
                tokio::time::sleep(Duration::from_millis(*takes)).await;
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

/// A head as a rule looks into it.
fn lines(headers: &HeaderMap) -> Vec<u8> {
    let mut lines = Vec::new();
    for (name, value) in headers {
        let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"];
        lines.extend_from_slice(&line.concat());
    }
    lines
}

/// Names with their values.
fn fields(headers: &HeaderMap) -> Value {
    let mut fields = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        fields.insert(name.to_string(), json!(values));
    }
    fields.into()
}

/// The text with the piece in it.
pub(super) fn replacement(text: &str, piece: &[u8]) -> Vec<u8> {
    match text.split_once("$DATA") {
        Some((before, behind)) => [before.as_bytes(), piece, behind.as_bytes()].concat(),
        None => text.into(),
    }
}

fn described(event: &RequestHeaders<'_>) -> Value {
    let metadata = &event.metadata;
    json!({
        "method": event.method,
        "uri": event.uri,
        "headers": fields(event.headers),
        "request_id": metadata.request_id,
        "client_ip": metadata.client_ip,
        "client_port": metadata.client_port,
        "protocol": metadata.protocol,
        "server_name": metadata.server_name,
        "tls_version": metadata.tls_version,
        "tls_cipher": metadata.tls_cipher,
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

    pub(super) fn reaction_in(&self, phase: Phase, told: &Told<'_>) -> Option<&Reaction> {
        let mut rules = self.phases.iter();
        let rule = rules.find(|rule| rule.phase == phase && rule.when.applies(told));
        rule.map(|rule| &rule.reaction)
    }

    /// Adds what the agent saw to what it decides, if it does that.
    fn tell(&self, decision: Decision, event: &RequestHeaders<'_>) -> Decision {
        let Some((header, names)) = self.tells.as_ref().filter(|_| decision.is_allow()) else {
            return decision;
        };
        let mut seen = Vec::new();
        for name in names {
            match name.as_str() {
                ":method" => seen.push(event.method.to_owned()),
                ":target" => seen.push(event.uri.to_owned()),
                name => {
                    let values = event.headers.get_all(name).iter();
                    seen.extend(values.map(|value| format!("{name}={}", value.to_str().unwrap())));
                }
            }
        }
        let told = seen.join(" ");
        decision
            .set_request_header(header, &told)
            .set_response_header(header, told)
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
