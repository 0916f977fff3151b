//! The sockets at which agents register that dial us. What is registered is served on the control thread and shared by the
//! workers.

use super::proxy_id;
use portcullis_agent_protocol::{
    RegisterError, ReverseAgent, ReverseDoor, ReverseSettings, server,
};
use portcullis_config::{Agent, AgentReverse, AgentTransport};
use std::{
    collections::BTreeMap,
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::UnixListener, sync::Semaphore, task::AbortHandle};

/// So many may be about to register at one socket at once; further ones wait.
const REGISTERING: usize = 64;
/// How long nothing is accepted after accepting went wrong.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The agents that dial us, as they are in effect and as they are prepared.
#[derive(Default)]
pub(super) struct Doors {
    open: BTreeMap<PathBuf, Open>,
}

/// Accepts as long as this lives. What has registered stays.
struct Open {
    mode: u32,
    agents: Arc<Mutex<Vec<ReverseAgent>>>,
    accepting: AbortHandle,
    path: PathBuf,
}

/// What another configuration has, bound and not yet in use.
pub(super) struct Plan(Vec<Planned>);

struct Planned {
    path: PathBuf,
    mode: u32,
    agents: Vec<ReverseAgent>,
    /// `None`: it is open already.
    listener: Option<UnixListener>,
}

impl Doors {
    /// The agent at its socket: the one that is there when the same may register, so that it stays registered.
    pub(super) fn agent(&self, agent: &Agent, reverse: &AgentReverse) -> ReverseAgent {
        let settings = settings(agent, reverse);
        let open = self.open.get(&reverse.path);
        let found = open.and_then(|open| {
            let agents = open.agents.lock().unwrap_or_else(PoisonError::into_inner);
            agents.iter().find(|it| *it.settings() == settings).cloned()
        });
        found.unwrap_or_else(|| ReverseAgent::new(settings))
    }

    /// Binds what is not open yet for the agents that are configured. `agents` are those of them that [`agent`](Self::agent) gave.
    ///
    /// # Errors
    /// A socket cannot be listened on.
    pub(super) fn plan(&self, configured: &[Agent], agents: &[ReverseAgent]) -> io::Result<Plan> {
        let mut planned: Vec<Planned> = Vec::new();
        for reverse in configured.iter().filter_map(reverse) {
            if planned.iter().any(|it| it.path == reverse.path) {
                continue;
            }
            let at =
                |agent: &&Agent| self::reverse(agent).is_some_and(|it| it.path == reverse.path);
            let here = configured.iter().filter(at);
            let here = here.filter_map(|agent| {
                agents
                    .iter()
                    .find(|it| it.settings().id == agent.id.to_string())
                    .cloned()
            });
            let listener = match self.open.contains_key(&reverse.path) {
                true => None,
                false => Some(bind(&reverse.path, reverse.mode)?),
            };
            planned.push(Planned {
                path: reverse.path.clone(),
                mode: reverse.mode,
                agents: here.collect(),
                listener,
            });
        }
        Ok(Plan(planned))
    }

    /// Accepts where it was planned, on the current runtime, and nowhere else.
    pub(super) fn adopt(&mut self, mut plan: Plan) {
        let mut before = std::mem::take(&mut self.open);
        for planned in std::mem::take(&mut plan.0) {
            let open = match (planned.listener, before.remove(&planned.path)) {
                (None, Some(mut open)) => {
                    open.set_mode(planned.mode);
                    *open.agents.lock().unwrap_or_else(PoisonError::into_inner) = planned.agents;
                    open
                }
                (Some(listener), _) => {
                    Open::new(&planned.path, planned.mode, planned.agents, listener)
                }
                // What is kept was open when it was planned, and nothing closes it meanwhile.
                (None, None) => continue,
            };
            self.open.insert(planned.path, open);
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        for planned in &self.0 {
            if planned.listener.is_some() {
                // Nobody accepts there.
                let _ = std::fs::remove_file(&planned.path);
            }
        }
    }
}

impl Open {
    fn new(path: &Path, mode: u32, agents: Vec<ReverseAgent>, listener: UnixListener) -> Self {
        let agents = Arc::new(Mutex::new(agents));
        let accepting = tokio::spawn(accept(listener, agents.clone())).abort_handle();
        Self {
            mode,
            agents,
            accepting,
            path: path.to_owned(),
        }
    }

    fn set_mode(&mut self, mode: u32) {
        if mode == self.mode {
            return;
        }
        match std::fs::set_permissions(&self.path, Permissions::from_mode(mode)) {
            Ok(()) => self.mode = mode,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the mode of the socket stays as it was");
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.accepting.abort();
        // It may be gone already; nobody can register there either way.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, agents: Arc<Mutex<Vec<ReverseAgent>>>) {
    let places = Arc::new(Semaphore::new(REGISTERING));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept agents that dial");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let agents = agents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let door = ReverseDoor {
            agents,
            proxy_id: proxy_id(),
        };
        tokio::spawn(async move {
            let registered = |agent: &str| {
                drop(place);
                tracing::info!(agent, "agent has registered");
            };
            if let Err(error) = door.receive(stream, registered).await {
                let agent = match &error {
                    RegisterError::Refused { id, .. } => id.as_str(),
                    _ => "",
                };
                tracing::warn!(agent, %error, "a registration came to nothing");
            }
        });
    }
}

fn reverse(agent: &Agent) -> Option<&AgentReverse> {
    match &agent.transport {
        AgentTransport::Reverse(reverse) => Some(reverse),
        _ => None,
    }
}

fn settings(agent: &Agent, reverse: &AgentReverse) -> ReverseSettings {
    ReverseSettings {
        id: agent.id.to_string(),
        uid: reverse
            .uid
            .unwrap_or_else(|| rustix::process::geteuid().as_raw()),
        token: reverse.token.as_ref().map(|token| token.expose().into()),
        replicas: reverse.replicas,
        config: agent.config.clone().map(Arc::new),
    }
}

fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let bound = server::bind_socket_with_mode(path, mode);
    bound.map_err(|error| {
        let text = format!("cannot listen for agents on {}: {error}", path.display());
        io::Error::new(error.kind(), text)
    })
}
