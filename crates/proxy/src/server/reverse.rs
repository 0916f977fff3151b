//! Where agents register that dial us: Unix sockets, and addresses with TLS. What is registered is served on the control thread
//! and shared by the workers.

mod accept;
mod places;

use self::{
    accept::{Agents, Listener, accept},
    places::Places,
};
use super::listeners;
use portcullis_agent_protocol::{
    ReverseAgent, ReversePeer, ReverseSettings, ReverseTls, ReverseTlsFiles, server,
};
use portcullis_config::{
    Agent, AgentReverse, AgentTransport, Registering, ReverseFiles, ReversePlace,
};
use std::{
    collections::BTreeMap,
    fs::Permissions,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};
use tokio::{net::TcpListener, task::AbortHandle};

/// The agents that dial us, as they are in effect and as they are prepared.
#[derive(Default)]
pub(super) struct Doors {
    open: BTreeMap<Place, Open>,
}

/// Where agents register. Several may do so at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Socket(PathBuf),
    Address(SocketAddr),
}

/// What can change of a place that stays open.
enum Setting {
    /// The mode of the socket.
    Mode(u32),
    /// Certificates.
    Tls(ReverseTls),
}

/// Accepts as long as this lives. What has registered stays.
struct Open {
    place: Place,
    setting: Setting,
    agents: Agents,
    registering: Arc<Places>,
    accepting: AbortHandle,
}

/// What another configuration has, bound and not yet in use.
pub(super) struct Plan(Vec<Planned>);

struct Planned {
    place: Place,
    setting: Setting,
    registering: Registering,
    agents: Vec<ReverseAgent>,
    /// `None`: it is open already.
    listener: Option<Listener>,
}

impl Doors {
    /// The agent at its place: the one that is there when the same may register, so that it stays registered.
    pub(super) fn agent(&self, agent: &Agent, reverse: &AgentReverse) -> ReverseAgent {
        let settings = settings(agent, reverse);
        let open = self.open.get(&Place::of(reverse));
        let found = open.and_then(|open| {
            let agents = open.agents.lock().unwrap_or_else(PoisonError::into_inner);
            agents.iter().find(|it| *it.settings() == settings).cloned()
        });
        found.unwrap_or_else(|| ReverseAgent::new(settings))
    }

    /// Binds what is not open yet for the agents that are configured, and reads certificates again. `agents` are those of them
    /// that [`agent`](Self::agent) gave.
    ///
    /// # Errors
    /// A place cannot be listened on, or a file cannot be used.
    pub(super) async fn plan(
        &self,
        configured: &[Agent],
        agents: &[ReverseAgent],
    ) -> io::Result<Plan> {
        let mut plan = Plan(Vec::new());
        let dialling = configured.iter().filter_map(|it| Some((it, reverse(it)?)));
        for (agent, reverse) in dialling {
            let place = Place::of(reverse);
            if plan.0.iter().any(|it| it.place == place) {
                continue;
            }
            let here = configured
                .iter()
                .filter(|it| self::reverse(it).is_some_and(|it| Place::of(it) == place));
            let here = here.filter_map(|agent| {
                let mut known = agents.iter();
                let id = agent.id.to_string();
                known.find(|it| it.settings().id == id).cloned()
            });
            let setting = match &reverse.place {
                ReversePlace::Socket { mode, .. } => Setting::Mode(*mode),
                ReversePlace::Tls { files, .. } => Setting::Tls(read(agent, files).await?),
            };
            let listener = match self.open.contains_key(&place) {
                true => None,
                false => Some(bind(&place, &setting)?),
            };
            plan.0.push(Planned {
                agents: here.collect(),
                place,
                setting,
                registering: reverse.registering,
                listener,
            });
        }
        Ok(plan)
    }

    /// Accepts where it was planned, on the current runtime, and nowhere else.
    pub(super) fn adopt(&mut self, mut plan: Plan) {
        let mut before = std::mem::take(&mut self.open);
        for mut planned in std::mem::take(&mut plan.0) {
            let place = planned.place.clone();
            let open = match (planned.listener.take(), before.remove(&place)) {
                (None, Some(mut open)) => {
                    open.change(planned);
                    open
                }
                (Some(listener), _) => Open::new(planned, listener),
                // What is kept was open when it was planned, and nothing closes it meanwhile.
                (None, None) => continue,
            };
            self.open.insert(place, open);
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        for planned in &self.0 {
            if planned.listener.is_some() {
                planned.place.remove();
            }
        }
    }
}

impl Place {
    fn of(reverse: &AgentReverse) -> Self {
        match &reverse.place {
            ReversePlace::Socket { path, .. } => Self::Socket(path.clone()),
            ReversePlace::Tls { address, .. } => Self::Address(*address),
        }
    }

    /// Takes away what nobody listens on any longer.
    fn remove(&self) {
        if let Self::Socket(path) = self {
            // It may be gone already; nobody can register there either way.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Open {
    fn new(planned: Planned, listener: Listener) -> Self {
        let agents = Agents::new(planned.agents.into());
        let registering = Arc::new(Places::new(planned.registering));
        let accepting = accept(listener, Arc::clone(&agents), Arc::clone(&registering));
        Self {
            place: planned.place,
            setting: planned.setting,
            agents,
            registering,
            accepting: tokio::spawn(accepting).abort_handle(),
        }
    }

    fn change(&mut self, planned: Planned) {
        let agents = planned.agents;
        match (&mut self.setting, planned.setting, &self.place) {
            (Setting::Mode(mode), Setting::Mode(wanted), Place::Socket(path)) => {
                set_mode(path, mode, wanted);
            }
            (Setting::Tls(tls), Setting::Tls(read), _) => {
                tls.become_like(&read);
                for agent in &agents {
                    let connections = agent.distrust(tls);
                    if connections > 0 {
                        let agent = &agent.settings().id;
                        tracing::warn!(%agent, connections, "certificates of an agent are not accepted any longer, its connections retire");
                    }
                }
            }
            // A place is a path or an address, and has what belongs to it.
            (Setting::Mode(_) | Setting::Tls(_), ..) => {}
        }
        self.registering.set_bounds(planned.registering);
        *self.agents.lock().unwrap_or_else(PoisonError::into_inner) = agents;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.accepting.abort();
        self.place.remove();
    }
}

fn set_mode(path: &Path, mode: &mut u32, wanted: u32) {
    if *mode == wanted {
        return;
    }
    match std::fs::set_permissions(path, Permissions::from_mode(wanted)) {
        Ok(()) => *mode = wanted,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the mode of the socket stays as it was");
        }
    }
}

fn reverse(agent: &Agent) -> Option<&AgentReverse> {
    match &agent.transport {
        AgentTransport::Reverse(reverse) => Some(reverse),
        _ => None,
    }
}

fn settings(agent: &Agent, reverse: &AgentReverse) -> ReverseSettings {
    let peer = match &reverse.place {
        ReversePlace::Socket { uid, .. } => {
            ReversePeer::User(uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()))
        }
        ReversePlace::Tls {
            certificate_name, ..
        } => ReversePeer::Certificate(certificate_name.clone()),
    };
    ReverseSettings {
        id: agent.id.to_string(),
        peer,
        token: reverse.token.as_ref().map(|token| token.expose().into()),
        replicas: reverse.replicas,
        config: agent.config.clone().map(Arc::new),
    }
}

/// What is wrong with the files of agents that dial, where the agent is written.
pub(crate) fn problems(agents: &[Agent]) -> Vec<String> {
    let dialling = agents.iter().filter_map(|it| Some((it, reverse(it)?)));
    let problem = |(agent, reverse): (&Agent, &AgentReverse)| match &reverse.place {
        ReversePlace::Socket { .. } => None,
        ReversePlace::Tls { files, .. } => {
            let error = ReverseTls::read(&named(files)).err()?;
            Some(of_agent(agent, &error))
        }
    };
    dialling.filter_map(problem).collect()
}

async fn read(agent: &Agent, files: &ReverseFiles) -> io::Result<ReverseTls> {
    let files = named(files);
    // Files may be slow, and probes want their answers meanwhile.
    let read = tokio::task::spawn_blocking(move || ReverseTls::read(&files)).await?;
    read.map_err(|error| io::Error::new(error.kind(), of_agent(agent, &error)))
}

fn named(files: &ReverseFiles) -> ReverseTlsFiles {
    ReverseTlsFiles {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        ca: files.ca.clone(),
    }
}

/// As in `conf.kdl:3:9: agent "waf": certs/a.pem: has no certificate in PEM`.
fn of_agent(agent: &Agent, problem: &io::Error) -> String {
    format!("{}: agent \"{}\": {problem}", agent.place, agent.id)
}

fn bind(place: &Place, setting: &Setting) -> io::Result<Listener> {
    let unusable = |place: String, error: io::Error, advice: &str| {
        let text = format!("cannot listen for agents on {place}: {error}{advice}");
        io::Error::new(error.kind(), text)
    };
    match (place, setting) {
        (Place::Socket(path), Setting::Mode(mode)) => {
            let bound = server::bind_socket_with_mode(path, *mode);
            let bound = bound.map_err(|error| unusable(path.display().to_string(), error, ""));
            bound.map(Listener::Unix)
        }
        (Place::Address(address), Setting::Tls(tls)) => {
            let bound = listeners::listen(*address, false).and_then(TcpListener::from_std);
            let bound = bound.map_err(|error| {
                let advice = listeners::advice(&error);
                unusable(address.to_string(), error, advice)
            })?;
            tracing::info!(address = %bound.local_addr()?, "agents may dial");
            Ok(Listener::Tls(bound, tls.clone()))
        }
        // A place is a path or an address, and has what belongs to it.
        (Place::Socket(_) | Place::Address(_), _) => Err(io::ErrorKind::InvalidInput.into()),
    }
}
