//! How many calls an agent may be working on, and how many more may wait. Of the process: all workers share one set per
//! agent, and agents share nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// The permits of one agent.
#[derive(Debug)]
pub(crate) struct Permits {
    semaphore: Arc<Semaphore>,
    limit: usize,
    waiting: AtomicUsize,
    queue: usize,
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueFull;

/// The right to have the agent work on one event. It belongs to the event and not to its caller: when the caller gives up,
/// the agent is still at work.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl Permits {
    /// At most `limit` calls at once, and at most `queue` that wait for one of them to end.
    pub(crate) fn new(limit: usize, queue: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            semaphore: Arc::new(Semaphore::new(limit)),
            limit,
            waiting: AtomicUsize::new(0),
            queue,
        }
    }

    /// Takes a permit, in the order of asking, and says how long that took. The caller bounds the wait.
    ///
    /// # Errors
    /// [`QueueFull`] at once when too many wait already.
    pub(crate) async fn acquire(&self) -> Result<(Permit, Duration), QueueFull> {
        match self.semaphore.clone().try_acquire_owned() {
            Ok(permit) => return Ok((Permit { _permit: permit }, Duration::ZERO)),
            Err(TryAcquireError::NoPermits) => {}
            // Nobody closes the semaphore.
            Err(TryAcquireError::Closed) => return Err(QueueFull),
        }
        let _waiting = self.enter()?;
        let since = Instant::now();
        match self.semaphore.clone().acquire_owned().await {
            Ok(permit) => Ok((Permit { _permit: permit }, since.elapsed())),
            Err(_) => Err(QueueFull),
        }
    }

    /// Events that the agent is working on.
    pub(crate) fn in_use(&self) -> usize {
        self.limit - self.semaphore.available_permits().min(self.limit)
    }

    /// Calls that wait for a permit.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    fn enter(&self) -> Result<Waiting<'_>, QueueFull> {
        if self.waiting.fetch_add(1, Relaxed) >= self.queue {
            self.waiting.fetch_sub(1, Relaxed);
            return Err(QueueFull);
        }
        Ok(Waiting(&self.waiting))
    }
}

/// A place in the queue, however the wait ends.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, future::BoxFuture};
    use proptest::prelude::*;

    #[test]
    fn d09_a_full_queue_refuses_at_once() {
        let permits = Permits::new(1, 1);
        let held = permits.acquire().now_or_never().unwrap().unwrap();
        let mut waiting = Box::pin(permits.acquire());
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(permits.waiting(), 1);
        let refused = permits.acquire().now_or_never().unwrap();
        assert_eq!(refused.err(), Some(QueueFull));
        drop(held);
        assert!(waiting.now_or_never().unwrap().is_ok());
        assert_eq!((permits.waiting(), permits.in_use()), (0, 0));
    }

    proptest! {
        /// Callers come, get their turn, finish or give up in any order: never more than the limit at work, never more than
        /// the queue waiting, and nothing is left at the end.
        #[test]
        fn bounds_hold_and_everything_comes_back(
            limit in 1usize..4, queue in 0usize..4,
            steps in proptest::collection::vec((0u8..4, 0usize..8), 0..100),
        ) {
            let permits = Permits::new(limit, queue);
            let mut waiting: Vec<BoxFuture<'_, Result<(Permit, Duration), QueueFull>>> = Vec::new();
            let mut working: Vec<Permit> = Vec::new();
            for (what, which) in steps {
                match what {
                    0 => {
                        let mut caller = permits.acquire().boxed();
                        match (&mut caller).now_or_never() {
                            None => waiting.push(caller),
                            Some(Ok((permit, _))) => working.push(permit),
                            Some(Err(QueueFull)) => prop_assert_eq!(permits.waiting(), queue),
                        }
                    }
                    1 if !working.is_empty() => drop(working.swap_remove(which % working.len())),
                    2 if !waiting.is_empty() => drop(waiting.swap_remove(which % waiting.len())),
                    _ => {
                        let mut still = Vec::new();
                        for mut caller in waiting.drain(..) {
                            match (&mut caller).now_or_never() {
                                None => still.push(caller),
                                Some(Ok((permit, _))) => working.push(permit),
                                Some(Err(QueueFull)) => prop_assert!(false, "who waits is not refused"),
                            }
                        }
                        waiting = still;
                    }
                }
                prop_assert!(working.len() <= limit);
                prop_assert!(permits.waiting() <= queue);
                prop_assert!(permits.in_use() <= limit);
            }
            drop(waiting);
            drop(working);
            prop_assert_eq!((permits.waiting(), permits.in_use()), (0, 0));
        }
    }
}
