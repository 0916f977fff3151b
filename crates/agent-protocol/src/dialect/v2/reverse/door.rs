//! A registration, from the first byte to its end.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use subtle::ConstantTimeEq;
use tokio::net::{TcpStream, UnixStream};

use super::super::connect::{Opening, accepted_configuration};
use super::super::outbox::Outbox;
use super::super::shared::Shared;
use super::super::{CloseReason, ConnectOptions, Connection, ConnectionDriver};
use super::tls::is_named;
use super::{Registered, ReverseAgent, ReversePeer, ReverseTls};
use crate::codec::frame::MessageType;
use crate::codec::registration::{self, Registration, RegistrationReply};
use crate::error;
use crate::transport::{Frames, Socket};
use crate::{ConnectError, Extensions, ProtocolError};

/// How long an agent may take to register and to take its configuration, with
/// all that TLS needs before.
const REGISTERS_WITHIN: Duration = Duration::from_secs(5);

/// A registration has to fit into this.
const REGISTRATION_BYTES: usize = 64 << 10;

/// Numbers the connections of this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// What is registered at one place, and how the proxy introduces itself.
#[derive(Debug, Clone)]
pub struct ReverseDoor {
    /// The agents that may register here.
    pub agents: Vec<ReverseAgent>,
    /// What the proxy calls itself.
    pub proxy_id: String,
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
    /// It has not shown a certificate that is accepted, or does not speak TLS.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// It took too long.
    #[error("the agent did not register in time")]
    Timeout,
    /// It has not been asked who it is, since no agent may register here as
    /// whose user it has connected.
    #[error("no agent of the user {uid} registers here")]
    Stranger {
        /// The user that its process belongs to.
        uid: u32,
    },
    /// It may not.
    #[error("agent {id:?} may not register: {reason}")]
    Refused {
        /// As which agent. Anybody may have said it, and at most 256 bytes of
        /// it are here.
        id: String,
        /// Why not; the agent itself is told less.
        reason: &'static str,
    },
    /// It refused its configuration, or was lost over it.
    #[error(transparent)]
    Configure(#[from] ConnectError),
}

type Admitted = (ReverseAgent, u64, ConnectionDriver);

/// What an agent has shown before it says who it is.
enum Shown {
    User(u32),
    /// With its chain.
    Certificate(Vec<CertificateDer<'static>>),
}

impl Shown {
    fn into_chain(self) -> Vec<CertificateDer<'static>> {
        match self {
            Self::User(_) => Vec::new(),
            Self::Certificate(chain) => chain,
        }
    }
}

impl ReverseDoor {
    /// Whether some agent may register here whose process belongs to this
    /// user. Others are refused unheard.
    #[must_use]
    pub fn expects_user(&self, uid: u32) -> bool {
        let mut agents = self.agents.iter();
        agents.any(|agent| agent.settings().peer == ReversePeer::User(uid))
    }

    /// Lets an agent register that has connected, and goes on until the
    /// connection ends. `registered` is told the id of the agent.
    ///
    /// `unknown` is dropped as soon as it is known which agent it is and that
    /// it may register. What is bounded by it are those who have only
    /// connected; further on `replicas` is the bound.
    ///
    /// # Errors
    /// See [`RegisterError`]; the agent has been told what it may know.
    pub async fn receive(
        self,
        stream: UnixStream,
        unknown: impl Send,
        registered: impl FnOnce(&str),
    ) -> Result<CloseReason, RegisterError> {
        let admitted = async {
            let uid = stream.peer_cred()?.uid();
            if !self.expects_user(uid) {
                let stranger = stranger();
                let mut opening = Opening::new(stream.into(), &stranger);
                // It may have gone already; it is refused all the same.
                drop(opening.send_reply(&refusal(NOT_ACCEPTED)).await);
                return Err(RegisterError::Stranger { uid });
            }
            self.admit(stream.into(), Shown::User(uid), None, unknown)
                .await
        };
        Self::keep(admitted, registered).await
    }

    /// The same of one that has connected over TCP, and has to show a
    /// certificate.
    ///
    /// # Errors
    /// See [`RegisterError`]; the agent has been told what it may know.
    pub async fn receive_tls(
        self,
        stream: TcpStream,
        tls: &ReverseTls,
        unknown: impl Send,
        registered: impl FnOnce(&str),
    ) -> Result<CloseReason, RegisterError> {
        let admitted = async {
            let (stream, shown) = tls.accept(stream).await.map_err(RegisterError::Tls)?;
            let shown = Shown::Certificate(shown);
            self.admit(stream.into(), shown, Some(tls), unknown).await
        };
        Self::keep(admitted, registered).await
    }

    async fn keep(
        admitted: impl Future<Output = Result<Admitted, RegisterError>>,
        registered: impl FnOnce(&str),
    ) -> Result<CloseReason, RegisterError> {
        let admitted = tokio::time::timeout(REGISTERS_WITHIN, admitted).await;
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
        stream: Socket,
        shown: Shown,
        tls: Option<&ReverseTls>,
        unknown: impl Send,
    ) -> Result<Admitted, RegisterError> {
        let stranger = stranger();
        let mut opening = Opening::new(stream, &stranger);
        let (kind, payload) = opening.receive().await?;
        if kind != MessageType::HandshakeRequest {
            return Err(ProtocolError::UnexpectedMessage(kind).into());
        }
        let registration = registration::decode_registration(&payload)?;
        let agent = match self.judge(&registration, &shown) {
            Ok(agent) => agent,
            Err(reason) => {
                let told = match reason {
                    FULL => FULL,
                    _ => NOT_ACCEPTED,
                };
                opening.send_reply(&refusal(told)).await?;
                let id = error::shown(&registration.agent_id);
                return Err(RegisterError::Refused { id, reason });
            }
        };
        let _place = Place(agent.clone());
        drop(unknown);
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
            connection_id: format!("{}-{number:x}", settings.id),
            extensions: extensions.names().into_iter().map(str::to_owned).collect(),
        };
        opening.send_reply(&reply).await?;
        let outbound = Outbox::Frames(Frames::default());
        let capabilities = registration.capabilities;
        let shared = Arc::new(Shared::new(capabilities, extensions, &options, outbound));
        accepted_configuration(&mut opening, &shared).await?;
        let (stream, inbound) = opening.into_parts();
        let driver = ConnectionDriver::new(Arc::clone(&shared), stream, inbound);
        let connection = Connection::new(shared);
        agent.0.lock().registered.push(Registered {
            number,
            connection,
            shown: shown.into_chain(),
            lent_to: HashMap::new(),
        });
        // What is accepted may have changed since it was looked at. Whoever
        // changes it looks at what is registered afterwards.
        if let Some(tls) = tls {
            agent.distrust(tls);
        }
        Ok((agent, number, driver))
    }

    // On success there is a place for it.
    fn judge(
        &self,
        registration: &Registration<'_>,
        shown: &Shown,
    ) -> Result<ReverseAgent, &'static str> {
        let mut agents = self.agents.iter();
        let named = agents.find(|agent| agent.settings().id == registration.agent_id);
        let agent = named.ok_or(STRANGER)?;
        let settings = agent.settings();
        if let Some(reason) = mismatch(&settings.peer, shown) {
            return Err(reason);
        }
        let token = registration.auth_token.as_deref().unwrap_or_default();
        if let Some(wanted) = &settings.token
            && !bool::from(wanted.ct_eq(token.as_bytes()))
        {
            return Err("it has not shown the token");
        }
        match agent.reserve() {
            true => Ok(agent.clone()),
            false => Err(FULL),
        }
    }
}

// Why somebody who has shown this is not the peer.
fn mismatch(peer: &ReversePeer, shown: &Shown) -> Option<&'static str> {
    match (peer, shown) {
        (ReversePeer::User(user), Shown::User(uid)) => {
            (user != uid).then_some("its process belongs to another user")
        }
        (ReversePeer::Certificate(name), Shown::Certificate(chain)) => {
            let own = chain.first();
            let fits = |name: &String| own.is_some_and(|own| is_named(own, name));
            let fits = name.as_ref().is_none_or(fits);
            (!fits).then_some("its certificate is for another name")
        }
        (ReversePeer::User(_), Shown::Certificate(_))
        | (ReversePeer::Certificate(_), Shown::User(_)) => Some(STRANGER),
    }
}

/// What is known of somebody who has only connected.
fn stranger() -> ConnectOptions {
    let mut stranger = ConnectOptions::new("");
    stranger.limits.max_frame_bytes = REGISTRATION_BYTES;
    stranger
}

const NOT_ACCEPTED: &str = "the registration was not accepted";
const STRANGER: &str = "no such agent registers here";
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
