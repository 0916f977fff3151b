//! The answer to a ping, when it comes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::outbox::Outgoing;
use super::shared::{Phase, Shared, State, wake};
use crate::CallError;

/// How long the agent took to answer a ping.
///
/// It fails with [`CallError::Closed`] when the connection is gone,
/// [`CallError::OutboundFull`] when the agent does not read or 16 pings are
/// unanswered, and [`CallError::Protocol`] when the agent does not keep to the
/// protocol. Dropping it forgets the ping.
#[must_use = "a ping that nobody waits for says nothing"]
pub struct PendingPong {
    shared: Arc<Shared>,
    /// The number of the ping, or why there is none; then, after it has been
    /// answered, [`CallError::Closed`].
    sequence: Result<u64, CallError>,
}

impl PendingPong {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let mut state = shared.lock();
        let sequence = queue(&mut state, shared);
        let writer = match sequence {
            Ok(_) => state.writer.take(),
            Err(_) => None,
        };
        drop(state);
        wake([writer, None]);
        Self {
            shared: Arc::clone(shared),
            sequence,
        }
    }
}

fn queue(state: &mut State, shared: &Shared) -> Result<u64, CallError> {
    if !matches!(state.phase, Phase::Open | Phase::Retiring) {
        return Err(CallError::Closed);
    }
    let queued = state.unwritten_bytes + state.outbound.len();
    if queued >= shared.limits.max_outbound_bytes {
        return Err(CallError::OutboundFull);
    }
    let sequence = state.pings.insert(Instant::now())?;
    let outgoing = Outgoing::Ping { sequence };
    let pushed = state
        .outbound
        .push(&outgoing, 0, shared.extensions, &shared.limits);
    pushed.inspect_err(|_| state.pings.forget(sequence))?;
    Ok(sequence)
}

impl Future for PendingPong {
    type Output = Result<Duration, CallError>;

    /// After the answer, every further poll yields [`CallError::Closed`].
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = match &self.sequence {
            Ok(sequence) => self.shared.lock().pings.poll(*sequence, cx),
            Err(error) => Poll::Ready(Err(error.clone())),
        };
        if polled.is_ready() {
            self.sequence = Err(CallError::Closed);
        }
        polled
    }
}

impl Drop for PendingPong {
    fn drop(&mut self) {
        if let Ok(sequence) = self.sequence {
            self.shared.lock().pings.forget(sequence);
        }
    }
}

impl fmt::Debug for PendingPong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingPong")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}
