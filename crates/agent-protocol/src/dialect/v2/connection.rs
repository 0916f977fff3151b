//! The handles of a connection, and the answers that they hand out.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use serde_json::Value;

use super::calls::CallId;
use super::outbox::Outgoing;
use super::shared::{Phase, Shared, State, wake};
use super::{
    CloseReason, ConnectOptions, ConnectionDriver, PendingConfiguration, PendingPong, connect,
};
use crate::{
    CallError, CallGuard, CancelReason, Capabilities, Condition, ConnectError, Decision, Event,
    EventKind, Extensions, HealthState,
};

/// A connection to an agent. Clones share it; when the last is dropped, it
/// finishes what is outstanding and closes.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

// Counts the clones of `Connection`, apart from the driver and the answers,
// which must not keep a connection alive.
struct Handle {
    shared: Arc<Shared>,
}

impl Connection {
    /// Dials the agent at this path, shakes hands, and has the configuration
    /// accepted when there is one; all under one deadline. The driver has to
    /// be spawned on the runtime that this was called on.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        path: &Path,
        options: &ConnectOptions,
    ) -> Result<(Self, ConnectionDriver), ConnectError> {
        let opening = connect::open(path, options);
        match tokio::time::timeout(options.handshake_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(ConnectError::Timeout),
        }
    }

    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            handle: Arc::new(Handle { shared }),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// What the agent said about itself.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.shared().capabilities
    }

    /// What was agreed on beyond the legacy protocol.
    #[must_use]
    pub fn extensions(&self) -> Extensions {
        self.shared().extensions
    }

    /// Whether the agent wants events of this kind.
    #[must_use]
    pub fn supports(&self, kind: EventKind) -> bool {
        self.capabilities().supports(kind)
    }

    /// How many events the agent says it works on at once on this connection.
    /// More may be sent; they wait in the agent. `None` when the agent does
    /// not say, which does not mean 1.
    #[must_use]
    pub fn max_outstanding(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.capabilities().features.concurrent_requests)
    }

    /// How many events the agent says it works on at once, over all of its
    /// connections. `None` when the agent does not say.
    #[must_use]
    pub fn max_concurrency(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.capabilities().limits.max_concurrency)
    }

    /// Whether new events are accepted: it neither retires nor is it closed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared().lock().phase == Phase::Open
    }

    /// Whether it takes no new events and closes when nobody waits any longer
    /// for an answer.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.shared().lock().phase == Phase::Retiring
    }

    /// How many calls are being waited for.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared().lock().calls.waiting()
    }

    /// How many events the agent has not answered, whether or not somebody
    /// still waits for them. This is what the agent has to work on.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.shared().lock().calls.unanswered()
    }

    /// How many answers came when nobody waited for them any longer.
    #[must_use]
    pub fn late_answers_seen(&self) -> u64 {
        self.shared().lock().calls.late_answers()
    }

    /// How many events were cancelled; none with an agent that does not
    /// understand it.
    #[must_use]
    pub fn cancels_sent(&self) -> u64 {
        self.shared().lock().cancels_sent
    }

    /// How many messages came that are not answers.
    #[must_use]
    pub fn control_messages_seen(&self) -> u64 {
        self.shared().control_messages()
    }

    /// How the agent says that it is. Nothing is done about it here: events
    /// are sent to an agent that drains, is unhealthy or has paused, and are
    /// answered if the agent does so. What to send is for the owner to decide.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.shared().lock().condition
    }

    /// What the agent said last about its health; healthy before it has.
    #[must_use]
    pub fn health(&self) -> HealthState {
        self.condition().health
    }

    /// Whether the agent wants no more events for now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.condition().paused
    }

    /// Waits until the condition is another than this one that was seen, also
    /// when it has changed and changed back since; at once when it has
    /// already. `None` when the connection is gone and the condition is still
    /// the one that was seen.
    pub async fn condition_changed(&self, seen: Condition) -> Option<Condition> {
        let look = |state: &State| match &state.phase {
            _ if state.condition != seen => Some(Some(state.condition)),
            Phase::Closed(_) => Some(None),
            _ => None,
        };
        self.shared().seen(look).await
    }

    /// How many times the agent has said that none of its verdicts holds any
    /// longer, of those that were to hold for a while. It is counted before
    /// anything that came behind it is handed out. A verdict may have been
    /// made before a purge and arrive behind it: who keeps verdicts keeps only
    /// those for which this number, over all connections to the agent, is at
    /// the end what it was when the event was sent.
    #[must_use]
    pub fn purges_seen(&self) -> u64 {
        self.shared().lock().purges
    }

    /// Waits until [`purges_seen`](Self::purges_seen) is another number than
    /// this one; at once when it is already. `None` when the connection is gone
    /// and it still is.
    pub async fn purged(&self, seen: u64) -> Option<u64> {
        let look = |state: &State| match &state.phase {
            _ if state.purges != seen => Some(Some(state.purges)),
            Phase::Closed(_) => Some(None),
            _ => None,
        };
        self.shared().seen(look).await
    }

    /// Takes no new events; closes when nobody waits any longer.
    pub fn retire(&self) {
        self.shared().retire();
    }

    /// Closes; pending answers fail with [`CallError::Closed`].
    pub fn close(&self) {
        self.shared().close();
    }

    /// Waits until the connection is gone.
    pub async fn closed(&self) {
        let is_gone = |phase: &Phase| matches!(phase, Phase::Closed(_));
        self.shared().reached(is_gone).await;
    }

    /// Waits until no new events are accepted, because the connection retires
    /// or is closed; at once when that is so already. Its owner can then dial
    /// another, while those that wait for answers still get them here.
    pub async fn no_longer_open(&self) {
        self.shared().reached(|phase| *phase != Phase::Open).await;
    }

    /// When the last complete message of the agent came, of whatever kind;
    /// before the first one when the connection was opened.
    #[must_use]
    pub fn last_heard(&self) -> Instant {
        self.shared().last_heard()
    }

    /// Asks whether the agent is there. The ping is queued before this
    /// returns, also on a connection that retires. How long to wait for the
    /// answer is for the caller to decide.
    pub fn ping(&self) -> PendingPong {
        PendingPong::new(self.shared())
    }

    /// How many Pongs came that no ping was waiting for: late ones, repeated
    /// ones, and such to pings that never were.
    #[must_use]
    pub fn unexpected_pongs_seen(&self) -> u64 {
        self.shared().lock().pings.unexpected_pongs()
    }

    /// Why the connection is gone; `None` while it is not.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        match &self.shared().lock().phase {
            Phase::Closed(reason) => Some(reason.clone()),
            Phase::Open | Phase::Retiring | Phase::Closing => None,
        }
    }

    /// Hands the agent another configuration, with a version for its logs.
    /// The message is queued before this returns. Until the agent has taken
    /// it, and when it refuses, the former one holds and the connection stays
    /// as it is; events that are under way meanwhile may meet either. How
    /// long to wait is for the caller to decide. Whether the agent is made
    /// for it is announced in
    /// [`config_push`](crate::Features::config_push).
    ///
    /// It fails with [`ConfigureError`](crate::ConfigureError), and as
    /// [`send`](Self::send) does when it cannot be queued.
    pub fn configure(&self, config: &Value, version: Option<&str>) -> PendingConfiguration {
        PendingConfiguration::new(self.shared(), config, version)
    }

    /// Asks about an event. It is encoded and queued before this returns,
    /// which never waits. The guard is held as long as the agent may be
    /// working on the event; see [`CallGuard`].
    ///
    /// Whether the agent wants events of this kind, and that it has answered
    /// the one before of the same request, is for the caller to see to.
    ///
    /// # Errors
    /// [`CallError::Closed`] when no new events are accepted,
    /// [`CallError::OutboundFull`] when the agent does not keep up,
    /// [`CallError::EventTooLarge`], and with legacy peers
    /// [`CallError::DuplicateOutstanding`]. Nothing was queued then, and the
    /// guard is dropped.
    pub fn send(&self, event: &Event<'_>, guard: CallGuard) -> Result<PendingAnswer, CallError> {
        let shared = self.shared();
        let outgoing = Outgoing::Event(event);
        let mut state = shared.lock();
        let id = queue(&mut state, shared, event.correlation_id(), &outgoing)?;
        state.calls.hold(id, guard);
        let writer = state.writer.take();
        drop(state);
        wake([writer, None]);
        Ok(PendingAnswer {
            shared: Arc::clone(shared),
            id: Some(id),
        })
    }
}

// Appends an event or a configuration to the outbound buffer, or leaves
// everything as it was.
pub(super) fn queue(
    state: &mut State,
    shared: &Shared,
    correlation_id: &str,
    outgoing: &Outgoing<'_>,
) -> Result<CallId, CallError> {
    if state.phase != Phase::Open {
        return Err(CallError::Closed);
    }
    let limits = &shared.limits;
    let queued = state.unwritten_bytes + state.outbound.len();
    if queued >= limits.max_outbound_bytes {
        return Err(CallError::OutboundFull);
    }
    let id = state.calls.insert(correlation_id)?;
    let number = id.number();
    let pushed = state
        .outbound
        .push(outgoing, number, shared.extensions, limits);
    if let Err(refused) = pushed {
        state.calls.remove(id, correlation_id);
        return Err(refused);
    }
    Ok(id)
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.retire();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("agent_id", &self.capabilities().agent_id)
            .field("extensions", &self.extensions())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// The answer to one event, when it comes.
///
/// Dropping it forgets the event: a late answer is discarded and counted. An
/// agent that has announced `cancellation` is told, and the guard of the call
/// is dropped at once; with other agents it stays until the late answer or
/// the end of the connection. A legacy peer's late answer could be taken for
/// that of a later event of the same request, so its connection retires.
#[must_use = "an answer that nobody waits for is thrown away"]
pub struct PendingAnswer {
    shared: Arc<Shared>,
    /// `None` once the answer has been handed out.
    id: Option<CallId>,
}

impl Future for PendingAnswer {
    type Output = Result<Decision, CallError>;

    /// After the answer, every further poll yields [`CallError::Closed`].
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(id) = self.id else {
            return Poll::Ready(Err(CallError::Closed));
        };
        let polled = self.shared.lock().calls.poll(id, cx);
        if polled.is_ready() {
            self.id = None;
        }
        polled
    }
}

impl PendingAnswer {
    /// Drops it, and tells an agent that understands it why. Without a
    /// reason it is [`CancelReason::ClientDisconnect`].
    pub fn cancel(mut self, reason: CancelReason) {
        self.abandon(reason);
    }

    fn abandon(&mut self, reason: CancelReason) {
        let Some(id) = self.id.take() else {
            return;
        };
        let mut state = self.shared.lock();
        let outstanding = state.calls.is_waiting(id);
        let cancelled = queue_cancel(&mut state, &self.shared, id, reason);
        let guard = match cancelled {
            true => state.calls.cancel(id),
            false => {
                state.calls.forget(id);
                CallGuard::none()
            }
        };
        let retires = outstanding && !self.shared.extensions.event_id && state.phase == Phase::Open;
        if retires {
            state.phase = Phase::Retiring;
        }
        let sleepers = match state.close_if_retired() {
            [None, None] if cancelled => [state.writer.take(), None],
            closing => closing,
        };
        drop(state);
        wake(sleepers);
        if retires {
            self.shared.note_phase();
        }
        drop(guard);
    }
}

// Appends a Cancel when the peer is to be told. It does not count against the
// bound of the outbound buffer: there is at most one for each event that went
// through it.
fn queue_cancel(state: &mut State, shared: &Shared, id: CallId, reason: CancelReason) -> bool {
    let Some(correlation_id) = state.calls.cancellable(id) else {
        return false;
    };
    if !matches!(state.phase, Phase::Open | Phase::Retiring) {
        return false;
    }
    let outgoing = Outgoing::Cancel {
        correlation_id,
        reason,
    };
    let number = id.number();
    let queued = state
        .outbound
        .push(&outgoing, number, shared.extensions, &shared.limits);
    state.cancels_sent += u64::from(queued.is_ok());
    queued.is_ok()
}

impl Drop for PendingAnswer {
    fn drop(&mut self) {
        self.abandon(CancelReason::ClientDisconnect);
    }
}

impl fmt::Debug for PendingAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAnswer")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Connection>();
        shared::<ConnectionDriver>();
        shared::<PendingAnswer>();
        shared::<PendingPong>();
        shared::<PendingConfiguration>();
    }
}
