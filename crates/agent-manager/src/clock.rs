//! Waiting with a deadline.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Shorter waits are timed by tokio, to the millisecond; longer ones by Pingora's timer, whose ticks of 10 ms make it cheap
/// to set and hardly ever fire.
const SHORT: Duration = Duration::from_millis(100);

/// The result of `future`, or `None` when the deadline passes first. It is about `now`.
pub(crate) async fn until<F: Future>(
    now: Instant,
    deadline: Instant,
    future: F,
) -> Option<F::Output> {
    let left = deadline.saturating_duration_since(now);
    if left < SHORT {
        tokio::time::timeout(left, future).await.ok()
    } else {
        pingora_timeout::timeout(left, future).await.ok()
    }
}
