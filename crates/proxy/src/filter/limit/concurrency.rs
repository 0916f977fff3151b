//! `concurrency-limit`: requests at a time.

use super::Key;
use crate::{
    filter::{Flow, refusal::Refusal},
    reply::Reply,
    request::Request,
};
use pingora::http::RequestHeader;
use portcullis_config::Enforcement;
use std::{
    array,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Parts with a lock each.
const SHARDS: usize = 16;
/// A place is free as soon as any request ends; that cannot be known in advance.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is counted for a line of the configuration. There is a key for each request at most, so connections bound it.
pub(super) struct Concurrency {
    most: usize,
    mode: Enforcement,
    key: Key,
    shards: [Mutex<HashMap<u64, usize>>; SHARDS],
}

/// A request that is counted. Dropping it gives the place back.
pub(crate) struct Place {
    of: Arc<Concurrency>,
    key: u64,
}

/// What became of a request that came.
struct Entered {
    /// None: it may not go on.
    place: Option<Place>,
    /// There were as many as there may be.
    was_full: bool,
}

impl Concurrency {
    pub(super) fn new(limit: &portcullis_config::ConcurrencyLimit) -> Result<Self, String> {
        Ok(Self {
            most: limit.most,
            mode: limit.mode,
            key: Key::new(&limit.key)?,
            shards: array::from_fn(|_| Mutex::default()),
        })
    }

    fn enter(self: &Arc<Self>, key: u64) -> Entered {
        let mut counts = self.counts(key);
        let count = counts.entry(key).or_insert(0);
        let was_full = *count >= self.most;
        // In the shadow, those who would be refused are under way all the same.
        let enters = !was_full || self.mode == Enforcement::Shadow;
        *count += usize::from(enters);
        drop(counts);
        Entered {
            place: enters.then(|| Place {
                of: self.clone(),
                key,
            }),
            was_full,
        }
    }

    fn counts(&self, key: u64) -> MutexGuard<'_, HashMap<u64, usize>> {
        let number = usize::try_from(key % SHARDS as u64).unwrap_or_default();
        // A count is changed in one step, so a poisoned lock loses nothing.
        let counts = self.shards[number].lock();
        counts.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.counts(self.key);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// The step of a route.
pub(crate) struct ConcurrencyLimit {
    counts: Arc<Concurrency>,
    status: u16,
    refusal: Refusal,
}

impl ConcurrencyLimit {
    pub(super) fn new(
        counts: Arc<Concurrency>,
        limit: &portcullis_config::ConcurrencyLimit,
        refusal: Refusal,
    ) -> Self {
        Self {
            counts,
            status: limit.status,
            refusal,
        }
    }

    pub(in crate::filter) fn on_request(
        &self,
        head: &RequestHeader,
        request: &mut Request,
    ) -> Flow {
        let key = self.counts.key.of(head, request);
        let entered = self.counts.enter(key);
        request.limits.places.extend(entered.place);
        if entered.was_full && self.refusal.refuse(request, "too_many_at_once") {
            return Flow::Reply(Reply::status(self.status).with_retry_after(Some(RETRY_AFTER)));
        }
        Flow::Continue
    }
}

impl fmt::Debug for ConcurrencyLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimit")
            .field("most", &self.counts.most)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_config::LimitKey;

    fn counts(most: usize, mode: Enforcement) -> Arc<Concurrency> {
        let limit = portcullis_config::ConcurrencyLimit {
            most,
            key: vec![LimitKey::Route],
            status: 503,
            mode,
        };
        Arc::new(Concurrency::new(&limit).unwrap())
    }

    fn keys(counts: &Concurrency) -> usize {
        counts
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap().len())
            .sum()
    }

    #[test]
    fn places_are_counted_by_key_and_come_back() {
        let counts = counts(2, Enforcement::Enforce);
        let first = counts.enter(1).place;
        let second = counts.enter(1).place;
        assert!(first.is_some() && second.is_some());
        let third = counts.enter(1);
        assert!(third.place.is_none() && third.was_full);
        assert!(counts.enter(2).place.is_some());
        drop(first);
        assert!(counts.enter(1).place.is_some());
        drop(second);
        assert_eq!(keys(&counts), 0);
    }

    #[test]
    fn the_shadow_counts_everybody() {
        let counts = counts(1, Enforcement::Shadow);
        let first = counts.enter(1);
        assert!(!first.was_full);
        let second = counts.enter(1);
        assert!(second.was_full && second.place.is_some());
        drop(first);
        // One is still there.
        assert!(counts.enter(1).was_full);
        drop(second);
        assert_eq!(keys(&counts), 0);
    }
}
