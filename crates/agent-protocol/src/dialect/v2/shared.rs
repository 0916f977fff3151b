//! What the handles of a connection and its driver share.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::calls::{CallTable, Ended, Outcome};
use super::outbox::Outbox;
use super::pings::Pings;
use super::{ConnectOptions, ControlHandler, Limits};
use crate::codec::frame::MessageType;
use crate::codec::{EventId, json};
use crate::{CallError, Capabilities, Condition, ControlMessage, Extensions, ProtocolError};

/// Why a connection is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// We closed it.
    #[error("closed by the proxy")]
    Local,
    /// The agent closed it.
    #[error("closed by the agent")]
    Peer,
    /// The agent ended it with a status of gRPC.
    #[error("ended by the agent: {0}")]
    Status(String),
    /// Reading or writing went wrong.
    #[error("lost: {0}")]
    Lost(io::ErrorKind),
    /// The agent did not keep to the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

impl CloseReason {
    pub(in crate::dialect) fn call_error(&self) -> CallError {
        match self {
            Self::Protocol(error) => CallError::Protocol(error.clone()),
            Self::Local | Self::Peer | Self::Status(_) | Self::Lost(_) => CallError::Closed,
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
    pub(super) agent_name: String,
    pub(super) capabilities: Capabilities,
    pub(super) extensions: Extensions,
    pub(super) limits: Limits,
    /// Whether the agent answers a configuration. Published agents over gRPC
    /// do not: they end the stream when they refuse it.
    pub(super) answers_configure: bool,
    /// Told of every change of the phase and of the condition, and of purges.
    changed: Notify,
    opened: Instant,
    /// When the last frame came, in nanoseconds after `opened`.
    heard_ns: AtomicU64,
    on_control: Option<ControlHandler>,
    control_messages: AtomicU64,
    state: Mutex<State>,
}

pub(super) struct State {
    /// What the driver has not taken yet.
    pub(super) outbound: Outbox,
    /// What the driver has taken and not yet written, in bytes.
    pub(super) unwritten_bytes: usize,
    pub(super) calls: CallTable,
    pub(super) cancels_sent: u64,
    pub(super) pings: Pings,
    pub(super) phase: Phase,
    /// How the agent says that it is.
    pub(super) condition: Condition,
    /// How many times it has said that its verdicts hold no longer.
    pub(super) purges: u64,
    /// Whoever writes, while it sleeps.
    pub(super) writer: Option<Waker>,
    /// Whoever reads, while it sleeps, if it is another. It is woken only
    /// when the connection is to be closed.
    pub(super) reader: Option<Waker>,
}

impl Shared {
    pub(super) fn new(
        capabilities: Capabilities,
        extensions: Extensions,
        options: &ConnectOptions,
        outbound: Outbox,
    ) -> Self {
        let limits = options.limits;
        let cancellation = capabilities.features.cancellation;
        Self {
            agent_name: options.agent_name.clone(),
            capabilities,
            extensions,
            limits,
            answers_configure: extensions.event_id || matches!(outbound, Outbox::Frames(_)),
            changed: Notify::new(),
            opened: Instant::now(),
            heard_ns: AtomicU64::new(0),
            on_control: options.on_control.clone(),
            control_messages: AtomicU64::new(0),
            state: Mutex::new(State {
                outbound,
                unwritten_bytes: 0,
                calls: CallTable::new(extensions.event_id, cancellation, limits.max_unanswered),
                cancels_sent: 0,
                pings: Pings::default(),
                phase: Phase::Open,
                condition: Condition::default(),
                purges: 0,
                writer: None,
                reader: None,
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

    /// Takes note of a message of this kind that is not an answer.
    ///
    /// # Errors
    /// What is wrong with it, also when it was not agreed on.
    pub(super) fn on_message(
        &self,
        kind: MessageType,
        payload: &[u8],
    ) -> Result<(), ProtocolError> {
        if kind == MessageType::VerdictPurge && !self.extensions.verdict_ttl {
            return Err(ProtocolError::UnexpectedMessage(kind));
        }
        self.on_control(&json::decode_control(kind, payload)?);
        Ok(())
    }

    pub(super) fn on_control(&self, message: &ControlMessage) {
        self.control_messages.fetch_add(1, Ordering::Relaxed);
        match message {
            ControlMessage::PurgeVerdicts => {
                self.lock().purges += 1;
                self.changed.notify_waiters();
            }
            ControlMessage::Pong { sequence } => {
                let waker = self.lock().pings.complete(*sequence, Instant::now());
                wake([waker, None]);
            }
            message => {
                let changed = self.lock().condition.note(message);
                if changed {
                    self.changed.notify_waiters();
                }
            }
        }
        if let Some(handler) = &self.on_control {
            handler(message);
        }
    }

    /// A frame has come.
    pub(super) fn note_heard(&self) {
        let nanoseconds = self.opened.elapsed().as_nanos() as u64;
        self.heard_ns.store(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.opened + Duration::from_nanos(self.heard_ns.load(Ordering::Relaxed))
    }

    /// Waits until the phase is one of these.
    pub(super) async fn reached(&self, is_it: impl Fn(&Phase) -> bool) {
        self.seen(|state| is_it(&state.phase).then_some(())).await;
    }

    /// Waits until something is seen in the state. It is looked at when the
    /// phase or the condition has changed, and at purges.
    pub(super) async fn seen<T>(&self, look: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registers before it looks, so that nothing is missed in between.
            changed.as_mut().enable();
            let found = look(&self.lock());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }

    /// To be called after the phase has changed, without the lock.
    pub(super) fn note_phase(&self) {
        self.changed.notify_waiters();
    }

    /// Takes no new events from now on.
    pub(super) fn retire(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Retiring;
        }
        let closing = state.close_if_retired();
        drop(state);
        wake(closing);
        self.note_phase();
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Closed(_)) {
            return;
        }
        state.phase = Phase::Closing;
        // Nobody would get the answers.
        state.outbound.clear();
        let sleepers = state.sleepers();
        drop(state);
        wake(sleepers);
        self.note_phase();
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
        let sleepers = state.close_if_retired();
        let closing = state.phase == Phase::Closing;
        drop(state);
        wake(sleepers);
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
        state.outbound.clear();
        let sleepers = state.sleepers();
        let error = reason.call_error();
        let ended = state.calls.fail_all(&error);
        let wakers = state.pings.fail_all(&error);
        drop(state);
        wake(sleepers);
        ended.into_iter().for_each(Ended::release);
        wakers.into_iter().for_each(Waker::wake);
        self.note_phase();
    }
}

impl State {
    /// Starts closing when nobody waits for a retiring connection, and says
    /// whom to wake.
    pub(super) fn close_if_retired(&mut self) -> Sleepers {
        if self.phase != Phase::Retiring || self.calls.waiting() > 0 {
            return [None, None];
        }
        self.phase = Phase::Closing;
        self.sleepers()
    }

    fn sleepers(&mut self) -> Sleepers {
        [self.writer.take(), self.reader.take()]
    }
}

/// Who is to be woken.
pub(super) type Sleepers = [Option<Waker>; 2];

pub(super) fn wake(sleepers: Sleepers) {
    sleepers.into_iter().flatten().for_each(Waker::wake);
}
