//! What a failure means. This is the only place that decides between open and closed, and the only one that knows which
//! status a failure has.

use crate::{breaker::Outcome, record::Phase};
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
    /// The body is larger than the agent is shown.
    Oversize,
    /// The body cannot be decoded for the agent, or would become too large.
    Undecodable,
    /// The body has a content coding that the proxy does not know, or several, or is not in the form that it has to have.
    UnknownCoding,
    /// All bodies that are held for agents take up as much memory as they may.
    BufferFull,
}

impl FailureReason {
    /// Every reason. Two of them share a name.
    pub const ALL: [Self; 12] = [
        Self::Unreachable,
        Self::Saturated,
        Self::BreakerOpen,
        Self::Overloaded,
        Self::Timeout,
        Self::Budget,
        Self::ProtocolError,
        Self::Unavailable,
        Self::Oversize,
        Self::Undecodable,
        Self::UnknownCoding,
        Self::BufferFull,
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
            Self::Oversize => "oversize",
            Self::Undecodable | Self::UnknownCoding => "undecodable",
            Self::BufferFull => "buffer_full",
        }
    }

    /// Whether a body could not be shown to an agent, in contrast to an agent that failed.
    pub const fn is_of_body(self) -> bool {
        match self {
            Self::Oversize | Self::Undecodable | Self::UnknownCoding | Self::BufferFull => true,
            Self::Unreachable
            | Self::Saturated
            | Self::BreakerOpen
            | Self::Overloaded
            | Self::Timeout
            | Self::Budget
            | Self::ProtocolError
            | Self::Unavailable => false,
        }
    }

    /// The status that a client gets when the failure refuses its request in this phase.
    pub const fn status(self, phase: Phase) -> u16 {
        match self {
            Self::Unreachable
            | Self::Saturated
            | Self::BreakerOpen
            | Self::Overloaded
            | Self::Unavailable
            | Self::BufferFull => 503,
            Self::Timeout | Self::Budget => 504,
            Self::ProtocolError => 502,
            // The upstream is to blame for its own bodies.
            Self::Oversize | Self::Undecodable | Self::UnknownCoding if phase.is_response() => 502,
            Self::Oversize | Self::Undecodable => 413,
            Self::UnknownCoding => 415,
        }
    }

    /// The code that both ends of a WebSocket are closed with when the failure ends it: after the upgrade there is no
    /// status any more. 1011 says that a server could not do its part (RFC 6455 section 7.4.1), which no end takes for a
    /// policy.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Unreachable
            | Self::Saturated
            | Self::BreakerOpen
            | Self::Overloaded
            | Self::Timeout
            | Self::Budget
            | Self::ProtocolError
            | Self::Unavailable
            | Self::Oversize
            | Self::Undecodable
            | Self::UnknownCoding
            | Self::BufferFull => 1011,
        }
    }

    /// The status of a gRPC call that the failure refuses (<https://grpc.io/docs/guides/status-codes/>).
    pub const fn grpc_status(self) -> u8 {
        match self {
            Self::Unreachable
            | Self::Saturated
            | Self::BreakerOpen
            | Self::Overloaded
            | Self::Unavailable
            | Self::BufferFull => 14,
            Self::Timeout | Self::Budget => 4,
            Self::Oversize => 8,
            Self::ProtocolError | Self::Undecodable | Self::UnknownCoding => 13,
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
            | Self::Unavailable
            | Self::Oversize
            | Self::Undecodable
            | Self::UnknownCoding
            | Self::BufferFull => Outcome::Neutral,
        }
    }

    /// How long the client is told to stay away (`Retry-After`), for failures that pass by themselves.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Unreachable
            | Self::Saturated
            | Self::BreakerOpen
            | Self::Overloaded
            | Self::Unavailable
            | Self::BufferFull => Some(Duration::from_secs(1)),
            Self::Timeout
            | Self::Budget
            | Self::ProtocolError
            | Self::Oversize
            | Self::Undecodable
            | Self::UnknownCoding => None,
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

/// The mode of what has no request to refuse.
pub(crate) const NOBODY_WAITS: FailureMode = FailureMode::Open;

/// The rule: no verdict means failure, and the failure mode of the agent on this route decides, in every phase the same. It
/// does not decide about bodies that the agent cannot be shown, because then whoever sends them would.
pub const fn on_failure(reason: FailureReason, mode: FailureMode) -> Consequence {
    match mode {
        FailureMode::Open if !reason.is_of_body() => Consequence::GoOn,
        FailureMode::Open | FailureMode::Closed => Consequence::Refuse(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d04_the_mode_alone_decides_about_agents_and_never_about_bodies() {
        for reason in FailureReason::ALL {
            let open = match reason.is_of_body() {
                false => Consequence::GoOn,
                true => Consequence::Refuse(reason),
            };
            assert_eq!(on_failure(reason, FailureMode::Open), open);
            assert_eq!(
                on_failure(reason, FailureMode::Closed),
                Consequence::Refuse(reason)
            );
        }
    }

    #[test]
    fn a_failure_never_looks_like_a_policy_block() {
        for reason in FailureReason::ALL {
            for phase in Phase::ALL {
                let status = reason.status(phase);
                let is_clients_fault = reason.is_of_body() && !phase.is_response();
                assert!(
                    status >= 500 || is_clients_fault && [413, 415].contains(&status),
                    "{reason}"
                );
                // 1008 is what an agent closes with for its policy.
                assert_ne!(reason.close_code(), 1008, "{reason}");
            }
        }
    }
}
