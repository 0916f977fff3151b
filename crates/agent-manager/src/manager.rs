//! The agents of the process.

use crate::{
    agent::{Agent, AgentSettings, AgentStatus},
    chain::{self, Answer},
    link::Links,
    record::Record,
};
use portcullis_agent_protocol::RequestHeaders;
use portcullis_config::{AgentId, FailureMode};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// One agent in a step of a route's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentUse {
    /// The agent's position in what the manager was made with, see [`AgentManager::position`].
    pub agent: usize,
    /// One answer may take this long, waiting for the connection included.
    pub timeout: Duration,
    /// What a failure of this agent means on this route.
    pub failure_mode: FailureMode,
}

/// A step of a route's chain that asks agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// One agent, which sees what earlier steps changed.
    One(AgentUse),
    /// Several at once, all with the same view.
    Parallel(Vec<AgentUse>),
}

impl Step {
    /// The agents that the step asks.
    pub fn uses(&self) -> &[AgentUse] {
        match self {
            Self::One(used) => std::slice::from_ref(used),
            Self::Parallel(uses) => uses,
        }
    }
}

/// Knows every agent and asks them. One per process; workers attach to it.
#[derive(Debug)]
pub struct AgentManager {
    agents: Vec<Arc<Agent>>,
    stop: watch::Sender<bool>,
}

impl AgentManager {
    /// A manager of these agents. Nothing is connected before a worker attaches.
    pub fn new(agents: Vec<AgentSettings>, proxy_id: &str) -> Self {
        Self {
            agents: agents
                .into_iter()
                .map(|settings| Arc::new(Agent::new(settings, proxy_id)))
                .collect(),
            stop: watch::Sender::new(false),
        }
    }

    /// Where the agent of this name stands, for [`AgentUse::agent`].
    pub fn position(&self, id: &AgentId) -> Option<usize> {
        self.agents.iter().position(|agent| agent.id() == id)
    }

    /// Gives the calling worker its own connections. They are made on the current tokio runtime, which must be the
    /// worker's; the call does not wait for them.
    pub fn attach(&self) -> Links {
        Links::start(&self.agents, &self.stop.subscribe())
    }

    /// Asks the agents of a step about the head of a request and says what to do. A record of each question is added to
    /// `records`.
    pub async fn ask(
        &self,
        links: &Links,
        step: &Step,
        event: &RequestHeaders<'_>,
        records: &mut Vec<Record>,
    ) -> Answer {
        match step {
            Step::One(used) => chain::ask_one(links, used, event, records).await,
            Step::Parallel(uses) => chain::ask_parallel(links, uses, event, records).await,
        }
    }

    /// How the agents are doing, in the order of the configuration.
    pub fn status(&self) -> Vec<AgentStatus> {
        self.agents.iter().map(|agent| agent.status()).collect()
    }

    /// Closes all connections and makes no new ones. May be called more than once.
    pub fn shutdown(&self) {
        self.stop.send_replace(true);
    }
}
