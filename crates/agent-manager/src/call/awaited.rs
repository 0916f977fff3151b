//! An answer that is waited for, and who is to give it.

use crate::{
    breaker::{Admitted, Outcome},
    pool::Member,
};
use portcullis_agent_protocol::{AnyAnswer, CallError, CancelReason, Decision};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

/// Who has been asked.
pub(super) struct Asked<'a> {
    pub(super) member: Arc<Member>,
    /// When.
    pub(super) began: Instant,
    /// Of the replica's breaker, if the agent has replicas and it admits calls.
    pub(super) admitted: Option<Admitted<'a>>,
}

impl Asked<'_> {
    /// Takes note of how it ended; an answer of whatever kind has come if `is_answered`.
    pub(super) fn ended(self, outcome: Outcome, is_answered: bool, now: Instant) {
        if is_answered {
            let took = now.saturating_duration_since(self.began);
            self.member.answered(took, now);
        }
        if let Some(admitted) = self.admitted {
            admitted.record(outcome, now);
        }
    }
}

/// An answer that is waited for. When the wait ends without it, the agent is told why.
pub(super) struct Awaited<'a> {
    pub(super) answer: Option<AnyAnswer>,
    /// Until the answer is there.
    pub(super) asked: Option<Asked<'a>>,
    pub(super) deadline: Instant,
    /// That there is no answer until then is the agent's fault.
    pub(super) is_fair: bool,
    pub(super) decided: &'a AtomicBool,
}

impl<'a> Future for Awaited<'a> {
    type Output = (Result<Decision, CallError>, Option<Asked<'a>>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(answer) = &mut self.answer else {
            return Poll::Ready((Err(CallError::Closed), None));
        };
        let decision = ready!(Pin::new(answer).poll(cx));
        self.answer = None;
        Poll::Ready((decision, self.asked.take()))
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        let now = Instant::now();
        let is_late = now >= self.deadline;
        answer.cancel(if self.decided.load(Relaxed) {
            CancelReason::BlockedByAgent
        } else if is_late {
            CancelReason::Timeout
        } else {
            CancelReason::ClientDisconnect
        });
        if let Some(asked) = self.asked.take() {
            let outcome = match is_late && self.is_fair {
                true => Outcome::Failed,
                false => Outcome::Neutral,
            };
            asked.ended(outcome, is_late, now);
        }
    }
}
