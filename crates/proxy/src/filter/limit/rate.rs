//! `rate-limit`: requests in a time. The arithmetic is governor's (GCRA), which is a bucket that fills steadily.

use super::{Key, table::Table};
use crate::{
    filter::{Flow, Head, refusal::Refusal},
    reply::Reply,
    request::Request,
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::StateInformationMiddleware,
};
use http::{HeaderName, HeaderValue};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

/// draft-ietf-httpapi-ratelimit-headers, the tenth version.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What is counted for a line of the configuration.
pub(super) struct Rate<C: Clock = MonotonicClock> {
    limiter: RateLimiter<u64, Table, C, StateInformationMiddleware>,
    key: Key,
    burst: u32,
    /// Until there is one more.
    interval: Duration,
}

impl Rate {
    pub(super) fn new(limit: &portcullis_config::RateLimit) -> Result<Self, String> {
        Self::with_clock(limit, MonotonicClock)
    }
}

impl<C: Clock> Rate<C> {
    fn with_clock(limit: &portcullis_config::RateLimit, clock: C) -> Result<Self, String> {
        let interval = limit.per / limit.requests.max(1);
        let none = || "a rate of nothing".to_owned();
        let burst = NonZeroU32::new(limit.burst).ok_or_else(none)?;
        let quota = Quota::with_period(interval).ok_or_else(none)?;
        let table = Table::new(limit.max_keys);
        Ok(Self {
            limiter: RateLimiter::new(quota.allow_burst(burst), table, clock),
            key: Key::new(&limit.key)?,
            burst: limit.burst,
            interval,
        })
    }

    /// Takes one: how many are left, or how long to wait for the next.
    fn take(&self, key: u64) -> Result<u32, Duration> {
        match self.limiter.check_key(&key) {
            Ok(state) => Ok(state.remaining_burst_capacity()),
            Err(refused) => Err(refused.wait_time_from(self.limiter.clock().now())),
        }
    }

    /// In how many seconds all of the burst will be there again.
    fn whole_in(&self, left: u32) -> u64 {
        whole_seconds(self.interval * self.burst.saturating_sub(left))
    }
}

/// None too few.
const fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + (duration.subsec_nanos() > 0) as u64
}

/// The step of a route.
pub(crate) struct RateLimit {
    rate: Arc<Rate>,
    status: u16,
    refusal: Refusal,
    /// What clients are told beside their own state, unless nothing.
    policy: Option<Policy>,
}

/// How a limit is called towards clients, and what it is.
struct Policy {
    name: String,
    line: HeaderValue,
}

impl RateLimit {
    pub(super) fn new(
        rate: Arc<Rate>,
        limit: &portcullis_config::RateLimit,
        refusal: Refusal,
    ) -> Self {
        let policy = limit.headers.then(|| Policy::new("limit", &rate));
        Self {
            rate,
            status: limit.status,
            refusal,
            policy: policy.flatten(),
        }
    }

    /// Where there are several on a route, they are told apart by their numbers, from 1.
    pub(in crate::filter) fn numbered(&mut self, number: usize) {
        if let Some(policy) = &mut self.policy
            && let Some(numbered) = Policy::new(&format!("limit-{number}"), &self.rate)
        {
            *policy = numbered;
        }
    }

    pub(in crate::filter) fn on_request(
        &self,
        position: usize,
        head: &RequestHeader,
        request: &mut Request,
    ) -> Flow {
        let key = self.rate.key.of(head, request);
        let taken = self.rate.take(key);
        if self.policy.is_some() {
            let left = *taken.as_ref().unwrap_or(&0);
            request.limits.left.push((position, left));
        }
        let Err(wait) = taken else {
            return Flow::Continue;
        };
        if !self.refusal.refuse(request, "rate_limited") {
            return Flow::Continue;
        }
        Flow::Reply(Reply::status(self.status).with_retry_after(Some(wait)))
    }

    /// Says what is left.
    ///
    /// # Errors
    /// The head has no room for more.
    pub(in crate::filter) fn on_response(
        &self,
        position: usize,
        head: &mut ResponseHeader,
        request: &Request,
    ) -> Result<()> {
        let mut left = request.limits.left.iter();
        let (Some(policy), Some((_, left))) = (&self.policy, left.find(|(of, _)| *of == position))
        else {
            return Ok(());
        };
        let seconds = self.rate.whole_in(*left);
        let line = format!("\"{}\";r={left};t={seconds}", policy.name);
        head.add(RATELIMIT_POLICY, policy.line.clone())?;
        match HeaderValue::try_from(line) {
            Ok(line) => head.add(RATELIMIT, line),
            Err(_) => Ok(()),
        }
    }
}

impl Policy {
    fn new(name: &str, rate: &Rate) -> Option<Self> {
        let (most, seconds) = (rate.burst, rate.whole_in(0));
        let line = HeaderValue::try_from(format!("\"{name}\";q={most};w={seconds}"));
        Some(Self {
            name: name.to_owned(),
            line: line.ok()?,
        })
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("interval", &self.rate.interval)
            .field("burst", &self.rate.burst)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use portcullis_config::{Enforcement, LimitKey};

    fn rate(
        requests: u32,
        per: u64,
        burst: u32,
        clock: &FakeRelativeClock,
    ) -> Rate<FakeRelativeClock> {
        let limit = portcullis_config::RateLimit {
            requests,
            per: Duration::from_secs(per),
            burst,
            key: vec![LimitKey::Route],
            max_keys: 1000,
            status: 429,
            headers: true,
            mode: Enforcement::Enforce,
        };
        Rate::with_clock(&limit, clock.clone()).unwrap()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let clock = FakeRelativeClock::default();
        let rate = rate(2, 1, 3, &clock);
        assert_eq!([1; 3].map(|key| rate.take(key)), [Ok(2), Ok(1), Ok(0)]);
        assert_eq!(rate.take(1), Err(Duration::from_millis(500)));
        // Another key has a bucket of its own.
        assert_eq!(rate.take(2), Ok(2));
        clock.advance(Duration::from_millis(400));
        assert_eq!(rate.take(1), Err(Duration::from_millis(100)));
        clock.advance(Duration::from_millis(100));
        assert_eq!(rate.take(1), Ok(0));
        clock.advance(Duration::from_secs(60));
        assert_eq!(rate.take(1), Ok(2));
    }

    #[test]
    fn what_is_left_is_whole_again_in_whole_seconds() {
        let clock = FakeRelativeClock::default();
        for (requests, per, burst, left, seconds) in [
            (100, 1, 200, 0, 2),
            (100, 1, 200, 199, 1),
            (100, 1, 200, 200, 0),
            (1, 60, 1, 0, 60),
            (7, 60, 7, 6, 9),
            (1, 3600, 24, 0, 86_400),
        ] {
            let rate = rate(requests, per, burst, &clock);
            assert_eq!(rate.whole_in(left), seconds, "{requests} per {per}");
        }
    }
}
