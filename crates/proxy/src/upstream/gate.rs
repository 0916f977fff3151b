//! How many requests an upstream has at once, how many wait to be among them, and how many of them are second tries. There is one for
//! the process and it stays over reloads; the limits are those of the configuration that a request has.

use portcullis_config::{RetryBudget, Share, UpstreamLimits};
use std::sync::{
    Arc,
    atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
    },
};
use tokio::sync::{Notify, Semaphore};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    in_flight: AtomicUsize,
    /// Requests that wait.
    pending: AtomicUsize,
    /// Whoever is next may come in.
    freed: Notify,
    saturated: AtomicU64,
    retrying: AtomicUsize,
    retries: AtomicU64,
    /// Tries that the budget had nothing left for.
    over_budget: AtomicU64,
}

/// Where requests of one configuration wait for each other, so that they come in as they have arrived. Those of another one, which
/// has other limits, do not wait for them.
#[derive(Debug)]
pub(super) struct Turn(Semaphore);

impl Default for Turn {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

/// A request that is in. It is out again when this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<Gate>);

/// A request that is tried more than once. It no longer counts as such when this is dropped.
#[derive(Debug)]
pub(crate) struct Retrying(Arc<Gate>);

/// There is room neither inside nor among those who wait, or the wait was too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Saturated;

/// What is counted, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct GateStatus {
    pub(crate) in_flight: usize,
    pub(crate) pending: usize,
    pub(crate) saturated: u64,
    pub(crate) retries: u64,
    pub(crate) over_budget: u64,
}

impl Gate {
    /// Lets a request in, when there is room for it.
    ///
    /// # Errors
    /// There was none in time.
    pub(super) async fn enter(
        self: &Arc<Self>,
        limits: &UpstreamLimits,
        turn: &Turn,
    ) -> Result<Admitted, Saturated> {
        let Some(most) = limits.requests else {
            self.in_flight.fetch_add(1, Relaxed);
            return Ok(Admitted(self.clone()));
        };
        // Those who wait come first.
        if self.pending.load(SeqCst) == 0
            && let Some(admitted) = self.try_enter(most)
        {
            return Ok(admitted);
        }
        let Some(_waiting) = Waiting::begin(self, limits.pending) else {
            self.saturated.fetch_add(1, Relaxed);
            return Err(Saturated);
        };
        let admitted = tokio::time::timeout(limits.pending_timeout, self.wait(most, turn)).await;
        admitted.map_err(|_| {
            self.saturated.fetch_add(1, Relaxed);
            Saturated
        })
    }

    async fn wait(self: &Arc<Self>, most: usize, turn: &Turn) -> Admitted {
        // It is fair, and never closed: whoever has come first is next.
        let _turn = turn.0.acquire().await;
        loop {
            // From here on it hears of everybody who leaves.
            let freed = self.freed.notified();
            if let Some(admitted) = self.try_enter(most) {
                return admitted;
            }
            freed.await;
        }
    }

    fn try_enter(self: &Arc<Self>, most: usize) -> Option<Admitted> {
        let one_more = |in_flight: usize| (in_flight < most).then_some(in_flight + 1);
        let entered = self.in_flight.fetch_update(SeqCst, SeqCst, one_more);
        entered.is_ok().then(|| Admitted(self.clone()))
    }

    /// Lets a request be tried once more, when the budget has room for it.
    pub(super) fn retry(self: &Arc<Self>, budget: &RetryBudget) -> Option<Retrying> {
        let in_flight = self.in_flight.load(Relaxed);
        let share = in_flight * usize::from(budget.share.hundredths()) / usize::from(Share::WHOLE);
        let most = share.max(budget.min);
        let one_more = |retrying: usize| (retrying < most).then_some(retrying + 1);
        if self
            .retrying
            .fetch_update(AcqRel, Acquire, one_more)
            .is_err()
        {
            self.over_budget.fetch_add(1, Relaxed);
            return None;
        }
        Some(Retrying(self.clone()))
    }

    /// A request is sent once more.
    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn status(&self) -> GateStatus {
        GateStatus {
            in_flight: self.in_flight.load(Relaxed),
            pending: self.pending.load(Relaxed),
            saturated: self.saturated.load(Relaxed),
            retries: self.retries.load(Relaxed),
            over_budget: self.over_budget.load(Relaxed),
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        // In this order, against that of those who wait: one of both sees the other.
        self.0.in_flight.fetch_sub(1, SeqCst);
        if self.0.pending.load(SeqCst) > 0 {
            // Of each configuration at most one listens.
            self.0.freed.notify_waiters();
        }
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retrying.fetch_sub(1, AcqRel);
    }
}

/// A request that waits, until this is dropped.
struct Waiting<'a>(&'a Gate);

impl<'a> Waiting<'a> {
    fn begin(gate: &'a Gate, most: usize) -> Option<Self> {
        let one_more = |pending: usize| (pending < most).then_some(pending + 1);
        let begun = gate.pending.fetch_update(SeqCst, SeqCst, one_more);
        begun.is_ok().then(|| Self(gate))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits(requests: usize, pending: usize) -> UpstreamLimits {
        UpstreamLimits {
            requests: Some(requests),
            pending,
            pending_timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_overtakes_those_who_wait() {
        let (gate, turn) = (Arc::new(Gate::default()), Arc::new(Turn::default()));
        let limits = limits(2, 10);
        let inside = [
            gate.enter(&limits, &turn).await.unwrap(),
            gate.enter(&limits, &turn).await.unwrap(),
        ];
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..3 {
            let (entered, turn, sender) = (gate.clone(), turn.clone(), sender.clone());
            tokio::spawn(async move {
                let admitted = entered.enter(&limits, &turn).await;
                sender.send((number, admitted)).unwrap();
            });
            while gate.status().pending <= number {
                tokio::task::yield_now().await;
            }
        }
        // There is room for two, and those whose it is have not heard of it yet.
        drop(inside);
        let mut late = std::pin::pin!(gate.enter(&limits, &turn));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(late.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
        let (first, one) = order.recv().await.unwrap();
        let (second, two) = order.recv().await.unwrap();
        assert_eq!((first, second), (0, 1));
        assert!(one.is_ok() && two.is_ok());
        drop(one);
        let (third, three) = order.recv().await.unwrap();
        assert_eq!((third, three.is_ok()), (2, true));
        drop(two);
        assert!(late.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn limits_that_were_raised_hold_at_once() {
        let gate = Arc::new(Gate::default());
        let (old, new) = (Turn::default(), Turn::default());
        let (few, more) = (limits(1, 10), limits(2, 10));
        let first = gate.enter(&few, &old).await.unwrap();
        let waiting = gate.enter(&few, &old);
        let raised = async {
            let second = gate.enter(&more, &new).await.unwrap();
            assert_eq!(gate.status().pending, 1);
            drop((first, second));
        };
        let (waited, ()) = tokio::join!(waiting, raised);
        assert!(waited.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_for_its_turn_or_is_refused() {
        let (gate, turn) = (Arc::new(Gate::default()), Arc::new(Turn::default()));
        let limits = limits(1, 2);
        let first = gate.enter(&limits, &turn).await.unwrap();
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let (gate, turn) = (gate.clone(), turn.clone());
                tokio::spawn(async move { gate.enter(&limits, &turn).await })
            })
            .collect();
        while gate.status().pending < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.enter(&limits, &turn).await.err(), Some(Saturated));
        drop(first);
        let mut waiting = waiting.into_iter();
        let second = waiting.next().unwrap().await.unwrap().unwrap();
        // Time passes by itself, since nobody does anything.
        let third = waiting.next().unwrap().await.unwrap();
        assert_eq!(third.err(), Some(Saturated));
        drop(second);
        let status = gate.status();
        assert_eq!(
            (status.in_flight, status.pending, status.saturated),
            (0, 0, 2)
        );
        assert!(gate.enter(&limits, &turn).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_who_waits_comes_in_when_there_is_room_again() {
        let (gate, turn) = (Arc::new(Gate::default()), Arc::new(Turn::default()));
        let limits = limits(3, 100);
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (gate, turn) = (gate.clone(), turn.clone());
                tokio::spawn(async move {
                    let admitted = gate.enter(&limits, &turn).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    assert!(gate.status().in_flight <= 3);
                    admitted.is_ok()
                })
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap());
        }
        assert_eq!(gate.status(), GateStatus::default());
    }

    #[tokio::test]
    async fn second_tries_are_a_share_of_all_requests() {
        let gate = Arc::new(Gate::default());
        let budget = RetryBudget {
            share: Share::of_hundredths(2_000),
            min: 3,
        };
        let unlimited = UpstreamLimits {
            requests: None,
            ..limits(0, 0)
        };
        for (requests, most) in [(0, 3), (10, 3), (20, 4), (100, 20)] {
            let mut in_flight = Vec::new();
            for _ in 0..requests {
                in_flight.push(gate.enter(&unlimited, &Turn::default()).await.unwrap());
            }
            let retrying: Vec<_> = (0..200).map_while(|_| gate.retry(&budget)).collect();
            assert_eq!(retrying.len(), most, "{requests}");
        }
        assert_eq!(gate.status().over_budget, 4);
    }
}
