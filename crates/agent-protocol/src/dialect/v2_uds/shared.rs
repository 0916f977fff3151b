//! What the handles of a connection and its driver share.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;

use super::calls::{CallTable, Ended, Outcome};
use super::{ControlHandler, Limits};
use crate::codec::EventId;
use crate::{CallError, Capabilities, ControlMessage, Extensions, ProtocolError};

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

impl CloseReason {
    fn call_error(&self) -> CallError {
        match self {
            Self::Protocol(error) => CallError::Protocol(error.clone()),
            Self::Local | Self::Peer | Self::Lost(_) => CallError::Closed,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// No new events; closes when nobody waits any longer.
    Retiring,
    /// The driver is to close it.
    Closing,
    Closed(CloseReason),
}

pub(super) struct Shared {
    pub(super) capabilities: Capabilities,
    pub(super) extensions: Extensions,
    pub(super) limits: Limits,
    pub(super) gone: Notify,
    on_control: Option<ControlHandler>,
    control_messages: AtomicU64,
    state: Mutex<State>,
}

pub(super) struct State {
    /// Encoded frames that the driver has not taken yet.
    pub(super) outbound: Vec<u8>,
    /// What the driver has taken and not yet written, in bytes.
    pub(super) unwritten_bytes: usize,
    pub(super) calls: CallTable,
    pub(super) cancels_sent: u64,
    pub(super) phase: Phase,
    /// The driver, while it sleeps.
    pub(super) driver: Option<Waker>,
}

impl Shared {
    pub(super) fn new(
        capabilities: Capabilities,
        extensions: Extensions,
        limits: Limits,
        on_control: Option<ControlHandler>,
    ) -> Self {
        let cancellation = capabilities.features.cancellation;
        Self {
            capabilities,
            extensions,
            limits,
            gone: Notify::new(),
            on_control,
            control_messages: AtomicU64::new(0),
            state: Mutex::new(State {
                outbound: Vec::new(),
                unwritten_bytes: 0,
                calls: CallTable::new(extensions.event_id, cancellation, limits.max_unanswered),
                cancels_sent: 0,
                phase: Phase::Open,
                driver: None,
            }),
        }
    }

    // No code of others runs under the lock, so a poisoned one has seen a
    // defect of ours; the state is still the best that there is.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn control_messages(&self) -> u64 {
        self.control_messages.load(Ordering::Relaxed)
    }

    pub(super) fn on_control(&self, message: &ControlMessage) {
        self.control_messages.fetch_add(1, Ordering::Relaxed);
        if let Some(handler) = &self.on_control {
            handler(message);
        }
    }

    /// Takes no new events from now on.
    pub(super) fn retire(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Retiring;
        }
        let driver = state.close_if_retired();
        drop(state);
        wake(driver);
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Closed(_)) {
            return;
        }
        state.phase = Phase::Closing;
        // Nobody would get the answers.
        state.outbound.clear();
        let driver = state.driver.take();
        drop(state);
        wake(driver);
    }

    /// Hands answers to those who wait for them, and says whether the
    /// connection is to be closed now.
    ///
    /// # Errors
    /// At the first answer to an event that is not outstanding; those before
    /// it have been handed over.
    pub(super) fn deliver(
        &self,
        answers: &mut Vec<(EventId, Outcome)>,
        ended: &mut Vec<Ended>,
    ) -> Result<bool, ProtocolError> {
        if answers.is_empty() {
            return Ok(false);
        }
        let mut unknown = None;
        let mut state = self.lock();
        for (id, outcome) in answers.drain(..) {
            match state.calls.complete(id, outcome) {
                Ok(call) => ended.push(call),
                Err(error) => {
                    unknown = Some(error);
                    break;
                }
            }
        }
        // The driver itself is here, so there is nobody to be woken.
        state.close_if_retired();
        let closing = state.phase == Phase::Closing;
        drop(state);
        ended.drain(..).for_each(Ended::release);
        unknown.map_or(Ok(closing), Err)
    }

    /// The driver has ended: nothing will come any more.
    pub(super) fn finish(&self, reason: &CloseReason) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Closed(_)) {
            return;
        }
        state.phase = Phase::Closed(reason.clone());
        state.outbound = Vec::new();
        let ended = state.calls.fail_all(&reason.call_error());
        drop(state);
        ended.into_iter().for_each(Ended::release);
        self.gone.notify_waiters();
    }
}

impl State {
    /// Starts closing when nobody waits for a retiring connection, and says
    /// whom to wake.
    pub(super) fn close_if_retired(&mut self) -> Option<Waker> {
        if self.phase != Phase::Retiring || self.calls.waiting() > 0 {
            return None;
        }
        self.phase = Phase::Closing;
        self.driver.take()
    }
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
