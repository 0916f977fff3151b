//! The agents of one configuration. What an agent has become lives on in the next configuration when its settings are the
//! same: its breaker, its permits, its connections and its counters.

use crate::{
    agent::{Agent, AgentEnd},
    cache::{KeyContext, Subject},
    chain::{self, Answer, Ask},
    completions::{self, Completed},
    conversation::Conversation,
    headers::HeaderNames,
    observer::AgentObserver,
    pool::Links,
    quota::Quota,
    settings::AgentSettings,
    status::AgentStatus,
};
use portcullis_agent_protocol::{Event, EventKind, Metric};
use portcullis_config::{AgentId, FailureMode};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// An agent as a route uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentUse {
    /// The agent's position in what the manager was made with, see [`AgentManager::position`].
    pub agent: usize,
    /// One answer may take this long, waiting for the connection included.
    pub timeout: Duration,
    /// What a failure of this agent means on this route.
    pub failure_mode: FailureMode,
}

/// Knows every agent of a configuration and asks them. Workers [attach](Self::attach) to it.
#[derive(Debug)]
pub struct AgentManager {
    agents: Vec<Arc<Agent>>,
    owned: HeaderNames,
    /// By position: what others own, which the agent must not set.
    foreign: Vec<Arc<HeaderNames>>,
    /// By key; agents without one have their own.
    quotas: BTreeMap<String, Arc<Quota>>,
}

/// An agent that could not be made ready, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// Which.
    pub agent: AgentId,
    /// It refused its configuration, or does not take the events that it is configured for; waiting longer does not help.
    pub refused: bool,
    /// In the words of the agent or of the last attempt to connect.
    pub reason: String,
}

impl AgentManager {
    /// A manager of these agents. Nothing is connected before a worker attaches. `observer` makes, for the agent of each
    /// name, what is told of that which no request sees. An agent whose settings are those that it has in `previous`
    /// is that agent: it keeps its connections, its breaker, its permits and its counters.
    pub fn new(
        agents: Vec<AgentSettings>,
        previous: Option<&Self>,
        proxy_id: &str,
        observer: impl Fn(&AgentId) -> Option<Arc<dyn AgentObserver>>,
    ) -> Self {
        let quotas = quotas(&agents, previous);
        let agents: Vec<Arc<Agent>> = agents
            .into_iter()
            .map(|settings| {
                let kept = previous.and_then(|previous| previous.with(&settings));
                kept.cloned().unwrap_or_else(|| {
                    let observer = observer(&settings.id);
                    let key = settings.overload.quota_key.as_ref();
                    let quota = key.and_then(|key| quotas.get(key)).cloned();
                    let quota = quota.unwrap_or_default();
                    Arc::new(Agent::new(settings, proxy_id, quota, observer))
                })
            })
            .collect();
        let mut owned = HeaderNames::default();
        for agent in &agents {
            owned.extend(&agent.settings.headers.owns);
        }
        let foreign = agents
            .iter()
            .map(|agent| {
                let mut foreign = HeaderNames::default();
                for other in agents.iter().filter(|other| other.id() != agent.id()) {
                    foreign.extend(&other.settings.headers.owns);
                }
                Arc::new(foreign)
            })
            .collect();
        Self {
            agents,
            owned,
            foreign,
            quotas,
        }
    }

    fn with(&self, settings: &AgentSettings) -> Option<&Arc<Agent>> {
        self.agents
            .iter()
            .find(|agent| agent.settings == *settings && !agent.is_stopping())
    }

    fn has(&self, agent: &Arc<Agent>) -> bool {
        self.agents.iter().any(|other| Arc::ptr_eq(other, agent))
    }

    /// Headers that some agent owns: no client may send them, on any route.
    pub fn owned_headers(&self) -> &HeaderNames {
        &self.owned
    }

    /// Where the agent of this name stands, for [`AgentUse::agent`].
    pub fn position(&self, id: &AgentId) -> Option<usize> {
        self.agents.iter().position(|agent| agent.id() == id)
    }

    /// Gives the calling worker its own connections. New ones are made on the current tokio runtime, which must be the
    /// worker's; the call does not wait for them. Those of `previous`, of the same worker, are kept for agents that are
    /// the same.
    pub fn attach(&self, previous: Option<&Links>) -> Links {
        Links::start(&self.agents, &self.foreign, previous)
    }

    /// Waits until those of the agents that `previous` does not have are ready, each on every worker that has attached, or
    /// have refused, or `limit` is over; agents that are not `awaited` are left out. Returns those that are not ready.
    pub async fn settled(
        &self,
        previous: &Self,
        limit: Duration,
        awaited: impl Fn(&AgentId) -> bool,
    ) -> Vec<Unsettled> {
        let deadline = Instant::now() + limit;
        let mut unsettled = Vec::new();
        let agents = self.agents.iter();
        for agent in agents.filter(|agent| !previous.has(agent) && awaited(agent.id())) {
            let ready = timeout_at(deadline, agent.ready_or_refused()).await;
            match ready {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => unsettled.push(Unsettled {
                    agent: agent.id().clone(),
                    refused: true,
                    reason,
                }),
                Err(_) => unsettled.push(Unsettled {
                    agent: agent.id().clone(),
                    refused: false,
                    reason: agent.status().problem(),
                }),
            }
        }
        unsettled
    }

    /// Asks one agent, or several at once that all have the same view, and says what to do. A record of each question is
    /// added to the conversation.
    pub async fn ask(
        &self,
        links: &Links,
        asks: &[Ask<'_>],
        conversation: &Conversation,
    ) -> Answer {
        self.ask_about(links, asks, None, conversation).await
    }

    /// The same about the head of a request, of which verdicts may be known from earlier requests: those of agents that keep
    /// them, under the key that `context` completes. Without it nothing is kept and nothing known.
    pub async fn ask_about(
        &self,
        links: &Links,
        asks: &[Ask<'_>],
        context: Option<&KeyContext<'_>>,
        conversation: &Conversation,
    ) -> Answer {
        let subject = context.zip(asks.first()).and_then(|(context, ask)| {
            let Event::RequestHeaders(head) = ask.event else {
                return None;
            };
            let owned = &self.owned;
            Some(Subject {
                context,
                head,
                owned,
            })
        });
        let subject = subject.as_ref();
        match asks {
            [ask] => chain::ask_one(links, ask, subject, conversation).await,
            asks => chain::ask_parallel(links, asks, subject, conversation).await,
        }
    }

    /// Whether verdicts of the agent at this position are kept.
    pub fn keeps_verdicts(&self, agent: usize) -> bool {
        self.agents[agent].verdicts.is_some()
    }

    /// The most bytes of a body that the agent at this position is shown at a time with this kind of event.
    pub fn preferred_chunk(&self, agent: usize, kind: EventKind) -> usize {
        self.agents[agent].preferred_chunk(kind)
    }

    /// The name of the agent at this position.
    pub fn name(&self, agent: usize) -> &AgentId {
        self.agents[agent].id()
    }

    /// Tells these agents that the request of this conversation is over, those of them that want to know it; of an agent with
    /// replicas the one that knows the request. Never waits: what they do not keep up with is dropped and counted.
    pub fn completed(
        &self,
        links: &Links,
        agents: &[usize],
        completed: &Arc<Completed>,
        conversation: &Conversation,
    ) {
        for agent in agents {
            let replica = conversation.replica(*agent);
            completions::tell(links.pool(*agent), completed, replica);
        }
    }

    /// How the agents are doing, in the order of the configuration.
    pub fn status(&self) -> Vec<AgentStatus> {
        self.agents.iter().map(|agent| agent.status()).collect()
    }

    /// The metrics that agents have reported of themselves, as they hold now, in the order of the configuration. Names and
    /// labels are such that they can be shown.
    pub fn reported(&self) -> Vec<(AgentId, Vec<Metric>)> {
        let agents = self.agents.iter();
        let reported = agents.map(|agent| (agent.id().clone(), agent.reported()));
        reported
            .filter(|(_, metrics)| !metrics.is_empty())
            .collect()
    }

    /// What resolves when nobody uses the agent of this name any more: no worker has a connection to it and no request
    /// that began with this configuration may still ask it. `None` when there is no such agent.
    pub fn end_of(&self, id: &AgentId) -> Option<AgentEnd> {
        let agent = self.agents.iter().find(|agent| agent.id() == id)?;
        Some(agent.end())
    }

    /// Takes no new calls, lets those under way finish and closes all connections; may be called again, which asks the
    /// same.
    ///
    /// # Errors
    /// The agents that had connections left at the end of `limit`, with their number. These connections end with their
    /// workers.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), Vec<(AgentId, usize)>> {
        for agent in &self.agents {
            agent.stop();
        }
        let deadline = Instant::now() + limit;
        let mut left = Vec::new();
        for agent in &self.agents {
            if timeout_at(deadline, agent.disconnected()).await.is_err() {
                left.push((agent.id().clone(), agent.status().connections));
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    }
}

/// The quotas that agents share. Those that were shared before are the same ones.
fn quotas(
    agents: &[AgentSettings],
    previous: Option<&AgentManager>,
) -> BTreeMap<String, Arc<Quota>> {
    let keys = agents
        .iter()
        .filter_map(|settings| settings.overload.quota_key.as_ref());
    keys.map(|key| {
        let kept = previous.and_then(|previous| previous.quotas.get(key));
        (key.clone(), kept.cloned().unwrap_or_default())
    })
    .collect()
}
