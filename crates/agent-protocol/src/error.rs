//! What can go wrong between a proxy and an agent.

use std::io;
use std::time::Duration;

use crate::codec::NoDecision;
use crate::codec::frame::MessageType;

/// The peer did not keep to the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame claims a length of zero or above the limit.
    #[error("a frame claims {length} bytes, allowed are 1 to {limit}")]
    FrameLength {
        /// What the frame claims.
        length: u32,
        /// The most that is accepted.
        limit: u32,
    },
    /// A frame has a type that does not exist.
    #[error("unknown message type 0x{0:02x}")]
    UnknownType(u8),
    /// A message that exists, but not from this peer or not now.
    #[error("unexpected message {0:?}")]
    UnexpectedMessage(MessageType),
    /// A message cannot be decoded.
    #[error("malformed {what}: {detail}")]
    Malformed {
        /// Which message, or which part of it.
        what: &'static str,
        /// What is wrong with it; at most 256 bytes of it, and `…` when there
        /// is more.
        detail: String,
    },
    /// An answer to an event that was never sent, or was already answered.
    #[error("answer to an event that is not outstanding: {id:?}")]
    UnknownEvent {
        /// The id in the answer, cut like the detail of a malformed message.
        id: String,
    },
    /// The peer chose something in the handshake that was not offered.
    #[error("handshake: the peer chose {what} {chosen:?}, which was not offered")]
    NotOffered {
        /// What was chosen: a version, an encoding or an extension.
        what: &'static str,
        /// The choice, cut like the detail of a malformed message.
        chosen: String,
    },
}

impl ProtocolError {
    pub(crate) fn malformed(what: &'static str, detail: impl ToString) -> Self {
        Self::Malformed {
            what,
            detail: shown(&detail.to_string()),
        }
    }
}

/// So much of what others wrote is in an error.
const SHOWN_BYTES: usize = 256;

/// What others wrote, as errors have it: they end up in logs, and anybody may
/// be the other.
pub(crate) fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(SHOWN_BYTES);
    let cut = if end < text.len() { "…" } else { "" };
    format!("{}{cut}", &text[..end])
}

/// Why there is no connection to an agent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens at the path, or the peer closed during the handshake.
    #[error("the agent is unreachable: {0}")]
    Unreachable(#[source] io::Error),
    /// Dialling, handshake and configuration took longer than allowed.
    #[error("the agent did not finish the handshake in time")]
    Timeout,
    /// The agent refused the handshake.
    #[error("the agent refused: {reason}")]
    Refused {
        /// What the agent said, at most 1 KiB of it.
        reason: String,
    },
    /// The agent refused its configuration. Trying again is of no use before
    /// one of the two has changed.
    #[error("the agent refused its configuration: {reason}")]
    ConfigurationRefused {
        /// What the agent said, at most 1 KiB of it.
        reason: String,
    },
    /// The agent did not keep to the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// Why a call has no decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The connection is gone, or takes no new events.
    #[error("the connection to the agent is closed")]
    Closed,
    /// The agent was asked and closed without an answer. That says nothing
    /// about other events: it can still be reached.
    #[error("the agent closed without an answer")]
    Lost,
    /// The agent, or what stands before it, says that it is not there, or
    /// has not answered an earlier event of the same request. Other events
    /// are not concerned.
    #[error("the agent cannot be asked: {0}")]
    Unavailable(String),
    /// The agent does not read: the outbound buffer or the table of
    /// unanswered events is full.
    #[error("the agent does not keep up: too much is queued for it")]
    OutboundFull,
    /// The event alone is larger than a frame may be.
    #[error("the event of {bytes} bytes is larger than a frame may be ({limit} bytes)")]
    EventTooLarge {
        /// The size of the encoded event.
        bytes: usize,
        /// The limit for one frame.
        limit: usize,
    },
    /// A legacy peer has not yet answered an event with the same correlation
    /// id, and could not tell the two apart.
    #[error("an event with this correlation id is still unanswered")]
    DuplicateOutstanding,
    /// The agent did not keep to the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The agent says that it failed. This is not a verdict.
    #[error("the agent failed: {0}")]
    Agent(String),
    /// The agent says that it has too much to do to look at the event now.
    /// This is not a verdict, and nothing is wrong with the agent.
    #[error("the agent is overloaded")]
    Overloaded {
        /// When to ask again, at most
        /// [`MAX_RETRY_AFTER`](crate::codec::MAX_RETRY_AFTER); `None` when
        /// the agent does not say.
        retry_after: Option<Duration>,
    },
}

impl From<NoDecision> for CallError {
    fn from(reason: NoDecision) -> Self {
        match reason {
            NoDecision::Failed(message) => Self::Agent(message),
            NoDecision::Overloaded { retry_after } => Self::Overloaded { retry_after },
        }
    }
}

/// Why an agent on an open connection has not taken another configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// The agent refused it, and goes on with the one that it had.
    #[error("the agent refused its configuration: {reason}")]
    Refused {
        /// What the agent said, at most 1 KiB of it.
        reason: String,
    },
    /// There is no answer. When it was not even sent the agent goes on with
    /// the one that it had, else it is not known with which.
    #[error(transparent)]
    Call(#[from] CallError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_cut_between_characters() {
        for (text, wanted) in [
            ("waf".to_owned(), "waf".to_owned()),
            ("x".repeat(256), "x".repeat(256)),
            ("x".repeat(257), format!("{}…", "x".repeat(256))),
            (
                format!("x{}", "ä".repeat(70_000)),
                format!("x{}…", "ä".repeat(127)),
            ),
        ] {
            assert_eq!(shown(&text), wanted);
        }
        let ProtocolError::Malformed { detail, .. } =
            ProtocolError::malformed("registration", "y".repeat(60_000))
        else {
            panic!("it is of another kind");
        };
        assert_eq!(detail.len(), 256 + '…'.len_utf8());
    }
}
