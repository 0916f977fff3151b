//! Connections that agents have dialled, the proxy's end.
//!
//! An agent registers at a socket of the proxy as one of the agents of its
//! configuration. What it has to show for that is bound to this one id. The
//! connection is not the property of whoever asks first: all who ask the agent
//! share it, and those who do so no longer leave it to the others.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::connect::{Opening, accepted_configuration};
use super::outbox::Outbox;
use super::shared::Shared;
use super::{CloseReason, ConnectOptions, Connection, ConnectionDriver, ControlHandler};
use crate::codec::frame::MessageType;
use crate::codec::registration::{self, Registration, RegistrationReply};
use crate::transport::Frames;
use crate::{ConnectError, ControlMessage, Extensions, ProtocolError};

/// How long an agent may take to register and to take its configuration.
const REGISTERS_WITHIN: Duration = Duration::from_secs(5);

/// A registration has to fit into this.
const REGISTRATION_BYTES: usize = 64 << 10;

/// Numbers the connections of this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Who may register as an agent.
#[derive(Clone, PartialEq)]
pub struct ReverseSettings {
    /// The id of the agent in the proxy's configuration.
    pub id: String,
    /// The user that the process must belong to.
    pub uid: u32,
    /// What it has to show beside that; `None`: nothing.
    pub token: Option<Box<[u8]>>,
    /// How many connections may be registered at once.
    pub replicas: usize,
    /// What the agent is configured with, as in
    /// [`ConnectOptions::config`].
    pub config: Option<Arc<Value>>,
}

impl fmt::Debug for ReverseSettings {
    // Token and configuration are left out, because they are or hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReverseSettings")
            .field("id", &self.id)
            .field("uid", &self.uid)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

/// An agent that dials the proxy. Clones are the same; when the last is
/// dropped, its connections close.
#[derive(Clone)]
pub struct ReverseAgent(Arc<Inner>);

struct Inner {
    settings: ReverseSettings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many registrations are under way.
    registering: usize,
    registered: Vec<Registered>,
}

struct Registered {
    number: u64,
    connection: Connection,
    /// With who hears what the agent says on it.
    lent_to: HashMap<Borrower, Option<ControlHandler>>,
}

/// Who asks over a connection: a worker, for one of the agents of its
/// configurations. The old and the new one of a reload are two, so that a
/// connection goes from the one to the other without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Borrower {
    thread: ThreadId,
    /// Where the options are that it connects with. They live as long as what
    /// it has borrowed.
    options: usize,
}

/// Why a registration came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Reading or writing went wrong.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The agent did not keep to the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It took too long.
    #[error("the agent did not register in time")]
    Timeout,
    /// It may not.
    #[error("agent {id:?} may not register: {reason}")]
    Refused {
        /// As which agent.
        id: String,
        /// Why not; the agent itself is told less.
        reason: &'static str,
    },
    /// It refused its configuration, or was lost over it.
    #[error(transparent)]
    Configure(#[from] ConnectError),
}

impl ReverseAgent {
    /// An agent that nobody has registered as yet.
    #[must_use]
    pub fn new(settings: ReverseSettings) -> Self {
        Self(Arc::new(Inner {
            settings,
            state: Mutex::default(),
        }))
    }

    /// Who may register.
    #[must_use]
    pub fn settings(&self) -> &ReverseSettings {
        &self.0.settings
    }

    /// The connection that the fewest ask over, of those that are not lent to
    /// this thread with these options already.
    pub(crate) fn lease(&self, options: &ConnectOptions) -> Result<Lease, ConnectError> {
        let borrower = Borrower {
            thread: std::thread::current().id(),
            options: std::ptr::from_ref(options).addr(),
        };
        let mut state = self.0.lock();
        let free = state
            .registered
            .iter_mut()
            .filter(|it| it.connection.is_open() && !it.lent_to.contains_key(&borrower));
        let Some(chosen) = free.min_by_key(|it| it.lent_to.len()) else {
            let error = io::Error::new(
                io::ErrorKind::NotConnected,
                "the agent has not registered, or not once more",
            );
            return Err(ConnectError::Unreachable(error));
        };
        chosen.lent_to.insert(borrower, options.on_control.clone());
        let (number, connection) = (chosen.number, chosen.connection.clone());
        drop(state);
        // It may have said so when nobody asked it yet.
        if let Some(handler) = &options.on_control
            && connection.purges_seen() > 0
        {
            handler(&ControlMessage::PurgeVerdicts);
        }
        Ok(Lease(Arc::new(LeaseInner {
            agent: self.clone(),
            number,
            borrower,
            connection,
            left: watch::Sender::new(false),
        })))
    }

    fn reserve(&self) -> bool {
        let mut state = self.0.lock();
        let open = state.registered.iter();
        let open = open.filter(|it| it.connection.is_open()).count();
        let has_room = open + state.registering < self.0.settings.replicas;
        state.registering += usize::from(has_room);
        has_room
    }

    // Who hears what the agent says is known only when somebody asks it.
    fn on_control(&self, number: u64) -> ControlHandler {
        let inner = Arc::downgrade(&self.0);
        Arc::new(move |message| {
            let handlers = inner.upgrade().map(|inner| inner.handlers(number));
            for handler in handlers.unwrap_or_default() {
                handler(message);
            }
        })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The workers of one agent have one handler, which hears a message once.
    fn handlers(&self, number: u64) -> Vec<ControlHandler> {
        let state = self.lock();
        let mut handlers: Vec<ControlHandler> = Vec::new();
        let mut registered = state.registered.iter();
        let lent = registered
            .find(|it| it.number == number)
            .map(|it| &it.lent_to);
        for handler in lent.into_iter().flat_map(HashMap::values).flatten() {
            if !handlers.iter().any(|it| Arc::ptr_eq(it, handler)) {
                handlers.push(Arc::clone(handler));
            }
        }
        handlers
    }
}

/// They are the same when the same may register.
impl PartialEq for ReverseAgent {
    fn eq(&self, other: &Self) -> bool {
        self.0.settings == other.0.settings
    }
}

impl Eq for ReverseAgent {}

impl fmt::Debug for ReverseAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.settings.fmt(f)
    }
}

/// What is registered at one socket, and how the proxy introduces itself.
#[derive(Debug, Clone)]
pub struct ReverseDoor {
    /// The agents that may register here.
    pub agents: Vec<ReverseAgent>,
    /// What the proxy calls itself.
    pub proxy_id: String,
}

impl ReverseDoor {
    /// Lets an agent register that has connected, and goes on until the
    /// connection ends. `registered` is told the id of the agent.
    ///
    /// # Errors
    /// See [`RegisterError`]; the agent has been told what it may know.
    pub async fn receive(
        self,
        stream: UnixStream,
        registered: impl FnOnce(&str),
    ) -> Result<CloseReason, RegisterError> {
        let admitted = tokio::time::timeout(REGISTERS_WITHIN, self.admit(stream)).await;
        let (agent, number, driver) = admitted.map_err(|_| RegisterError::Timeout)??;
        registered(&agent.settings().id);
        let inner = Arc::downgrade(&agent.0);
        // Whoever asks keeps the agent, and its connections with it.
        drop(agent);
        let reason = driver.await;
        if let Some(inner) = inner.upgrade() {
            inner.lock().registered.retain(|it| it.number != number);
        }
        Ok(reason)
    }

    async fn admit(
        self,
        stream: UnixStream,
    ) -> Result<(ReverseAgent, u64, ConnectionDriver), RegisterError> {
        let uid = stream.peer_cred()?.uid();
        let mut stranger = ConnectOptions::new("");
        stranger.limits.max_frame_bytes = REGISTRATION_BYTES;
        let mut opening = Opening::new(stream, &stranger);
        let (kind, payload) = opening.receive().await?;
        if kind != MessageType::HandshakeRequest {
            return Err(ProtocolError::UnexpectedMessage(kind).into());
        }
        let registration = registration::decode_registration(&payload)?;
        let id = registration.agent_id.to_string();
        let agent = match self.judge(&registration, uid) {
            Ok(agent) => agent,
            Err(reason) => {
                let told = match reason {
                    FULL => FULL,
                    _ => "the registration was not accepted",
                };
                opening.send_reply(&refusal(told)).await?;
                return Err(RegisterError::Refused { id, reason });
            }
        };
        let _place = Place(agent.clone());
        let settings = agent.settings();
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let options = ConnectOptions {
            proxy_id: self.proxy_id.clone(),
            config: settings.config.clone(),
            on_control: Some(agent.on_control(number)),
            ..ConnectOptions::new(settings.id.clone())
        };
        let (stream, inbound) = opening.into_parts();
        let mut opening = Opening::resumed(stream, inbound, &options);
        let offered = registration.extensions.iter().map(AsRef::as_ref);
        let extensions = Extensions::from_known_names(offered).and(Extensions::ALL);
        let reply = RegistrationReply {
            success: true,
            error: None,
            proxy_id: options.proxy_id.clone(),
            proxy_version: options.proxy_version.clone(),
            connection_id: format!("{id}-{number:x}"),
            extensions: extensions.names().into_iter().map(str::to_owned).collect(),
        };
        opening.send_reply(&reply).await?;
        let outbound = Outbox::Frames(Frames::default());
        let capabilities = registration.capabilities;
        let shared = Arc::new(Shared::new(capabilities, extensions, &options, outbound));
        accepted_configuration(&mut opening, &shared).await?;
        let (stream, inbound) = opening.into_parts();
        let driver = ConnectionDriver::new(Arc::clone(&shared), stream, inbound);
        agent.0.lock().registered.push(Registered {
            number,
            connection: Connection::new(shared),
            lent_to: HashMap::new(),
        });
        Ok((agent, number, driver))
    }

    // On success there is a place for it.
    fn judge(
        &self,
        registration: &Registration<'_>,
        uid: u32,
    ) -> Result<ReverseAgent, &'static str> {
        let mut agents = self.agents.iter();
        let named = agents.find(|agent| agent.settings().id == registration.agent_id);
        let agent = named.ok_or("no such agent registers here")?;
        let settings = agent.settings();
        if settings.uid != uid {
            return Err("its process belongs to another user");
        }
        let shown = registration.auth_token.as_deref().unwrap_or_default();
        if let Some(token) = &settings.token
            && !bool::from(token.ct_eq(shown.as_bytes()))
        {
            return Err("it has not shown the token");
        }
        match agent.reserve() {
            true => Ok(agent.clone()),
            false => Err(FULL),
        }
    }
}

const FULL: &str = "as many are registered as may be";

fn refusal(reason: &str) -> RegistrationReply {
    RegistrationReply {
        success: false,
        error: Some(reason.to_owned()),
        proxy_id: String::new(),
        proxy_version: String::new(),
        connection_id: String::new(),
        extensions: Vec::new(),
    }
}

/// A place that a registration under way has taken.
struct Place(ReverseAgent);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.lock().registering -= 1;
    }
}

/// A connection, for as long as one thread asks over it. Clones are the same.
#[derive(Clone)]
pub(crate) struct Lease(Arc<LeaseInner>);

struct LeaseInner {
    agent: ReverseAgent,
    number: u64,
    borrower: Borrower,
    connection: Connection,
    left: watch::Sender<bool>,
}

impl Lease {
    pub(crate) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Asks no more, and leaves the connection to the others.
    pub(crate) fn leave(&self) {
        self.0.left.send_replace(true);
    }

    pub(crate) fn is_open(&self) -> bool {
        !*self.0.left.borrow() && self.0.connection.is_open()
    }

    /// Waits until it was left.
    pub(crate) async fn left(&self) {
        let mut left = self.0.left.subscribe();
        // The sender lives as long as this.
        drop(left.wait_for(|left| *left).await);
    }

    /// Resolves when the connection is gone, or was left.
    pub(crate) async fn ended(
        connection: Connection,
        mut left: watch::Receiver<bool>,
    ) -> CloseReason {
        tokio::select! {
            () = connection.closed() => connection.close_reason().unwrap_or(CloseReason::Local),
            _ = left.wait_for(|left| *left) => CloseReason::Local,
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.0.left.subscribe()
    }
}

impl Drop for LeaseInner {
    fn drop(&mut self) {
        let mut state = self.agent.0.lock();
        let lent = state.registered.iter_mut();
        if let Some(it) = lent.into_iter().find(|it| it.number == self.number) {
            it.lent_to.remove(&self.borrower);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.connection.fmt(f)
    }
}
