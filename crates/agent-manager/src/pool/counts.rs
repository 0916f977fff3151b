//! What is counted of the pools of an agent, over all workers, those that are gone included.

use crate::status::PoolStatus;
use std::{
    sync::{Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

/// The workers' pools of connections to one agent.
#[derive(Default)]
pub(crate) struct Pools(Mutex<Known>);

#[derive(Default)]
struct Known {
    there: Vec<Weak<dyn PoolView>>,
    /// What was counted of those that are gone.
    gone: Counts,
}

/// A pool as it is seen from outside.
pub(crate) trait PoolView: Send + Sync {
    fn counts(&self) -> Counts;
}

impl Pools {
    /// A worker has begun to connect.
    pub(super) fn add(&self, pool: Weak<dyn PoolView>) {
        self.lock().there.push(pool);
    }

    /// A worker is done; this is what was counted.
    pub(super) fn remove(&self, counts: &Counts) {
        let mut known = self.lock();
        known.there.retain(|pool| pool.strong_count() > 0);
        known.gone.add_past(counts);
    }

    pub(crate) fn counts(&self) -> Counts {
        let (there, mut counts) = {
            let known = self.lock();
            (known.there.clone(), known.gone)
        };
        // Without the lock, which a pool that is dropped here takes.
        for pool in there.iter().filter_map(Weak::upgrade) {
            counts.add(&pool.counts());
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change is whole, so a poisoned lock loses nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is counted of one pool, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(super) shown: PoolStatus,
    /// Averages of connections together, and how many there are.
    pub(super) averages: (Duration, u32),
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.add_past(other);
        self.shown.idle += other.shown.idle;
        self.shown.busy += other.shown.busy;
        self.averages.0 += other.averages.0;
        self.averages.1 += other.averages.1;
    }

    /// The same of a pool that is gone: what it has now is nothing.
    fn add_past(&mut self, other: &Self) {
        let (all, other) = (&mut self.shown, &other.shown);
        all.created += other.created;
        all.closed += other.closed;
        all.found += other.found;
        all.waits += other.waits;
        all.none += other.none;
    }

    pub(crate) fn status(self) -> PoolStatus {
        let (sum, count) = self.averages;
        PoolStatus {
            average_call: (count > 0).then(|| sum / count),
            ..self.shown
        }
    }
}
