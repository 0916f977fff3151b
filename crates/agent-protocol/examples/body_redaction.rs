//! Replaces in bodies what a regular expression matches, also where a match
//! lies across the border of two pieces.
//!
//! ```text
//! cargo run --example body_redaction -- /tmp/redact.sock
//! ```
//!
//! Its configuration: `{"pattern": "\\b\\d{16}\\b", "replacement": "[card]", "max-match": 16}`.
//!
//! Of a body is held back what the beginning of a match could be, at most
//! `max-match` bytes and one more. A match that is longer than that may be
//! replaced in part.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use portcullis_agent_protocol::server::{self, Agent, AgentError, PerRequest, ServeOptions};
use portcullis_agent_protocol::{BodyChunk, Capabilities, Decision, EventKind};
use regex::bytes::Regex;
use serde::Deserialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

/// So many bodies in each direction.
const MOST_BODIES: usize = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    pattern: String,
    #[serde(default)]
    replacement: String,
    /// The longest match, in bytes.
    #[serde(default = "default_max_match")]
    max_match: usize,
}

fn default_max_match() -> usize {
    256
}

/// A configuration that has been looked at.
struct Rule {
    expression: Regex,
    replacement: Vec<u8>,
    max_match: usize,
}

impl Rule {
    fn new(config: &Value) -> Result<Self, String> {
        let config = Config::deserialize(config).map_err(|error| error.to_string())?;
        let expression = Regex::new(&config.pattern).map_err(|error| error.to_string())?;
        if expression.is_match(b"") {
            return Err("`pattern` matches where nothing is".to_owned());
        }
        if !(1..=65_536).contains(&config.max_match) {
            return Err("`max-match` is not within 1 and 65536".to_owned());
        }
        Ok(Self {
            expression,
            replacement: config.replacement.into_bytes(),
            max_match: config.max_match,
        })
    }
}

/// What is kept of one body between its pieces.
#[derive(Default)]
struct Redactor {
    kept: Vec<u8>,
    /// How many bytes at its beginning have gone on already. They are there
    /// because whether a word begins depends on what is before it.
    passed: usize,
}

impl Redactor {
    /// What goes on in the place of this piece.
    fn feed(&mut self, rule: &Rule, data: &[u8], is_last: bool) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.kept);
        text.extend_from_slice(data);
        // What begins before here can be seen whole, and what follows it.
        let certain = match is_last {
            true => text.len(),
            false => text
                .len()
                .saturating_sub(rule.max_match + 1)
                .max(self.passed),
        };
        let (mut out, mut at) = (Vec::with_capacity(text.len()), self.passed);
        while let Some(found) = rule.expression.find_at(&text, at) {
            if found.start() >= certain {
                break;
            }
            out.extend_from_slice(&text[at..found.start()]);
            out.extend_from_slice(&rule.replacement);
            at = found.end();
        }
        if at < certain {
            out.extend_from_slice(&text[at..certain]);
            at = certain;
        }
        self.passed = at.min(1);
        self.kept = text.split_off(at - self.passed);
        out
    }
}

pub(crate) struct BodyRedaction {
    rule: RwLock<Option<Arc<Rule>>>,
    requests: PerRequest<Redactor>,
    responses: PerRequest<Redactor>,
}

impl BodyRedaction {
    pub(crate) fn new() -> Self {
        Self {
            rule: RwLock::default(),
            requests: PerRequest::new(MOST_BODIES),
            responses: PerRequest::new(MOST_BODIES),
        }
    }

    fn redact(
        &self,
        bodies: &PerRequest<Redactor>,
        chunk: &BodyChunk<'_>,
    ) -> Result<Vec<u8>, AgentError> {
        let rule = self.rule.read().unwrap_or_else(PoisonError::into_inner);
        let rule = rule
            .clone()
            .ok_or_else(|| AgentError::new("there is no configuration"))?;
        // It is taken out, because the expression may run for a while. Not the
        // beginning of a body whose first pieces went elsewhere.
        let earlier = bodies.remove(chunk.correlation_id);
        let mut redactor = match chunk.index {
            0 => Redactor::default(),
            _ => {
                earlier.ok_or_else(|| AgentError::new("the beginning of the body is forgotten"))?
            }
        };
        let out = redactor.feed(&rule, &chunk.data, chunk.is_last);
        if !chunk.is_last {
            bodies.with(chunk.correlation_id, || redactor, |_| ());
        }
        Ok(out)
    }
}

#[async_trait::async_trait]
impl Agent for BodyRedaction {
    fn name(&self) -> &str {
        "body-redaction"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.name(), self.version())
            .with_events(&[EventKind::RequestBodyChunk, EventKind::ResponseBodyChunk])
    }

    async fn configure(&self, config: &Value) -> Result<(), String> {
        let rule = Arc::new(Rule::new(config)?);
        *self.rule.write().unwrap_or_else(PoisonError::into_inner) = Some(rule);
        Ok(())
    }

    async fn request_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        let data = self.redact(&self.requests, event)?;
        Ok(match data == event.data {
            true => Decision::allow(),
            false => Decision::allow().replace_request_body(data),
        })
    }

    async fn response_body_chunk(&self, event: &BodyChunk<'_>) -> Result<Decision, AgentError> {
        let data = self.redact(&self.responses, event)?;
        Ok(match data == event.data {
            true => Decision::allow(),
            false => Decision::allow().replace_response_body(data),
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let argument = std::env::args_os().nth(1).map(PathBuf::from);
    let path = argument
        .or_else(server::socket_from_env)
        .unwrap_or_else(|| "agent.sock".into());
    let listener = server::bind_socket(&path)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        terminate.recv().await;
    };
    let agent = Arc::new(BodyRedaction::new());
    server::serve(agent, listener, ServeOptions::default(), stop).await
}
