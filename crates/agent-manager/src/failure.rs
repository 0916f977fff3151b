//! What a failure means. This is the only place that decides between open and closed, and the only one that knows which
//! status a failure has.

use crate::breaker::Outcome;
use portcullis_config::FailureMode;
use std::{fmt, time::Duration};

/// Why there is no verdict. The names are those of logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// The agent cannot be connected, or its connection was lost or closed before it answered.
    Unreachable,
    /// The agent has as many calls as it may have and the queue is full, or the timeout ended in the queue.
    Saturated,
    /// The agent has failed so often that it is not asked for a while.
    BreakerOpen,
    /// The agent says "not now", and the call has been tried as often as it may be, or there is no time for another try.
    Overloaded,
    /// No answer within the agent's timeout.
    Timeout,
    /// The request has used up the time that all its agents together may take.
    Budget,
    /// The answer is malformed, invalid or an error of the agent's own.
    ProtocolError,
    /// The agent does not take part in the phase that the route needs it for.
    Unavailable,
}

impl FailureReason {
    /// Every reason, for tables in metrics and documents.
    pub const ALL: [Self; 8] = [
        Self::Unreachable,
        Self::Saturated,
        Self::BreakerOpen,
        Self::Overloaded,
        Self::Timeout,
        Self::Budget,
        Self::ProtocolError,
        Self::Unavailable,
    ];

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Saturated => "saturated",
            Self::BreakerOpen => "breaker_open",
            Self::Overloaded => "overloaded",
            Self::Timeout => "timeout",
            Self::Budget => "budget",
            Self::ProtocolError => "protocol_error",
            Self::Unavailable => "unavailable",
        }
    }

    /// The status that a client gets when the failure refuses its request.
    pub const fn status(self) -> u16 {
        match self {
            Self::Unreachable
            | Self::Saturated
            | Self::BreakerOpen
            | Self::Overloaded
            | Self::Unavailable => 503,
            Self::Timeout | Self::Budget => 504,
            Self::ProtocolError => 502,
        }
    }

    /// The status of a gRPC call that the failure refuses (<https://grpc.io/docs/guides/status-codes/>).
    pub const fn grpc_status(self) -> u8 {
        match self {
            Self::Unreachable
            | Self::Saturated
            | Self::BreakerOpen
            | Self::Overloaded
            | Self::Unavailable => 14,
            Self::Timeout | Self::Budget => 4,
            Self::ProtocolError => 13,
        }
    }

    /// What the agent's circuit breaker makes of it.
    pub(crate) const fn outcome(self) -> Outcome {
        match self {
            Self::Unreachable => Outcome::Lost,
            Self::Timeout | Self::ProtocolError => Outcome::Failed,
            Self::Saturated
            | Self::BreakerOpen
            | Self::Overloaded
            | Self::Budget
            | Self::Unavailable => Outcome::Neutral,
        }
    }

    /// How long the client is told to stay away (`Retry-After`), for failures that pass by themselves.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Unreachable
            | Self::Saturated
            | Self::BreakerOpen
            | Self::Overloaded
            | Self::Unavailable => Some(Duration::from_secs(1)),
            Self::Timeout | Self::Budget | Self::ProtocolError => None,
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A call that ended without a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind, which decides what happens.
    pub reason: FailureReason,
    /// For the log: what exactly went wrong. Never shown to a client and never parsed.
    pub detail: String,
    /// How long the client is told to stay away.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with its explanation.
    pub fn new(reason: FailureReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            retry_after: reason.retry_after(),
        }
    }

    /// The agent wants to be left alone for this long.
    pub(crate) fn overloaded(rest: Duration) -> Self {
        Self {
            retry_after: Some(rest),
            ..Self::new(
                FailureReason::Overloaded,
                format!("it wants to be left alone for {rest:?}"),
            )
        }
    }
}

/// What becomes of a request whose agent failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// The request goes on as if the agent had not been asked; nothing of its answer is used.
    GoOn,
    /// The request is refused with this failure's status.
    Refuse(FailureReason),
}

/// The rule: no verdict means failure, and the failure mode of the agent on this route decides, in every phase the same.
pub const fn on_failure(reason: FailureReason, mode: FailureMode) -> Consequence {
    match mode {
        FailureMode::Open => Consequence::GoOn,
        FailureMode::Closed => Consequence::Refuse(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d04_the_mode_alone_decides() {
        for reason in FailureReason::ALL {
            assert_eq!(on_failure(reason, FailureMode::Open), Consequence::GoOn);
            assert_eq!(
                on_failure(reason, FailureMode::Closed),
                Consequence::Refuse(reason)
            );
        }
    }

    #[test]
    fn a_failure_never_looks_like_a_policy_block() {
        for reason in FailureReason::ALL {
            assert!(reason.status() >= 500, "{reason}");
        }
    }
}
