//! `retry` of a route, and what upstreams say about how much they take: `retry-budget` and `limits`.

use super::Share;
use std::{ops::RangeInclusive, time::Duration};

/// When a request is sent once more, to another target if there is one. Only requests whose method is idempotent are, unless nothing
/// was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// So often beside the first time, 1 to 10. Default 1.
    pub attempts: u32,
    /// From the end of the request to the head of the response, for each attempt. Default None: as the timeouts say.
    pub per_try_timeout: Option<Duration>,
    /// Any of these is a reason; never empty.
    pub on: Vec<RetryOn>,
}

/// A reason to send a request once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryOn {
    /// There was no connection.
    ConnectFailure,
    /// The connection was lost before the head of a response.
    Reset,
    /// The head of the response did not come in time.
    Timeout,
    /// The response has one of these statuses.
    Status(RangeInclusive<u16>),
}

/// How many requests of an upstream may be on their second try, whatever its routes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// This part of the requests that it has. Default 20 %.
    pub share: Share,
    /// But always so many. Default 3.
    pub min: usize,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            share: Share::of_hundredths(2_000),
            min: 3,
        }
    }
}

/// How many requests an upstream has at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Default None: any number.
    pub requests: Option<usize>,
    /// So many more wait. Default 0.
    pub pending: usize,
    /// For so long. Default 1 s.
    pub pending_timeout: Duration,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            requests: None,
            pending: 0,
            pending_timeout: Duration::from_secs(1),
        }
    }
}
