//! "Not now": how long an agent that has said so is left alone. Agents that draw on the same quota share one.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What is done when an agent says that it has too much to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverloadSettings {
    /// How often one call is tried again.
    pub retries: u32,
    /// How long the agent is left alone when it does not say.
    pub backoff: Duration,
    /// Agents with the same key share the state.
    pub quota_key: Option<String>,
}

impl Default for OverloadSettings {
    fn default() -> Self {
        Self {
            retries: 1,
            backoff: Duration::from_secs(2),
            quota_key: None,
        }
    }
}

/// Until when nobody asks.
#[derive(Debug, Default)]
pub(crate) struct Quota(Mutex<Option<Instant>>);

impl Quota {
    /// The agent wants to be left alone until then. An earlier word that reaches further holds.
    pub(crate) fn rest_until(&self, until: Instant) {
        let mut present = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if present.is_none_or(|present| present < until) {
            *present = Some(until);
        }
    }

    /// How long the agent is still left alone.
    pub(crate) fn rest(&self, now: Instant) -> Option<Duration> {
        let mut present = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = present.map(|until| until.saturating_duration_since(now));
        match left {
            Some(left) if !left.is_zero() => Some(left),
            _ => {
                *present = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_word_holds_until_it_is_over() {
        let quota = Quota::default();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(quota.rest(now), None);
        quota.rest_until(now + 2 * second);
        quota.rest_until(now + second);
        assert_eq!(quota.rest(now), Some(2 * second));
        assert_eq!(quota.rest(now + second), Some(second));
        assert_eq!(quota.rest(now + 2 * second), None);
        quota.rest_until(now + 3 * second);
        assert_eq!(quota.rest(now + 2 * second), Some(second));
    }
}
