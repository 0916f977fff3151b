//! What an agent keeps between the events of one request.
//!
//! Events of a request are told apart from those of others by its correlation
//! id alone, and none of them is sure to be the last: the proxy may go away,
//! or the connection to it, and the event that says that a request has ended
//! with it. So there is no moment at which everything that belongs to a request
//! could be thrown away for certain, and what is kept is bounded by number
//! instead: when there is no room for one more, the request goes that was heard
//! of longest ago.
//!
//! The order of use is a map from the turn of the last use to the request. Each
//! use moves a request to the end of it, which costs two steps through a tree.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// State of an agent for each request, found by the request's correlation id.
///
/// An agent that must see all of a body begins with [`with`](Self::with) at the
/// first piece, goes on with [`with_existing`](Self::with_existing), and blocks
/// when that finds nothing: the request was evicted, or its first events went
/// to another process. It must not begin in the middle. Nor should it fail:
/// clients can bring this about, and an agent that fails too often is not
/// asked for a while. An agent that keeps much wants to be told of the
/// [end of requests](super::Agent::request_complete), and forgets them then.
///
/// ```
/// use portcullis_agent_protocol::server::PerRequest;
/// use portcullis_agent_protocol::{BodyChunk, Decision};
///
/// fn count(seen: &PerRequest<usize>, chunk: &BodyChunk<'_>) -> Decision {
///     let add = |bytes: &mut usize| {
///         *bytes += chunk.data.len();
///         *bytes
///     };
///     let bytes = match chunk.index {
///         0 => Some(seen.with(chunk.correlation_id, usize::default, add)),
///         _ => seen.with_existing(chunk.correlation_id, add),
///     };
///     if chunk.is_last {
///         seen.remove(chunk.correlation_id);
///     }
///     match bytes {
///         Some(..=1_000_000) => Decision::allow(),
///         Some(_) => Decision::block(413),
///         None => Decision::block(403).reason("the beginning of the body is forgotten"),
///     }
/// }
/// ```
///
/// The functions that are handed in run under a lock that all requests share:
/// they must be short, must not block, and must not use the same `PerRequest`.
/// The state of a request whose function panics is forgotten, for it may be
/// half changed.
pub struct PerRequest<T> {
    max_entries: usize,
    entries: Mutex<Entries<T>>,
    evicted: AtomicU64,
}

struct Entries<T> {
    by_id: HashMap<Arc<str>, Entry<T>>,
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
}

struct Entry<T> {
    last_use: u64,
    /// `None` while a function has it, and for ever if that one panics.
    state: Option<T>,
}

impl<T> PerRequest<T> {
    /// Room for this many requests, at least one. What the state of one may
    /// grow to is for the agent to bound.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self {
            max_entries: max_entries.max(1),
            entries: Mutex::new(Entries {
                by_id: HashMap::new(),
                by_use: BTreeMap::new(),
                uses: 0,
            }),
            evicted: AtomicU64::new(0),
        }
    }

    /// Uses the state of a request, which is made first when there is none.
    /// Another request is evicted when there is no room for it.
    pub fn with<R>(
        &self,
        correlation_id: &str,
        init: impl FnOnce() -> T,
        f: impl FnOnce(&mut T) -> R,
    ) -> R {
        // Dropped last, for it is code of the agent: not under the lock.
        let evicted;
        let mut entries = self.lock();
        let (mut state, removed) = match entries.take(correlation_id) {
            Some(state) => (state, None),
            None => (init(), entries.make_room(correlation_id, self.max_entries)),
        };
        evicted = removed;
        if evicted.is_some() {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        let result = f(&mut state);
        entries.put(correlation_id, state);
        result
    }

    /// Uses the state of a request; `None` when there is none.
    pub fn with_existing<R>(&self, correlation_id: &str, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut entries = self.lock();
        let mut state = entries.take(correlation_id)?;
        let result = f(&mut state);
        entries.put(correlation_id, state);
        Some(result)
    }

    /// Forgets a request, and gives back what was kept of it.
    pub fn remove(&self, correlation_id: &str) -> Option<T> {
        self.lock().remove(correlation_id)?.state
    }

    /// How many requests something is kept of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Whether nothing is kept of any request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many requests had to go for others. When it grows, there is too
    /// little room for the requests that are under way at once.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    // A function that panicked has left the maps as they should be.
    fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Entries<T> {
    /// Takes a state out of its place for as long as it is used.
    fn take(&mut self, id: &str) -> Option<T> {
        self.by_id.get_mut(id)?.state.take()
    }

    /// Puts a state into the place of a request that was used just now.
    fn put(&mut self, id: &str, state: T) {
        let turn = self.uses;
        self.uses += 1;
        match self.by_id.get_mut(id) {
            Some(entry) => {
                let id = self.by_use.remove(&entry.last_use);
                entry.last_use = turn;
                entry.state = Some(state);
                self.by_use.extend(id.map(|id| (turn, id)));
            }
            None => {
                let id: Arc<str> = Arc::from(id);
                self.by_use.insert(turn, Arc::clone(&id));
                let entry = Entry {
                    last_use: turn,
                    state: Some(state),
                };
                self.by_id.insert(id, entry);
            }
        }
    }

    /// Removes the request that was used longest ago when there is no room for
    /// this one.
    fn make_room(&mut self, id: &str, max_entries: usize) -> Option<Entry<T>> {
        if self.by_id.len() < max_entries || self.by_id.contains_key(id) {
            return None;
        }
        let (_, oldest) = self.by_use.pop_first()?;
        self.by_id.remove(&oldest)
    }

    fn remove(&mut self, id: &str) -> Option<Entry<T>> {
        let entry = self.by_id.remove(id)?;
        self.by_use.remove(&entry.last_use);
        Some(entry)
    }
}

impl<T> fmt::Debug for PerRequest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerRequest")
            .field("max_entries", &self.max_entries)
            .field("evicted", &self.evicted())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn push(states: &PerRequest<String>, id: &str, text: &str) -> String {
        states.with(id, String::new, |state| {
            state.push_str(text);
            state.clone()
        })
    }

    #[test]
    fn a_state_lasts_from_event_to_event() {
        let states = PerRequest::new(10);
        assert!(states.is_empty());
        assert_eq!(states.with_existing("a", |_: &mut String| ()), None);
        assert_eq!(push(&states, "a", "1"), "1");
        assert_eq!(push(&states, "b", "2"), "2");
        assert_eq!(push(&states, "a", "3"), "13");
        let length = states.with_existing("a", |state| state.len());
        assert_eq!(length, Some(2));
        assert_eq!(states.len(), 2);
        assert_eq!(states.remove("a").as_deref(), Some("13"));
        assert_eq!(states.remove("a"), None);
        assert_eq!(states.with_existing("a", |_| ()), None);
        assert_eq!(push(&states, "a", "4"), "4");
        assert_eq!(states.evicted(), 0);
    }

    #[test]
    fn who_was_heard_of_longest_ago_goes() {
        let states = PerRequest::new(2);
        push(&states, "a", "1");
        push(&states, "b", "1");
        states.with_existing("a", |_| ());
        push(&states, "c", "1");
        assert_eq!(states.with_existing("b", |_| ()), None);
        assert_eq!(states.remove("a").as_deref(), Some("1"));
        assert_eq!((states.len(), states.evicted()), (1, 1));
    }

    #[test]
    fn there_is_always_room_for_one() {
        let states = PerRequest::new(0);
        assert_eq!(push(&states, "a", "1"), "1");
        assert_eq!(push(&states, "a", "2"), "12");
        assert_eq!(push(&states, "b", "3"), "3");
        assert_eq!((states.len(), states.evicted()), (1, 1));
    }

    #[test]
    fn what_a_panic_has_touched_is_forgotten() {
        let states = PerRequest::new(2);
        push(&states, "a", "1");
        push(&states, "b", "1");
        let panics = AssertUnwindSafe(|| {
            states.with_existing("a", |_| panic!("a panic that belongs to the test"))
        });
        assert!(catch_unwind(panics).is_err());
        assert_eq!(states.with_existing("a", |_| ()), None);
        assert_eq!(push(&states, "b", "2"), "12");
        assert_eq!(push(&states, "a", "3"), "3");
        assert_eq!((states.len(), states.evicted()), (2, 0));
        let panics = AssertUnwindSafe(|| {
            states.with("c", || panic!("a panic that belongs to the test"), |_| ())
        });
        assert!(catch_unwind(panics).is_err());
        assert_eq!((states.len(), states.evicted()), (2, 0));
    }

    #[test]
    fn what_isevicted_is_dropped_without_the_lock() {
        struct Looks(Arc<PerRequest<Self>>);
        impl Drop for Looks {
            fn drop(&mut self) {
                assert!(self.0.entries.try_lock().is_ok());
            }
        }
        let states = Arc::new(PerRequest::new(1));
        for id in ["a", "b", "c"] {
            states.with(id, || Looks(Arc::clone(&states)), |_| ());
        }
        assert_eq!(states.evicted(), 2);
        drop(states.remove("c"));
    }

    #[test]
    fn many_threads_lose_nothing() {
        let states = PerRequest::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let states = &states;
                scope.spawn(move || {
                    for _ in 0..1000 {
                        states.with(["a", "b", "c"][thread % 3], || 0, |count| *count += 1);
                    }
                });
            }
        });
        let total: i32 = ["a", "b", "c"]
            .iter()
            .filter_map(|id| states.remove(id))
            .sum();
        assert_eq!(total, 4000);
    }

    proptest! {
        // Against a list in order of use.
        #[test]
        fn it_does_what_a_list_would(
            room in 1_usize..6,
            uses in vec((0_u8..4, 0_u8..8), 0..200),
        ) {
            let states = PerRequest::new(room);
            let mut list: Vec<(String, u32)> = Vec::new();
            for (what, id) in uses {
                let id = id.to_string();
                let place = list.iter().position(|(other, _)| *other == id);
                let known = place.map(|at| list.remove(at));
                match what {
                    0 => prop_assert_eq!(states.remove(&id), known.map(|(_, count)| count)),
                    1 => {
                        let found = states.with_existing(&id, |count| *count);
                        prop_assert_eq!(found, known.as_ref().map(|(_, count)| *count));
                        list.extend(known);
                    }
                    _ => {
                        if known.is_none() && list.len() == room {
                            list.remove(0);
                        }
                        let (_, count) = known.unwrap_or_default();
                        let counted = states.with(&id, || 0, |count| {
                            *count += 1;
                            *count
                        });
                        prop_assert_eq!(counted, count + 1);
                        list.push((id, counted));
                    }
                }
                prop_assert_eq!(states.len(), list.len());
                let inner = states.lock();
                prop_assert_eq!(inner.by_use.len(), inner.by_id.len());
            }
        }
    }
}
