//! What is written down about each question to an agent; the access log, the metrics and the trace read it.

use crate::failure::FailureReason;
use portcullis_config::{AgentId, FailureMode};
use std::time::Duration;

/// The moment in the life of a request at which an agent is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The head of the request is complete; nothing has gone to the upstream.
    RequestHeaders,
}

impl Phase {
    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request_headers",
        }
    }
}

/// How one question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordedVerdict {
    /// The agent let the request pass, perhaps with changes.
    Allow,
    /// The agent refused the request.
    Block,
    /// The agent sent the client elsewhere.
    Redirect,
    /// The agent wants the client to prove something first.
    Challenge,
    /// Another agent of the same parallel group decided first.
    Cancelled,
    /// The client went away before the agent had answered.
    ClientGone,
    /// There was no verdict; the failure mode of the agent on this route decided instead.
    Failed {
        /// Why there was none.
        reason: FailureReason,
        /// The mode that was applied.
        mode: FailureMode,
    },
}

impl RecordedVerdict {
    /// The name in logs, and the `outcome` label of the metrics: the verdict, or the name of the failure.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
            Self::Redirect => "redirect",
            Self::Challenge => "challenge",
            Self::Cancelled => "cancelled",
            Self::ClientGone => "client_gone",
            Self::Failed { reason, .. } => reason.name(),
        }
    }
}

/// One question to one agent and how it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Who was asked.
    pub agent: AgentId,
    /// When in the request's life.
    pub phase: Phase,
    /// How it ended.
    pub verdict: RecordedVerdict,
    /// The agent's reason codes, or what went wrong; `None` when there is nothing to say.
    pub reason: Option<String>,
    /// Tags that the agent put on the request.
    pub tags: Vec<String>,
    /// From the question to its end.
    pub duration: Duration,
}
