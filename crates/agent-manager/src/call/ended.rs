//! What the end of a call means.

use super::{
    limits::Limits,
    progress::{Progress, Stage},
};
use crate::{
    breaker::Outcome,
    failure::{Failure, FailureReason},
};
use portcullis_agent_protocol::{CallError, Decision};

/// Whether the agent has given an answer, of whatever kind.
pub(super) fn is_answered(result: &Result<Decision, Failure>) -> bool {
    let unreachable = |failure: &Failure| failure.reason == FailureReason::Unreachable;
    !result.as_ref().is_err_and(unreachable)
}

/// What the breaker learns from a call.
pub(super) fn outcome(
    result: &Result<Decision, Failure>,
    limits: Limits,
    progress: &Progress,
) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(Failure {
            reason: FailureReason::Timeout | FailureReason::Budget,
            ..
        }) if limits.is_short => Outcome::Neutral,
        // An agent that had all of the budget and does not answer is too slow, whatever its own timeout would be.
        Err(Failure {
            reason: FailureReason::Budget,
            ..
        }) if limits.whole_budget && progress.is_answering() => Outcome::Failed,
        Err(failure) => failure.reason.outcome(),
    }
}

/// What it means that the time is up. Where the budget is what the agent has anyway, as it is by default for a single agent,
/// the agent was too slow: its breaker has to know.
pub(super) fn out_of_time(stage: Stage, limits: Limits) -> Failure {
    let timeout = limits.timeout;
    match stage {
        _ if limits.budget.is_some_and(|budget| budget < limits.own) => {
            Failure::new(FailureReason::Budget, "the time of all agents is used up")
        }
        Stage::Permit => Failure::new(FailureReason::Saturated, "no permit became free in time"),
        Stage::Paused => Failure::new(
            FailureReason::Saturated,
            format!("it has paused for longer than {timeout:?}"),
        ),
        Stage::Room => Failure::new(
            FailureReason::Saturated,
            format!("no connection had room for another event within {timeout:?}"),
        ),
        Stage::Connection => Failure::new(
            FailureReason::Unreachable,
            format!("no connection within {timeout:?}"),
        ),
        Stage::Answer | Stage::LegacyAnswer => Failure::new(
            FailureReason::Timeout,
            format!("no answer within {timeout:?}"),
        ),
    }
}

pub(super) fn failure(error: CallError) -> Failure {
    let reason = match &error {
        CallError::Closed | CallError::Lost | CallError::Unavailable(_) => {
            FailureReason::Unreachable
        }
        CallError::OutboundFull => FailureReason::Saturated,
        // Seen to before; here it would be one of a kind of call that is not tried again.
        CallError::Overloaded { .. } => FailureReason::Overloaded,
        CallError::DuplicateOutstanding
        | CallError::EventTooLarge { .. }
        | CallError::Protocol(_)
        | CallError::Agent(_) => FailureReason::ProtocolError,
    };
    Failure::new(reason, error.to_string())
}
