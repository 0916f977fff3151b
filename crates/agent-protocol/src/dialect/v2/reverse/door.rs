//! A registration, from the first byte to its end.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use subtle::ConstantTimeEq;
use tokio::net::UnixStream;

use super::super::connect::{Opening, accepted_configuration};
use super::super::outbox::Outbox;
use super::super::shared::Shared;
use super::super::{CloseReason, ConnectOptions, Connection, ConnectionDriver};
use super::{Registered, ReverseAgent};
use crate::codec::frame::MessageType;
use crate::codec::registration::{self, Registration, RegistrationReply};
use crate::transport::Frames;
use crate::{ConnectError, Extensions, ProtocolError};

/// How long an agent may take to register and to take its configuration.
const REGISTERS_WITHIN: Duration = Duration::from_secs(5);

/// A registration has to fit into this.
const REGISTRATION_BYTES: usize = 64 << 10;

/// Numbers the connections of this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// What is registered at one socket, and how the proxy introduces itself.
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
