//! The agents of the process.

use crate::{
    agent::{Agent, AgentSettings, AgentStatus, WaitObserver},
    chain::{self, Answer},
    conversation::Conversation,
    headers::OwnedHeaders,
    pool::Links,
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
    owned: OwnedHeaders,
    stop: watch::Sender<bool>,
}

impl AgentManager {
    /// A manager of these agents. Nothing is connected before a worker attaches. `on_wait` makes, for the agent of each
    /// name, what is told how long calls waited for a permit.
    pub fn new(
        agents: Vec<AgentSettings>,
        proxy_id: &str,
        on_wait: impl Fn(&AgentId) -> Option<WaitObserver>,
    ) -> Self {
        let agents: Vec<Arc<Agent>> = agents
            .into_iter()
            .map(|settings| {
                let observer = on_wait(&settings.id);
                Arc::new(Agent::new(settings, proxy_id, observer))
            })
            .collect();
        let mut owned = OwnedHeaders::default();
        for agent in &agents {
            owned.extend(&agent.settings.headers.owns);
            let mut foreign = OwnedHeaders::default();
            for other in agents.iter().filter(|other| other.id() != agent.id()) {
                foreign.extend(&other.settings.headers.owns);
            }
            // The agents are new, so nobody has set it before.
            let _ = agent.foreign.set(foreign);
        }
        Self {
            agents,
            owned,
            stop: watch::Sender::new(false),
        }
    }

    /// Headers that some agent owns: no client may send them, on any route.
    pub fn owned_headers(&self) -> &OwnedHeaders {
        &self.owned
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
    /// the conversation.
    pub async fn ask(
        &self,
        links: &Links,
        step: &Step,
        event: &RequestHeaders<'_>,
        conversation: &mut Conversation,
    ) -> Answer {
        match step {
            Step::One(used) => chain::ask_one(links, used, event, conversation).await,
            Step::Parallel(uses) => chain::ask_parallel(links, uses, event, conversation).await,
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
