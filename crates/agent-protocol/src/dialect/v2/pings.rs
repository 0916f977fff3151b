//! The pings that have not been answered, and who waits for them.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::CallError;

/// More are never needed at once, and an agent that answers none of them
/// must not make the table grow.
const MOST_WAITING: usize = 16;

type Outcome = Result<Duration, CallError>;

#[derive(Debug, Default)]
pub(super) struct Pings {
    last_sequence: u64,
    waiting: Vec<Ping>,
    unexpected_pongs: u64,
}

#[derive(Debug)]
struct Ping {
    sequence: u64,
    sent: Instant,
    waker: Option<Waker>,
    outcome: Option<Outcome>,
}

impl Pings {
    /// How many Pongs came that no ping was waiting for.
    pub(super) fn unexpected_pongs(&self) -> u64 {
        self.unexpected_pongs
    }

    /// The sequence number of the next ping.
    pub(super) fn insert(&mut self, sent: Instant) -> Result<u64, CallError> {
        if self.waiting.len() >= MOST_WAITING {
            return Err(CallError::OutboundFull);
        }
        self.last_sequence += 1;
        self.waiting.push(Ping {
            sequence: self.last_sequence,
            sent,
            waker: None,
            outcome: None,
        });
        Ok(self.last_sequence)
    }

    /// Takes note of a Pong, and says who is to be woken.
    pub(super) fn complete(&mut self, sequence: u64, now: Instant) -> Option<Waker> {
        let unanswered = |ping: &&mut Ping| ping.sequence == sequence && ping.outcome.is_none();
        let Some(ping) = self.waiting.iter_mut().find(unanswered) else {
            self.unexpected_pongs += 1;
            return None;
        };
        ping.outcome = Some(Ok(now.duration_since(ping.sent)));
        ping.waker.take()
    }

    /// Fetches what a ping ended with.
    pub(super) fn poll(&mut self, sequence: u64, cx: &mut Context<'_>) -> Poll<Outcome> {
        let is_it = |ping: &Ping| ping.sequence == sequence;
        let Some(place) = self.waiting.iter().position(is_it) else {
            // Cannot be while its `PendingPong` lives, which owns the place.
            return Poll::Ready(Err(CallError::Closed));
        };
        let ping = &mut self.waiting[place];
        let Some(outcome) = ping.outcome.take() else {
            ping.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        self.waiting.swap_remove(place);
        Poll::Ready(outcome)
    }

    /// Stops waiting for a ping.
    pub(super) fn forget(&mut self, sequence: u64) {
        self.waiting.retain(|ping| ping.sequence != sequence);
    }

    /// Ends all pings with this error, and says who is to be woken.
    pub(super) fn fail_all(&mut self, error: &CallError) -> Vec<Waker> {
        let unanswered = self.waiting.iter_mut();
        let unanswered = unanswered.filter(|ping| ping.outcome.is_none());
        let wakers = unanswered.map(|ping| {
            ping.outcome = Some(Err(error.clone()));
            ping.waker.take()
        });
        wakers.flatten().collect()
    }
}
