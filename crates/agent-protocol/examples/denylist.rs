//! Blocks requests by path, user agent and address of the client.
//!
//! ```text
//! cargo run --example denylist -- /tmp/denylist.sock
//! ```
//!
//! Its configuration: `{"paths": ["/admin"], "user-agents": ["sqlmap"], "client-networks": ["198.51.100.0/24"]}`.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::USER_AGENT;
use ipnet::IpNet;
use portcullis_agent_protocol::server::{self, Agent, AgentError, ServeOptions};
use portcullis_agent_protocol::{Decision, RequestHeaders};
use serde::Deserialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    /// Whole paths, as the proxy writes them.
    paths: OneOrMore,
    /// Parts of user agents, in any case.
    user_agents: OneOrMore,
    /// As in `198.51.100.0/24`.
    client_networks: OneOrMore,
}

/// A list of one is a single value where an operator writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    More(Vec<String>),
    One(String),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl OneOrMore {
    fn all(self) -> Vec<String> {
        match self {
            Self::More(values) => values,
            Self::One(value) => vec![value],
        }
    }
}

/// A configuration that has been looked at.
#[derive(Default)]
struct Rules {
    paths: Vec<String>,
    /// In lower case.
    user_agents: Vec<String>,
    client_networks: Vec<IpNet>,
}

impl Rules {
    fn new(config: &Value) -> Result<Self, String> {
        let config = Config::deserialize(config).map_err(|error| error.to_string())?;
        let network = |text: String| {
            text.parse()
                .map_err(|_| format!("`client-networks`: {text:?} is not a network"))
        };
        let networks = config.client_networks.all().into_iter().map(network);
        let parts = config.user_agents.all();
        Ok(Self {
            paths: config.paths.all(),
            user_agents: parts.iter().map(|part| part.to_lowercase()).collect(),
            client_networks: networks.collect::<Result<_, _>>()?,
        })
    }

    fn reason_against(&self, event: &RequestHeaders<'_>) -> Option<String> {
        let path = event.path();
        if self.paths.iter().any(|denied| denied == path) {
            return Some(format!("path:{path}"));
        }
        // All of them, and as bytes: neither a second one nor an odd byte must
        // hide what is looked for.
        for value in event.headers.get_all(USER_AGENT) {
            let value = String::from_utf8_lossy(value.as_bytes()).to_lowercase();
            if let Some(part) = self.user_agents.iter().find(|part| value.contains(*part)) {
                return Some(format!("user-agent:{part}"));
            }
        }
        let client = event.metadata.client_ip;
        let mut networks = self.client_networks.iter();
        let network = networks.find(|network| network.contains(&client))?;
        Some(format!("client:{network}"))
    }
}

#[derive(Default)]
pub(crate) struct Denylist {
    rules: RwLock<Arc<Rules>>,
}

#[async_trait::async_trait]
impl Agent for Denylist {
    fn name(&self) -> &str {
        "denylist"
    }

    async fn configure(&self, config: &Value) -> Result<(), String> {
        let rules = Arc::new(Rules::new(config)?);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        Ok(())
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        let rules = Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner));
        Ok(match rules.reason_against(event) {
            Some(reason) => Decision::block(403).reason(reason),
            None => Decision::allow(),
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
    let agent = Arc::new(Denylist::default());
    server::serve(agent, listener, ServeOptions::default(), stop).await
}
