//! What is written down about each question to an agent; the access log, the metrics and the trace read it.

use crate::failure::FailureReason;
use portcullis_agent_protocol::Event;
use portcullis_config::{AgentId, FailureMode};
use std::time::Duration;

/// The moment in the life of a request at which an agent is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The head of the request is complete; nothing has gone to the upstream.
    RequestHeaders,
    /// The body of the request, or a piece of it.
    RequestBody,
    /// The head of the response is complete; nothing has gone to the client.
    ResponseHeaders,
    /// The body of the response, or a piece of it.
    ResponseBody,
    /// Texts out of the body of the request.
    RequestGuardrail,
    /// Texts out of the body of the response.
    ResponseGuardrail,
    /// The frames of the WebSocket that the request became, in both directions.
    WebSocketFrames,
    /// The request is over.
    RequestComplete,
}

impl Phase {
    /// Every phase, for tables in metrics and documents.
    pub const ALL: [Self; 8] = [
        Self::RequestHeaders,
        Self::RequestBody,
        Self::ResponseHeaders,
        Self::ResponseBody,
        Self::RequestGuardrail,
        Self::ResponseGuardrail,
        Self::WebSocketFrames,
        Self::RequestComplete,
    ];

    /// The phase that an event belongs to.
    pub(crate) const fn of(event: &Event<'_>) -> Self {
        match event {
            Event::RequestHeaders(_) => Self::RequestHeaders,
            Event::RequestBodyChunk(_) => Self::RequestBody,
            Event::ResponseHeaders(_) => Self::ResponseHeaders,
            Event::ResponseBodyChunk(_) => Self::ResponseBody,
            Event::GuardrailInspect(text) => match text.is_response {
                false => Self::RequestGuardrail,
                true => Self::ResponseGuardrail,
            },
            Event::WebSocketFrame(_) => Self::WebSocketFrames,
            Event::RequestComplete(_) => Self::RequestComplete,
        }
    }

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request_headers",
            Self::RequestBody => "request_body",
            Self::ResponseHeaders => "response_headers",
            Self::ResponseBody => "response_body",
            Self::RequestGuardrail => "request_guardrail",
            Self::ResponseGuardrail => "response_guardrail",
            Self::WebSocketFrames => "websocket_frames",
            Self::RequestComplete => "request_complete",
        }
    }

    /// Whether it is about what comes from the upstream.
    pub const fn is_response(self) -> bool {
        matches!(
            self,
            Self::ResponseHeaders | Self::ResponseBody | Self::ResponseGuardrail
        )
    }

    const fn has_pieces(self) -> bool {
        matches!(
            self,
            Self::RequestBody
                | Self::ResponseBody
                | Self::RequestGuardrail
                | Self::ResponseGuardrail
                | Self::WebSocketFrames
        )
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
    /// The agent found something in a text. What becomes of the message is the route's to say.
    Detected,
    /// The agent let the frame of a WebSocket not go on.
    Drop,
    /// The agent closed the WebSocket.
    Close,
    /// Another agent of the same parallel group decided first.
    Cancelled,
    /// The client went away before the agent had answered.
    ClientGone,
    /// The body is larger than the agent is shown, and passes without it (`on-oversize="skip"`).
    Skipped,
    /// There was no verdict; the failure mode of the agent on this route decided instead.
    Failed {
        /// Why there was none.
        reason: FailureReason,
        /// The mode that was applied.
        mode: FailureMode,
    },
    /// The body could not be shown to the agent, which ends the request whatever the failure mode is.
    Refused(FailureReason),
}

impl RecordedVerdict {
    /// The name in logs, and the `outcome` label of the metrics: the verdict, or the name of the failure.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
            Self::Redirect => "redirect",
            Self::Challenge => "challenge",
            Self::Detected => "detected",
            Self::Drop => "drop",
            Self::Close => "close",
            Self::Cancelled => "cancelled",
            Self::ClientGone => "client_gone",
            Self::Skipped => "skipped",
            Self::Failed { reason, .. } | Self::Refused(reason) => reason.name(),
        }
    }

    /// Whether the agent has decided something, in contrast to a failure and to not being asked to the end.
    pub const fn is_verdict(self) -> bool {
        match self {
            Self::Allow
            | Self::Block
            | Self::Redirect
            | Self::Challenge
            | Self::Detected
            | Self::Drop
            | Self::Close => true,
            Self::Cancelled
            | Self::ClientGone
            | Self::Skipped
            | Self::Failed { .. }
            | Self::Refused(_) => false,
        }
    }

    /// Whether there is no verdict because something went wrong, and not because nobody wanted one.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Refused(_))
    }

    /// How people are told, in the access log, beside a response and afterwards: there, that an agent failed is one thing and
    /// how is another.
    pub const fn told(self) -> Told {
        let (reason, failure_mode) = match self {
            Self::Failed { reason, mode } => (reason, Some(mode.name())),
            Self::Refused(reason) => (reason, None),
            verdict => {
                return Told {
                    verdict: verdict.name(),
                    failure: None,
                    failure_mode: None,
                };
            }
        };
        Told {
            verdict: "failed",
            failure: Some(reason.name()),
            failure_mode,
        }
    }
}

/// A verdict in words, see [`RecordedVerdict::told`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The verdict, or `failed`.
    pub verdict: &'static str,
    /// Of `failed`: the name of the failure.
    pub failure: Option<&'static str>,
    /// Of `failed`: the mode that decided. `None` where a body could not be shown, about which no mode decides.
    pub failure_mode: Option<&'static str>,
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
    /// How often the agent was asked: a body goes in pieces, a WebSocket in frames. 0 when it was not asked at all.
    pub calls: u32,
    /// The verdict was known from an earlier request, see `verdict-cache`.
    pub cached: bool,
}

/// More tags, or reasons, of one question or body are not kept.
pub(crate) const MOST_TAGS: usize = 32;

impl Record {
    /// How often the agent was asked, where that is not once, as nearly always. A verdict that was known is no question.
    pub fn unusual_calls(&self) -> Option<u32> {
        (!self.cached && self.calls != 1).then_some(self.calls)
    }

    /// Whether it is about the next piece of the body, or the next frame of the WebSocket, that the other is about.
    pub(crate) fn continues(&self, other: &Self) -> bool {
        self.phase.has_pieces() && self.phase == other.phase && self.agent == other.agent
    }

    /// Adds what became of the next piece or frame.
    pub(crate) fn extend(&mut self, next: Self) {
        self.duration += next.duration;
        self.calls = self.calls.saturating_add(next.calls);
        // A piece that passed does not hide that another was not looked at.
        // Nor does a question that nobody waits for any longer hide why.
        let is_moot =
            next.verdict == RecordedVerdict::ClientGone && self.verdict != RecordedVerdict::Allow;
        if next.verdict != RecordedVerdict::Allow && !is_moot {
            self.verdict = next.verdict;
        }
        if next.reason.is_some() {
            self.reason = next.reason;
        }
        for tag in next.tags {
            if self.tags.len() < MOST_TAGS && !self.tags.contains(&tag) {
                self.tags.push(tag);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_told_beside_that_it_did() {
        let told = |verdict: RecordedVerdict| {
            let told = verdict.told();
            (told.verdict, told.failure, told.failure_mode)
        };
        assert_eq!(told(RecordedVerdict::Block), ("block", None, None));
        let failed = RecordedVerdict::Failed {
            reason: FailureReason::Timeout,
            mode: FailureMode::Open,
        };
        assert_eq!(told(failed), ("failed", Some("timeout"), Some("open")));
        let refused = RecordedVerdict::Refused(FailureReason::Oversize);
        assert_eq!(told(refused), ("failed", Some("oversize"), None));
    }

    #[test]
    fn the_frames_of_both_directions_are_one_record() {
        let frame = Record {
            agent: "waf".into(),
            phase: Phase::WebSocketFrames,
            verdict: RecordedVerdict::Allow,
            reason: None,
            tags: Vec::new(),
            duration: Duration::ZERO,
            calls: 1,
            cached: false,
        };
        assert!(frame.continues(&frame.clone()));
        let other = Record {
            agent: "guard".into(),
            ..frame.clone()
        };
        assert!(!frame.continues(&other));
    }

    #[test]
    fn the_pieces_of_a_body_are_one_record() {
        let piece = |verdict, tag: &str| Record {
            agent: "waf".into(),
            phase: Phase::RequestBody,
            verdict,
            reason: None,
            tags: vec![tag.to_owned()],
            duration: Duration::from_millis(1),
            calls: 1,
            cached: false,
        };
        let failed = RecordedVerdict::Failed {
            reason: FailureReason::Timeout,
            mode: FailureMode::Open,
        };
        let mut record = piece(RecordedVerdict::Allow, "a");
        for next in [piece(failed, "b"), piece(RecordedVerdict::Allow, "a")] {
            assert!(record.continues(&next));
            record.extend(next);
        }
        assert_eq!(record.verdict, failed);
        assert_eq!(record.tags, ["a", "b"]);
        assert_eq!((record.calls, record.duration.as_millis()), (3, 3));
        let heads = Record {
            phase: Phase::RequestHeaders,
            ..record.clone()
        };
        assert!(!heads.continues(&heads.clone()));
        assert!(!heads.continues(&record));
    }
}
