//! Connections that agents have dialled, the proxy's end.
//!
//! An agent registers at a socket of the proxy as one of the agents of its
//! configuration. What it has to show for that is bound to this one id. The
//! connection is not the property of whoever asks first: all who ask the agent
//! share it, and those who do so no longer leave it to the others.

mod door;
mod tls;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use rustls_pki_types::CertificateDer;
use serde_json::Value;
use tokio::sync::watch;

pub use door::{RegisterError, ReverseDoor};
pub use tls::{ReverseTls, ReverseTlsFiles};

use super::{CloseReason, ConnectOptions, Connection, ControlHandler};
use crate::{ConnectError, ControlMessage};

/// Who may register as an agent.
#[derive(Clone, PartialEq)]
pub struct ReverseSettings {
    /// The id of the agent in the proxy's configuration.
    pub id: String,
    /// Who it has to be.
    pub peer: ReversePeer,
    /// What it has to show beside that; `None`: nothing.
    pub token: Option<Box<[u8]>>,
    /// How many connections may be registered at once.
    pub replicas: usize,
    /// What the agent is configured with, as in
    /// [`ConnectOptions::config`].
    pub config: Option<Arc<Value>>,
}

/// By what an agent that dials is known, beside its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReversePeer {
    /// It dials a Unix socket, and its process belongs to this user.
    User(u32),
    /// It dials an address over TLS, and its certificate is for this name: a
    /// DNS name, or a URI. `None`: any certificate that is accepted will do.
    Certificate(Option<String>),
}

impl fmt::Debug for ReverseSettings {
    // Token and configuration are left out, because they are or hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReverseSettings")
            .field("id", &self.id)
            .field("peer", &self.peer)
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
    /// The certificate that the agent has shown, with its chain.
    shown: Vec<CertificateDer<'static>>,
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

    /// Takes leave of the connections with certificates that are not accepted
    /// any longer, and says how many there are.
    pub fn distrust(&self, tls: &ReverseTls) -> usize {
        let state = self.0.lock();
        let open = state.registered.iter().filter(|it| it.connection.is_open());
        let distrusted: Vec<_> = open
            .filter(|it| !it.shown.is_empty() && !tls.trusts(&it.shown))
            .map(|it| it.connection.clone())
            .collect();
        // Whoever is woken by it may want the lock.
        drop(state);
        distrusted.iter().for_each(Connection::retire);
        distrusted.len()
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
