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
    bound: Arc<Bound>,
    waiting: AtomicUsize,
    queue: usize,
}

/// How many permits there are. It changes when the agent says how much it bears.
#[derive(Debug)]
struct Bound {
    limit: AtomicUsize,
    /// Permits that are out and do not come back, because there are fewer now.
    surplus: AtomicUsize,
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueFull;

/// The right to have the agent work on one event. It belongs to the event and not to its caller: when the caller gives up,
/// the agent is still at work.
#[derive(Debug)]
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    bound: Arc<Bound>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        let one_less = |surplus: usize| surplus.checked_sub(1);
        if self
            .bound
            .surplus
            .fetch_update(Relaxed, Relaxed, one_less)
            .is_ok()
        {
            permit.forget();
        }
    }
}

impl Permits {
    /// At most `limit` calls at once, and at most `queue` that wait for one of them to end.
    pub(crate) fn new(limit: usize, queue: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            semaphore: Arc::new(Semaphore::new(limit)),
            bound: Arc::new(Bound {
                limit: AtomicUsize::new(limit),
                surplus: AtomicUsize::new(0),
            }),
            waiting: AtomicUsize::new(0),
            queue,
        }
    }

    /// From now on at most so many calls at once. Those beyond it that are under way finish. Returns whether that is a
    /// change.
    pub(crate) fn set_limit(&self, limit: usize) -> bool {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        let before = self.bound.limit.swap(limit, Relaxed);
        if limit < before {
            let forgotten = self.semaphore.forget_permits(before - limit);
            let out = before - limit - forgotten;
            self.bound.surplus.fetch_add(out, Relaxed);
        } else if limit > before {
            let mut more = limit - before;
            let pay = |surplus: usize| Some(surplus.saturating_sub(more));
            let surplus = self.bound.surplus.fetch_update(Relaxed, Relaxed, pay);
            more -= surplus.unwrap_or_default().min(more);
            self.semaphore.add_permits(more);
        }
        limit != before
    }

    /// Takes a permit, in the order of asking, and says how long that took. The caller bounds the wait.
    ///
    /// # Errors
    /// [`QueueFull`] at once when too many wait already.
    pub(crate) async fn acquire(&self) -> Result<(Permit, Duration), QueueFull> {
        match self.semaphore.clone().try_acquire_owned() {
            Ok(permit) => return Ok((self.permit(permit), Duration::ZERO)),
            Err(TryAcquireError::NoPermits) => {}
            // Nobody closes the semaphore.
            Err(TryAcquireError::Closed) => return Err(QueueFull),
        }
        let _waiting = self.wait()?;
        let since = Instant::now();
        match self.semaphore.clone().acquire_owned().await {
            Ok(permit) => Ok((self.permit(permit), since.elapsed())),
            Err(_) => Err(QueueFull),
        }
    }

    /// Takes a permit, at once, if at least half of them stay free for others, rounded up: where there is one, nobody gets
    /// it so.
    ///
    /// # Errors
    /// [`QueueFull`] if not.
    pub(crate) fn try_aside(&self) -> Result<(Permit, Duration), QueueFull> {
        let half = self.limit().div_ceil(2);
        if self.semaphore.available_permits() <= half {
            return Err(QueueFull);
        }
        let permit = self.semaphore.clone().try_acquire_owned();
        let permit = self.permit(permit.map_err(|_| QueueFull)?);
        // Others may have come at the same moment.
        match self.semaphore.available_permits() < half {
            true => Err(QueueFull),
            false => Ok((permit, Duration::ZERO)),
        }
    }

    fn permit(&self, permit: OwnedSemaphorePermit) -> Permit {
        Permit {
            permit: Some(permit),
            bound: self.bound.clone(),
        }
    }

    /// Events that the agent is working on.
    pub(crate) fn in_use(&self) -> usize {
        let there = self.bound.limit.load(Relaxed) + self.bound.surplus.load(Relaxed);
        there.saturating_sub(self.semaphore.available_permits())
    }

    /// How many there may be.
    pub(crate) fn limit(&self) -> usize {
        self.bound.limit.load(Relaxed)
    }

    /// Calls that wait for a permit.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// A place in the queue.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn wait(&self) -> Result<Waiting<'_>, QueueFull> {
        if self.waiting.fetch_add(1, Relaxed) >= self.queue {
            self.waiting.fetch_sub(1, Relaxed);
            return Err(QueueFull);
        }
        Ok(Waiting(&self.waiting))
    }
}

/// A place in the queue, however the wait ends.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

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

    #[test]
    fn questions_aside_leave_half_and_do_not_wait() {
        for (limit, aside) in [(1, 0), (2, 1), (3, 1), (5, 2), (8, 4)] {
            let permits = Permits::new(limit, 10);
            let mut held: Vec<_> =
                std::iter::from_fn(|| Some(permits.try_aside().ok()?.0)).collect();
            assert_eq!(held.len(), aside, "of {limit}");
            assert_eq!(permits.waiting(), 0);
            let take = || permits.acquire().now_or_never().unwrap().unwrap().0;
            held.extend((aside..limit).map(|_| take()));
            assert_eq!(permits.in_use(), limit);
            held.clear();
            // What others use counts.
            held.extend((0..limit / 2).map(|_| take()));
            assert_eq!(permits.try_aside().err(), Some(QueueFull), "of {limit}");
            held.clear();
            assert_eq!(permits.in_use(), 0);
        }
    }

    #[test]
    fn an_agent_that_bears_less_gets_less() {
        let permits = Permits::new(3, 1);
        let take = || permits.acquire().now_or_never().unwrap().unwrap().0;
        let held = [take(), take()];
        assert!(permits.set_limit(1));
        assert_eq!(permits.in_use(), 2);
        // What is out comes back, and stays away as far as it is too much.
        drop(held);
        assert_eq!(permits.in_use(), 0);
        let one = take();
        assert!(permits.acquire().now_or_never().is_none());
        assert!(permits.set_limit(2));
        let two = take();
        assert!(permits.set_limit(1));
        assert!(permits.set_limit(3));
        let three = take();
        assert!(permits.acquire().now_or_never().is_none());
        drop((one, two, three));
        assert_eq!((permits.in_use(), permits.set_limit(3)), (0, false));
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
