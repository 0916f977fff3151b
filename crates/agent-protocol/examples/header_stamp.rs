//! Sets and removes headers of requests and responses.
//!
//! ```text
//! cargo run --example header_stamp -- /tmp/stamp.sock
//! ```
//!
//! Its configuration: `{"request": {"x-edge": "eu-1"}, "response": {"x-frame-options": "DENY"}, "remove": "server"}`.
//! What is to be removed is removed from responses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use portcullis_agent_protocol::server::{self, Agent, AgentError, ServeOptions};
use portcullis_agent_protocol::{Decision, RequestHeaders};
use serde::Deserialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    request: BTreeMap<String, String>,
    response: BTreeMap<String, String>,
    remove: Names,
}

/// A list of one is a single value where an operator writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    Several(Vec<String>),
    One(String),
}

impl Default for Names {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

#[derive(Default)]
pub(crate) struct HeaderStamp {
    config: RwLock<Arc<Config>>,
}

#[async_trait::async_trait]
impl Agent for HeaderStamp {
    fn name(&self) -> &str {
        "header-stamp"
    }

    async fn configure(&self, config: &Value) -> Result<(), String> {
        let config = Config::deserialize(config).map_err(|error| error.to_string())?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        Ok(())
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let mut decision =
            Decision::allow().set_request_header("x-stamped-for", event.metadata.request_id);
        for (name, value) in &config.request {
            decision = decision.set_request_header(name, value);
        }
        // What is said of the response here waits until there is one, so that
        // the agent need not be asked again.
        let removed = match &config.remove {
            Names::Several(names) => names.as_slice(),
            Names::One(name) => std::slice::from_ref(name),
        };
        for name in removed {
            decision = decision.remove_response_header(name);
        }
        for (name, value) in &config.response {
            decision = decision.set_response_header(name, value);
        }
        Ok(decision)
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
    let agent = Arc::new(HeaderStamp::default());
    server::serve(agent, listener, ServeOptions::default(), stop).await
}
