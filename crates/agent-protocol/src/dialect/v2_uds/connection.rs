//! A connection to an agent. (bodies follow)

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::ConnectOptions;
use crate::{
    CallError, Capabilities, ConnectError, Decision, Extensions, ProtocolError, RequestHeaders,
};

/// Why a connection is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// We closed it.
    #[error("closed by the proxy")]
    Local,
    /// The agent closed it.
    #[error("closed by the agent")]
    Peer,
    /// Reading or writing went wrong.
    #[error("lost: {0}")]
    Lost(io::ErrorKind),
    /// The agent did not keep to the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// A connection to an agent. Clones share it.
#[derive(Debug, Clone)]
pub struct Connection {}

impl Connection {
    /// Dials, shakes hands, and has the configuration accepted.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        _path: &Path,
        _options: &ConnectOptions,
    ) -> Result<(Self, ConnectionDriver), ConnectError> {
        unimplemented!()
    }
    /// What the agent said about itself.
    pub fn capabilities(&self) -> &Capabilities {
        unimplemented!()
    }
    /// What the agent chose of what was offered.
    pub fn extensions(&self) -> Extensions {
        unimplemented!()
    }
    /// Whether new events are accepted: neither closed nor retiring.
    pub fn is_open(&self) -> bool {
        unimplemented!()
    }
    /// Whether the connection takes no new events and closes when nobody waits any longer.
    pub fn is_retiring(&self) -> bool {
        unimplemented!()
    }
    /// How many calls are being waited for.
    pub fn in_flight(&self) -> usize {
        unimplemented!()
    }
    /// How many events the agent has not answered, waited for or not.
    pub fn unanswered(&self) -> usize {
        unimplemented!()
    }
    /// How many answers came after nobody waited any longer.
    pub fn late_answers_seen(&self) -> u64 {
        unimplemented!()
    }
    /// How many control messages came.
    pub fn control_messages_seen(&self) -> u64 {
        unimplemented!()
    }
    /// Takes no new events; closes when nobody waits any longer.
    pub fn retire(&self) {}
    /// Closes at once; pending answers fail with [`CallError::Closed`].
    pub fn close(&self) {}
    /// Waits until the connection is gone.
    pub async fn closed(&self) {}
    /// Why it is gone; `None` while it is not.
    pub fn close_reason(&self) -> Option<CloseReason> {
        unimplemented!()
    }
    /// Encodes and queues an event. Never waits.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn request_headers(&self, _event: &RequestHeaders<'_>) -> Result<PendingAnswer, CallError> {
        unimplemented!()
    }
}

/// Reads and writes; to be spawned on the runtime that connected.
#[derive(Debug)]
#[must_use]
pub struct ConnectionDriver {}

impl Future for ConnectionDriver {
    type Output = CloseReason;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<CloseReason> {
        unimplemented!()
    }
}

/// The answer to one event, when it comes. Dropping it forgets the event.
#[derive(Debug)]
#[must_use]
pub struct PendingAnswer {}

impl Future for PendingAnswer {
    type Output = Result<Decision, CallError>;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        unimplemented!()
    }
}
