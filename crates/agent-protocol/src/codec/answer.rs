//! What an answer holds: a decision, or why there is none.

use std::borrow::Cow;
use std::time::Duration;

use crate::{Decision, Extensions, FrameDecision};

/// What an agent answered: a decision, or why it gave none.
pub type Answer = Result<Decision, NoDecision>;

/// Why an agent gave no decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDecision {
    /// It failed, and this is what it says about it.
    #[error("{0}")]
    Failed(String),
    /// It has too much to do to look at the event now.
    #[error("the agent is overloaded")]
    Overloaded {
        /// When to ask again; `None` when the agent does not say. Goes over
        /// the wire in whole milliseconds, rounded up; a reader takes more
        /// than [`MAX_RETRY_AFTER`] for that.
        retry_after: Option<Duration>,
    },
}

/// The longest that an agent can be left alone at its own word: an hour.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

impl NoDecision {
    pub(super) fn overloaded(retry_after_ms: Option<u64>) -> Self {
        let retry_after = retry_after_ms.map(Duration::from_millis);
        Self::Overloaded {
            retry_after: retry_after.map(|it| it.min(MAX_RETRY_AFTER)),
        }
    }
}

pub(super) fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The answer in words that the peer knows. Who does not know `overloaded` is
/// told of a failure. Who does not know `error` either gets a block 500 with
/// the reason code `agent_error`, because it knows nothing closer; the
/// message is in `audit.custom.error` then, since a body goes to the client.
pub(super) fn in_words_of(extensions: Extensions, answer: &Answer) -> Cow<'_, Answer> {
    let reason = match answer {
        // Of all that can be decided about a frame, this is ours alone.
        Ok(decision)
            if !extensions.event_id
                && matches!(
                    decision.websocket.as_deref(),
                    Some(FrameDecision::Replace(_))
                ) =>
        {
            "the proxy cannot replace a frame".to_owned()
        }
        Ok(_) => return Cow::Borrowed(answer),
        Err(NoDecision::Overloaded { .. }) if extensions.overloaded => {
            return Cow::Borrowed(answer);
        }
        Err(NoDecision::Failed(_)) if extensions.error => return Cow::Borrowed(answer),
        Err(reason) => reason.to_string(),
    };
    Cow::Owned(match extensions.error {
        true => Err(NoDecision::Failed(reason)),
        false => Ok(Decision::block(500)
            .reason("agent_error")
            .custom("error", reason)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_does_not_know_is_said_in_other_words() {
        let failed = |text: &str| NoDecision::Failed(text.to_owned());
        let block = |text: &str| {
            let block = Decision::block(500).reason("agent_error");
            Ok(block.custom("error", text))
        };
        let overloaded = NoDecision::overloaded(Some(5));
        let only = |error, overloaded| Extensions {
            error,
            overloaded,
            ..Extensions::NONE
        };
        let table = [
            (only(true, true), Err(failed("no")), Err(failed("no"))),
            (only(false, true), Err(failed("no")), block("no")),
            (
                only(false, true),
                Err(overloaded.clone()),
                Err(overloaded.clone()),
            ),
            (
                only(true, false),
                Err(overloaded.clone()),
                Err(failed("the agent is overloaded")),
            ),
            (
                Extensions::NONE,
                Err(overloaded),
                block("the agent is overloaded"),
            ),
            (
                Extensions::NONE,
                Ok(Decision::allow()),
                Ok(Decision::allow()),
            ),
        ];
        for (extensions, answer, expected) in table {
            assert_eq!(*in_words_of(extensions, &answer), expected);
        }
    }

    #[test]
    fn times_are_rounded_up_and_bounded() {
        let table = [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2)];
        for (nanoseconds, milliseconds) in table {
            let duration = Duration::from_nanos(nanoseconds);
            assert_eq!(whole_milliseconds(duration), milliseconds);
        }
        assert_eq!(whole_milliseconds(Duration::MAX), u64::MAX);
        for (read, taken_for) in [(3_600_000, 3600), (3_600_001, 3600), (u64::MAX, 3600)] {
            let retry_after = Some(Duration::from_secs(taken_for));
            let expected = NoDecision::Overloaded { retry_after };
            assert_eq!(NoDecision::overloaded(Some(read)), expected);
        }
        let silent = NoDecision::Overloaded { retry_after: None };
        assert_eq!(NoDecision::overloaded(None), silent);
    }
}
